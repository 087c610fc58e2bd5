"""Windows around gaps: which gaps, what is shown of both sides, and that no later block is ever seen behind them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tsfm.series.frames import frame_of
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split, split
from tsfm.series.windows import OTHER_GAPS, Around, WindowBatch, Windows, cut, gaps_at, gather, place_hash
from tsfm.setting import Setting

HORIZON, SIDE = 8, 24
NONE = np.array([], dtype=np.int64)


def around(length: int = SIDE, *, end: int = 10_000, **how: object) -> Around:
    return Around(length=length, limits=np.full(4, end, dtype=np.int64), **how)  # type: ignore[arg-type]


def places(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(count, dtype=np.int64), np.arange(count, dtype=np.int64)


class TestPlaceHash:
    def test_every_place_of_every_series_has_its_own_number(self) -> None:
        series, place = np.divmod(np.arange(60_000, dtype=np.int64), 300)
        assert len(np.unique(place_hash(series, place))) == 60_000

    def test_high_and_low_bits_are_uniform(self) -> None:
        drawn = place_hash(*places(20_000))
        assert np.bincount((drawn % np.uint64(5)).astype(int)) == pytest.approx(4_000, abs=250)
        assert np.bincount((drawn >> np.uint64(61)).astype(int)) == pytest.approx(2_500, abs=200)

    def test_it_is_the_published_generator(self) -> None:
        """Nulls and gaps are drawn from it: other numbers would change every tuned model."""
        published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # splitmix64 from seed 0
        assert place_hash(*places(3)).tolist() == published


class TestGaps:
    def test_lengths_are_drawn_evenly_from_one_to_the_longest(self) -> None:
        drawn = around(vary=True).gaps(*places(8_000), HORIZON)
        assert np.bincount(drawn, minlength=HORIZON + 1)[1:] == pytest.approx(1_000, abs=120)
        assert (drawn.min(), drawn.max()) == (1, HORIZON)

    def test_a_share_of_them_may_be_whole(self) -> None:
        """Beside those that are drawn whole anyway."""
        drawn = np.bincount(around(vary=True, whole=0.5).gaps(*places(8_000), HORIZON), minlength=HORIZON + 1)
        assert drawn[1:HORIZON] == pytest.approx(500, abs=90)
        assert drawn[HORIZON] == pytest.approx(4_500, abs=180)

    def test_a_window_keeps_its_gap_whatever_stands_beside_it(self) -> None:
        series, origin = places(50)
        together = around(vary=True).gaps(series, origin, HORIZON)
        alone = [int(around(vary=True).gaps(series[i : i + 1], origin[i : i + 1], HORIZON)[0]) for i in range(50)]
        assert together.tolist() == alone

    def test_without_varying_they_are_the_whole_horizon(self) -> None:
        assert around().gaps(*places(5), HORIZON).tolist() == [HORIZON] * 5


class TestOthers:
    def hidden(self, gap: int, *, count: int = 4_000, length: int = 40) -> tuple[np.ndarray, np.ndarray]:
        """[count, length] each: before and behind gaps of `gap` steps, by distance from the edge."""
        series, origin = places(count)
        origin, gaps = origin + 100, np.full(count, gap)
        before = origin[:, None] - 1 - np.arange(length)[None, :]
        behind = origin[:, None] + gap + np.arange(length)[None, :]
        shown = around(with_others=True)
        return shown.others(series, origin, gaps, before), shown.others(series, origin, gaps, behind)

    def test_none_where_they_are_not_asked(self) -> None:
        series, origin = places(5)
        assert not around().others(series, origin, np.full(5, 3), origin[:, None] - 1).any()

    def test_shares_are_those_of_published_protocols(self) -> None:
        shares = np.concatenate(self.hidden(1, length=400), axis=1).mean(axis=1)
        nearest = np.abs(shares[:, None] - np.asarray(OTHER_GAPS)).argmin(axis=1)
        assert np.bincount(nearest) == pytest.approx(800, abs=120)
        assert np.abs(shares - np.asarray(OTHER_GAPS)[nearest]).max() < 0.08

    @pytest.mark.parametrize("gap", [1, 3, 8])
    def test_they_are_runs_as_long_as_the_gap_on_both_sides(self, gap: int) -> None:
        for side in self.hidden(gap):
            runs = side[:, : 40 // gap * gap].reshape(len(side), -1, gap)
            assert (runs.all(axis=2) == runs.any(axis=2)).all()
            assert runs.any(axis=2)[:, 0].mean() == pytest.approx(0.25, abs=0.03), "the run at the edge, too"


def gap_windows(frame: SeriesFrame, blocks: Split, block: Block) -> Windows:
    setting = Setting(task="imputation", scoring=None, prediction_length=HORIZON, context_length=SIDE)
    return cut(frame, blocks, block, context_length=SIDE, prediction_length=HORIZON, around=setting.around(season=12))


def two_series(seed: int = 0) -> SeriesFrame:
    rng = np.random.default_rng(seed)
    rows = [100 + rng.standard_normal(400).cumsum(), 1e4 * rng.standard_normal(370)]
    for row in rows:
        row[rng.random(len(row)) < 0.1] = np.nan
    return frame_of(*rows, starts=["2020-01-01", "2020-01-02"])


def raw(batch: WindowBatch, scaled: np.ndarray | None) -> np.ndarray:
    assert scaled is not None
    return scaled.astype(np.float64) * batch.scale[:, None] + batch.loc[:, None]


class TestWhatIsShown:
    def test_the_gap_is_hidden_and_what_follows_it_is_shown_at_once(self) -> None:
        frame, one = frame_of(np.arange(40.0)), np.array([0])
        batch = gaps_at(
            frame, one, np.array([10]), np.array([3]), context_length=4, prediction_length=3, after_length=5, period=7
        )
        assert raw(batch, batch.context).tolist() == pytest.approx(np.array([[6, 7, 8, 9]]))
        assert raw(batch, batch.target).tolist() == pytest.approx(np.array([[10, 11, 12]]))
        assert raw(batch, batch.after).tolist() == pytest.approx(np.array([[13, 14, 15, 16, 17]]))
        shown = np.array([6, 7, 8, 9, 13, 14, 15, 16, 17])
        assert (batch.loc[0], batch.scale[0]) == (pytest.approx(shown.mean()), pytest.approx(shown.std()))
        assert (batch.gap.tolist() if batch.gap is not None else None, batch.period) == ([3], 7)

    def test_gaps_of_other_lengths_share_a_batch_with_nan_behind_the_shorter(self) -> None:
        frame, two = frame_of(np.arange(40.0)), np.array([0, 0])
        sides = {"context_length": 4, "after_length": 3, "period": 1}
        batch = gaps_at(frame, two, np.array([10, 35]), np.array([2, 4]), prediction_length=4, **sides)
        assert np.isnan(batch.target).tolist() == [[False, False, True, True], [False] * 4]
        assert raw(batch, batch.after)[0].tolist() == pytest.approx([12, 13, 14])
        assert np.isnan(raw(batch, batch.after)[1]).tolist() == [False, True, True], "the series ends there"

    def test_the_scale_does_not_depend_on_what_is_hidden(self) -> None:
        values = np.random.default_rng(0).standard_normal(60)
        spiked = values.copy()
        spiked[20:24] = 1e6
        at = (np.array([0]), np.array([20]), np.array([4]))
        sides = {"context_length": 9, "prediction_length": 4, "after_length": 9, "period": 1}
        one, other = (gaps_at(frame_of(v), *at, **sides) for v in (values, spiked))
        for name in ("context", "after", "loc", "scale"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name

    def test_rows_keeps_both_sides(self) -> None:
        frame = two_series()
        batch = gather(frame, *places(6), context_length=5, prediction_length=3, around=around(4, vary=True))
        some = batch.rows(2, 4)
        assert (len(some), some.period) == (2, batch.period)
        assert np.array_equal(some.after, batch.after[2:4] if batch.after is not None else NONE, equal_nan=True)
        assert np.array_equal(some.gap, batch.gap[2:4] if batch.gap is not None else NONE)

    def test_raw_targets_end_with_their_gap(self) -> None:
        frame = two_series()
        windows = gap_windows(frame, split_of(frame), Block.TRAIN)
        chosen = np.arange(0, len(windows), 7)
        batch, target = windows.batch(chosen), windows.raw_target(chosen)
        assert np.array_equal(np.isnan(target), np.isnan(batch.target))
        assert batch.gap is not None
        assert np.isnan(target[np.arange(HORIZON)[None, :] >= batch.gap[:, None]]).all()
        assert np.allclose(raw(batch, batch.target), target, rtol=1e-4, atol=1.0, equal_nan=True)

    def test_something_is_always_shown(self) -> None:
        """Of a window whose every neighbour were hidden nothing would be left to scale by, or to fill from."""
        frame = frame_of(1e6 + np.random.default_rng(1).standard_normal(3_000))
        origin = np.arange(10, 2_900)
        shown = Around(length=10, limits=frame.lengths, vary=True, with_others=True)
        batch = gather(frame, 0 * origin, origin, context_length=10, prediction_length=10, around=shown)
        assert batch.after is not None
        bare = np.isnan(np.concatenate([batch.context, batch.after], axis=1)).all(axis=1)
        assert not bare.any()
        assert np.isnan(batch.context).all(axis=1).any(), "one side may be bare"


def split_of(frame: SeriesFrame) -> Split:
    return split(frame, context_length=SIDE, prediction_length=HORIZON, patch_length=4)


def changed_behind(frame: SeriesFrame, ends: np.ndarray) -> SeriesFrame:
    values = frame.values.copy()
    for i, end in enumerate(ends):
        values[frame.offsets[i] + end : frame.offsets[i + 1]] = -1e9
    return dataclasses.replace(frame, values=values)


class TestLimits:
    @pytest.mark.parametrize("block", [Block.TRAIN, Block.VALIDATION, Block.CALIBRATION])
    def test_nothing_of_a_later_block_is_shown(self, block: Block) -> None:
        frame = two_series()
        blocks = split_of(frame)
        other = changed_behind(frame, blocks.block(block)[1])
        assert not np.array_equal(frame.values, other.values, equal_nan=True)
        one, two = (gap_windows(f, blocks, block) for f in (frame, other))
        assert np.array_equal(one.origin, two.origin)
        every = np.arange(len(one))
        for name in ("context", "after", "target", "loc", "scale", "gap"):
            first, second = getattr(one.batch(every), name), getattr(two.batch(every), name)
            assert np.array_equal(first, second, equal_nan=True), name

    def test_what_lies_before_the_end_of_the_block_is_shown(self) -> None:
        frame = frame_of(np.arange(400.0))
        blocks = split_of(frame)
        windows = gap_windows(frame, blocks, Block.VALIDATION)
        end, last = int(blocks.block(Block.VALIDATION)[1][0]), len(windows) - 1
        plain = dataclasses.replace(windows.around, with_others=False) if windows.around else None
        batch = dataclasses.replace(windows, around=plain).batch([last])
        assert batch.gap is not None
        first_behind = int(batch.origin[0] + batch.gap[0])
        seen = raw(batch, batch.after)[0]
        assert seen[: end - first_behind].tolist() == pytest.approx(np.arange(first_behind, end))
        assert np.isnan(seen[end - first_behind :]).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    horizon=st.integers(1, 9),
    length=st.integers(1, 20),
    vary=st.booleans(),
    others=st.booleans(),
)
def test_a_batch_equals_its_items(seed: int, horizon: int, length: int, vary: bool, others: bool) -> None:
    rng, frame = np.random.default_rng(seed), two_series(seed)
    series = rng.integers(0, 2, 12)
    origin = rng.integers(0, frame.lengths[series] - horizon + 1)
    shown = Around(length=length, limits=frame.lengths - rng.integers(0, 50), vary=vary, with_others=others)
    how = {"context_length": 15, "prediction_length": horizon, "around": shown}
    batch = gather(frame, series, origin, **how)
    for k in range(12):
        item = gather(frame, series[k : k + 1], origin[k : k + 1], **how)
        for name in ("context", "target", "after", "gap", "loc", "scale"):
            assert np.array_equal(getattr(batch, name)[k], getattr(item, name)[0], equal_nan=True), name
