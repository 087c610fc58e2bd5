"""MOMENT (AutonLab): a T5-style encoder pretrained to fill in hidden patches; own implementation of its specification.

A window of 512 steps is standardised over what can be seen, cut into 64 patches of 8, and each patch becomes a token by
one linear without a bias; a hidden patch becomes the learnt mask token instead. A fixed table of sines says where a
token stands, the encoder attends in both directions, and a linear answers the 8 steps of every token: the published
checkpoint reconstructs, and holds no forecasting head.

*As published* it forecasts by reconstruction, as its authors do for short horizons without training: the last
⌈H / 8⌉ patches of the window are hidden, the history before them is visible, and what stands in the hidden patches is
the forecast. *To be tuned*, `fit_to` draws their forecasting head in its place: one linear from the flattened tokens
to H steps. `config` says which of the two a network is.

Names of parameters are those of the published checkpoints (`AutonLab/MOMENT-1-small`, `-base`, `-large`), and
`config.json` is read as it was published. Two stored tensors are left out: the token table of the language model, which
nothing reads, and the sines, which are computed.

Shapes: B windows (of one channel each: channels are independent), T = 512 steps, H target steps, p = 8 steps a patch,
N = T / p tokens, D width. NaN means missing.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.layers import Dropout, fill_gaps, through
from tsfm.errors import ConfigError

DEVIATION_FLOOR = 1e-5
"""Added to the deviation: a constant window stays finite."""
NO_KEY = torch.finfo(torch.bfloat16).min
"""Added to the score of a token that nothing may attend to; the least number that bfloat16 and float32 share."""
HIDDEN_SHARE = 3 / 8
"""Of the window, at most, in one forecast by reconstruction: pretraining hid three patches in ten."""
GAIN = 1.41
"""Of the orthogonal initialisation of what turns patches into tokens and tokens into patches."""
MOST_FILLED = 0.5
"""Share of a patch that may be missing and is filled by a line; with more missing the patch is hidden."""
NOT_LOADED = ("encoder.embed_tokens.weight", "patch_embedding.position_embedding.pe")
"""Published tensors that are dropped: the first is never read, the second a formula (`sines`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentConfig:
    """The values of a published `config.json` that decide the architecture; `ConfigError` for what it never was."""

    d_model: int
    d_ff: int
    d_kv: int
    """Width of one attention head; all heads together may be narrower than `d_model`."""
    num_heads: int
    num_layers: int
    context_length: int = 512
    patch_length: int = 8
    dropout: float = 0.1
    norm_eps: float = 1e-6
    num_buckets: int = 32
    """Of relative positions; half for each direction."""
    max_distance: int = 128
    """In tokens: what is further away shares the last bucket."""
    horizon: int | None = None
    """Steps of the forecasting head; None: the published reconstruction head."""

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From a published `config.json` or from `MOMENT.config`."""
        known = {f.name for f in fields(cls)}
        if "t5_config" not in config:
            return cls(**{name: value for name, value in config.items() if name in known})
        t5 = config["t5_config"]
        if t5["feed_forward_proj"] != "gated-gelu" or config["transformer_type"] != "encoder_only":
            raise ConfigError("Only MOMENT checkpoints with an encoder and a gated GELU are supported.")
        if config["patch_stride_len"] != config["patch_len"] or config["seq_len"] % config["patch_len"]:
            raise ConfigError("MOMENT needs a context of whole patches that do not overlap.")
        return cls(
            d_model=t5["d_model"],
            d_ff=t5["d_ff"],
            d_kv=t5["d_kv"],
            num_heads=t5["num_heads"],
            num_layers=t5["num_layers"],
            context_length=config["seq_len"],
            patch_length=config["patch_len"],
            dropout=t5["dropout_rate"],
            norm_eps=t5["layer_norm_epsilon"],
            num_buckets=t5["relative_attention_num_buckets"],
            max_distance=t5["relative_attention_max_distance"],
        )

    @property
    def num_tokens(self) -> int:
        return self.context_length // self.patch_length


def sines(num_tokens: int, width: int) -> Tensor:
    """[N, D] sine and cosine of the position in turn, at wavelengths from 2π to 10,000·2π tokens."""
    frequency = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10_000.0) / width))
    angle = torch.arange(num_tokens).float()[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


def position_buckets(num_tokens: int, *, num_buckets: int, max_distance: int) -> Tensor:
    """[N, N] int64: the bucket of how far a key (column) lies from a query (row).

    Half the buckets are for keys behind and half for keys ahead; of each half one half counts single tokens, and the
    other widens logarithmically up to `max_distance`.
    """
    half = num_buckets // 2
    exact = half // 2
    at = torch.arange(num_tokens)
    offset = at[None, :] - at[:, None]
    distance = offset.abs()
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    wide = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(offset > 0, half, 0) + torch.where(distance < exact, distance, wide)


class PatchEmbedding(nn.Module):
    """Patches [B, N, p] to tokens [B, N, D]; where `visible` [B, N] is False stands the mask token."""

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.value_embedding = nn.Linear(config.patch_length, config.d_model, bias=False)
        self.mask_embedding = nn.Parameter(torch.zeros(config.d_model))
        self.register_buffer("positions", sines(config.num_tokens, config.d_model), persistent=False)
        self.positions: Tensor
        self.dropout = Dropout(config.dropout)

    def forward(self, patches: Tensor, visible: Tensor) -> Tensor:
        tokens = torch.where(visible[..., None], self.value_embedding(patches), self.mask_embedding)
        out: Tensor = self.dropout(tokens + self.positions)
        return out


class Attention(nn.Module):
    """Multi-head attention whose scores are not scaled; `bias` [B or 1, heads, N, N] is added to them."""

    def __init__(self, config: MomentConfig, *, places: bool) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if places:  # the first block's table serves all blocks
            self.relative_attention_bias = nn.Embedding(config.num_buckets, config.num_heads)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for linear in (self.q, self.k, self.v))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout, scale=1.0)
        out: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out


class GatedMLP(nn.Module):
    """`wo(gelu(wi_0(x)) * wi_1(x))` with the tanh form of GELU."""

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.wo(self.dropout(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x)))
        return out


class SelfAttentionLayer(nn.Module):
    """`x + attention(norm(x))`."""

    def __init__(self, config: MomentConfig, *, places: bool) -> None:
        super().__init__()
        self.SelfAttention = Attention(config, places=places)
        self.layer_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = x + self.dropout(self.SelfAttention(self.layer_norm(x), bias))
        return out


class FeedForwardLayer(nn.Module):
    """`x + mlp(norm(x))`."""

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.DenseReluDense = GatedMLP(config)
        self.layer_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.dropout(self.DenseReluDense(self.layer_norm(x)))
        return out


class Block(nn.Module):
    """Attention, then the MLP."""

    def __init__(self, config: MomentConfig, *, places: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([SelfAttentionLayer(config, places=places), FeedForwardLayer(config)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        attend, think = self.layer
        out: Tensor = think(attend(x, bias))
        return out


class Encoder(nn.Module):
    """Tokens [B, N, D] to hidden states [B, N, D]; nothing attends to tokens whose `keys` [B, N] are False."""

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.block = nn.ModuleList(Block(config, places=i == 0) for i in range(config.num_layers))
        self.final_layer_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)
        buckets = position_buckets(config.num_tokens, num_buckets=config.num_buckets, max_distance=config.max_distance)
        self.register_buffer("buckets", buckets, persistent=False)
        self.buckets: Tensor

    def forward(self, x: Tensor, keys: Tensor, *, checkpointing: bool) -> Tensor:
        places = self.get_submodule("block.0.layer.0.SelfAttention.relative_attention_bias")
        bias = places(self.buckets).permute(2, 0, 1)[None]
        if not bool(keys.all()):
            bias = bias + torch.where(keys, 0.0, NO_KEY)[:, None, None, :]
        x = self.dropout(x)
        for block in self.block:
            x = through(block, x, bias, checkpointing=checkpointing)
        out: Tensor = self.dropout(self.final_layer_norm(x))
        return out


class ReconstructionHead(nn.Module):
    """Each token's own p steps: [B, N, D] to [B, N * p]."""

    def __init__(self, config: MomentConfig) -> None:
        super().__init__()
        self.dropout = Dropout(config.dropout)
        self.linear = nn.Linear(config.d_model, config.patch_length)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.dropout(x)).flatten(1)
        return out


