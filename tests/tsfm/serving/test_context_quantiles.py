import numpy as np
import pytest
from numpy.typing import NDArray

from tests.app.tuned import frame
from tsfm.errors import ConfigError
from tsfm.series.frame import SeriesFrame
from tsfm.serving.context_quantiles import UNAVAILABLE, context_quantiles
from tsfm.serving.frames import joined, rolled_back

HORIZON = 3


def last_value(past: SeriesFrame) -> NDArray[np.float64]:
    return np.stack([np.repeat(past.series(i)[-1], HORIZON) for i in range(len(past))])


def quantiles(history: SeriesFrame, levels: tuple[float, ...]) -> NDArray[np.float64]:
    return context_quantiles(last_value, history, last_value(history), levels, keep=50)


def one(values: NDArray[np.float64]) -> SeriesFrame:
    return SeriesFrame(
        item_ids=("a",),
        values=values,
        offsets=np.array([0, len(values)], dtype=np.int64),
        starts=np.zeros(1, dtype=np.int64),
        freq="1",
    )


def test_a_straight_line_is_missed_by_exactly_its_slope() -> None:
    out = quantiles(one(np.arange(60.0)), (0.1, 0.5, 0.9))
    assert out.shape == (1, 3, HORIZON)
    np.testing.assert_allclose(out[0, 1], 59.0)
    np.testing.assert_allclose(out[0, 2] - 59.0, [1, 2, 3])
    np.testing.assert_allclose(out[0, 0] - 59.0, [-1, -2, -3])


def test_the_half_width_has_the_conformal_rank() -> None:
    """One horizon step, 20 origins: the rank of the central 80 % is ceil(21 * 0.8) = 17."""
    values = np.random.default_rng(1).normal(size=100)
    history = one(values)
    errors = np.sort(np.abs(np.diff(values)[-20:]))
    point = values[-1:].reshape(1, 1)
    out = context_quantiles(lambda past: last_value(past)[:, :1], history, point, (0.9,), keep=50)
    assert out[0, 0, 0] == pytest.approx(values[-1] + errors[16])


def test_quantiles_are_sorted_and_belong_to_their_series() -> None:
    history = frame(3, 120)
    out = quantiles(history, (0.1, 0.25, 0.5, 0.9))
    assert np.all(np.diff(out, axis=1) >= 0)
    for i in range(3):
        np.testing.assert_array_equal(out[i], quantiles(history.take([i]), (0.1, 0.25, 0.5, 0.9))[0])


def test_missing_points_are_left_out_of_the_errors() -> None:
    values = np.arange(80.0)
    values[70] = np.nan
    assert np.all(np.isfinite(quantiles(one(values), (0.1, 0.9))))


def test_a_level_beyond_what_the_history_resolves_is_refused_with_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="need 19 rolling origins") as caught:
        quantiles(one(np.arange(20.0)), (0.025, 0.975))
    assert caught.value.code == UNAVAILABLE
    assert "23 points; it has 20" in caught.value.message
    assert quantiles(one(np.arange(23.0)), (0.025, 0.975)).shape == (1, 2, HORIZON)


class TestFrames:
    def test_joined_frames_hold_every_series_in_order(self) -> None:
        parts = [frame(2, 30, seed=1), frame(1, 50, seed=2), frame(3, 10, seed=3)]
        whole = joined(parts)
        assert len(whole) == 6
        every = [part.series(i) for part in parts for i in range(len(part))]
        for i, values in enumerate(every):
            np.testing.assert_array_equal(whole.series(i), values)

    def test_rolled_back_ends_where_asked_and_keeps_no_more_than_asked(self) -> None:
        history = frame(2, 30)
        past = rolled_back(history, ends=[[10, 20], [30]], keep=15)
        assert past.item_ids == ("s0", "s0", "s1")
        np.testing.assert_array_equal(past.series(0), history.series(0)[:10])
        np.testing.assert_array_equal(past.series(1), history.series(0)[5:20])
        np.testing.assert_array_equal(past.series(2), history.series(1)[15:])
