"""Where a result comes from: digests of data and code, versions of libraries. Nothing here knows a clock or a host."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tsfm.series.frame import SeriesFrame

LIBRARIES = ("torch", "numpy", "safetensors")


def frame_sha256(frame: SeriesFrame) -> str:
    """Digest of the series themselves: ids, grid and values (every NaN alike)."""
    h = hashlib.sha256(json.dumps([frame.item_ids, frame.freq, frame.timezone]).encode())
    h.update(np.ascontiguousarray(frame.offsets).tobytes())
    h.update(np.ascontiguousarray(frame.starts).tobytes())
    h.update(np.where(np.isnan(frame.values), np.nan, frame.values).tobytes())
    return h.hexdigest()


@cache
def code_sha256() -> str:
    """Digest of this package's source: the code version of an installation without a repository."""
    root = Path(__file__).parent
    h = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        h.update(f"{path.relative_to(root).as_posix()}\n".encode())
        h.update(path.read_bytes())
    return h.hexdigest()


def library_versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def identity_of(facts: Mapping[str, Any]) -> str:
    """Digest of plain JSON facts: two runs with the same one may share a stored state."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
