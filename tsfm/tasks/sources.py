"""Sources that see more than what came before: every patch in one pass, gaps from both sides (tsfm.setting).

They answer as `tsfm.tasks.forecast.BackboneSource` does, for windows that hold what they need: `target` for patches,
`after` and `gap` for gaps. Shapes: B windows, T steps before, H steps asked, A steps behind, Q levels.
"""

from copy import copy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsfm import rivals
from tsfm.backbones.base import Backbone, Batch
from tsfm.errors import ConfigError
from tsfm.mixture import Mixture, distance
from tsfm.series.windows import WindowBatch
from tsfm.setting import Setting
from tsfm.spec import FILL_RIVALS, BackboneSpec
from tsfm.tasks.forecast import Answer, BackboneSource, Floats, Forecaster, RivalSource, Source, in_units

NETWORK_ALONE = Mixture()


class PatchSource:
    """Every patch of the target from the true values before it, in one pass."""

    def __init__(self, model: Backbone, *, patch_length: int) -> None:
        self.model, self.device = model, next(model.parameters()).device
        some = torch.zeros(1, patch_length, device=self.device)
        with torch.inference_mode():
            probe = model.predict_patches(some, some)
        self.point_kind: str = probe.point_kind
        self.levels = probe.levels

    def __call__(self, batch: WindowBatch, prediction_length: int) -> Answer:
        with torch.inference_mode():
            rows = Batch.of(batch, self.device)
            said = self.model.predict_patches(rows.context, rows.target[:, :prediction_length])
        return in_units(said.point, said.quantiles, batch, levels=self.levels, point_kind=self.point_kind)


class FillSource:
    """Gaps from both sides: natively where the network reconstructs, else by forecasts from each side.

    The two forecasts are mixed by how near each edge is: step k of a gap of g steps takes (g − k) ÷ (g + 1) of the one
    from before it, k counted from 0, and the rest of the one from behind, level by level. Either is mixed with plain
    fills; its quantiles move as far as its point.
    """

    def __init__(
        self, model: Backbone, *, block_length: int, context_length: int, mixture: Mixture = NETWORK_ALONE
    ) -> None:
        self.mixture = mixture
        self.model, self.device = model, next(model.parameters()).device
        self.one_sided = BackboneSource(
            model, block_length=block_length, context_length=context_length, cut_from_block=False
        )
        self.point_kind, self.levels = self.one_sided.point_kind, self.one_sided.levels

    def __call__(self, batch: WindowBatch, prediction_length: int) -> Answer:
        answer = self.alone(batch, prediction_length)
        if self.mixture.is_network_alone:
            return answer
        mixed = self.mixture.of(self.parts(answer, batch, prediction_length), away_of(batch, prediction_length))
        return moved(answer, mixed - answer.point)

    def mixed(self, mixture: Mixture) -> "FillSource":
        """The same network in another mixture."""
        other = copy(self)
        other.mixture = mixture
        return other

    def alone(self, batch: WindowBatch, prediction_length: int) -> Answer:
        """What the network says by itself."""
        with torch.inference_mode():
            rows = Batch.of(batch, self.device)
            point, quantiles = (self._natively if self.model.reconstructs else self._by_forecasts)(rows)
        return in_units(point, quantiles, batch, levels=self.levels, point_kind=self.point_kind)

    def parts(self, answer: Answer, batch: WindowBatch, prediction_length: int) -> Floats:
        """[B, H, P] in the user's units: what is mixed, by `tsfm.mixture.PARTS`; `answer` is the network's."""
        assert batch.gap is not None, "a gap has two sides"
        assert batch.after is not None, "a gap has two sides"
        where, period = (batch.context, batch.after, batch.gap, prediction_length), self.mixture.period
        plain = [rivals.linear_fill(*where)] * 3
        if period > 1:
            plain[1:] = rivals.seasonal_fill(*where, period), rivals.seasonal_line(*where, period)
        units = [one.astype(np.float64) * batch.scale[:, None] + batch.loc[:, None] for one in plain]
        return np.stack([answer.point, *units], axis=-1)

    def _natively(self, rows: Batch) -> tuple[Tensor, Tensor | None]:
        begin, horizon = rows.context.shape[1], rows.target.shape[1]
        said = self.model.reconstruct(*rows.whole())
        inside = slice(begin, begin + horizon)
        return said.point[:, inside], None if said.quantiles is None else said.quantiles[..., inside]

    def _by_forecasts(self, rows: Batch) -> tuple[Tensor, Tensor | None]:
        assert rows.after is not None, "a gap has two sides"
        assert rows.gap is not None, "a gap has two sides"
        horizon = rows.target.shape[1]
        forth = self.one_sided.roll(rows.context, horizon)
        back = self.one_sided.roll(rows.after.flip(1), horizon)
        step = torch.arange(horizon, device=self.device)
        gap = rows.gap[:, None]
        share = (gap - step).clamp(min=0) / (gap + 1.0)
        known = [(~side.isnan()).any(1, keepdim=True) for side in (rows.context, rows.after)]
        share = torch.where(known[1], torch.where(known[0], share, 0.0), 1.0)
        place = (gap - 1 - step).clamp(min=0)
        point = share * forth[0] + (1 - share) * back[0].gather(1, place)
        if forth[1] is None or back[1] is None:
            return point, None
        turned = back[1].gather(2, place[:, None].expand_as(back[1]))
        return point, share[:, None] * forth[1] + (1 - share[:, None]) * turned


