"""Blocks of time: sizes, minima, common cuts, and that no target of one block is a target of another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tsfm.series.frames import frame_of, micros
from tsfm.errors import SeriesTooShort
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split, fitting_context_length, needed, split
from tsfm.series.windows import Windows, cut

H = 24


def cut_all(frame: SeriesFrame, made: Split, *, context: int, horizon: int, stride: int = 1) -> dict[Block, Windows]:
    return {b: cut(frame, made, b, context_length=context, prediction_length=horizon, stride=stride) for b in Block}


def test_default_shares() -> None:
    made = split(frame_of(np.arange(1000.0)), context_length=512, prediction_length=H, patch_length=16)
    assert made.borders.tolist() == [[0, 600, 700, 800, 1000]]
    assert (made.min_context, made.unused, made.unjudged) == (48, (), ())


def test_without_a_test_block() -> None:
    made = split(frame_of(np.arange(1000.0)), context_length=512, prediction_length=H, patch_length=16, with_test=False)
    assert made.borders.tolist() == [[0, 800, 900, 1000, 1000]]
    assert made.unjudged == (0,)


def test_minima_where_shares_are_smaller() -> None:
    made = split(frame_of(np.arange(100.0), freq="MS"), context_length=512, prediction_length=12, patch_length=16)
    assert np.diff(made.borders)[0].tolist() == [52, 12, 12, 24]
    assert made.min_context == 32


@pytest.mark.parametrize("freq", ["h", "30min", "10min", "D", "W-SUN", "MS", "1"])
def test_a_hundred_points_at_twelve_fit_whatever_the_season(freq: str) -> None:
    frame = frame_of(np.arange(100.0), freq=freq)
    context = fitting_context_length(100, limit=512, prediction_length=12, patch_length=16)
    made = split(frame, context_length=context, prediction_length=12, patch_length=16)
    assert (made.num_origins(Block.TRAIN) > 0).all()
    assert all(len(w) > 0 for w in cut_all(frame, made, context=context, horizon=12).values())


@pytest.mark.parametrize(("with_test", "blocks"), [(True, 5), (False, 3)])
@pytest.mark.parametrize("horizon", [1, 7, 24])
def test_need_is_exact(with_test: bool, blocks: int, horizon: int) -> None:
    need = needed(64, horizon, patch_length=16, season=24, with_test=with_test)
    assert need == 48 + blocks * horizon
    made = split(
        frame_of(np.arange(float(need))),
        context_length=64,
        prediction_length=horizon,
        patch_length=16,
        with_test=with_test,
    )
    judged = [b for b in Block if with_test or b is not Block.TEST]
    assert all(made.num_origins(b)[0] >= 1 for b in judged)
    with pytest.raises(SeriesTooShort) as caught:
        split(
            frame_of(np.arange(3.0), np.arange(need - 1.0)),
            context_length=64,
            prediction_length=horizon,
            patch_length=16,
            with_test=with_test,
        )
    assert (caught.value.details["have"], caught.value.details["need"]) == (need - 1, need)
    assert "'s1'" in caught.value.message


def test_too_short_says_what_would_fit() -> None:
    with pytest.raises(SeriesTooShort) as caught:
        split(frame_of(np.arange(100.0)), context_length=512, prediction_length=12, patch_length=16)
    assert caught.value.details == {"have": 100, "need": 108}
    assert "prediction_length 10" in caught.value.message
    assert '"gate": null' in caught.value.message


def test_series_on_one_clock_are_cut_at_common_times() -> None:
    frame = frame_of(np.arange(1000.0), np.arange(700.0), freq="h", starts=["2020-01-01T00:00", "2020-01-13T12:00"])
    made = split(frame, context_length=64, prediction_length=H, patch_length=16)
    shift = 300
    assert (made.group == 0).all()
    assert (made.borders[1, 1:] == made.borders[0, 1:] - shift).all()


def test_a_series_that_ended_early_is_unjudged() -> None:
    frame = frame_of(np.arange(1000.0), np.arange(500.0), freq="h")
    made = split(frame, context_length=64, prediction_length=H, patch_length=16)
    assert made.unjudged == (1,)
    assert made.borders[1].tolist()[-1] == 500


def test_a_series_that_begins_late_is_unused_but_judged() -> None:
    frame = frame_of(np.arange(1000.0), np.arange(150.0), freq="h", starts=["2020-01-01", "2020-02-05T10:00"])
    made = split(frame, context_length=64, prediction_length=H, patch_length=16)
    assert made.unused == (1,)
    assert made.unjudged == ()


def test_many_short_late_series_do_not_starve_the_blocks() -> None:
    late = [np.arange(30.0)] * 200
    frame = frame_of(np.arange(500.0), *late, freq="D", starts=["2020-01-01", *["2021-04-15"] * 200])
    made = split(frame, context_length=64, prediction_length=7, patch_length=8)
    windows = cut_all(frame, made, context=64, horizon=7)
    assert all(len(w) > 0 for w in windows.values())


def test_an_integer_index_is_no_shared_clock() -> None:
    frame = frame_of(np.arange(960.0), np.arange(700.0), freq="1")
    made = split(frame, context_length=64, prediction_length=48, patch_length=16)
    assert made.unjudged == ()
    assert made.borders[:, -1].tolist() == [960, 700]
    assert len(set(made.group.tolist())) == 2


def test_short_series_on_their_own_clock_only_train() -> None:
    made = split(
        frame_of(np.arange(500.0), np.arange(60.0), freq="1"), context_length=32, prediction_length=8, patch_length=16
    )
    assert made.borders[1].tolist() == [0, 60, 60, 60, 60]
    assert (made.unused, made.unjudged) == ((), (1,))


@st.composite
def frames(draw: st.DrawFn) -> SeriesFrame:
    lengths = draw(st.lists(st.integers(1, 400), min_size=1, max_size=8))
    starts = draw(st.lists(st.integers(0, 500), min_size=len(lengths), max_size=len(lengths)))
    freq = draw(st.sampled_from(["h", "D", "MS", "15min"]))
    begin = np.datetime64("2020-01-01", "M" if freq == "MS" else {"h": "h", "D": "D", "15min": "m"}[freq])
    step = 15 if freq == "15min" else 1
    return frame_of(*(np.arange(float(n)) for n in lengths), freq=freq, starts=[str(begin + s * step) for s in starts])


@settings(max_examples=60, deadline=None)
@given(frame=frames(), horizon=st.integers(1, 20), context=st.sampled_from([16, 64]), stride=st.sampled_from([1, 3]))
def test_targets_of_blocks_never_overlap(frame: SeriesFrame, horizon: int, context: int, stride: int) -> None:
    need = needed(context, horizon, patch_length=8, season=frequencies.parse(frame.freq).season)
    if frame.lengths.max() < need:
        with pytest.raises(SeriesTooShort):
            split(frame, context_length=context, prediction_length=horizon, patch_length=8)
        return
    made = split(frame, context_length=context, prediction_length=horizon, patch_length=8)
    owner = np.full(len(frame.values), -1)
    for number, windows in enumerate(cut_all(frame, made, context=context, horizon=horizon, stride=stride).values()):
        at = (frame.offsets[windows.series] + windows.origin)[:, None] + np.arange(horizon)
        assert len(windows) == 0 or (windows.origin + horizon <= frame.lengths[windows.series]).all()
        assert (windows.origin >= made.min_context).all()
        assert ((owner[at] == -1) | (owner[at] == number)).all()
        owner[at] = number
    # At any moment of a shared clock, all series are in the same block.
    for group in np.unique(made.group):
        members = made.group == group
        cuts = made.borders[members, 1:4] + made.clock[members, None]
        inside = (made.borders[members, 1:4] > 0) & (made.borders[members, 1:4] < frame.lengths[members, None])
        for column in range(3):
            assert len(np.unique(cuts[:, column][inside[:, column]])) <= 1
    assert all((made.num_origins(b) > 0).any() for b in Block)


def test_altering_the_future_leaves_earlier_windows_alone() -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(size=n) for n in (600, 500)]
    frame = frame_of(*values, freq="h", starts=["2020-01-01", "2020-01-05T04:00"])
    made = split(frame, context_length=96, prediction_length=H, patch_length=16)
    for k, block in enumerate(Block):
        altered = frame.values.copy()
        for i in range(2):
            altered[frame.offsets[i] + made.borders[i, k + 1] : frame.offsets[i + 1]] = 1e6
        other = frame_of(altered[:600], altered[600:], freq="h", starts=["2020-01-01", "2020-01-05T04:00"])
        before = cut(frame, made, block, context_length=96, prediction_length=H)
        after = cut(other, made, block, context_length=96, prediction_length=H)
        everything = np.arange(len(before))
        one, two = before.batch(everything), after.batch(everything)
        assert np.array_equal(one.context, two.context, equal_nan=True)
        assert np.array_equal(one.target, two.target, equal_nan=True)
        assert np.array_equal(one.scale, two.scale)


def test_report_counts_points() -> None:
    made = split(frame_of(np.arange(1000.0)), context_length=512, prediction_length=H, patch_length=16)
    assert made.report()["points"] == {"train": 600, "validation": 100, "calibration": 100, "test": 200}
    assert micros("1970-01-01T00:00:01") == 1_000_000
