"""What two or more published architectures share; nothing here is anybody's whole block.

Shapes: B windows, T steps, N tokens, D width, e width of one attention head. NaN means missing.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class ResidualBlock(nn.Module):
    """`output_layer(act(hidden_layer(x))) + residual_layer(x)`: tokenizer and head of TimesFM, Moirai and Sundial."""

    def __init__(
        self,
        in_width: int,
        hidden_width: int,
        out_width: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(in_width, hidden_width, bias=bias)
        self.output_layer = nn.Linear(hidden_width, out_width, bias=bias)
        self.residual_layer = nn.Linear(in_width, out_width, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.output_layer(self.activation(self.hidden_layer(x)))) + self.residual_layer(x)
        return out


def rotary(positions: Tensor, width: int, *, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [..., N, width / 2], of integer `positions` [..., N]: the angles of rotary embeddings."""
    frequency = base ** (-torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)
    angle = positions.float()[..., None] * frequency
    return angle.cos(), angle.sin()


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` [..., N, e] rotated by angles [..., N, e / 2], where pair k is (k, k + e / 2): the half-split layout."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def through(block: nn.Module, *inputs: Tensor, checkpointing: bool) -> Tensor:
    """`block(*inputs)`; with `checkpointing` its activations are computed again in the backward pass."""
    if checkpointing and torch.is_grad_enabled():
        recomputed: Tensor = checkpoint(block, *inputs, use_reentrant=False)
        return recomputed
    out: Tensor = block(*inputs)
    return out


def fill_gaps(x: Tensor) -> Tensor:
    """`x` [B, T] with every missing point on the line between its neighbours; ends repeat the nearest seen value.

    For networks without a mask. A row without any value is 0 throughout.
    """
    steps = x.shape[1]
    seen = ~x.isnan()
    known = torch.where(seen, x, 0.0)
    at = torch.arange(steps, device=x.device).expand_as(x)
    before = torch.where(seen, at, -1).cummax(dim=1).values
    after = torch.where(seen, at, steps).flip(1).cummin(dim=1).values.flip(1)
    left = torch.where(before < 0, after, before).clamp(0, steps - 1)
    right = torch.where(after >= steps, before, after).clamp(0, steps - 1)
    weight = (at - left) / (right - left).clamp(min=1)
    low, high = known.gather(1, left), known.gather(1, right)
    return torch.where(seen, known, low + weight * (high - low))


def pad_left(x: Tensor, multiple: int) -> Tensor:
    """`x` [B, T] with missing points before it, so that its length is a multiple of `multiple`."""
    return F.pad(x, (-x.shape[1] % multiple, 0), value=math.nan)


def pinball(said: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Quantile loss [..., Q, H] of `said` [..., Q, H] against `target` [..., H] at `levels` [Q]; NaN targets give 0.

    Twice the usual pinball loss, as the published code of Chronos and Moirai has it: at the median it is |error|.
    """
    observed = ~target.isnan()
    error = torch.nan_to_num(target)[..., None, :] - said
    loss = 2.0 * torch.maximum(levels[:, None] * error, (levels[:, None] - 1.0) * error)
    return torch.where(observed[..., None, :], loss, 0.0)
