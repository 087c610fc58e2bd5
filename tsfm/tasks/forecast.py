"""Forecasting with anything that can forecast: a tuned artifact, a pretrained backbone, a rival.

    forecaster = Forecaster.open(artifact_dir, digest="sha256:…")
    forecaster.predict(frame, 48, quantile_levels=(0.1, 0.5, 0.9))

Shapes: S series, H steps, Q levels. Numbers leave in the user's units and float64. A forecaster is read-only after it
was made: any number of threads may call `predict` on one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsfm import catalog, rivals
from tsfm.adapter_files import open_network
from tsfm.artifact import Artifact, open_artifact
from tsfm.backbones.base import Backbone
from tsfm.backbones.start import base_of
from tsfm.backbones.weights import pretrained
from tsfm.calibration import FILE as CALIBRATION_FILE
from tsfm.calibration import TUNED, Calibration, Spread, from_bytes
from tsfm.configs import PRETRAINED
from tsfm.device import default_device
from tsfm.errors import ConfigError, UnknownName, WeightsError
from tsfm.null import EDGE, TOGETHER, Null
from tsfm.null import FILE as NULL_FILE
from tsfm.null import from_bytes as nulls_from_bytes
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame
from tsfm.series.windows import WindowBatch, tail
from tsfm.setting import RIVAL_CONTEXT, Setting

Floats = NDArray[np.float64]
BATCH_SIZE = 64
"""Series of one forward pass. On a CPU larger ones cost more for each: their activations are mapped anew every time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One batch's forecasts in the user's units: `point` [B, H], `quantiles` [B, Q, H] at `levels`, or None."""

    point: Floats
    quantiles: Floats | None
    levels: tuple[float, ...]
    point_kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What `predict` answers, one row per series of the frame."""

    item_ids: tuple[str, ...]
    point: Floats
    """[S, H] in the user's units."""
    point_kind: str
    """ "mean" or "median": what `point` is."""
    quantiles: Floats | None
    """[S, Q, H] at `quantile_levels`, in the order asked; None when none were asked."""
    quantile_levels: tuple[float, ...]
    calibrated: bool
    """Whether every asked level was set by held-out history; native quantiles were not."""
    uncalibrated_levels: tuple[float, ...]
    """Those of `quantile_levels` that were not."""
    notes: tuple[str, ...]
    """What a reader should know about how the numbers came about."""


class Source(Protocol):
    """Anything that turns windows into forecasts."""

    point_kind: str
    levels: tuple[float, ...]
    """Native quantile levels, ascending; empty for point forecasters."""

    def __call__(self, batch: WindowBatch, prediction_length: int) -> Answer: ...


class BackboneSource:
    """A network in eval mode, asked in blocks of at most `block_length` steps; its point is appended between blocks.

    It holds the network, not a copy: the training loop validates through one source while the weights move.
    """

    def __init__(self, model: Backbone, *, block_length: int, context_length: int, cut_from_block: bool) -> None:
        self.model = model
        self.block_length, self.context_length = block_length, context_length
        self.cut_from_block = cut_from_block
        """True asks for whole blocks and cuts, so that a shorter forecast is the beginning of the tuned one."""
        self.device = next(model.parameters()).device
        with torch.inference_mode():
            probe = model.predict(torch.zeros(1, context_length, device=self.device), 1)
        self.point_kind: str = probe.point_kind
        self.levels = probe.levels

    def __call__(self, batch: WindowBatch, prediction_length: int) -> Answer:
        with torch.inference_mode():
            context = torch.from_numpy(batch.context).to(self.device)
            point, quantiles = self.roll(context, prediction_length)
        return in_units(point, quantiles, batch, levels=self.levels, point_kind=self.point_kind)

    def roll(self, context: Tensor, prediction_length: int) -> tuple[Tensor, Tensor | None]:
        """`context` [B, T] → point [B, H], quantiles [B, Q, H] or None, all scaled."""
        points: list[Tensor] = []
        quantiles: list[Tensor] = []
        done = 0
        while done < prediction_length:
            left = prediction_length - done
            asked = self.block_length if self.cut_from_block else min(left, self.block_length)
            said = self.model.predict(context[:, -self.context_length :], asked)
            used = min(left, asked)
            points.append(said.point[:, :used])
            if said.quantiles is not None:
                quantiles.append(said.quantiles[..., :used])
            context = torch.cat([context, said.point[:, :used]], dim=1)
            done += used
        return torch.cat(points, dim=1), torch.cat(quantiles, dim=2) if quantiles else None


