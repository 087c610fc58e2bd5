"""Several series as one system: the aggregate has a null of its own, and each variable its part."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tsfm.series.frames import frame_of
from tsfm import joint, null
from tsfm.errors import ConfigError, SeriesTooShort
from tsfm.joint import Joint, aggregate, check_clock
from tsfm.null import Null

Floats = NDArray[np.float64]
NAN = np.nan


def scored(scores: Floats, *, asked: int = 0, stored: Null | None = None, level: float = 90.0) -> Joint:
    """Scores [V, n] whose first stands at index 100; all but the first `asked` are asked for."""
    parts = [(100, row) for row in scores]
    names = tuple(f"v{i}" for i in range(len(scores)))
    return joint.score(parts, first=100 + asked, stored=stored, level=level, names=names)


class TestAggregate:
    def test_it_is_the_root_mean_square_of_what_is_observed(self) -> None:
        scores = np.array([[3.0, 3.0, NAN], [4.0, NAN, NAN]])
        assert aggregate(scores).tolist() == pytest.approx([12.5**0.5, 3.0, NAN], nan_ok=True)

    def test_one_variable_is_itself(self) -> None:
        row = np.abs(np.random.default_rng(0).standard_normal(20))
        assert aggregate(row[None]) == pytest.approx(row)


class TestContributions:
    def test_they_add_up_to_one(self) -> None:
        rng = np.random.default_rng(0)
        scores = rng.exponential(size=(5, 200))
        scores[rng.random(scores.shape) < 0.3] = NAN
        found = scored(scores)
        known = ~np.isnan(scores).all(axis=0)
        assert found.contributions[:, known].sum(axis=0) == pytest.approx(1.0)
        assert (found.contributions[np.isnan(scores) & known[None]] == 0.0).all()
        assert np.isnan(found.contributions[:, ~known]).all()
        assert np.isnan(found.scores[~known]).all()

    def test_they_are_shares_of_the_squares(self) -> None:
        scores = np.ones((2, 60))
        scores[:, 50] = [3.0, 1.0]
        assert scored(scores).contributions[:, 50].tolist() == pytest.approx([0.9, 0.1])

    def test_where_nothing_is_off_what_is_observed_shares_alike(self) -> None:
        scores = np.zeros((3, 60))
        scores[2, 7] = NAN
        found = scored(scores).contributions
        assert found[:, 0].tolist() == pytest.approx([1 / 3] * 3)
        assert found[:, 7].tolist() == [0.5, 0.5, 0.0]


class TestNull:
    @pytest.mark.parametrize("together", [True, False])
    def test_false_alarms_are_as_asked_whether_variables_move_together_or_not(self, together: bool) -> None:
        """Of four copies the mean square is as wide as of one: a null of one variable would not do for the other."""
        rng, rates = np.random.default_rng(2), []
        for _ in range(100):
            one = rng.exponential(size=(1, 600)) if together else rng.exponential(size=(4, 600))
            found = scored(np.repeat(one, 4, axis=0) if together else one, asked=300, level=95.0)
            rates.append((found.scores > 1.0).mean())
        assert np.mean(rates) == pytest.approx(0.05, abs=4 * np.std(rates) / 10)

    def test_it_is_made_of_the_moments_before_the_asked_ones(self) -> None:
        rng = np.random.default_rng(0)
        scores = rng.exponential(size=(2, 100))
        moved = scores.copy()
        moved[:, 80:90] += 50.0
        calm, odd = scored(scores, asked=60), scored(moved, asked=60)
        assert (calm.num_scores, calm.first, len(calm.scores)) == (60, 160, 40)
        assert np.array_equal(calm.p_values[:20], odd.p_values[:20]), "what is asked for is not what it is measured by"
        assert (odd.scores[20:30] > 1).all()
        assert (calm.calibrated, calm.extrapolated) == (False, False)

    def test_a_stored_one_is_used(self) -> None:
        stored = null.fitted(np.full((500, 1), 10.0) + np.random.default_rng(0).random((500, 1)))
        found = scored(np.ones((2, 30)), stored=stored, level=99.0)
        assert (found.calibrated, found.num_scores) == (True, 500)
        assert found.severity == pytest.approx(0.1, rel=0.1)
        assert (found.scores < 1).all()

    def test_too_few_moments_are_said_with_have_and_need(self) -> None:
        with pytest.raises(SeriesTooShort) as caught:
            scored(np.ones((2, 40)), asked=10)
        assert (caught.value.details["have"], caught.value.details["need"]) == (10, null.MIN_SCORES)
        assert caught.value.param == "multivariate"

    def test_a_level_beyond_its_resolution_is_said(self) -> None:
        assert scored(np.random.default_rng(0).exponential(size=(2, 50)), level=99.0).extrapolated

    def test_a_point_off_a_null_of_zeros_is_infinitely_severe(self) -> None:
        scores = np.zeros((2, 300))
        scores[1, 250] = 3.0
        found = scored(scores, level=99.0)
        assert np.flatnonzero(found.scores > 1).tolist() == [250]
        assert found.severity[250] == np.inf
        assert (found.severity[:250] == 0).all()


class TestClock:
    def test_one_series_is_no_system(self) -> None:
        with pytest.raises(ConfigError, match="two series") as caught:
            check_clock(frame_of([1.0, 2.0]), ())
        assert caught.value.param == "multivariate"

    @pytest.mark.parametrize("starts", [["2020-01-01", "2020-01-02"], ["2020-01-01", "2020-01-01"]])
    def test_series_that_do_not_begin_and_end_together_are_named(self, starts: list[str]) -> None:
        other = [1.0] * (5 if starts[0] != starts[1] else 4)
        with pytest.raises(ConfigError, match="s1 do not"):
            check_clock(frame_of([1.0] * 5, other, starts=starts), ())

    def test_skipped_series_are_no_part_of_a_system(self) -> None:
        frame = frame_of([1.0] * 5, [1.0] * 5)
        check_clock(frame, ())
        with pytest.raises(ConfigError, match="too short"):
            check_clock(frame, (1,))
