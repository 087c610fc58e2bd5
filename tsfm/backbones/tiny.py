"""`temper-tiny`: the project's own bidirectional masked-patch encoder, pretrained on synthetic series only.

One objective covers forecasting and reconstruction: points of a window are hidden, every patch of 16 steps
becomes one token, and the head answers nine deciles for every step of every token. What this file adds to the
plain masked-patch encoder are the *references*: for each step the value a plain rival would give (interpolation
between the nearest visible points, i.e. the last value over a horizon, and copies from one season ago at the two
periods that the window's own autocorrelation shows best). They are inputs of every token, so that the network sees
on the visible part how good each one is, and the head may pass them through. A unit root then costs nothing to
learn, and a period that is no multiple of the patch needs no attention to realign it.

Shapes: B windows, T context steps, H target steps, L = T + H padded to whole patches, N = L / 16 tokens,
Q quantile levels. NaN means missing.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.layers import through
from tsfm.errors import ConfigError

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NUM_LAGS = 2
NUM_SEASONS = 3
"""Past seasons averaged by the smooth copy at each lag."""
NUM_REFERENCES = 1 + 3 * NUM_LAGS
MIN_OVERLAP = 16
"""Pairs of visible points a lag needs before its autocorrelation is looked at."""
OUTPUT_LIMIT = 20.0
"""sinh(20) = 2e8 window deviations: keeps any answer finite in float32."""
RELATIVE_LIMIT = 5.0
"""74 window deviations: what leaves a constant context must not outweigh a whole batch in pretraining."""


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight
        return out


class ResidualBlock(nn.Module):
    """`skip(x) + out(silu(hidden(x)))`: a linear map with a small non-linear correction."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width_in, hidden, bias=False)
        self.out = nn.Linear(hidden, width_out, bias=False)
        self.skip = nn.Linear(width_in, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.skip(x) + self.out(F.silu(self.hidden(x)))
        return out


class Attention(nn.Module):
    """Full self-attention with separate projections and half-split rotary positions."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.o = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor | None) -> Tensor:
        """`x` [B, N, D]; `rotation` cos and sin [N, D/heads]; `keys` [B, 1, 1, N] bool, True = may be attended to."""
        b, n, d = x.shape
        q, k, v = (p(x).view(b, n, self.num_heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(_rotate(q, rotation), _rotate(k, rotation), v, attn_mask=keys)
        out: Tensor = self.o(mixed.transpose(1, 2).reshape(b, n, d))
        return out


class Layer(nn.Module):
    """Pre-norm attention, then a pre-norm GELU MLP; dropout on both branches, only in training."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = Attention(width, num_heads)
        self.mlp_norm = RMSNorm(width)
        self.fc1 = nn.Linear(width, mlp_ratio * width, bias=False)
        self.fc2 = nn.Linear(mlp_ratio * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor | None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, keys))
        out: Tensor = x + self.dropout(self.fc2(F.gelu(self.fc1(self.mlp_norm(x)))))
        return out


class Head(nn.Module):
    """Deciles of each step: a residual block, plus the references weighted by per-step gates."""

    def __init__(self, width: int, patch: int, num_quantiles: int) -> None:
        super().__init__()
        self.patch, self.num_quantiles = patch, num_quantiles
        self.block = ResidualBlock(width, 2 * width, num_quantiles * patch)
        self.gate = nn.Linear(width, NUM_REFERENCES * patch, bias=False)

    def forward(self, hidden: Tensor, references: Tensor) -> Tensor:
        """`hidden` [B, N, D], `references` [B, N, R, p] -> [B, N, Q, p]."""
        b, n, _ = hidden.shape
        gates = self.gate(hidden).view(b, n, NUM_REFERENCES, self.patch)
        base = (gates * references).sum(2)
        shape: Tensor = self.block(hidden).view(b, n, self.num_quantiles, self.patch)
        out: Tensor = shape + base.unsqueeze(2)
        return out