def in_units(
    point: Tensor, quantiles: Tensor | None, batch: WindowBatch, *, levels: tuple[float, ...], point_kind: str
) -> Answer:
    """Scaled `point` [B, H] and `quantiles` [B, Q, H] in the user's units."""
    loc, scale = batch.loc[:, None], batch.scale[:, None]
    said = point.double().cpu().numpy() * scale + loc
    if quantiles is None:
        return Answer(point=said, quantiles=None, levels=(), point_kind=point_kind)
    spread = quantiles.double().cpu().numpy() * scale[:, None] + loc[:, None]
    return Answer(point=said, quantiles=spread, levels=levels, point_kind=point_kind)


class RivalSource:
    """A plain forecaster; see `tsfm.rivals`."""

    point_kind = "median"
    levels: tuple[float, ...] = ()

    def __init__(self, name: str, *, period: int) -> None:
        self.name, self.period = name, period
        self.point_kind = "mean" if name == "window_mean" else "median"

    def __call__(self, batch: WindowBatch, prediction_length: int) -> Answer:
        scaled = rivals.forecast(self.name, batch.context, prediction_length, period=self.period)
        point = scaled.astype(np.float64) * batch.scale[:, None] + batch.loc[:, None]
        return Answer(point=point, quantiles=None, levels=(), point_kind=self.point_kind)


