"""Timer as first published (THUML), the network that SFF's authors tuned; own implementation of its specification.

What differs from Timer-84M (`tsfm.backbones.timer`): sinusoids are added to the patch embedding and nothing is rotated;
every projection but the embedding has a bias; the MLP is plain with GELU; there is dropout; a window is scaled by its
population deviation. The files are Lightning pickles: `published_tensors` says what becomes of their names.

SFF's authors train the error of the forecast alone, after it was put back into the units of the context (papers.md
§2.4), Timer's own scripts that of every token: `loss_tokens`. What is done about gaps and padding stands in
`tsfm.backbones.next_patch`; `impute` is the publication's recipe for hidden patches.

Shapes: B windows, T steps, N patches of p steps, D width.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm.backbones.layers import causal_mask, fill_gaps, pad_left, through
from tsfm.backbones.next_patch import LossTokens, NextPatch, known_config, moments
from tsfm.errors import ConfigError

VARIANCE_FLOOR = 1e-5
"""Added to the variance before the root: a constant window stays finite."""
LONGEST_CONTEXT = 672
"""Seven patches of 96: what the published scripts, and SFF's, tune with."""
REQUIRED = ("patch_len", "d_model", "d_ff", "e_layers", "n_heads")
PREFIX = "model."
"""Of every name in the published file."""
POSITIONS = "patch_embedding.position_embedding.pe"
"""A stored table of sinusoids, which are computed here."""

_FIXED: dict[str, Any] = {"activation": "gelu"}
"""Switches of the constructor that change the computation, and their only published value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerV1Config:
    """The reference's constructor values that decide the architecture; `ConfigError` for what was never published."""

    patch_len: int
    d_model: int
    d_ff: int
    e_layers: int
    n_heads: int
    dropout: float = 0.1
    context_length: int
    """Longest context in steps, whole patches; where no config says it, as many as fit into 672 steps."""
    loss_tokens: LossTokens = "every"

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From the reference's constructor values or from `TimerV1.config`."""
        config = known_config(config, required=REQUIRED, fixed=_FIXED, patch="patch_len", longest=LONGEST_CONTEXT)
        parsed = cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})
        if parsed.d_model % parsed.n_heads or parsed.d_model % 2:
            raise ConfigError("Timer needs an even width that its heads divide.")
        return parsed


class Attention(nn.Module):
    """Causal attention, a bias on every projection."""

    def __init__(self, config: TimerV1Config) -> None:
        super().__init__()
        width = config.d_model
        self.num_heads, self.dropout = config.n_heads, config.dropout
        self.query_projection = nn.Linear(width, width)
        self.key_projection = nn.Linear(width, width)
        self.value_projection = nn.Linear(width, width)
        self.out_projection = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor, last: bool) -> Tensor:
        """Of every token of `x` [B, N, D], or of the last one alone: [B, 1, D]."""
        asking = slice(-1 if last else None, None)
        q, k, v = (
            projection(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, tokens in (
                (self.query_projection, x[:, asking]),
                (self.key_projection, x),
                (self.value_projection, x),
            )
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[..., asking, :], dropout_p=dropout)
        out: Tensor = self.out_projection(mixed.transpose(1, 2).flatten(-2))
        return out


class Layer(nn.Module):
    """`norm1(x + attention(x))`, then `norm2(x + mlp(x))`.

    The MLP's two linears are kernel-1 convolutions in the reference: the same numbers, and the same draws of them.
    """

    def __init__(self, config: TimerV1Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.conv1 = nn.Linear(config.d_model, config.d_ff)
        self.conv2 = nn.Linear(config.d_ff, config.d_model)
        self.norm1 = nn.LayerNorm(config.d_model)
        self.norm2 = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, last: bool) -> Tensor:
        """Of every token, or of the last one alone."""
        mixed = self.attention(x, mask, last)
        x = self.norm1((x[:, -1:] if last else x) + self.dropout(mixed))
        h = self.dropout(F.gelu(self.conv1(x)))
        out: Tensor = self.norm2(x + self.dropout(self.conv2(h)))
        return out


class Decoder(nn.Module):
    """The published name of the layers' place."""

    def __init__(self, config: TimerV1Config) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList(Layer(config) for _ in range(config.e_layers))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, padding: Tensor, *, checkpointing: bool, last: bool) -> Tensor:
        """Tokens [B, N, D] to hidden states [B, N, D], or to the last one [B, 1, D]."""
        mask = causal_mask(padding)
        for layer in self.attn_layers:
            x = through(layer, x, mask, last and layer is self.attn_layers[-1], checkpointing=checkpointing)
        out: Tensor = self.norm(x)
        return out