def away_of(batch: WindowBatch, prediction_length: int) -> NDArray[np.int64]:
    """[B, H] steps of each step of a gap from the nearer edge with something behind it."""
    assert batch.gap is not None, "a gap has two sides"
    assert batch.after is not None, "a gap has two sides"
    before, behind = (np.count_nonzero(~np.isnan(side), axis=1) > 0 for side in (batch.context, batch.after))
    return distance(batch.gap, prediction_length, before=before, behind=behind)


def moved(answer: Answer, change: Floats) -> Answer:
    """`answer` with its point and all of its quantiles moved by `change` [B, H]."""
    quantiles = None if answer.quantiles is None else answer.quantiles + change[:, None]
    return replace(answer, point=answer.point + change, quantiles=quantiles)


class FillRivalSource:
    """A plain way to fill; see `tsfm.rivals`."""

    levels: tuple[float, ...] = ()
    point_kind = "median"

    def __init__(self, name: str, *, period: int) -> None:
        self.name, self.period = name, period

    def __call__(self, batch: WindowBatch, prediction_length: int) -> Answer:
        assert batch.after is not None, "a gap has two sides"
        assert batch.gap is not None, "a gap has two sides"
        filled = rivals.fill(self.name, batch.context, batch.after, batch.gap, prediction_length, period=self.period)
        point = filled.astype(np.float64) * batch.scale[:, None] + batch.loc[:, None]
        return Answer(point=point, quantiles=None, levels=(), point_kind=self.point_kind)


def network_source(model: Backbone, spec: BackboneSpec, setting: Setting, *, tuned: bool) -> Source:
    """How a network answers in this setting; `tuned` ones for the blocks they were tuned for."""
    if setting.is_two_sided:
        block = spec.block_length(setting.prediction_length if tuned else None)
        return FillSource(model, block_length=block, context_length=spec.context_length)
    if setting.scoring == "every_patch":
        return PatchSource(model, patch_length=spec.patch_length)
    return BackboneSource(
        model,
        block_length=spec.block_length(setting.prediction_length if tuned else None),
        context_length=setting.context_length if tuned else spec.context_length,
        cut_from_block=tuned,
    )


def rival_source(name: str, *, period: int) -> Source:
    return FillRivalSource(name, period=period) if name in FILL_RIVALS else RivalSource(name, period=period)


def source_of(forecaster: Forecaster, spec: BackboneSpec, setting: Setting) -> Source:
    """What an opened network answers with in this setting."""
    if forecaster.network is None:
        raise ConfigError(f"{forecaster.name} has no network.", param="model")
    source = network_source(forecaster.network, spec, setting, tuned=forecaster.manifest is not None)
    fill = (forecaster.manifest or {}).get("fill")
    if fill is not None and isinstance(source, FillSource):
        return source.mixed(Mixture.stored(fill, "tuned"))
    return source
