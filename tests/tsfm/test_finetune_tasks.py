"""Whole jobs that score points and fill gaps: what they decide, what they leave behind, and what reaches it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toy
from tests.tsfm.jobs import FAST, HORIZON, TINY, altered, files, tune, weights
from tsfm import calibration, catalog, null
from tsfm.artifact import open_artifact
from tsfm.finetune import FinetuneResult
from tsfm.incumbent import Incumbent
from tsfm.mixture import GRID, Mixture
from tsfm.null import EDGE, TOGETHER
from tsfm.progress import Checkpoint, Checkpoints
from tsfm.rivals import linear_fill
from tsfm.series.split import Block, split
from tsfm.series.windows import cut
from tsfm.setting import Setting
from tsfm.tasks.forecast import stored_nulls

FILL = {"task": "imputation"}
SCORE = {"task": "anomaly_detection"}
NATIVE = {"backbone": "temper-tiny", **TINY}
RECONSTRUCT = {**SCORE, **NATIVE, "scoring": "reconstruction"}
PATCHES = {**SCORE, **TINY, "prediction_length": 32, "scoring": "every_patch"}
FIXED = {"hyperparameters": {**FAST, "early_stopping": False}}


@pytest.fixture(scope="module")
def filled(every_task: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    return tune(every_task, tmp_path_factory.mktemp("filled"), **FILL, refit=True)


@pytest.fixture(scope="module")
def scored(every_task: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    return tune(every_task, tmp_path_factory.mktemp("scored"), **SCORE)


@pytest.fixture(scope="module")
def reconstructed(tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    folder = tmp_path_factory.mktemp("reconstructed")
    return tune(folder, folder, toy.frame(num_series=2), **RECONSTRUCT, refit=True)


def names(result: FinetuneResult) -> list[str]:
    return [candidate["name"] for candidate in result.candidates]


class TestImputation:
    @pytest.mark.parametrize("backbone", ["toy", "temper-tiny"])
    def test_both_ways_of_filling_end_in_an_artifact(self, every_task: Path, tmp_path: Path, backbone: str) -> None:
        result = tune(every_task, tmp_path, **FILL, **(NATIVE if backbone != "toy" else {}))
        manifest = open_artifact(result.out_dir, result.digest).manifest
        assert (manifest["task"], manifest["scoring"], manifest["prediction_length"]) == ("imputation", None, HORIZON)
        assert manifest["fill"]["period"] == 24
        assert manifest["fill"]["guess"] in (1, 24)
        assert set(manifest["fill"]["weights"]) == {"tuned", "zero_shot"}
        for rows in manifest["fill"]["weights"].values():
            assert len(rows) >= 4, "gaps of up to four times the tuned length are 12 steps deep"
            assert all(row in GRID.tolist() for row in rows)
        assert files(result) == {"README.md", "manifest.json", "model.safetensors", calibration.FILE}
        assert "Fills gaps of up to 6 steps" in (result.out_dir / "README.md").read_text()
        json.dumps(result.to_mapping(), allow_nan=False)

    def test_it_is_judged_against_plain_fills_by_masked_error(self, filled: FinetuneResult) -> None:
        assert names(filled) == ["tuned", "zero_shot", "linear_fill", "seasonal_fill"]
        gate = filled.gate
        assert gate is not None
        assert gate["metric"] == "mase"
        assert set(gate["versus"]) == {"zero_shot", "linear_fill", "seasonal_fill"}
        assert "false_alarms" not in gate
        assert (filled.routes, gate["routes"]) == (None, None)
        assert set(filled.manifest["rivals"]) == {"seasonal_fill"}

    def test_only_what_a_gap_hides_is_judged(self, filled: FinetuneResult) -> None:
        frame = toy.frame()
        blocks = split(frame, context_length=32, prediction_length=HORIZON, patch_length=4)
        around = Setting.of(filled.manifest).around(24)
        windows = cut(frame, blocks, Block.TEST, context_length=32, prediction_length=HORIZON, around=around)
        every = np.arange(len(windows))
        batch, target = windows.batch(every), windows.raw_target(every)
        assert batch.gap is not None
        assert batch.after is not None
        said = linear_fill(batch.context, batch.after, batch.gap, HORIZON) * batch.scale[:, None] + batch.loc[:, None]
        off = np.where(np.arange(HORIZON) < batch.gap[:, None], np.abs(said - target), np.nan)
        by_hand = np.mean([np.nanmean(off[batch.series == i]) for i in range(3)])
        assert filled.candidates[2]["test"]["mae"] == pytest.approx(by_hand, rel=1e-5)

    def test_a_network_is_never_worse_on_validation_than_a_plain_fill_it_may_become(
        self, filled: FinetuneResult
    ) -> None:
        """All the weight on the seasonal fill is one of the mixtures: validation would have taken it."""
        error = {c["name"]: c["validation"]["mae"] for c in filled.candidates}
        assert error["tuned"] <= 1.02 * error["seasonal_fill"]

    def test_what_is_calibrated_is_by_the_distance_from_the_edge(self, filled: FinetuneResult) -> None:
        assert filled.calibration is not None
        assert filled.calibration["num_scores"] > 0
        assert {"zero_shot", "linear_fill", "seasonal_fill:24"} <= set(filled.calibration["sources"])
        stored = (filled.out_dir / calibration.FILE).read_bytes()
        assert {one.prediction_length for one in calibration.from_bytes(stored).values()} == {HORIZON // 2}

    def test_a_refit_keeps_how_it_fills(self, filled: FinetuneResult, reconstructed: FinetuneResult) -> None:
        again = filled.refit
        assert again is not None
        assert again.manifest["fill"] == filled.manifest["fill"]
        assert (again.manifest["refit_of"], again.manifest["calibration"]) == (filled.digest, None)
        assert (again.out_dir / "model.safetensors").read_bytes() != weights(filled)
        assert reconstructed.refit is not None
        assert "fill" not in reconstructed.refit.manifest

    def test_a_checkpoint_fills_by_its_network_beside_the_guess_it_was_trained_with(
        self, every_task: Path, tmp_path: Path
    ) -> None:
        """Validation has not said yet how to mix it."""
        seen: list[dict[str, Any]] = []

        def take(checkpoint: Checkpoint) -> None:
            seen.append(dict(open_artifact(checkpoint.out_dir, checkpoint.digest).manifest["fill"]))

        every = Checkpoints(every_seconds=1e-9, take=take)
        result = tune(every_task, tmp_path, toy.frame(length=600), **FILL, checkpoints=every)
        assert seen
        assert seen[0] == {"period": 24, "guess": result.manifest["fill"]["guess"], "weights": {}}
        assert Mixture.stored(seen[0], "tuned").is_network_alone

    def test_what_trains_nothing_is_the_published_network(self, every_task: Path, tmp_path: Path) -> None:
        result = tune(every_task, tmp_path, **FILL, method="zero_shot", hyperparameters={})
        weights = result.manifest["fill"]["weights"]
        assert weights["tuned"] == weights["zero_shot"]
        assert result.candidates[0]["test"] == result.candidates[1]["test"]

    def test_the_incumbent_is_measured_as_it_fills(
        self, every_task: Path, tmp_path: Path, filled: FinetuneResult
    ) -> None:
        """The same weights once more: on the same gaps their error is the same."""
        before = Incumbent(folder=filled.out_dir, name="ft:x", version=1, digest=filled.digest)
        result = tune(every_task, tmp_path, **FILL, incumbent=before)
        tested = {c["name"]: c["test"] for c in result.candidates}
        assert tested["incumbent"] == tested["tuned"]
        assert result.gate is not None
        assert result.gate["versus"]["incumbent"]["gain"] == 0.0


class TestAnomalyDetection:
    def test_a_job_leaves_a_null_for_every_source(self, scored: FinetuneResult) -> None:
        manifest = open_artifact(scored.out_dir, scored.digest).manifest
        assert (manifest["task"], manifest["scoring"]) == ("anomaly_detection", "forecast")
        assert "fill" not in manifest
        assert {null.FILE, calibration.FILE, "model.safetensors"} <= files(scored)
        sources = {"tuned", "zero_shot", *catalog.RIVALS[::2], "seasonal_naive:24", "seasonal_naive:168"}
        stored = stored_nulls(open_artifact(scored.out_dir))
        assert set(stored) == sources | {f"{name}{TOGETHER}" for name in sources}
        assert "Scores points by forecast" in (scored.out_dir / "README.md").read_text()
        json.dumps(scored.to_mapping(), allow_nan=False)

    def test_it_is_judged_by_calibrated_deciles_and_false_alarms(self, scored: FinetuneResult) -> None:
        gate = scored.gate
        assert gate is not None
        assert gate["metric"] == scored.verdict["metric"] == "pinball"
        assert gate["false_alarms"]["level"] == 99.0
        detection = scored.manifest["calibration"]["detection"]
        assert gate["false_alarms"]["rate"] == detection["tuned"]["false_alarms"]["99"]
        assert set(detection) == {
            "tuned",
            "zero_shot",
            "naive",
            "window_mean",
            "seasonal_naive:24",
            "seasonal_naive:168",
        }
        assert all(c["test"]["pinball"] > 0 for c in scored.candidates), "points have calibrated deciles, too"
        assert scored.routes is None

    def test_reconstruction_has_a_null_of_the_last_block_too(self, reconstructed: FinetuneResult) -> None:
        assert names(reconstructed) == ["tuned", "zero_shot", "linear_fill", "seasonal_fill"]
        stored = stored_nulls(open_artifact(reconstructed.out_dir))
        for name in ("tuned", "zero_shot", "linear_fill", "seasonal_fill:24"):
            assert {name, f"{name}{EDGE}", f"{name}{TOGETHER}"} <= set(stored)
            assert not np.array_equal(stored[name].units, stored[f"{name}{EDGE}"].units)

    @pytest.mark.parametrize("backbone", ["timesfm-2.5", "moirai-2-small"])
    def test_every_patch_is_scored_in_one_pass(self, tmp_path: Path, backbone: str) -> None:
        asked = {**PATCHES, "backbone": backbone, "context_length": 64}
        result = tune(tmp_path, tmp_path, toy.frame(num_series=1, length=400), **asked)
        assert (result.manifest["scoring"], names(result)[2:]) == ("every_patch", list(catalog.RIVALS))
        assert stored_nulls(open_artifact(result.out_dir))["tuned"].units.shape == (32,)
        assert result.gate is not None
        assert "false_alarms" in result.gate

    def test_without_a_test_block_nothing_is_counted(self, every_task: Path, tmp_path: Path) -> None:
        result = tune(every_task, tmp_path, **SCORE, with_test=False)
        assert result.gate is None
        assert result.calibration is not None
        assert result.calibration["detection"]["tuned"]["false_alarms"] is None
        assert null.FILE in files(result)

    def test_the_incumbent_scores_as_it_serves(self, every_task: Path, tmp_path: Path, scored: FinetuneResult) -> None:
        before = Incumbent(folder=scored.out_dir, name="ft:x", version=1, digest=scored.digest)
        result = tune(every_task, tmp_path, **SCORE, incumbent=before)
        tested = {c["name"]: c["test"] for c in result.candidates}
        assert tested["incumbent"]["pinball"] == pytest.approx(tested["tuned"]["pinball"])


class TestRepeats:
    @pytest.mark.parametrize("asked", [FILL, SCORE], ids=["imputation", "anomaly_detection"])
    def test_the_same_job_has_the_same_digest(
        self, every_task: Path, tmp_path: Path, asked: dict[str, Any], filled: FinetuneResult, scored: FinetuneResult
    ) -> None:
        first = filled if asked is FILL else scored
        assert tune(every_task, tmp_path, **asked).digest == first.digest

    def test_a_task_is_part_of_the_state(self, every_task: Path, tmp_path: Path, scored: FinetuneResult) -> None:
        """The state folder of another task is not continued from."""
        fills = weights(tune(every_task, tmp_path, **FILL))
        scores = tune(every_task, tmp_path, **SCORE)
        assert scores.digest == scored.digest
        assert weights(scores) != fills


LEAKS = {
    "gaps by forecasts": FILL,
    "gaps natively": {**FILL, **NATIVE},
    "scores": SCORE,
    "scores by reconstruction": RECONSTRUCT,
}


@pytest.fixture(scope="module", params=LEAKS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def leaking(
    every_task: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> dict[Block | None, FinetuneResult]:
    """The same job as it is (None), and with everything altered behind the end of a block."""
    frame, how = toy.frame(num_series=2, length=160), {**LEAKS[kind], "context_length": 32}
    folder = tmp_path_factory.mktemp("leaking")
    frames = {None: frame, **{block: altered(frame, block) for block in (Block.VALIDATION, Block.CALIBRATION)}}
    return {block: tune(every_task, folder / str(block), one, **how) for block, one in frames.items()}


class TestLeakage:
    def test_what_comes_after_validation_decides_nothing(self, leaking: dict[Block | None, FinetuneResult]) -> None:
        one, other = leaking[None], leaking[Block.VALIDATION]
        assert weights(one) == weights(other)
        assert one.resolved == other.resolved
        assert one.manifest["training"] == other.manifest["training"]
        assert one.manifest.get("fill") == other.manifest.get("fill")
        assert [c["validation"] for c in one.candidates] == [c["validation"] for c in other.candidates]
        assert [c["test"] for c in one.candidates] != [c["test"] for c in other.candidates]

    def test_test_reaches_no_null_and_no_offset(self, leaking: dict[Block | None, FinetuneResult], kind: str) -> None:
        one, other, third = (leaking[block] for block in (None, Block.CALIBRATION, Block.VALIDATION))
        for name in files(one) - {"README.md", "manifest.json"}:
            assert (one.out_dir / name).read_bytes() == (other.out_dir / name).read_bytes(), name
        changed = null.FILE if "scores" in kind else calibration.FILE
        assert (one.out_dir / changed).read_bytes() != (third.out_dir / changed).read_bytes()

    def test_what_comes_after_train_does_not_reach_the_weights(
        self, every_task: Path, tmp_path: Path, kind: str
    ) -> None:
        how = {**LEAKS[kind], **FIXED, "context_length": 32, "with_test": False}
        frame = toy.frame(num_series=2, length=160)
        blocks = split(frame, context_length=32, prediction_length=HORIZON, patch_length=4, with_test=False)
        values = frame.values.copy()
        for i, end in enumerate(blocks.block(Block.TRAIN)[1]):
            values[frame.offsets[i] + end : frame.offsets[i + 1]] *= -7
        one = tune(every_task, tmp_path / "a", frame, **how)
        other = tune(every_task, tmp_path / "b", dataclasses.replace(frame, values=values), **how)
        assert weights(one) == weights(other)
        assert one.candidates != other.candidates
