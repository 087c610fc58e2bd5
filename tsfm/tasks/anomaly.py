"""Anomaly scores with anything that can forecast or reconstruct: a tuned artifact, a pretrained backbone, a rival.

    scanning = begin(Forecaster.open(artifact_dir), frame, ScoringAsk(level=99.0, detection_size=48))
    for chunk in range(scanning.num_chunks):
        scanning.compute(chunk)
    found = scanning.finish()

One engine for all of them: the points of every series are laid out in blocks of `prediction_length` steps from its end
backwards; each block is expected from what came before it, patch by patch, or from both sides (tsfm.setting); and what
a point is off is compared with a null (tsfm.null): the one that a job calibrated, else the history that is given.
Shapes: S series, W blocks, H steps of a block.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tsfm import catalog, joint, null, rivals
from tsfm.errors import ConfigError, SeriesTooShort
from tsfm.incumbent import first_unseen
from tsfm.normal import raw_of
from tsfm.null import TOGETHER, Null, Raw
from tsfm.scores import Anomalies, ScoringAsk, SeriesScores
from tsfm.series import freq as frequencies
from tsfm.series import split
from tsfm.series.frame import SeriesFrame
from tsfm.series.windows import Around, WindowBatch, gather, place_hash
from tsfm.setting import Setting, scoring_setting, tuned_setting
from tsfm.severity import level_of, severity
from tsfm.tasks.forecast import Forecaster, Source
from tsfm.tasks.scan import Laid, Scan, blocks_of
from tsfm.tasks.sources import rival_source, source_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAX_NULL_POINTS = 20_000
"""Of a series' history before its detection window that a null is made of where no job calibrated one."""
MAX_EDGE_BLOCKS = 512


def begin(
    forecaster: Forecaster,
    frame: SeriesFrame,
    asked: ScoringAsk,
    *,
    like: Mapping[str, Any] | None = None,
    nulls: Mapping[str, Null] | None = None,
) -> "Scanning":
    """The work of one request; raises what `Detector.of` and `Detector.begin` raise."""
    detector = Detector.of(
        forecaster,
        freq=frame.freq,
        scoring=asked.scoring,
        prediction_length=asked.prediction_length,
        like=like,
        nulls=nulls,
    )
    return detector.begin(frame, asked)


