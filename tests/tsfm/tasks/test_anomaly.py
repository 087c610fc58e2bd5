"""Anomaly scores: planted points are found, normal ones are not, and every answer says what it rests on."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toy
from tests.tsfm.jobs import FAST, HORIZON, TINY, tune
from tests.tsfm.series.frames import frame_of
from tests.tsfm.tasks.asked import detect, scanned
from tsfm import null
from tsfm.artifact import open_artifact
from tsfm.errors import ConfigError, SeriesTooShort, TemperError
from tsfm.finetune import FinetuneResult
from tsfm.null import EDGE, TOGETHER
from tsfm.series.frame import SeriesFrame
from tsfm.tasks.forecast import Forecaster, nulls_for, stored_nulls
from tsfm.tasks.scan import Laid

SCORE = {"task": "anomaly_detection"}
KINDS: dict[str, dict[str, Any]] = {
    "forecast": {**SCORE, "hyperparameters": {**FAST, "max_epochs": 12}},
    "reconstruction": {**SCORE, **TINY, "backbone": "temper-tiny", "scoring": "reconstruction", "context_length": 48},
    "every_patch": {**SCORE, **TINY, "backbone": "moirai-2-small", "context_length": 48, "prediction_length": 16},
}


@pytest.fixture(scope="module")
def tuned(every_task: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FinetuneResult]:
    folder = tmp_path_factory.mktemp("tuned")
    return {kind: tune(every_task, folder / kind, toy.frame(), **asked) for kind, asked in KINDS.items()}


@pytest.fixture(scope="module")
def opened(tuned: dict[str, FinetuneResult]) -> dict[str, Forecaster]:
    return {kind: Forecaster.open(result.out_dir, digest=result.digest) for kind, result in tuned.items()}


def rival(name: str = "window_mean") -> Forecaster:
    return Forecaster.rival(name)


def noise(length: int = 900, *, num_series: int = 1, seed: int = 0) -> SeriesFrame:
    rng = np.random.default_rng(seed)
    return frame_of(*[50 + rng.standard_normal(length) for _ in range(num_series)], freq="D")


def spiked(frame: SeriesFrame, at: list[int], *, by: float = 12.0, series: int = 0) -> SeriesFrame:
    values = frame.values.copy()
    values[frame.offsets[series] + np.array(at)] += by
    return dataclasses.replace(frame, values=values)


class TestPlanted:
    @pytest.mark.parametrize("kind", KINDS)
    def test_spikes_are_found_by_tuned_models(self, opened: dict[str, Forecaster], kind: str) -> None:
        at = [200, 221]
        found = detect(opened[kind], spiked(toy.frame(seed=3), at), size=60).series[0]
        assert set(at) <= set((np.flatnonzero(found.is_anomaly) + found.first).tolist())
        if kind != "reconstruction":  # which sees a spike behind a block, too
            assert set((np.argsort(-np.nan_to_num(found.severity))[:2] + found.first).tolist()) == set(at)
        assert (found.severity[np.array(at) - found.first] > 1).all()

    @pytest.mark.parametrize("name", ["naive", "window_mean", "seasonal_naive"])
    @pytest.mark.parametrize("by", [15.0, -15.0])
    def test_spikes_of_either_sign_are_found_by_rivals(self, name: str, by: float) -> None:
        found = detect(rival(name), spiked(noise(), [830, 860], by=by), size=100).series[0]
        assert {830, 860} <= set((np.flatnonzero(found.is_anomaly) + found.first).tolist())

    def test_normal_points_are_called_anomalies_as_often_as_asked(self) -> None:
        frames = [noise(2_000, seed=seed) for seed in range(20)]
        for level, rate in ((90.0, 0.1), (99.0, 0.01)):
            alarms = [detect(rival(), frame, size=800, level=level).series[0].is_anomaly for frame in frames]
            assert np.mean(alarms) == pytest.approx(rate, abs=0.35 * rate)


class TestDetectionWindow:
    @pytest.mark.parametrize("size", [1, HORIZON, 2 * HORIZON + 1])
    @pytest.mark.parametrize("kind", ["forecast", "reconstruction"])
    def test_exactly_the_newest_points_are_scored(self, opened: dict[str, Forecaster], kind: str, size: int) -> None:
        frame = toy.frame()
        for i, one in enumerate(detect(opened[kind], frame, size=size).series):
            assert (one.index, one.first) == (i, 240 - size)
            assert np.array_equal(one.values, frame.series(i)[-size:], equal_nan=True)
            assert np.array_equal(np.isnan(one.scores), np.isnan(one.values))
            assert len(one.expected) == len(one.lower) == len(one.upper) == len(one.in_sample) == size

    def test_without_one_every_point_with_enough_history_is(self, opened: dict[str, Forecaster]) -> None:
        found = detect(opened["forecast"], toy.frame()).series[0]
        assert (found.first, len(found.scores)) == (32, 240 - 32)

    def test_series_too_short_for_it_are_left_out(self, opened: dict[str, Forecaster]) -> None:
        frame = frame_of(np.arange(240.0), np.arange(35.0), np.arange(30.0))
        assert [one.index for one in detect(opened["forecast"], frame, size=4).series] == [0]
        assert [one.index for one in detect(opened["forecast"], frame).series] == [0, 1]


class TestTheSameAnswer:
    @pytest.mark.parametrize("kind", KINDS)
    def test_of_tuned_models_for_a_series_alone_or_among_others(self, opened: dict[str, Forecaster], kind: str) -> None:
        frame = toy.frame(num_series=5, seed=4)
        together = detect(opened[kind], frame, size=40)
        for i in (0, 3):
            alone = detect(opened[kind], frame.take([i]), size=40).series[0]
            for name in ("scores", "expected", "lower", "upper", "severity"):
                one, other = getattr(alone, name), getattr(together.series[i], name)
                assert one == pytest.approx(other, rel=1e-3, abs=1e-4, nan_ok=True), name

    def test_of_rivals_with_enough_history_of_their_own(self) -> None:
        frame = noise(num_series=3)
        together, alone = detect(rival(), frame, size=50).series[1], detect(rival(), frame.take([1]), size=50).series[0]
        assert np.array_equal(together.p_values, alone.p_values)

    def test_whatever_order_chunks_are_computed_in(self, opened: dict[str, Forecaster]) -> None:
        frame = toy.frame(num_series=8)
        one, other = (detect(opened["reconstruction"], frame, backwards=turned) for turned in (False, True))
        for i in range(8):
            assert np.array_equal(one.series[i].scores, other.series[i].scores, equal_nan=True)

    def test_to_the_same_request(self) -> None:
        """Ties are broken by the place of a point, not by a coin."""
        frame = frame_of(np.tile([1.0, 2.0, 4.0], 200), freq="D")
        one, other = (detect(rival(), frame, level=90.0).series[0] for _ in range(2))
        assert np.array_equal(one.p_values, other.p_values)
        assert len(np.unique(one.p_values)) > 100


class TestConstant:
    @pytest.mark.parametrize("level", [0.0, 5.0, 1e-9, 1e12])
    @pytest.mark.parametrize("name", ["naive", "window_mean"])
    def test_it_raises_no_alarm_and_a_value_that_leaves_it_does(self, name: str, level: float) -> None:
        values = np.full(600, level)
        calm = detect(rival(name), frame_of(values, freq="D"), size=100).series[0]
        assert not calm.is_anomaly.any()
        assert (calm.scores == 0.0).all()
        values[560] = 2 * level + 1e-9
        found = np.flatnonzero(detect(rival(name), frame_of(values, freq="D"), size=100).series[0].is_anomaly)
        assert found[0] == 60
        assert name != "naive" or len(found) == 1, "the mean of a window with a spike in it is no constant any more"

    @pytest.mark.parametrize("scoring", ["forecast", "reconstruction"])
    def test_so_it_is_with_networks(self, scoring: str) -> None:
        values = np.full(600, 7.0)
        values[560] = 7.5
        tiny = Forecaster.zero_shot("temper-tiny")
        found = detect(tiny, frame_of(values, freq="D"), size=100, scoring=scoring, prediction_length=20)
        assert 560 - 500 in np.flatnonzero(found.series[0].is_anomaly).tolist()
        values[560] = 7.0
        calm = detect(tiny, frame_of(values, freq="D"), size=100, scoring=scoring, prediction_length=20)
        assert not calm.series[0].is_anomaly.any()


class TestMissing:
    def test_missing_values_are_not_scored_and_have_an_expectation(self) -> None:
        frame = noise()
        frame.values[880:884] = np.nan
        found = detect(rival(), frame, size=50).series[0]
        gone = np.isin(np.arange(50), np.arange(30, 34))
        for name in ("scores", "p_values", "severity"):
            assert np.array_equal(np.isnan(getattr(found, name)), gone), name
        assert np.isfinite(found.expected).all()
        assert not found.is_anomaly[gone].any()

    def test_a_series_without_any_value_to_score_stands_beside_others(self) -> None:
        frame = noise(num_series=2)
        frame.series(1)[-50:] = np.nan
        found = detect(rival(), frame, size=50)
        assert np.isnan(found.series[1].scores).all()
        assert np.isfinite(found.series[0].scores).all()

    def test_nothing_to_score_at_all_is_refused(self) -> None:
        frame = noise()
        frame.values[-50:] = np.nan
        with pytest.raises(ConfigError) as caught:
            detect(rival(), frame, size=50)
        assert (caught.value.param, caught.value.code) == ("detection_size", "nothing_observed")


class TestRefusals:
    def test_too_short_says_have_and_need(self, opened: dict[str, Forecaster]) -> None:
        for size, need, param in ((None, 33, "series"), (10, 42, "detection_size")):
            with pytest.raises(SeriesTooShort) as caught:
                detect(opened["forecast"], toy.frame(length=need - 1), size=size)
            assert (caught.value.details["have"], caught.value.details["need"]) == (need - 1, need)
            assert caught.value.param == param
            detect(opened["forecast"], toy.frame(length=need), size=size)

    def test_too_short_for_a_null_says_what_is_needed(self) -> None:
        with pytest.raises(SeriesTooShort, match="what is normal") as caught:
            detect(rival(), noise(30), size=10)
        need = caught.value.details["need"]
        assert (caught.value.details["have"], caught.value.param) == (30, "series")
        assert detect(rival(), noise(need), size=10).num_scores >= null.MIN_SCORES

    def test_too_little_of_the_history_is_known(self) -> None:
        frame = noise(400)
        frame.values[:385] = np.nan
        with pytest.raises(SeriesTooShort, match="Of the history only 5 points are known") as caught:
            detect(rival(), frame, size=10)
        assert (caught.value.details["have"], caught.value.details["need"]) == (5, null.MIN_SCORES)

    @pytest.mark.parametrize("level", [49.9, 99.995, 100.0, float("nan")])
    def test_levels_lie_between_fifty_and_99_99(self, level: float) -> None:
        with pytest.raises(ConfigError, match=r"50 to 99\.99") as caught:
            detect(rival(), noise(), level=level)
        assert caught.value.param == "level"
        for allowed in (50.0, 99.99):
            assert detect(rival(), noise(), level=allowed).level == allowed

    def test_a_model_tuned_for_another_task(self, every_task: Path, tmp_path: Path) -> None:
        forecasts = tune(every_task, tmp_path, method="zero_shot", hyperparameters={})
        with pytest.raises(ConfigError, match="tuned for forecast") as caught:
            detect(Forecaster.open(forecasts.out_dir), toy.frame())
        assert caught.value.code == "wrong_task"

    @pytest.mark.parametrize("asked", [{"scoring": "reconstruction"}, {"prediction_length": HORIZON + 1}])
    def test_a_tuned_model_is_asked_as_it_was_calibrated(
        self, opened: dict[str, Forecaster], asked: dict[str, Any]
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            detect(opened["forecast"], toy.frame(), **asked)
        assert caught.value.param == next(iter(asked))

    def test_a_plain_fill_scores_nothing_by_itself(self) -> None:
        with pytest.raises(TemperError) as caught:
            detect(rival("linear_fill"), noise())
        assert (caught.value.param, caught.value.code) == ("model", "wrong_task")


class TestInSample:
    def test_what_a_tuned_version_has_seen_is_marked(self, opened: dict[str, Forecaster]) -> None:
        """Train, validation and calibration end at 192 of 240 hours."""
        for one in detect(opened["forecast"], toy.frame()).series:
            assert np.array_equal(one.in_sample, one.first + np.arange(len(one.scores)) < 192)

    def test_points_of_a_later_time_are_not(self, opened: dict[str, Forecaster]) -> None:
        later = dataclasses.replace(toy.frame(), starts=np.full(3, 192 * 3_600_000_000, dtype=np.int64))
        assert not any(one.in_sample.any() for one in detect(opened["forecast"], later).series)

    def test_nothing_is_for_what_no_job_tuned(self) -> None:
        assert not detect(rival(), noise()).series[0].in_sample.any()


class TestBounds:
    @pytest.mark.parametrize("kind", ["forecast", "reconstruction"])
    def test_they_are_where_the_line_is(self, opened: dict[str, Forecaster], kind: str) -> None:
        found = detect(opened[kind], toy.frame(seed=2), level=90.0).series[0]
        known = ~np.isnan(found.values)
        assert (found.lower <= found.expected).all()
        assert (found.expected <= found.upper).all()
        outside = (found.values < found.lower) | (found.values > found.upper)
        room = np.where(found.values > found.expected, found.upper, found.lower) - found.expected
        clear = known & (np.abs((found.values - found.expected) / room - 1) > 0.02)
        assert np.array_equal(outside[clear], found.is_anomaly[clear])
        assert 0 < outside.mean() < 0.5

    def test_a_higher_level_is_farther_out(self, opened: dict[str, Forecaster]) -> None:
        low, high = (detect(opened["forecast"], toy.frame(), level=level).series[0] for level in (90.0, 97.0))
        assert (high.upper > low.upper).all()
        assert (high.lower < low.lower).all()
        assert np.array_equal(high.expected, low.expected)


class TestSeverity:
    def test_a_job_remembers_at_what_level_its_series_were(self, opened: dict[str, Forecaster]) -> None:
        known, frame = opened["forecast"], toy.frame()
        strangers = dataclasses.replace(frame, item_ids=tuple(f"new-{one}" for one in frame.item_ids))
        for i, (mine, other) in enumerate(
            zip(detect(known, frame).series, detect(known, strangers).series, strict=True)
        ):
            level = known.manifest["levels"][frame.item_ids[i]]
            usual = np.median(mine.upper - mine.lower) / 2
            assert mine.severity - other.severity == pytest.approx(abs(mine.values - level) / 2 / usual, nan_ok=True)
            for name in ("scores", "expected", "lower", "upper"):
                np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))

    def test_what_answers_in_its_place_has_the_job_s_levels(self, opened: dict[str, Forecaster]) -> None:
        job, stand_in = opened["forecast"], Forecaster.zero_shot("temper-tiny")
        facts = job.manifest
        mine = detect(stand_in, toy.frame(), like=facts, nulls=job.nulls).series[0]
        none = detect(stand_in, toy.frame(), like={**facts, "levels": None}, nulls=job.nulls).series[0]
        level = facts["levels"][toy.frame().item_ids[0]]
        usual = np.median(mine.upper - mine.lower) / 2
        assert mine.severity - none.severity == pytest.approx(abs(mine.values - level) / 2 / usual, nan_ok=True)


class TestWhatItRestsOn:
    def test_a_tuned_model_knows_its_own_null(self, opened: dict[str, Forecaster]) -> None:
        found = detect(opened["forecast"], toy.frame(), size=20, level=95.0)
        assert (found.calibrated, found.extrapolated, found.notes) == (True, False, ())
        assert found.num_scores == opened["forecast"].nulls[""].num_scores
        assert found.drift is not None

    def test_others_take_the_history_before_the_window(self) -> None:
        found = detect(rival(), noise(900), size=100, level=99.0)
        assert (found.calibrated, found.extrapolated) == (False, False)
        assert 750 < found.num_scores < 800
        assert found.drift is not None

    def test_where_all_is_asked_all_is_the_null(self) -> None:
        found = detect(rival(), noise(900))
        assert found.drift is None, "points do not drift from themselves"
        assert found.num_scores == len(found.series[0].scores)

    def test_a_level_beyond_it_is_extrapolated_and_said(self) -> None:
        found = detect(rival(), noise(200), size=20, level=99.9)
        assert found.extrapolated
        assert "99.9 needs 1,000" in found.notes[0]

    def test_what_is_asked_for_is_no_part_of_its_own_null(self) -> None:
        calm, odd = (detect(rival(), frame, size=50) for frame in (noise(), spiked(noise(), [855, 890], by=500.0)))
        assert calm.num_scores == odd.num_scores
        assert np.array_equal(calm.series[0].p_values[:5], odd.series[0].p_values[:5])

    def test_a_series_with_too_little_of_its_own_is_measured_by_all(self) -> None:
        frame = noise(110, num_series=4)
        assert detect(rival(), frame, size=20).num_scores > detect(rival(), frame.take([0]), size=20).num_scores


class TestEdge:
    def test_only_the_last_block_is_measured_by_the_null_of_the_edge(self, opened: dict[str, Forecaster]) -> None:
        model, frame = opened["reconstruction"], toy.frame()
        plain = detect(model, frame, size=30).series[0]
        edge = model.nulls[EDGE]
        wider = {**model.nulls, EDGE: dataclasses.replace(edge, units=100 * edge.units)}
        other = detect(model, frame, size=30, nulls=wider).series[0]
        changed = ~np.isclose(plain.upper, other.upper)
        assert np.array_equal(changed, np.arange(30) >= 30 - HORIZON)

    def test_without_a_job_it_is_made_of_history_shown_nothing_behind(self) -> None:
        tiny, how = Forecaster.zero_shot("temper-tiny"), {"scoring": "reconstruction", "prediction_length": 16}
        walk = dataclasses.replace(noise(600), values=noise(600).values.cumsum())
        scanning = scanned(tiny, walk, detection_size=64, **how)
        inner, edge = Laid(scanning.scan, scanning.work, stored={}).nulls(0, 90.0)
        assert inner.num_scores == 600 - 64 - scanning.scan.min_context
        assert null.MIN_SCORES < edge.num_scores <= inner.num_scores, "no block of the detection window is in it"
        assert edge.units[8:].mean() > 1.3 * inner.units[8:].mean(), "far from the only side a walk is known less"


class TestTogether:
    def frame(self) -> SeriesFrame:
        return spiked(toy.frame(seed=5), [225], series=1)

    def test_the_variable_that_is_off_contributes_most(self, opened: dict[str, Forecaster]) -> None:
        joint = detect(opened["forecast"], self.frame(), size=30, level=95.0, together=True).together
        assert joint is not None
        assert (joint.names, joint.first, joint.calibrated) == (("s0", "s1", "s2"), 210, True)
        assert joint.num_scores == opened["forecast"].nulls[TOGETHER].num_scores
        assert joint.scores[15] > 1
        assert joint.contributions[1, 15] > 0.8
        assert joint.contributions.sum(axis=0) == pytest.approx(1.0)

    def test_another_number_of_series_is_measured_by_the_moments_before(self, opened: dict[str, Forecaster]) -> None:
        """The job's null of three series says nothing of two; what is asked for is no null of itself."""
        found = detect(opened["forecast"], self.frame().take([0, 1]), size=30, level=95.0, together=True)
        joint = found.together
        assert joint is not None
        assert (found.calibrated, joint.calibrated) == (True, False)
        assert (joint.first, len(joint.scores)) == (210, 30)
        assert joint.num_scores > 150
        alone = detect(opened["forecast"], self.frame().take([0, 1]), size=30, level=95.0)
        for one, other in zip(found.series, alone.series, strict=True):
            assert one.scores == pytest.approx(other.scores, rel=1e-3, abs=1e-3, nan_ok=True)

    def test_rivals_are_measured_by_the_moments_before(self) -> None:
        frame = spiked(noise(num_series=3), [880], series=2)
        joint = detect(rival(), frame, size=50, together=True).together
        assert joint is not None
        assert (joint.first, len(joint.scores), joint.calibrated) == (850, 50, False)
        assert np.flatnonzero(joint.scores > 1).tolist() == [30]
        assert joint.contributions[2, 30] > 0.9

    def test_series_on_other_clocks_are_refused(self) -> None:
        frame = frame_of(np.arange(300.0), np.arange(280.0))
        with pytest.raises(ConfigError) as caught:
            detect(rival(), frame, together=True)
        assert caught.value.param == "multivariate"


