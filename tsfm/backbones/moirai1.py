"""Moirai 1.x (Salesforce): a masked encoder over patches of any variates, with a mixture for every point.

What is asked for, a horizon or any patch between, is a token of its own that holds the learned mask instead of values;
attention goes both ways. Five patch sizes share one encoder: each has its own slice of the projections in and out, of
tensors as large as the largest patch needs. Names of parameters are those of `Salesforce/moirai-1.1-R-small`, `-base`
and `-large`, and their `config.json` is read as it was published. Not for commercial use (CC BY-NC 4.0).

Shapes: B windows, T context steps, H target steps, N tokens of p steps (P the largest), D width, S patch sizes. The
protocol of `tsfm.backbones.base` has one series a window; `mixture_of_tokens` is the whole network, any variates.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.moirai_layers import Encoder, Tokens, check_config, fitting, packed, standardisation, variate_biases
from tsfm.backbones.moirai_mixture import NUM_COMPONENTS, Mixture
from tsfm.errors import ConfigError

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PATCH_SIZE = 32
"""Of the sizes advised for hourly series (32, 64) and daily ones (16, 32) the one in both lists."""
CONTEXT_LENGTH = 4_096
COMPONENTS = ("student_t", "normal", "negative_binomial", "log_normal")
_PARAMETERS = (("df", "loc", "scale"), ("loc",), ("total_count", "logits"), ("loc", "scale"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Moirai1Config:
    """The values of a published `config.json` that decide the architecture, and how a window is cut."""

    d_model: int
    num_layers: int
    patch_sizes: tuple[int, ...]
    max_seq_len: int
    """Tokens of context and horizon together."""
    patch_size: int
    """The one that windows of one series are cut into, not published. The reference tries every size on the end of a
    window; here it is fixed, so that training, forecasts and padding agree: 32 where there is such a size."""
    context_length: int = CONTEXT_LENGTH
    """Steps, not published: the evaluations of the authors read 2000 to 5000."""

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From a published `config.json` or from `Moirai1.config`; `ConfigError` for variants that were never."""
        check_config(config)
        _check_components(config)
        values = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        sizes = tuple(config["patch_sizes"])
        values["patch_size"] = config.get("patch_size", PATCH_SIZE if PATCH_SIZE in sizes else max(sizes))
        if values["patch_size"] not in sizes:
            raise ConfigError(f"This Moirai has patches of {sizes} steps, not {values['patch_size']}.")
        return cls(**{**values, "patch_sizes": sizes})

    @property
    def hidden_width(self) -> int:
        """Of the MLPs: 8/3 of the width, in whole eights."""
        return math.ceil(8 * self.d_model / 24) * 8


def _check_components(config: Mapping[str, Any]) -> None:
    components = config.get("distr_output", {}).get("components")
    if components is None:
        return
    names = [str(one.get("_target_", "")).lower() for one in components]
    if len(names) != len(COMPONENTS) or not all(w in n for w, n in zip(COMPONENTS, names, strict=True)):
        raise ConfigError(f"Moirai checkpoints whose distribution is not a mixture of {COMPONENTS} are not supported.")


class InProjection(nn.Module):
    """Linear(p, D) for every patch size p, as slices of one [S, D, P]."""

    def __init__(self, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(sizes), width, max(sizes)))
        self.bias = nn.Parameter(torch.zeros(len(sizes), width))
        for i, size in enumerate(sizes):
            nn.init.uniform_(self.weight[i, :, :size], -(size**-0.5), size**-0.5)
            nn.init.uniform_(self.bias[i], -(size**-0.5), size**-0.5)

    def forward(self, x: Tensor, index: int) -> Tensor:
        """[..., p] → [..., D] by the slice of size number `index`."""
        return F.linear(x, self.weight[index, :, : x.shape[-1]], self.bias[index])