class Detector:
    """Opened once, asked often; read-only."""

    def __init__(
        self,
        *,
        name: str,
        setting: Setting,
        source: Source,
        context_length: int,
        min_context: int,
        nulls: Mapping[str, Null],
        manifest: dict[str, Any] | None,
        facts: Mapping[str, Any] | None,
    ) -> None:
        self.name, self.setting, self.source, self.manifest = name, setting, source, manifest
        self.facts = facts
        """The manifest of the job that measured the nulls; None where none did."""
        self.context_length = context_length
        """Steps the source is shown before a block, and behind one seen from both sides; of rivals what they use.
        """
        self.min_context = min_context
        self.nulls = nulls
        """By the endings of their names: "" its own, `EDGE`, `TOGETHER`; empty where no job measured any."""

    @classmethod
    def of(
        cls,
        forecaster: Forecaster,
        *,
        freq: str,
        scoring: str | None = None,
        prediction_length: int | None = None,
        like: Mapping[str, Any] | None = None,
        nulls: Mapping[str, Null] | None = None,
    ) -> Self:
        """`scoring` and `prediction_length` are a caller's, for what was not tuned. `like` is the manifest of the job
        that judged a zero-shot or rival source, whose setting it has then, and `nulls` what that job measured for it.

        `ConfigError` for a model tuned for another task, and for blocks that the source cannot score.
        """
        manifest = forecaster.manifest
        season = frequencies.parse(freq).season
        facts = manifest or like
        is_rival = forecaster.name in (*catalog.RIVALS, *catalog.FILL_RIVALS)
        spec = None if is_rival else catalog.backbone(forecaster.name)
        if facts is not None:
            setting = tuned_setting(
                forecaster.name, facts, "anomaly_detection", scoring=scoring, prediction_length=prediction_length
            )
        else:
            setting = scoring_setting(spec, season, scoring=scoring, prediction_length=prediction_length)
        if is_rival and forecaster.name not in setting.rivals:
            known = ", ".join(setting.rivals)
            raise ConfigError(
                f"{forecaster.name} does not score by {setting.scoring}: use {known} or a backbone.",
                param="model",
                code="wrong_task",
            )
        if spec is None:
            source, context = _rival(forecaster, setting, season)
        else:
            source, context = source_of(forecaster, spec, setting), setting.context_length
        patch = 1 if spec is None else spec.patch_length
        least = split.min_context(setting.context_length, patch_length=patch, season=season)
        return cls(
            name=forecaster.name,
            setting=setting,
            source=source,
            context_length=context,
            min_context=least,
            nulls=forecaster.nulls if nulls is None else nulls,
            manifest=manifest,
            facts=facts,
        )

    def begin(self, frame: SeriesFrame, asked: ScoringAsk) -> "Scanning":
        """Every point with enough history, or the last `detection_size` of each series; nothing is computed yet.

        `SeriesTooShort` when no series has a point to score, `ConfigError` when nothing that is asked was observed, and
        for series that are to be one system and share no clock.
        """
        detection_size = asked.detection_size
        lengths = frame.lengths
        least = np.full(len(frame), self.min_context, dtype=np.int64)
        first = least if detection_size is None else np.maximum(lengths - detection_size, least)
        room = lengths - least
        scored = room >= (1 if detection_size is None else detection_size)
        if not scored.any():
            self._refuse_length(int(lengths.max(initial=0)), detection_size or 1)
        _check_observed(frame, first, scored)
        skipped = tuple(np.flatnonzero(~scored).tolist())
        if asked.together:
            joint.check_clock(frame, skipped)
        measured = bool(self.nulls) and not (asked.together and self.null_together(frame) is None)
        begin = first if measured else np.maximum(least, first - MAX_NULL_POINTS)
        horizon = self.setting.prediction_length
        series, origin, count = blocks_of(np.where(scored, begin, lengths), lengths, horizon=horizon)
        blind = np.empty(0, dtype=np.int64)
        if not self.nulls and self.setting.is_two_sided:
            inside = np.flatnonzero(origin + horizon < lengths[series])
            blind = inside[np.linspace(0, len(inside) - 1, min(len(inside), MAX_EDGE_BLOCKS)).astype(np.int64)]
        scan = Scan(
            frame=frame,
            series=np.concatenate([series, series[blind]]),
            origin=np.concatenate([origin, origin[blind]]),
            count=np.concatenate([count, count[blind]]),
            num_blind=len(blind),
            first=first,
            min_context=self.min_context,
            is_two_sided=self.setting.is_two_sided,
            skipped=skipped,
        )
        return Scanning(self, scan, asked)

    def null_together(self, frame: SeriesFrame) -> Null | None:
        """What a job measured of all series as one system, where it had as many of them."""
        if self.facts is None or int(self.facts["schema"]["num_series"]) != len(frame):
            return None
        return self.nulls.get(TOGETHER)

    def batch(self, scan: Scan, chosen: slice) -> WindowBatch:
        """The blocks of one pass, with what they are shown."""
        around = None
        if self.setting.is_two_sided:
            is_blind = chosen.start >= len(scan.series) - scan.num_blind
            limits = np.zeros_like(scan.frame.lengths) if is_blind else scan.frame.lengths
            around = Around(length=self.context_length, limits=limits)
        batch = gather(
            scan.frame,
            scan.series[chosen],
            scan.origin[chosen],
            context_length=self.context_length,
            prediction_length=self.setting.prediction_length,
            around=around,
        )
        return without_padding(batch)

    def _refuse_length(self, have: int, asked: int) -> None:
        need = self.min_context + asked
        raise SeriesTooShort(
            f"The longest series has {have} points; {need} are needed: {self.min_context} of history before the "
            f"{asked} to be scored. Send more history, or ask for fewer points.",
            have=have,
            need=need,
            param="detection_size" if asked > 1 else "series",
        )


