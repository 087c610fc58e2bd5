"""Fine-tuning methods by name: one file each, listed in `tsfm.catalog.METHODS`. They act through `base.Method`'s hooks
in the one training loop (`tsfm/train.py`)."""

import importlib
from typing import TYPE_CHECKING, Any

from tsfm import catalog

if TYPE_CHECKING:
    from tsfm.methods.base import Method


def create(name: str, config: Any) -> "Method":
    """The method `name` with its frozen config; `UnknownName` for a wrong name."""
    implementation = catalog.method(name).implementation
    assert implementation is not None, "`auto` is resolved to a method before one is created"
    module, _, cls = implementation.partition(":")
    method: Method = getattr(importlib.import_module(f"{__name__}.{module}"), cls)(config)
    return method
