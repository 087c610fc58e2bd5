"""The interval of a mean of overlapping errors: its level on the nulls of evaluation.md §3, and its parts by hand."""

import math

import numpy as np
import pytest

from tsfm.gate_interval import bootstrap_interval, cosine_interval, degrees_of_freedom, student_quantile

DRAWS = 1_000


def moving_sums(num_draws: int, n: int, horizon: int, *, seed: int) -> np.ndarray:
    """[num_draws, n] MA(H − 1): what the errors of windows that share H − 1 of H targets look like, with mean 0."""
    noise = np.random.default_rng(seed).standard_normal((num_draws, n + horizon - 1))
    sums = np.concatenate([np.zeros((num_draws, 1)), np.cumsum(noise, axis=1)], axis=1)
    return sums[:, horizon:] - sums[:, :-horizon]


class TestLevel:
    @pytest.mark.parametrize(("n", "horizon"), [(477, 24), (60, 12), (4 * 12 + 1, 12)])
    def test_a_null_is_promoted_at_most_once_in_twenty(self, n: int, horizon: int) -> None:
        """The last pair is the least the gate judges by: five horizons of test hold 4H + 1 origins."""
        low, _ = cosine_interval(
            moving_sums(DRAWS, n, horizon, seed=1), degrees=degrees_of_freedom(n, horizon), level=0.95
        )
        assert (low > 0).mean() <= 0.05

    def test_strided_windows_hold_their_level_too(self) -> None:
        errors = moving_sums(DRAWS, 477, 24, seed=2)[:, ::6]
        degrees = degrees_of_freedom(errors.shape[1], 24 / 6)
        low, _ = cosine_interval(errors, degrees=degrees, level=0.95)
        assert (low > 0).mean() <= 0.05

    def test_the_second_look_is_held_to_half_the_level(self) -> None:
        errors = moving_sums(4 * DRAWS, 60, 12, seed=3)
        degrees = degrees_of_freedom(60, 12)
        first, second = (cosine_interval(errors, degrees=degrees, level=level)[0] for level in (0.95, 0.975))
        assert (second > 0).mean() < 0.7 * (first > 0).mean()

    def test_a_plain_bootstrap_would_not_hold_it(self) -> None:
        errors = moving_sums(DRAWS, 60, 12, seed=4)
        drawn = [bootstrap_interval(d, block=12, level=0.95, seed=i) for i, d in enumerate(errors[:200])]
        assert np.mean([interval is not None and interval[0] > 0 for interval in drawn]) > 0.05

    def test_a_real_gain_is_found(self) -> None:
        errors = moving_sums(DRAWS, 477, 24, seed=5)
        low, _ = cosine_interval(errors + 2.0 * errors.std(), degrees=degrees_of_freedom(477, 24), level=0.95)
        assert (low > 0).mean() > 0.9


class TestParts:
    def test_degrees_of_freedom(self) -> None:
        assert degrees_of_freedom(477, 24) == int(0.5 * 477 / 24)
        assert degrees_of_freedom(60, 12) == 4
        assert degrees_of_freedom(1_000, 1) == int(0.41 * 1_000 ** (2 / 3))
        assert degrees_of_freedom(3, 1) == 2

    @pytest.mark.parametrize(
        ("degrees", "expected"), [(1, 12.706205), (2, 4.302653), (4, 2.776445), (9, 2.262157), (30, 2.042272)]
    )
    def test_student_quantiles_are_those_of_the_tables(self, degrees: int, expected: float) -> None:
        assert student_quantile(0.975, degrees) == pytest.approx(expected, abs=1e-5)

    def test_with_all_cosines_it_is_the_ordinary_t_interval(self) -> None:
        d = np.random.default_rng(0).normal(size=9)
        low, high = cosine_interval(d, degrees=8, level=0.9)
        half = student_quantile(0.95, 8) * d.std(ddof=1) / math.sqrt(9)
        assert (float(low), float(high)) == pytest.approx((d.mean() - half, d.mean() + half))

    def test_no_variation_is_a_point(self) -> None:
        low, high = cosine_interval(np.full(50, 0.25), degrees=4, level=0.95)
        assert (float(low), float(high)) == pytest.approx((0.25, 0.25))

    def test_the_bootstrap_is_seeded_and_needs_two_blocks(self) -> None:
        d = np.random.default_rng(0).normal(size=40)
        assert bootstrap_interval(d, block=10, level=0.95) == bootstrap_interval(d, block=10, level=0.95)
        assert bootstrap_interval(d, block=21, level=0.95) is None
        interval = bootstrap_interval(d, block=1, level=0.95)
        assert interval is not None
        half = 1.96 * d.std() / math.sqrt(40)
        assert interval == pytest.approx((d.mean() - half, d.mean() + half), abs=0.05)
