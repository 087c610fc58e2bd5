"""What Moirai 1 and 2 share: packed tokens, their standardisation, and the encoder (Woo et al. 2024, arXiv 2402.02592).

A token is one patch of one variate of one sample. Several variates lie one after another in one row, and aligned arrays
say of every token which sample, which time and which variate it is; attention goes over all of them at once ("any
variate"), rotary positions give it the time, and one learned number a head tells the own variate from the others.
Names of parameters are those of the published checkpoints.

Shapes: B rows, N tokens, p points of a patch, D width, heads of width 64 always.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm.backbones.layers import RMSNorm, pad_left, rotary, through
from tsfm.errors import ConfigError

HEAD_WIDTH = 64
ROTATED = HEAD_WIDTH // 2
"""Dimensions of a head that its position turns; the rest carries content alone."""
NORM_EPS = 1e-5
VARIANCE_FLOOR = 1e-5
"""Added to the variance before the root: a constant window stays finite."""
PADDING = 0
"""Sample id of tokens that hold nothing."""

_FIXED: dict[str, Any] = {"attn_dropout_p": 0.0, "dropout_p": 0.0, "scaling": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Aligned arrays, the reference's packed form."""

    values: Tensor
    """[B, N, p] raw values; any finite number where `observed` is False."""
    observed: Tensor
    """[B, N, p] bool."""
    sample: Tensor
    """[B, N] int64; tokens of different samples do not see each other, `PADDING` is none."""
    time: Tensor
    """[B, N] int64 index of the patch, shared by variates."""
    variate: Tensor | None
    """[B, N] int64; None where every row is one sample (1) of one variate: the same function for less."""
    prediction: Tensor
    """[B, N] bool: what is asked for; it counts in no statistic."""


def check_config(config: Mapping[str, Any]) -> None:
    """`ConfigError` for switches that no published checkpoint has."""
    for name, allowed in _FIXED.items():
        if config.get(name, allowed) != allowed:
            raise ConfigError(f"Moirai checkpoints with {name}={config[name]!r} are not supported.")
    if config["d_model"] % HEAD_WIDTH:
        raise ConfigError(f"Moirai needs a width of whole heads of {HEAD_WIDTH}, not {config['d_model']}.")


def variate_biases(num_layers: int) -> frozenset[str]:
    """Parameters that windows of one series do not use: every key is of the own variate, which a softmax cannot see."""
    return frozenset(f"encoder.layers.{i}.self_attn.var_attn_bias.emb.weight" for i in range(num_layers))


def packed(context: Tensor, patch: int, *, future: Tensor | None = None) -> Tokens:
    """Tokens of windows [B, T] of one series each, NaN = missing; `future` [B, M*p] follows as prediction tokens.

    Patches end where the context ends. Those before a window's first observed point are padding, and time counts from
    there, so that what stands left of it changes nothing; a window without any point keeps its last patch.
    """
    context = pad_left(context, patch)
    num_context = context.shape[1] // patch
    x = context if future is None else torch.cat([context, future], dim=1)
    observed = ~x.isnan()
    patches = observed.view(len(x), -1, patch)
    index = torch.arange(patches.shape[1], device=x.device).expand(len(x), -1)
    seen = patches[:, :num_context].any(2)
    first = torch.where(seen, index[:, :num_context], num_context - 1).amin(1, keepdim=True)
    return Tokens(
        values=causal_means(x).view(len(x), -1, patch),
        observed=patches,
        sample=(index >= first).long(),
        time=(index - first).clamp(min=0),
        variate=None,
        prediction=index >= num_context,
    )


