"""Pretrained weights: found by name, verified by digest, loaded strictly. Only safetensors; nothing is unpickled."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tsfm.artifact import file_sha256
from tsfm.backbones import build
from tsfm.backbones.base import Backbone
from tsfm.backbones.places import CONFIG, WEIGHTS, find_weights
from tsfm.catalog import BackboneSpec
from tsfm.errors import WeightsError


def load_backbone(spec: BackboneSpec, *, weights_dir: Path | None = None) -> Backbone:
    """The pretrained network of `spec` in float32 and eval mode.

    Shipped checkpoints come first, then `weights_dir/<name>/`. Raises `WeightsError` naming the missing file, a digest
    that is not the catalogue's, or tensors that do not fit.
    """
    directory = find_weights(spec, weights_dir=weights_dir)
    weights = directory / WEIGHTS
    found = file_sha256(weights)
    if found != spec.sha256:
        raise WeightsError(
            f"{weights} hashes to sha256 {found}, but the catalogue names {spec.sha256} for {spec.name}: "
            "fetch the file again, nothing else is served under this name.",
            code="weights_digest_mismatch",
        )
    config = json.loads((directory / CONFIG).read_bytes())
    model = build(spec, config, seed=0)
    load_tensors(model, load_file(weights))
    return model.eval()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter (a tied one once, under its first name) and every persistent buffer, detached."""
    parameters = dict(model.named_parameters())
    every_name = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: t for name, t in model.state_dict().items() if name not in every_name}
    return {name: t.detach() for name, t in {**parameters, **buffers}.items()}


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies `tensors` in, cast to the model's dtype; names and shapes must agree exactly (`WeightsError`)."""
    own = tensors_of(model)
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        raise WeightsError(f"The weights do not fit this architecture: missing {missing[:5]}, unexpected {extra[:5]}.")
    wrong = [name for name, t in own.items() if t.shape != tensors[name].shape]
    if wrong:
        raise WeightsError(f"The weights do not fit this architecture: other shapes in {wrong[:5]}.")
    with torch.no_grad():
        for name, t in own.items():
            t.copy_(tensors[name])