class Forecaster:
    """Opened once, asked often."""

    def __init__(
        self,
        *,
        name: str,
        source: Source | None,
        context_length: int,
        prediction_length: int | None,
        max_prediction_length: int | None,
        digest: str | None = None,
        manifest: dict[str, Any] | None = None,
        period: int | None = None,
        calibration: Calibration | None = None,
        nulls: dict[str, Null] | None = None,
    ) -> None:
        self.name = name
        self.digest = digest
        self.manifest = manifest
        self.prediction_length = prediction_length
        """The tuned horizon; None where nothing was tuned."""
        self.max_prediction_length = max_prediction_length
        self.calibration = calibration
        """What a job stored for this source; None where nothing was calibrated."""
        self.nulls = nulls or {}
        """What a job measured of normal points for this source (tsfm.null), by ending; of other tasks nothing."""
        self.period = period
        """Of a seasonal rival, where a job named one."""
        self._source, self._context_length = source, context_length

    @property
    def network(self) -> Backbone | None:
        """None of rivals."""
        return self._source.model if isinstance(self._source, BackboneSource) else None

    @classmethod
    def open(
        cls,
        artifact_dir: Path,
        *,
        digest: str | None = None,
        weights_dir: Path | None = None,
        device: torch.device | None = None,
    ) -> Self:
        """A tuned model. `ArtifactError` when the files are not those of `digest`, or do not open; an adapter opens on
        the pretrained weights, found as in `zero_shot`: `WeightsError` when they are not here."""
        artifact = open_artifact(artifact_dir, digest)
        facts = artifact.manifest
        spec = catalog.backbone(facts["backbone"]["name"])
        start = facts["backbone"].get("initialisation", PRETRAINED)  # artifacts of 0.1 do not say it
        model = open_network(artifact, spec, lambda: base_of(spec, start, weights_dir=weights_dir))
        source = BackboneSource(
            model.to(device or default_device()).eval().requires_grad_(False),
            block_length=spec.block_length(int(facts["prediction_length"])),
            context_length=int(facts["context_length"]),
            cut_from_block=True,
        )
        return cls(
            name=spec.name,
            source=source,
            context_length=int(facts["context_length"]),
            prediction_length=int(facts["prediction_length"]),
            max_prediction_length=spec.max_prediction_length,
            digest=artifact.digest,
            manifest=facts,
            calibration=stored_calibrations(artifact).get(TUNED),
            nulls=nulls_for(TUNED, stored_nulls(artifact)),
        )

    @classmethod
    def zero_shot(
        cls,
        backbone: str,
        *,
        digest: str | None = None,
        weights_dir: Path | None = None,
        context_length: int | None = None,
        device: torch.device | None = None,
    ) -> Self:
        """The pretrained backbone as it is; `context_length` defaults to its limit. `WeightsError` where this machine
        has other weights than those of `digest`, which by default are any that are pinned here."""
        spec = catalog.backbone(backbone)
        context = min(context_length or spec.context_length, spec.context_length)
        base = pretrained(spec, weights_dir=weights_dir)
        if digest not in (None, base.digest):
            raise WeightsError(
                f"What was judged are the weights {digest} of {backbone}, but this machine has {base.digest}.",
                code="weights_digest_mismatch",
            )
        source = BackboneSource(
            base.fresh().to(device or default_device()).requires_grad_(False),
            block_length=spec.block_length(),
            context_length=context,
            cut_from_block=False,
        )
        return cls(
            name=spec.name,
            source=source,
            context_length=context,
            prediction_length=None,
            max_prediction_length=spec.max_prediction_length,
            digest=base.digest,
        )

    @classmethod
    def rival(cls, name: str, *, period: int | None = None, context_length: int | None = None) -> Self:
        """A plain forecaster; `period` defaults to the season of the frame's frequency."""
        known = (*catalog.RIVALS, *catalog.FILL_RIVALS)
        if name not in known:
            raise UnknownName("rival", name, known, param="model")
        return cls(
            name=name,
            source=None,
            context_length=context_length or RIVAL_CONTEXT,
            prediction_length=None,
            max_prediction_length=None,
            period=period,
        )

    @classmethod
    def fallback(
        cls,
        manifest: dict[str, Any],
        name: str,
        *,
        period: int | None = None,
        weights_dir: Path | None = None,
        device: torch.device | None = None,
    ) -> Self:
        """What a version's job measured beside the tuned weights (zero-shot, a rival), set up exactly as it was judged.

        `period` is that of its routes; None: the one a verdict named. Its quantiles need what the job calibrated:
        `predict(…, calibration=stored_calibrations(artifact).get(name))`.
        """
        if name == "zero_shot":
            judged = manifest["backbone"]
            return cls.zero_shot(judged["name"], digest=judged["digest"], weights_dir=weights_dir, device=device)
        season = period or manifest["rivals"][Setting.of(manifest).seasonal_rival]["period"]
        return cls.rival(name, period=season, context_length=int(manifest["context_length"]))

    def predict(
        self,
        frame: SeriesFrame,
        prediction_length: int,
        quantile_levels: Sequence[float] = (),
        *,
        calibration: Calibration | None = None,
    ) -> Forecast:
        """The next `prediction_length` steps after the end of each series.

        A tuned model asked for fewer steps than it was tuned for is cut; for more it recurses on its own point
        forecast, up to the backbone's limit. `calibration` is what a job stored for this source, by default the opened
        artifact's: with one any level between 0 and 1 is answered. Without, levels between two native quantiles are
        interpolated linearly; one outside the native range, and any level of a point forecaster, is a `ConfigError`.
        """
        self._check_length(prediction_length)
        source, context_length = self.source_for(frame)
        calibration = calibration or self.calibration
        levels = _checked_levels(self.name, source, quantile_levels, is_calibrated=calibration is not None)
        window = tail(frame, context_length=context_length)
        points, spreads = [], []
        for begin in range(0, len(window), BATCH_SIZE):
            rows = window.rows(begin, begin + BATCH_SIZE)
            answer = source(rows, prediction_length)
            points.append(answer.point)
            if levels:
                spreads.append(_spread(answer, rows, levels, calibration))
        held = spreads[0].calibrated if spreads else (False,) * len(levels)
        left = tuple(level for level, is_held in zip(levels, held, strict=True) if not is_held)
        return Forecast(
            item_ids=frame.item_ids,
            point=np.concatenate(points) if points else np.empty((0, prediction_length)),
            point_kind=source.point_kind,
            quantiles=np.concatenate([spread.quantiles for spread in spreads]) if spreads else None,
            quantile_levels=levels,
            calibrated=bool(levels) and not left,
            uncalibrated_levels=left,
            notes=self._notes(source, prediction_length, levels, calibration, left),
        )

    def source_for(self, frame: SeriesFrame) -> tuple[Source, int]:
        """What answers for this frame, and how many steps of history it looks at."""
        if self._source is not None:
            return self._source, self._context_length
        period = self.period or frequencies.parse(frame.freq).season
        needed = rivals.history_needed(self.name, context_length=self._context_length, period=period)
        return RivalSource(self.name, period=period), needed

    def _check_length(self, prediction_length: int) -> None:
        limit = self.max_prediction_length
        if prediction_length < 1 or (limit is not None and prediction_length > limit):
            upto = f"1 to {limit}" if limit is not None else "at least 1"
            raise ConfigError(
                f"{self.name} forecasts {upto} steps, not {prediction_length}.", param="prediction_length"
            )

    def _notes(
        self,
        source: Source,
        prediction_length: int,
        levels: tuple[float, ...],
        calibration: Calibration | None,
        uncalibrated: tuple[float, ...],
    ) -> tuple[str, ...]:
        notes: list[str] = []
        tuned = self.prediction_length
        block = source.block_length if isinstance(source, BackboneSource) else prediction_length
        if tuned is not None and prediction_length > tuned:
            notes.append(f"Tuned for {tuned} steps; the rest continues on its own forecast.")
        elif prediction_length > block:
            notes.append(f"Beyond {block} steps the forecast continues on itself.")
        if calibration is not None and uncalibrated:
            why = f"{calibration.num_scores} scores a step resolve {100 * calibration.resolution:g} % intervals"
            if prediction_length > calibration.prediction_length:
                why = f"{calibration.prediction_length} steps were"
            notes.append(f"Not calibrated: {', '.join(f'{level:g}' for level in uncalibrated)} ({why}).")
        if calibration is not None:
            return tuple(notes)
        if uncalibrated and tuned is not None and source.levels:
            said = ", ".join(f"{level:g}" for level in uncalibrated)
            notes.append(
                f"Not calibrated: {said} (nothing was measured for these weights; so the network itself says)."
            )
        if between := [level for level in levels if all(abs(level - known) > 1e-6 for known in source.levels)]:
            notes.append(f"Interpolated between native quantiles: {', '.join(f'{level:g}' for level in between)}.")
        return tuple(notes)


