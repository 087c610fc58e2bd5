"""Chronos-2 (Amazon): one encoder over the patches of past and future, 21 quantiles of up to 1,024 steps in one pass.

A window is standardised over its observed points and bent by arcsinh, then cut into patches of 16, missing points to
the left of it. A patch becomes one token by a residual block over its times, its values and its mask. After the context
stands the token [REG], after that one token for every 16 steps to come, with the known future values where there are
some. A block attends along time, by rotary positions, then among the windows of a group at the same time, then has an
MLP. A residual block turns the tokens of the future into quantiles. The layers are those of `chronos-forecasting`,
under their published names; what is here is the protocol around them.

A window of one series is a group of its own: attention to itself alone is 1 whatever queries and keys say, so that
values pass straight through and nothing depends on who else stands in the batch (`encode`).

Shapes: B windows, T context steps, N patches, P patches of the future, p steps of a patch, D width, Q quantile levels.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from chronos.chronos2.config import Chronos2CoreConfig
from chronos.chronos2.model import Chronos2Encoder, Chronos2Model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.chronos_parts import Scale, adopt, initialised
from tsfm.backbones.layers import pad_left, pinball
from tsfm.errors import ConfigError

LEVELS = (0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99)
REG_TOKEN = 1
"""Row of `shared` that closes the context; row 0 is never used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chronos2Config:
    """The values of a published `config.json` that decide the architecture, those of `chronos_config` among them."""

    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 0.05
    rope_theta: float = 10_000.0
    context_length: int = 8192
    input_patch_size: int = 16
    quantiles: tuple[float, ...] = LEVELS
    use_arcsinh: bool = True
    max_output_patches: int = 64
    time_encoding_scale: int = 8192
    """Steps that are one unit of time."""

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From a published `config.json` or from `Chronos2.config`; `ConfigError` for what was never published."""
        values = {**config, **config.get("chronos_config", {})}
        if values.get("feed_forward_proj", "relu") != "relu":
            raise ConfigError(f"Chronos-2 with feed_forward_proj={values['feed_forward_proj']!r} is not supported.")
        patch = values["input_patch_size"]
        if any(values.get(name, patch) != patch for name in ("input_patch_stride", "output_patch_size")):
            raise ConfigError("Chronos-2 with patches that overlap or differ in length is not supported.")
        if not values.get("use_reg_token", True):
            raise ConfigError("Chronos-2 without the token that closes the context is not supported.")
        values.setdefault("time_encoding_scale", values["context_length"])
        made = cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
        if 0.5 not in made.quantiles:
            raise ConfigError("Chronos-2 without a median has no point forecast.")
        return replace(made, quantiles=tuple(made.quantiles))

    @property
    def prediction_length(self) -> int:
        """Steps of one pass."""
        return self.max_output_patches * self.input_patch_size

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"quantiles": list(self.quantiles)}

    def package(self) -> Any:
        """As the package has it."""
        values = self.plain()
        ours = ("context_length", "input_patch_size", "quantiles", "use_arcsinh", "max_output_patches")
        chronos = {name: values.pop(name) for name in (*ours, "time_encoding_scale")}
        chronos |= dict.fromkeys(("input_patch_stride", "output_patch_size"), self.input_patch_size)
        return Chronos2CoreConfig(**values, chronos_config=chronos | {"use_reg_token": True})


class Chronos2(Backbone):
    """See the module's text. The horizon decides how many tokens of the future there are, which see each other: the
    first steps of a longer forecast are close to those of a shorter one, not equal.
    """

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "chronos-2": Chronos2Config(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12).plain()
    }
    lora_targets: ClassVar[str] = (
        r"^encoder\.block\.\d+\.layer\.(0\.self_attention\.[qkvo]|1\.self_attention\.[vo]|2\.mlp\.w[io])$"
    )
    head_name: ClassVar[str] = "output_patch_embedding"

    shared: nn.Module
    input_patch_embedding: nn.Module
    encoder: Any
    output_patch_embedding: nn.Module
    levels: Tensor

    def __init__(self, config: Chronos2Config, *, seed: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = config.plain()
        self.sizes = config
        adopt(self, initialised(Chronos2Model, config.package(), seed=seed))
        self.register_buffer("levels", torch.tensor(config.quantiles), persistent=False)
        # Attention within a group of one: see the module's text.
        self.unused_parameters = frozenset(
            f"encoder.block.{block}.layer.1.self_attention.{part}.weight"
            for block in range(config.num_layers)
            for part in ("q", "k")
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """`config` is `Chronos2.config` or a published `config.json`; the package's own initialisation."""
        return cls(Chronos2Config.parse(config), seed=seed)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Width 16 and one block. The initialisation is four times the published one, at which attention of this width
        hardly gets a gradient; without that factor altogether sinh would make astronomic numbers of it.
        """
        small = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        return {**config, **small, "initializer_factor": 0.2}

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """Quantiles of the next steps, up to P·p = 1,024 of them; `ConfigError` beyond."""
        if not 1 <= prediction_length <= self.sizes.prediction_length:
            limit = self.sizes.prediction_length
            raise ConfigError(f"prediction_length must be between 1 and {limit}.", param="prediction_length")
        scale, said = self.standardised(context, prediction_length)
        said = said.sinh() if self.sizes.use_arcsinh else said
        quantiles = scale.out_of(said).sort(dim=1).values
        point = quantiles[:, self.sizes.quantiles.index(0.5)]
        return Prediction(point=point, point_kind="median", quantiles=quantiles, levels=self.sizes.quantiles)

    def loss(self, batch: Batch) -> Tensor:
        """Twice the pinball loss, averaged over the levels and the observed steps, in the window's own bent scale.

        The package sums over the levels, and counts steps that are missing, or beyond a target within its last patch,
        as steps without error. Of a target beyond one pass the steps of that pass count.
        """
        target = batch.target[:, : self.sizes.prediction_length]
        scale, said = self.standardised(batch.context, target.shape[1])
        lost = pinball(said, self._bent(scale.into(target)), self.levels).mean(dim=1)
        return lost.sum() / (~target.isnan()).sum().clamp(min=1)

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """Standardised by the observed points of the context, and bent by arcsinh, as the network's input is."""
        return self._bent(Scale.of(context[:, -self.sizes.context_length :]).into(values))

    def standardised(
        self,
        context: Tensor,
        prediction_length: int,
        *,
        group_ids: Tensor | None = None,
        future: Tensor | None = None,
    ) -> tuple[Scale, Tensor]:
        """The window's scale and, in it, [B, Q, prediction_length] float32 as the network says them: not sorted."""
        scale, hidden = self.encode(context, prediction_length, group_ids=group_ids, future=future)
        patches = -(-prediction_length // self.sizes.input_patch_size)
        said = self.output_patch_embedding(hidden[:, -patches:]).float()
        said = said.reshape(len(said), patches, len(self.levels), -1).transpose(1, 2).flatten(2)
        return scale, said[..., :prediction_length]

    def encode(
        self,
        context: Tensor,
        prediction_length: int,
        *,
        group_ids: Tensor | None = None,
        future: Tensor | None = None,
    ) -> tuple[Scale, Tensor]:
        """The window's scale and the hidden state [B, N + 1 + P, D]: context, [REG], future.

        Windows with equal `group_ids` [B] see each other; without ids each stands alone. `future` [B, up to
        prediction_length] are values known in advance, NaN where they are not.
        """
        patch = self.sizes.input_patch_size
        x = context[:, -self.sizes.context_length :]
        scale = Scale.of(x)
        past, seen = self._patches(pad_left(x, patch), scale, first=-(-(-x.shape[1] // patch) * patch))
        coming = x.new_full((len(x), -(-prediction_length // patch) * patch), torch.nan)
        if future is not None:
            coming[:, : future.shape[1]] = future
        ahead, _ = self._patches(coming, scale, first=0)
        closing = self.shared(torch.full((len(x), 1), REG_TOKEN, dtype=torch.long, device=x.device))
        embedded = [self.input_patch_embedding(past), closing, self.input_patch_embedding(ahead)]
        hidden = torch.cat([part.to(embedded[0].dtype) for part in embedded], dim=1)
        seen = torch.cat([seen, seen.new_ones(len(x), 1 + ahead.shape[1])], dim=1)
        return scale, self._blocks(hidden, seen, group_ids)

    def _bent(self, values: Tensor) -> Tensor:
        return values.arcsinh() if self.sizes.use_arcsinh else values

    def _patches(self, x: Tensor, scale: Scale, *, first: int) -> tuple[Tensor, Tensor]:
        """[B, N, 3p] times, values, mask of `x` [B, N·p] whose first step is `first`; [B, N] whether any is seen."""
        shape = (len(x), -1, self.sizes.input_patch_size)
        seen = ~x.isnan()
        values = torch.where(seen, self._bent(scale.into(torch.where(seen, x, 0.0))), 0.0)
        steps = torch.arange(first, first + x.shape[1], device=x.device, dtype=torch.float32)
        times = (steps / self.sizes.time_encoding_scale).expand_as(x)
        parts = [part.reshape(shape) for part in (times, values, seen.float())]
        return torch.cat(parts, dim=2), seen.reshape(shape).any(dim=2)

    def _blocks(self, hidden: Tensor, seen: Tensor, group_ids: Tensor | None) -> Tensor:
        among = None
        if group_ids is not None:
            among = Chronos2Encoder._construct_and_invert_group_time_mask(group_ids, seen.float(), hidden.dtype)
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        hidden = self.encoder.dropout(hidden)
        for block in self.encoder.block:
            inputs = (block, hidden, seen[:, None, None], positions, among)
            if self.gradient_checkpointing and self.training:
                hidden = checkpoint(_through, *inputs, use_reentrant=False)
            else:
                hidden = _through(*inputs)
        out: Tensor = self.encoder.dropout(self.encoder.final_layer_norm(hidden))
        return out


def _through(block: Any, hidden: Tensor, seen: Tensor, positions: Tensor, among: Tensor | None) -> Tensor:
    """One block: along time, among the windows of a group (`among`; None: each its own), MLP."""
    time, group, mlp = block.layer
    hidden = time(hidden, attention_mask=seen, position_ids=positions).hidden_states
    if among is None:
        hidden = hidden + group.dropout(_alone(group.self_attention, group.layer_norm(hidden)))
    else:
        hidden = group(hidden, attention_mask=among).hidden_states
    out: Tensor = mlp(hidden)
    return out


def _alone(attention: Any, x: Tensor) -> Tensor:
    """Attention of every token [B, N, D] to itself only, with the dropout that its one weight a head would see."""
    values: Tensor = attention.v(x)
    if attention.training:
        weight = F.dropout(x.new_ones(*x.shape[:2], attention.n_heads, 1), attention.dropout)
        values = (values.reshape(*x.shape[:2], attention.n_heads, -1) * weight).flatten(2)
    out: Tensor = attention.o(values)
    return out
