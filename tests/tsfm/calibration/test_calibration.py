"""Ranks, offsets and answers on numbers small enough to count by hand, and coverage where the noise is known."""

import numpy as np
import pytest

from tsfm.calibration import (
    CQR,
    SCALED_RESIDUALS,
    SHARES,
    Calibration,
    base_of,
    fitted,
    from_bytes,
    offsets_of,
    ranks,
    scores_of,
    to_bytes,
)
from tsfm.errors import ArtifactError

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NORMAL = np.array([-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816])


def point_calibration(scores: np.ndarray) -> Calibration:
    """From |y − point| [N, H] of windows of scale 1."""
    made = scores_of(scores, np.zeros_like(scores), None, (), np.ones(len(scores)))
    return fitted(made, ())


class TestRanks:
    def test_the_rank_is_that_of_the_rule(self) -> None:
        assert ranks(19, np.array([0.95])).tolist() == [19]
        assert ranks(18, np.array([0.95])).tolist() == [19], "one more than there are: not resolved"
        assert ranks(4, np.array([0.8, 0.5, 0.01])).tolist() == [4, 3, 1]
        assert ranks(99, np.array([0.29, 0.57])).tolist() == [29, 57], "0.29 · 100 is above 29 in binary"

    def test_offsets_are_order_statistics_of_each_step(self) -> None:
        scores = np.array([[3.0, 9.0], [1.0, np.nan], [2.0, 7.0], [4.0, 8.0]])
        found = offsets_of(scores, np.array([0.2, 0.5, 0.75, 0.8, 0.9]))
        np.testing.assert_array_equal(found[:, 0], np.float32([1, 3, 4, 4, np.nan]))
        np.testing.assert_array_equal(found[:, 1], np.float32([7, 8, 9, np.nan, np.nan]))

    def test_the_order_of_windows_and_series_does_not_matter(self) -> None:
        rng = np.random.default_rng(0)
        scores = rng.normal(size=(4, 200, 5)).astype(np.float32)
        scores[:, rng.integers(0, 200, 20), 2] = np.nan
        one, other = fitted(scores, DECILES), fitted(scores[:, rng.permutation(200)], DECILES)
        np.testing.assert_array_equal(one.offsets, other.offsets)
        np.testing.assert_array_equal(one.counts, other.counts)


class TestResolution:
    @pytest.mark.parametrize(("count", "expected"), [(1, 0.5), (4, 0.8), (19, 0.95), (99, 0.99), (999, 0.999)])
    def test_it_is_the_largest_share_with_a_score_for_its_rank(self, count: int, expected: float) -> None:
        calibration = point_calibration(np.arange(1.0, count + 1)[:, None])
        assert calibration.resolution == expected
        assert calibration.num_scores == count

    def test_beyond_it_distances_grow_as_a_normals_and_say_so(self) -> None:
        calibration = point_calibration(np.arange(1.0, 20.0)[:, None])
        answer = calibration.spread(np.zeros((1, 1)), None, np.array([2.0]), (0.01, 0.025, 0.5, 0.9))
        assert answer.calibrated == (False, True, True, True)
        widest = 2 * 19.0
        expected = [-widest * 2.3263 / 1.95996, -widest, 0.0, 2 * 16.0]
        assert answer.quantiles[0, :, 0] == pytest.approx(expected, rel=1e-4)

    def test_native_levels_answer_what_the_scores_do_not_resolve(self) -> None:
        native = NORMAL[None, :, None] * np.ones((3, 1, 1))
        target = np.array([[0.1], [-0.2], [0.4]])
        made = fitted(scores_of(target, native[:, 4], native, DECILES, np.ones(3)), DECILES)
        answer = made.spread(native[:1, 4], native[:1], np.ones(1), (0.05, 0.1, 0.25, 0.5, 0.75))
        assert answer.calibrated == (False, False, True, True, True)
        assert answer.quantiles[0, 1, 0] == NORMAL[0]
        assert answer.quantiles[0, 0, 0] == pytest.approx(NORMAL[0] * 1.64485 / 1.28155, rel=1e-4)

    def test_what_is_not_resolved_is_never_narrower_than_what_is(self) -> None:
        native = 0.01 * NORMAL[None, :, None] * np.ones((3, 1, 1))
        target = np.array([[1.0], [-2.0], [4.0]])
        made = fitted(scores_of(target, native[:, 4], native, DECILES, np.ones(3)), DECILES)
        answer = made.spread(native[:1, 4], native[:1], np.ones(1), (0.05, 0.1, 0.125, 0.875))
        assert answer.calibrated == (False, False, True, True)
        assert answer.quantiles[0, :, 0] == pytest.approx([-4.0, -4.0, -4.0, 4.0], abs=0.02)

    def test_a_step_nobody_observed_leaves_nothing_calibrated(self) -> None:
        scores = np.full((30, 2), np.nan)
        scores[:, 0] = np.arange(30)
        calibration = point_calibration(scores)
        assert (calibration.num_scores, calibration.resolution) == (0, 0.0)
        answer = calibration.spread(np.zeros((1, 2)), None, np.ones(1), (0.1, 0.9))
        assert answer.calibrated == (False, False)
        assert np.isfinite(answer.quantiles).all()


