"""Rival recipes of full fine-tuning, for the benchmarks alone: SAM, SWA, L2-SP, and shrink-and-perturb.

They are what reviewers of SFF asked to see beside it (papers.md §2.4). Each is a `Method` in the product's own loop,
with the settings of papers.md §2.9; `listed()` puts them among the methods for as long as a benchmark runs.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from tsfm import catalog
from tsfm.backbones.base import Backbone, Batch
from tsfm.methods.base import Method, train_everything
from tsfm.methods.sff import twin_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SAMConfig:
    """Sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412)."""

    rho: float = 0.05
    """Length of the ascent; papers.md §2.9 tries 0.01, 0.05 and 0.1."""


class SAM(Method):
    """Steps by the gradient taken at θ + ρ·g/‖g‖, the worst nearby point to first order."""

    config: SAMConfig

    def prepare(self, backbone: Backbone) -> Backbone:
        return train_everything(backbone)

    def gradients(
        self, model: Backbone, batch: Batch, *, weight: float, precision: AbstractContextManager[Any]
    ) -> Tensor:
        """Two passes over each micro-batch; the loss answered is the one at θ."""
        parameters = [p for _, p in self.trainable_parameters(model)]
        with precision:
            loss = model.loss(batch)
        slopes = torch.autograd.grad(loss, parameters, materialize_grads=True)
        norm = torch.stack([slope.norm() for slope in slopes]).norm().clamp(min=1e-12)
        here = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, slope in zip(parameters, slopes, strict=True):
                p.add_(slope, alpha=float(self.config.rho / norm))
        super().gradients(model, batch, weight=weight, precision=precision)
        with torch.no_grad():
            for p, before in zip(parameters, here, strict=True):
                p.copy_(before)
        return loss.detach()


@dataclass(frozen=True, slots=True, kw_only=True)
class SWAConfig:
    """Stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407)."""

    first_share: float = 0.5
    """Share of the steps before averaging begins; papers.md §2.9 averages the last half."""


class SWA(Method):
    """Ends with the mean of the weights after every step of the last half; only that mean may be kept."""

    config: SWAConfig

    def __init__(self, config: SWAConfig) -> None:
        super().__init__(config)
        self.mean: dict[str, Tensor] = {}
        self.count = 0

    def prepare(self, backbone: Backbone) -> Backbone:
        return train_everything(backbone)

    @torch.no_grad()
    def after_step(self, model: Backbone, *, step: int, total_steps: int) -> None:
        if step <= self.config.first_share * total_steps:
            return
        self.count += 1
        for name, p in self.trainable_parameters(model):
            if name not in self.mean:
                self.mean[name] = p.detach().clone()
            self.mean[name] = self.mean[name].to(p.device).lerp(p.detach(), 1 / self.count)
        if step == total_steps:
            for name, p in self.trainable_parameters(model):
                p.copy_(self.mean[name])

    def eligible(self, step: int, total_steps: int) -> bool:
        return step == total_steps

    def state(self) -> dict[str, Tensor]:
        return {**{f"mean.{name}": t for name, t in self.mean.items()}, "count": torch.tensor(self.count)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.mean = {name.removeprefix("mean."): t for name, t in state.items() if name != "count"}
        self.count = int(state["count"])


@dataclass(frozen=True, slots=True, kw_only=True)
class L2SPConfig:
    """L2-SP (Li, Grandvalet and Davoine 2018, arXiv 1802.01483)."""

    beta: float = 0.01
    """Strength of β/2·‖θ − θ₀‖²; papers.md §2.9 tries 1e-3, 1e-2 and 1e-1."""


class L2SP(Method):
    """Full fine-tuning held by a spring to the pretrained weights."""

    config: L2SPConfig

    def __init__(self, config: L2SPConfig) -> None:
        super().__init__(config)
        self.start: dict[str, Tensor] = {}

    def prepare(self, backbone: Backbone) -> Backbone:
        train_everything(backbone)
        self.start = {name: p.detach().clone() for name, p in self.trainable_parameters(backbone)}
        return backbone

    def gradients(
        self, model: Backbone, batch: Batch, *, weight: float, precision: AbstractContextManager[Any]
    ) -> Tensor:
        """The loss answered is the task's own, without the spring."""
        loss = super().gradients(model, batch, weight=weight, precision=precision)
        for name, p in self.trainable_parameters(model):
            self.start[name] = self.start[name].to(p.device)
            pull = weight * self.config.beta * (p.detach() - self.start[name])
            p.grad = pull if p.grad is None else p.grad.add_(pull)
        return loss


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkPerturbConfig:
    """Shrink and perturb (Ash and Adams 2020, arXiv 1910.08475), in the sizes of an SFF blend (papers.md §2.1)."""

    alpha: float = 0.9
    parts: Literal["both", "shrink", "noise"] = "both"
    """"shrink" is SFF's blend in expectation, "noise" the pretrained weights with the same spread added, "both" the two
    together: SFF with a Gaussian of the twin's mean and deviation, tensor by tensor, in the twin's place."""
    twin_seed: int = 0


