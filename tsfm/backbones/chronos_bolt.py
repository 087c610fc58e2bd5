"""Chronos-Bolt (Amazon): a T5 encoder over patches, a decoder of one token that says nine deciles of 64 steps at once.

A window is standardised over its observed points and cut into patches of 16, missing points to the left of it. A patch
and its mask become one token by a residual block; patches without any observed point are masked out of attention. A
last token, [REG], follows them. The decoder attends to all of it from one start token, whose state a residual block
turns into quantiles × steps. The layers are those of `chronos-forecasting`, under their published names; what is here
is the protocol around them: batches, horizons beyond one pass, the loss over what was observed.

Shapes: B windows, T context steps, H target steps, N patches, D width, Q quantile levels, P steps of one pass.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from chronos.chronos_bolt import ChronosBoltModelForForecasting
from torch import Tensor, nn
from transformers import T5Config

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.chronos_parts import Scale, adopt, empirical_quantiles, initialised, recompute, tied
from tsfm.backbones.layers import pad_left, pinball, through
from tsfm.errors import ConfigError

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
REG_TOKEN = 1
"""Row of `shared` that closes the context; row 0 starts the decoder."""
_ROWS = 1_024
"""Paths that go through the network together beyond the first pass: nine for each window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoltConfig:
    """The values of a published `config.json` that decide the architecture, those of `chronos_config` among them."""

    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    dropout_rate: float = 0.1
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 0.05
    decoder_start_token_id: int = 0
    context_length: int = 2048
    prediction_length: int = 64
    input_patch_size: int = 16
    quantiles: tuple[float, ...] = DECILES
    use_reg_token: bool = True

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From a published `config.json` or from `ChronosBolt.config`; `ConfigError` for what was never published."""
        values = {**config, **config.get("chronos_config", {})}
        if values.get("feed_forward_proj", "relu") != "relu":
            raise ConfigError(f"Chronos-Bolt with feed_forward_proj={values['feed_forward_proj']!r} is not supported.")
        if values.get("input_patch_stride", values["input_patch_size"]) != values["input_patch_size"]:
            raise ConfigError("Chronos-Bolt with overlapping patches is not supported.")
        made = cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
        if 0.5 not in made.quantiles:
            raise ConfigError("Chronos-Bolt without a median has no point forecast.")
        return replace(made, quantiles=tuple(made.quantiles))

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"quantiles": list(self.quantiles)}

    def package(self) -> T5Config:
        """As the package has it."""
        values = self.plain() | {"is_encoder_decoder": True, "tie_word_embeddings": True, "use_cache": False}
        ours = ("context_length", "prediction_length", "input_patch_size", "quantiles", "use_reg_token")
        values["chronos_config"] = {name: values.pop(name) for name in ours}
        values["chronos_config"]["input_patch_stride"] = self.input_patch_size
        return T5Config(**values)


def _size(width: int, feed_forward: int, layers: int, heads: int) -> dict[str, Any]:
    return BoltConfig(
        d_model=width, d_kv=64, d_ff=feed_forward, num_heads=heads, num_layers=layers, num_decoder_layers=layers
    ).plain()


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What the decoder sees of a context."""

    scale: Scale
    embedded: Tensor
    """[B, N + 1, D] patches, and [REG]."""
    seen: Tensor
    """[B, N + 1] bool: patches with an observed point."""
    hidden: Tensor
    """[B, N + 1, D] after the encoder."""


