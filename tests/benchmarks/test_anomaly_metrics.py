"""Figures of agreement on hand-made cases whose answers are known, beside the libraries where they are installed."""

import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.architecture.repo import ROOT

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@pytest.fixture(scope="module")
def metrics() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    yield import_module("anomaly_metrics")
    patch.undo()


@pytest.fixture
def tsb_ad(metrics: ModuleType) -> None:
    for name in ("sklearn.metrics", "statsmodels.tsa.stattools", "TSB_AD.evaluation.basic_metrics"):
        pytest.importorskip(name, reason=f"TSB-AD is not installed: {metrics.INSTALL}")


def labelled(rows: int = 2_000, *spans: tuple[int, int]) -> Bools:
    labels = np.zeros(rows, dtype=bool)
    for first, end in spans or ((700, 760), (1_400, 1_440)):
        labels[first:end] = True
    return labels


def noise(rows: int = 2_000, *, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random(rows)


def flags(text: str) -> Bools:
    return np.array([letter == "1" for letter in text])


class TestRanking:
    def test_areas_by_hand_with_equals(self, metrics: ModuleType) -> None:
        """Scores 3 3 2 1 of labels 1 0 1 0: precision 1/2 at recall 1/2, 2/3 at 1; of four pairs 1/2 + 1 + 0 + 1."""
        labels, scores = flags("1010"), np.array([3.0, 3.0, 2.0, 1.0])
        assert metrics.auc_pr(labels, scores) == pytest.approx(0.5 * 0.5 + 0.5 * 2 / 3)
        assert metrics.auc_roc(labels, scores) == pytest.approx(2.5 / 4)
        assert metrics.best_f1(labels, scores) == pytest.approx(2 * 2 / (3 + 2))

    def test_a_perfect_score_has_everything(self, metrics: ModuleType) -> None:
        labels = labelled()
        scores = labels + 0.1 * noise()
        found = (metrics.auc_pr(labels, scores), metrics.auc_roc(labels, scores), metrics.best_f1(labels, scores))
        assert found == pytest.approx((1, 1, 1))

    def test_noise_has_the_base_rate_and_a_half(self, metrics: ModuleType) -> None:
        labels = labelled(20_000, (4_000, 5_000), (9_000, 10_000))
        assert metrics.auc_pr(labels, noise(20_000)) == pytest.approx(0.1, abs=0.01)
        assert metrics.auc_roc(labels, noise(20_000)) == pytest.approx(0.5, abs=0.02)

    def test_areas_are_those_of_scikit_learn(self, metrics: ModuleType) -> None:
        theirs = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed: extra benchmarks")
        labels = labelled()
        for scores in (noise(), np.round(noise() + 0.3 * labels, 1), np.zeros(2_000)):
            assert metrics.auc_pr(labels, scores) == pytest.approx(theirs.average_precision_score(labels, scores))
            assert metrics.auc_roc(labels, scores) == pytest.approx(theirs.roc_auc_score(labels, scores))

    def test_scores_without_a_value_or_labels_of_one_kind_are_refused(self, metrics: ModuleType) -> None:
        with pytest.raises(AssertionError, match="finite"):
            metrics.auc_pr(flags("01"), np.array([0.0, np.nan]))
        with pytest.raises(AssertionError, match="no row is anomalous"):
            metrics.auc_roc(flags("00"), np.zeros(2))
        filled, missing = metrics.lowest_where_undefined(np.array([np.nan, 2.0, 1.0]))
        assert (filled.tolist(), missing) == ([1.0, 2.0, 1.0], 1)
        filled, _ = metrics.lowest_where_undefined(np.array([np.inf, 2.0, np.nan, 1.0]))
        assert filled.tolist() == [3.0, 2.0, 1.0, 1.0]

    def test_what_needs_the_extra_says_how_to_get_it(
        self, metrics: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "TSB_AD", None)
        with pytest.raises(metrics.AbsentLibrary, match="--no-deps"):
            metrics.vus(labelled(), noise(), window=10)


@pytest.mark.usefixtures("tsb_ad")
class TestVus:
    def test_a_perfect_score_is_near_one_and_noise_near_the_base_rate(self, metrics: ModuleType) -> None:
        labels = labelled()
        perfect, worthless = (metrics.ranking(labels, s, window=20) for s in (labels + 0.1 * noise(), noise()))
        assert perfect.vus_pr > 0.9
        assert perfect.vus_roc > 0.95
        assert 0.05 < worthless.vus_pr < 0.1, "100 of 2,000 rows, and their buffers"
        assert 0.5 < worthless.vus_roc < 0.7, "a buffer counts as anomalous where it is hit: more than a half for noise"

    def test_a_score_a_few_rows_late_keeps_more_of_it_than_of_the_area(self, metrics: ModuleType) -> None:
        labels = labelled()
        late = np.roll(labels, 15) + 0.1 * noise()
        assert metrics.vus(labels, late, window=60)[0] > metrics.auc_pr(labels, late) + 0.05

    def test_no_buffer_is_the_area_itself(self, metrics: ModuleType) -> None:
        labels, scores = labelled(250, (100, 150)), noise(250)  # 250 rows: each its own threshold
        assert metrics.vus(labels, scores, window=0)[0] == pytest.approx(metrics.auc_pr(labels, scores), abs=1e-9)

    def test_the_variant_that_is_used_equals_the_plain_one(self, metrics: ModuleType) -> None:
        plain = import_module("TSB_AD.evaluation.basic_metrics").generate_curve
        labels = labelled()
        scores = np.round(noise() + 0.4 * labels, 2)
        *_, roc, pr = plain(labels.astype(int), scores, 20, "opt", 250)
        assert metrics.vus(labels, scores, window=20) == (pr, roc)

    def test_the_window_is_the_season_or_the_usual_length(self, metrics: ModuleType) -> None:
        assert metrics.window_length(np.sin(np.arange(4_000) * 2 * np.pi / 48)) == 48
        assert metrics.window_length(np.ones(4_000)) == 125


class TestThresholds:
    def test_point_adjustment_inflates(self, metrics: ModuleType) -> None:
        """Noise that is worth nothing by rows looks like a detector once adjusted: why the figure stands beside."""
        labels = labelled(2_000, (500, 900))
        assert metrics.best_f1(labels, noise()) < 0.4
        assert metrics.adjusted_best_f1(labels, noise()) > 0.9

    def test_adjustment_raises_whole_anomalies_and_nothing_else(self, metrics: ModuleType) -> None:
        labels, alarms = flags("0111001110"), flags("1010000000")
        assert metrics.point_adjusted(labels, alarms).tolist() == flags("1111000000").tolist()
        assert metrics.f1(labels, alarms) == pytest.approx(2 * 1 / (6 + 2))
        assert metrics.point_adjusted_f1(labels, alarms) == pytest.approx(2 * 3 / (6 + 4))

    def test_the_highest_threshold_alarms_on_the_highest_score(self, metrics: ModuleType) -> None:
        """≥, as MOMENT has it: one row at the top finds its anomaly without a false alarm."""
        scores = np.array([0.0, 0.999, 1.0, 0.0])
        assert metrics.adjusted_best_f1(flags("0011"), scores) == 1.0


@pytest.mark.usefixtures("tsb_ad")
class TestFound:
    def test_alarms_equal_to_the_truth_have_one_throughout(self, metrics: ModuleType) -> None:
        found = metrics.found(labelled(), labelled())
        assert (found.precision, found.recall, found.f1, found.point_adjusted_f1) == (1, 1, 1, 1)
        assert (found.range_f1, found.affiliation_f1) == pytest.approx((1, 1))

    def test_no_alarm_has_nothing(self, metrics: ModuleType) -> None:
        found = metrics.found(labelled(), np.zeros(2_000, dtype=bool))
        assert (found.f1, found.range_f1, found.affiliation_f1, found.point_adjusted_f1) == (0, 0, 0, 0)

    def test_one_row_of_an_anomaly_by_ranges(self, metrics: ModuleType) -> None:
        """Recall 0.2 · 1 + 0.8 · 1/10 of one of two anomalies, precision 1."""
        alarms = np.zeros(100, dtype=bool)
        alarms[25] = True
        recall = (0.2 + 0.8 / 10) / 2
        found = metrics.range_f1(labelled(100, (20, 30), (60, 70)), alarms)
        assert found == pytest.approx(2 * recall / (1 + recall))

    def test_near_alarms_are_worth_more_than_far_ones(self, metrics: ModuleType) -> None:
        labels = labelled(1_000, (500, 520))
        near, far = np.zeros((2, 1_000), dtype=bool)
        near[530:540], far[900:910] = True, True
        assert metrics.affiliation_f1(labels, near) > 0.9 > 0.6 > metrics.affiliation_f1(labels, far)


class TestFirstHit:
    def test_the_rank_counts_the_segments_before_the_anomaly(self, metrics: ModuleType) -> None:
        labels = labelled(50, (22, 28))
        scores = np.repeat([1.0, 5.0, 3.0, 4.0, 0.0], 10)
        hit = metrics.first_hit(labels, scores, segment=10)
        assert (hit.rank, hit.total, hit.quantile) == (3, 5, 0.6)

    def test_the_better_of_two_segments_counts_and_the_last_may_be_short(self, metrics: ModuleType) -> None:
        labels = labelled(45, (38, 45))
        scores = np.repeat([1.0, 5.0, 3.0, 0.0, 9.0], 10)[:45]
        assert metrics.first_hit(labels, scores, segment=10).rank == 1

    def test_among_equals_the_anomaly_is_last(self, metrics: ModuleType) -> None:
        hit = metrics.first_hit(labelled(50, (22, 28)), np.zeros(50), segment=10)
        assert (hit.rank, hit.total) == (5, 5)
