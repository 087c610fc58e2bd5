"""Weights: found, verified, strict; the catalogue agrees with the networks it names."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests import toy
from tsfm import catalog
from tsfm.backbones import build
from tsfm.backbones.places import find_weights
from tsfm.backbones.weights import load_backbone, load_tensors, tensors_of
from tsfm.errors import UnknownName, WeightsError


def test_loads_exactly_the_stored_tensors(toy_weights: Path) -> None:
    model = load_backbone(catalog.backbone("toy"), weights_dir=toy_weights)
    expected = tensors_of(toy.Toy.from_config(toy.CONFIG, seed=1))
    assert all(torch.equal(t, expected[name]) for name, t in tensors_of(model).items())
    assert not model.training


def test_tied_tensors_are_stored_once_and_buffers_too(toy_weights: Path) -> None:
    names = set(tensors_of(load_backbone(catalog.backbone("toy"), weights_dir=toy_weights)))
    assert "again.weight" not in names
    assert {"body.3.weight", "gain"} <= names


def test_half_precision_weights_are_cast_to_float32() -> None:
    model = toy.Toy.from_config(toy.CONFIG, seed=2)
    load_tensors(model, {name: t.half() for name, t in tensors_of(model).items()})
    assert {t.dtype for t in tensors_of(model).values()} == {torch.float32}


def test_another_digest_is_refused(toy_weights: Path) -> None:
    wrong = dataclasses.replace(catalog.backbone("toy"), sha256="0" * 64)
    with pytest.raises(WeightsError, match="000000") as caught:
        load_backbone(wrong, weights_dir=toy_weights)
    assert caught.value.code == "weights_digest_mismatch"


def test_missing_weights_say_where_to_put_them(toy_weights: Path, tmp_path: Path) -> None:
    spec = catalog.backbone("toy")
    assert find_weights(spec, weights_dir=toy_weights).folder == toy_weights / "toy"
    with pytest.raises(WeightsError, match=str(tmp_path / "toy")):
        find_weights(spec, weights_dir=tmp_path)
    with pytest.raises(WeightsError, match="weights_dir"):
        load_backbone(spec)


def test_loading_is_strict() -> None:
    model = toy.Toy.from_config(toy.CONFIG, seed=2)
    good = tensors_of(model)
    with pytest.raises(WeightsError, match=r"output\.bias"):
        load_tensors(model, {k: v for k, v in good.items() if k != "output.bias"})
    with pytest.raises(WeightsError, match="surplus"):
        load_tensors(model, {**good, "surplus": torch.ones(1)})
    with pytest.raises(WeightsError, match=r"output\.bias"):
        load_tensors(model, {**good, "output.bias": torch.ones(1)})


def test_an_unknown_backbone_lists_the_known() -> None:
    with pytest.raises(UnknownName, match="temper-tiny"):
        build("timer", {}, seed=0)


def test_building_leaves_the_global_generator(toy_weights: Path) -> None:
    before = torch.get_rng_state()
    one, again = (build("toy", toy.CONFIG, seed=4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert save(tensors_of(one)) == save(tensors_of(again))


@pytest.mark.parametrize("name", sorted(catalog.METHODS))
def test_method_entries_name_real_classes(name: str) -> None:
    from tsfm import methods
    from tsfm.methods.base import Method

    spec = catalog.method(name)
    assert spec.name == name
    if name == catalog.AUTO:
        assert spec.implementation is None
        return
    assert isinstance(methods.create(name, spec.config()), Method)
    assert not spec.trains or "*" in spec.learning_rate


@pytest.mark.parametrize("name", sorted(catalog.BACKBONES))
def test_backbone_entries_are_consistent(name: str) -> None:
    spec = catalog.backbone(name)
    assert spec.name == name
    assert set(spec.methods) <= set(catalog.METHODS)
    assert set(spec.unsupported_methods).isdisjoint(spec.methods)
    assert spec.prediction_length <= spec.max_prediction_length
    assert list(spec.quantile_levels) == sorted(spec.quantile_levels)
