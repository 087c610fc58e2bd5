"""Golden sets as they lie under TEMPER_GOLDEN: one folder a family, several weight files of one architecture in it.

A set is found by its folder: its name begins with the family's, alone or before a "-" or "_", so that further sizes of
a family may stand beside it (`ttm`, `ttm-wide`, `ttm_2`, …) and run through the same assertions. A folder of no family
fails `test_sets.py`: numbers nobody compares would pass for parity.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from tests.data import golden_root

FAMILIES = (
    "chronos_2",
    "chronos_bolt",
    "moirai_1",
    "moirai_2",
    "moment",
    "sundial",
    "timer_84m",
    "timer_v1",
    "timesfm_2_5",
    "ttm",
    "units",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenSet:
    """Random weights of one tiny network, its inputs, and what the reference answers."""

    folder: Path
    config: dict[str, Any]

    @property
    def variants(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.safetensors"))

    def constructor(self, variant: str) -> dict[str, Any]:
        return {**self.config["constructor"], **self.config.get("variants", {}).get(variant, {})}

    def weights(self, variant: str) -> dict[str, Tensor]:
        """Stored as float16 that is exact, some as float32; used as float32."""
        return {name: t.float() for name, t in load_file(self.folder / f"{variant}.safetensors").items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        with np.load(self.folder / "io.npz") as stored:
            return {name: stored[name] for name in stored.files}


def golden_sets(family: str) -> list[GoldenSet]:
    """Every set of a family; empty where the reference numbers are absent."""
    assert family in FAMILIES
    return [
        GoldenSet(folder=folder, config=json.loads((folder / "config.json").read_bytes()))
        for folder in set_folders()
        if is_of(folder, family)
    ]


def set_folders() -> list[Path]:
    return [path.parent for path in sorted(golden_root().glob("*/config.json"))]


def is_of(folder: Path, family: str) -> bool:
    return folder.name == family or folder.name.startswith((f"{family}-", f"{family}_"))


def assert_equal(ours: Tensor, reference: NDArray[Any], *, rtol: float, atol: float) -> None:
    """Within float32 rounding; NaN in the reference is not defined there."""
    expected = torch.from_numpy(np.asarray(reference, dtype=np.float32))
    assert ours.shape == expected.shape
    known = ~expected.isnan()
    torch.testing.assert_close(ours[known], expected[known], rtol=rtol, atol=atol)
