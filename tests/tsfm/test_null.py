"""The null of anomaly scores: p-values that are uniform on normal points, its tail, its file, and drift."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tsfm import null
from tsfm.errors import ArtifactError
from tsfm.null import Null, Raw, drift, fit_tail, fitted, raw_scores, shown_scores, uniforms
from tsfm.series.windows import place_hash

Floats = NDArray[np.float64]
LEVELS = (90.0, 95.0, 99.0)
NAN = np.nan


def uniform(count: int, *, series: int = 0) -> Floats:
    return uniforms(place_hash(np.full(count, series), np.arange(count)))


def null_of(scores: Floats) -> Null:
    made = fitted(np.asarray(scores, dtype=np.float64)[:, None])
    assert made is not None
    return made


DRAWS = {
    "normal": lambda rng, n: np.abs(rng.standard_normal(n)),
    "heavy": lambda rng, n: np.abs(rng.standard_t(2, n)),
    "ties": lambda rng, n: rng.integers(1, 5, n) / 3.0,
    "half zero": lambda rng, n: np.where(rng.random(n) < 0.5, 0.0, rng.integers(1, 4, n) * 0.1),
}


class TestPValues:
    @pytest.mark.parametrize("kind", DRAWS)
    def test_false_alarms_are_as_many_as_the_level_says(self, kind: str) -> None:
        """Mean over 300 nulls of 200 scores each: the rate is exact for exchangeable scores, ties and all."""
        rng, found = np.random.default_rng(7), {level: [] for level in LEVELS}
        for i in range(300):
            draw = DRAWS[kind](rng, 400)
            known, new = null_of(draw[:200]), draw[200:, None]
            scores = known.in_units(new, np.zeros(new.shape, dtype=np.int64))[:, 0]
            for level in LEVELS:
                p = known.p_values(scores, uniform(200, series=i), level=level)
                found[level].append((shown_scores(p, level=level) > 1.0).mean())
        for level, rates in found.items():
            assert np.mean(rates) == pytest.approx(1 - level / 100, abs=4 * np.std(rates) / math.sqrt(300)), level

    def test_they_are_uniform(self) -> None:
        draw = np.abs(np.random.default_rng(0).standard_normal(40_000))
        known = null_of(draw[:20_000])
        p = known.p_values(draw[20_000:] / known.units[0], uniform(20_000), level=99.0)
        assert np.quantile(p, [0.01, 0.1, 0.5, 0.9]) == pytest.approx([0.01, 0.1, 0.5, 0.9], abs=0.015)

    def test_values_that_float32_does_not_hold_are_still_ties(self) -> None:
        """0.3 is kept as a float32 a little off: a new 0.3 must not count as above, or below, all of them."""
        for value in (0.3, 0.7):
            kept = np.full(200, np.float32(value), dtype=np.float64)
            assert kept[0] != value
            p = Null(units=np.ones(1), scores=kept, count=200).p_values(np.full(500, value), uniform(500), level=99.0)
            assert p.mean() == pytest.approx(0.5, abs=0.05)

    def test_exactly_as_expected_is_never_an_anomaly(self) -> None:
        known = null_of(np.zeros(200))
        for level in (50.0, 99.0, 99.99):
            assert (known.p_values(np.zeros(50), uniform(50), level=level) == 1.0).all()
            assert known.p_values(np.array([1e-3]), np.array([0.5]), level=level)[0] < 1 - level / 100

    def test_missing_stays_missing(self) -> None:
        for count in (30, 300):
            p = null_of(np.arange(1.0, count)).p_values(np.array([NAN, 0.1]), np.array([0.5, 0.5]), level=99.0)
            assert np.isnan(p).tolist() == [True, False]

    def test_a_farther_point_is_never_more_probable(self) -> None:
        known = null_of(np.random.default_rng(1).exponential(size=150))
        scores = np.linspace(0, 30, 400)
        for level in (90.0, 99.0, 99.9):
            assert (np.diff(known.p_values(scores, np.full(400, 0.5), level=level)) <= 0).all()


class TestThreshold:
    @pytest.mark.parametrize("count", [20, 99, 100, 1_000])
    def test_it_agrees_with_the_p_values(self, count: int) -> None:
        known = null_of(np.random.default_rng(count).exponential(size=count))
        for level in (50.0, 90.0, 95.0, 99.0, 99.9):
            line = known.threshold(level)
            rank = np.searchsorted(known.scores, line)
            beyond, within = line * (1 + 1e-6), min(line * (1 - 1e-3), known.scores[max(rank - 2, 0)])
            for score, alarm in ((beyond, True), (within, False)):
                for u in (1e-6, 1 - 1e-6):
                    p = known.p_values(np.array([score]), np.array([u]), level=level)
                    assert bool(shown_scores(p, level=level)[0] > 1.0) is alarm, (level, score, u)

    def test_a_constant_null_has_its_line_at_zero(self) -> None:
        assert null_of(np.zeros(200)).threshold(99.0) == 0.0

    def test_only_what_the_count_allows_is_resolved(self) -> None:
        known = null_of(np.arange(1.0, 101.0))
        assert (known.resolves(99.0), known.resolves(99.5)) == (True, False)


def test_one_is_the_line() -> None:
    for level in LEVELS:
        p = 1 - level / 100
        assert shown_scores(np.array([p, 1.0, p * p]), level=level) == pytest.approx([1.0, 0.0, 2.0])
        assert str(shown_scores(np.array([1.0]), level=level)[0]) == "0.0", "no -0.0"


class TestTail:
    @pytest.mark.parametrize(("kind", "low"), [("exponential", 0.5e-3), ("pareto", 0.5e-3), ("uniform", 0.0)])
    def test_a_level_beyond_the_resolution_keeps_about_its_rate(self, kind: str, low: float) -> None:
        """Of 300 scores the hundredth is read off, the thousandth is not: the mean rate stays within a factor of 3
        (twice, from 30 exceedances); of scores with a sharp bound it is lower."""
        rng, rates = np.random.default_rng(3), []
        for _ in range(100):
            draw = {"exponential": rng.exponential, "pareto": lambda size: rng.pareto(4, size), "uniform": rng.random}
            known = null_of(draw[kind](size=300))
            new = draw[kind](size=20_000) / known.units[0]
            assert not known.resolves(99.9)
            rates.append((known.p_values(new, np.full(20_000, 0.5), level=99.9) < 1e-3).mean())
        assert low <= np.mean(rates) < 3e-3

    @pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3])
    def test_the_shape_is_found(self, shape: float) -> None:
        u = (np.arange(50_000) + 0.5) / 50_000
        scores = -np.log(1 - u) if shape == 0 else ((1 - u) ** -shape - 1) / shape
        tail = fit_tail(np.sort(scores))
        assert tail.shape == pytest.approx(shape, abs=0.03)
        assert tail.share == pytest.approx(0.1, abs=0.001)
        assert tail.score_of(1e-3) == pytest.approx(np.quantile(scores, 0.999), rel=0.02)

    @pytest.mark.parametrize("shape", [-0.4, 0.0, 0.4])
    def test_scores_and_probabilities_are_inverse(self, shape: float) -> None:
        tail = null.Tail(start=2.0, share=0.1, shape=shape, scale=0.7)
        for p in (0.1, 1e-2, 1e-4):
            assert tail.p_values(np.array([tail.score_of(p)]))[0] == pytest.approx(p)

    def test_beyond_a_bounded_tail_the_probability_is_tiny_and_not_zero(self) -> None:
        tail = null.Tail(start=1.0, share=0.1, shape=-0.5, scale=1.0)
        p = tail.p_values(np.array([100.0]))
        assert 0 < p[0] < 1e-200
        assert math.isfinite(shown_scores(p, level=99.0)[0])

    def test_few_exceedances_are_exponential_and_none_are_ties(self) -> None:
        assert fit_tail(np.arange(1.0, 51.0)).shape == 0.0
        ties = fit_tail(np.ones(200))
        assert (ties.start, ties.shape) == (1.0, 0.0)
        assert ties.p_values(np.array([1.1]))[0] < 1e-4


class TestFitted:
    def test_every_step_is_in_its_own_units(self) -> None:
        rng = np.random.default_rng(0)
        raw = np.abs(rng.standard_normal((400, 3))) * np.array([1.0, 10.0, 0.0])
        raw[::7, 1] = NAN
        made = fitted(raw)
        assert made is not None
        assert made.units.tolist() == pytest.approx([raw[:, 0].mean(), np.nanmean(raw[:, 1]), 1.0])
        assert made.count == made.num_scores == (~np.isnan(raw)).sum()
        assert (np.diff(made.scores) >= 0).all()
        assert made.in_units(np.array([2.0, 2.0]), np.array([0, 9]))[1] == 2.0, "steps beyond take the last"

    def test_a_step_that_was_never_observed_takes_the_mean_of_the_others(self) -> None:
        raw = np.full((30, 3), NAN)
        raw[:, 0], raw[:, 2] = 1.0, 3.0
        made = fitted(raw)
        assert made is not None
        assert made.units.tolist() == [1, 2, 3]

    def test_too_few_say_nothing(self) -> None:
        assert fitted(np.ones((null.MIN_SCORES - 1, 1))) is None
        assert fitted(np.ones((null.MIN_SCORES, 1))) is not None

    def test_of_very_many_evenly_spaced_ranks_are_kept(self) -> None:
        draw = np.random.default_rng(0).exponential(size=150_000)
        made = null_of(draw)
        assert (made.num_scores, made.count) == (null.MAX_SCORES, 150_000)
        scaled = draw / made.units[0]
        assert (made.scores[0], made.scores[-1]) == (pytest.approx(scaled.min()), pytest.approx(scaled.max()))
        assert made.threshold(99.0) == pytest.approx(np.quantile(scaled, 0.99), rel=1e-3)


class TestRawScores:
    VALUES = np.array([[3.0, -1.0, 1.0, NAN]])
    EXPECTED = np.ones((1, 4))
    MOVING = np.array([NAN])

    def of(self, band: tuple[Floats, Floats] | None, *, scale: float = 2.0, constant: float = NAN) -> Raw:
        return raw_scores(self.VALUES, self.EXPECTED, band, np.array([scale]), np.array([constant]))

    def test_points_are_measured_by_the_scale_of_the_window(self) -> None:
        assert self.of(None).score[0].tolist() == pytest.approx([1.0, 1.0, 0.0, NAN], nan_ok=True)

    def test_bands_are_measured_by_their_own_side(self) -> None:
        found = self.of((np.zeros((1, 4)), np.full((1, 4), 5.0)))
        assert found.score[0].tolist() == pytest.approx([0.5, 2.0, 0.0, NAN], nan_ok=True)
        assert (found.below[0, 0], found.above[0, 0]) == (1.0, 4.0)

    def test_a_band_without_width_counts_as_a_thousandth_of_the_scale(self) -> None:
        found = self.of((self.EXPECTED, self.EXPECTED))
        assert found.score[0, :2].tolist() == pytest.approx([2.0 / 2e-3, 2.0 / 2e-3])

    def test_rounding_of_float32_is_no_residual(self) -> None:
        near = raw_scores(np.array([[1.0 + 1e-6]]), np.ones((1, 1)), None, np.ones(1), self.MOVING)
        assert near.score.tolist() == [[0.0]]

    def test_a_constant_that_goes_on_scores_nothing_whatever_was_expected(self) -> None:
        """A network says 1.0 after a history of threes; the next three is no anomaly."""
        assert self.of(None, constant=3.0).score[0, 0] == 0.0
        assert self.of((np.zeros((1, 4)), np.full((1, 4), 5.0)), constant=3.0).score[0, 0] == 0.0

    @pytest.mark.parametrize("level", [1e-9, 1.0, 1e12])
    def test_a_value_that_leaves_a_constant_is_scored(self, level: float) -> None:
        values = np.array([[level, level * (1 + 1e-14), 1.01 * level, NAN]])
        found = raw_scores(values, np.full((1, 4), level), None, np.ones(1), np.array([level])).score[0]
        assert found[:2].tolist() == [0.0, 0.0]
        assert found[2] == pytest.approx(0.01 * level)
        assert np.isnan(found[3])


class TestFile:
    def test_there_and_back(self) -> None:
        rng = np.random.default_rng(0)
        made = {"tuned": null_of(rng.exponential(size=50)), "tuned:edge": null_of(np.zeros(30))}
        back = null.from_bytes(null.to_bytes(made))
        assert set(back) == set(made)
        for name, one in made.items():
            assert back[name].count == one.count
            assert np.array_equal(back[name].units, one.units)
            assert np.array_equal(back[name].scores, one.scores), "float32 holds what is kept"

    @pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99])
    def test_a_damaged_file_is_said(self, damage: object) -> None:
        whole = null.to_bytes({"tuned": null_of(np.ones(30))})
        with pytest.raises(ArtifactError, match=null.FILE):
            null.from_bytes(damage(whole))  # type: ignore[operator]

    def test_a_file_without_all_of_a_source_is_said(self) -> None:
        from safetensors.numpy import load, save

        tensors = load(null.to_bytes({"tuned": null_of(np.ones(30))}))
        del tensors["tuned.count"]
        with pytest.raises(ArtifactError, match="count"):
            null.from_bytes(save(tensors))


class TestDrift:
    def test_calm_points_do_not_drift(self) -> None:
        rng = np.random.default_rng(5)
        found = [drift(rng.random(1_000), block=48)["drifted"] for _ in range(200)]
        assert sum(found) <= 2

    @pytest.mark.parametrize("power", [0.5, 3.0])
    def test_a_shifted_sample_drifts(self, power: float) -> None:
        """Larger p-values than uniform ones are drift as well: what is normal has grown calmer."""
        found = drift(np.random.default_rng(0).random(2_000) ** (1 / power), block=48)
        assert found["drifted"] is True
        assert found["points"] == 2_000
        assert abs(found["share_beyond_90"] - 0.1) > 0.05

    def test_points_that_move_together_are_no_evidence_by_themselves(self) -> None:
        """Ten runs of equal p-values, two of them small: a share of 0.2 says little."""
        p = np.repeat([0.01, 0.01, *np.linspace(0.2, 0.9, 8)], 48)
        assert drift(p, block=48)["drifted"] is False
        assert drift(p, block=1)["drifted"] is True

    def test_without_two_blocks_nothing_is_said(self) -> None:
        assert drift(np.full(60, 0.01), block=48)["drifted"] is None
        assert drift(np.full(60, NAN), block=2) == {
            "points": 0,
            "share_beyond_90": None,
            "standard_error": None,
            "drifted": None,
        }


def test_uniforms_are_above_zero_and_at_most_one() -> None:
    ends = uniforms(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert 0.0 < ends[0] < 1e-15
    assert 1 - 1e-15 < ends[1] <= 1.0
