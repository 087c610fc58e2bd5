"""Chronos on T5 (Amazon, the first of the family): a language model over binned values, whose sampled paths forecast.

A window is divided by its mean absolute value and every step becomes one of 4,096 tokens by equal bins between −15 and
15; missing steps are masked, a token [EOS] closes the context. A T5 encodes them, its decoder says the distribution of
the next token, and paths of the future are drawn token by token from the 50 likeliest. The layers are those of
`transformers`, under their published names; what is here is the protocol around them, and the drawing: all paths of a
window look at one copy of its keys and values, and the noise is fixed, so that a forecast is the same every time.

Sixty-four passes of the decoder a forecast make it by far the slowest of the family.

Shapes: B windows, T context steps, H target steps, S paths, N tokens, D width, e width of one attention head, P steps
of one pass, V tokens of the vocabulary.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.chronos_parts import SHARED, adopt, empirical_quantiles, initialised, recompute, tied
from tsfm.errors import ConfigError

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PAD, EOS, SPECIAL = 0, 1, 2
"""Tokens that are no values: of what is missing and of the decoder's start; of the end; how many there are."""
_NOISE_SEED = 20_240_312
_WINDOWS = 16
"""Windows that are drawn together: their paths' keys and values are what takes the memory."""
_FIXED = {"feed_forward_proj": "relu", "tie_word_embeddings": True, "use_eos_token": True, "top_p": 1.0}
"""Switches that every published config.json leaves, or sets, so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Sizes:
    """The values of a published `config.json` that decide the network and its tokens."""

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
    n_tokens: int = 4096
    low_limit: float = -15.0
    high_limit: float = 15.0
    context_length: int = 512
    prediction_length: int = 64
    num_samples: int = 20
    temperature: float = 1.0
    top_k: int = 50

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From a published `config.json` or from `ChronosT5.config`; `ConfigError` for what was never published."""
        chronos = config.get("chronos_config", {})
        values = {**config, **chronos, **chronos.get("tokenizer_kwargs", {})}
        for name, only in _FIXED.items():
            if values.get(name, only) != only:
                raise ConfigError(f"Chronos-T5 with {name}={values[name]!r} is not supported.")
        if chronos.get("model_type", "seq2seq") != "seq2seq":
            raise ConfigError("Chronos without an encoder is not supported.")
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    def package(self) -> T5Config:
        """As `transformers` has it."""
        network = [f.name for f in fields(self)][:11]
        values: dict[str, Any] = {name: value for name, value in asdict(self).items() if name in network}
        values |= {"feed_forward_proj": "relu", "tie_word_embeddings": True, "use_cache": False}
        values |= {"vocab_size": self.n_tokens, "pad_token_id": PAD, "decoder_start_token_id": PAD}
        return T5Config(**values)


