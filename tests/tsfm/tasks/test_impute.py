"""Filling gaps: what is observed stays, what is missing is filled from both sides, and intervals hold what they say."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toy
from tests.tsfm.jobs import FAST, HORIZON, TINY, tune
from tests.tsfm.series.frames import frame_of
from tests.tsfm.tasks.asked import fill, filling
from tsfm.artifact import open_artifact, write_artifact
from tsfm.calibration import SHARES
from tsfm.errors import ConfigError, DataError
from tsfm.evaluate import Asked
from tsfm.evaluate import rival as rival_of
from tsfm.finetune import FinetuneResult
from tsfm.mixture import Mixture
from tsfm.series.frame import SeriesFrame
from tsfm.series.windows import Around, WindowBatch, gather
from tsfm.tasks.forecast import Forecaster, stored_calibrations
from tsfm.tasks.impute import MIN_TRIAL_SPANS, Imputer, gaps_of
from tsfm.tasks.sources import FillSource

NAN = np.nan
FILL = {"task": "imputation"}
KINDS: dict[str, dict[str, Any]] = {
    "by forecasts": {**FILL, "hyperparameters": {**FAST, "max_epochs": 8}, "refit": True},
    "natively": {**FILL, **TINY, "backbone": "temper-tiny", "context_length": 48},
}
LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module")
def tuned(every_task: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FinetuneResult]:
    folder = tmp_path_factory.mktemp("tuned")
    return {kind: tune(every_task, folder / kind, toy.frame(), **asked) for kind, asked in KINDS.items()}


@pytest.fixture(scope="module")
def opened(tuned: dict[str, FinetuneResult]) -> dict[str, Forecaster]:
    return {kind: Forecaster.open(result.out_dir, digest=result.digest) for kind, result in tuned.items()}


@pytest.fixture(scope="module")
def tiny() -> Forecaster:
    return Forecaster.zero_shot("temper-tiny")


def rival(name: str = "linear_fill") -> Forecaster:
    return Forecaster.rival(name)


def whole(num_series: int = 3, *, length: int = 240, seed: int = 8) -> SeriesFrame:
    """A toy's frame without missing values."""
    frame = toy.frame(num_series=num_series, length=length, seed=seed)
    gaps = np.isnan(frame.values)
    frame.values[gaps] = np.interp(np.flatnonzero(gaps), np.flatnonzero(~gaps), frame.values[~gaps])
    return frame


def holed(frame: SeriesFrame, *gaps: tuple[int, int, int]) -> SeriesFrame:
    """Without `steps` points of `series` from `first` on."""
    values = frame.values.copy()
    for series, first, steps in gaps:
        values[frame.offsets[series] + first :][:steps] = NAN
    return dataclasses.replace(frame, values=values)


class TestGapsOf:
    def test_every_run_of_missing_points_is_one(self) -> None:
        frame = frame_of([NAN, NAN, 1, 2, NAN], [NAN, 3, NAN, NAN, 4], [NAN, NAN], [5.0])
        found = np.stack(gaps_of(frame), axis=1).tolist()
        assert found == [[0, 0, 2], [0, 4, 1], [1, 0, 1], [1, 2, 2], [2, 0, 2]]

    def test_none_is_none(self) -> None:
        assert all(len(part) == 0 for part in gaps_of(frame_of([1.0, 2.0], [3.0])))

    def test_runs_end_with_their_series(self) -> None:
        assert np.stack(gaps_of(frame_of([1.0, NAN], [NAN, 2.0])), axis=1).tolist() == [[0, 1, 1], [1, 0, 1]]


