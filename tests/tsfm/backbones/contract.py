"""The networks that the contract tests run on: every class of the catalogue once, at its tiny size.

A checkpoint whose class shrinks to another size than its first one (another context, say) is in `OTHER_SIZES`; one that
shrinks to a size that is there already runs nothing again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tsfm import backbone_table
from tsfm.backbones import implementation
from tsfm.backbones.base import Backbone, Batch
from tsfm.spec import BackboneSpec

NAN = torch.nan
LONGEST_HEAD = 96
"""A random head is drawn for at most so many steps."""


RESTING = {"Moirai1": r"^param_proj\.proj\.components\.1\.loc\."}
"""By class: parameters whose gradient is exactly 0 while no target is near. Moirai's second component is a normal of
deviation 0.001: no point of a random network's batch lies within the 13 that float32 can tell from nothing."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One class at one tiny size."""

    spec: BackboneSpec
    cls: type[Backbone]
    config: Mapping[str, Any]

    @property
    def native(self) -> int:
        """Steps of one pass; of a random head the steps it is drawn for."""
        limit = self.spec.prediction_length
        return min(limit, LONGEST_HEAD) if self.spec.random_head else limit

    @property
    def beyond(self) -> int:
        """A horizon that needs a second pass, where there is one."""
        return min(self.native + max(2, self.spec.patch_length // 2), self.spec.max_prediction_length)

    @property
    def short(self) -> int:
        """A horizon within one patch."""
        return min(5, self.native)

    @property
    def length(self) -> int:
        """Steps of a context that is no multiple of a patch, and has a few of them."""
        wanted = max(64, 2 * self.spec.patch_length) + self.spec.patch_length // 2
        return min(wanted, self.spec.context_length)

    @property
    def resting(self) -> set[str]:
        """Parameters that a method trains and a few steps of a random network need not move."""
        pattern = RESTING.get(self.cls.__name__)
        return {name for name, _ in self.model.named_parameters() if pattern and re.match(pattern, name)}

    def fresh(self, seed: int = 0) -> Backbone:
        """Random weights, with a head where one has to be drawn, in eval mode."""
        model = self.cls.from_config(self.config, seed=seed)
        model.fit_to(self.native, seed=seed)
        return model.eval()

    @property
    def model(self) -> Backbone:
        """The same network for whoever only looks: without gradients."""
        return _kept(self.spec.name)

    def rows(self, count: int = 4, length: int | None = None, *, seed: int = 0, level: float = 0.0) -> Tensor:
        """[count, length] sines with noise, of order one around `level`."""
        return sines(count, self.length if length is None else length, seed=seed) + level

    def batch(self, count: int = 4, horizon: int | None = None, *, seed: int = 0) -> Batch:
        steps = self.short if horizon is None else horizon
        rows = self.rows(count, self.length + steps, seed=seed)
        return Batch(context=rows[:, : self.length], target=rows[:, self.length :])


def sines(count: int, length: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(length, dtype=torch.float32)
    phase = torch.arange(count, dtype=torch.float32)[:, None]
    return 1.2 * torch.sin(t / 3 + phase) + 0.2 * torch.randn(count, length, generator=generator)


def hard_rows(case: Case) -> Tensor:
    """[7, T] whole; padded on the left; with gaps; constant; constant zero; one value; nothing at all."""
    x = case.rows(7)
    length = x.shape[1]
    x[1, : length // 3] = NAN
    x[2, 7:19] = NAN
    x[2, 2 * length // 3 : 2 * length // 3 + 3] = NAN
    x[3] = 0.7
    x[4] = 0.0
    x[5, : length // 2] = NAN
    x[5, length // 2 + 1 :] = NAN
    x[6] = NAN
    return x


def padded(x: Tensor, steps: int) -> Tensor:
    """`x` with missing points before it."""
    return F.pad(x, (steps, 0), value=NAN)


def _found() -> list[Case]:
    cases: dict[tuple[type[Backbone], str], Case] = {}
    for spec in backbone_table.SPECS:
        cls = implementation(spec)
        config = cls.shrunk(cls.configs[spec.name])
        cases.setdefault((cls, repr(sorted(config.items()))), Case(spec=spec, cls=cls, config=config))
    return list(cases.values())


_SIZES = {case.spec.name: case for case in _found()}
CASES = list({case.cls: case for case in reversed(_SIZES.values())}.values())[::-1]
"""The first size of every class."""
OTHER_SIZES = [case for case in _SIZES.values() if case not in CASES]
every_network = pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec.name)
every_checkpoint = pytest.mark.parametrize("spec", backbone_table.SPECS, ids=lambda spec: spec.name)


@cache
def _kept(name: str) -> Backbone:
    return _SIZES[name].fresh().requires_grad_(False)
