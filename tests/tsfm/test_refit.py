"""The winning recipe on all history: a second artifact beside the judged one, and the step metrics of the run."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toy
from tsfm import catalog, finetune, methods, refit
from tsfm.errors import Cancelled, ConfigError
from tsfm.finetune import FinetuneRequest, FinetuneResult, Progress
from tsfm.search import Outcome
from tsfm.series.frame import SeriesFrame
from tsfm.tasks.forecast import Forecaster

TRAINED = {"learning_rate": 1e-2, "max_epochs": 2, "batch_size": 32, "evaluations_per_epoch": 2}


def run(weights_dir: Path, out: Path, *, frame: SeriesFrame | None = None, **asked: Any) -> FinetuneResult:
    stop = asked.pop("should_stop", lambda: None)
    sent: list[Progress] = asked.pop("sent", [])
    request = {"backbone": "toy", "method": "full", "prediction_length": 6, "hyperparameters": TRAINED, **asked}
    return finetune.run(
        FinetuneRequest.from_mapping(request),
        frame if frame is not None else toy.frame(),
        weights_dir=weights_dir,
        state_dir=out / "state",
        out_dir=out / "artifact",
        report=sent.append,
        should_stop=stop,
    )


def refit_weights(result: FinetuneResult) -> bytes:
    assert result.refit is not None
    return (result.refit.out_dir / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def result(toy_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    return run(toy_weights, tmp_path_factory.mktemp("refit"), refit=True)


class TestRefit:
    def test_the_judged_artifact_is_the_one_without_a_refit(
        self, toy_weights: Path, tmp_path: Path, result: FinetuneResult
    ) -> None:
        assert run(toy_weights, tmp_path).digest == result.digest

    def test_it_says_what_it_is_and_opens(self, result: FinetuneResult) -> None:
        assert result.refit is not None
        manifest = result.refit.manifest
        assert (manifest["verdict"], manifest["gate"], manifest["calibration"]) == (None, None, None)
        assert manifest["refit_of"] == result.digest
        assert "Nothing was left to judge" in (result.refit.out_dir / "README.md").read_text()
        forecaster = Forecaster.open(result.refit.out_dir, digest=result.refit.digest)
        assert np.isfinite(forecaster.predict(toy.frame(), 6).point).all()
        json.dumps(result.to_mapping())

    def test_it_trains_as_many_epochs_as_the_best_weights_had_on_more_windows(self, result: FinetuneResult) -> None:
        assert result.refit is not None
        first, again = result.manifest["training"], result.refit.manifest["training"]
        assert again["windows"] > again["judged_windows"]
        epochs = first["best_step"] / np.ceil(again["judged_windows"] / 32)
        assert abs(again["steps"] - epochs * np.ceil(again["windows"] / 32)) <= 1
        assert again["stopped"] == "completed"
        assert again["steps"] / again["total_steps"] == pytest.approx(
            first["best_step"] / first["total_steps"], abs=0.1
        )

    def test_the_last_points_are_trained_on(self, toy_weights: Path, tmp_path: Path, result: FinetuneResult) -> None:
        """They belong to the test block: the judged weights do not know them."""
        changed = toy.frame()
        changed.values[changed.offsets[1:] - 1] += 5.0
        other = run(toy_weights, tmp_path, frame=changed, refit=True)
        assert (other.out_dir / "model.safetensors").read_bytes() == (result.out_dir / "model.safetensors").read_bytes()
        assert refit_weights(other) != refit_weights(result)

    def test_one_that_was_stopped_ends_with_the_same_bytes(
        self, toy_weights: Path, tmp_path: Path, result: FinetuneResult
    ) -> None:
        sent: list[Progress] = []

        def stop_in_the_refit() -> str | None:
            refitting = sum(one.message is not None and "all history" in one.message for one in sent)
            return "pause" if refitting and sent[-1].phase == "refitting" and stops.pop() else None

        stops = [True, False, False]
        with pytest.raises(Cancelled):
            run(toy_weights, tmp_path, refit=True, sent=sent, should_stop=stop_in_the_refit)
        again = run(toy_weights, tmp_path, refit=True)
        assert again.refit is not None
        assert result.refit is not None
        assert (again.digest, again.refit.digest) == (result.digest, result.refit.digest)

    def test_what_trains_nothing_cannot_be_refitted(self) -> None:
        with pytest.raises(ConfigError) as caught:
            FinetuneRequest.from_mapping(
                {"backbone": "toy", "method": "zero_shot", "prediction_length": 6, "refit": True}
            )
        assert caught.value.param == "refit"


@pytest.mark.parametrize("name", ["trace", "adalora", "lp_full", "full"])
def test_what_had_settled_settles_again(name: str) -> None:
    """Of 20 steps half is 10, of 25 it is 12.5: rounded apart, the refit of TRACE ended before its final freeze."""
    method = methods.create(name, catalog.method(name).config())
    model = method.prepare(toy.Toy.from_config(toy.CONFIG, seed=1))
    for before in range(3, 60):
        best = next(step for step in range(1, before + 1) if method.eligible(step, before))
        winner = Outcome(
            model=model,
            method=method,
            method_name=name,
            method_config={},
            hyperparameters={},
            training={"total_steps": before, "best_step": best},
        )
        for longer in (1.0, 1.25, 1.3, 1.4348, 2.0):
            total, last = refit.num_steps(winner, longer=longer)
            assert last <= total == round(longer * before)
            assert method.eligible(last, total)
            assert abs(last - longer * best) <= 3


def test_the_step_metrics_are_those_of_the_run(toy_weights: Path, tmp_path: Path) -> None:
    result = run(toy_weights, tmp_path)
    with result.result_files["step_metrics.csv"].open() as f:
        rows = list(csv.DictReader(f))
    history = result.manifest["training"]["history"]
    assert [int(row["step"]) for row in rows] == [one["step"] for one in history]
    assert rows[0]["train_loss"] == ""
    assert [float(row["valid_loss"]) for row in rows] == pytest.approx([one["validation"] for one in history])


def test_the_measurements_and_the_card_lie_beside_them(result: FinetuneResult) -> None:
    assert list(result.result_files) == ["step_metrics.csv", "metrics.json", "model_card.md"]
    measured = json.loads(result.result_files["metrics.json"].read_bytes())
    assert measured["gate"] == json.loads(json.dumps(result.gate))
    assert measured["candidates"]
    card = (result.out_dir / "README.md").read_bytes()
    assert result.result_files["model_card.md"].read_bytes() == card


def test_nothing_trained_has_no_step_metrics(toy_weights: Path, tmp_path: Path) -> None:
    zero_shot = run(toy_weights, tmp_path, method="zero_shot", hyperparameters={})
    assert list(zero_shot.result_files) == ["metrics.json", "model_card.md"]