class TestValues:
    @pytest.mark.parametrize("kind", KINDS)
    def test_observed_values_come_back_untouched_and_all_others_are_filled(
        self, opened: dict[str, Forecaster], kind: str
    ) -> None:
        frame = holed(toy.frame(), (0, 50, 6), (1, 0, 3), (2, 237, 3))
        found = fill(opened[kind], frame, LEVELS)
        known = ~np.isnan(frame.values)
        assert np.array_equal(found.values[known], frame.values[known])
        assert np.isfinite(found.values).all()
        assert all(gap.filled for gap in found.gaps)
        assert sum(gap.length for gap in found.gaps) == (~known).sum()
        assert found.quantiles is not None
        assert np.array_equal(np.isnan(found.quantiles), np.broadcast_to(known, found.quantiles.shape))

    def test_the_frame_that_was_given_is_not_written_to(self) -> None:
        frame = holed(whole(1), (0, 50, 6))
        fill(rival(), frame)
        assert np.isnan(frame.values).sum() == 6

    def test_a_line_is_filled_exactly(self) -> None:
        frame = holed(frame_of(np.arange(60.0), 100 - 3 * np.arange(60.0)), (0, 20, 7), (1, 30, 1))
        found = fill(rival(), frame)
        assert found.values == pytest.approx(np.concatenate([np.arange(60.0), 100 - 3 * np.arange(60.0)]), abs=1e-4)
        assert (found.quantiles, found.calibrated, found.notes) == (None, False, ())

    def test_a_season_is_filled_exactly(self) -> None:
        season = np.random.default_rng(0).standard_normal(24)
        frame = holed(frame_of(np.tile(season, 8)), (0, 60, 30))
        assert fill(rival("seasonal_fill"), frame).values == pytest.approx(np.tile(season, 8), abs=1e-5)

    def test_tuning_beats_the_line_on_a_sine(self, opened: dict[str, Forecaster]) -> None:
        truth = whole(seed=3)
        gaps = [(i, first, 6) for i in range(3) for first in range(40, 230, 17)]
        frame = holed(truth, *gaps)
        gone = np.isnan(frame.values)
        error = {
            name: np.abs(fill(source, frame).values - truth.values)[gone].mean()
            for name, source in (("tuned", opened["by forecasts"]), ("line", rival()))
        }
        assert error["tuned"] < error["line"]

    def test_nothing_missing_is_nothing_to_do(self, tiny: Forecaster) -> None:
        found = fill(tiny, whole(2), LEVELS)
        assert (found.gaps, found.notes, found.calibrated) == ((), (), False)
        assert np.array_equal(found.values, whole(2).values)


class TestEnds:
    @pytest.mark.parametrize("kind", KINDS)
    def test_gaps_at_either_end_are_filled_from_one_side_and_said(
        self, opened: dict[str, Forecaster], kind: str
    ) -> None:
        found = fill(opened[kind], holed(whole(), (0, 0, 4), (1, 236, 4), (2, 100, 4)), LEVELS)
        assert [(gap.first, gap.one_sided, gap.calibrated) for gap in found.gaps] == [
            (0, True, False),
            (236, True, False),
            (100, False, True),
        ]
        assert not found.calibrated
        assert any("2 gaps at the beginning or end" in note for note in found.notes)

    def test_the_nearest_value_goes_on(self) -> None:
        frame = frame_of([NAN, NAN, 5.0, 6.0, 7.0, NAN])
        assert fill(rival(), frame).values == pytest.approx(np.array([5, 5, 5, 6, 7, 7]))

    def test_a_gap_at_the_beginning_is_the_mirror_of_one_at_the_end(self, opened: dict[str, Forecaster]) -> None:
        """Filled by forecasts from one side: turned round, the same numbers, and intervals that grow inwards."""
        values = whole(1).values
        ends = fill(opened["by forecasts"], frame_of([*values[:200], *[NAN] * 5]), LEVELS)
        begins = fill(opened["by forecasts"], frame_of([*[NAN] * 5, *values[:200][::-1]]), LEVELS)
        assert begins.values[:5][::-1] == pytest.approx(ends.values[200:], rel=1e-4)
        assert begins.quantiles is not None
        assert ends.quantiles is not None
        assert begins.quantiles[:, :5][:, ::-1] == pytest.approx(ends.quantiles[:, 200:], rel=1e-4)