class ShrinkPerturb(Method):
    config: ShrinkPerturbConfig

    def prepare(self, backbone: Backbone) -> Backbone:
        alpha, parts = self.config.alpha, self.config.parts
        generator = torch.Generator().manual_seed(self.config.twin_seed)
        kept = backbone.unused_parameters | backbone.fresh_parameters
        twin = dict(twin_of(backbone, seed=self.config.twin_seed).named_parameters())
        with torch.no_grad():
            for name, p in backbone.named_parameters():
                if name in kept:
                    continue
                draw = twin[name].detach()
                noise = draw.std(correction=0) * torch.randn(p.shape, generator=generator)
                if parts != "noise":
                    # What is drawn around zero shrinks towards zero; the gain of a norm towards the one it starts from.
                    p.mul_(alpha).add_((1 - alpha) * _expected(draw))
                if parts != "shrink":
                    p.add_(noise, alpha=1 - alpha)
        return train_everything(backbone)


def _expected(draw: Tensor) -> float:
    """The mean that an initialisation has: the constant where it is one, else 0 (weights are drawn around it)."""
    first = draw.flatten()[0]
    return float(first) if bool((draw == first).all()) else 0.0


def _spec(name: str, summary: str, method: type[Method], config: type[Any]) -> catalog.MethodSpec:
    return catalog.MethodSpec(
        name=name,
        summary=summary,
        implementation=f"{_MODULE}:{method.__name__}",
        config=config,
        learning_rate=catalog.METHODS["full"].learning_rate,
    )


_MODULE = "benchmark_trainers"
TRAINERS: dict[str, catalog.MethodSpec] = {
    spec.name: spec
    for spec in (
        _spec("sam", "Full fine-tuning by sharpness-aware steps.", SAM, SAMConfig),
        _spec("swa", "Full fine-tuning that ends with the mean of the last half's weights.", SWA, SWAConfig),
        _spec("l2_sp", "Full fine-tuning held to the pretrained weights.", L2SP, L2SPConfig),
        _spec("shrink_perturb", "Full fine-tuning from shrunk weights with noise.", ShrinkPerturb, ShrinkPerturbConfig),
    )
}


@contextlib.contextmanager
def listed() -> Iterator[None]:
    """The trainers stand in the catalogue, for every backbone that can be fully fine-tuned, until the end."""
    methods, backbones = dict(catalog.METHODS), dict(catalog.BACKBONES)
    place = f"tsfm.methods.{_MODULE}"
    sys.modules[place] = sys.modules[__name__]  # where `methods.create` looks for an implementation
    catalog.METHODS.update(TRAINERS)
    for name, spec in backbones.items():
        if "full" in spec.methods:
            catalog.BACKBONES[name] = dataclasses.replace(spec, methods=(*spec.methods, *TRAINERS))
    try:
        yield
    finally:
        del sys.modules[place]
        for table, before in ((catalog.METHODS, methods), (catalog.BACKBONES, backbones)):
            table.clear()
            table.update(before)
