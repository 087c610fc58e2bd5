"""Sundial (THUML): a decoder over patches whose head samples whole futures by flow matching; own implementation.

One window is standardised and cut into patches of 16 points; each patch, with a bit for every point that is real, goes
through a residual block. Pre-norm layers follow: causal attention with rotary positions, and a gated SiLU MLP. The
hidden state of a token stands for all that is known, and conditions a head that samples the 720 points after it
(`tsfm.backbones.flow`): 20 futures at once, in 50 steps. Point forecasts are the mean of the samples, quantiles their
order statistics. For a short horizon TRACE may put one linear from that state to all deciles of all steps in the head's
place (evaluation.md §7). Names of parameters are those of `thuml/sundial-base-128m`, and its `config.json` is read as
it was published.

Shapes: B windows, T context steps, H target steps, N patches of p steps, D width, L steps of one pass, R repeats of
noise in training, M samples, S steps of a sample, Q quantile levels. NaN means missing.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.flow import FlowHead, order_statistics
from tsfm.backbones.layers import (
    CausalAttention,
    GatedMLP,
    ResidualBlock,
    causal_mask,
    draw_normal,
    fill_gaps,
    pad_left,
    pinball,
    rotary,
    through,
)
from tsfm.errors import ConfigError

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FLAT = 1e-2
"""A window that deviates no more than this is not scaled (the published training code)."""
INITIAL_DEVIATION = 0.02
"""Of every linear's weight, the flow head's too; biases start at 0."""
LONGEST_CONTEXT = 2_880
NOISE_SEED = 720
"""Of the noise that samples start from, and of the noise and times of a loss in eval mode."""

_FIXED: dict[str, Any] = {"hidden_act": "silu"}
"""Switches of the published config.json that change the computation, and their only published value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SundialConfig:
    """The values of the published `config.json` that decide the architecture; `ConfigError` for what it never was."""

    input_token_len: int
    """p"""
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    flow_loss_depth: int
    prediction_length: int
    """L; the only element of the published `output_token_lens`."""
    rope_theta: float = 10_000.0
    dropout_rate: float = 0.1
    diffusion_batch_mul: int = 4
    """R: how often each hidden state is trained with fresh noise."""
    num_sampling_steps: int = 50
    """S, as published; 10 to 20 answer in a fraction of the time, a little more coarsely."""
    num_samples: int = 20
    """M, as in the publication's examples."""
    context_length: int = LONGEST_CONTEXT
    quantile_steps: int | None = None
    """Steps of one pass of a quantile head; None: the published flow head answers."""

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From the published `config.json` or from `Sundial.config`."""
        for name, value in _FIXED.items():
            if config.get(name, value) != value:
                raise ConfigError(f"Sundial checkpoints with {name}={config[name]!r} are not supported.")
        lengths = config.get("output_token_lens", [config.get("prediction_length")])
        if len(lengths) != 1:
            raise ConfigError("Sundial checkpoints with several output lengths are not supported.")
        config = {**config, "prediction_length": lengths[0]}
        parsed = cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})
        if parsed.hidden_size % (2 * parsed.num_attention_heads):
            raise ConfigError("Sundial needs a width that its heads divide into pairs.")
        if parsed.context_length % parsed.input_token_len:
            raise ConfigError("Sundial needs a context of whole patches.")
        if parsed.num_samples < len(DECILES):
            raise ConfigError(f"Sundial needs at least {len(DECILES)} samples to tell deciles.")
        return parsed


class Layer(nn.Module):
    """`x + attention(norm1(x))`, then `x + mlp(norm2(x))`."""

    def __init__(self, config: SundialConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = CausalAttention(width, config.num_attention_heads, dropout=config.dropout_rate)
        self.norm2 = nn.LayerNorm(width)
        self.ffn_layer = GatedMLP(width, config.intermediate_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, last: bool) -> Tensor:
        """Of every token, or of the last one alone."""
        mixed = self.self_attn(self.norm1(x), cos, sin, mask, last)
        x = (x[:, -1:] if last else x) + mixed
        out: Tensor = x + self.ffn_layer(self.norm2(x))
        return out


class Trunk(nn.Module):
    """Points [B, N·p] to hidden states [B, N, D], or to the last one [B, 1, D]."""

    def __init__(self, config: SundialConfig) -> None:
        super().__init__()
        self.patch_length = config.input_token_len
        self.embed_layer = ResidualBlock(
            2 * config.input_token_len, config.intermediate_size, config.hidden_size, dropout=config.dropout_rate
        )
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head_width = config.hidden_size // config.num_attention_heads
        self.rope_theta = config.rope_theta

    def forward(self, z: Tensor, real: Tensor, *, checkpointing: bool, last: bool = False) -> Tensor:
        """`z` is 0 where `real` [B, N·p] is False: before a window. Patches without a real point are nobody's keys, and
        rotary positions are relative, so that any number of them changes nothing. Where the last state is all that is
        wanted, the last layer computes no other."""
        patches, bits = (x.reshape(len(x), -1, self.patch_length) for x in (z, real))
        x = self.embed_layer(torch.cat([patches, bits.to(z.dtype)], dim=-1))
        cos, sin = rotary(torch.arange(x.shape[1], device=x.device), self.head_width, base=self.rope_theta)
        mask = causal_mask(~bits.any(-1))
        for layer in self.layers:
            alone = last and layer is self.layers[-1]
            x = through(layer, x, cos, sin, mask, alone, checkpointing=checkpointing)
        out: Tensor = self.norm(x)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Contexts as the network sees them."""

    z: Tensor
    """[B, N·p] standardised, without gaps, 0 before the window."""
    real: Tensor
    """[B, N·p] bool: from the first observed point on."""
    location: Tensor
    """[B, 1]"""
    scale: Tensor
    """[B, 1]"""