class TestAnswers:
    def made(self, *, seed: int = 0) -> tuple[Calibration, np.ndarray]:
        rng = np.random.default_rng(seed)
        native = np.sort(rng.normal(size=(400, 9, 6)), axis=1)
        target = 2 * rng.normal(size=(400, 6))
        return fitted(scores_of(target, native[:, 4], native, DECILES, np.ones(400)), DECILES), native

    def test_levels_ascend_whatever_was_asked_and_in_whatever_order(self) -> None:
        calibration, native = self.made()
        levels = np.random.default_rng(1).permutation(np.round(np.linspace(0.002, 0.998, 100), 3))
        answer = calibration.spread(native[:, 4], native, np.ones(400), levels)
        ordered = answer.quantiles[:, np.argsort(levels)]
        assert (np.diff(ordered, axis=1) >= 0).all()

    def test_a_shorter_forecast_is_the_beginning_of_the_longer_one(self) -> None:
        calibration, native = self.made()
        levels = (0.025, 0.1, 0.5, 0.975)
        whole = calibration.spread(native[:, 4], native, np.ones(400), levels)
        short = calibration.spread(native[:, 4, :2], native[..., :2], np.ones(400), levels)
        np.testing.assert_array_equal(short.quantiles, whole.quantiles[..., :2])
        assert short.calibrated == whole.calibrated == (True,) * 4

    def test_beyond_the_fitted_horizon_nothing_is_calibrated(self) -> None:
        calibration, native = self.made()
        longer = np.concatenate([native, native], axis=2)
        answer = calibration.spread(longer[:, 4], longer, np.ones(400), (0.025, 0.1, 0.5))
        assert answer.calibrated == (False, False, False)
        np.testing.assert_array_equal(answer.quantiles[:, 2], longer[:, 4])

    def test_a_point_forecasters_intervals_are_in_its_windows_scale(self) -> None:
        calibration = point_calibration(np.arange(1.0, 100.0)[:, None])
        answer = calibration.spread(np.array([[5.0], [5.0]]), None, np.array([1.0, 10.0]), (0.1, 0.9))
        assert answer.quantiles[:, :, 0].tolist() == [[-75.0, 85.0], [-795.0, 805.0]]

    def test_between_stored_shares_offsets_are_interpolated(self) -> None:
        calibration = point_calibration(np.arange(1.0, 1000.0)[:, None])
        answer = calibration.spread(np.zeros((1, 1)), None, np.ones(1), (0.975, 0.9775, 0.98))
        assert answer.quantiles[0, :, 0] == pytest.approx([950.0, 955.0, 960.0])

    def test_bases(self) -> None:
        assert [base_of(share, DECILES) for share in (0.1, 0.2, 0.5, 0.8, 0.95)] == [0.2, 0.2, 0.6, 0.8, 0.8]
        assert base_of(0.95, ()) == 0.0
        assert base_of(0.95, (0.2, 0.5)) == 0.0, "a level without its mirror is no pair"

    @pytest.mark.parametrize("native", [(), DECILES])
    def test_constant_windows_stay_finite(self, native: tuple[float, ...]) -> None:
        quantiles = np.ones((50, 9, 3)) if native else None
        point, target = np.ones((50, 3)), np.ones((50, 3))
        made = fitted(scores_of(target, point, quantiles, native, np.ones(50)), native)
        answer = made.spread(point, quantiles, np.ones(50), (0.025, 0.975))
        np.testing.assert_array_equal(answer.quantiles, 1.0)