class Tiny(Backbone):
    """See the module's text. Trained for contexts up to 512 and horizons up to 128; longer horizons recurse."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {"temper-tiny": {"d_model": 128, "num_layers": 4}}
    lora_targets: ClassVar[str] = r"^layers\.\d+\.(attention\.[qkvo]|fc[12])$"
    head_name: ClassVar[str] = "output"
    reconstructs: ClassVar[bool] = True
    head_linear: ClassVar[str | None] = None  # each token answers its own steps, partly from the references

    def __init__(
        self,
        *,
        d_model: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        patch_length: int = 16,
        context_length: int = 512,
        prediction_length: int = 128,
        max_prediction_length: int = 512,
        quantile_levels: tuple[float, ...] = DECILES,
    ) -> None:
        super().__init__()
        if d_model % (2 * num_heads) or 0.5 not in quantile_levels:
            raise ConfigError("temper-tiny needs an even width per head, and the median among its quantile_levels.")
        self.config: dict[str, Any] = {
            "d_model": d_model,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "dropout": dropout,
            "patch_length": patch_length,
            "context_length": context_length,
            "prediction_length": prediction_length,
            "max_prediction_length": max_prediction_length,
            "quantile_levels": list(quantile_levels),
        }
        self.levels = tuple(quantile_levels)
        self.patch = patch_length
        self.context_length = context_length
        self.prediction_length = prediction_length
        self.max_prediction_length = max_prediction_length
        self.head_width = d_model // num_heads
        self.input = ResidualBlock((NUM_REFERENCES + 1) * patch_length + 2 * NUM_LAGS, 2 * d_model, d_model)
        self.layers = nn.ModuleList(Layer(d_model, num_heads, mlp_ratio, dropout) for _ in range(num_layers))
        self.norm = RMSNorm(d_model)
        self.output = Head(d_model, patch_length, len(quantile_levels))
        self._initialise(num_layers)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """One layer, 16 wide."""
        return {**config, "d_model": 16, "num_layers": 1, "num_heads": 2, "mlp_ratio": 2}

    def _initialise(self, num_layers: int) -> None:
        """Normal weights of variance 1/fan_in, residual branches shrunk by depth: trainable as it stands."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            std = parameter.shape[1] ** -0.5
            if name.endswith(("attention.o.weight", "fc2.weight")):
                std /= math.sqrt(2 * num_layers)
            if name.startswith("output."):
                std *= 0.5
            nn.init.normal_(parameter, std=std)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        values = dict(config)
        values["quantile_levels"] = tuple(values.get("quantile_levels", DECILES))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(**values)

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """Deciles of the next steps; beyond the native horizon the medians are appended to the context.

        Only the last `context_length` steps of `context` [B, T] are used.
        """
        if not 1 <= prediction_length <= self.max_prediction_length:
            raise ConfigError(
                f"temper-tiny forecasts 1 to {self.max_prediction_length} steps, not {prediction_length}.",
                param="prediction_length",
            )
        blocks: list[Tensor] = []
        remaining = prediction_length
        while remaining > 0:
            context = context[:, -self.context_length :]
            step = min(remaining, self.prediction_length)
            start = context.shape[1]
            padded = F.pad(context, (0, step + -step % self.patch), value=math.nan)
            out, location, scale = self._encode(padded, ~padded.isnan())
            quantiles = _denormalise(out[..., start : start + step], location, scale).sort(dim=1).values
            blocks.append(quantiles)
            context = torch.cat([context, quantiles[:, self.levels.index(0.5)]], dim=1)
            remaining -= step
        joined = torch.cat(blocks, dim=2)
        return Prediction(
            point=joined[:, self.levels.index(0.5)], point_kind="median", quantiles=joined, levels=self.levels
        )

    def loss(self, batch: Batch) -> Tensor:
        context = batch.context[:, -self.context_length :]
        target = F.pad(batch.target, (0, -batch.target.shape[1] % self.patch), value=math.nan)
        values = torch.cat([context, target], dim=1)
        hidden = torch.zeros_like(values, dtype=torch.bool)
        hidden[:, context.shape[1] :] = True
        return self.masked_loss(values, hidden)

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """asinh of the standardised values: what the deciles are before `_denormalise`."""
        context = context[:, -self.context_length :]
        location, scale = _standardisation(context.nan_to_num(), ~context.isnan())
        return torch.asinh((values - location) / scale)

    def reconstruct(self, values: Tensor, hidden: Tensor) -> Prediction:
        """Deciles of every step of `values` [B, T], seen without the points where `hidden` [B, T] is True.

        The mean of what it says of the window and of its mirror image: its seasonal copies look back in time, and what
        lies between two sides repeats what came after it as much as what came before.
        """
        mirror = _mirror(values, hidden)
        both = torch.cat([values, values.gather(1, mirror)]), torch.cat([hidden, hidden.gather(1, mirror)])
        out, location, scale = self._encode(both[0], ~both[0].isnan() & ~both[1])
        forth, back = _denormalise(out, location, scale).chunk(2)
        # The mirror is its own inverse: what it moved to a step, it takes back from there.
        quantiles = ((forth + back.gather(2, mirror.unsqueeze(1).expand_as(back))) / 2).sort(dim=1).values
        return Prediction(
            point=quantiles[:, self.levels.index(0.5)], point_kind="median", quantiles=quantiles, levels=self.levels
        )

    def reconstruction_loss(self, values: Tensor, hidden: Tensor) -> Tensor:
        """What it was pretrained with, of the window and of its mirror image."""
        mirror = _mirror(values, hidden)
        both = torch.cat([values, values.gather(1, mirror)]), torch.cat([hidden, hidden.gather(1, mirror)])
        return self.masked_loss(*both)

    def masked_loss(self, values: Tensor, hidden: Tensor, *, relative: bool = False) -> Tensor:
        """Pinball loss in the normalised space, averaged over the observed points of `values` that are hidden.

        `relative` weighs each row by how well its own visible seasons repeat, as scaled errors such as MASE do: without
        it the clean series, where a rival is hardest to beat, hardly count. The weight depends on what is
        visible only, so the quantiles that minimise the loss stay the same.
        """
        observed = ~values.isnan()
        visible = observed & ~hidden
        out, location, scale = self._encode(values, visible)
        counted = (observed & hidden).to(out.dtype)
        target = torch.asinh((torch.nan_to_num(values) - location) / scale)
        if relative:
            counted = counted * _cleanness(
                target * visible, visible, buffer=self.context_length + self.prediction_length
            )
            target = target.clamp(-RELATIVE_LIMIT, RELATIVE_LIMIT)
        error = target.unsqueeze(1) - out
        levels = torch.tensor(self.levels, dtype=out.dtype, device=out.device).view(1, -1, 1)
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean(1)
        return 2 * (pinball * counted).sum() / counted.sum().clamp(min=1e-6)

    def _encode(self, values: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`values`, `visible` [B, L] -> normalised deciles [B, Q, L], location [B, 1], scale [B, 1].

        Patches are aligned with the end, and what lies before the first visible point is no key of the attention,
        so that left padding changes nothing (rotary positions are relative).
        """
        length = values.shape[1]
        pad = -length % self.patch
        values, visible = F.pad(values, (pad, 0), value=math.nan), F.pad(visible, (pad, 0), value=False)
        known = torch.where(visible, values, torch.zeros_like(values))
        location, scale = _standardisation(known, visible)
        z = torch.where(visible, torch.asinh((known - location) / scale), torch.zeros_like(known))
        filled, first, end = _interpolate(z, visible)
        with torch.no_grad():
            lags, strength = _lags(z.detach(), visible, buffer=self.context_length + self.prediction_length)
        references = torch.stack([filled, *_seasonal_copies(filled, lags, first, end)], dim=1)
        b, total = values.shape
        n = total // self.patch
        patched = references.view(b, NUM_REFERENCES, n, self.patch).transpose(1, 2)
        facts = torch.cat([strength, lags.to(z.dtype).log() / 6], dim=1).unsqueeze(1).expand(b, n, -1)
        bits = visible.view(b, n, self.patch).to(z.dtype)
        x = self.input(torch.cat([patched.flatten(2), bits, facts], dim=2))
        rotation = _rotation(n, self.head_width, like=x)
        keys = _keys(first, n, self.patch)
        for layer in self.layers:
            x = through(layer, x, rotation, keys, checkpointing=self.gradient_checkpointing and self.training)
        out: Tensor = self.output(self.norm(x), patched)
        return out.transpose(1, 2).reshape(b, len(self.levels), total)[..., pad:], location, scale


def _mirror(values: Tensor, hidden: Tensor) -> Tensor:
    """[B, T] the place that each step of the mirror image comes from; left padding stays on the left.

    Padding is what stands before the first point that is known or asked for.
    """
    length = values.shape[1]
    used = ~values.isnan() | hidden
    first = used.int().argmax(1, keepdim=True)
    index = torch.arange(length, device=values.device)
    return (first + length - 1 - index) % length


def _standardisation(known: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over visible points, [B, 1] each; a constant or empty row gets a harmless scale."""
    count = visible.sum(1, keepdim=True).clamp(min=1)
    location = known.sum(1, keepdim=True) / count
    centred = (known - location) * visible
    deviation = (centred.square().sum(1, keepdim=True) / count + 1e-30).sqrt()
    # Rounding of the mean of a constant row is about 1e-7 of it: below 1e-5 there is no signal in float32.
    scale = torch.maximum(deviation, 1e-5 * known.abs().amax(1, keepdim=True))
    return location, torch.where(scale > 1e-12, scale, torch.ones_like(scale))


def _denormalise(out: Tensor, location: Tensor, scale: Tensor) -> Tensor:
    return out.clamp(-OUTPUT_LIMIT, OUTPUT_LIMIT).sinh() * scale.unsqueeze(1) + location.unsqueeze(1)


def _interpolate(z: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Linear interpolation between visible points, constant beyond them [B, L]; first and end visible index [B, 1]."""
    length = z.shape[1]
    index = torch.arange(length, device=z.device).expand_as(z)
    before = torch.where(visible, index, -1).cummax(1).values
    after = torch.where(visible, index, length).flip(1).cummin(1).values.flip(1)
    first = after[:, :1].clamp(max=length - 1)
    end = before[:, -1:] + 1
    left, right = before.maximum(first), after.minimum((end - 1).clamp(min=0))
    weight = (index - left).clamp(min=0) / (right - left).clamp(min=1)
    low, high = z.gather(1, left), z.gather(1, right)
    return low + weight * (high - low), first, end


def _lags(z: Tensor, visible: Tensor, *, buffer: int) -> tuple[Tensor, Tensor]:
    """The two most telling periods of each row, ascending [B, 2] int64, and their contrast [B, 2].

    Contrast of lag l = autocorrelation at l (less its standard error) minus autocorrelation at l/2, averaged over the
    detrended values and their differences: a trend or a unit root scores low, a period high, its even multiples low.
    The first lag favours short periods, which recur often; the second takes the best other one. The sums
    run in a buffer of fixed length aligned with the end, so that left padding leaves them bit-identical.
    """
    length = z.shape[1]
    buffer = max(buffer, length)
    mask = visible.to(z.dtype)
    time = torch.arange(-length + 1, 1, device=z.device, dtype=z.dtype) / buffer
    count = mask.sum(1, keepdim=True).clamp(min=1)
    centred_time = (time - (mask * time).sum(1, keepdim=True) / count) * mask
    level = (z * mask).sum(1, keepdim=True) / count
    slope = (centred_time * z).sum(1, keepdim=True) / centred_time.square().sum(1, keepdim=True).clamp(min=1e-6)
    rest = F.pad((z - level) * mask - slope * centred_time, (buffer - length, 0))
    mask = F.pad(mask, (buffer - length, 0))
    both = mask[:, 1:] * mask[:, :-1]
    steps = F.pad((rest[:, 1:] - rest[:, :-1]) * both, (1, 0))
    r, pairs = _autocorrelation(torch.stack([rest, steps]), torch.stack([mask, F.pad(both, (1, 0))]))
    lag = torch.arange(r.shape[-1], device=z.device)
    lower = r - (1 - r.square()) * (24 / pairs.clamp(min=1)).sqrt()
    contrast = (lower - 0.5 * (r[..., lag // 2] + r[..., (lag + 1) // 2])).mean(0)
    usable = (pairs[1] > MIN_OVERLAP - 0.5) & (lag >= 2)
    contrast = torch.where(usable, contrast.clamp(min=-1), -torch.ones_like(contrast))
    one = ((contrast + 1) * pairs[0] / count).argmax(1, keepdim=True)
    # The second period must be another one, not a neighbour on the same peak.
    other = torch.where((lag - one).abs() > (0.15 * one).clamp(min=1), contrast, -2 * torch.ones_like(contrast))
    pair = torch.cat([one, other.argmax(1, keepdim=True)], dim=1).clamp(min=1)
    pair, order = pair.sort(1)
    strength = torch.cat([contrast.gather(1, one), other.amax(1, keepdim=True)], dim=1).gather(1, order)
    return pair, strength.clamp(min=-1)


def _autocorrelation(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation [2, B, K] of `x` [2, B, buffer] (0 where masked) with itself k steps earlier, and how many pairs."""
    size = x.shape[-1]
    num_lags = size * 2 // 3
    spectrum = torch.fft.rfft(torch.stack([x, mask]), n=2 * size)
    sums, pairs = torch.fft.irfft(spectrum.abs().square(), n=2 * size)[..., :num_lags]
    energy = x.square().cumsum(-1)
    early, late = energy.flip(-1)[..., :num_lags], energy[..., -1:] - F.pad(energy, (1, 0))[..., :num_lags]
    return (sums / (early * late).clamp(min=1e-12).sqrt()).clamp(-1, 1), pairs


def _seasonal_copies(filled: Tensor, lags: Tensor, first: Tensor, end: Tensor) -> list[Tensor]:
    """For each lag: the last known value one or more seasons earlier, its mean over three seasons, and the
    value plus the mean season-on-season change of the last season (seasonal naive with drift); [B, L] each.
    """
    length = filled.shape[1]
    index = torch.arange(length, device=filled.device).expand_as(filled)
    copies: list[Tensor] = []
    for column in range(NUM_LAGS):
        lag = lags[:, column : column + 1]
        beyond = (index - end).clamp(min=-1) // lag + 1
        source = index - lag * beyond.clamp(min=1)
        # Early steps have no season before them: they look one season ahead, or at themselves.
        ahead = torch.where(index + lag < end, index + lag, index)
        source = torch.where(source >= first, source, ahead)
        copy = filled.gather(1, source)
        total, weight = copy, torch.ones_like(copy)
        for k in range(1, NUM_SEASONS):
            earlier = source - k * lag
            known = (earlier >= first).to(copy.dtype)
            total = total + filled.gather(1, earlier.clamp(min=0)) * known
            weight = weight + known
        before = index - lag
        change = (filled - filled.gather(1, before.clamp(min=0))) * ((before >= first) & (index < end))
        sums = F.pad(change.cumsum(1), (1, 0))
        edge = index.minimum(end)
        drift = (sums.gather(1, edge) - sums.gather(1, (edge - lag).clamp(min=0))) / lag
        copies += [copy, total / weight, copy + drift * beyond.clamp(min=1)]
    return copies


@torch.no_grad()
def _cleanness(z: Tensor, visible: Tensor, *, buffer: int) -> Tensor:
    """1 / (0.1 + mean absolute error of the better seasonal copy on the visible part) of each row, [B, 1].

    Rows without a repeated season, and constant ones, weigh as noise does.
    """
    filled, first, end = _interpolate(z, visible)
    lags, _ = _lags(z, visible, buffer=buffer)
    copies = _seasonal_copies(filled, lags, first, end)[::3]
    index = torch.arange(z.shape[1], device=z.device)
    best = torch.full_like(z[:, :1], 1.0)
    for k, copy in enumerate(copies):
        judged = (visible & (index >= first + lags[:, k : k + 1])).to(z.dtype)
        error = ((z - copy).abs() * judged).sum(1, keepdim=True) / judged.sum(1, keepdim=True).clamp(min=1)
        best = torch.where(error > 1e-3, torch.minimum(best, error), best)
    return 1 / (0.1 + best)


def _keys(first: Tensor, num_tokens: int, patch: int) -> Tensor | None:
    """[B, 1, 1, N] True where attention may look: from the first visible patch on; the last token always."""
    start = torch.clamp(first // patch, max=num_tokens - 1)
    if not bool((start > 0).any()):
        return None
    return (torch.arange(num_tokens, device=first.device) >= start)[:, None, None, :]


def _rotation(num_tokens: int, width: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [N, width] of half-split rotary positions (Su et al. 2021), base 10,000; angles in float32."""
    frequency = 10_000.0 ** (-torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width)
    angle = torch.arange(num_tokens, device=like.device, dtype=torch.float32)[:, None] * frequency
    angle = torch.cat([angle, angle], dim=1)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * rotation[0] + torch.cat([-high, low], dim=-1) * rotation[1]