def fitting(context: Tensor, prediction_length: int, *, patch: int, max_tokens: int, context_length: int) -> Tensor:
    """The end of `context` [B, T] that is read, if `prediction_length` steps are to follow within `max_tokens`."""
    room = max_tokens - -(-prediction_length // patch)
    if prediction_length < 1 or room < 1:
        most = (max_tokens - 1) * patch
        raise ConfigError(
            f"This Moirai forecasts 1 to {most} steps, not {prediction_length}.", param="prediction_length"
        )
    return context[:, -min(context_length, room * patch) :]


def causal_means(x: Tensor) -> Tensor:
    """`x` [B, T], where a missing point is the mean of all before it since the first observed one; 0 before that.

    As the reference has it: gaps count in later means with the value last seen before them.
    """
    seen = ~x.isnan()
    index = torch.arange(x.shape[1], device=x.device).expand_as(x)
    last = torch.where(seen, index, -1).cummax(dim=1).values
    held = torch.where(last >= 0, torch.where(seen, x, 0.0).gather(1, last.clamp(min=0)), 0.0).double()
    since = (last >= 0).cumsum(dim=1)
    before = (held.cumsum(dim=1) - held) / (since - 1).clamp(min=1)
    return torch.where(seen, x, torch.where(last >= 0, before.to(x.dtype), 0.0))


def standardisation(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Location and scale [B, N, 1] of each token's variate over the observed points that are no prediction.

    In float64, with the unbiased variance; padding has 0 and 1.
    """
    counted = tokens.observed & ~tokens.prediction[..., None]
    real = (tokens.sample != PADDING)[..., None]
    values = tokens.values.double()
    if tokens.variate is None:
        counted = counted & real
        count = counted.sum((1, 2), keepdim=True)
        location = (values * counted).sum((1, 2), keepdim=True) / count.clamp(min=1)
        spread = ((values - location).square() * counted).sum((1, 2), keepdim=True)
    else:
        same = _equal(tokens.sample) & _equal(tokens.variate)
        together = same.double()
        count = together @ counted.sum(2, keepdim=True).double()
        location = together @ (values * counted).sum(2, keepdim=True) / count.clamp(min=1)
        spread = together @ ((values - location).square() * counted).sum(2, keepdim=True)
    scale = (spread / (count - 1).clamp(min=1) + VARIANCE_FLOOR).sqrt()
    return torch.where(real, location, 0.0).float(), torch.where(real, scale, 1.0).float()


class VariateBias(nn.Module):
    """One number a head for keys of another variate (row 0) and of the same one (row 1)."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(2, num_heads)

    def forward(self, same: Tensor) -> Tensor:
        """`same` [B, N, N] bool → [B, heads, N, N]."""
        other, own = self.emb.weight[:, :, None, None]
        return torch.where(same[:, None], own, other)


class Attention(nn.Module):
    """Heads of width 64: queries and keys are normed a head, and half of each is turned by its time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.var_attn_bias = VariateBias(width // HEAD_WIDTH)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.q_norm = RMSNorm(HEAD_WIDTH, eps=NORM_EPS)
        self.k_norm = RMSNorm(HEAD_WIDTH, eps=NORM_EPS)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, allowed: Tensor, same: Tensor | None) -> Tensor:
        """`x` [B, N, D]; angles [B, N, 1, 16]; `allowed` [B, N, N] bool; `same` [B, N, N] bool says one variate."""
        q, k, v = (project(x).unflatten(2, (-1, HEAD_WIDTH)) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate_pairs(self.q_norm(q), cos, sin), rotate_pairs(self.k_norm(k), cos, sin)
        mask = allowed[:, None]
        if same is not None:
            mask = torch.where(mask, self.var_attn_bias(same), -torch.inf)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2).to(q.dtype), attn_mask=mask
        )
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` [..., 64] with its first half turned by angles [..., 16], where pair k is (2k, 2k + 1)."""
    turned, rest = x.chunk(2, dim=-1)
    a, b = turned[..., 0::2], turned[..., 1::2]
    pairs = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1)
    return torch.cat([pairs.flatten(-2), rest], dim=-1)


class GatedMLP(nn.Module):
    """`fc2(silu(fc_gate(x)) * fc1(x))`."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width, bias=False)
        self.fc2 = nn.Linear(hidden_width, width, bias=False)
        self.fc_gate = nn.Linear(width, hidden_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.silu(self.fc_gate(x)) * self.fc1(x))
        return out


class Layer(nn.Module):
    """Attention, then the MLP, each added to what comes in."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.self_attn = Attention(width)
        self.ffn = GatedMLP(width, hidden_width)
        self.norm1 = RMSNorm(width, eps=NORM_EPS)
        self.norm2 = RMSNorm(width, eps=NORM_EPS)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, allowed: Tensor, same: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.norm1(x), cos, sin, allowed, same)
        out: Tensor = x + self.ffn(self.norm2(x))
        return out


class Encoder(nn.Module):
    """Layers over tokens of one sample each; `causal` keeps later times out, of every variate."""

    def __init__(self, width: int, hidden_width: int, num_layers: int, *, causal: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, hidden_width) for _ in range(num_layers))
        self.norm = RMSNorm(width, eps=NORM_EPS)
        self.causal = causal

    def forward(self, x: Tensor, tokens: Tokens, *, checkpointing: bool) -> Tensor:
        """Hidden states [B, N, D] of embedded tokens `x` [B, N, D]."""
        cos, sin = (angle[:, :, None] for angle in rotary(tokens.time, ROTATED))
        allowed = _equal(tokens.sample)
        if self.causal:
            allowed = allowed & (tokens.time[:, None, :] <= tokens.time[:, :, None])
        same = None if tokens.variate is None else _equal(tokens.variate)
        for layer in self.layers:
            x = through(layer, x, cos, sin, allowed, same, checkpointing=checkpointing)
        out: Tensor = self.norm(x)
        return out


def _equal(ids: Tensor) -> Tensor:
    """[B, N] → [B, N, N] bool."""
    return ids[:, :, None] == ids[:, None, :]
