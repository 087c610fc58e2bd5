"""TimesFM 2.5 (Google): a decoder over patches of 32 steps; own implementation of its specification.

Every patch is standardised by the mean and deviation of all points up to its own end, embedded together with its mask
by a residual block, and mixed with its past: attention with rotary positions that start at the first patch seen, then
RMS norms per head and a learned scale per dimension of the query. From each patch's hidden state one head says the mean
and nine deciles of the next 128 steps, and another one the deciles of the next 1,024, of which only the spread around
their own median counts. Longer horizons append the medians as new patches and run on; the statistics grow with them.

Names of parameters are those of `google/timesfm-2.5-200m-transformers`, with queries, keys and values apart;
`google/timesfm-2.5-200m-pytorch` holds the same weights under other names and with the three fused, which
`TimesFM.published_tensors` takes apart.

Missing values are dealt with as upstream does: leading ones are padding, which nothing looks at; all others lie on the
line between their neighbours. The published non-negativity clamp is not here: windows arrive standardised.

Shapes: B windows, T context steps, H target steps, N patches of p steps, D width, o steps of one pass, Q deciles;
"columns" are the mean and the Q deciles.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.layers import RMSNorm, causal_mask, fill_gaps, hold, pinball, rotary, rotate_halves, through
from tsfm.errors import ConfigError

FLAT = 1e-6
"""Deviations below are not divided by, and nothing is spread by them."""
LOG2_E = 1.442695041
"""1 / softplus(0): what the published scale of the query starts from."""

_FIXED: dict[str, tuple[Any, ...]] = {
    "activation": ("swish", "silu"),
    "use_bias": (False,),
    "attention_bias": (False,),
    "attention_dropout": (0, 0.0),
    "use_continuous_quantile_head": (True,),
}
"""Switches of the published config.json that change the computation, and the values they have there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimesFMConfig:
    """The values of the published `config.json` that decide the architecture, and what is ours to choose."""

    patch_length: int = 32
    context_length: int = 16_384
    """Of the context and what is fed back of the forecast together."""
    horizon_length: int = 128
    """o, whole patches."""
    output_quantile_len: int = 1_024
    """Steps of the second head: the longest horizon."""
    num_hidden_layers: int = 20
    hidden_size: int = 1_280
    intermediate_size: int = 1_280
    num_attention_heads: int = 16
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    quantiles: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    flip_invariance: bool = False
    """True answers (f(x) - f(-x)) / 2, with the deciles in reverse: twice the time. (Ours; published as a call's
    option, `force_flip_invariance`.)"""
    loss_tokens: Literal["every", "target"] = "every"
    """Whose error is trained: every patch's, as in pretraining, or only the last one's, which says the target."""

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From a published `config.json` or from `TimesFM.config`; `ConfigError` for what it never was."""
        for name, allowed in _FIXED.items():
            if name in config and config[name] not in allowed:
                raise ConfigError(f"TimesFM checkpoints with {name}={config[name]!r} are not supported.")
        values = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        if "quantiles" in values:
            values["quantiles"] = tuple(values["quantiles"])
        parsed = cls(**values)
        if parsed.horizon_length % parsed.patch_length or parsed.context_length % parsed.patch_length:
            raise ConfigError("TimesFM needs a context and a horizon of whole patches.")
        if 0.5 not in parsed.quantiles:
            raise ConfigError("TimesFM needs the median among its quantiles.")
        if parsed.hidden_size % (2 * parsed.num_attention_heads):
            raise ConfigError("TimesFM needs a width that its heads divide into pairs.")
        return parsed

    @property
    def num_columns(self) -> int:
        return 1 + len(self.quantiles)

    @property
    def median(self) -> int:
        """Its column, of which forecasts are fed back."""
        return 1 + self.quantiles.index(0.5)


class Residual(nn.Module):
    """`output_layer(silu(input_layer(x))) + residual_layer(x)`."""

    def __init__(self, width_in: int, hidden: int, width_out: int, *, bias: bool) -> None:
        super().__init__()
        self.input_layer = nn.Linear(width_in, hidden, bias=bias)
        self.output_layer = nn.Linear(hidden, width_out, bias=bias)
        self.residual_layer = nn.Linear(width_in, width_out, bias=bias)

    def forward(self, x: Tensor, *, count: int | None = None) -> Tensor:
        """[..., width_out] of `x` [..., width_in]; with `count` the first so many alone."""
        inner = F.silu(self.input_layer(x))
        return first_outputs(self.output_layer, inner, count) + first_outputs(self.residual_layer, x, count)


def first_outputs(linear: nn.Module, x: Tensor, count: int | None) -> Tensor:
    """The first `count` outputs of `linear` at `x`, or all; nothing is spent on the others.

    Unless an adapter stands in the linear's place, which says all or nothing.
    """
    if count is not None and type(linear) is nn.Linear:
        return F.linear(x, linear.weight[:count], None if linear.bias is None else linear.bias[:count])
    out: Tensor = linear(x)
    return out if count is None else out[..., :count]


Memory = list[Tensor]
"""Of one layer: keys and values of the patches before, or nothing yet; a pass that is given it puts its own there."""


class Attention(nn.Module):
    """Causal attention; rotary positions come *before* the norms of queries and keys, so that they are not relative."""

    def __init__(self, config: TimesFMConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        head_width = width // self.num_heads
        self.scaling = nn.Parameter(torch.ones(head_width))
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.q_norm = RMSNorm(head_width, eps=config.rms_norm_eps)
        self.k_norm = RMSNorm(head_width, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, memory: Memory | None) -> Tensor:
        """`x` [B, M, D] are the last M of N patches; angles [B, 1, M, e / 2]; `mask` [B, 1, M, N], True = may look."""
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        scale = LOG2_E / math.sqrt(q.shape[-1]) * F.softplus(self.scaling)
        q = self.q_norm(rotate_halves(q, cos, sin)) * scale
        k = self.k_norm(rotate_halves(k, cos, sin))
        if memory:
            k, v = torch.cat([memory[0], k], dim=2), torch.cat([memory[1], v], dim=2)
        if memory is not None:
            memory[:] = k, v
        mixed = F.scaled_dot_product_attention(q.type_as(v), k.type_as(v), v, attn_mask=mask, scale=1.0)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class MLP(nn.Module):
    """`fc2(silu(fc1(x)))`."""

    def __init__(self, config: TimesFMConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.silu(self.fc1(x)))
        return out


class Layer(nn.Module):
    """Each branch is normalised before and after: `x + norm(branch(norm(x)))`, attention first."""

    def __init__(self, config: TimesFMConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.pre_feedforward_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_feedforward_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, memory: Memory | None) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), cos, sin, mask, memory))
        out: Tensor = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return out


class Trunk(nn.Module):
    """Normalised patches and their masks, [B, N, p] each, to hidden states [B, N, D]."""

    def __init__(self, config: TimesFMConfig) -> None:
        super().__init__()
        self.head_width = config.hidden_size // config.num_attention_heads
        self.input_ff_layer = Residual(2 * config.patch_length, config.hidden_size, config.hidden_size, bias=True)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def embed(self, patches: Tensor, masked: Tensor) -> Tensor:
        out: Tensor = self.input_ff_layer(torch.cat([patches, masked.to(patches.dtype)], dim=-1))
        return out

    def forward(
        self, patches: Tensor, masked: Tensor, *, memories: list[Memory] | None = None, checkpointing: bool = False
    ) -> Tensor:
        """`patches` [B, M, p] may be the last of `masked` [B, N, p] alone, where `memories` hold all before."""
        padding, new = masked[..., -1], slice(masked.shape[1] - patches.shape[1], None)
        positions = torch.arange(padding.shape[1], device=padding.device) - padding.sum(1, keepdim=True)
        cos, sin = (angle[:, None, new] for angle in rotary(positions, self.head_width))
        mask = causal_mask(padding)[:, :, new]
        x = self.embed(patches, masked[:, new])
        for i, layer in enumerate(self.layers):
            memory = None if memories is None else memories[i]
            x = through(layer, x, cos, sin, mask, memory, checkpointing=checkpointing)
        return x


class Patches(NamedTuple):
    """What the network made of windows cut into patches."""

    hidden: Tensor
    """[B, N, D]"""
    location: Tensor
    """[B, N] mean of the points up to the end of each patch; 0 before the first one."""
    scale: Tensor
    """[B, N] their deviation; 0 where they are all the same."""
    steps: int | None = None
    """Steps the heads are asked for; None: all they know, of which the second's take a tenth of a single forecast."""

    def last(self, number: int = 1) -> "Patches":
        """The last so many patches alone."""
        hidden, location, scale, steps = self
        return Patches(hidden[:, -number:], location[:, -number:], scale[:, -number:], steps)


