"""Pretrained weights: found by name, verified by digest, loaded strictly. Only safetensors; nothing is unpickled."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tsfm.artifact import file_sha256
from tsfm.backbones import build, implementation
from tsfm.backbones.base import Backbone
from tsfm.backbones.places import Checkpoint, find_weights
from tsfm.catalog import BackboneSpec
from tsfm.errors import ConfigError, WeightsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What a job starts from: the same network as often as it is asked for, and which one that is."""

    spec: BackboneSpec
    digest: str
    """ "sha256:…", as manifests, adapters and answers name it."""
    fresh: Callable[[], Backbone]
    """Another copy, in float32 and eval mode on the CPU."""
    is_pretrained: bool = True
    """False of random weights: they are never served as they are."""


def pretrained(spec: BackboneSpec, *, weights_dir: Path | None) -> Base:
    """The published weights; raises what `find_weights` does, and opens nothing yet."""
    checkpoint = find_weights(spec, weights_dir=weights_dir)
    return Base(spec=spec, digest=checkpoint.digest, fresh=partial(open_checkpoint, checkpoint))


def load_backbone(spec: BackboneSpec, *, weights_dir: Path | None = None) -> Backbone:
    """The pretrained network of `spec` in float32 and eval mode.

    Shipped checkpoints come first, then `weights_dir/<name>/`. Raises `WeightsError` naming the missing file, a digest
    that is not the pinned one, or tensors that do not fit.
    """
    return pretrained(spec, weights_dir=weights_dir).fresh()


def open_checkpoint(checkpoint: Checkpoint) -> Backbone:
    """The network that lies there; `WeightsError` when the file is not the pinned one or does not fit."""
    _verify(checkpoint)
    with _named(checkpoint.spec, checkpoint.folder):
        model = build(checkpoint.spec, published_config(checkpoint.spec, checkpoint.config), seed=0)
    tensors = type(model).published_tensors(load_file(checkpoint.weights))
    load_tensors(model, tensors, optional=type(model).fresh_parameters)
    return model.eval()


def published_config(spec: BackboneSpec, path: Path | None) -> Mapping[str, Any]:
    """The architecture as it was published: the file's, or the class's own where none was."""
    if path is None:
        return implementation(spec).configs[spec.name]
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise WeightsError(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path.name} holds no JSON object.")
    return found


def check_published(spec: BackboneSpec, weights: Path, config: Path | None, *, shown: Path) -> None:
    """Whether a published file fits the architecture, by the names and shapes in its header: `WeightsError` if not,
    which names the files as `shown`, where whoever asks knows them.

    Nothing of its size is allocated, so that a network of any size is checked on any machine.
    """
    with _named(spec, shown):
        try:
            with safe_open(weights, framework="pt") as file:
                held = {name: _on_meta(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        except SafetensorError as error:
            raise WeightsError(f"it is no safetensors file: {error}.") from error
        with torch.device("meta"):
            model = build(spec, published_config(spec, config), seed=0)
        _check_fit(tensors_of(model), type(model).published_tensors(held), optional=type(model).fresh_parameters)


@contextmanager
def _named(spec: BackboneSpec, shown: Path) -> Iterator[None]:
    """Which file it is that does not fit, and which backbone's it was to be."""
    try:
        yield
    except (WeightsError, ConfigError) as error:
        raise WeightsError(f"{shown} cannot serve as {spec.name}: {error.message}") from error
    except (KeyError, TypeError, ValueError) as error:  # what a published class makes of a config that is not its own
        said = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"{shown} cannot serve as {spec.name}: its config.json does not describe this architecture "
            f"({type(error).__name__}: {said})."
        ) from error


def _on_meta(part: Any) -> Tensor:
    dtype = _DTYPES.get(part.get_dtype(), torch.float32)
    return torch.empty(part.get_shape(), dtype=dtype, device="meta")


_DTYPES = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "BOOL": torch.bool}


_verified: dict[Path, tuple[str, tuple[int, ...]]] = {}
"""Weights files this process has hashed: digest, and what the file looked like then; a run opens its base often."""


def _verify(checkpoint: Checkpoint) -> None:
    path = checkpoint.weights.resolve()
    stat = path.stat()
    looks = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    known = _verified.get(path)
    found = known[0] if known is not None and known[1] == looks else file_sha256(path)
    if found != checkpoint.sha256:
        raise WeightsError(
            f"{checkpoint.weights} hashes to sha256 {found}, but {checkpoint.sha256} is the {checkpoint.spec.name} of "
            "this machine: fetch the file again, nothing else is served under this name.",
            code="weights_digest_mismatch",
        )
    _verified[path] = (found, looks)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter (a tied one once, under its first name) and every persistent buffer, detached."""
    parameters = dict(model.named_parameters())
    every_name = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: t for name, t in model.state_dict().items() if name not in every_name}
    return {name: t.detach() for name, t in {**parameters, **buffers}.items()}


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], *, optional: frozenset[str] = frozenset()) -> None:
    """Copies `tensors` in, cast to the model's dtype; names and shapes must agree exactly (`WeightsError`).

    Names in `optional` may be left out: they keep what the model has.
    """
    own = _check_fit(tensors_of(model), tensors, optional=optional)
    with torch.no_grad():
        for name, t in own.items():
            t.copy_(tensors[name])


def _check_fit(
    every: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, optional: frozenset[str]
) -> dict[str, Tensor]:
    """Those of `every` that `tensors` fill; `WeightsError` where names or shapes differ."""
    own = {name: t for name, t in every.items() if name in tensors or name not in optional}
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        raise WeightsError(f"The weights do not fit this architecture: missing {missing[:5]}, unexpected {extra[:5]}.")
    wrong = [name for name, t in own.items() if t.shape != tensors[name].shape]
    if wrong:
        raise WeightsError(f"The weights do not fit this architecture: other shapes in {wrong[:5]}.")
    return own
