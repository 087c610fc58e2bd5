"""Whole runs that end in an adapter: its artifact, its card, its checkpoints."""

from pathlib import Path

import pytest

from tests import toy
from tests.tsfm.test_finetune import run
from tsfm.artifact import files_of
from tsfm.progress import Checkpoint, Checkpoints
from tsfm.tasks.forecast import Forecaster

FAST = {"learning_rate": 1e-2, "max_epochs": 2, "batch_size": 32, "evaluations_per_epoch": 1}


@pytest.mark.parametrize("head", ["lora", "train"])
def test_the_artifact_is_judged_stored_and_opened_as_one(toy_weights: Path, tmp_path: Path, head: str) -> None:
    taken: list[Checkpoint] = []

    def take(checkpoint: Checkpoint) -> None:
        found = Forecaster.open(checkpoint.out_dir, digest=checkpoint.digest, weights_dir=toy_weights)
        assert found.predict(toy.frame(), 6).point.shape == (len(toy.frame()), 6)
        taken.append(checkpoint)

    asked = {"method": {"type": "lora", "head": head}, "hyperparameters": FAST}
    result = run(toy_weights, tmp_path / "a", checkpoints=Checkpoints(every_seconds=1e-9, take=take), **asked)
    assert len(taken) > 0
    own = {"head.safetensors"} if head == "train" else set()
    assert {"adapter_config.json", "adapter_model.safetensors", "manifest.json", "README.md"} | own <= set(
        files_of(result.out_dir)
    )
    assert result.manifest["weights"] == {
        "kind": "adapter",
        "backbone_digest": result.manifest["backbone"]["digest"],
        "num_modules": 3 if head == "lora" else 2,
        "head": head,
    }
    card = (result.out_dir / "README.md").read_text()
    assert 'PeftModel.from_pretrained(base, ".")' in card
    assert ("head.safetensors" in card) == (head == "train")
    assert f"Trained parameters: {result.num_trainable_parameters:,}" in card
    again = run(toy_weights, tmp_path / "b", **asked)
    assert again.digest == result.digest, "taking checkpoints changes nothing, and neither does the place"
    tuned = Forecaster.open(result.out_dir, digest=result.digest, weights_dir=toy_weights).predict(toy.frame(), 6)
    before = Forecaster.zero_shot("toy", weights_dir=toy_weights).predict(toy.frame(), 6)
    assert (tuned.point != before.point).any()
