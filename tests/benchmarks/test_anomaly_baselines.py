"""Detectors without a model find what was planted and learn from train alone; the bootstrap covers what is true."""

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.architecture.repo import ROOT

Floats = NDArray[np.float64]
NAMES = ("seasonal z-score", "sub-PCA", "sub-PCA (causal)", "left matrix profile")
CAUSAL = ("seasonal z-score", "sub-PCA (causal)")
PERIOD, TRAIN_END, SPIKE = 24, 600, slice(1_310, 1_313)


@pytest.fixture(scope="module")
def baselines() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    yield import_module("anomaly_baselines")
    patch.undo()


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    yield import_module("bootstrap")
    patch.undo()


def seasonal(rows: int = 2_000) -> Floats:
    rng = np.random.default_rng(0)
    shape = np.sin(np.arange(PERIOD) * 2 * np.pi / PERIOD) + 0.5 * rng.normal(size=PERIOD)
    return np.resize(shape, rows) + 0.1 * rng.normal(size=rows)


def planted() -> Floats:
    values = seasonal()
    values[SPIKE] += 3.0
    return values


class TestPeriod:
    def test_a_season_is_found_and_not_its_multiple(self, baselines: ModuleType) -> None:
        assert baselines.period_of(seasonal(400)) == PERIOD

    def test_noise_a_trend_and_a_constant_have_none(self, baselines: ModuleType) -> None:
        noise = np.random.default_rng(1).normal(size=600)
        for train in (noise, np.arange(600.0), np.ones(600), np.full(600, 0.1), np.zeros(600)):
            assert baselines.period_of(train) == 1


@pytest.mark.parametrize("name", NAMES)
class TestEveryBaseline:
    def test_a_planted_spike_scores_highest(self, baselines: ModuleType, name: str) -> None:
        values = planted()
        scores = baselines.BASELINES[name](values, TRAIN_END, baselines.period_of(values[:TRAIN_END]))
        assert scores.shape == values.shape
        assert np.isfinite(scores[TRAIN_END:]).all()
        best = TRAIN_END + int(np.argmax(scores[TRAIN_END:]))
        assert abs(best - SPIKE.start) <= PERIOD

    def test_later_rows_change_no_score_beyond_a_window(self, baselines: ModuleType, name: str) -> None:
        values = planted()
        before = baselines.BASELINES[name](values, TRAIN_END, PERIOD)
        values[1_500:] = 7.0
        after = baselines.BASELINES[name](values, TRAIN_END, PERIOD)
        known = 1_500 if name in CAUSAL else 1_500 - PERIOD + 1
        np.testing.assert_allclose(after[:known], before[:known], rtol=1e-6, atol=1e-6)

    def test_a_constant_train_part_gives_finite_scores_that_see_a_change(
        self, baselines: ModuleType, name: str
    ) -> None:
        for level in (0.0, 0.1, 1e6):
            values = np.full(1_200, level)
            values[900:910] += 1.0
            scores = baselines.BASELINES[name](values, 300, 1)[300:]
            assert np.isfinite(scores).all()
            assert scores.max() in scores[600:685]
            assert scores[605] > scores[100]


def test_the_seasonal_z_score_is_a_distance_in_deviations(baselines: ModuleType) -> None:
    values = np.array([1.0, 11.0, 3.0, 9.0, 2.0, 15.0])
    scores = baselines.seasonal_z_score(values, 4, 2)  # means 2 and 10, deviation 1
    assert scores.tolist() == [1, 1, 1, 1, 0, 5]


def test_what_components_hold_has_no_error(baselines: ModuleType) -> None:
    values = np.sin(np.arange(1_000) * 2 * np.pi / PERIOD)  # its windows span a plane
    np.testing.assert_allclose(baselines.sub_pca(values, 400, PERIOD), 0, atol=1e-12)


def test_the_left_profile_is_that_of_every_pair(baselines: ModuleType) -> None:
    """By definition, window by window; one stretch is flat."""
    values = np.random.default_rng(2).normal(size=120)
    values[40:60] = 2.0
    width, nearest = 8, np.full(113, np.nan)

    def distance(i: int, j: int) -> float:
        first, second = values[i : i + width], values[j : j + width]
        if 0 in (first.std(), second.std()):  # a flat window has no shape: equal to flat ones, half like any other
            return 0.0 if first.std() == second.std() else float(np.sqrt(width))
        return float(np.linalg.norm((first - first.mean()) / first.std() - (second - second.mean()) / second.std()))

    for i in range(width, 113):
        nearest[i] = min(distance(i, j) for j in range(i - width + 1))
    expected = baselines.over_rows(nearest, width)
    np.testing.assert_allclose(baselines.left_matrix_profile(values, 32, width), expected, atol=1e-6)


class TestOverRows:
    def test_a_row_has_the_mean_of_the_windows_that_hold_it(self, baselines: ModuleType) -> None:
        found = baselines.over_rows(np.array([np.nan, 2.0, 4.0]), 2)
        assert found[1:].tolist() == [2.0, 3.0, 4.0]
        assert np.isnan(found[0])

    def test_a_score_by_rows_is_spread_alike(self, baselines: ModuleType) -> None:
        found = baselines.smoothed(np.array([0.0, 0.0, 6.0, 0.0, 0.0]), 2)
        assert found.tolist() == [0.0, 1.5, 3.0, 1.5, 0.0]

    def test_a_window_is_a_season_but_no_more_than_a_quarter_of_train(self, baselines: ModuleType) -> None:
        width = baselines.width_of
        assert (width(750, 24), width(750, 1), width(169, 1), width(8, 1)) == (24, 125, 42, 4)


class TestPairedDifference:
    def test_the_interval_covers_the_true_difference_as_often_as_it_says(self, bootstrap: ModuleType) -> None:
        rng = np.random.default_rng(3)
        covered = 0
        for seed in range(200):
            hard = rng.normal(size=52)  # shared by both methods, and far larger than the difference
            first, second = hard + 0.1 + 0.2 * rng.normal(size=52), hard + 0.2 * rng.normal(size=52)
            found = bootstrap.paired_difference(first, second, seed=seed, draws=1_000)
            covered += found.low <= 0.1 <= found.high
        assert 0.88 <= covered / 200 <= 0.99

    def test_pairing_tells_apart_what_a_shared_difficulty_hides(self, bootstrap: ModuleType) -> None:
        hard = np.linspace(0, 1, 40)
        found = bootstrap.paired_difference(hard + 0.01, hard, seed=0)
        assert (found.mean, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))
        assert found.told_apart
        assert not bootstrap.paired_difference(hard, hard[::-1], seed=0).told_apart

    def test_a_seed_repeats_itself(self, bootstrap: ModuleType) -> None:
        first, second = np.random.default_rng(4).normal(size=(2, 30))
        assert bootstrap.paired_difference(first, second, seed=5) == bootstrap.paired_difference(first, second, seed=5)

    def test_figures_that_do_not_pair_are_refused(self, bootstrap: ModuleType) -> None:
        with pytest.raises(AssertionError, match="beside"):
            bootstrap.paired_difference([0.1, 0.2], [0.1], seed=0)
        with pytest.raises(AssertionError, match="missing"):
            bootstrap.paired_difference([0.1, float("nan")], [0.1, 0.2], seed=0)