class OutProjection(nn.Module):
    """Linear(D, dim * p) for every patch size p, as slices of one [S, dim * P, D].

    Of a patch size p only the first dim * p rows have weights, yet its answers are read as [dim, P]: for dim > 1 and a
    small p the later ones are bias alone. So the pretrained weights have learned it.
    """

    def __init__(self, width: int, sizes: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.sizes, self.dim = sizes, dim
        self.weight = nn.Parameter(torch.zeros(len(sizes), dim * max(sizes), width))
        self.bias = nn.Parameter(torch.zeros(len(sizes), dim * max(sizes)))
        for i, size in enumerate(sizes):
            nn.init.uniform_(self.weight[i, : dim * size], -(width**-0.5), width**-0.5)
            nn.init.uniform_(self.bias[i, : dim * size], -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor, index: int) -> Tensor:
        """[..., D] → [..., dim, p] for size number `index`."""
        size, largest = self.sizes[index], max(self.sizes)
        row = torch.arange(self.dim * largest, device=x.device).view(self.dim, largest)[:, :size]
        weight = self.weight[index].view(self.dim, largest, -1)[:, :size]
        weight = torch.where((row < self.dim * size)[..., None], weight, 0.0)
        bias = self.bias[index].view(self.dim, largest)[:, :size]
        out = F.linear(x, weight.flatten(0, 1), bias.flatten())
        return out.view(*x.shape[:-1], self.dim, size)


class MixtureProjection(nn.Module):
    """Hidden states to the numbers that a `Mixture` is made of; in float32 under autocast too, since one component is
    1e-3 wide."""

    def __init__(self, width: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        components = nn.ModuleList(
            nn.ModuleDict({name: OutProjection(width, sizes, 1) for name in names}) for names in _PARAMETERS
        )
        weights = OutProjection(width, sizes, NUM_COMPONENTS)
        self.proj = nn.ModuleDict({"weights_logits": weights, "components": components})

    def forward(self, x: Tensor, index: int) -> Tensor:
        """[..., D] → [..., 12, p] for size number `index`."""
        components = self.proj["components"]
        assert isinstance(components, nn.ModuleList)
        heads = [self.proj["weights_logits"], *(head for one in components for head in one.children())]
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([head(x.float(), index) for head in heads], dim=-2)


class Moirai1(Backbone):
    """See the module's text."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {
            "d_model": width,
            "num_layers": num_layers,
            "patch_sizes": [8, 16, 32, 64, 128],
            "max_seq_len": 512,
            "attn_dropout_p": 0.0,
            "dropout_p": 0.0,
            "scaling": True,
        }
        for name, width, num_layers in (
            ("moirai-1.1-small", 384, 6),
            ("moirai-1.1-base", 768, 12),
            ("moirai-1.1-large", 1024, 24),
        )
    }
    lora_targets: ClassVar[str] = r"^encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|ffn\.(fc1|fc2|fc_gate))$"
    head_name: ClassVar[str] = "param_proj"
    reconstructs: ClassVar[bool] = True

    def __init__(self, config: Moirai1Config) -> None:
        """Draws the reference's initialisation: torch's own for every slice."""
        super().__init__()
        self.config: dict[str, Any] = {**asdict(config), "patch_sizes": list(config.patch_sizes)}
        self.sizes = config
        self.unused_parameters = variate_biases(config.num_layers)
        self.mask_encoding = nn.Embedding(1, config.d_model)
        self.in_proj = InProjection(config.patch_sizes, config.d_model)
        self.encoder = Encoder(config.d_model, config.hidden_width, config.num_layers, causal=False)
        self.param_proj = MixtureProjection(config.d_model, config.patch_sizes)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """`config` is `Moirai1.config` or a published `config.json`."""
        parsed = Moirai1Config.parse(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(parsed)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """One layer of one head, and of the patch sizes the one in use and its double."""
        patch = Moirai1Config.parse(config).patch_size
        return {**config, "d_model": 64, "num_layers": 1, "patch_sizes": [patch, 2 * patch]}

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """Deciles of the mixture and its median; one pass gives every horizon that leaves a token for the context.

        Only the last `context_length` steps of `context` [B, T] are used, fewer where `max_seq_len` tokens would be
        exceeded. No sample is drawn: the deciles are those of the distribution function (`Mixture.quantiles`).
        """
        future = context.new_full((len(context), prediction_length), math.nan)
        quantiles = self._after(context, future).quantiles(DECILES).transpose(0, 1)
        return Prediction(
            point=quantiles[:, DECILES.index(0.5)], point_kind="median", quantiles=quantiles, levels=DECILES
        )

    def loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of the target, whose patches are what is masked, in the units of the context."""
        said = self._after(batch.context, batch.target)
        observed = ~batch.target.isnan()
        loss = torch.where(observed, -said.log_prob(torch.nan_to_num(batch.target)), 0.0)
        return loss.sum() / observed.sum().clamp(min=1)

    def reconstruct(self, values: Tensor, hidden: Tensor) -> Prediction:
        """Deciles and median of the mixtures; every patch with a hidden point is a prediction token."""
        said, (begin, end) = self._inside(values, hidden)
        length = values.shape[1]
        quantiles = F.pad(said.quantiles(DECILES).transpose(0, 1), (begin, length - end))
        return Prediction(
            point=quantiles[:, DECILES.index(0.5)], point_kind="median", quantiles=quantiles, levels=DECILES
        )

    def reconstruction_loss(self, values: Tensor, hidden: Tensor) -> Tensor:
        """Negative log-likelihood of what was hidden, in the units of the window."""
        said, (begin, end) = self._inside(values, hidden)
        counted = (hidden & ~values.isnan())[:, begin:end]
        loss = torch.where(counted, -said.log_prob(torch.nan_to_num(values[:, begin:end])), 0.0)
        return loss.sum() / counted.sum().clamp(min=1)

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """Standardised by the context's observed points."""
        tokens = packed(self._fitting(context, values.shape[1]), self.sizes.patch_size)
        location, scale = (statistic[:, -1] for statistic in standardisation(tokens))
        return (values - location) / scale

    def mixture_of_tokens(self, tokens: Tokens, patch_sizes: Tensor) -> Mixture:
        """The network over packed tokens of several patch sizes [B, N]: a mixture for each of [B, N, P] points.

        Values lie in the first columns of a token; what stands beyond its patch size is NaN in the mixture.
        """
        largest = max(self.sizes.patch_sizes)
        location, scale = standardisation(tokens)
        scaled = (tokens.values - location) / scale
        embedded = scaled.new_zeros(*scaled.shape[:2], self.sizes.d_model)
        for index, size in enumerate(self.sizes.patch_sizes):
            mine = (patch_sizes == size)[..., None]
            embedded = torch.where(mine, self.in_proj(scaled[..., :size], index), embedded)
        hidden = self._encode(embedded, tokens)
        outputs = torch.full((), math.nan, device=hidden.device)
        for index, size in enumerate(self.sizes.patch_sizes):
            mine = (patch_sizes == size)[..., None, None]
            own = F.pad(self.param_proj(hidden, index), (0, largest - size), value=math.nan)
            outputs = torch.where(mine, own, outputs)
        return Mixture.of(outputs, location=location, scale=scale)

    def _encode(self, embedded: Tensor, tokens: Tokens) -> Tensor:
        masked = torch.where(tokens.prediction[..., None], self.mask_encoding.weight[0].to(embedded.dtype), embedded)
        checkpointing = self.gradient_checkpointing and self.training
        hidden: Tensor = self.encoder(masked, tokens, checkpointing=checkpointing)
        return hidden

    def _after(self, context: Tensor, future: Tensor) -> Mixture:
        """The mixture of each of the steps of `future` [B, H], which is not looked at, after `context` [B, T]."""
        horizon, patch = future.shape[1], self.sizes.patch_size
        index = self.sizes.patch_sizes.index(patch)
        whole = F.pad(future, (0, -horizon % patch), value=math.nan)
        tokens = packed(self._fitting(context, horizon), patch, future=whole)
        location, scale = standardisation(tokens)
        hidden = self._encode(self.in_proj((tokens.values - location) / scale, index), tokens)
        outputs = self.param_proj(hidden[:, -(whole.shape[1] // patch) :], index)
        outputs = outputs.transpose(1, 2).flatten(2)[..., :horizon]
        return Mixture.of(outputs, location=location[:, -1], scale=scale[:, -1])

    def _inside(self, values: Tensor, hidden: Tensor) -> tuple[Mixture, tuple[int, int]]:
        """Mixtures of the columns [begin, end) of `values` [B, T], which hold all that is `hidden` in any row."""
        patch, length = self.sizes.patch_size, values.shape[1]
        index = self.sizes.patch_sizes.index(patch)
        columns = hidden.any(0).nonzero()[:, 0]
        begin, end = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, length)
        unseen = F.pad(hidden, (-length % patch, 0)).view(len(hidden), -1, patch).any(-1)
        shown = packed(torch.where(hidden, math.nan, values), patch)
        placed = packed(torch.where(hidden, 0.0, values), patch)  # a hidden beginning is no padding
        tokens = replace(placed, values=shown.values, observed=shown.observed, prediction=unseen)
        location, scale = standardisation(tokens)
        states = self._encode(self.in_proj((tokens.values - location) / scale, index), tokens)
        shift = -length % patch
        first, last = (begin + shift) // patch, -(-(end + shift) // patch)
        outputs = self.param_proj(states[:, first:last], index).transpose(1, 2).flatten(2)
        skipped = begin + shift - first * patch
        outputs = outputs[..., skipped : skipped + end - begin]
        return Mixture.of(outputs, location=location[:, -1], scale=scale[:, -1]), (begin, end)

    def _fitting(self, context: Tensor, prediction_length: int) -> Tensor:
        sizes = self.sizes
        return fitting(
            context,
            prediction_length,
            patch=sizes.patch_size,
            max_tokens=sizes.max_seq_len,
            context_length=sizes.context_length,
        )
