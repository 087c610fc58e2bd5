"""UniTS (Harvard): one network for every length, variate and task; own implementation of its specification.

A window of V variates becomes patches of 16 steps, each a token; what is hidden (a horizon, or patches to be filled in)
is a mask token. Ten learned prompt tokens stand before them. `prompt2forecat` first lets every hidden token look at all
the others; then blocks attend along the tokens of each variate, attend along the variates, and mix tokens by maps over
the *token axis*. Those maps have one stored size and are resized bilinearly to the length at hand (`DynamicLinear`),
which is how one checkpoint serves any context and horizon. A head turns every token back into its 16 steps.

Names of parameters are those of the published checkpoints (`units_x32`, `units_x128` of the release `ckpt`). These hold
prompt and mask tokens per dataset; ours are shared, as in the authors' zero-shot variant, and start as their means.

Shapes: B windows, T context steps, H target steps, V variates, n patches, h horizon patches, N tokens = P prompts and
n + h patches, D width, p steps a patch. NaN means missing. The protocol of `tsfm.backbones.base` has V = 1.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.layers import Dropout, fill_gaps, through
from tsfm.errors import ConfigError

VARIANCE_FLOOR = 1e-5
"""Added to the variance before the root: a constant window stays finite."""
MLP_RATIO = 8
HEAD_RATIO = 4
TOKEN_STD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class UniTSConfig:
    """The published constructor values that decide the architecture, and the limits this project sets."""

    d_model: int
    n_heads: int
    e_layers: int
    patch_len: int = 16
    prompt_num: int = 10
    """P."""
    dropout: float = 0.1
    token_map_size: int = 128
    """Stored size of the token-axis maps before and after the blocks; 128 in every published file."""
    num_positions: int = 5_000
    context_length: int = 512
    """With a horizon of 96 inside the 96 to 1,152 steps of the pretraining windows."""
    prediction_length: int = 720
    """Longest horizon of the pretraining tasks (`multi_task_pretrain.yaml`: 60 to 720 after 96 steps)."""

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From the published constructor values or from `UniTS.config`."""
        parsed = cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})
        if config.get("stride", parsed.patch_len) != parsed.patch_len:
            raise ConfigError("UniTS checkpoints with overlapping patches are not supported.")
        if parsed.d_model % parsed.n_heads:
            raise ConfigError(f"UniTS needs a width that its heads divide, not {parsed.d_model} by {parsed.n_heads}.")
        return parsed


class DynamicLinear(nn.Module):
    """An affine map along the token axis whose stored matrix is resized to the numbers of tokens at hand.

    The first `fixed` inputs (the prompts) keep their columns: these are resized over the outputs only.
    """

    def __init__(self, in_tokens: int, out_tokens: int, *, fixed: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(out_tokens, in_tokens))
        self.bias = nn.Parameter(torch.empty(out_tokens))
        self.fixed = fixed
        bound = 1 / math.sqrt(in_tokens)
        nn.init.uniform_(self.weights, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, out_tokens: int) -> Tensor:
        """[..., in] to [..., out_tokens]."""
        prompts = _resized(self.weights[:, : self.fixed], out_tokens, self.fixed)
        others = _resized(self.weights[:, self.fixed :], out_tokens, x.shape[-1] - self.fixed)
        bias = _resized(self.bias[None], 1, out_tokens)[0]
        return F.linear(x, torch.cat([prompts, others], dim=1), bias)


def _resized(matrix: Tensor, rows: int, columns: int) -> Tensor:
    if matrix.shape == (rows, columns):
        return matrix
    resized = F.interpolate(matrix[None, None], size=(rows, columns), mode="bilinear", align_corners=False)
    return resized[0, 0]


class Gate(nn.Module):
    """Each token times one number of its own: `x * sigmoid(gate(x))`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.gate(x).sigmoid()
        return out


class Attention(nn.Module):
    """Projections of both attentions: q, k and v [B, V, heads, N, e] from one linear without bias."""

    def __init__(self, config: UniTSConfig) -> None:
        super().__init__()
        self.num_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.proj = nn.Linear(config.d_model, config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0).transpose(-3, -2)
        out: Tensor = self.dropout(self.proj(self.mixed(q, k, v).transpose(-3, -2).flatten(-2)))
        return out

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Along the tokens of each variate."""
        return F.scaled_dot_product_attention(q, k, v)


