"""A ninth backbone is one class and one entry (CONTRIBUTING, "Add a backbone"): contract and jobs take it up."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import ninth, toy
from tests.tsfm.backbones import contract, test_contract, test_contract_loss, test_contract_methods
from tests.tsfm.backbones.contract import Case
from tsfm import finetune
from tsfm.backbones import implementation, shelf
from tsfm.backbones.weights import tensors_of
from tsfm.request import FinetuneRequest
from tsfm.tasks.forecast import Forecaster

SETTINGS = {
    "learning_rate": 1e-2,
    "max_epochs": 1,
    "batch_size": 32,
    "max_windows_per_epoch": 64,
    "evaluations_per_epoch": 1,
}


@pytest.fixture(autouse=True)
def _listed() -> Iterator[None]:
    with ninth.listed(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    cls = implementation(ninth.SPEC)
    case = Case(spec=ninth.SPEC, cls=cls, config=cls.shrunk(cls.configs["ninth"]))
    monkeypatch.setitem(contract._SIZES, "ninth", case)
    return case


def contracts() -> list[Any]:
    """Every test of the contract that asks for a network, or for a checkpoint, and nothing else."""
    found = []
    for module in (test_contract, test_contract_loss, test_contract_methods):
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__:
                tests = (getattr(cls(), name) for name in vars(cls) if name.startswith("test_"))
                found += [t for t in tests if set(inspect.signature(t).parameters) in ({"case"}, {"spec"})]
    return found


@pytest.mark.parametrize("promise", contracts(), ids=lambda promise: promise.__name__)
def test_the_contract_holds_for_it(promise: Any, case: Case) -> None:
    (asked,) = inspect.signature(promise).parameters
    promise(case if asked == "case" else case.spec)


@pytest.mark.parametrize("method", ["full", "sff", "trace"])
def test_its_weights_are_added_from_a_path_tuned_and_the_artifact_forecasts(method: str, tmp_path: Path) -> None:
    published = tmp_path / "published" / "model.safetensors"
    published.parent.mkdir()
    save_file(tensors_of(ninth.Ninth.from_config(ninth.Ninth.configs["ninth"], seed=1)), published)
    placed = shelf.add(ninth.SPEC, tmp_path / "weights", published, shelf.Consent(by="a test"))
    asked = {"backbone": "ninth", "method": method, "prediction_length": 16, "hyperparameters": SETTINGS}
    result = finetune.run(
        FinetuneRequest.from_mapping(asked),
        toy.frame(),
        weights_dir=tmp_path / "weights",
        state_dir=tmp_path / "state",
        out_dir=tmp_path / "artifact",
        report=lambda progress: None,
        should_stop=lambda: None,
    )
    manifest = json.loads((result.out_dir / "manifest.json").read_bytes())
    assert placed.digest in json.dumps(manifest)
    opened = Forecaster.open(result.out_dir, digest=result.digest, weights_dir=tmp_path / "weights")
    said = opened.predict(toy.frame(), 16)
    assert said.point.shape == (3, 16)
    assert np.isfinite(said.point).all()
