"""Timer-84M (THUML): a decoder over patches, as published on the hub; own implementation of its specification.

One window is standardised, cut into patches of 96 points and embedded by one linear; there is no positional table.
Each layer adds causal attention with rotary positions and a gated SiLU MLP, and normalises *after* each sum. One linear
turns every token into its next patch. Longer horizons append the forecast and run again on the grown window, all of it
normalised anew (the published cache path normalises only the new part by itself: a quirk, not copied). Names of
parameters are those of `thuml/timer-base-84m`, and its `config.json` is read as it was published.

What is done about gaps, padding and the loss stands in `tsfm.backbones.next_patch`.

Shapes: B windows, N patches of p steps, D width.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tsfm.backbones.layers import CausalAttention, GatedMLP, causal_mask, draw_normal, rotary, through
from tsfm.backbones.next_patch import LossTokens, NextPatch, known_config, moments
from tsfm.errors import ConfigError

FLAT = 1e-6
"""A window that deviates less than this is not scaled: the reference divides by zero there."""
INITIAL_DEVIATION = 0.02
"""Of every linear's weight; biases start at 0."""

LONGEST_CONTEXT = 2_880
REQUIRED = ("input_token_len", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")

_FIXED: dict[str, Any] = {"hidden_act": "silu"}
"""Switches of the published config.json that change the computation, and their only published value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerConfig:
    """The values of the published `config.json` that decide the architecture; `ConfigError` for what it never was."""

    input_token_len: int
    """p"""
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    rope_theta: float = 10_000.0
    attention_dropout: float = 0.0
    context_length: int
    """Longest context in steps, whole patches; where no config says it, as many as fit into the publication's 2,880."""
    loss_tokens: LossTokens = "every"

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From the published `config.json` or from `Timer.config`."""
        config = known_config(config, required=REQUIRED, fixed=_FIXED, patch="input_token_len", longest=LONGEST_CONTEXT)
        parsed = cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})
        if list(config.get("output_token_lens", [parsed.input_token_len])) != [parsed.input_token_len]:
            raise ConfigError("Timer checkpoints whose tokens say more or less than the next patch are not supported.")
        if parsed.hidden_size % (2 * parsed.num_attention_heads):
            raise ConfigError("Timer needs a width that its heads divide into pairs.")
        return parsed


class Layer(nn.Module):
    """`norm1(x + attention(x))`, then `norm2(x + mlp(x))`."""

    def __init__(self, config: TimerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_attn = CausalAttention(width, config.num_attention_heads, dropout=config.attention_dropout)
        self.ffn_layer = GatedMLP(width, config.intermediate_size)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, last: bool) -> Tensor:
        """Of every token, or of the last one alone."""
        mixed = self.self_attn(x, cos, sin, mask, last)
        x = self.norm1((x[:, -1:] if last else x) + mixed)
        out: Tensor = self.norm2(x + self.ffn_layer(x))
        return out


class Embedding(nn.Module):
    """The published name of one linear's place."""

    def __init__(self, config: TimerConfig) -> None:
        super().__init__()
        self.emb = nn.Linear(config.input_token_len, config.hidden_size, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        out: Tensor = self.emb(patches)
        return out


class Trunk(nn.Module):
    """Patches [B, N, p] to hidden states [B, N, D], or to the last one [B, 1, D]."""

    def __init__(self, config: TimerConfig) -> None:
        super().__init__()
        self.embed_layer = Embedding(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head_width = config.hidden_size // config.num_attention_heads
        self.rope_theta = config.rope_theta

    def forward(self, patches: Tensor, padding: Tensor, *, checkpointing: bool, last: bool) -> Tensor:
        """Rotary positions are relative, so that leading `padding` [B, N] may count along."""
        positions = torch.arange(patches.shape[1], device=patches.device)
        cos, sin = rotary(positions, self.head_width, base=self.rope_theta)
        mask = causal_mask(padding)
        x = self.embed_layer(patches)
        for layer in self.layers:
            alone = last and layer is self.layers[-1]
            x = through(layer, x, cos, sin, mask, alone, checkpointing=checkpointing)
        out: Tensor = self.norm(x)
        return out


class Timer(NextPatch):
    """See the module's text. Point forecasts of the mean."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "timer-84m": {
            "input_token_len": 96,
            "hidden_size": 1024,
            "intermediate_size": 2048,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "rope_theta": 10_000.0,
            "attention_dropout": 0.0,
            "context_length": LONGEST_CONTEXT,
            "loss_tokens": "every",
        }
    }
    lora_targets: ClassVar[str] = r"^model\.layers\.\d+\.(self_attn\.[qkvo]_proj|ffn_layer\.(gate|up|down)_proj)$"
    head_name: ClassVar[str] = "lm_heads"

    def __init__(self, config: TimerConfig) -> None:
        """Draws the published initialisation."""
        super().__init__()
        self.config: dict[str, Any] = asdict(config)
        self.patch_length, self.context_length = config.input_token_len, config.context_length
        self.loss_tokens = config.loss_tokens
        self.model = Trunk(config)
        self.lm_heads = nn.ModuleList([nn.Linear(config.hidden_size, config.input_token_len, bias=False)])
        draw_normal(self, std=INITIAL_DEVIATION)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """`config` is `Timer.config` or the published `config.json`; `ConfigError` for variants not supported."""
        parsed = TimerConfig.parse(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(parsed)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Width 32 and two layers."""
        tiny = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        return {**asdict(TimerConfig.parse(config)), **tiny}

    def location_and_scale(self, known: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbiased deviation."""
        mean, variance = moments(known, visible, correction=1)
        flat = variance < FLAT**2
        return mean, torch.where(flat, 1.0, variance.clamp(min=FLAT**2).sqrt())

    def hidden(self, patches: Tensor, padding: Tensor, *, last: bool = False) -> Tensor:
        """[B, N, D] after the last norm, of normalised patches [B, N, p]; with `last` [B, 1, D]."""
        checkpointing = self.gradient_checkpointing and self.training
        out: Tensor = self.model(patches, padding, checkpointing=checkpointing, last=last)
        return out

    def tokens(self, patches: Tensor, padding: Tensor, *, last: bool = False) -> Tensor:
        said: Tensor = self.lm_heads[0](self.hidden(patches, padding, last=last))
        return said.float()
