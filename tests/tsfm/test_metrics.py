"""Scales and errors by hand."""

import numpy as np
import pytest

from tests import toy
from tsfm.metrics import METRICS, PINBALL, Errors, Scales, default_metric, scales_of, zero_share
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split


def frame_of(*rows: np.ndarray) -> SeriesFrame:
    return SeriesFrame(
        item_ids=tuple(f"s{i}" for i in range(len(rows))),
        values=np.concatenate(rows).astype(np.float64),
        offsets=np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64),
        starts=np.zeros(len(rows), dtype=np.int64),
        freq="D",
    )


def scales(frame: SeriesFrame, season: int = 7) -> Scales:
    return scales_of(frame, split(frame, context_length=16, prediction_length=4, patch_length=4), season=season)


class TestScales:
    def test_is_the_mean_seasonal_difference_of_train_alone(self) -> None:
        y = np.random.default_rng(0).normal(size=200)
        frame = frame_of(y)
        blocks = split(frame, context_length=16, prediction_length=4, patch_length=4)
        end = int(blocks.block(Block.TRAIN)[1][0])
        changed = y.copy()
        changed[end:] = 1e6
        d = np.abs(y[7:end] - y[: end - 7])
        for values in (y, changed):
            found = scales(frame_of(values))
            assert found.mase[0] == pytest.approx(d.mean())
            assert found.rmsse[0] == pytest.approx(np.sqrt((d**2).mean()))

    def test_fallbacks_are_taken_in_order_and_counted(self) -> None:
        t = np.arange(200)
        rows = (np.tile(np.arange(7.0), 29)[:200], np.full(200, 5.0), np.zeros(200), t.astype(float))
        found = scales(frame_of(*rows))
        assert found.num_fallbacks == {"lag_1": 1, "mean_absolute_value": 1, "one": 1}
        assert found.mase[1:].tolist() == [5.0, 1.0, 7.0]

    def test_a_scale_that_is_only_rounding_is_none(self) -> None:
        t = np.arange(200)
        computed, steady = np.sin(2 * np.pi * t / 7), np.full(200, 0.1) + np.tile([0.0, 1e-17, 2e-17], 67)[:200]
        noise = np.random.default_rng(0).normal(size=200)
        found = scales(frame_of(computed, steady, 1e12 + noise, 1e-200 * noise))
        assert found.num_fallbacks == {"lag_1": 1, "mean_absolute_value": 1, "one": 0}
        assert found.mase[0] == pytest.approx(0.56, abs=0.02)
        assert found.mase[1] == pytest.approx(0.1)
        assert found.mase[2] == pytest.approx(found.mase[3] * 1e200, rel=1e-3), "a level changes no scale"

    def test_missing_values_are_skipped(self) -> None:
        y = np.arange(200.0)
        y[::5] = np.nan
        assert scales(frame_of(y)).mase[0] == pytest.approx(7.0)


def test_more_than_half_zeros_in_train_judges_by_rmsse() -> None:
    y = np.zeros(200)
    y[::3] = 1.0
    y[150:] = 9.0  # what comes later decides nothing
    frame = frame_of(y)
    share = zero_share(frame, split(frame, context_length=16, prediction_length=4, patch_length=4))
    assert share == pytest.approx(2 / 3, abs=0.01)
    assert default_metric(share) == "rmsse"
    assert default_metric(0.5) == "mase"


class TestErrors:
    ONES = Scales(mase=np.array([2.0, 1.0]), rmsse=np.array([2.0, 1.0]), season=1, num_fallbacks={})

    def test_every_series_weighs_the_same(self) -> None:
        errors = Errors(self.ONES)
        target = np.zeros((4, 2))
        errors.add(np.array([0, 0, 0, 1]), target, np.array([[4.0, 4.0]] * 3 + [[6.0, 6.0]]), None)
        found = errors.result()
        assert found["mae"] == 5.0
        assert found["mase"] == (2.0 + 6.0) / 2
        assert found["rmsse"] == (2.0 + 6.0) / 2
        assert (found["num_windows"], found["num_series"]) == (4, 2)
        assert "wql" not in found

    def test_missing_targets_count_nowhere(self) -> None:
        errors = Errors(self.ONES, levels=(0.1, 0.9))
        target = np.array([[1.0, np.nan]])
        errors.add(np.array([0]), target, np.array([[2.0, 99.0]]), np.array([[[0.0, 0.0], [3.0, 3.0]]]))
        found = errors.result()
        assert found["mae"] == 1.0
        assert found["num_series"] == 1
        assert found["coverage"] == {"80": 1.0}

    def test_wql_is_twice_the_pinball_loss_over_the_level_of_the_targets(self) -> None:
        one = Scales(mase=np.ones(1), rmsse=np.ones(1), season=1, num_fallbacks={})
        errors = Errors(one, levels=(0.5,))
        errors.add(np.array([0]), np.array([[10.0, 10.0]]), np.array([[8.0, 12.0]]), np.array([[[8.0, 12.0]]]))
        assert errors.result()["wql"] == pytest.approx(0.2)

    def test_values_whose_square_overflows_still_have_scaled_errors(self) -> None:
        huge = Scales(mase=np.array([1e200]), rmsse=np.array([1e200]), season=1, num_fallbacks={})
        errors = Errors(huge)
        errors.add(np.array([0]), np.array([[1e200]]), np.array([[3e200]]), None)
        found = errors.result()
        assert (found["mase"], found["rmsse"], found["mse"]) == (2.0, 2.0, None)

    def test_nothing_judged_says_so(self) -> None:
        assert Errors(self.ONES).result() == {"num_windows": 0, "num_series": 0}


class TestPinball:
    """What anomaly detection is judged by: the mean over levels, in each series' own MASE scale."""

    SCALES = Scales(mase=np.array([2.0, 10.0]), rmsse=np.array([1.0, 1.0]), season=1, num_fallbacks={})

    def errors(self, *, levels: tuple[float, ...] = (0.1, 0.9)) -> Errors:
        errors = Errors(self.SCALES, levels=levels)
        target = np.array([[10.0, np.nan], [10.0, 10.0], [10.0, 10.0]])
        quantiles = np.stack([np.full((3, 2), 8.0), np.full((3, 2), 14.0)], axis=1)
        errors.add(np.array([0, 0, 1]), target, target, quantiles)
        return errors

    def test_losses_are_relative_to_the_scale_of_the_series(self) -> None:
        loss = (0.1 * 2.0 + 0.1 * 4.0) / 2
        found = self.errors().windows().losses(PINBALL)
        assert found == pytest.approx([loss / 2, loss / 2, loss / 10])

    def test_every_series_weighs_the_same(self) -> None:
        errors = self.errors()
        assert errors.windows().by_series(PINBALL) == pytest.approx([0.15, 0.03])
        assert errors.result()[PINBALL] == pytest.approx(0.09)

    def test_the_median_alone_is_half_the_absolute_error(self) -> None:
        errors = Errors(self.SCALES, levels=(0.5,))
        errors.add(np.array([0]), np.array([[1.0, 5.0]]), np.zeros((1, 2)), np.zeros((1, 1, 2)))
        assert errors.result()[PINBALL] == pytest.approx(errors.result()["mase"] / 2)

    def test_points_have_none(self) -> None:
        errors = Errors(self.SCALES)
        errors.add(np.array([0]), np.array([[1.0]]), np.array([[1.0]]), None)
        assert PINBALL not in errors.result()

    def test_a_job_can_not_ask_for_it_by_name(self) -> None:
        assert PINBALL not in METRICS


def test_frame_fixture_has_missing_values() -> None:
    assert np.isnan(toy.frame().values).any()
