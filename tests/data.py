"""Where real data and reference numbers lie; tests that need them skip and say so when the folder is absent."""

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


def data_root() -> Path:
    return Path(os.environ.get("TEMPER_DATA", _ROOT.parent / "shared" / "data"))


def golden_root() -> Path:
    return Path(os.environ.get("TEMPER_GOLDEN", _ROOT.parent / "shared" / "golden"))


def data_path(relative: str) -> Path:
    """A file of the real data sets, or a skip that names what is missing."""
    path = data_root() / relative
    if not path.exists():
        pytest.skip(f"real data is absent: {relative} (set TEMPER_DATA)")
    return path
