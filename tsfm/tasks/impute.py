"""Filling missing points with anything that can forecast or reconstruct: a tuned artifact, a backbone, a plain fill.

    filling = begin(Forecaster.open(artifact_dir), frame, (0.1, 0.9))
    for chunk in range(filling.num_chunks):
        filling.compute(chunk)
    filled = filling.finish()

A gap is a run of missing points; each is filled by itself from both of its sides (tsfm.tasks.sources), gaps of like
length in one pass. Its intervals are those that a job calibrated, by the distance from the nearer edge; else they are
conformal over spans of the given series that were observed and are hidden on trial.
Shapes: S series, G gaps, H steps of the longest gap of a chunk, Q levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tsfm import calibrate, catalog, rivals
from tsfm.calibration import Calibration
from tsfm.errors import ConfigError, DataError
from tsfm.evaluate import spread
from tsfm.filled import Filled, Gap, LongGaps
from tsfm.mixing import Tally, Tried, best_guess
from tsfm.mixture import Mixture, guess_of
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame
from tsfm.series.windows import Around, WindowBatch, Windows, gaps_at
from tsfm.setting import RIVAL_CONTEXT, UNTUNED_CONTEXT, Setting, longest_gap, side_length, tuned_setting
from tsfm.spec import BackboneSpec
from tsfm.tasks.forecast import BATCH_SIZE, Answer, Forecaster, Source, interpolate
from tsfm.tasks.sources import FillSource, rival_source, source_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
MAX_TRIAL_SPANS = 128
"""Observed spans that are hidden on trial where no job calibrated any intervals."""
MIN_TRIAL_SPANS = 16
"""Of them that must not overlap; else shorter ones are hidden."""
WHOLE_TRIALS = 0.5
"""Share of them that are as long as the longest gap."""
MIN_TRIAL_SCORES = 10
LISTED = 5


def begin(
    forecaster: Forecaster,
    frame: SeriesFrame,
    quantile_levels: Sequence[float] = (),
    *,
    long_gaps: LongGaps = "refuse",
    like: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
) -> "Filling":
    """The work of one request; raises what `Imputer.of` and `Imputer.begin` raise."""
    imputer = Imputer.of(forecaster, freq=frame.freq, like=like, calibration=calibration)
    return imputer.begin(frame, quantile_levels, long_gaps=long_gaps)


class Imputer:
    """Opened once, asked often; read-only."""

    def __init__(
        self,
        *,
        name: str,
        spec: BackboneSpec | None,
        setting: Setting | None,
        source: Source,
        season: int,
        period: int,
        guess: int,
        calibration: Calibration | None,
    ) -> None:
        self.name, self.spec, self.setting, self.source = name, spec, setting, source
        self.season, self.period, self.guess = season, period, guess
        """Of the frequency; the one a seasonal rival was judged with; and of the first guess that a job showed."""
        self.calibration = calibration
        """What a job stored for this source."""

    @classmethod
    def of(
        cls,
        forecaster: Forecaster,
        *,
        freq: str,
        like: Mapping[str, Any] | None = None,
        calibration: Calibration | None = None,
    ) -> Self:
        """`like` is the manifest of the job that judged a zero-shot or plain source, `calibration` what it stored.

        `ConfigError` for a model tuned for another task, and for rivals that do not fill.
        """
        facts = forecaster.manifest or like
        setting = None if facts is None else tuned_setting(forecaster.name, facts, "imputation")
        season = frequencies.parse(freq).season
        period = forecaster.period or season
        if forecaster.name in catalog.RIVALS:
            known = ", ".join(catalog.FILL_RIVALS)
            raise ConfigError(
                f"{forecaster.name} forecasts, it does not fill gaps: use {known} or a backbone.",
                param="model",
                code="wrong_task",
            )
        if forecaster.name in catalog.FILL_RIVALS:
            spec, source = None, rival_source(forecaster.name, period=period)
        else:
            spec = catalog.backbone(forecaster.name)
            asked = setting or Setting(task="imputation", scoring=None, prediction_length=1, context_length=0)
            source = source_of(forecaster, spec, asked)
            if like is not None and isinstance(source, FillSource):
                source = source.mixed(Mixture.stored(like["fill"], "zero_shot"))
        return cls(
            name=forecaster.name,
            spec=spec,
            setting=setting,
            source=source,
            season=season,
            period=period,
            guess=guess_of(facts or {}, season),
            calibration=calibration or forecaster.calibration,
        )

    @property
    def longest(self) -> int | None:
        """Steps of the longest gap that can be filled; None: any."""
        return None if self.spec is None else longest_gap(self.spec)

    def side(self, gap: int) -> int:
        """Steps that are shown on each side of a gap."""
        if self.spec is None:
            shown = RIVAL_CONTEXT if self.setting is None else self.setting.context_length
            return rivals.history_needed(self.name, context_length=shown, period=self.period)
        most = side_length(self.spec, gap) if self.spec.reconstructs else self.spec.context_length
        return min(most, UNTUNED_CONTEXT if self.setting is None else self.setting.context_length)

    def begin(
        self, frame: SeriesFrame, quantile_levels: Sequence[float] = (), *, long_gaps: LongGaps = "refuse"
    ) -> "Filling":
        """Finds the gaps; nothing is computed yet. `DataError` names those that are too long, unless they are left."""
        series, first, length = gaps_of(frame)
        observed = np.array([not np.isnan(frame.series(i)).all() for i in range(len(frame))], dtype=np.bool_)
        if not observed.any():
            raise DataError(
                "No value of any series is known, so there is nothing to fill from: send series with some values.",
                code="nothing_observed",
                param="series",
            )
        longest = self.longest
        fits = observed[series] & (length <= (longest or np.inf))
        too_long = observed[series] & ~fits
        if too_long.any() and long_gaps == "refuse":
            assert longest is not None, "what has no limit refuses nothing"
            raise _too_long(frame, series[too_long], first[too_long], length[too_long], longest, self.name)
        return Filling(self, frame, (series, first, length), fits, tuple(float(q) for q in quantile_levels))

    def windows(
        self, frame: SeriesFrame, series: Ints, first: Ints, length: Ints, room: int, *, guess: int
    ) -> WindowBatch:
        """Gaps of one pass, which has `room` steps for each; `guess` is the period of the first guess."""
        side = self.side(room)
        return gaps_at(
            frame,
            series,
            first,
            length,
            context_length=side,
            prediction_length=room,
            after_length=side,
            period=guess,
        )


class Filling:
    """One frame being filled: `compute` every chunk in order, then `finish`."""

    def __init__(
        self,
        imputer: Imputer,
        frame: SeriesFrame,
        gaps: tuple[Ints, Ints, Ints],
        fits: Bools,
        levels: tuple[float, ...],
    ) -> None:
        self.imputer, self.frame, self.levels = imputer, frame, levels
        self.series, self.first, self.length = gaps
        self.fits = fits
        begins, ends = self.first == 0, self.first + self.length == frame.lengths[self.series]
        self.one_sided = begins | ends
        self.horizon = 0 if imputer.setting is None else imputer.setting.prediction_length
        """Steps of the longest gap that a job calibrated."""
        self.room = _room(self.length, tuned=self.horizon, longest=imputer.longest)
        kept = np.flatnonzero(fits)
        kinds = [kept[self.room[kept] == room] for room in np.unique(self.room[kept]).tolist()]
        self.chunks = [part[i : i + BATCH_SIZE] for part in kinds for i in range(0, len(part), BATCH_SIZE)]
        self.source = imputer.source
        self.mixes = imputer.setting is None and isinstance(self.source, FillSource)
        """Whether no job has measured yet with which weights it is mixed."""
        unmeasured = self.mixes or (bool(levels) and imputer.calibration is None)
        self.guess = imputer.guess
        self.trials = self._trials() if unmeasured and len(kept) else None
        if self.mixes and self.trials is not None:
            assert self.trials.around is not None, "trials are gaps"
            self.guess = best_guess(self.trials, imputer.season)
            self.trials = replace(self.trials, around=replace(self.trials.around, period=self.guess))
        self._tried: list[Tried] = []
        self.values = frame.values.copy()
        self.quantiles = np.full((len(levels), len(frame.values)), np.nan)
        self._calibration = imputer.calibration

    @property
    def num_chunks(self) -> int:
        """Those of the trial come first, where there is one."""
        return len(self.chunks) + self._num_trial_chunks

    @property
    def _num_trial_chunks(self) -> int:
        return 0 if self.trials is None else -(-len(self.trials) // BATCH_SIZE)

    def compute(self, chunk: int) -> None:
        """One pass over at most `BATCH_SIZE` gaps. Those of the trial have to be computed before the others."""
        if self.trials is not None and chunk < self._num_trial_chunks:
            self._try(self.trials, chunk)
            return
        chosen = self.chunks[chunk - self._num_trial_chunks]
        series, first, length = self.series[chosen], self.first[chosen], self.length[chosen]
        room = int(self.room[chosen[0]])
        batch = self.imputer.windows(self.frame, series, first, length, room, guess=self.guess)
        answer = self.source(batch, room)
        step = np.arange(answer.point.shape[1])
        inside = step[None, :] < length[:, None]
        at = (self.frame.offsets[series] + first)[:, None] + step
        self.values[at[inside]] = answer.point[inside]
        if self.levels:
            quantiles = self._spread(answer, batch, self.one_sided[chosen])
            if quantiles is not None:
                self.quantiles[:, at[inside]] = quantiles.transpose(1, 0, 2)[:, inside]

    def _try(self, trials: Windows, chunk: int) -> None:
        """Hides observed spans; the last time it settles how the source is mixed, and how far off that is."""
        indices = np.arange(chunk * BATCH_SIZE, min((chunk + 1) * BATCH_SIZE, len(trials)))
        is_last = chunk == self._num_trial_chunks - 1
        found: Calibration | None = None
        if self.mixes and isinstance(self.source, FillSource):
            seasonal = self.source.mixed(Mixture(period=self.imputer.season))
            self._tried.append(Tried.of(seasonal, trials, indices))
            if is_last:
                mixture = sum((one.tally() for one in self._tried), Tally.empty()).mixture(self.imputer.season)
                self.source = seasonal.mixed(mixture)
                answers = (calibrate.laid_out(one.batch, one.target, one.mixed(mixture)) for one in self._tried)
                found = calibrate.fit_answers(answers, self.source.levels)
        elif is_last:
            found = calibrate.fit(self.source, trials)
        if self.levels and found is not None and found.num_scores >= MIN_TRIAL_SCORES:
            self._calibration = found

    def finish(self) -> Filled:
        """Everything that was filled, and what is to be known about it."""
        stored = self.imputer.calibration
        resolved = stored is not None and all(stored.resolves(level) for level in self.levels)
        within = self.fits & ~self.one_sided & (self.length <= self.horizon) & resolved
        gaps = tuple(
            Gap(series=s, first=f, length=n, filled=filled, one_sided=one, calibrated=held and bool(self.levels))
            for s, f, n, filled, one, held in zip(
                self.series.tolist(),
                self.first.tolist(),
                self.length.tolist(),
                self.fits.tolist(),
                self.one_sided.tolist(),
                within.tolist(),
                strict=True,
            )
        )
        known = not self.levels or not np.isnan(self.quantiles).all() or not self.fits.any()
        return Filled(
            values=self.values,
            quantiles=self.quantiles if self.levels and known else None,
            gaps=gaps,
            calibrated=bool(self.levels) and bool(self.fits.any()) and bool(within[self.fits].all()),
            notes=self._notes(known),
        )

    def _spread(self, answer: Answer, batch: WindowBatch, one_sided: Bools) -> Floats | None:
        """[G, Q, H], NaN behind each gap, or None where the source has no intervals."""
        if self._calibration is None:
            return self._native(answer)
        assert batch.gap is not None, "gaps have a length"
        out = np.full((len(batch), len(self.levels), answer.point.shape[1]), np.nan)
        for steps in np.unique(batch.gap).tolist():  # by themselves: longer ones beside them change nothing
            for is_one in (False, True):
                rows = np.flatnonzero((batch.gap == steps) & (one_sided == is_one))
                if not len(rows):
                    continue
                native = None if answer.quantiles is None else answer.quantiles[rows, :, :steps]
                part = replace(answer, point=answer.point[rows, :steps], quantiles=native)
                gaps = replace(batch, gap=batch.gap[rows], origin=batch.origin[rows], scale=batch.scale[rows])
                if is_one:
                    out[rows, :, :steps] = self._outwards(self._calibration, part, gaps)
                else:
                    out[rows, :, :steps] = spread(self._calibration, part, gaps, self.levels).quantiles
        return out

    def _native(self, answer: Answer) -> Floats | None:
        """[G, Q, H] what the source itself says; None where that does not hold every level."""
        if answer.quantiles is None:
            return None
        low, high = answer.levels[0], answer.levels[-1]
        if any(not low - 1e-9 <= level <= high + 1e-9 for level in self.levels):
            return None
        return interpolate(answer.quantiles, answer.levels, self.levels)

    def _outwards(self, calibration: Calibration, answer: Answer, batch: WindowBatch) -> Floats:
        """Of gaps with one side: the step is the distance from it, so that gaps at the beginning are turned round."""
        assert batch.gap is not None, "gaps have a length"
        begins = batch.origin == 0
        turned = replace(answer, point=_turned(answer.point, batch.gap, begins))
        if answer.quantiles is not None:
            turned = replace(turned, quantiles=_turned(answer.quantiles, batch.gap, begins))
        quantiles = calibration.spread(turned.point, turned.quantiles, batch.scale, self.levels).quantiles
        return _turned(quantiles, batch.gap, begins)

    def _trials(self) -> Windows | None:
        """Observed spans of this frame's own gap lengths, spread evenly; None where there is none.

        Where much is missing hardly any span is as long as the longest gap: then they are as long as they are plenty.
        """
        frame = self.frame
        horizon = int(min(self.length[self.fits].max(), max(2, int(frame.lengths.max()) // 8)))
        stretches = runs_of(frame, ~np.isnan(frame.values))[2]
        while horizon > 1 and (stretches // horizon).sum() < MIN_TRIAL_SPANS:
            horizon = -(-horizon // 2)
        observed = np.concatenate([[0], np.cumsum(~np.isnan(frame.values))])
        series, origin = [], []
        for i in range(len(frame)):
            first = np.arange(1, max(int(frame.lengths[i]) - horizon, 1))
            at = frame.offsets[i] + first
            whole = observed[np.minimum(at + horizon, len(frame.values))] - observed[at] == horizon
            series.append(np.full(int(whole.sum()), i, dtype=np.int64))
            origin.append(first[whole])
        every, places = np.concatenate(series), np.concatenate(origin)
        if not len(every):
            return None
        chosen = np.linspace(0, len(every) - 1, min(len(every), MAX_TRIAL_SPANS)).round().astype(np.int64)
        side = self.imputer.side(horizon)
        return Windows(
            frame=frame,
            series=every[chosen],
            origin=places[chosen],
            context_length=side,
            prediction_length=horizon,
            stride=1,
            num_dropped=0,
            around=Around(length=side, limits=frame.lengths, period=self.guess, vary=True, whole=WHOLE_TRIALS),
        )

    def _notes(self, known: bool) -> tuple[str, ...]:
        notes = []
        if not known:
            notes.append(f"No intervals: too little of the series is observed for {self.imputer.name} to have any.")
        elif self.levels and self._calibration is None and self.fits.any():
            notes.append(f"Intervals are {self.imputer.name}'s own: too little is observed to calibrate them on trial.")
        elif self.levels and self.imputer.calibration is None and self.fits.any():
            notes.append("Intervals are conformal over observed spans of the given series, hidden on trial.")
        stored = self.imputer.calibration
        if stored is not None and self.fits.any():
            unresolved = [level for level in self.levels if not stored.resolves(level)]
            if unresolved:
                said = ", ".join(f"{level:g}" for level in unresolved)
                why = f"{stored.num_scores} scores a step resolve {100 * stored.resolution:g} % intervals"
                notes.append(f"Not calibrated: {said} ({why}).")
        if self.horizon and (longer := self.fits & (self.length > self.horizon)).any():
            notes.append(f"{int(longer.sum())} gaps are longer than the {self.horizon} steps the model was tuned for.")
        if (one := self.fits & self.one_sided).any():
            notes.append(f"{int(one.sum())} gaps at the beginning or end of a series are known from one side only.")
        if (left := ~self.fits).any():
            notes.append(f"{int(left.sum())} gaps were left: too long, or their series holds no value.")
        return tuple(notes)


def gaps_of(frame: SeriesFrame) -> tuple[Ints, Ints, Ints]:
    """([G] series, [G] first index, [G] length) of every run of missing points."""
    return runs_of(frame, np.isnan(frame.values))


def runs_of(frame: SeriesFrame, chosen: Bools) -> tuple[Ints, Ints, Ints]:
    """([G] series, [G] first index, [G] length) of every run of `chosen` points, which are given like the values."""
    starts = np.zeros(len(chosen), dtype=np.bool_)
    starts[frame.offsets[:-1][frame.lengths > 0]] = True
    begins = np.flatnonzero(chosen & (np.concatenate([[True], ~chosen[:-1]]) | starts))
    after = np.concatenate([~chosen[1:], [True]]) | np.concatenate([starts[1:], [True]])
    ends = np.flatnonzero(chosen & after) + 1
    series = np.searchsorted(frame.offsets, begins, side="right") - 1
    return series.astype(np.int64), begins - frame.offsets[series], ends - begins


def _room(length: Ints, *, tuned: int, longest: int | None) -> Ints:
    """[G] steps of the pass that fills each gap: those that a job tuned and judged, else the next power of two.

    It is a gap's own, so that neither where patches begin nor how much is shown depends on the gaps beside it.
    """
    power = 2 ** np.ceil(np.log2(length)).astype(np.int64)
    return np.where(length <= tuned, tuned, power if longest is None else np.minimum(power, longest))


def _turned(x: Floats, gap: Ints, rows: Bools) -> Floats:
    """`x` [G, …, H] with the first `gap` columns of the chosen rows in reverse."""
    step = np.arange(x.shape[-1])[None, :]
    place = np.where(rows[:, None] & (step < gap[:, None]), gap[:, None] - 1 - step, step)
    index = np.expand_dims(place, tuple(range(1, x.ndim - 1)))
    return np.take_along_axis(x, np.broadcast_to(index, x.shape), axis=-1)


def _too_long(frame: SeriesFrame, series: Ints, first: Ints, length: Ints, longest: int, name: str) -> DataError:
    shown = []
    for i, at, steps in list(zip(series.tolist(), first.tolist(), length.tolist(), strict=True))[:LISTED]:
        when = frequencies.format_timestamps(frame, i, at, 1)[0]
        shown.append(f"{frame.item_ids[i]!r} from {when} on ({steps} points)")
    more = f" and {len(series) - LISTED} more" if len(series) > LISTED else ""
    return DataError(
        f"{name} fills gaps of up to {longest} points; longer are: {', '.join(shown)}{more}. Cut the series there, or "
        'send "long_gaps": "leave" to fill the others.',
        code="gap_too_long",
        param="series",
    )