class Scanning:
    """One frame being scored: `compute` every chunk, in any order, then `finish`."""

    def __init__(self, detector: Detector, scan: Scan, asked: ScoringAsk) -> None:
        self.detector, self.scan, self.asked = detector, scan, asked
        shape = (len(scan.series), detector.setting.prediction_length)
        self.work = Raw(**{f.name: np.full(shape, np.nan) for f in fields(Raw)})
        """Filled in chunk by chunk; NaN where a block is not used."""

    @property
    def num_chunks(self) -> int:
        return self.scan.num_chunks

    def compute(self, chunk: int) -> None:
        """One forward pass over at most `BATCH_SIZE` blocks."""
        scan, work = self.scan, self.work
        chosen = scan.chunk(chunk)
        batch = self.detector.batch(scan, chosen)
        values = batch.target.astype(np.float64) * batch.scale[:, None] + batch.loc[:, None]
        at = scan.frame.offsets[batch.series][:, None] + batch.origin[:, None] + np.arange(values.shape[1])
        exact = scan.frame.values[np.minimum(at, len(scan.frame.values) - 1)]  # without the rounding of float32
        raw = raw_of(self.detector.source, batch, np.where(np.isnan(values), np.nan, exact))
        used = np.arange(values.shape[1])[None, :] < scan.count[chosen][:, None]
        for f in fields(Raw):
            getattr(work, f.name)[chosen] = np.where(used, getattr(raw, f.name), np.nan)

    def finish(self) -> Anomalies:
        """p-values, scores and bounds; of all series as one system, too, where that was asked.

        `SeriesTooShort` where the history is too short for a null.
        """
        scan, stored, level = self.scan, self.detector.nulls, self.asked.level
        laid = Laid(scan, self.work, stored=stored)
        known = [laid.nulls(i, level) for i in laid.series]
        found = [self._series(laid, i, pair, level) for i, pair in zip(laid.series, known, strict=True)]
        system = None
        if self.asked.together:
            system = joint.score(
                [laid.in_units(i, pair) for i, pair in zip(laid.series, known, strict=True)],
                first=int(scan.first[laid.series[0]]),
                stored=self.detector.null_together(scan.frame),
                level=level,
                names=tuple(scan.frame.item_ids[i] for i in laid.series),
            )
        mains = [pair[0] for pair in known]
        extrapolated = not all(one.resolves(level) for one in mains)
        return Anomalies(
            level=level,
            scoring=self.detector.setting.scoring or "forecast",
            prediction_length=self.detector.setting.prediction_length,
            series=tuple(found),
            together=system,
            calibrated=bool(stored),
            extrapolated=extrapolated,
            num_scores=min(one.num_scores for one in mains),
            drift=self._drift(scan, found),
            notes=_notes(mains, level, extrapolated),
        )

    def _drift(self, scan: Scan, found: list[SeriesScores]) -> dict[str, Any] | None:
        if not self.detector.nulls and (scan.first <= scan.min_context).all():
            return None
        p = np.concatenate([one.p_values for one in found])
        return null.drift(p, block=2 * self.detector.setting.prediction_length)

    def _series(self, laid: Laid, i: int, nulls: tuple[Null, Null], level: float) -> SeriesScores:
        scan = laid.scan
        first = int(scan.first[i])
        step, is_edge, expected, below, above, raw = laid.points(i)
        values = scan.frame.series(i)[first:]
        scores, units, line = (np.full(len(values), np.nan) for _ in range(3))
        p = np.full(len(values), np.nan)
        uniform = null.uniforms(place_hash(np.zeros(len(values), dtype=np.int64), first + np.arange(len(values))))
        for one, rows in ((nulls[0], ~is_edge), (nulls[1], is_edge)):
            if not rows.any():
                continue
            units[rows] = one.units[np.minimum(step[rows], len(one.units) - 1)]
            scores[rows] = raw[rows] / units[rows]
            line[rows] = one.threshold(level)
            p[rows] = one.p_values(scores[rows], uniform[rows], level=level)
        lower, upper = expected - line * units * below, expected + line * units * above
        level_then = level_of(self.detector.facts, scan.frame.item_ids[i])
        seen = np.zeros(len(values), dtype=np.bool_)
        manifest = self.detector.manifest
        if manifest is not None and manifest.get("judged_until") is not None:
            until = first_unseen(manifest["judged_until"], scan.frame.take([i]))[0]
            seen = first + np.arange(len(values)) < until
        return SeriesScores(
            index=i,
            first=first,
            values=values,
            expected=expected,
            lower=lower,
            upper=upper,
            p_values=p,
            scores=null.shown_scores(p, level=level),
            severity=severity(values, expected, lower, upper, level=level_then),
            in_sample=seen,
        )


def without_padding(batch: WindowBatch) -> WindowBatch:
    """Without the columns that stand before every row's first point: left padding changes no answer."""
    observed = np.flatnonzero((~np.isnan(batch.context)).any(axis=0))
    begin = int(observed[0]) if len(observed) else batch.context.shape[1] - 1
    return replace(batch, context=np.ascontiguousarray(batch.context[:, begin:])) if begin > 0 else batch


def _rival(forecaster: Forecaster, setting: Setting, season: int) -> tuple[Source, int]:
    period = forecaster.period or season
    context = rivals.history_needed(forecaster.name, context_length=setting.context_length, period=period)
    return rival_source(forecaster.name, period=period), context


def _check_observed(frame: SeriesFrame, first: Ints, asked: NDArray[np.bool_]) -> None:
    seen = [not np.isnan(frame.series(i)[first[i] :]).all() for i in np.flatnonzero(asked).tolist()]
    if not any(seen):
        raise ConfigError(
            "Every value that was to be scored is missing: send values for the detection window, or ask for more of "
            "the history (detection_size).",
            param="detection_size",
            code="nothing_observed",
        )


def _notes(nulls: list[Null], level: float, extrapolated: bool) -> tuple[str, ...]:
    if not extrapolated:
        return ()
    fewest = min(one.num_scores for one in nulls)
    need = int(np.ceil(1.0 / (1.0 - level / 100.0) - 1e-9))
    return (f"Level {level:g} needs {need:,} null scores and there are {fewest:,}: the tail is extrapolated.",)
