"""Tuned networks from disk; and adapters to disk: a standard PEFT LoRA folder, written and opened without `peft`.

`adapter_config.json` and `adapter_model.safetensors` are what stock `peft` reads (`PeftModel.from_pretrained`); a head
that was trained or replaced lies beside them as `head.safetensors`, under the backbone's own parameter names. Opening
one here adds scaling * B @ A to the pretrained weights in float32, so that serving costs what the backbone costs.

Shapes: a module's A is [r, in], its B [out, r].
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tsfm.artifact import WEIGHTS, Artifact
from tsfm.backbones import build, fitted
from tsfm.backbones.base import Backbone
from tsfm.backbones.weights import Base, load_tensors
from tsfm.catalog import BackboneSpec
from tsfm.configs import QUANTILES
from tsfm.errors import ArtifactError, WeightsError

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
HEAD_WEIGHTS = "head.safetensors"
_PREFIX = "base_model.model."
"""What `peft` puts before the names of the network it wraps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """The change of one linear: its weight becomes W + alpha / r * B @ A."""

    a: Tensor
    """[r, in]"""
    b: Tensor
    """[out, r]"""
    alpha: float

    def __post_init__(self) -> None:
        assert self.a.shape[0] == self.b.shape[1] > 0, "a module without rank is left out"

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


def adapter_files(
    modules: Mapping[str, LowRank],
    spec: BackboneSpec,
    *,
    rank: int,
    alpha: float,
    head: Mapping[str, Tensor] | None = None,
) -> dict[str, bytes]:
    """Contents by file name. `modules` by full module name; `rank` and `alpha` are what most of them have.

    `head` are parameters under the backbone's `head_name`, by full name, where they no longer are the pretrained ones.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in sorted(modules.items()):
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = module.a
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = module.b
    files = {
        ADAPTER_WEIGHTS: _packed(tensors),
        ADAPTER_CONFIG: (json.dumps(_config(modules, spec, rank, alpha), indent=2, sort_keys=True) + "\n").encode(),
    }
    if head:
        files[HEAD_WEIGHTS] = _packed(head)
    return files


def exactly(name: str) -> str:
    """The regex that matches this module alone: `peft` reads unanchored patterns as endings of names."""
    return f"^{re.escape(name)}$"


def _config(modules: Mapping[str, LowRank], spec: BackboneSpec, rank: int, alpha: float) -> dict[str, Any]:
    """What `peft.LoraConfig` needs and no more, so that its older and newer versions read it alike."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": spec.repo or spec.name,
        "revision": spec.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": f"^({'|'.join(re.escape(name) for name in sorted(modules))})$",
        "rank_pattern": {exactly(n): m.rank for n, m in sorted(modules.items()) if m.rank != rank},
        "alpha_pattern": {exactly(n): _plain(m.alpha) for n, m in sorted(modules.items()) if m.alpha != alpha},
    }


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: t.detach().to("cpu", torch.float32).contiguous() for name, t in tensors.items()})


def open_network(artifact: Artifact, spec: BackboneSpec, base_of: Callable[[], Base]) -> Backbone:
    """The network an artifact holds, on CPU: whole, or the one it started from with the adapter folded in.

    `base_of` finds what it started from and is asked for adapters only. `ArtifactError` when the files do not fit the
    backbone. `WeightsError` when an adapter's base is not on this machine, or others lie there now.
    """
    facts = artifact.manifest
    weights = facts.get("weights", {"kind": "full"})  # artifacts of 0.1 are whole and do not say so
    if weights["kind"] == "adapter":
        base = base_of()
        if weights["backbone_digest"] != base.digest:
            raise WeightsError(
                f"This adapter was trained on the weights {weights['backbone_digest']} of {spec.name} and opens on no "
                f"others, but this machine has {base.digest}.",
                code="weights_digest_mismatch",
            )
        model = fitted(base.fresh(), spec, facts)
        if weights.get("head") == QUANTILES:
            model.put_quantile_head(seed=0)  # the file has its numbers
        return fold(model, artifact)
    model = build(spec, facts["backbone"]["config"], seed=0)
    try:
        load_tensors(model, load_file(artifact.file(WEIGHTS)))
    except WeightsError as error:
        raise ArtifactError(error.message) from error
    return model


def fold(model: Backbone, artifact: Artifact) -> Backbone:
    """The adapter of `artifact` added to the pretrained `model`, in place; `ArtifactError` when it does not fit."""
    for name, module in _modules(artifact).items():
        linear = _linear(model, name)
        if linear.weight.shape != (module.b.shape[0], module.a.shape[1]):
            raise ArtifactError(f"The adapter does not fit this backbone: {name} has another shape.")
        change = module.alpha / module.rank * (module.b @ module.a)
        # A new tensor: another layer that shares the pretrained one keeps it, as it did while this was trained.
        linear.weight = nn.Parameter((linear.weight.detach().float() + change).to(linear.weight.dtype))
    if HEAD_WEIGHTS in artifact.manifest["files"]:
        _put(model, load_file(artifact.file(HEAD_WEIGHTS)))
    return model


def _modules(artifact: Artifact) -> dict[str, LowRank]:
    config = json.loads(artifact.file(ADAPTER_CONFIG).read_bytes())
    tensors = load_file(artifact.file(ADAPTER_WEIGHTS))
    modules: dict[str, LowRank] = {}
    for key in (k for k in tensors if k.endswith(".lora_A.weight")):
        name = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        alpha = config["alpha_pattern"].get(exactly(name), config["lora_alpha"])
        b = tensors.get(key.replace(".lora_A.", ".lora_B."))
        if b is None:
            raise ArtifactError(f"The adapter holds one half of {name} only.")
        modules[name] = LowRank(a=tensors[key].float(), b=b.float(), alpha=float(alpha))
    return modules


def _linear(model: Backbone, name: str) -> nn.Linear:
    module = dict(model.named_modules()).get(name)
    if not isinstance(module, nn.Linear):
        raise ArtifactError(f"The adapter does not fit this backbone: it has no linear {name}.")
    return module


def _put(model: Backbone, tensors: Mapping[str, Tensor]) -> None:
    own = dict(model.named_parameters())
    for name, t in tensors.items():
        if name not in own or own[name].shape != t.shape:
            raise ArtifactError(f"The stored head does not fit this backbone: {name}.")
        with torch.no_grad():
            own[name].copy_(t)