class TestLeft:
    def test_a_series_without_any_value_is_left_and_said(self, tiny: Forecaster) -> None:
        frame = holed(whole(2, length=120), (0, 30, 3), (1, 0, 120))
        found = fill(tiny, frame)
        assert np.isfinite(found.values[:120]).all()
        assert np.isnan(found.values[120:]).all()
        assert [gap.filled for gap in found.gaps] == [True, False]
        assert any("1 gaps were left" in note for note in found.notes)

    def test_no_value_at_all_is_refused(self) -> None:
        with pytest.raises(DataError) as caught:
            fill(rival(), frame_of([NAN, NAN], [NAN]))
        assert (caught.value.code, caught.value.param) == ("nothing_observed", "series")

    def test_a_gap_longer_than_can_be_filled_is_named(self, tiny: Forecaster) -> None:
        frame = holed(whole(2, length=600), (1, 50, 481), (0, 10, 2))
        with pytest.raises(DataError) as caught:
            fill(tiny, frame)
        assert (caught.value.code, caught.value.param) == ("gap_too_long", "series")
        assert "up to 480 points" in caught.value.message
        assert "'s1' from 1970-01-03" in caught.value.message
        assert "(481 points)" in caught.value.message

    def test_or_left_where_that_is_asked(self, tiny: Forecaster) -> None:
        frame = holed(whole(2, length=600), (1, 50, 481), (0, 10, 2))
        found = fill(tiny, frame, long_gaps="leave")
        assert [gap.filled for gap in found.gaps] == [True, False]
        assert np.isnan(found.values).sum() == 481

    def test_plain_fills_know_no_limit(self) -> None:
        found = fill(rival(), holed(whole(1, length=3_000), (0, 50, 2_800)))
        assert np.isfinite(found.values).all()

    @pytest.mark.parametrize("name", ["naive", "seasonal_naive", "window_mean"])
    def test_what_only_forecasts_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match="use linear_fill, seasonal_fill") as caught:
            fill(rival(name), whole())
        assert caught.value.code == "wrong_task"

    def test_a_model_tuned_for_another_task_is_refused(self, every_task: Path, tmp_path: Path) -> None:
        forecasts = tune(every_task, tmp_path, method="zero_shot", hyperparameters={})
        with pytest.raises(ConfigError, match="tuned for forecast") as caught:
            fill(Forecaster.open(forecasts.out_dir), whole())
        assert caught.value.code == "wrong_task"


class TestTheSameAnswer:
    @pytest.mark.parametrize("kind", KINDS)
    def test_of_tuned_models_for_a_gap_alone_or_among_others(self, opened: dict[str, Forecaster], kind: str) -> None:
        """Among longer ones, at the ends and inside: neither the fill nor its interval changes."""
        few = [(0, 60, 2), (1, 0, 2)]
        more = [*few, (2, 100, 6), (2, 50, 9), (0, 228, 12)]
        one, other = (fill(opened[kind], holed(whole(), *gaps), LEVELS) for gaps in (few, more))
        assert one.quantiles is not None
        assert other.quantiles is not None
        for at in (slice(60, 62), slice(240, 242)):
            assert one.values[at] == pytest.approx(other.values[at], rel=1e-4)
            assert one.quantiles[:, at] == pytest.approx(other.quantiles[:, at], rel=1e-4)

    def test_of_the_same_gap_whatever_lies_in_other_series(self, opened: dict[str, Forecaster]) -> None:
        frame = holed(whole(), (0, 60, 4))
        together = fill(opened["by forecasts"], frame, LEVELS)
        alone = fill(opened["by forecasts"], frame.take([0]), LEVELS)
        assert alone.values == pytest.approx(together.values[:240], rel=1e-6)


