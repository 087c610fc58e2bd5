"""What a job calibrates, measures and stores; and that calibrating reads the calibration block alone."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toy
from tsfm import calibration, finetune
from tsfm.artifact import open_artifact
from tsfm.calibrate import fit, measure
from tsfm.errors import Cancelled, ConfigError
from tsfm.finetune import FinetuneRequest, FinetuneResult
from tsfm.metrics import scales_of
from tsfm.rivals import history_needed
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split
from tsfm.series.windows import Windows, cut
from tsfm.tasks.forecast import Forecaster, RivalSource, stored_calibrations

HORIZON = 6


def tune(weights_dir: Path, out: Path, frame: SeriesFrame, **asked: Any) -> FinetuneResult:
    request = {
        "backbone": "toy",
        "method": "full",
        "prediction_length": HORIZON,
        "hyperparameters": {"learning_rate": 1e-2, "max_epochs": 1, "batch_size": 32},
        **asked,
    }
    return finetune.run(
        FinetuneRequest.from_mapping(request),
        frame,
        weights_dir=weights_dir,
        state_dir=out / "state",
        out_dir=out / "artifact",
        report=lambda _: None,
        should_stop=lambda: None,
    )


@pytest.fixture(scope="module")
def tuned(toy_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    return tune(toy_weights, tmp_path_factory.mktemp("tuned"), toy.frame(length=400))


def changed(frame: SeriesFrame, *, block: Block) -> SeriesFrame:
    """Other values in one block alone."""
    blocks = split(frame, context_length=32, prediction_length=HORIZON, patch_length=4)
    values, rng = frame.values.copy(), np.random.default_rng(5)
    begins, ends = blocks.block(block)
    for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        part = values[frame.offsets[i] + begin : frame.offsets[i] + end]
        part[:] = 1e3 * rng.standard_normal(len(part))
    return dataclasses.replace(frame, values=values)


class TestWhatAJobSays:
    def test_coverage_width_and_pinball_are_measured_on_test(self, tuned: FinetuneResult) -> None:
        found = tuned.calibration
        assert found is not None
        assert found == tuned.manifest["calibration"]
        assert found["method"] == "cqr"
        windows = tuned.data_report["windows"]["calibration"]
        assert (found["num_windows"], found["stride"]) == (windows["num_windows"], windows["stride"])
        assert 0 < found["num_scores"] <= found["num_windows"]
        assert set(found["coverage"]) == set(found["width"]) == {"80", "95"}
        assert 0.5 < found["coverage"]["80"] < found["coverage"]["95"] <= 1
        assert 0 < found["width"]["80"] < found["width"]["95"]
        assert found["pinball"]["calibrated"] < 1.5 * found["pinball"]["uncalibrated"]
        json.dumps(tuned.to_mapping(), allow_nan=False)

    def test_every_source_has_its_own(self, tuned: FinetuneResult) -> None:
        assert tuned.calibration is not None
        stored = stored_calibrations(open_artifact(tuned.out_dir, tuned.digest))
        assert set(stored) == {"tuned", *tuned.calibration["sources"]}
        assert {"zero_shot", "naive", "window_mean", "seasonal_naive:24"} <= set(stored)
        methods = {name: one.method for name, one in stored.items()}
        assert {methods.pop(name) for name in ("tuned", "zero_shot")} == {"cqr"}
        assert set(methods.values()) == {"scaled_residuals"}
        offsets = [one.offsets.tobytes() for one in stored.values()]
        assert len(set(offsets)) == len(offsets)
        assert {one.offsets.shape for one in stored.values()} == {(105, HORIZON)}

    def test_without_a_test_block_it_calibrates_and_measures_nothing(self, toy_weights: Path, tmp_path: Path) -> None:
        found = tune(toy_weights, tmp_path, toy.frame(), with_test=False)
        assert found.calibration is not None
        assert (found.calibration["coverage"], found.calibration["width"]) == (None, None)
        assert found.calibration["num_scores"] > 0
        answer = Forecaster.open(found.out_dir).predict(toy.frame(), HORIZON, (0.2, 0.8))
        assert answer.calibrated

    def test_a_stop_is_seen(self, toy_weights: Path) -> None:
        source, windows = zero_shot(toy_weights, toy.frame())
        with pytest.raises(Cancelled):
            fit(source, windows, should_stop=lambda: "cancel")


class TestLeakage:
    def test_test_and_validation_reach_no_offset_and_calibration_reaches_every_one(
        self, toy_weights: Path, tmp_path: Path
    ) -> None:
        frame = toy.frame()
        asked = {"method": "zero_shot", "hyperparameters": {}}
        runs = {
            name: tune(toy_weights, tmp_path / name, one, **asked)
            for name, one in (
                ("plain", frame),
                ("test", changed(frame, block=Block.TEST)),
                ("calibration", changed(frame, block=Block.CALIBRATION)),
            )
        }
        files = {name: (run.out_dir / calibration.FILE).read_bytes() for name, run in runs.items()}
        assert files["plain"] == files["test"]
        assert files["plain"] != files["calibration"]
        coverages = {str(run.calibration and run.calibration["coverage"]) for run in runs.values()}
        assert len(coverages) == 3, "all of them are measured on test"


def zero_shot(weights_dir: Path, frame: SeriesFrame) -> tuple[Any, Windows]:
    blocks = split(frame, context_length=32, prediction_length=HORIZON, patch_length=4)
    windows = cut(frame, blocks, Block.CALIBRATION, context_length=32, prediction_length=HORIZON)
    return Forecaster.zero_shot("toy", weights_dir=weights_dir).source_for(frame)[0], windows


class TestForecasts:
    def test_levels_beyond_the_native_ones_are_answered_and_calibrated(self, tuned: FinetuneResult) -> None:
        forecaster = Forecaster.open(tuned.out_dir, digest=tuned.digest)
        frame = toy.frame()
        found = forecaster.predict(frame, HORIZON, (0.025, 0.1, 0.5, 0.9, 0.975))
        assert found.quantiles is not None
        assert found.calibrated
        assert found.uncalibrated_levels == ()
        assert found.notes == ()
        assert (np.diff(found.quantiles, axis=1) >= 0).all()
        np.testing.assert_array_equal(found.quantiles[:, 2], found.point)
        native = Forecaster.open(tuned.out_dir)
        native.calibration = None
        plain = native.predict(frame, HORIZON, (0.1, 0.9)).quantiles
        assert plain is not None
        assert np.abs(found.quantiles[:, 1] - plain[:, 0]).max() > 1e-3, "calibration changed something"

    def test_what_the_scores_do_not_resolve_says_so_level_by_level(self, tuned: FinetuneResult) -> None:
        found = Forecaster.open(tuned.out_dir).predict(toy.frame(), HORIZON, (0.0001, 0.1, 0.9))
        assert not found.calibrated
        assert found.uncalibrated_levels == (0.0001,)
        assert "0.0001" in found.notes[0]

    def test_beyond_the_tuned_horizon_nothing_is_calibrated(self, tuned: FinetuneResult) -> None:
        found = Forecaster.open(tuned.out_dir).predict(toy.frame(), HORIZON + 1, (0.1, 0.975))
        assert not found.calibrated
        assert found.uncalibrated_levels == (0.1, 0.975)
        assert found.quantiles is not None
        assert np.isfinite(found.quantiles).all()
        assert any("6 steps" in note for note in found.notes)

    def test_shorter_is_the_beginning_and_calibrated(self, tuned: FinetuneResult) -> None:
        forecaster = Forecaster.open(tuned.out_dir)
        whole, short = (forecaster.predict(toy.frame(), h, (0.025, 0.9)) for h in (HORIZON, 2))
        assert whole.quantiles is not None
        assert short.calibrated
        np.testing.assert_array_equal(short.quantiles, whole.quantiles[..., :2])

    def test_series_keep_their_intervals_whatever_stands_beside_them(self, tuned: FinetuneResult) -> None:
        forecaster = Forecaster.open(tuned.out_dir)
        frame = toy.frame()
        together = forecaster.predict(frame, HORIZON, (0.025, 0.975)).quantiles
        turned = forecaster.predict(frame.take([2, 0, 1]), HORIZON, (0.025, 0.975)).quantiles
        assert together is not None
        assert turned is not None
        np.testing.assert_allclose(turned, together[[2, 0, 1]], rtol=1e-6)

    def test_a_fallback_uses_what_was_stored_for_it(self, tuned: FinetuneResult, toy_weights: Path) -> None:
        stored = stored_calibrations(open_artifact(tuned.out_dir))
        for name, kept in (("zero_shot", "zero_shot"), ("naive", "naive")):
            source = Forecaster.fallback(tuned.manifest, name, weights_dir=toy_weights)
            found = source.predict(toy.frame(), HORIZON, (0.025, 0.975), calibration=stored[kept])
            assert found.calibrated
        with pytest.raises(ConfigError):
            Forecaster.rival("naive").predict(toy.frame(), HORIZON, (0.025,))

    def test_an_artifact_without_a_calibration_opens_and_says_it_is_not_calibrated(
        self, tuned: FinetuneResult, tmp_path: Path
    ) -> None:
        from tsfm.artifact import write_artifact

        files = {"model.safetensors": (tuned.out_dir / "model.safetensors").read_bytes()}
        manifest = {k: v for k, v in tuned.manifest.items() if k != "files"}
        write_artifact(tmp_path / "old", files, {**manifest, "calibration": None}, "")
        old = Forecaster.open(tmp_path / "old")
        assert not old.predict(toy.frame(), HORIZON, (0.1, 0.9)).calibrated
        with pytest.raises(ConfigError):
            old.predict(toy.frame(), HORIZON, (0.025,))


class TestCoverageOnSeries:
    @pytest.mark.parametrize("name", ["window_mean", "naive"])
    def test_planted_noise_is_covered_as_asked(self, name: str) -> None:
        """White noise of another size in every series, some of it missing: the window's scale makes them one pool."""
        rng = np.random.default_rng(3)
        length, sizes = 1500, (0.5, 3.0, 40.0)
        rows = [size * rng.standard_normal(length) + 100 for size in sizes]
        for row in rows:
            row[rng.integers(0, length, 60)] = np.nan
        frame = SeriesFrame(
            item_ids=("a", "b", "c"),
            values=np.concatenate(rows),
            offsets=np.arange(4, dtype=np.int64) * length,
            starts=np.zeros(3, dtype=np.int64),
            freq="h",
        )
        blocks = split(frame, context_length=48, prediction_length=HORIZON, patch_length=4)
        needed = history_needed(name, context_length=48, period=1)

        def windows(block: Block) -> Windows:
            return cut(frame, blocks, block, context_length=needed, prediction_length=HORIZON)

        source = RivalSource(name, period=1)
        made = fit(source, windows(Block.CALIBRATION))
        assert made is not None
        found = measure(source, windows(Block.TEST), made, scales_of(frame, blocks, season=24))
        assert found["coverage"]["80"] == pytest.approx(0.80, abs=0.03)
        assert found["coverage"]["95"] == pytest.approx(0.95, abs=0.02)
        assert found["pinball"]["calibrated"] < found["pinball"]["uncalibrated"]
