"""Whole runs on the toy: SFF's two ends, leakage, the verdict's inputs, and what an artifact holds."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toy
from tsfm import finetune
from tsfm.artifact import open_artifact
from tsfm.errors import Cancelled, DataError, NonFinite
from tsfm.finetune import FinetuneRequest, FinetuneResult, Progress
from tsfm.progress import Checkpoint, Checkpoints
from tsfm.search import Search
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split
from tsfm.tasks.forecast import Forecaster

FILES = ["calibration.safetensors", "model.safetensors"]
FAST = {"learning_rate": 1e-2, "max_epochs": 2, "batch_size": 32}


def run(
    weights_dir: Path,
    out: Path,
    *,
    frame: SeriesFrame | None = None,
    sent: list[Progress] | None = None,
    checkpoints: Checkpoints | None = None,
    **asked: Any,
) -> FinetuneResult:
    request = {"backbone": "toy", "method": "full", "prediction_length": 6, "hyperparameters": FAST, **asked}
    return finetune.run(
        FinetuneRequest.from_mapping(request),
        frame if frame is not None else toy.frame(),
        weights_dir=weights_dir,
        state_dir=out / "state",
        out_dir=out / "artifact",
        report=(sent if sent is not None else []).append,
        should_stop=lambda: None,
        checkpoints=checkpoints,
    )


def weights(result: FinetuneResult) -> bytes:
    return (result.out_dir / "model.safetensors").read_bytes()


class TestEndsOfSFF:
    def test_alpha_one_is_full_bit_for_bit(self, toy_weights: Path, tmp_path: Path) -> None:
        full = run(toy_weights, tmp_path / "a", method="full")
        sff = run(toy_weights, tmp_path / "b", method={"type": "sff", "alpha": 1.0, "twin_seed": 9})
        assert weights(full) == weights(sff)
        assert full.candidates == sff.candidates

    def test_alpha_zero_is_scratch_bit_for_bit(self, toy_weights: Path, tmp_path: Path) -> None:
        scratch = run(toy_weights, tmp_path / "a", method={"type": "scratch", "twin_seed": 9})
        sff = run(toy_weights, tmp_path / "b", method={"type": "sff", "alpha": 0.0, "twin_seed": 9})
        assert weights(scratch) == weights(sff)
        assert scratch.candidates == sff.candidates

    def test_between_them_is_neither(self, toy_weights: Path, tmp_path: Path) -> None:
        found = {weights(run(toy_weights, tmp_path / str(a), method={"type": "sff", "alpha": a})) for a in (0, 0.9, 1)}
        assert len(found) == 3


class TestCheckpoints:
    SEARCHED = {"learning_rate": [1e-3, 1e-2], "max_epochs": 3, "batch_size": 32, "evaluations_per_epoch": 2}

    def test_the_last_one_holds_the_weights_of_the_result(self, toy_weights: Path, tmp_path: Path) -> None:
        taken: list[tuple[Checkpoint, bytes]] = []

        def take(checkpoint: Checkpoint) -> None:
            forecaster = Forecaster.open(checkpoint.out_dir, digest=checkpoint.digest)
            assert forecaster.predict(toy.frame(), 6).point.shape == (len(toy.frame()), 6)
            taken.append((checkpoint, (checkpoint.out_dir / "model.safetensors").read_bytes()))

        hyperparameters = dict(self.SEARCHED)
        wanted = Checkpoints(every_seconds=1e-9, take=take)
        result = run(toy_weights, tmp_path / "a", checkpoints=wanted, hyperparameters=hyperparameters)
        steps = [checkpoint.at.step for checkpoint, _ in taken]
        assert steps == sorted(set(steps))
        assert len(steps) > 1
        trials = sum(trial["steps"] for trial in result.manifest["training"]["search"])
        assert steps[0] > trials, "trials of the search leave none"
        assert steps[-1] == trials + result.manifest["training"]["best_step"]
        assert taken[-1][1] == weights(result)
        assert taken[-1][0].digest != result.digest, "nobody judged it"
        plain = run(toy_weights, tmp_path / "b", hyperparameters=hyperparameters)
        assert plain.digest == result.digest, "taking them changes nothing"

    def test_they_keep_their_distance(self, toy_weights: Path, tmp_path: Path) -> None:
        taken: list[Checkpoint] = []
        run(toy_weights, tmp_path / "a", checkpoints=Checkpoints(every_seconds=1e9, take=taken.append))
        assert len(taken) == 1
        card = (taken[0].out_dir / "README.md").read_text()
        assert f"checkpoint of step {taken[0].at.step}" in card
        manifest = open_artifact(taken[0].out_dir, taken[0].digest).manifest
        assert (manifest["verdict"], manifest["candidates"]) == (None, [])


def altered(frame: SeriesFrame, after: Block, *, prediction_length: int = 6) -> SeriesFrame:
    """Other values, and other holes, everywhere behind the end of a block."""
    blocks = split(frame, context_length=32, prediction_length=prediction_length, patch_length=4)
    values, rng = frame.values.copy(), np.random.default_rng(99)
    for i, end in enumerate(blocks.block(after)[1]):
        tail = values[frame.offsets[i] + end : frame.offsets[i + 1]]
        tail[:] = 1e3 * rng.standard_normal(len(tail))
        tail[::7] = np.nan
    return dataclasses.replace(frame, values=values)


class TestLeakage:
    def test_what_comes_after_validation_decides_nothing(self, toy_weights: Path, tmp_path: Path) -> None:
        asked = {"method": {"type": "sff", "alpha": "search"}, "hyperparameters": {"max_epochs": 1, "batch_size": 64}}
        one = run(toy_weights, tmp_path / "a", **asked)
        other = run(toy_weights, tmp_path / "b", frame=altered(toy.frame(), Block.VALIDATION), **asked)
        assert weights(one) == weights(other)
        assert one.resolved == other.resolved
        assert one.manifest["training"] == other.manifest["training"]
        assert one.routes == other.routes
        assert [c["validation"] for c in one.candidates] == [c["validation"] for c in other.candidates]
        assert [c["test"] for c in one.candidates] != [c["test"] for c in other.candidates]

    def test_what_comes_after_train_does_not_reach_the_weights(self, toy_weights: Path, tmp_path: Path) -> None:
        fixed = {"hyperparameters": {**FAST, "early_stopping": False}}
        one = run(toy_weights, tmp_path / "a", **fixed)
        other = run(toy_weights, tmp_path / "b", frame=altered(toy.frame(), Block.TRAIN), **fixed)
        assert weights(one) == weights(other)
        assert one.candidates != other.candidates


class TestSearch:
    def test_tries_the_listed_rates_and_takes_the_best_on_validation(self, toy_weights: Path, tmp_path: Path) -> None:
        sent: list[Progress] = []
        asked = {"max_epochs": 3, "learning_rate": [1e-5, 1e-2, 1e-1]}
        result = run(toy_weights, tmp_path, sent=sent, hyperparameters=asked)
        tried = result.manifest["training"]["search"]
        assert [t["learning_rate"] for t in tried] == asked["learning_rate"]
        assert {t["stopped"] for t in tried} == {"completed"}
        best = min(tried, key=lambda t: t["validation"])
        assert result.resolved["hyperparameters"]["learning_rate"] == best["learning_rate"]
        assert sum(bool(p.message and p.message.startswith("Trying")) for p in sent) == 3

    def test_a_rate_at_which_the_loss_is_not_finite_is_left_out(
        self, toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = Search.run_stage

        def run_stage(self: Search, stage: Any, trial: Any, *more: Any) -> Any:
            if trial.learning_rate == 1e-2:
                raise NonFinite("step 3")
            return whole(self, stage, trial, *more)

        monkeypatch.setattr(Search, "run_stage", run_stage)
        sent: list[Progress] = []
        result = run(toy_weights, tmp_path, sent=sent, hyperparameters={"learning_rate": [1e-3, 1e-2, 3e-3]})
        tried = result.manifest["training"]["search"]
        assert [t["stopped"] for t in tried] == ["completed", "non_finite", "completed"]
        best = min((t for t in tried if t["validation"] is not None), key=lambda t: t["validation"])
        assert result.resolved["hyperparameters"]["learning_rate"] == best["learning_rate"]
        assert any(p.message and "is left out (non_finite): step 3" in p.message for p in sent)

    def test_where_no_rate_can_be_trained_the_job_fails(
        self, toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run_stage(self: Search, stage: Any, trial: Any, *more: Any) -> Any:
            raise NonFinite(stage.name)

        monkeypatch.setattr(Search, "run_stage", run_stage)
        with pytest.raises(NonFinite, match="run"):
            run(toy_weights, tmp_path, hyperparameters={"learning_rate": [1e-3, 1e-2]})

    def test_alpha_search_fills_in_a_number(self, toy_weights: Path, tmp_path: Path) -> None:
        asked = {"method": {"type": "sff", "alpha": "search"}, "hyperparameters": {"max_epochs": 1, "batch_size": 64}}
        result = run(toy_weights, tmp_path, **asked)
        tried = result.manifest["training"]["search"]
        assert [t["options"]["alpha"] for t in tried[:5]] == [0.3, 0.5, 0.7, 0.9, 0.95]
        assert len(tried) == 5 + 2  # the middle rate was tried with the chosen alpha already
        best = min(tried[:5], key=lambda t: t["validation"])
        chosen = best["options"]["alpha"]
        assert result.resolved["method_config"]["alpha"] == chosen == result.manifest["method"]["alpha"]

    def test_a_budget_that_cuts_trials_short_takes_defaults_and_says_so(
        self, toy_weights: Path, tmp_path: Path
    ) -> None:
        sent: list[Progress] = []
        asked = {"max_epochs": 5, "learning_rate": [1e-4, 1e-3, 1e-2]}
        result = run(toy_weights, tmp_path, sent=sent, hyperparameters=asked, budget_seconds=1e-6)
        assert result.resolved["hyperparameters"]["learning_rate"] == 1e-3
        assert result.manifest["training"]["stopped"] == "budget"
        assert result.manifest["training"]["steps"] == 1
        assert any(p.message and "given up (budget)" in p.message for p in sent)


class TestResult:
    def test_candidates_and_verdict(self, toy_weights: Path, tmp_path: Path) -> None:
        result = run(toy_weights, tmp_path)
        assert [c["name"] for c in result.candidates] == [
            "tuned",
            "zero_shot",
            "naive",
            "seasonal_naive",
            "window_mean",
        ]
        for block in ("validation", "test"):
            assert len({c[block]["num_windows"] for c in result.candidates}) == 1
        assert result.verdict["metric"] == "mase"
        assert result.verdict["test_windows"] == result.candidates[0]["test"]["num_windows"] > 0
        assert result.num_trainable_parameters == sum(
            p.numel() for n, p in toy.Toy.from_config(toy.CONFIG, seed=1).named_parameters() if n != "spare"
        )
        json.dumps(result.to_mapping(), allow_nan=False)

    def test_training_helps_on_a_sine(self, toy_weights: Path, tmp_path: Path) -> None:
        result = run(toy_weights, tmp_path, hyperparameters={**FAST, "max_epochs": 20})
        tuned, zero_shot = (c["test"]["mase"] for c in result.candidates[:2])
        assert tuned < 0.7 * zero_shot

    def test_zero_shot_trains_nothing_and_is_the_pretrained_model(self, toy_weights: Path, tmp_path: Path) -> None:
        result = run(toy_weights, tmp_path, method="zero_shot", hyperparameters={})
        assert result.candidates[0]["test"] == result.candidates[1]["test"]
        assert (result.num_trainable_parameters, result.verdict["promoted"]) == (0, False)
        assert result.verdict["fallback"] == "zero_shot"

    def test_linear_probe_changes_the_head_alone(self, toy_weights: Path, tmp_path: Path) -> None:
        from safetensors.torch import load

        import tsfm.backbones.weights as stored

        result = run(toy_weights, tmp_path, method="linear_probe")
        before = stored.tensors_of(toy.Toy.from_config(toy.CONFIG, seed=1))
        after = load(weights(result))
        changed = {name for name, t in after.items() if not before[name].equal(t)}
        assert changed == {"output.weight", "output.bias"}

    def test_without_a_test_block_nothing_is_judged(self, toy_weights: Path, tmp_path: Path) -> None:
        result = run(toy_weights, tmp_path, with_test=False)
        assert result.candidates[0]["test"] is None
        assert (result.verdict["promoted"], result.verdict["fallback"]) == (False, None)
        assert "nothing was judged" in result.verdict["reason"]

    def test_the_artifact_says_where_it_comes_from(self, toy_weights: Path, tmp_path: Path) -> None:
        result = run(toy_weights, tmp_path, seed=11)
        manifest = open_artifact(result.out_dir, result.digest).manifest
        assert manifest == json.loads(json.dumps({"format": 1, "files": FILES, **result.manifest}))
        assert manifest["seed"] == 11
        assert len(manifest["data"]["sha256"]) == len(manifest["code"]["sha256"]) == 64
        assert manifest["backbone"]["digest"].startswith("sha256:")
        assert set(manifest["libraries"]) == {"torch", "numpy", "safetensors"}
        assert result.verdict["reason"] in (result.out_dir / "README.md").read_text()

    def test_the_same_job_has_the_same_digest(self, toy_weights: Path, tmp_path: Path) -> None:
        first, again = run(toy_weights, tmp_path / "a"), run(toy_weights, tmp_path / "b")
        assert first.digest == again.digest
        assert run(toy_weights, tmp_path / "a").digest == first.digest  # from its finished state

    def test_phases_come_in_order_and_the_bar_never_goes_back(self, toy_weights: Path, tmp_path: Path) -> None:
        sent: list[Progress] = []
        run(toy_weights, tmp_path, sent=sent)
        phases = [p.phase for p in sent]
        assert list(dict.fromkeys(phases)) == ["loading", "training", "evaluating", "saving"]
        fractions = [p.fraction for p in sent]
        assert fractions == sorted(fractions)
        assert all(0 <= f <= 1 for f in fractions)


class TestOddSeries:
    @pytest.mark.parametrize("kind", ["constant", "zeros", "intermittent", "large"])
    def test_any_finite_series_gives_a_result(self, toy_weights: Path, tmp_path: Path, kind: str) -> None:
        frame = toy.frame(num_series=2)
        values = frame.values.copy()
        if kind == "constant":
            values[:] = 7.0
        elif kind == "zeros":
            values[:] = 0.0
        elif kind == "intermittent":
            values = np.where(np.random.default_rng(0).random(len(values)) < 0.8, 0.0, 3.0)
        else:
            values = 1e12 + values
        result = run(toy_weights, tmp_path, frame=dataclasses.replace(frame, values=values))
        assert result.verdict["metric"] == ("rmsse" if kind in ("zeros", "intermittent") else "mase")
        json.dumps(result.to_mapping(), allow_nan=False)

    def test_nothing_observed_to_learn_from_is_said(self, toy_weights: Path, tmp_path: Path) -> None:
        frame = toy.frame(num_series=1)
        values = np.full_like(frame.values, np.nan)
        with pytest.raises(DataError, match="nothing can be learnt"):
            run(toy_weights, tmp_path, frame=dataclasses.replace(frame, values=values))

    def test_a_horizon_beyond_one_pass_is_tuned_by_recursion(self, toy_weights: Path, tmp_path: Path) -> None:
        result = run(toy_weights, tmp_path, frame=toy.frame(length=600), prediction_length=20)
        forecast = Forecaster.open(result.out_dir).predict(toy.frame(), 20)
        assert forecast.point.shape == (3, 20)


def test_a_stop_is_a_cancelled_with_its_reason(toy_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled) as caught:
        finetune.run(
            FinetuneRequest.from_mapping({"backbone": "toy", "method": "full", "prediction_length": 6}),
            toy.frame(),
            weights_dir=toy_weights,
            state_dir=tmp_path / "state",
            out_dir=tmp_path / "artifact",
            report=lambda _: None,
            should_stop=lambda: "cancelled",
        )
    assert caught.value.code == "cancelled"
    assert not (tmp_path / "artifact").exists()


REOPEN = """
import json, sys
from pathlib import Path
from tests import toy
from tsfm.tasks.forecast import Forecaster
toy.register(Path(sys.argv[3]))
found = Forecaster.open(Path(sys.argv[1]), digest=sys.argv[2]).predict(toy.frame(), 6, (0.1, 0.5))
print(json.dumps([found.point.tolist(), found.quantiles.tolist()]))
"""


def test_a_fresh_process_forecasts_the_same_numbers(toy_weights: Path, tmp_path: Path) -> None:
    result = run(toy_weights, tmp_path)
    here = Forecaster.open(result.out_dir, digest=result.digest).predict(toy.frame(), 6, (0.1, 0.5))
    fresh = subprocess.run(
        [sys.executable, "-c", REOPEN, str(result.out_dir), result.digest, str(tmp_path / "weights")],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        check=True,
    )
    point, quantiles = json.loads(fresh.stdout)
    assert here.quantiles is not None
    assert point == here.point.tolist()
    assert quantiles == here.quantiles.tolist()