def _size(width: int, feed_forward: int, layers: int, heads: int) -> dict[str, Any]:
    return asdict(
        T5Sizes(
            d_model=width, d_kv=64, d_ff=feed_forward, num_heads=heads, num_layers=layers, num_decoder_layers=layers
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """What was drawn, in the window's own scale."""

    tokens: Tensor
    """[B, S, H] int64"""
    values: Tensor
    """[B, S, H] centres of the tokens' bins."""
    expected: Tensor
    """[B, S, H] mean of what might have been drawn after the same beginning; unlike `values` it has gradients."""


class ChronosT5(Backbone):
    """See the module's text. The head is the embedding of the tokens, read the other way round: one tied tensor."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "chronos-t5-tiny": _size(256, 1024, 4, 4),
        "chronos-t5-mini": _size(384, 1536, 4, 8),
        "chronos-t5-small": _size(512, 2048, 6, 8),
        "chronos-t5-base": _size(768, 3072, 12, 12),
        "chronos-t5-large": _size(1024, 4096, 24, 16),
    }
    lora_targets: ClassVar[str] = (
        r"^(encoder|decoder)\.block\.\d+\.layer\.\d+\.((SelfAttention|EncDecAttention)\.[qkvo]|DenseReluDense\.w[io])$"
    )
    head_name: ClassVar[str] = "lm_head"

    shared: nn.Module
    encoder: nn.Module
    decoder: Any
    lm_head: nn.Module
    levels: Tensor
    centers: Tensor
    boundaries: Tensor

    def __init__(self, config: T5Sizes, *, seed: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = asdict(config)
        self.sizes = config
        adopt(self, initialised(T5ForConditionalGeneration, config.package(), seed=seed))
        centers = torch.linspace(config.low_limit, config.high_limit, config.n_tokens - SPECIAL - 1)
        boundaries = F.pad(F.pad((centers[1:] + centers[:-1]) / 2, (1, 0), value=-1e20), (0, 1), value=1e20)
        self.register_buffer("centers", centers, persistent=False)
        self.register_buffer("boundaries", boundaries, persistent=False)
        self.register_buffer("levels", torch.tensor(DECILES), persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """`config` is `ChronosT5.config` or a published `config.json`; T5's own initialisation."""
        return cls(T5Sizes.parse(config), seed=seed)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Width 16, one block on each side, 512 tokens, and T5's own initialisation without the published factor."""
        small = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
        return {**config, **small, "n_tokens": 512, "initializer_factor": 1.0}

    @classmethod
    def published_tensors(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The embedding once: both stacks and the head hold it too."""
        return tied(tensors, ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"))

    def head_parameter_names(self) -> frozenset[str]:
        """The tied tensor, under its first name."""
        return frozenset({SHARED})

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """Mean and deciles of the paths. Beyond P steps the paths' median joins the context, as the package has it.

        In float32 whatever is asked for: a token is a choice, which rounding would turn. The mean is that of the
        distributions the paths were drawn from, which is less noisy than the paths' own.
        """
        if prediction_length < 1:
            raise ConfigError("prediction_length must be at least 1.", param="prediction_length")
        noise = self._noise(prediction_length).to(context.device)
        with torch.autocast(context.device.type, enabled=False):
            parts = [self._forecast(rows, noise) for rows in context.split(_WINDOWS)]  # type: ignore[no-untyped-call]
        means, values = (torch.cat(part) for part in zip(*parts, strict=True))
        quantiles = empirical_quantiles(values, self.levels)
        return Prediction(point=means, point_kind="mean", quantiles=quantiles, levels=DECILES)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the target's tokens, each after the true ones before it, averaged over observed steps.

        The token [EOS] that pretraining has after the last step is left out, since no forecast is ended by it. Of a
        target beyond one pass the first P steps count: later ones are the first of windows that begin later.
        """
        recompute(self)
        target = batch.target[:, : self.sizes.prediction_length]
        hidden, seen, scale = self.encode(batch.context)
        observed = ~target.isnan()
        labels = torch.where(observed, self.tokens(target, scale), PAD)
        before = F.pad(labels, (1, 0), value=PAD)[:, :-1]
        state = self.decoder(
            input_ids=before, encoder_hidden_states=hidden, encoder_attention_mask=seen
        ).last_hidden_state
        lost = F.cross_entropy(self._logits(state).transpose(1, 2), labels, reduction="none")
        return torch.where(observed, lost, 0.0).sum() / observed.sum().clamp(min=1)

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """Divided by the mean absolute value of the context's observed points."""
        return values / _mean_absolute(context[:, -self.sizes.context_length :])

    def tokens(self, values: Tensor, scale: Tensor) -> Tensor:
        """[B, T] int64: the bin of every value of `values` [B, T] at `scale` [B, 1]; [PAD] for what is missing."""
        seen = ~values.isnan()
        scaled = (torch.where(seen, values, 0.0).float() / scale).detach().contiguous()
        binned = torch.bucketize(scaled, self.boundaries, right=True) + SPECIAL
        return torch.where(seen, binned.clamp(0, self.sizes.n_tokens - 1), PAD)

    def encode(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden state [B, N, D] of the last `context_length` steps and [EOS]; [B, N] what is seen; [B, 1] scale."""
        x = context[:, -self.sizes.context_length :]
        scale = _mean_absolute(x)
        tokens = F.pad(self.tokens(x, scale), (0, 1), value=EOS)
        seen = F.pad(~x.isnan(), (0, 1), value=True)
        hidden: Tensor = self.encoder(input_ids=tokens, attention_mask=seen).last_hidden_state
        return hidden, seen, scale

    def draw(self, hidden: Tensor, seen: Tensor, noise: Tensor) -> Paths:
        """As many paths and steps as `noise` [S, H] of uniform numbers has, after encoded contexts."""
        past = [_Past.of(block, hidden, seen) for block in self.decoder.block]
        bias = self.decoder.block[0].layer[0].SelfAttention.compute_bias(*[noise.shape[1]] * 2, device=hidden.device)
        token = torch.full((len(hidden), len(noise)), PAD, dtype=torch.long, device=hidden.device)
        tokens, expected = [], []
        for step in range(noise.shape[1]):
            x = self.shared(token)
            for block, seen_before in zip(self.decoder.block, past, strict=True):
                x = seen_before.through(block, x, bias[:, :, step : step + 1, : step + 1])
            state = self.decoder.dropout(self.decoder.final_layer_norm(x))
            token, mean = self._choose(self._logits(state), noise[:, step])
            tokens.append(token)
            expected.append(mean)
        drawn = torch.stack(tokens, dim=2)
        return Paths(tokens=drawn, values=self.values(drawn), expected=torch.stack(expected, dim=2))

    def values(self, tokens: Tensor) -> Tensor:
        """Centres of the tokens' bins."""
        return self.centers[(tokens - SPECIAL - 1).clamp(0, len(self.centers) - 1)]

    def _noise(self, steps: int) -> Tensor:
        """[S, steps] uniform numbers, at each step one in every S-th of (0, 1): each path's law is what it would be
        with independent ones, the paths together cover it evenly.
        """
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        shape = (steps, self.sizes.num_samples)
        place = torch.rand(shape, generator=generator).argsort(dim=1)
        return ((place + torch.rand(shape, generator=generator)) / self.sizes.num_samples).T.contiguous()

    def _forecast(self, context: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """[B, H] mean and [B, S, H] paths in the units of `context`; H is the noise's."""
        recompute(self)
        means, values = [], []
        for part in noise.split(self.sizes.prediction_length, dim=1):  # type: ignore[no-untyped-call]
            hidden, seen, scale = self.encode(context)
            paths = self.draw(hidden, seen, part)
            means.append(paths.expected.mean(dim=1) * scale)
            values.append(paths.values * scale[:, None])
            context = torch.cat([context, values[-1].median(dim=1).values], dim=1)
        return torch.cat(means, dim=1), torch.cat(values, dim=2)

    def _logits(self, state: Tensor) -> Tensor:
        """[..., V] float32; scaled down, since the head is the embedding."""
        said: Tensor = self.lm_head(state * self.sizes.d_model**-0.5)
        return said.float()

    def _choose(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S] token of `logits` [B, S, V] at `uniform` [S], among the likeliest in the order of their values; their
        mean value [B, S].
        """
        logits = torch.cat([logits.new_full((*logits.shape[:2], SPECIAL), -torch.inf), logits[..., SPECIAL:]], dim=2)
        likely = logits.topk(min(self.sizes.top_k, logits.shape[2] - SPECIAL), dim=2).indices.sort(dim=2).values
        share = (logits.gather(2, likely) / self.sizes.temperature).softmax(dim=2)
        below = share.detach().cumsum(dim=2)
        place = (below < uniform[:, None] * below[..., -1:]).sum(dim=2, keepdim=True)
        return likely.gather(2, place)[..., 0], (share * self.values(likely)).sum(dim=2)


class _Past:
    """What one block of the decoder has seen: keys and values of the context, one copy a window, and of the paths."""

    def __init__(self, context: tuple[Tensor, Tensor], seen: Tensor) -> None:
        self.context = context
        """[B, heads, N, e] each."""
        self.seen = seen
        """[B, 1, 1, N]"""
        self.paths: tuple[Tensor, Tensor] | None = None
        """[B·S, heads, steps, e] each."""

    @classmethod
    def of(cls, block: Any, hidden: Tensor, seen: Tensor) -> Self:
        attention = block.layer[1].EncDecAttention
        keys, values = (_heads(linear(hidden), attention) for linear in (attention.k, attention.v))
        return cls((keys, values), seen[:, None, None])

    def through(self, block: Any, x: Tensor, bias: Tensor) -> Tensor:
        """The next step `x` [B, S, D] of every path through the block."""
        own, other, mlp = block.layer
        attention = own.SelfAttention
        normed = own.layer_norm(x).reshape(-1, 1, x.shape[2])
        query, *new = (_heads(linear(normed), attention) for linear in (attention.q, attention.k, attention.v))
        keys, values = new if self.paths is None else [torch.cat(p, dim=2) for p in zip(self.paths, new, strict=True)]
        self.paths = keys, values
        x = x + own.dropout(attention.o(_attend(query, keys, values, bias, attention)).reshape(x.shape))
        attention = other.EncDecAttention
        query = _heads(attention.q(other.layer_norm(x)), attention)
        x = x + other.dropout(attention.o(_attend(query, *self.context, self.seen, attention)))
        out: Tensor = mlp(x)
        return out


def _heads(x: Tensor, attention: Any) -> Tensor:
    """[B, N, heads·e] → [B, heads, N, e]."""
    return x.reshape(*x.shape[:2], attention.n_heads, -1).transpose(1, 2)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, attention: Any) -> Tensor:
    """[B, N, heads·e]; T5 does not scale."""
    dropout = attention.dropout if attention.training else 0.0
    out = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=dropout, scale=1.0)
    return out.transpose(1, 2).flatten(2)


def _mean_absolute(context: Tensor) -> Tensor:
    """[B, 1] over the observed points of `context` [B, T]; 1 where that is 0 or nothing is observed."""
    seen = ~context.isnan()
    total = torch.where(seen, context, 0.0).float().abs().sum(dim=1, keepdim=True)
    mean = total / seen.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(mean > 0, mean, 1.0)
