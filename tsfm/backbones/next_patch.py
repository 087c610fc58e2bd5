"""Decoders in which every token says the next patch: what the two published layouts of Timer share.

A window is cut into patches from its end, normalised by what is seen of it, and each token forecasts the patch after
its own. Neither network has a mask for missing points: leading ones become tokens that nobody looks at (an oldest patch
that is not full is dropped, unless nothing is left without it), and gaps inside are bridged by a line.

Shapes: B windows, T context steps, H target steps, N patches of p steps, M patches of target. NaN means missing.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.layers import fill_gaps, hold, pad_left
from tsfm.errors import ConfigError

LossTokens = Literal["every", "target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """Windows as such a network sees them."""

    values: Tensor
    """[B, N, p] normalised and without gaps."""
    padding: Tensor
    """[B, N] bool: leading tokens that stand before the window; never the last one."""
    seen: Tensor
    """[B, N, p] bool: points that were observed, outside of padding."""
    location: Tensor
    """[B, 1]"""
    scale: Tensor
    """[B, 1]"""


def known_config(
    config: Mapping[str, Any], *, required: Sequence[str], fixed: Mapping[str, Any], patch: str, longest: int
) -> dict[str, Any]:
    """`config` with a `context_length`: where it says none, as many patches as fit into `longest` steps.

    `patch` names its patch length. `ConfigError` for what was never published, and where one of `required` is absent.
    """
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise ConfigError(f"Timer checkpoints with {name}={config[name]!r} are not supported.")
    absent = [name for name in required if name not in config]
    if absent:
        raise ConfigError(f"A config of Timer names {', '.join(absent)}.")
    known = {"context_length": longest // config[patch] * config[patch], **config}
    if known["context_length"] % known[patch]:
        raise ConfigError("Timer needs a context of whole patches.")
    return known


class NextPatch(Backbone):
    """See the module's text. A subclass says how windows are normalised and what its tokens answer."""

    patch_length: int
    context_length: int
    follows: ClassVar[bool] = True
    loss_tokens: LossTokens
    """Whose error is trained: every token's, as both were pretrained, or only theirs that say the target."""

    @abstractmethod
    def location_and_scale(self, known: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Two [B, 1] of `known` [B, T], which is 0 where `visible` is False; finite, and the scale above zero."""

    @abstractmethod
    def tokens(self, patches: Tensor, padding: Tensor, *, last: bool = False) -> Tensor:
        """Normalised patches [B, N, p] → what each token says of the patch after it [B, N, p], float32; with `last`
        what the last one says [B, 1, p], where the last layer computes no other."""

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        """The mean of the next steps; beyond one patch it joins the window, and that is normalised anew as a whole.

        Only the last `context_length` steps of `context` [B, T] are used.
        """
        if prediction_length < 1:
            raise ConfigError("prediction_length must be at least 1.", param="prediction_length")
        blocks: list[Tensor] = []
        missing = prediction_length
        while missing > 0:
            patches = self.patches(context)
            said = in_units(self.tokens(patches.values, patches.padding, last=True), patches)
            block = said[:, 0, :missing]
            blocks.append(block)
            context = torch.cat([context, block], dim=1)
            missing -= block.shape[1]
        return Prediction(point=torch.cat(blocks, dim=1), point_kind="mean", quantiles=None, levels=())

    def loss(self, batch: Batch) -> Tensor:
        """Squared error of the tokens' next patches against what was observed, in the units of the context.

        Below one patch only the target's H steps count (evaluation.md §5). A longer target is read token by token with
        the true values before it (teacher forcing), normalised by the context throughout. Each window's own mean counts
        by its observed targets, so that a window without any counts nothing at all, its context neither.
        """
        patches = self.patches(batch.context)
        horizon, p = batch.target.shape[1], self.patch_length
        target = F.pad(batch.target, (0, -horizon % p), value=math.nan)
        inputs = torch.cat([patches.values, self._given(target, patches)], dim=1)
        padding = F.pad(patches.padding, (0, inputs.shape[1] - patches.padding.shape[1]))
        targets_alone = self.loss_tokens == "target" or horizon < p
        first = patches.values.shape[1] - 1 if targets_alone else 0
        past = torch.where(patches.seen, in_units(patches.values, patches), math.nan)
        after = torch.cat([past[:, 1:], self._cut(target)], dim=1)[:, first:]
        said = in_units(self.tokens(inputs, padding, last=after.shape[1] == 1), patches)[:, -after.shape[1] :]
        counted = ~after.isnan() & ~padding[:, first:, None]
        error = torch.where(counted, after.nan_to_num() - said, 0.0).square().sum((1, 2))
        mean = error / counted.sum((1, 2)).clamp(min=1)
        weight = (~batch.target.isnan()).sum(1)
        return (mean * weight).sum() / weight.sum().clamp(min=1)

    def predict_patches(self, context: Tensor, target: Tensor) -> Prediction:
        """What each token says, all normalised by `context`; gaps in `target` hold the last value before them."""
        patches = self.patches(context)
        last = in_units(patches.values, patches)[:, -1, -1:]
        given = hold(torch.cat([last, target[:, : -self.patch_length]], dim=1))[:, 1:]
        inputs = torch.cat([patches.values, self._cut((given - patches.location) / patches.scale)], dim=1)
        padding = F.pad(patches.padding, (0, inputs.shape[1] - patches.padding.shape[1]))
        said = in_units(self.tokens(inputs, padding), patches)[:, -(target.shape[1] // self.patch_length) :]
        return Prediction(point=said.flatten(1), point_kind="mean", quantiles=None, levels=())

    def normalised(self, context: Tensor, values: Tensor) -> Tensor:
        """By the location and scale of the context's seen points."""
        patches = self.patches(context)
        return (values - patches.location) / patches.scale

    def patches(self, context: Tensor) -> Patches:
        """`context` [B, T], at most its last `context_length` steps, as the network sees it."""
        p = self.patch_length
        x = pad_left(context[:, -self.context_length :], p)
        observed = ~x.isnan()
        padding = observed.cumsum(1)[:, ::p] == 0
        padding[:, -1] = False
        kept = observed & ~padding.repeat_interleave(p, dim=1)
        visible = torch.where(kept.any(1, keepdim=True), kept, observed)
        location, scale = self.location_and_scale(torch.where(visible, x, 0.0), visible)
        values = (fill_gaps(x) - location) / scale
        return Patches(
            values=self._cut(values),
            padding=padding,
            seen=self._cut(kept),
            location=location,
            scale=scale,
        )

    def after_each(self, values: Tensor, patches: Patches) -> Tensor:
        """[B, N, p] what each token says of the patch after it, in the units of the context, where the network is shown
        `values` [B, N, p] in the place of those of `patches`."""
        return in_units(self.tokens(values, patches.padding), patches)

    def _given(self, target: Tensor, patches: Patches) -> Tensor:
        """All patches of `target` [B, M * p] but the last, as inputs [B, M - 1, p]."""
        known = fill_gaps(target[:, : -self.patch_length]) if target.shape[1] > self.patch_length else target[:, :0]
        return self._cut((known - patches.location) / patches.scale)

    def _cut(self, x: Tensor) -> Tensor:
        """[B, N * p] → [B, N, p]."""
        return x.reshape(len(x), x.shape[1] // self.patch_length, self.patch_length)


def in_units(values: Tensor, patches: Patches) -> Tensor:
    """Normalised `values` [B, N, p] in the units of the context."""
    return values * patches.scale[..., None] + patches.location[..., None]


def moments(known: Tensor, visible: Tensor, *, correction: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [B, 1] of the visible points of `known` [B, T], which is 0 where nothing is visible."""
    count = visible.sum(1, keepdim=True)
    mean = known.sum(1, keepdim=True) / count.clamp(min=1)
    variance = ((known - mean) * visible).square().sum(1, keepdim=True) / (count - correction).clamp(min=1)
    return mean, variance