class TestJudgedSources:
    """What a job measured beside its weights answers in that job's setting, with the null it was given there."""

    @pytest.mark.parametrize(
        ("kind", "name", "stored"),
        [
            ("forecast", "naive", "naive"),
            ("forecast", "seasonal_naive", "seasonal_naive:24"),
            ("reconstruction", "linear_fill", "linear_fill"),
            ("reconstruction", "seasonal_fill", "seasonal_fill:24"),
        ],
    )
    def test_rivals(self, tuned: dict[str, FinetuneResult], kind: str, name: str, stored: str) -> None:
        result = tuned[kind]
        nulls = nulls_for(stored, stored_nulls(open_artifact(result.out_dir)))
        source = Forecaster.fallback(result.manifest, name, period=24)
        found = detect(source, spiked(toy.frame(seed=3), [221]), size=30, like=result.manifest, nulls=nulls)
        assert found.calibrated
        assert found.num_scores == nulls[""].num_scores
        assert 221 - 210 in np.flatnonzero(found.series[0].is_anomaly).tolist()
        assert not found.series[0].in_sample.any()

    def test_zero_shot(self, every_task: Path, tuned: dict[str, FinetuneResult]) -> None:
        result = tuned["forecast"]
        nulls = nulls_for("zero_shot", stored_nulls(open_artifact(result.out_dir)))
        source = Forecaster.fallback(result.manifest, "zero_shot", weights_dir=every_task)
        found = detect(source, toy.frame(), size=30, like=result.manifest, nulls=nulls, together=True)
        assert found.calibrated
        assert found.together is not None
        assert found.together.calibrated, "the job measured that one, too"

    @pytest.mark.parametrize(("kind", "name"), [("forecast", "seasonal_naive"), ("reconstruction", "seasonal_fill")])
    def test_a_season_is_that_of_the_job(self, tuned: dict[str, FinetuneResult], kind: str, name: str) -> None:
        manifest = tuned[kind].manifest
        assert Forecaster.fallback(manifest, name).period == manifest["rivals"][name]["period"]