class VariateAttention(Attention):
    """Along the variates: q and k are their means over the tokens, and one weight moves a variate's whole v."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if v.shape[1] == 1:
            return v  # a softmax over one variate is 1
        q, k = (x.mean(-2).transpose(1, 2) for x in (q, k))
        out = F.scaled_dot_product_attention(q, k, v.transpose(1, 2).flatten(-2))
        return out.reshape(*out.shape[:-1], *v.shape[-2:]).transpose(1, 2)


class SequenceBlock(nn.Module):
    """`x + gate(attention(norm(x)))` along the tokens."""

    def __init__(self, config: UniTSConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.d_model)
        self.attn_seq = Attention(config)
        self.ls1 = Gate(config.d_model)
        self.proj = nn.Linear(config.d_model, config.d_model)
        """Stored in the published files, used by nothing."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.ls1(self.attn_seq(self.norm1(x)))
        return out


class VariateBlock(nn.Module):
    """`x + gate(attention(norm(x)))` along the variates."""

    def __init__(self, config: UniTSConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.d_model)
        self.attn_var = VariateAttention(config)
        self.ls1 = Gate(config.d_model)
        self.proj = nn.Linear(config.d_model, config.d_model)
        """Stored in the published files, used by nothing."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.ls1(self.attn_var(self.norm1(x)))
        return out


class DynamicMLP(nn.Module):
    """Widens by a convolution over three tokens, mixes half of the features along the token axis, narrows again."""

    def __init__(self, config: UniTSConfig) -> None:
        super().__init__()
        hidden, prompts = MLP_RATIO * config.d_model, config.prompt_num
        self.fc1 = nn.Conv1d(config.d_model, hidden, 3, padding=1)
        self.seq_fc = DynamicLinear(hidden // 4, hidden // 4, fixed=prompts)
        self.prompt_fc = DynamicLinear(hidden // 4, prompts, fixed=prompts)
        self.fc2 = nn.Linear(hidden, config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        mixed, plain = self.fc1(x.flatten(0, 1).transpose(1, 2)).chunk(2, dim=1)
        prompts = self.prompt_fc.fixed
        mixed = torch.cat([self.prompt_fc(mixed, prompts), self.seq_fc(mixed, x.shape[2] - prompts)], dim=2)
        hidden = self.dropout(F.gelu(torch.cat([mixed, plain], dim=1))).transpose(1, 2)
        out: Tensor = self.dropout(self.fc2(hidden)).unflatten(0, x.shape[:2])
        return out


class MLPBlock(nn.Module):
    """`x + gate(mlp(norm(x)))`."""

    def __init__(self, config: UniTSConfig) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(config.d_model)
        self.mlp = DynamicMLP(config)
        self.ls2 = Gate(config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class Block(nn.Module):
    """[B, V, N, D] along the tokens, along the variates, and through the MLP."""

    def __init__(self, config: UniTSConfig) -> None:
        super().__init__()
        self.seq_att_block = SequenceBlock(config)
        self.var_att_block = VariateBlock(config)
        self.dynamic_mlp = MLPBlock(config)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dynamic_mlp(self.var_att_block(self.seq_att_block(x)))
        return out


class MLP(nn.Module):
    """`fc2(gelu(fc1(x)))`, dropout after both."""

    def __init__(self, config: UniTSConfig, *, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, ratio * config.d_model)
        self.fc2 = nn.Linear(ratio * config.d_model, config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(x)))))
        return out


class Head(nn.Module):
    """Hidden tokens [B, V, N, D] to the steps [B, V, count * p] of the last `count` tokens."""

    def __init__(self, config: UniTSConfig, *, fixed: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(config.d_model, config.d_model)
        self.mlp = MLP(config, ratio=HEAD_RATIO)
        self.proj_out = nn.Linear(config.d_model, config.patch_len)
        self.pos_proj = DynamicLinear(config.token_map_size, config.token_map_size, fixed=fixed)

    def forward(self, x: Tensor, count: int) -> Tensor:
        x = self.proj_in(x)
        x = x[:, :, -count:] + self.pos_proj(x.transpose(2, 3), count).transpose(2, 3)
        out: Tensor = self.proj_out(self.mlp(x)).flatten(2)
        return out


class PatchEmbedding(nn.Module):
    """Patches [B, V, n, p] to tokens [B, V, n, D]."""

    def __init__(self, config: UniTSConfig) -> None:
        super().__init__()
        self.value_embedding = nn.Linear(config.patch_len, config.d_model, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, patches: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.value_embedding(patches))
        return out


class PositionEmbedding(nn.Module):
    """A trained table that starts as sines and cosines, by turns."""

    def __init__(self, config: UniTSConfig) -> None:
        super().__init__()
        frequency = torch.exp(-math.log(10_000.0) / config.d_model * torch.arange(0, config.d_model, 2))
        angle = torch.arange(config.num_positions)[:, None] * frequency
        waves = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, : config.d_model]
        self.pe = nn.Parameter(waves[None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pe[:, :, : x.shape[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the network makes of normalised windows, with what it went through."""

    tokens: Tensor
    """[B, V, n, D] embedded patches."""
    sequence: Tensor
    """[B, V, N, D]: prompts, then patches and horizon with what is hidden filled in and positions added."""
    hidden: Tensor
    """[B, V, N, D] after the blocks."""
    values: Tensor
    """[B, V, (n + h) * p], normalised: the window reconstructed, then the horizon."""