class ForecastHead(nn.Module):
    """One linear from all tokens to the horizon, [B, N, D] to [B, H]; dropout on what it answers."""

    def __init__(self, config: MomentConfig, horizon: int) -> None:
        super().__init__()
        self.linear = nn.Linear(config.num_tokens * config.d_model, horizon)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.linear(x.flatten(1)))
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one pass looks at; each mask is [B, T]."""

    x: Tensor
    """[B, T] standardised, finite."""
    real: Tensor
    """False where there is padding."""
    visible: Tensor
    """False where the mask token is to stand for what is there."""
    location: Tensor
    """[B, 1], as `scale`: what brings answers back into the window's units."""
    scale: Tensor

    @classmethod
    def of(cls, values: Tensor, *, real: Tensor, visible: Tensor, known: Tensor) -> Self:
        """`values` [B, T] standardised by mean and deviation of those that are `known` [B, T]; NaN becomes the mean."""
        count = known.sum(1, keepdim=True).clamp(min=1)
        seen = torch.where(known, values, 0.0)
        location = seen.sum(1, keepdim=True) / count
        variance = torch.where(known, seen - location, 0.0).square().sum(1, keepdim=True) / count
        location, scale = location.detach(), variance.detach().sqrt() + DEVIATION_FLOOR
        x = torch.nan_to_num((values - location) / scale)
        return cls(x=x, real=real, visible=visible, location=location, scale=scale)

    def moved(self, steps: int) -> Self:
        """The oldest `steps` make room for as many hidden ones behind the newest; location and scale stay."""
        return replace(
            self,
            x=F.pad(self.x, (-steps, steps)),
            real=F.pad(self.real, (-steps, steps), value=True),
            visible=F.pad(self.visible, (-steps, steps), value=False),
        )