class Sundial(Backbone):
    """See the module's text. The point forecast is the mean of the samples; beyond one pass their median goes on.

    All windows start from the same noise, the same in every call: a batch equals its items, and a forecast repeats.
    """

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sundial-128m": {
            "input_token_len": 16,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "flow_loss_depth": 3,
            "prediction_length": 720,
        }
    }
    lora_targets: ClassVar[str] = r"^model\.layers\.\d+\.(self_attn\.[qkvo]_proj|ffn_layer\.(gate|up|down)_proj)$"
    head_name: ClassVar[str] = "flow_loss"

    def __init__(self, config: SundialConfig) -> None:
        """Draws the published initialisation."""
        super().__init__()
        self.config: dict[str, Any] = asdict(config)
        self.sizes = config
        self.model = Trunk(config)
        self.flow_loss = FlowHead(
            config.hidden_size,
            config.prediction_length,
            depth=config.flow_loss_depth,
            num_steps=config.num_sampling_steps,
        )
        self.quantile_head: nn.Linear | None = None
        self._fitted_steps = config.prediction_length
        if config.quantile_steps is not None:
            self._put(config.quantile_steps)
        draw_normal(self, std=INITIAL_DEVIATION)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """`config` is `Sundial.config` or the published `config.json`; `ConfigError` for variants not supported."""
        parsed = SundialConfig.parse(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(parsed)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Width 24, two layers, one block in the head, five steps a sample."""
        tiny = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        return {**asdict(SundialConfig.parse(config)), **tiny, "flow_loss_depth": 1, "num_sampling_steps": 5}

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """Mean and deciles of the samples; only the last `context_length` steps of `context` [B, T] are used.

        Fewer steps than one pass has are a cut; for more the samples' median joins the context.
        """
        if prediction_length < 1:
            raise ConfigError("prediction_length must be at least 1.", param="prediction_length")
        generator = torch.Generator().manual_seed(NOISE_SEED)
        points: list[Tensor] = []
        quantiles: list[Tensor] = []
        missing = prediction_length
        while missing > 0:
            mean, deciles = self._pass(context, generator)
            median = deciles[:, DECILES.index(0.5)]
            points.append((median if mean is None else mean)[:, :missing])
            quantiles.append(deciles[..., :missing])
            context = torch.cat([context, median], dim=1)
            missing -= median.shape[1]
        return Prediction(
            point=torch.cat(points, dim=1),
            point_kind="mean" if self.quantile_head is None else "median",
            quantiles=torch.cat(quantiles, dim=2),
            levels=DECILES,
        )

    def loss(self, batch: Batch) -> Tensor:
        """The flow's squared error on the future after the context, in the space of the standardised window.

        Step k of a window weighs 1/k, as published, divided by the weights of its observed steps; windows count by how
        many of those they have. (In pretraining every token has such a future; here only the last one, whose future is
        the target.) Targets longer than one pass are cut. Each window is trained with `diffusion_batch_mul` draws of
        noise and time: from the global generator in training, the same ones for every window and call in eval mode.
        A quantile head is trained by its quantile loss instead, averaged over levels.
        """
        if self.quantile_head is not None:
            return self._quantile_loss(batch)
        horizon = self.sizes.prediction_length
        window = self.window(batch.context)
        hidden = self.last_state(window)[:, None]
        target = F.pad(batch.target[:, :horizon], (0, max(horizon - batch.target.shape[1], 0)), value=math.nan)
        future = ((target - window.location) / window.scale)[:, None]
        noise, time = self._draws(len(hidden), hidden.device)
        error = self.flow_loss.error(future.expand_as(noise), hidden, noise=noise, time=time).mean(1)

        observed = ~target.isnan()
        weights = observed / torch.arange(1, horizon + 1, device=error.device)
        mean = (weights * error).sum(1) / weights.sum(1).clamp(min=1 / horizon)
        counts = observed.sum(1)
        return (mean * counts).sum() / counts.sum().clamp(min=1)

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """Standardised by the context's observed points."""
        window = self.window(context)
        return (values - window.location) / window.scale

    def window(self, context: Tensor) -> Window:
        """`context` [B, T], at most its last `context_length` steps, as the network sees it.

        Its mask knows only what stands before a window; gaps inside are bridged by a line, as the network was never
        trained to see them masked.
        """
        x = pad_left(context[:, -self.sizes.context_length :], self.sizes.input_token_len)
        seen = ~x.isnan()
        real = seen.cumsum(1) > 0
        location, scale = _standardisation(torch.where(seen, x, 0.0), seen)
        z = torch.where(real, (fill_gaps(x) - location) / scale, 0.0)
        return Window(z=z, real=real, location=location, scale=scale)

    def last_state(self, window: Window) -> Tensor:
        """[B, D] of the last token, after the last norm."""
        checkpointing = self.gradient_checkpointing and self.training
        out: Tensor = self.model(window.z, window.real, checkpointing=checkpointing, last=True)
        return out[:, -1]

    def futures(self, context: Tensor, noise: Tensor) -> Tensor:
        """[B, M, L] samples of what follows `context` [B, T], from `noise` [B or 1, M, L], in the context's units."""
        window = self.window(context)
        samples = self.flow_loss.sample(self.last_state(window), noise)
        return samples * window.scale[:, None] + window.location[:, None]

    def fit_to(self, prediction_length: int, *, seed: int) -> None:
        """A quantile head, should one be asked for, will have these steps."""
        self._fitted_steps = prediction_length

    def put_quantile_head(self, *, seed: int) -> nn.Linear:
        """Linear(D, Q·H) of the last token's state, drawn under `seed` for the horizon of `fit_to`. The flow head stays
        for `quantile_head_examples` and is not used otherwise."""
        like = next(self.parameters())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = self._put(self._fitted_steps)
            nn.init.normal_(head.weight, std=INITIAL_DEVIATION)
            nn.init.zeros_(head.bias)
        self.sizes = replace(self.sizes, quantile_steps=self._fitted_steps)
        self.config = asdict(self.sizes)
        return head.to(like)

    @torch.no_grad()
    def quantile_head_examples(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] states and the deciles [B, Q·H] of the flow head's samples after them, standardised."""
        window = self.window(context)
        hidden = self.last_state(window)
        samples = self.flow_loss.sample(hidden, self._noise(torch.Generator().manual_seed(NOISE_SEED), hidden.device))
        return hidden, order_statistics(samples[..., : self._fitted_steps], DECILES).flatten(1)

    def _put(self, steps: int) -> nn.Linear:
        self.quantile_head = nn.Linear(self.sizes.hidden_size, len(DECILES) * steps)
        self.fresh_parameters = frozenset({"quantile_head.weight", "quantile_head.bias"})
        self.unused_parameters = self.head_parameter_names()
        return self.quantile_head

    def _deciles(self, window: Window) -> Tensor:
        """[B, Q, H] of the quantile head, standardised and as they come: not sorted."""
        assert self.quantile_head is not None
        said: Tensor = self.quantile_head(self.last_state(window))
        return said.float().reshape(len(said), len(DECILES), -1)

    def _quantile_loss(self, batch: Batch) -> Tensor:
        """Twice the pinball loss of standardised values, averaged over levels and observed targets."""
        window = self.window(batch.context)
        said = self._deciles(window)
        target = ((batch.target - window.location) / window.scale)[:, : said.shape[2]]
        loss = pinball(said[..., : target.shape[1]], target, torch.tensor(DECILES, device=said.device))
        return loss.mean(1).sum() / (~target.isnan()).sum().clamp(min=1)

    def _pass(self, context: Tensor, generator: torch.Generator) -> tuple[Tensor | None, Tensor]:
        """Mean [B, L], where there are samples, and deciles [B, Q, L], both in the context's units."""
        if self.quantile_head is None:
            samples = self.futures(context, self._noise(generator, context.device))
            return samples.mean(1), order_statistics(samples, DECILES)
        window = self.window(context)
        deciles = self._deciles(window).sort(dim=1).values
        return None, deciles * window.scale[:, None] + window.location[:, None]

    def _noise(self, generator: torch.Generator, device: torch.device) -> Tensor:
        """[1, M, L] in pairs of opposite sign: shared by all windows, it must not favour a direction."""
        num_samples, horizon = self.sizes.num_samples, self.sizes.prediction_length
        half = torch.randn(1, -(-num_samples // 2), horizon, generator=generator)
        return torch.cat([half, -half], dim=1)[:, :num_samples].to(device)

    def _draws(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Noise [B, R, L] and times [B, R] of a loss."""
        repeats, horizon = self.sizes.diffusion_batch_mul, self.sizes.prediction_length
        if self.training:
            return torch.randn(count, repeats, horizon, device=device), torch.rand(count, repeats, device=device)
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(1, repeats, horizon, generator=generator).to(device)
        time = torch.rand(1, repeats, generator=generator).to(device)
        return noise.expand(count, -1, -1), time.expand(count, -1)


def _standardisation(known: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [B, 1] of the seen points of `known` [B, T], which is 0 where nothing is seen."""
    count = seen.sum(1, keepdim=True).clamp(min=1)
    location = known.sum(1, keepdim=True) / count
    variance = ((known - location) * seen).square().sum(1, keepdim=True) / count
    flat = variance <= FLAT**2
    return location, torch.where(flat, 1.0, variance.clamp(min=FLAT**2).sqrt())
