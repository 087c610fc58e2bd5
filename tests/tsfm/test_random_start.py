"""Jobs that start from random weights: asked for by name, the same wherever they are opened, never served untrained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import toy
from tests.tsfm.test_finetune import run
from tsfm import catalog
from tsfm.backbones.start import base_of
from tsfm.backbones.weights import tensors_of
from tsfm.card import render
from tsfm.errors import ConfigError, TemperError, WeightsError
from tsfm.request import FinetuneRequest, resolve
from tsfm.tasks.forecast import Forecaster

TINY = {"type": "random", "seed": 3, "size": "tiny"}
FAST = {"learning_rate": 1e-2, "max_epochs": 2, "batch_size": 32, "evaluations_per_epoch": 1}
READING = {"freq": "h", "max_length": 400}


def request(**fields: Any) -> FinetuneRequest:
    asked = {"backbone": "temper-tiny", "method": "full", "prediction_length": 6, **fields}
    return FinetuneRequest.from_mapping(asked)


class TestRequest:
    def test_published_weights_are_the_default_and_are_echoed(self) -> None:
        assert resolve(request(), READING)["initialisation"] == "pretrained"

    def test_a_name_is_short_for_its_defaults(self) -> None:
        resolved = resolve(request(initialisation="random"), READING)
        assert resolved["initialisation"] == {"type": "random", "seed": 0, "size": "published"}
        again = FinetuneRequest.from_mapping(resolved)
        assert resolve(again, READING) == resolved

    @pytest.mark.parametrize(
        ("value", "param"),
        [
            ("noise", "initialisation.type"),
            ({"type": "random", "size": "huge"}, "initialisation.size"),
            ({"type": "random", "seed": -1}, "initialisation.seed"),
            ({"type": "random", "seed": True}, "initialisation.seed"),
            ({"type": "random", "depth": 2}, "initialisation.depth"),
            (7, "initialisation"),
            ({}, "initialisation.type"),
            ({"seed": 3, "size": "tiny"}, "initialisation.type"),
        ],
    )
    def test_anything_else_is_refused_by_name(self, value: Any, param: str) -> None:
        with pytest.raises(TemperError) as caught:
            request(initialisation=value)
        assert caught.value.param == param

    @pytest.mark.parametrize(
        ("fields", "param"), [({"method": "zero_shot"}, "initialisation"), ({"landscape": True}, "landscape")]
    )
    def test_what_only_pretrained_weights_can_give_is_refused(self, fields: dict[str, Any], param: str) -> None:
        with pytest.raises(ConfigError) as caught:
            request(initialisation="random", **fields)
        assert caught.value.param == param


class TestBase:
    def test_the_same_draw_has_the_same_digest_and_another_seed_another(self) -> None:
        spec = catalog.backbone("temper-tiny")
        first, again = (base_of(spec, TINY, weights_dir=None) for _ in range(2))
        other = base_of(spec, {**TINY, "seed": 4}, weights_dir=None)
        assert first.digest == again.digest != other.digest
        assert not first.is_pretrained
        pretrained = base_of(spec, "pretrained", weights_dir=None)
        assert pretrained.is_pretrained
        assert pretrained.digest == f"sha256:{spec.sha256}"

    def test_the_published_size_is_the_published_architecture(self) -> None:
        spec = catalog.backbone("temper-tiny")
        model = base_of(spec, "random", weights_dir=None).fresh()
        assert model.config == base_of(spec, "pretrained", weights_dir=None).fresh().config
        assert sum(t.numel() for t in tensors_of(model).values()) == spec.num_parameters


@pytest.mark.parametrize("method", ["full", {"type": "lora", "rank": 2}])
def test_a_job_is_judged_registered_and_opened_without_any_weights_on_disk(tmp_path: Path, method: Any) -> None:
    asked = {"backbone": "temper-tiny", "method": method, "initialisation": TINY, "hyperparameters": FAST}
    result = run(tmp_path / "no-weights", tmp_path / "a", **asked)
    assert result.manifest["backbone"]["initialisation"] == TINY
    assert (
        result.manifest["backbone"]["digest"] == base_of(catalog.backbone("temper-tiny"), TINY, weights_dir=None).digest
    )
    card = (result.out_dir / "README.md").read_text()
    assert "random weights" in card
    if method != "full":
        assert "drawn anew" in card
        assert "weights_dir=None" in card
        published = {**result.manifest["backbone"], "name": "chronos-bolt-tiny", "initialisation": "pretrained"}
        assert 'weights_dir=Path("HOME/weights"))' in render({**result.manifest, "backbone": published})
    opened = Forecaster.open(result.out_dir, digest=result.digest)
    assert np.isfinite(opened.predict(toy.frame(), 6).point).all()


def test_an_adapter_opens_on_no_other_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"backbone": "temper-tiny", "method": "lora", "initialisation": TINY, "hyperparameters": FAST}
    result = run(tmp_path / "no-weights", tmp_path / "a", **asked)
    monkeypatch.setattr("torch.manual_seed", lambda seed: None)  # a torch that draws other numbers
    with pytest.raises(WeightsError) as caught:
        Forecaster.open(result.out_dir, digest=result.digest)
    assert caught.value.code == "weights_digest_mismatch"


@pytest.mark.parametrize("learning_rate", [1e-9, 1e-2])
def test_the_untrained_network_is_a_bar_but_answers_for_nothing(tmp_path: Path, learning_rate: float) -> None:
    """With a rate of almost nothing the tuned network is the untrained one: it cannot be beaten, nor be served."""
    settings = {**FAST, "learning_rate": learning_rate, "max_epochs": 1}
    asked = {"backbone": "temper-tiny", "method": "full", "initialisation": TINY, "hyperparameters": settings}
    result = run(tmp_path / "no-weights", tmp_path / "a", **asked)
    assert result.gate is not None
    assert "zero_shot" in result.gate["versus"]
    assert result.gate["fallback"] in {None, *catalog.RIVALS}
    assert result.verdict["fallback"] == result.gate["fallback"]
    sources = (result.gate["routes"] or {"sources": {}})["sources"]
    assert "zero_shot" not in sources
    if learning_rate == 1e-9:
        assert not result.gate["passed"]
        assert result.gate["fallback"] in catalog.RIVALS
        assert "the untrained network" in result.gate["sentence"]
