"""The state of a run that a kill must not lose: one safetensors file per stage, written aside, fsynced, renamed.

Tensors and scalars share the file (scalars as JSON in its header), so that no crash can leave one without the other.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from tsfm.artifact import sync_directory, write_synced

_HEADER = "temper"


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    tensors: dict[str, Tensor]
    scalars: dict[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors saved under `prefix/`, without it."""
        return {k.removeprefix(prefix + "/"): t for k, t in self.tensors.items() if k.startswith(prefix + "/")}


def save_state(path: Path, groups: Mapping[str, Mapping[str, Tensor]], scalars: Mapping[str, Any]) -> None:
    """Replaces `path` in one step. `groups` are tensors by group name, `scalars` plain JSON."""
    flat = {
        f"{group}/{name}": t.detach().to("cpu", copy=True).contiguous()
        for group, ts in groups.items()
        for name, t in ts.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".partial")
    write_synced(staging, save(flat, metadata={_HEADER: json.dumps(scalars)}))
    os.replace(staging, path)
    sync_directory(path.parent)


def load_state(path: Path) -> Saved | None:
    """What `save_state` wrote last, in memory; None when nothing was."""
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as f:
        scalars = json.loads(f.metadata()[_HEADER])
        tensors = {name: f.get_tensor(name).clone() for name in f.keys()}  # noqa: SIM118 - not a mapping
    return Saved(tensors=tensors, scalars=scalars)


def read_scalars(path: Path) -> dict[str, Any] | None:
    """The scalars alone; None when there is no state."""
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as f:
        scalars: dict[str, Any] = json.loads(f.metadata()[_HEADER])
    return scalars


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The global generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's per-parameter state as `index/name`."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{name}": t for index, values in state.items() for name, t in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, t in tensors.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = t
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
