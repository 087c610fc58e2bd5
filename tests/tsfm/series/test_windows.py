"""Windows: what they hold, how they are scaled, that a batch equals its items, that strides keep common times."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tsfm.series.frames import frame_of
from tsfm.series.split import Block, split
from tsfm.series.windows import WindowBatch, cut, gather, tail


def one(frame_values: np.ndarray, origin: int, *, context: int, horizon: int) -> WindowBatch:
    frame = frame_of(frame_values)
    return gather(frame, np.array([0]), np.array([origin]), context_length=context, prediction_length=horizon)


def test_a_window_is_its_context_and_the_target_after_it() -> None:
    batch = one(np.arange(20.0), 10, context=4, horizon=3)
    raw = batch.context.astype(np.float64) * batch.scale[:, None] + batch.loc[:, None]
    assert np.allclose(raw, [[6, 7, 8, 9]])
    assert np.allclose(batch.target * batch.scale[:, None] + batch.loc[:, None], [[10, 11, 12]])
    assert batch.loc[0] == 7.5
    assert batch.scale[0] == pytest.approx(np.std([6, 7, 8, 9]))
    assert batch.context.dtype == batch.target.dtype == np.float32


def test_short_history_is_padded_on_the_left_with_nan() -> None:
    batch = one(np.arange(20.0), 3, context=8, horizon=2)
    assert np.isnan(batch.context[0]).tolist() == [True] * 5 + [False] * 3
    assert batch.loc[0] == 1.0


def test_missing_points_stay_missing_and_out_of_the_scale() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan, 5.0, 7.0])
    batch = one(values, 4, context=4, horizon=2)
    assert batch.loc[0] == 2.0
    assert batch.scale[0] == 1.0
    assert np.array_equal(batch.context[0], [-1, np.nan, 1, np.nan], equal_nan=True)


@pytest.mark.parametrize("level", [0.0, 5.0, 0.1, 1e12, -3e-9, 1e100])
def test_constant_contexts_are_only_shifted(level: float) -> None:
    batch = one(np.full(40, level), 30, context=24, horizon=5)
    assert batch.scale[0] == 1.0
    assert batch.loc[0] == level
    assert (batch.context == 0).all()
    assert (batch.target == 0).all()


def test_nothing_observed_gives_zero_and_one() -> None:
    batch = one(np.array([np.nan] * 4 + [2.0, 3.0]), 4, context=4, horizon=2)
    assert (batch.loc[0], batch.scale[0]) == (0.0, 1.0)
    assert batch.target.tolist() == [[2.0, 3.0]]


def test_a_level_of_a_trillion_keeps_its_noise() -> None:
    noise = np.random.default_rng(0).normal(size=64)
    batch = one(1e12 + noise, 48, context=48, horizon=16)
    expected = (noise[:48] - noise[:48].mean()) / noise[:48].std()
    assert np.allclose(batch.context[0], expected, atol=1e-3)


def test_a_wild_target_stays_finite() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=30) * 1e-300, [1.0]])
    batch = one(values, 30, context=30, horizon=1)
    assert np.isfinite(batch.target.astype(np.float64) ** 2).all()
    assert np.isfinite(np.square(batch.target)).all()


def test_tail_ends_at_the_last_point() -> None:
    batch = tail(frame_of(np.arange(10.0), np.arange(3.0)), context_length=4)
    raw = batch.context * batch.scale[:, None] + batch.loc[:, None]
    assert np.allclose(raw, [[6, 7, 8, 9], [np.nan, 0, 1, 2]], atol=1e-6, equal_nan=True)
    assert batch.target.shape == (2, 0)
    assert batch.origin.tolist() == [10, 3]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    context=st.integers(1, 40),
    horizon=st.integers(1, 10),
    missing=st.floats(0, 0.9),
)
def test_a_batch_equals_its_items(seed: int, context: int, horizon: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    series = [rng.normal(size=n) * 10 ** rng.uniform(-6, 6) for n in rng.integers(horizon + 1, 60, 4)]
    for values in series:
        values[rng.random(len(values)) < missing] = np.nan
    frame = frame_of(*series)
    which = rng.integers(0, 4, 16)
    origin = np.array([rng.integers(0, len(series[i]) - horizon + 1) for i in which])
    batch = gather(frame, which, origin, context_length=context, prediction_length=horizon)
    for k in range(16):
        item = gather(frame, which[k : k + 1], origin[k : k + 1], context_length=context, prediction_length=horizon)
        for name in ("context", "target", "loc", "scale"):
            assert np.array_equal(getattr(batch, name)[k], getattr(item, name)[0], equal_nan=True), name


class TestCut:
    def test_every_origin_of_the_block(self) -> None:
        frame = frame_of(np.arange(1000.0))
        made = split(frame, context_length=64, prediction_length=24, patch_length=16)
        windows = cut(frame, made, Block.VALIDATION, context_length=64, prediction_length=24)
        assert windows.origin.tolist() == list(range(600, 677))
        assert np.array_equal(windows.raw_target([0, 1]), [np.arange(600.0, 624), np.arange(601.0, 625)])

    def test_a_stride_ends_on_the_border(self) -> None:
        frame = frame_of(np.arange(1000.0))
        made = split(frame, context_length=64, prediction_length=24, patch_length=16)
        windows = cut(frame, made, Block.TEST, context_length=64, prediction_length=24, stride=50)
        assert windows.origin.tolist() == [826, 876, 926, 976]

    def test_max_windows_grows_the_stride(self) -> None:
        frame = frame_of(np.arange(1000.0), np.arange(1000.0))
        made = split(frame, context_length=64, prediction_length=24, patch_length=16)
        windows = cut(frame, made, Block.TRAIN, context_length=64, prediction_length=24, max_windows=100)
        assert 80 <= len(windows) <= 100
        assert windows.stride == 11
        assert (np.diff(windows.origin[windows.series == 0]) == 11).all()

    def test_more_series_than_windows(self) -> None:
        frame = frame_of(*[np.arange(200.0)] * 50, freq="1")
        made = split(frame, context_length=16, prediction_length=8, patch_length=8)
        windows = cut(frame, made, Block.TRAIN, context_length=16, prediction_length=8, max_windows=10)
        assert len(windows) == 10
        assert len(set(windows.series.tolist())) == 10

    def test_strided_origins_fall_on_common_times(self) -> None:
        frame = frame_of(np.arange(900.0), np.arange(893.0), freq="h", starts=["2020-01-01T00:00", "2020-01-01T07:00"])
        made = split(frame, context_length=64, prediction_length=12, patch_length=16)
        windows = cut(frame, made, Block.TEST, context_length=64, prediction_length=12, stride=12)
        times = made.clock[windows.series] + windows.origin
        first, second = (set(times[windows.series == i].tolist()) for i in range(2))
        assert first == second

    def test_windows_without_observed_target_or_context_are_dropped(self) -> None:
        values = np.arange(400.0)
        values[100:160] = np.nan
        frame = frame_of(values)
        made = split(frame, context_length=16, prediction_length=8, patch_length=8, with_test=False)
        windows = cut(frame, made, Block.TRAIN, context_length=16, prediction_length=8)
        batch = windows.batch(np.arange(len(windows)))
        assert (~np.isnan(batch.target)).any(axis=1).all()
        assert (~np.isnan(batch.context)).any(axis=1).all()
        assert windows.num_dropped == 61 - 8 + 60 - 16 - (60 - 16 - 8)

    def test_shorter_horizons_than_the_split(self) -> None:
        frame = frame_of(np.arange(1000.0))
        made = split(frame, context_length=64, prediction_length=24, patch_length=16)
        windows = cut(frame, made, Block.TEST, context_length=64, prediction_length=6)
        assert (windows.origin[0], windows.origin[-1]) == (800, 994)