class UniTS(Backbone):
    """See the module's text. One pass gives any horizon up to the limit; it depends on the patches asked for."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "units-x32": {"d_model": 32, "n_heads": 8, "e_layers": 3},
        "units-x128": {"d_model": 128, "n_heads": 8, "e_layers": 3},
    }
    lora_targets: ClassVar[str] = (
        r"^blocks\.\d+\.((seq_att_block\.attn_seq|var_att_block\.attn_var)\.(qkv|proj)|dynamic_mlp\.mlp\.fc2)$"
    )
    head_name: ClassVar[str] = "forecast_head"
    reconstructs: ClassVar[bool] = True

    def __init__(self, config: UniTSConfig) -> None:
        """Draws the published initialisation, torch's own and N(0, 0.02) for tokens; theirs has the mask token at 0."""
        super().__init__()
        self.config: dict[str, Any] = asdict(config)
        self.sizes = config
        width = config.d_model
        self.prompt_token = nn.Parameter(TOKEN_STD * torch.randn(1, 1, config.prompt_num, width))
        self.mask_token = nn.Parameter(TOKEN_STD * torch.randn(1, 1, 1, width))
        self.cls_token = nn.Parameter(TOKEN_STD * torch.randn(1, 1, 1, width))
        self.patch_embeddings = PatchEmbedding(config)
        self.position_embedding = PositionEmbedding(config)
        self.prompt2forecat = DynamicLinear(config.token_map_size, config.token_map_size, fixed=config.prompt_num)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.e_layers))
        self.cls_head = _classifier(config)
        self.forecast_head = Head(config, fixed=config.prompt_num)
        self.pretrain_head = Head(config, fixed=1)
        unused = ("cls_token", "cls_head.", "pretrain_head.")
        self.unused_parameters = frozenset(
            name for name, _ in self.named_parameters() if name.startswith(unused) or "_att_block.proj." in name
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        """`config` is `UniTS.config` or the published constructor values; `ConfigError` for what never was."""
        parsed = UniTSConfig.parse(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(parsed)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        tiny = {"d_model": 16, "n_heads": 2, "e_layers": 1, "token_map_size": 32, "num_positions": 100}
        return {**asdict(UniTSConfig.parse(config)), **tiny}

    @classmethod
    def published_tensors(cls, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The entry "student" of a released file, without the prefix of distributed training.

        Tokens of single datasets give way to shared ones: the mean over a dataset's variates, then over the datasets.
        They are pretrained, then, and blended by SFF like the rest; a file without any does not load. Category tokens
        belong to classification.
        """
        plain = {name.removeprefix("module."): t for name, t in tensors.items()}
        mapped = {name: t for name, t in plain.items() if not name.startswith(_DATASET_TOKENS)}
        for shared in ("prompt_token", "mask_token", "cls_token"):
            single = [t.float().mean(1, keepdim=True) for name, t in plain.items() if name.startswith(f"{shared}s.")]
            if single and shared not in mapped:
                mapped[shared] = torch.stack(single).mean(0)
        return mapped

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """The mean of the next steps in one pass; `ConfigError` beyond the longest horizon of the pretraining."""
        point = self.forecast_channels(context[:, :, None], prediction_length)[:, :, 0]
        return Prediction(point=point, point_kind="mean", quantiles=None, levels=())

    def loss(self, batch: Batch) -> Tensor:
        """Squared error over observed targets in the units of the context, as the authors fine-tune forecasts.

        Their pretraining objective (all points of two heads under random masks) is another one.
        """
        said = self.predict(batch.context, batch.target.shape[1]).point
        observed = ~batch.target.isnan()
        error = torch.where(observed, torch.nan_to_num(batch.target) - said, 0.0)
        return error.square().sum() / observed.sum().clamp(min=1)

    def reconstruct(self, values: Tensor, hidden: Tensor) -> Prediction:
        """As its imputation: a patch with a hidden point is the mask token, then what the prompts make of it."""
        x, unseen = torch.where(hidden, math.nan, values)[:, None], hidden[:, None]
        lots = self._lots(torch.where(unseen, 0.0, x))
        said = torch.cat([self._fill(x[rows], unseen[rows], count) for count, rows in lots.items()])
        point = said[torch.cat(list(lots.values())).argsort()]
        return Prediction(point=point, point_kind="mean", quantiles=None, levels=())

    def reconstruction_loss(self, values: Tensor, hidden: Tensor) -> Tensor:
        """Squared error over what was hidden, in the units of the window."""
        said = self.reconstruct(values, hidden).point
        counted = hidden & ~values.isnan()
        error = torch.where(counted, torch.nan_to_num(values) - said, 0.0)
        return error.square().sum() / counted.sum().clamp(min=1)

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """Standardised by the context's observed points."""
        location, scale = _standardisation(context[:, -self.sizes.context_length :])
        return (values - location) / scale

    def forecast_channels(self, context: Tensor, prediction_length: int) -> Tensor:
        """The next steps [B, H, V] of `context` [B, T, V], V variates that attend to each other.

        A row begins with the patch of its first observed step (of any variate): the network has no mask for padding,
        and its token-axis maps depend on the number of tokens, so that rows of one number go through together. That
        patch, where it begins before the row does, and gaps inside patches are filled on the line between neighbours;
        a patch without any observed point is a mask token, as in the pretraining.
        """
        sizes = self.sizes
        if not 1 <= prediction_length <= sizes.prediction_length:
            raise ConfigError(
                f"UniTS forecasts 1 to {sizes.prediction_length} steps, not {prediction_length}.",
                param="prediction_length",
            )
        x = context[:, -sizes.context_length :].transpose(1, 2)
        lots = self._lots(x)
        if len(lots) == 1:
            return self._forecast(x, next(iter(lots)), prediction_length)
        said = [self._forecast(x[rows], count, prediction_length) for count, rows in lots.items()]
        return torch.cat(said)[torch.cat(list(lots.values())).argsort()]

    def rows_together(self, context: Tensor) -> list[Tensor]:
        """Rows of one number of tokens."""
        return list(self._lots(context[:, None, -self.sizes.context_length :]).values())

    def _lots(self, x: Tensor) -> dict[int, Tensor]:
        """Rows of `x` [B, V, T] by how many patches there are from their first observed step on; none counts as one."""
        seen = (~x.isnan()).any(1)
        steps = torch.where(seen.any(1), seen.shape[1] - seen.int().argmax(1), 1)
        patches = (steps + self.sizes.patch_len - 1) // self.sizes.patch_len
        return {count: (patches == count).nonzero()[:, 0] for count in sorted(set(patches.tolist()))}

    def _forecast(self, x: Tensor, num_patches: int, prediction_length: int) -> Tensor:
        """[B, H, V] after the last patches of `x` [B, V, T]."""
        sizes = self.sizes
        x = F.pad(x, (num_patches * sizes.patch_len - x.shape[2], 0), value=math.nan)  # a negative number cuts
        hidden = x.isnan().reshape(*x.shape[:2], num_patches, -1).all(-1)
        location, scale = _standardisation(x)
        filled = fill_gaps(x.flatten(0, 1)).view_as(x)
        horizon = -(-prediction_length // sizes.patch_len)
        said = self.read((filled - location) / scale, hidden, horizon).values[..., x.shape[2] :].float()
        return (said[..., :prediction_length] * scale + location).transpose(1, 2)

    def _fill(self, x: Tensor, unseen: Tensor, num_patches: int) -> Tensor:
        """[B, T] the last patches of `x` [B, 1, T] as reconstructed without what is `unseen`; before them 0."""
        pad = num_patches * self.sizes.patch_len - x.shape[2]
        x, unseen = F.pad(x, (pad, 0), value=math.nan), F.pad(unseen, (pad, 0))
        patched = (*x.shape[:2], num_patches, self.sizes.patch_len)
        hidden = unseen.view(patched).any(-1) | x.isnan().view(patched).all(-1)
        location, scale = _standardisation(x)
        filled = fill_gaps(x[:, 0])[:, None]
        said = self.read((filled - location) / scale, hidden, 0).values.float() * scale + location
        return F.pad(said[:, 0], (-pad, 0))

    def read(self, x: Tensor, hidden: Tensor, horizon: int) -> Reading:
        """The network itself on normalised windows `x` [B, V, n * p] without gaps.

        `hidden` [B, V, n] bool marks patches whose values are not looked at; `horizon` is the number h of patches that
        follow. Reconstruction hides nothing and has h = 0, imputation hides patches, a forecast has h > 0.
        """
        tokens = self.patch_embeddings(x.reshape(*hidden.shape, -1))
        masked = F.pad(hidden, (0, horizon), value=True)[..., None]
        patches = torch.where(masked, self.mask_token, F.pad(tokens, (0, 0, 0, horizon)))
        prompts = self.prompt_token.expand(*x.shape[:2], -1, -1)
        asked = torch.cat([prompts, patches], dim=2).transpose(2, 3)
        answers = self.prompt2forecat(asked, patches.shape[2]).transpose(2, 3)
        patches = self.position_embedding(torch.where(masked, answers, patches))
        sequence = state = torch.cat([prompts, patches], dim=2)
        for block in self.blocks:
            state = through(block, state, checkpointing=self.gradient_checkpointing and self.training)
        values = self.forecast_head(state, patches.shape[2])
        return Reading(tokens=tokens, sequence=sequence, hidden=state, values=values)


_DATASET_TOKENS = ("prompt_tokens.", "mask_tokens.", "cls_tokens.", "category_tokens.")


def _classifier(config: UniTSConfig) -> nn.ModuleDict:
    """The published classification head: kept so that a file loads strictly, called by nothing."""
    width = config.d_model
    attention = {
        "q": nn.Linear(width, width, bias=False),
        "kv": nn.Linear(width, 2 * width, bias=False),
        "proj": nn.Linear(width, width),
    }
    mlp = {"norm2": nn.LayerNorm(width), "mlp": MLP(config, ratio=MLP_RATIO), "ls2": Gate(width)}
    parts = {"proj_in": nn.Linear(width, width)}
    return nn.ModuleDict({**parts, "cross_att": nn.ModuleDict(attention), "mlp": nn.ModuleDict(mlp)})


def _standardisation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [..., 1] of the observed points of `x` [..., T]."""
    visible = ~x.isnan()
    known = torch.where(visible, x, 0.0)
    count = visible.sum(-1, keepdim=True).clamp(min=1)
    location = known.sum(-1, keepdim=True) / count
    variance = ((known - location) * visible).square().sum(-1, keepdim=True) / count
    return location, (variance + VARIANCE_FLOOR).sqrt()
