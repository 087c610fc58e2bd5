"""What a job starts from: the published weights, or on request random ones, which are never called pretrained."""

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tsfm.backbones import build, implementation
from tsfm.backbones.base import Backbone
from tsfm.backbones.weights import Base, pretrained, tensors_of
from tsfm.configs import RandomStart
from tsfm.request import random_start
from tsfm.spec import BackboneSpec


def base_of(spec: BackboneSpec, initialisation: str | Mapping[str, Any], *, weights_dir: Path | None) -> Base:
    """The base that a request's, or a manifest's, `initialisation` names; `WeightsError` where weights are missing."""
    start = random_start(initialisation)
    return pretrained(spec, weights_dir=weights_dir) if start is None else random_base(spec, start)


def random_base(spec: BackboneSpec, start: RandomStart) -> Base:
    """The architecture of `spec` with its own initialisation under `start.seed`: the same digest on every machine whose
    torch draws the same numbers."""
    fresh = partial(_random, spec, start)
    return Base(spec=spec, digest=f"sha256:{_tensors_sha256(fresh())}", fresh=fresh, is_pretrained=False)


def _random(spec: BackboneSpec, start: RandomStart) -> Backbone:
    made = implementation(spec)
    published = made.configs[spec.name]
    config = made.shrunk(published) if start.size == "tiny" else published
    return build(spec, config, seed=start.seed).eval()


def _tensors_sha256(model: Backbone) -> str:
    """Of names, shapes and float32 bytes, by name."""
    found = hashlib.sha256()
    for name, t in sorted(tensors_of(model).items()):
        found.update(f"{name} {list(t.shape)}\n".encode())
        found.update(t.contiguous().cpu().numpy().tobytes())
    return found.hexdigest()
