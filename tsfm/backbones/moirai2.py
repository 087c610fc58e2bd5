"""Moirai 2.0 (Salesforce): a decoder over patches of any variates that answers nine deciles; own implementation.

Every token, 16 values and 16 bits that say which were observed, predicts the next four patches. Beyond these 64 steps
the deciles become nine paths: each is appended to the context and forecast anew, and the deciles of the 81 answers at a
step are the next part of the paths. Names of parameters are those of `Salesforce/moirai-2.0-R-small`, and its
`config.json` is read as it was published. The weights are not for commercial use (CC BY-NC 4.0).

Shapes: B windows, T context steps, H target steps, N tokens of p steps, M tokens ahead, Q quantiles, D width. The
protocol of `tsfm.backbones.base` has one series a window; `forecast_tokens` is the whole network, any variates.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.layers import ResidualBlock, pad_left, pinball
from tsfm.backbones.moirai_layers import (
    PADDING,
    Encoder,
    Tokens,
    check_config,
    fitting,
    packed,
    standardisation,
    variate_biases,
)
from tsfm.errors import ConfigError

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CONTEXT_LENGTH = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class Moirai2Config:
    """The values of a published `config.json` that decide the architecture, and how long a context may be."""

    d_model: int
    d_ff: int
    num_layers: int
    patch_size: int
    num_predict_token: int
    max_seq_len: int
    """Tokens of context and forecast together."""
    quantile_levels: tuple[float, ...] = DECILES
    context_length: int = CONTEXT_LENGTH
    """Steps, not published: a quarter of what `max_seq_len` allows, since nine paths make long contexts dear."""

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From a published `config.json` or from `Moirai2.config`; `ConfigError` for variants that were never."""
        check_config(config)
        values = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        parsed = cls(**{**values, "quantile_levels": tuple(values.get("quantile_levels", DECILES))})
        if 0.5 not in parsed.quantile_levels:
            raise ConfigError("Moirai 2 needs the median among its quantile_levels.")
        return parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the network says at every token, in the space it works in."""

    quantiles: Tensor
    """[B, N, M, Q, p]: of the next M patches."""
    target: Tensor
    """[B, N, p] its own values, scaled alike."""
    location: Tensor
    """[B, N, 1]"""
    scale: Tensor
    """[B, N, 1]"""

    def in_units(self) -> Tensor:
        """`quantiles` in the units of the values."""
        return self.quantiles * self.scale[..., None, None] + self.location[..., None, None]


class Moirai2(Backbone):
    """See the module's text."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "moirai-2-small": {
            "d_model": 384,
            "d_ff": 1024,
            "num_layers": 6,
            "patch_size": 16,
            "max_seq_len": 512,
            "num_predict_token": 4,
            "quantile_levels": list(DECILES),
            "attn_dropout_p": 0.0,
            "dropout_p": 0.0,
            "scaling": True,
        }
    }
    lora_targets: ClassVar[str] = r"^encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|ffn\.(fc1|fc2|fc_gate))$"
    head_name: ClassVar[str] = "out_proj"
    follows: ClassVar[bool] = True

    def __init__(self, config: Moirai2Config) -> None:
        """Draws torch's own initialisation, as the reference does."""
        super().__init__()
        self.config: dict[str, Any] = {**asdict(config), "quantile_levels": list(config.quantile_levels)}
        self.sizes = config
        self.levels = config.quantile_levels
        self.reach = config.num_predict_token * config.patch_size
        """Steps of one pass."""
        self.unused_parameters = variate_biases(config.num_layers)
        answers = config.num_predict_token * len(self.levels) * config.patch_size
        self.in_proj = ResidualBlock(2 * config.patch_size, config.d_model, config.d_model)
        self.encoder = Encoder(config.d_model, config.d_ff, config.num_layers, causal=True)
        self.out_proj = ResidualBlock(config.d_model, config.d_model, answers)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """`config` is `Moirai2.config` or a published `config.json`."""
        parsed = Moirai2Config.parse(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(parsed)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """One layer of one head; the deciles of 64 steps make most of what is left."""
        return {**config, "d_model": 64, "d_ff": 32, "num_layers": 1}

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """Deciles of the next steps and their median; beyond one pass nine paths are followed (see the module's text).

        Only the last `context_length` steps of `context` [B, T] are used, fewer where `max_seq_len` tokens would be
        exceeded. `ConfigError` for horizons that leave no token for the context.
        """
        paths = pad_left(self._fitting(context, prediction_length), self.sizes.patch_size)[:, None]
        blocks: list[Tensor] = []
        remaining = prediction_length
        while remaining > 0:
            said = self._next(paths.flatten(0, 1)).view(len(paths), -1, self.reach)
            block = said if not blocks else self._deciles(said)
            blocks.append(block)
            remaining -= block.shape[2]
            paths = torch.cat([paths.expand(-1, len(self.levels), -1), block], dim=2)
        quantiles = torch.cat(blocks, dim=2)[..., :prediction_length].sort(dim=1).values
        return Prediction(
            point=quantiles[:, self.levels.index(0.5)], point_kind="median", quantiles=quantiles, levels=self.levels
        )

    def loss(self, batch: Batch) -> Tensor:
        """Pinball loss of what every token says about its next 64 steps, in the scale of the context.

        As the reference trains: tokens of the context predict too, those of the target see what came before them. Of a
        target that ends sooner than 64 steps only as many of each token's first steps count. Each window's mean counts
        by its observed targets, so that one without any counts nothing.
        """
        horizon, patch = batch.target.shape[1], self.sizes.patch_size
        future = F.pad(batch.target, (0, -horizon % patch), value=math.nan)
        tokens = packed(self._fitting(batch.context, horizon), patch, future=future)
        said = self.forecast_tokens(tokens)
        observed = ~batch.target.isnan()
        ahead = self._ahead(tokens, said.target)
        steps = torch.arange(1, horizon + 1, device=ahead.device)
        ends = (observed * steps).amax(1)[:, None, None]
        ahead = torch.where(torch.arange(ahead.shape[2], device=ahead.device) < ends, ahead, torch.nan)
        levels = torch.tensor(self.levels, device=ahead.device)
        losses = pinball(said.quantiles.transpose(2, 3).flatten(3), ahead, levels).mean(2)
        mean = losses.sum((1, 2)) / (~ahead.isnan()).sum((1, 2)).clamp(min=1)
        weight = observed.sum(1)
        return (mean * weight).sum() / weight.sum().clamp(min=1)

    def predict_patches(self, context: Tensor, target: Tensor) -> Prediction:
        """The deciles of each token's next patch, all scaled by `context`."""
        steps, patch = target.shape[1], self.sizes.patch_size
        tokens = packed(self._fitting(context, steps), patch, future=target)
        hidden, _, location, scale = self._hidden(tokens)
        num_patches = steps // patch
        said = self._answers(hidden[:, -num_patches - 1 : -1])[:, :, 0]
        said = said * scale[:, -1:, :, None] + location[:, -1:, :, None]
        quantiles = said.transpose(1, 2).flatten(2).sort(dim=1).values
        return Prediction(
            point=quantiles[:, self.levels.index(0.5)], point_kind="median", quantiles=quantiles, levels=self.levels
        )

    def _ahead(self, tokens: Tokens, scaled: Tensor) -> Tensor:
        """[B, N, M*p] what follows each token of one series, as `scaled` [B, N, p] has it; NaN where nothing counts."""
        patch = self.sizes.patch_size
        known = torch.where(tokens.observed, scaled, torch.nan).flatten(1)
        ahead = F.pad(known[:, patch:], (0, self.reach), value=math.nan).unfold(1, self.reach, patch)
        return torch.where((tokens.sample == PADDING)[..., None], torch.nan, ahead)

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """Standardised by the context's observed points."""
        tokens = packed(self._fitting(context, values.shape[1]), self.sizes.patch_size)
        location, scale = (statistic[:, -1] for statistic in standardisation(tokens))
        return (values - location) / scale

    def forecast_tokens(self, tokens: Tokens) -> Said:
        """The network over packed tokens; what a prediction token says about the next ones counts as any other's."""
        hidden, target, location, scale = self._hidden(tokens)
        return Said(quantiles=self._answers(hidden), target=target, location=location, scale=scale)

    def _hidden(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        location, scale = standardisation(tokens)
        scaled = (tokens.values - location) / scale
        embedded = self.in_proj(torch.cat([scaled, tokens.observed.to(scaled.dtype)], dim=2))
        hidden = self.encoder(embedded, tokens, checkpointing=self.gradient_checkpointing and self.training)
        return hidden, scaled, location, scale

    def _answers(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to [..., M, Q, p], in float32 under autocast too."""
        shape = (self.sizes.num_predict_token, len(self.levels), self.sizes.patch_size)
        out: Tensor = self.out_proj(hidden).float().unflatten(-1, shape)
        return out

    def _next(self, context: Tensor) -> Tensor:
        """[B, T] → [B, Q, M*p] in the units of the context, as they come out: unsorted."""
        hidden, _, location, scale = self._hidden(packed(context, self.sizes.patch_size))
        said = self._answers(hidden[:, -1]) * scale[:, -1, :, None, None] + location[:, -1, :, None, None]
        return said.transpose(1, 2).flatten(2)

    def _deciles(self, answers: Tensor) -> Tensor:
        """Quantiles at `levels` of all answers [B, paths * Q, steps] to one step: [B, Q, steps]."""
        levels = torch.tensor(self.levels, device=answers.device, dtype=answers.dtype)
        return answers.quantile(levels, dim=1).transpose(0, 1)

    def _fitting(self, context: Tensor, prediction_length: int) -> Tensor:
        sizes = self.sizes
        return fitting(
            context,
            prediction_length,
            patch=sizes.patch_size,
            max_tokens=sizes.max_seq_len,
            context_length=sizes.context_length,
        )