class PatchEmbedding(nn.Module):
    """Patches [B, N, p] to tokens [B, N, D], each with the sinusoid of its position in its own window."""

    def __init__(self, config: TimerV1Config) -> None:
        super().__init__()
        self.value_embedding = nn.Linear(config.patch_len, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, patches: Tensor, padding: Tensor) -> Tensor:
        """The first token that is no `padding` [B, N] stands at position 0."""
        value = self.value_embedding(patches)
        order = torch.arange(patches.shape[1], device=patches.device)
        position = (order - padding.sum(1, keepdim=True)).clamp(min=0)
        out: Tensor = self.dropout(value + sinusoids(len(order), value.shape[-1], device=patches.device)[position])
        return out


class TimerV1(NextPatch):
    """See the module's text. Point forecasts of the mean."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "timer-v1-forecast": {
            "patch_len": 96,
            "d_model": 1024,
            "d_ff": 2048,
            "e_layers": 8,
            "n_heads": 8,
            "dropout": 0.1,
            "context_length": LONGEST_CONTEXT,
            "loss_tokens": "target",
        }
    }
    lora_targets: ClassVar[str] = r"^decoder\.attn_layers\.\d+\.(attention\.(query|key|value|out)_projection|conv[12])$"
    head_name: ClassVar[str] = "proj"

    def __init__(self, config: TimerV1Config) -> None:
        """Draws torch's own initialisation, which is the published one."""
        super().__init__()
        self.config: dict[str, Any] = asdict(config)
        self.patch_length, self.context_length = config.patch_len, config.context_length
        self.loss_tokens = config.loss_tokens
        self.patch_embedding = PatchEmbedding(config)
        self.decoder = Decoder(config)
        self.proj = nn.Linear(config.d_model, config.patch_len)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """`config` is `TimerV1.config` or the reference's constructor values, of any of its three checkpoints."""
        parsed = TimerV1Config.parse(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(parsed)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Width 32 and two layers."""
        tiny = {"d_model": 32, "d_ff": 48, "e_layers": 2, "n_heads": 4}
        return {**asdict(TimerV1Config.parse(config)), **tiny}

    @classmethod
    def published_tensors(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names without their prefix, convolutions of kernel 1 as linears, and no table of positions."""
        named = {name.removeprefix(PREFIX): t for name, t in tensors.items()}
        kernels = {
            name for name, t in named.items() if name.endswith((".conv1.weight", ".conv2.weight")) and t.ndim == 3
        }
        return {name: t.squeeze(-1) if name in kernels else t for name, t in named.items() if name != POSITIONS}

    def location_and_scale(self, known: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and population deviation."""
        mean, variance = moments(known, visible, correction=0)
        return mean, (variance + VARIANCE_FLOOR).sqrt()

    def embedded(self, patches: Tensor, padding: Tensor) -> Tensor:
        """[B, N, D] tokens of normalised patches [B, N, p], positions added."""
        out: Tensor = self.patch_embedding(patches, padding)
        return out

    def hidden(self, patches: Tensor, padding: Tensor, *, last: bool = False) -> Tensor:
        """[B, N, D] after the last norm, of normalised patches [B, N, p]; with `last` [B, 1, D]."""
        checkpointing = self.gradient_checkpointing and self.training
        out: Tensor = self.decoder(self.embedded(patches, padding), padding, checkpointing=checkpointing, last=last)
        return out

    def tokens(self, patches: Tensor, padding: Tensor, *, last: bool = False) -> Tensor:
        said: Tensor = self.proj(self.hidden(patches, padding, last=last))
        return said.float()

    def impute(self, x: Tensor) -> Tensor:
        """`x` [B, T], at most its last `context_length` steps, with what is missing said by the patch before it.

        The publication's recipe: statistics of what is seen, hidden points at zero after centring. Points that no token
        comes before (of the first patch, and of whatever starts later than the others) lie on the line between their
        neighbours.
        """
        x = x[:, -self.context_length :]
        patches = self.patches(x)
        said = self.after_each(torch.where(patches.seen, patches.values, 0.0), patches)[:, :-1]
        lined = self._cut(fill_gaps(pad_left(x, self.patch_length)))
        later = torch.where(patches.padding[:, :-1, None], lined[:, 1:], said)
        whole = torch.cat([lined[:, :1], later], dim=1).flatten(1)[:, -x.shape[1] :]
        return torch.where(x.isnan(), whole, x)


def sinusoids(length: int, width: int, *, device: torch.device) -> Tensor:
    """[length, width] float32: sines at even places, cosines at odd ones, from the fastest to the slowest."""
    position = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float32) * -(math.log(10_000.0) / width))
    return torch.stack([(position * frequency).sin(), (position * frequency).cos()], dim=-1).flatten(1)
