"""Where numbers are computed and in which precision."""

import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def default_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def training_precision(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast on CUDA, float32 on CPU (design §5)."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def facts(device: torch.device) -> dict[str, Any]:
    """What decides the last bits of a result: kind of device, precision, threads."""
    return {
        "device": device.type,
        "training_precision": "bf16_autocast" if device.type == "cuda" else "float32",
        "num_threads": torch.get_num_threads(),
    }


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: of this process, or where it computes on a GPU, of that."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory: CUDA has an exception for it, the CPU allocator only a text."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
