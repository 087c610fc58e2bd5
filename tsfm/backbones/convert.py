"""Pickled upstream checkpoints to tensors: offline, once, by an operator (`temper backbones add`).

Gateway, worker and library never come here: what they open is the safetensors file that this leaves. Even so the pickle
is read by torch's restricted unpickler, which builds tensors and plain containers and calls nothing else but what is
named below.
"""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsfm.errors import WeightsError

ALLOWED: tuple[type, ...] = (argparse.Namespace,)
"""What published checkpoints hold beside tensors: UniTS keeps the command line it was trained with."""
STATES = ("state_dict", "student", "model_state_dict", "model")
"""Entries under which training frameworks keep the weights: Lightning (Timer v1), UniTS's distillation, others."""


def tensors_from_pickle(path: Path) -> dict[str, Tensor]:
    """The network's tensors by their published names; optimizer, counters and options are left behind.

    `WeightsError` when the file asks for anything but tensors, plain containers and `ALLOWED`.
    """
    try:
        with torch.serialization.safe_globals(list(ALLOWED)):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's text advises to switch its check off: not repeated
        raise WeightsError(
            f"{path} asks for more than tensors and plain containers, or is no checkpoint at all, so it is not read: "
            "fetch the published file again.",
            code="unsafe_checkpoint",
        ) from error
    except Exception as error:  # a damaged file makes torch's readers fail in any way, and each means the same
        raise WeightsError(
            f"{path} is damaged or no checkpoint, so it is not read: fetch the published file again.",
            code="unsafe_checkpoint",
        ) from error
    state = _state(found)
    if state is None:
        raise WeightsError(f"{path} holds no tensors by name.", code="unsafe_checkpoint")
    # Of their own, so that what several names share or what is a view of more is stored once each and whole.
    return {name: t.detach().clone().contiguous() for name, t in state.items()}


def _state(found: Any) -> dict[str, Tensor] | None:
    if not isinstance(found, Mapping):
        return None
    for name in STATES:
        if isinstance(found.get(name), Mapping):
            found = found[name]
            break
    state = {str(name): t for name, t in found.items() if isinstance(t, Tensor)}
    return state or None