class TestCoverage:
    """Planted noise: what is asked is what comes out, also where the native quantiles are wrong by a factor."""

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("factor", [0.5, 2.0])
    def test_native_quantiles_of_the_wrong_width(self, seed: int, factor: float) -> None:
        rng = np.random.default_rng(seed)
        sizes = rng.uniform(0.5, 20, size=2000)
        noise = sizes[:, None] * rng.normal(size=(2000, 4))
        native = factor * sizes[:, None, None] * NORMAL[None, :, None] * np.ones((1, 1, 4))
        self.check(noise, native[:, 4], native, sizes, DECILES, CQR)

    @pytest.mark.parametrize("seed", range(3))
    def test_points_with_noise_that_grows(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        sizes = rng.uniform(0.5, 20, size=2000)
        noise = sizes[:, None] * rng.standard_t(3, size=(2000, 4)) * np.array([1.0, 2.0, 3.0, 4.0])
        noise[rng.random(noise.shape) < 0.1] = np.nan
        self.check(noise, np.zeros((2000, 4)), None, sizes, (), SCALED_RESIDUALS)

    def check(
        self,
        target: np.ndarray,
        point: np.ndarray,
        native: np.ndarray | None,
        scale: np.ndarray,
        levels: tuple[float, ...],
        method: str,
    ) -> None:
        past, new = slice(0, 1000), slice(1000, 2000)
        known = None if native is None else native[past]
        calibration = fitted(scores_of(target[past], point[past], known, levels, scale[past]), levels)
        assert calibration.method == method
        asked = (0.025, 0.1, 0.9, 0.975)
        answer = calibration.spread(point[new], None if native is None else native[new], scale[new], asked)
        q, y = answer.quantiles, target[new]
        observed = ~np.isnan(y)
        for low, high, share in ((1, 2, 0.8), (0, 3, 0.95)):
            inside = ((q[:, low] <= y) & (y <= q[:, high]))[observed].mean()
            assert inside == pytest.approx(share, abs=0.02)


class TestFile:
    def test_it_reads_back_as_it_was(self) -> None:
        one = point_calibration(np.random.default_rng(0).normal(size=(50, 3)) ** 2)
        native = np.sort(np.random.default_rng(1).normal(size=(50, 9, 3)), axis=1)
        other = fitted(scores_of(native[:, 3], native[:, 4], native, DECILES, np.ones(50)), DECILES)
        read = from_bytes(to_bytes({"tuned": other, "naive": one}))
        assert set(read) == {"tuned", "naive"}
        for name, made in (("tuned", other), ("naive", one)):
            np.testing.assert_array_equal(read[name].offsets, made.offsets)
            np.testing.assert_array_equal(read[name].counts, made.counts)
            assert (read[name].native, read[name].method) == (made.native, made.method)

    def test_its_size_is_what_is_said(self) -> None:
        assert len(SHARES) == 105
        assert (np.diff(SHARES) > 0).all()
        one = point_calibration(np.random.default_rng(0).normal(size=(50, 96)) ** 2)
        assert one.offsets.shape == (105, 96)
        assert one.offsets.dtype == np.float32

    def test_other_shares_are_refused(self) -> None:
        from safetensors.numpy import save

        with pytest.raises(ArtifactError, match="shares"):
            from_bytes(save({"shares": SHARES[:-1]}))