class TestIntervals:
    def covered(self, found: Any, truth: np.ndarray, gone: np.ndarray) -> float:
        low, high = found.quantiles[0][gone], found.quantiles[-1][gone]
        return float(((low <= truth[gone]) & (truth[gone] <= high)).mean())

    @pytest.mark.parametrize("kind", KINDS)
    def test_they_are_ordered_and_hold_the_fill(self, opened: dict[str, Forecaster], kind: str) -> None:
        found = fill(opened[kind], holed(whole(), (0, 60, 6), (1, 0, 3), (2, 50, 9)), (0.9, 0.1, 0.5, 0.25))
        assert found.quantiles is not None
        gone = ~np.isnan(found.quantiles[0])
        assert gone.sum() == 18
        ascending = found.quantiles[[1, 3, 2, 0]][:, gone]
        assert (np.diff(ascending, axis=0) >= 0).all()
        assert ((ascending[0] <= found.values[gone]) & (found.values[gone] <= ascending[-1])).all()

    @pytest.mark.parametrize("name", ["linear_fill", "seasonal_fill"])
    def test_rivals_cover_gaps_of_simulated_walks_as_asked(self, name: str) -> None:
        """Conformal over spans of the same series that are hidden on trial."""
        rng, inside = np.random.default_rng(0), []
        for _ in range(6):
            truth = frame_of(rng.standard_normal(1_500).cumsum(), freq="D")
            frame = holed(truth, *[(0, first, 5) for first in range(60, 1_440, 60)])
            inside.append(self.covered(fill(rival(name), frame, (0.1, 0.9)), truth.values, np.isnan(frame.values)))
        assert np.mean(inside) == pytest.approx(0.8, abs=0.06)

    @pytest.mark.parametrize("kind", KINDS)
    def test_tuned_models_cover_what_they_have_not_seen(self, opened: dict[str, Forecaster], kind: str) -> None:
        truth = whole(3, length=900, seed=21)
        frame = holed(truth, *[(i, first, 4) for i in range(3) for first in range(60, 880, 41)])
        found = fill(opened[kind], frame, (0.1, 0.9))
        assert found.calibrated
        covered = self.covered(found, truth.values, np.isnan(frame.values))
        assert 0.72 < covered < 0.96, "calibrated beside more missing values than here: wide rather than narrow"

    def test_they_are_wider_inside_a_gap_than_at_its_edges(self) -> None:
        frame = holed(frame_of(np.random.default_rng(0).standard_normal(2_000).cumsum(), freq="D"), (0, 900, 21))
        found = fill(rival(), frame, (0.1, 0.9))
        assert found.quantiles is not None
        width = (found.quantiles[1] - found.quantiles[0])[900:921]
        assert width[10] > 1.5 * width[0]
        assert width[10] > 1.5 * width[-1]

    @pytest.mark.parametrize("steps", [40, 120])
    def test_long_gaps_of_long_series_have_some(self, steps: int) -> None:
        frame = holed(frame_of(np.random.default_rng(0).standard_normal(6_000).cumsum(), freq="D"), (0, 3_000, steps))
        found = fill(rival(), frame, (0.1, 0.9))
        assert found.quantiles is not None, found.notes
        assert np.isfinite(found.quantiles[:, 3_000 : 3_000 + steps]).all()

    def test_too_little_observed_has_none_and_says_so(self) -> None:
        found = fill(rival(), frame_of([1.0, NAN, NAN, 2.0, NAN, 3.0]), (0.1, 0.9))
        assert found.quantiles is None
        assert np.isfinite(found.values).all()
        assert any("No intervals" in note for note in found.notes)