def _published(d_model: int, d_ff: int, num_heads: int, num_layers: int) -> dict[str, Any]:
    """The encoder of a Flan-T5 of that size."""
    sizes = MomentConfig(d_model=d_model, d_ff=d_ff, d_kv=64, num_heads=num_heads, num_layers=num_layers)
    return asdict(sizes)


class MOMENT(Backbone):
    """See the module's text. `predict` answers any horizon: beyond one pass its own forecast joins the context."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "moment-small": _published(512, 1_024, 6, 8),
        "moment-base": _published(768, 2_048, 12, 12),
        "moment-large": _published(1_024, 2_816, 16, 24),
    }
    lora_targets: ClassVar[str] = (
        r"^encoder\.block\.\d+\.layer\.(0\.SelfAttention\.[qkvo]|1\.DenseReluDense\.(wi_0|wi_1|wo))$"
    )
    head_name: ClassVar[str] = "head"
    reconstructs: ClassVar[bool] = True
    head_linear: ClassVar[str | None] = "head.linear"  # once `fit_to` has drawn it

    def __init__(self, config: MomentConfig) -> None:
        """Draws T5's own initialisation, and MOMENT's for what is not T5's."""
        super().__init__()
        self._adopt(config)
        self.patch_embedding = PatchEmbedding(config)
        self.encoder = Encoder(config)
        self.head: ReconstructionHead | ForecastHead = ReconstructionHead(config)
        if config.horizon is not None:
            self.head = ForecastHead(config, config.horizon)
        self._initialise()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """`config` is `MOMENT.config` or a published `config.json`; `ConfigError` for what was never published."""
        parsed = MomentConfig.parse(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(parsed)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return asdict(replace(MomentConfig.parse(config), d_model=8, d_ff=16, d_kv=4, num_heads=2, num_layers=2))

    @classmethod
    def published_tensors(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without `NOT_LOADED`: nearly half of the small checkpoint is a table that nothing reads."""
        return {name: t for name, t in tensors.items() if name not in NOT_LOADED}

    def fit_to(self, prediction_length: int, *, seed: int) -> None:
        """Puts a new forecasting head for `prediction_length` steps where the reconstruction head was."""
        like = next(self.parameters())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = ForecastHead(self.sizes, prediction_length)
        self.head = head.to(like).train(self.training)
        self._adopt(replace(self.sizes, horizon=prediction_length))

    def head_shape(self) -> tuple[int, int]:
        if not self.head_is_random:
            raise ConfigError("The reconstruction head of MOMENT answers token by token.", param="method.head")
        return self.sizes.num_tokens, self.sizes.d_model

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """The point forecast; trained on squared errors, so it is called the mean.

        Only the last 512 steps of `context` [B, T] are used; shorter ones are padded on the left, and no token attends
        to a patch with padding in it. A patch of which more than half is missing is hidden by the mask token; lesser
        gaps are filled by a line, since hiding a whole patch for one point would throw the other seven away.
        """
        if prediction_length < 1:
            raise ConfigError("prediction_length must be at least 1.", param="prediction_length")
        blocks: list[Tensor] = []
        missing = prediction_length
        while missing > 0:
            block = self._pass(context, missing)
            blocks.append(block)
            context = torch.cat([context, block], dim=1)
            missing -= block.shape[1]
        return Prediction(point=torch.cat(blocks, dim=1), point_kind="mean", quantiles=None, levels=())

    def loss(self, batch: Batch) -> Tensor:
        """Squared error over observed targets in the units of the context; of a longer target what one pass answers.

        Both tasks were published with this loss after the window's scale was put back.
        """
        said = self._pass(batch.context, batch.target.shape[1])
        target = batch.target[:, : said.shape[1]]
        observed = ~target.isnan()
        error = torch.where(observed, torch.nan_to_num(target) - said, 0.0)
        return error.square().sum() / observed.sum().clamp(min=1)

    def reconstruct(self, values: Tensor, hidden: Tensor) -> Prediction:
        """As pretrained: every patch with a hidden point is the mask token. `ConfigError` once a forecasting head
        stands where the reconstruction head was."""
        if self.head_is_random:
            raise ConfigError("This MOMENT was given a forecasting head: it does not reconstruct.", param="scoring")
        pad = self.sizes.context_length - values.shape[1]
        values, hidden = F.pad(values, (pad, 0), value=math.nan), F.pad(hidden, (pad, 0))
        known = ~values.isnan() & ~hidden
        real = (known | hidden).cummax(dim=1).values
        real[:, -self.sizes.patch_length :] = True
        missing = self._patches(real & ~known).float().mean(-1)
        visible = (missing <= MOST_FILLED) & ~self._patches(hidden).any(-1)
        window = Window.of(
            torch.where(real, fill_gaps(torch.where(known, values, math.nan)), math.nan),
            real=real,
            visible=visible.repeat_interleave(self.sizes.patch_length, dim=1),
            known=known,
        )
        return Prediction(point=self.answer(window)[:, pad:], point_kind="mean", quantiles=None, levels=())

    def reconstruction_loss(self, values: Tensor, hidden: Tensor) -> Tensor:
        """Squared error over what was hidden, in the units of the window."""
        said = self.reconstruct(values, hidden).point
        counted = hidden & ~values.isnan()
        error = torch.where(counted, torch.nan_to_num(values) - said, 0.0)
        return error.square().sum() / counted.sum().clamp(min=1)

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """Standardised by what is seen of the context's last 512 steps."""
        window = self._window(context)
        return (values - window.location) / window.scale

    def states(self, window: Window) -> Tensor:
        """Hidden states [B, N, D].

        A patch with a hidden point in it becomes the mask token; a patch with padding in it is a token like others that
        nothing attends to.
        """
        visible, keys = (self._patches(mask).all(-1) for mask in (window.visible, window.real))
        tokens = self.patch_embedding(self._patches(window.x), visible)
        out: Tensor = self.encoder(tokens, keys, checkpointing=self.gradient_checkpointing and self.training)
        return out

    def answer(self, window: Window) -> Tensor:
        """What the head says of a window, in its units: [B, H] with a forecasting head, else [B, T]."""
        out: Tensor = self.head(self.states(window)) * window.scale + window.location
        return out

    def _pass(self, context: Tensor, wanted: int) -> Tensor:
        """[B, up to `wanted`] the next steps, as many as one pass can answer."""
        window = self._window(context)
        if self.head_is_random:
            return self.answer(window)[:, :wanted]
        patch = self.sizes.patch_length
        patches = min(-(-wanted // patch), max(1, int(HIDDEN_SHARE * self.sizes.num_tokens)))
        return self.answer(window.moved(patches * patch))[:, -patches * patch :][:, :wanted]

    def _window(self, context: Tensor) -> Window:
        """The last T steps of `context` [B, any], with what is missing among them filled, hidden or called padding."""
        length = self.sizes.context_length
        values = F.pad(context[:, -length:], (max(length - context.shape[1], 0), 0), value=math.nan)
        known = ~values.isnan()
        real = known.cummax(dim=1).values
        gaps = self._patches(real & ~known).float().mean(-1)
        # However little of the last patch is real, it is a key: with none at all every token would attend to padding.
        real[:, -self.sizes.patch_length :] = True
        visible = (gaps <= MOST_FILLED).repeat_interleave(self.sizes.patch_length, dim=1)
        return Window.of(torch.where(real, fill_gaps(values), math.nan), real=real, visible=visible, known=known)

    def _patches(self, x: Tensor) -> Tensor:
        """[B, T] to [B, N, p]"""
        return x.view(len(x), -1, self.sizes.patch_length)

    def _adopt(self, sizes: MomentConfig) -> None:
        self.sizes, self.config = sizes, asdict(sizes)
        self.head_is_random = sizes.horizon is not None
        drawn = frozenset({"head.linear.weight", "head.linear.bias"})
        self.fresh_parameters = drawn if self.head_is_random else frozenset()

    def _initialise(self) -> None:
        """T5's draws for the encoder: queries so small that unscaled scores begin as scaled ones would."""
        sizes = self.sizes
        inner = sizes.num_heads * sizes.d_kv
        deviations = {
            ".q.weight": (sizes.d_model * sizes.d_kv) ** -0.5,
            ".o.weight": inner**-0.5,
            ".wo.weight": sizes.d_ff**-0.5,
        }
        nn.init.orthogonal_(self.patch_embedding.value_embedding.weight, gain=GAIN)
        if isinstance(self.head, ReconstructionHead):
            nn.init.orthogonal_(self.head.linear.weight, gain=GAIN)
            nn.init.zeros_(self.head.linear.bias)
        for name, parameter in self.encoder.named_parameters():
            if parameter.ndim == 2:
                own = (deviation for end, deviation in deviations.items() if name.endswith(end))
                nn.init.normal_(parameter, std=next(own, sizes.d_model**-0.5))