def interpolate(quantiles: Floats, native: tuple[float, ...], levels: Sequence[float]) -> Floats:
    """[B, Q, H] at `native` levels (ascending) → [B, len(levels), H], linear between neighbours."""
    known = np.asarray(native)
    position = np.interp(levels, known, np.arange(len(known), dtype=np.float64))
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, len(known) - 1)
    weight = (position - low)[None, :, None]
    return np.where(weight == 0, quantiles[:, low], (1.0 - weight) * quantiles[:, low] + weight * quantiles[:, high])


def stored_calibrations(artifact: Artifact) -> dict[str, Calibration]:
    """What the job that made the artifact calibrated, by source; empty for checkpoints and artifacts of 0.1."""
    path = artifact.path / CALIBRATION_FILE
    return from_bytes(path.read_bytes()) if path.is_file() else {}


def stored_nulls(artifact: Artifact) -> dict[str, Null]:
    """What the job that made the artifact measured of normal points, by source; empty for other tasks."""
    path = artifact.path / NULL_FILE
    return nulls_from_bytes(path.read_bytes()) if path.is_file() else {}


def nulls_for(name: str, stored: Mapping[str, Null]) -> dict[str, Null]:
    """Those of one source by ending: its own (""), its last block's, and that of all series together."""
    return {end: stored[f"{name}{end}"] for end in ("", EDGE, TOGETHER) if f"{name}{end}" in stored}


def _spread(answer: Answer, rows: WindowBatch, levels: tuple[float, ...], calibration: Calibration | None) -> Spread:
    if calibration is not None:
        return calibration.spread(answer.point, answer.quantiles, rows.scale, levels)
    assert answer.quantiles is not None, "levels were checked against the source's own"
    return Spread(quantiles=interpolate(answer.quantiles, answer.levels, levels), calibrated=(False,) * len(levels))


def _checked_levels(name: str, source: Source, levels: Sequence[float], *, is_calibrated: bool) -> tuple[float, ...]:
    """The asked levels, snapped to a native one where rounding alone separates them."""
    asked = tuple(float(level) for level in levels)
    if not asked:
        return ()
    param = "quantile_levels"
    if wrong := [level for level in asked if not 0.0 < level < 1.0]:
        raise ConfigError(f"quantile_levels lie strictly between 0 and 1; got {wrong[0]:g}.", param=param)
    if is_calibrated:
        return asked
    if not source.levels:
        raise ConfigError(f"{name} gives point forecasts only: leave quantile_levels out.", param=param)
    low, high = source.levels[0], source.levels[-1]
    if outside := [level for level in asked if not low - 1e-9 <= level <= high + 1e-9]:
        raise ConfigError(
            f"{name} knows quantiles from {low:g} to {high:g}; {outside[0]:g} lies outside and is not calibrated.",
            param=param,
            details={"lowest": low, "highest": high},
        )
    return asked