class TestCalibrated:
    def test_gaps_within_the_tuned_length_are(self, opened: dict[str, Forecaster]) -> None:
        found = fill(opened["by forecasts"], holed(whole(), (0, 60, 6), (1, 80, 1)), (0.1, 0.9))
        assert found.calibrated
        assert all(gap.calibrated for gap in found.gaps)
        assert found.notes == ()

    def test_longer_ones_are_filled_and_said(self, opened: dict[str, Forecaster]) -> None:
        found = fill(opened["by forecasts"], holed(whole(), (0, 60, 7), (1, 80, 2)), (0.1, 0.9))
        assert [gap.calibrated for gap in found.gaps] == [False, True]
        assert not found.calibrated
        assert found.notes == ("1 gaps are longer than the 6 steps the model was tuned for.",)

    def test_levels_beyond_the_scores_are_not(self, opened: dict[str, Forecaster]) -> None:
        found = fill(opened["by forecasts"], holed(whole(), (0, 60, 6)), (0.00001, 0.5))
        assert not found.calibrated
        assert found.quantiles is not None

    def test_without_levels_nothing_is_said_to_be(self, opened: dict[str, Forecaster]) -> None:
        found = fill(opened["by forecasts"], holed(whole(), (0, 60, 6)))
        assert (found.calibrated, found.quantiles) == (False, None)

    def test_what_no_job_calibrated_says_where_its_intervals_come_from(self) -> None:
        found = fill(rival(), holed(whole(), (0, 60, 6)), (0.1, 0.9))
        assert not found.calibrated
        assert any("hidden on trial" in note for note in found.notes)

    def test_a_refit_has_intervals_of_trials(self, tuned: dict[str, FinetuneResult]) -> None:
        """No block was left to calibrate it with; how it mixes is still what validation chose."""
        again = tuned["by forecasts"].refit
        assert again is not None
        done = filling(Forecaster.open(again.out_dir), holed(whole(), (0, 60, 6)), (0.1, 0.9))
        found = done.finish()
        assert found.quantiles is not None
        assert not found.calibrated
        assert done.trials is not None
        assert found.notes == ("Intervals are conformal over observed spans of the given series, hidden on trial.",)
        assert isinstance(done.source, FillSource)
        assert done.source.mixture == Mixture.stored(tuned["by forecasts"].manifest["fill"], "tuned")

    def test_where_trials_are_too_few_a_network_says_that_its_intervals_are_its_own(self, tiny: Forecaster) -> None:
        found = fill(tiny, frame_of([1.0, 2.0, NAN, 4.0, 5.0, 4.0, 3.0]), (0.1, 0.9))
        assert found.quantiles is not None
        assert any("temper-tiny's own" in note for note in found.notes)

    def test_few_stored_scores_are_used(self, opened: dict[str, Forecaster]) -> None:
        """Five scores a step resolve 80 %: what is called calibrated is."""
        model = opened["by forecasts"]
        assert model.calibration is not None
        wide = np.where(SHARES[:, None] <= 5 / 6, 50.0, NAN).repeat(HORIZON // 2, axis=1).astype(np.float32)
        few = dataclasses.replace(model.calibration, offsets=wide, counts=np.full(HORIZON // 2, 5))
        found = fill(model, holed(whole(), (0, 60, 6)), (0.1, 0.9), calibration=few)
        assert found.calibrated
        assert found.quantiles is not None
        assert (found.quantiles[1] - found.quantiles[0])[60:66].min() > 20


class TestServedAsJudged:
    """On the same gap a source says the same to the job that judges it and to the request that it answers."""

    GAP = (1, 120, HORIZON)

    def batch(self, context_length: int) -> WindowBatch:
        frame = whole()
        around = Around(length=context_length, limits=frame.lengths, period=24)
        where = (np.array([self.GAP[0]]), np.array([self.GAP[1]]))
        return gather(frame, *where, context_length=context_length, prediction_length=HORIZON, around=around)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("name", ["tuned", "linear_fill", "seasonal_fill"])
    def test_values(
        self, tuned: dict[str, FinetuneResult], opened: dict[str, Forecaster], kind: str, name: str
    ) -> None:
        manifest = tuned[kind].manifest
        if name == "tuned":
            asked = Asked(source=Imputer.of(opened[kind], freq="h").source, context_length=manifest["context_length"])
            found = fill(opened[kind], holed(whole(), self.GAP))
        else:
            asked = rival_of(name, context_length=manifest["context_length"], period=24)
            found = fill(Forecaster.fallback(manifest, name, period=24), holed(whole(), self.GAP), like=manifest)
        judged = asked.source(self.batch(asked.context_length), HORIZON)
        assert found.values[360:366] == pytest.approx(judged.point[0], rel=1e-5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_intervals_of_plain_fills_are_in_the_scale_they_were_calibrated_in(
        self, tuned: dict[str, FinetuneResult], kind: str
    ) -> None:
        manifest = tuned[kind].manifest
        stored = stored_calibrations(open_artifact(tuned[kind].out_dir))["linear_fill"]
        source, how = Forecaster.fallback(manifest, "linear_fill"), {"like": manifest, "calibration": stored}
        found = fill(source, holed(whole(), self.GAP), (0.9,), **how)
        offset = stored.offsets[79, 0] * self.batch(manifest["context_length"]).scale[0]
        assert found.quantiles is not None
        assert found.quantiles[0, 360] - found.values[360] == pytest.approx(offset, rel=1e-4)


class TestMixture:
    def test_a_tuned_version_and_its_refit_fill_in_the_mixture_of_validation(
        self, tuned: dict[str, FinetuneResult]
    ) -> None:
        result = tuned["by forecasts"]
        assert result.refit is not None
        for folder in (result.out_dir, result.refit.out_dir):
            imputer = Imputer.of(Forecaster.open(folder), freq="h")
            assert isinstance(imputer.source, FillSource)
            assert imputer.source.mixture == Mixture.stored(result.manifest["fill"], "tuned")
            assert (imputer.source.mixture.period, imputer.guess) == (24, result.manifest["fill"]["guess"])

    def test_zero_shot_fills_as_it_was_judged(self, every_task: Path, tuned: dict[str, FinetuneResult]) -> None:
        result = tuned["by forecasts"]
        source = Forecaster.fallback(result.manifest, "zero_shot", weights_dir=every_task)
        stored = stored_calibrations(open_artifact(result.out_dir))["zero_shot"]
        imputer = Imputer.of(source, freq="h", like=result.manifest, calibration=stored)
        assert isinstance(imputer.source, FillSource)
        assert imputer.source.mixture == Mixture.stored(result.manifest["fill"], "zero_shot")
        found = fill(source, holed(whole(), (0, 60, 6)), (0.1, 0.9), like=result.manifest, calibration=stored)
        assert found.calibrated

    @pytest.mark.parametrize("name", ["linear_fill", "seasonal_fill"])
    def test_so_do_plain_fills(self, tuned: dict[str, FinetuneResult], name: str) -> None:
        result = tuned["by forecasts"]
        stored = stored_calibrations(open_artifact(result.out_dir))
        calibration = stored[name if name == "linear_fill" else "seasonal_fill:24"]
        source = Forecaster.fallback(result.manifest, name, period=24)
        found = fill(source, holed(whole(), (0, 60, 6)), (0.1, 0.9), like=result.manifest, calibration=calibration)
        assert found.calibrated

    def test_an_older_artifact_fills_with_its_one_share(self, tuned: dict[str, FinetuneResult], tmp_path: Path) -> None:
        result = tuned["by forecasts"]
        old = {**result.manifest, "fill": {"period": 24, "shares": {"tuned": 1.0, "zero_shot": 0.0}}}
        files = open_artifact(result.out_dir).manifest["files"]
        write_artifact(tmp_path / "old", {name: (result.out_dir / name).read_bytes() for name in files}, old, "")
        frame = holed(whole(), (0, 60, 6))
        found = fill(Forecaster.open(tmp_path / "old"), frame)
        plain = fill(Forecaster.rival("seasonal_fill"), frame)
        assert found.values == pytest.approx(plain.values, rel=1e-5)

    def test_what_is_not_tuned_finds_its_mixture_on_trial(self, tiny: Forecaster) -> None:
        """A season that repeats exactly: the plain fills take over from the network."""
        season = 10 * np.random.default_rng(0).standard_normal(24)
        done = filling(tiny, holed(frame_of(np.tile(season, 20)), (0, 200, 5)))
        assert isinstance(done.source, FillSource)
        assert np.array(done.source.mixture.weights)[:, 2:].sum(axis=1).tolist() == [1.0, 1.0, 1.0]
        assert done.guess == 24
        assert isinstance(done.imputer.source, FillSource)
        assert done.imputer.source.mixture.is_network_alone, "the opened one is shared by requests"

    def test_what_hardly_moves_is_guessed_and_filled_by_lines(self, tiny: Forecaster) -> None:
        """Straight from one day's level to the next: no season says more than the neighbours."""
        days = np.random.default_rng(0).standard_normal(21).cumsum()
        slopes = frame_of(np.interp(np.arange(480), 24 * np.arange(21), days))
        frame = holed(slopes, *[(0, first, 4) for first in range(30, 450, 40)])
        done = filling(tiny, frame)
        assert isinstance(done.source, FillSource)
        assert done.guess == 1
        assert done.source.mixture.weights[0] == (0.0, 1.0, 0.0, 0.0)
        gone = np.isnan(frame.values)
        assert np.abs(done.finish().values - slopes.values)[gone].max() < 0.3

    def test_where_much_is_missing_shorter_spans_are_hidden_on_trial(self, tiny: Forecaster) -> None:
        """No span is as long as the longest gap: shorter ones still say how the network is mixed."""
        gone = [(0, first, 8) for first in range(8, 470, 16)]
        done = filling(tiny, holed(whole(1, length=480), *gone, (0, 200, 32)))
        assert done.trials is not None
        assert 1 < done.trials.prediction_length <= 8
        assert len(done.trials) >= MIN_TRIAL_SPANS
