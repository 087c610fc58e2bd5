"""Backbones by name: one file per architecture, listed in `tsfm.catalog.BACKBONES`."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from tsfm import catalog
from tsfm.setting import Setting

if TYPE_CHECKING:
    from tsfm.backbones.base import Backbone


def implementation(spec: catalog.BackboneSpec) -> "type[Backbone]":
    """The class a spec names. Imports torch, which importing this package does not."""
    module, _, name = spec.implementation.partition(":")
    loaded = importlib.import_module(module if "." in module else f"{__name__}.{module}")
    return cast("type[Backbone]", getattr(loaded, name))


def fitted(model: "Backbone", spec: catalog.BackboneSpec, facts: Mapping[str, Any]) -> "Backbone":
    """`model`, ready for a method to train or for an adapter to be added to: with a head of its own for the horizon
    where none was published. `facts` is a resolved request, or the manifest of an artifact that it ended in.
    """
    if not Setting.of(facts).reconstructs(spec):
        model.fit_to(spec.tuned_length(int(facts["prediction_length"])), seed=int(facts["seed"]))
    return model


def build(backbone: str | catalog.BackboneSpec, config: Mapping[str, Any], *, seed: int) -> "Backbone":
    """The architecture of `config` with its random initialisation under `seed`; `UnknownName` for a wrong name."""
    spec = catalog.backbone(backbone) if isinstance(backbone, str) else backbone
    return implementation(spec).from_config(config, seed=seed)