class TimesFM(Backbone):
    """See the module's text. The point forecast is the median; a mean head is trained beside it."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {"timesfm-2.5": asdict(TimesFMConfig())}
    lora_targets: ClassVar[str] = r"^model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.fc[12])$"
    head_name: ClassVar[str] = "output_projection_point"
    follows: ClassVar[bool] = True

    def __init__(self, config: TimesFMConfig) -> None:
        """Draws the published initialisation: N(0, 0.02) for linears, ones for norms and scales, zeros for biases."""
        super().__init__()
        self.config: dict[str, Any] = {**asdict(config), "quantiles": list(config.quantiles)}
        self.sizes = config
        width, columns = config.hidden_size, config.num_columns
        self.model = Trunk(config)
        self.output_projection_point = Residual(width, width, config.horizon_length * columns, bias=False)
        self.output_projection_quantiles = Residual(width, width, config.output_quantile_len * columns, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """`config` is `TimesFM.config` or a published `config.json`; `ConfigError` for variants not supported."""
        parsed = TimesFMConfig.parse(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(parsed)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Width 16 and two layers; most of what is left are the two heads, whose steps stay."""
        tiny = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        return {**asdict(TimesFMConfig.parse(config)), **tiny}

    @classmethod
    def published_tensors(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of either published layout: that of `transformers` is ours, the package's has other names and a fused qkv."""
        if "tokenizer.hidden_layer.weight" not in tensors:
            return dict(tensors)
        ours: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            renamed = name
            for pattern, replacement in _PACKAGE_NAMES:
                renamed = re.sub(pattern, replacement, renamed)
            if renamed.endswith("qkv_proj.weight"):
                for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                    ours[renamed.replace("qkv_proj", f"{letter}_proj")] = part
            else:
                ours[renamed] = tensor
        return ours

    def head_parameter_names(self) -> frozenset[str]:
        """Of both heads: the deciles that are forecast come from the second one."""
        heads = ("output_projection_point.", "output_projection_quantiles.")
        return frozenset(name for name, _ in self.named_parameters() if name.startswith(heads))

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """The nine deciles of the next steps, and the median as the point.

        Only the last steps of `context` [B, T] are used: `context_length`, less what is fed back of a horizon beyond
        one pass. `ConfigError` for horizons beyond the second head's.
        """
        if not 1 <= prediction_length <= self.sizes.output_quantile_len:
            raise ConfigError(
                f"TimesFM forecasts 1 to {self.sizes.output_quantile_len} steps, not {prediction_length}.",
                param="prediction_length",
            )
        said = self._columns(context, prediction_length)
        if self.sizes.flip_invariance:
            flipped = self._columns(-context, prediction_length)
            said = (said - torch.cat([flipped[..., :1], flipped[..., 1:].flip(-1)], dim=-1)) / 2
        deciles = uncrossed(said[..., 1:], median=self.sizes.median - 1).transpose(1, 2)
        return Prediction(
            point=deciles[:, self.sizes.median - 1],
            point_kind="median",
            quantiles=deciles,
            levels=self.sizes.quantiles,
        )

    def loss(self, batch: Batch) -> Tensor:
        """Mean head and deciles of the next steps at every patch of the context, in the units of the window.

        Every patch says up to o steps, of which the first H count: those observed, in the rest of the context and in
        the target. Their error is squared for the mean head, and for the nine deciles the mean of pinball losses, which
        pairs column 1 + k with level k. Where the target begins, the forecast's own deciles (spread by the second head)
        add their pinball loss over the same steps. A window's horizon ends with its last observed target, and its own
        mean counts by how many it has.
        """
        values, masked = self.prepared(batch.context, room=self.sizes.context_length)
        steps = min(batch.target.shape[1], self.sizes.horizon_length)
        patches = self.hidden(values, masked)._replace(steps=steps)
        observed = F.pad(batch.context, (max(values.shape[1] - batch.context.shape[1], 0), 0), value=math.nan)
        series = torch.cat([observed[:, -values.shape[1] :], batch.target], dim=1)
        p, num_patches = self.sizes.patch_length, masked.shape[1] // self.sizes.patch_length
        after = series[:, p:].unfold(1, steps, p)[:, :num_patches]
        counted = ~masked[:, p - 1 :: p]
        counted[:, -1] = True
        if self.sizes.loss_tokens == "target":
            counted = counted & (torch.arange(num_patches, device=counted.device) == num_patches - 1)
        within = torch.arange(steps, device=after.device) < _last_observed(batch.target)[:, None]
        after = torch.where(counted[..., None] & within[:, None], after, math.nan)

        said = self.next_steps(patches)
        levels = torch.tensor(self.sizes.quantiles, device=said.device)
        every = torch.where(after.isnan(), 0.0, after.nan_to_num() - said[..., 0]).square()
        every = every + pinball(said[..., 1:].transpose(2, 3), after, levels).mean(2)
        deciles = spread(said[:, -1], self.far_steps(patches), median=self.sizes.median)[..., 1:]
        last = pinball(deciles.transpose(1, 2), after[:, -1], levels).mean(1)

        mean = every.sum((1, 2)) / (~after.isnan()).sum((1, 2)).clamp(min=1)
        mean = mean + last.sum(1) / (~after[:, -1].isnan()).sum(1).clamp(min=1)
        weight = (~batch.target.isnan()).sum(1)
        return (mean * weight).sum() / weight.sum().clamp(min=1)

    def predict_patches(self, context: Tensor, target: Tensor) -> Prediction:
        """The first head's deciles after every patch; gaps in `target` hold the last value before."""
        p, steps = self.sizes.patch_length, target.shape[1]
        known, masked = self.prepared(context, room=self.sizes.context_length - steps)
        values = hold(torch.cat([known, target[:, :-p]], dim=1))
        patches = self.hidden(values, F.pad(masked, (0, steps - p)))._replace(steps=p)
        said = self.next_steps(patches.last(steps // p))[..., 1:]
        deciles = uncrossed(said.flatten(1, 2), median=self.sizes.median - 1).transpose(1, 2)
        return Prediction(
            point=deciles[:, self.sizes.median - 1],
            point_kind="median",
            quantiles=deciles,
            levels=self.sizes.quantiles,
        )

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """Standardised by all of the context, as the last patch is."""
        known, masked = self.prepared(context, room=self.sizes.context_length)
        location, scale = running_moments(known, masked, patch=self.sizes.patch_length)
        divisor = torch.where(scale < FLAT, 1.0, scale)
        return (values - location[:, -1:]) / divisor[:, -1:]

    def prepared(self, context: Tensor, *, room: int) -> tuple[Tensor, Tensor]:
        """(values, masked), each [B, L] with L whole patches: at most `room` steps of `context` [B, T] without gaps.

        Masked are the points before a window's first observed one; they are 0.
        """
        context = context[:, -room:]
        masked = (~context.isnan()).cumsum(1) == 0
        pad = (-context.shape[1] % self.sizes.patch_length, 0)
        masked = F.pad(masked, pad, value=True)
        return torch.where(masked, 0.0, F.pad(fill_gaps(context), pad)), masked

    def hidden(self, values: Tensor, masked: Tensor, *, memories: list[Memory] | None = None) -> Patches:
        """The network on `values` and `masked` [B, L], whole patches, 0 where masked.

        With `memories` only of the patches that came since they were filled, and they are filled up.
        """
        p = self.sizes.patch_length
        location, scale = running_moments(values, masked, patch=p)
        shape = (*location.shape, p)
        known = memories[0][0].shape[2] if memories and memories[0] else 0
        location, scale, seen = location[:, known:], scale[:, known:], masked.view(shape)
        divisor = torch.where(scale < FLAT, 1.0, scale)
        normal = (values.view(shape)[:, known:] - location[..., None]) / divisor[..., None]
        hidden = self.model(
            torch.where(seen[:, known:], 0.0, normal),
            seen,
            memories=memories,
            checkpointing=self.gradient_checkpointing and self.training and memories is None,
        )
        return Patches(hidden, location, scale)

    def next_steps(self, patches: Patches) -> Tensor:
        """[B, N, o, columns] what every patch says of the o steps after it, or of as many as are asked for."""
        count = self._outputs(patches.steps, self.sizes.horizon_length)
        return self._denormalised(self.output_projection_point(patches.hidden, count=count), patches)

    def far_steps(self, patches: Patches) -> Tensor:
        """[B, 1024, columns] what the second head says after the last patch, or as many steps as are asked for."""
        last, count = patches.last(), self._outputs(patches.steps, self.sizes.output_quantile_len)
        return self._denormalised(self.output_projection_quantiles(last.hidden, count=count), last)[:, 0]

    def _outputs(self, steps: int | None, most: int) -> int | None:
        """How many outputs of a head that knows `most` steps are `steps` of them; None: all."""
        return None if steps is None or steps >= most else steps * self.sizes.num_columns

    def _denormalised(self, said: Tensor, patches: Patches) -> Tensor:
        columns = said.float().view(*said.shape[:-1], -1, self.sizes.num_columns)
        return columns * patches.scale[..., None, None] + patches.location[..., None, None]

    def _columns(self, context: Tensor, steps: int) -> Tensor:
        """[B, H, columns] after `context`, as often as it takes; deciles may cross."""
        o, passes = self.sizes.horizon_length, -(-steps // self.sizes.horizon_length)
        values, masked = self.prepared(context, room=self.sizes.context_length - (passes - 1) * o)
        memories: list[Memory] | None = [[] for _ in self.model.layers] if passes > 1 else None
        patches = self.hidden(values, masked, memories=memories)
        far = self.far_steps(patches._replace(steps=steps))
        blocks: list[Tensor] = []
        for _ in range(passes):
            if blocks:
                values = torch.cat([values, blocks[-1][..., self.sizes.median]], dim=1)
                masked = F.pad(masked, (0, o))
                patches = self.hidden(values, masked, memories=memories)
            blocks.append(self.next_steps(patches.last()._replace(steps=steps))[:, 0])
        return spread(torch.cat(blocks, dim=1)[:, :steps], far, median=self.sizes.median)


_PACKAGE_NAMES = (
    (r"^tokenizer\.", "model.input_ff_layer."),
    (r"^stacked_xf\.", "model.layers."),
    (r"\.hidden_layer\.", ".input_layer."),
    (r"\.attn\.query_ln\.scale$", ".self_attn.q_norm.weight"),
    (r"\.attn\.key_ln\.scale$", ".self_attn.k_norm.weight"),
    (r"\.attn\.per_dim_scale\.per_dim_scale$", ".self_attn.scaling"),
    (r"\.attn\.out\.", ".self_attn.o_proj."),
    (r"\.attn\.", ".self_attn."),
    (r"\.pre_attn_ln\.scale$", ".input_layernorm.weight"),
    (r"\.post_attn_ln\.scale$", ".post_attention_layernorm.weight"),
    (r"\.pre_ff_ln\.scale$", ".pre_feedforward_layernorm.weight"),
    (r"\.post_ff_ln\.scale$", ".post_feedforward_layernorm.weight"),
    (r"\.ff0\.", ".mlp.fc1."),
    (r"\.ff1\.", ".mlp.fc2."),
)
"""From the package's names to those of `transformers`, one after the other."""


def _last_observed(target: Tensor) -> Tensor:
    """[B] number of steps of `target` [B, H] up to the last observed one."""
    return torch.where(target.isnan(), 0, torch.arange(1, target.shape[1] + 1, device=target.device)).amax(1)


def running_moments(values: Tensor, masked: Tensor, *, patch: int) -> tuple[Tensor, Tensor]:
    """Mean and population deviation [B, N] of the unmasked `values` [B, L] up to the end of each patch.

    Sums in float64 of what is left over the last value: in float32 the deviation at level 300 is off by a tenth
    (backbones.md §3.3). A deviation below `FLAT` is given as 0, where its root has no gradient.
    """
    level = values[:, -1:].detach().double()
    shape = (len(values), values.shape[1] // patch, patch)
    known = torch.where(masked, 0.0, values.double() - level).view(shape)
    seen = (~masked).view(shape).sum(-1).cumsum(1)
    count = seen.clamp(min=1)
    mean = known.sum(-1).cumsum(1) / count
    variance = known.square().sum(-1).cumsum(1) / count - mean.square()
    flat = variance < FLAT**2
    deviation = torch.where(flat, 0.0, torch.where(flat, 1.0, variance).sqrt())
    return torch.where(seen > 0, mean + level, 0.0).float(), deviation.float()


def spread(near: Tensor, far: Tensor, *, median: int) -> Tensor:
    """The first head's columns [B, H, columns] with the second head's deciles, moved so that the medians agree."""
    deciles = far[..., 1:] + (near - far)[..., median, None]
    exact = torch.arange(1, near.shape[-1], device=near.device) == median
    return torch.cat([near[..., :1], torch.where(exact, near[..., median, None], deciles)], dim=-1)


def uncrossed(deciles: Tensor, *, median: int) -> Tensor:
    """`deciles` [..., Q] in order: outwards from the median none passes the one before."""
    below = deciles[..., : median + 1].flip(-1).cummin(-1).values.flip(-1)
    above = deciles[..., median:].cummax(-1).values
    return torch.cat([below, above[..., 1:]], dim=-1)