class ChronosBolt(Backbone):
    """See the module's text. Horizons beyond one pass continue every decile's path (`predict`)."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "chronos-bolt-tiny": _size(256, 1024, 4, 4),
        "chronos-bolt-mini": _size(384, 1536, 4, 8),
        "chronos-bolt-small": _size(512, 2048, 6, 8),
        "chronos-bolt-base": _size(768, 3072, 12, 12),
    }
    lora_targets: ClassVar[str] = (
        r"^(encoder\.block\.\d+\.layer\.(0\.SelfAttention\.[qkvo]|1\.DenseReluDense\.w[io])"
        r"|decoder\.block\.\d+\.layer\.(0\.SelfAttention\.[vo]|1\.EncDecAttention\.[qkvo]|2\.DenseReluDense\.w[io]))$"
    )
    head_name: ClassVar[str] = "output_patch_embedding"

    shared: nn.Module
    input_patch_embedding: nn.Module
    encoder: nn.Module
    decoder: Any
    output_patch_embedding: nn.Module
    levels: Tensor

    def __init__(self, config: BoltConfig, *, seed: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = config.plain()
        self.sizes = config
        adopt(self, initialised(ChronosBoltModelForForecasting, config.package(), seed=seed))
        self.register_buffer("levels", torch.tensor(config.quantiles), persistent=False)
        own = "decoder.block.{}.layer.0.SelfAttention.{}.weight"
        # The decoder's attention to itself: over its one token a softmax is 1, whatever these say.
        self.unused_parameters = frozenset(
            {own.format(0, "relative_attention_bias")}
            | {own.format(block, part) for block in range(config.num_decoder_layers) for part in ("q", "k")}
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """`config` is `ChronosBolt.config` or a published `config.json`; the package's own initialisation."""
        return cls(BoltConfig.parse(config), seed=seed)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Width 16, one block on each side, and T5's own initialisation: at a twentieth of it, as Chronos publishes,
        attention of this width hardly gets a gradient.
        """
        small = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
        return {**config, **small, "initializer_factor": 1.0}

    @classmethod
    def published_tensors(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The embedding of the two special tokens once: both stacks hold it too."""
        return tied(tensors, ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"))

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """Deciles of the next steps. Beyond P steps as the package's pipeline has it: each decile's path joins the
        context, and the deciles of all deciles that follow are the next block, so that the spread keeps growing.
        """
        if prediction_length < 1:
            raise ConfigError("prediction_length must be at least 1.", param="prediction_length")
        block = self._quantiles(context)
        blocks = [block]
        paths = context[:, None].expand(-1, len(self.levels), -1)
        while len(blocks) * self.sizes.prediction_length < prediction_length:
            paths = torch.cat([paths, block], dim=2)[..., -self.sizes.context_length :]
            rows = paths.reshape(-1, paths.shape[2])
            said = torch.cat([self._quantiles(rows[i : i + _ROWS]) for i in range(0, len(rows), _ROWS)])
            block = empirical_quantiles(said.reshape(len(context), -1, said.shape[2]), self.levels)
            blocks.append(block)
        quantiles = torch.cat(blocks, dim=2)[..., :prediction_length].sort(dim=1).values
        point = quantiles[:, self.sizes.quantiles.index(0.5)]
        return Prediction(point=point, point_kind="median", quantiles=quantiles, levels=self.sizes.quantiles)

    def loss(self, batch: Batch) -> Tensor:
        """Twice the pinball loss, averaged over the levels and the observed steps, in the window's own scale.

        The package sums over steps, which makes the loss of a longer horizon a larger one. Of a target beyond one pass
        the first P steps count: later ones are the first of windows that begin later.
        """
        target = batch.target[:, : self.sizes.prediction_length]
        encoded = self.encode(batch.context)
        said = self._decode(encoded)[..., : target.shape[1]]
        lost = pinball(said, encoded.scale.into(target), self.levels).mean(dim=1)
        return lost.sum() / (~target.isnan()).sum().clamp(min=1)

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """Standardised by the observed points of the context, as the network's input is."""
        return Scale.of(context[:, -self.sizes.context_length :]).into(values)

    def encode(self, context: Tensor) -> Encoded:
        """The last `context_length` steps of `context` [B, T] through the encoder."""
        recompute(self)
        x = context[:, -self.sizes.context_length :]
        scale = Scale.of(x)
        x = pad_left(x, self.sizes.input_patch_size)
        seen = ~x.isnan()
        values = torch.where(seen, scale.into(torch.where(seen, x, 0.0)), 0.0)
        shape = (len(x), -1, self.sizes.input_patch_size)
        patches = torch.cat([values.reshape(shape), seen.float().reshape(shape)], dim=2)
        embedded, seen = self.input_patch_embedding(patches), seen.reshape(shape).any(dim=2)
        if self.sizes.use_reg_token:
            closing = self.shared(self._token(REG_TOKEN, like=x))
            embedded = torch.cat([embedded, closing.to(embedded.dtype)], dim=1)
            seen = torch.cat([seen, seen.new_ones(len(x), 1)], dim=1)
        hidden = self.encoder(inputs_embeds=embedded, attention_mask=seen).last_hidden_state
        return Encoded(scale=scale, embedded=embedded, seen=seen, hidden=hidden)

    def _decode(self, encoded: Encoded) -> Tensor:
        """[B, Q, P] float32 in the window's own scale, as the network says them: not sorted."""
        start = self._token(self.sizes.decoder_start_token_id, like=encoded.hidden)
        state = self.decoder.dropout(self.shared(start))
        least = torch.finfo(encoded.hidden.dtype).min
        hidden_mask = torch.where(encoded.seen, 0.0, least).to(encoded.hidden.dtype)[:, None, None]
        checkpointing = self.gradient_checkpointing and self.training
        for block in self.decoder.block:
            state = through(_one_token, state, block, encoded.hidden, hidden_mask, checkpointing=checkpointing)
        state = self.decoder.dropout(self.decoder.final_layer_norm(state))
        said: Tensor = self.output_patch_embedding(state)
        return said.float().reshape(len(said), len(self.levels), -1)

    def _quantiles(self, context: Tensor) -> Tensor:
        """[B, Q, P] in the units of `context` [B, T]; not sorted."""
        encoded = self.encode(context)
        return encoded.scale.out_of(self._decode(encoded))

    @staticmethod
    def _token(token: int, *, like: Tensor) -> Tensor:
        return torch.full((len(like), 1), token, dtype=torch.long, device=like.device)


def _one_token(state: Tensor, block: Any, hidden: Tensor, hidden_mask: Tensor) -> Tensor:
    """[B, 1, D] after a block of the decoder: what the package computes, without what one token makes needless."""
    own, cross, forward = block.layer
    state = state + own.dropout(_to_itself(own.SelfAttention, own.layer_norm(state)))
    attention = cross.EncDecAttention
    if attention.training and type(attention.k) is type(attention.v) is nn.Linear:  # no adapters in their places
        state = state + cross.dropout(_to_context(attention, cross.layer_norm(state), hidden, hidden_mask))
    else:  # a forecast is the package's to the last bit: beyond one pass, those bits grow on flat series
        state = cross(state, key_value_states=hidden, attention_mask=hidden_mask)[0]
    after: Tensor = forward(state)
    return after


def _to_itself(attention: Any, state: Tensor) -> Tensor:
    """Attention of the one token `state` [B, 1, D] to itself: the weight is 1, whatever queries and keys say."""
    value = attention.v(state)
    if attention.training and attention.dropout:  # of weights, one a head
        kept = value.new_ones(len(value), 1, attention.n_heads, 1)
        heads = value.reshape(len(value), 1, attention.n_heads, -1)
        value = (heads * nn.functional.dropout(kept, attention.dropout)).reshape(value.shape)
    out: Tensor = attention.o(value)
    return out


def _to_context(attention: Any, state: Tensor, hidden: Tensor, hidden_mask: Tensor) -> Tensor:
    """Attention of the one token `state` [B, 1, D] to `hidden` [B, N, D], without a key or a value of any of them.

    A head's score of token n is `q · (K h_n) = (Kᵀ q) · h_n`, and what it takes in is `Σ w_n (V h_n) = V (Σ w_n h_n)`:
    two products a head in the place of two for every token.
    """
    keys, values = (part.weight.unflatten(0, (attention.n_heads, -1)) for part in (attention.k, attention.v))
    query = attention.q(state[:, 0]).unflatten(-1, (attention.n_heads, -1))
    asked = torch.einsum("bhe,hed->bhd", query, keys)
    scores = asked @ hidden.mT + hidden_mask[:, 0]
    weights = scores.float().softmax(dim=-1).type_as(scores)
    mixed = nn.functional.dropout(weights, attention.dropout, attention.training) @ hidden
    heads = torch.einsum("bhd,hed->bhe", mixed, values)
    out: Tensor = attention.o(heads.flatten(1)[:, None])
    return out
