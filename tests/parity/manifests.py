"""Key manifests: the names and shapes of published checkpoints, compared with our networks at their published size.

The networks stand on the meta device: 300 million parameters cost nothing there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from tests.data import golden_root
from tsfm.backbones.base import Backbone
from tsfm.backbones.weights import tensors_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What one published file holds."""

    checkpoint: str
    tensors: dict[str, tuple[int, ...]]
    """Every stored name, tied ones and buffers among them."""
    parameters: int
    """Trainable elements, tied ones once."""
    buffers: frozenset[str]
    tied: dict[str, str]
    """Name → the name whose tensor it shares."""
    constructor: dict[str, Any]
    """The reference's constructor values."""
    rest: dict[str, Any]
    """Entries that only one family has, e.g. the dataset tokens of UniTS."""


def manifest(file: str) -> Manifest:
    """`golden/key_manifests/<file>.json`, or a skip that names it."""
    path = golden_root() / "key_manifests" / f"{file}.json"
    if not path.exists():
        pytest.skip(f"key manifests are absent: {file} (set TEMPER_GOLDEN)")
    stored = json.loads(path.read_bytes())
    return Manifest(
        checkpoint=stored.pop("checkpoint"),
        tensors={name: tuple(shape) for name, shape in stored.pop("tensors").items()},
        parameters=stored.pop("parameters"),
        buffers=frozenset(stored.pop("buffers", ())),
        tied=stored.pop("tied", {}),
        constructor=stored.pop("constructor", {}),
        rest=stored,
    )


def on_meta(network: type[Backbone], config: Mapping[str, Any]) -> Backbone:
    """The architecture without memory."""
    with torch.device("meta"):
        return network.from_config(config, seed=0)


def assert_published(
    published: Manifest,
    network: type[Backbone],
    config: Mapping[str, Any],
    *,
    prefix: str = "",
    also: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """A file with these names and shapes would load strictly into `network` at `config`, and nothing is left over.

    `prefix` stands before every name in the published file where the manifest leaves it out; `also` are stored tensors
    that the manifest lists elsewhere. `fresh_parameters` are what no file holds.
    """
    model = on_meta(network, config)
    stored = {name: shape for name, shape in published.tensors.items() if name not in published.tied} | dict(also or {})
    file = {prefix + name: torch.empty(shape, device="meta") for name, shape in stored.items()}
    loaded = {name: tuple(t.shape) for name, t in network.published_tensors(file).items()}
    own = {name: tuple(t.shape) for name, t in tensors_of(model).items() if name not in model.fresh_parameters}
    assert loaded == own

    parameters = sum(p.numel() for name, p in model.named_parameters() if name not in model.fresh_parameters)
    assert parameters == published.parameters
    assert_tied(published, model)


def assert_tied(published: Manifest, model: nn.Module) -> None:
    """The same names share a tensor; ours may stand under a further prefix."""
    once = {name for name, _ in model.named_parameters()}
    ours = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once
    assert len(ours) == len(published.tied)
    for theirs in published.tied:
        assert any(name.endswith(theirs) for name in ours), f"{theirs} is not tied"
