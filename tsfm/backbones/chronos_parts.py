"""What the Chronos families share: layers of the package under our roof, the window's scale, tied tensors, quantiles.

`chronos-forecasting` (Amazon, Apache-2.0) is the publication's own code, maintained, and stands on the T5 layers of
`transformers`. Only modules that build such a network import it, so that no other backbone pays for it.

Shapes: B rows, T steps, K numbers of one row, Q quantile levels, H steps. NaN means missing.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from tsfm.backbones.base import Backbone
from tsfm.errors import WeightsError

logging.getLogger("transformers").setLevel(logging.CRITICAL)  # its advice is for whoever calls it, not for our users

SHARED = "shared.weight"
"""The first name of the embedding of tokens, which every stack of a T5 holds too."""
SCALE_OF_CONSTANTS = 1e-5
"""What the package divides by where a window does not vary."""


def initialised(network: Callable[[Any], nn.Module], config: Any, *, seed: int) -> nn.Module:
    """`network(config)` with the publication's own initialisation drawn from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(config)


def adopt(backbone: Backbone, network: nn.Module) -> None:
    """Puts every layer of a network of the package into `backbone`, under the name it was published with.

    Without a prefix checkpoints fit as they are, and stock `peft` opens our adapters on the package's own class.
    """
    assert not list(network.parameters(recurse=False)), "a parameter would be left behind"
    for name, child in network.named_children():
        if any(True for _ in child.parameters()):
            backbone.add_module(name, child)


def recompute(backbone: Backbone) -> None:
    """Tells the blocks of `transformers` below `backbone` what its `gradient_checkpointing` says."""
    for block in backbone.modules():
        if isinstance(block, GradientCheckpointingLayer):
            block.gradient_checkpointing = backbone.gradient_checkpointing
            object.__setattr__(block, "_gradient_checkpointing_func", partial(checkpoint, use_reentrant=False))


def tied(tensors: Mapping[str, Tensor], copies: Sequence[str]) -> dict[str, Tensor]:
    """`tensors` with the embedding under its first name alone, whichever of its names a checkpoint stores.

    `WeightsError` where two of them hold different numbers, or, of the header of a file (tensors on `meta`), shapes.
    """
    kept = {name: t for name, t in tensors.items() if name not in copies}
    for name in (name for name in copies if name in tensors):
        first, copy = kept.setdefault(SHARED, tensors[name]), tensors[name]
        if first.shape != copy.shape or not (copy.is_meta or torch.equal(first, copy)):
            raise WeightsError(f"{name} and {SHARED} are one tensor in this architecture, but two in these weights.")
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Where a window lies and how wide it is: [B, 1] each, over its observed points."""

    location: Tensor
    scale: Tensor

    @classmethod
    def of(cls, context: Tensor) -> "Scale":
        """Mean and deviation of `context` [B, T], the numbers of the package's `InstanceNorm`.

        A row without variance gets a scale of 1e-5, one without any point 0 and 1. Gradients are finite in both.
        """
        seen = ~context.isnan()
        count = seen.sum(dim=1, keepdim=True)
        location = torch.where(seen, context, 0.0).float().sum(dim=1, keepdim=True) / count.clamp(min=1)
        away = torch.where(seen, context - location, 0.0)
        variance = away.square().sum(dim=1, keepdim=True) / count.clamp(min=1)
        deviation = torch.where(variance > 0, variance, 1.0).sqrt()
        constant = torch.where(count > 0, SCALE_OF_CONSTANTS, 1.0)
        return cls(location=location, scale=torch.where(variance > 0, deviation, constant))

    def into(self, values: Tensor) -> Tensor:
        """[B, H] in the window's scale."""
        return (values.float() - self.location) / self.scale

    def out_of(self, values: Tensor) -> Tensor:
        """[B, Q, H] in the units of the context."""
        return values * self.scale[:, None] + self.location[:, None]


def empirical_quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """[B, Q, H] quantiles at `levels` [Q] of `values` [B, K, H] along K, interpolated linearly; sorted along Q.

    Like `torch.quantile`, which refuses more than 16 million numbers.
    """
    ordered = values.sort(dim=1).values
    place = levels * (values.shape[1] - 1)
    low = place.floor().long()
    high = (low + 1).clamp(max=values.shape[1] - 1)
    share = (place - low)[:, None]
    return ordered[:, low] + share * (ordered[:, high] - ordered[:, low])
