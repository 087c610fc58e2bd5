"""What two or more published architectures share; nothing here is anybody's whole block.

Shapes: B windows, T steps, N tokens, D width, e width of one attention head. NaN means missing.
"""

import math
from collections.abc import Callable
from typing import Any

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


class Dropout(nn.Module):
    """Inverted dropout; on a CPU four decisions are taken from one 64-bit draw.

    torch's own draws them one by one: a third of a training step of TTM [measured: 11 ns an element, here 1.7].
    `p` is met to 1/65,536.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        size = x.numel()
        bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:size]
        keep = (bits >= round(self.p * 2**16) - 2**15).view(x.shape).to(x.dtype)
        return x * keep.mul_(1 / (1 - self.p))


class RMSNorm(nn.RMSNorm):
    """In float32 whatever comes in: under autocast that is bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


def draw_normal(network: nn.Module, *, std: float) -> None:
    """Every linear of `network` from N(0, std²), biases 0: how Timer and Sundial begin."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def rotary(positions: Tensor, width: int, *, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [..., N, width / 2], of integer `positions` [..., N]: the angles of rotary embeddings."""
    frequency = base ** (-torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)
    angle = positions.float()[..., None] * frequency
    return angle.cos(), angle.sin()


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` [..., N, e] rotated by angles [..., N, e / 2], where pair k is (k, k + e / 2): the half-split layout."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def causal_mask(padding: Tensor) -> Tensor:
    """[B, 1, N, N], True where query token n may look at key token m: its past, without what is only `padding` [B, N].

    Every token sees itself, so that padding tokens stay finite; nobody else looks at them.
    """
    length = padding.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=padding.device).tril()
    self_only = torch.eye(length, dtype=torch.bool, device=padding.device)
    return (past & ~padding[:, None, None, :]) | self_only


class CausalAttention(nn.Module):
    """Attention of Timer-84M and Sundial: rotary positions; queries, keys and values have a bias, the output none."""

    def __init__(self, width: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, last: bool = False) -> Tensor:
        """`x` [B, N, D]; angles [N, e / 2] as `rotary` gives them; `mask` [B or 1, 1, N, N] as `causal_mask` does. Of
        every token, or of the last one alone: [B, 1, D]."""
        asking = slice(-1 if last else None, None)
        q = self._heads(self.q_proj, x[:, asking])
        k, v = self._heads(self.k_proj, x), self._heads(self.v_proj, x)
        q, k = rotate_halves(q, cos[asking], sin[asking]).type_as(v), rotate_halves(k, cos, sin).type_as(v)
        mask = mask[..., asking, :]
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return out

    def _heads(self, projection: nn.Module, x: Tensor) -> Tensor:
        """[B, heads, N, e]"""
        split: Tensor = projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return split


class GatedMLP(nn.Module):
    """`down_proj(silu(gate_proj(x)) * up_proj(x))` without biases: Timer-84M and Sundial."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden_width, bias=False)
        self.up_proj = nn.Linear(width, hidden_width, bias=False)
        self.down_proj = nn.Linear(hidden_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


def through(block: Callable[..., Any], *inputs: Any, checkpointing: bool) -> Tensor:
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


def hold(x: Tensor) -> Tensor:
    """`x` [B, T] with every missing point as the last value seen before it; 0 where there is none."""
    at = torch.arange(x.shape[1], device=x.device).expand_as(x)
    before = torch.where(x.isnan(), -1, at).cummax(dim=1).values
    return torch.where(before >= 0, x.nan_to_num().gather(1, before.clamp(min=0)), 0.0)


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
