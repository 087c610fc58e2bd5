"""Rolling-origin evaluation of anything that forecasts: where to cut, what is asked, how far off it was. Torch-free.

    plan = plan_of(frame, prediction_length=24, num_windows=5, stride=24)
    histories = plan.histories(0, 64, keep=512)      ask a forecaster for the next 24 steps of each
    errors = Scored(plan, levels=…); errors.add(0, 64, point, quantiles)

Windows are numbered series by series, oldest first. Shapes: W windows, H steps, Q levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm.errors import SeriesTooShort
from tsfm.metrics import METRICS, Errors, Scales, WindowErrors, scales_of
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Split
from tsfm.serving.frames import rolled_back

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MIN_HISTORY = 2
"""Points before a series' first cut-off."""
WINDOW_METRICS = (*METRICS, "wql", "coverage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cut-offs of every series."""

    frame: SeriesFrame
    prediction_length: int
    stride: int
    series: Ints
    """[W]"""
    end: Ints
    """[W] points of history before the cut-off: the index of the first target."""
    scales: Scales
    """From the history before a series' first cut-off, which no target touches."""
    skipped: tuple[int, ...]
    """Series too short for a single window."""
    num_missing: int
    """Windows that were asked for and did not fit."""

    def __len__(self) -> int:
        return len(self.series)

    def histories(self, begin: int, end: int, *, keep: int) -> SeriesFrame:
        """One series per window of [begin, end): what was known at its cut-off, at most `keep` points of it."""
        ends: list[list[int]] = [[] for _ in range(len(self.frame))]
        for i, cut in zip(self.series[begin:end].tolist(), self.end[begin:end].tolist(), strict=True):
            ends[i].append(cut)
        return rolled_back(self.frame, ends=ends, keep=keep)

    def targets(self, begin: int, end: int) -> Floats:
        """[end − begin, H] what came, NaN = missing."""
        first = self.frame.offsets[self.series[begin:end]] + self.end[begin:end]
        targets: Floats = self.frame.values[first[:, None] + np.arange(self.prediction_length)]
        return targets

    def cutoff(self, window: int) -> str | int:
        """Time of the last point of history."""
        i, end = int(self.series[window]), int(self.end[window])
        return frequencies.format_timestamps(self.frame, i, end - 1, 1)[0]


def plan_of(frame: SeriesFrame, *, prediction_length: int, num_windows: int, stride: int) -> Plan:
    """The last `num_windows` cut-offs of every series, `stride` apart, the last one H before its end.

    A series gives as many as fit; `SeriesTooShort` when none gives any.
    """
    room = (frame.lengths - prediction_length - MIN_HISTORY) // stride + 1
    count = np.clip(room, 0, num_windows)
    if not count.any():
        have, need = int(frame.lengths.max(initial=0)), prediction_length + MIN_HISTORY
        raise SeriesTooShort(
            f"The longest series has {have} points; a window needs {need}: {prediction_length} to forecast and "
            f"{MIN_HISTORY} of history. Use a prediction_length of {max(have - MIN_HISTORY, 1)} or less, or send more.",
            have=have,
            need=need,
            param="prediction_length",
        )
    series = np.repeat(np.arange(len(frame), dtype=np.int64), count)
    place = np.arange(len(series), dtype=np.int64) - np.repeat(np.cumsum(count) - count, count)
    last = frame.lengths[series] - prediction_length
    first = frame.lengths - prediction_length - (np.maximum(count, 1) - 1) * stride
    return Plan(
        frame=frame,
        prediction_length=prediction_length,
        stride=stride,
        series=series,
        end=last - (count[series] - 1 - place) * stride,
        scales=_scales(frame, np.where(count > 0, first, frame.lengths)),
        skipped=tuple(np.flatnonzero(count == 0).tolist()),
        num_missing=num_windows * len(frame) - len(series),
    )


def _scales(frame: SeriesFrame, first: Ints) -> Scales:
    """MASE and RMSSE scales of the history before the first cut-off (evaluation.md §2)."""
    zero = np.zeros(len(frame), dtype=np.int64)
    history = Split(
        borders=np.stack([zero, first, first, first, frame.lengths], axis=1),
        clock=zero,
        group=zero,
        prediction_length=1,
        min_context=1,
        with_test=False,
        unused=(),
        unjudged=(),
    )
    return scales_of(frame, history, season=frequencies.parse(frame.freq).season)


class Scored:
    """Errors of one forecaster on a plan's windows, added in order."""

    def __init__(self, plan: Plan, *, levels: Sequence[float], intervals: Sequence[tuple[str, float, float]]) -> None:
        """`levels` are those that wql is averaged over; an interval is its label and the levels of its ends."""
        self._plan = plan
        self._errors = Errors(plan.scales, levels=levels)
        self._levels, self._intervals = tuple(levels), tuple(intervals)
        self._inside: list[Ints] = []

    def add(self, begin: int, end: int, point: Floats, quantiles: Floats | None, known: Sequence[float]) -> None:
        """Of windows [begin, end): `point` [·, H], `quantiles` [·, Q, H] at the levels `known`, or None for points.

        A point forecaster's wql takes its point at every level; its intervals are empty.
        """
        target = self._plan.targets(begin, end)
        place = {level: i for i, level in enumerate(known)}
        inside = np.zeros((end - begin, len(self._intervals)), dtype=np.int64)
        if quantiles is None:
            asked = np.repeat(point[:, None], len(self._levels), axis=1)
        else:
            asked = quantiles[:, [place[level] for level in self._levels]]
            for k, (_, low, high) in enumerate(self._intervals):
                within = (quantiles[:, place[low]] <= target) & (target <= quantiles[:, place[high]])
                inside[:, k] = within.sum(axis=1)
        self._errors.add(self._plan.series[begin:end], target, point, asked)
        self._inside.append(inside)

    def result(self, metrics: Sequence[str], *, with_coverage: bool) -> "Result":
        return Result(
            errors=replace(self._errors.windows(), levels=self._levels[:1]),
            inside=np.concatenate(self._inside),
            intervals=tuple(label for label, _, _ in self._intervals) if with_coverage else (),
            metrics=tuple(metrics),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One forecaster's errors; a number is None where nothing was observed, or where the forecaster has none."""

    errors: WindowErrors
    inside: Ints
    """[W, intervals]"""
    intervals: tuple[str, ...]
    """Labels of the intervals whose coverage is known."""
    metrics: tuple[str, ...]

    def whole(self) -> dict[str, Any]:
        """Every series weighs the same; wql and coverage are pooled."""
        found = self.errors.result()
        answer = {name: found.get(name) for name in self.metrics if name != "coverage"}
        if "coverage" in self.metrics:
            answer["coverage"] = self._shares(self.inside.sum(axis=0), int(self.errors.count.sum()))
        return answer

    def by_window(self) -> list[dict[str, Any]]:
        """One for every window, in the plan's order."""
        return self._grouped(np.arange(len(self.errors)), self.errors.series)

    def by_series(self) -> list[dict[str, Any]]:
        """One for every series of the frame."""
        every = np.arange(len(self.errors.scales.mase))
        return self._grouped(self.errors.series, every)

    def _grouped(self, group: Ints, series: Ints) -> list[dict[str, Any]]:
        """`group` [W] of each window, `series` [G] of each group."""
        errors, size = self.errors, len(series)

        def total(values: NDArray[Any]) -> Floats:
            return np.bincount(group, weights=values, minlength=size).astype(np.float64)

        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            count = total(errors.count)
            mase, square = total(errors.absolute) / count, total(errors.squared) / count
            columns = {
                "mase": mase,
                "rmsse": np.sqrt(square),
                "mae": mase * errors.scales.mase[series],
                "mse": square * np.square(errors.scales.rmsse[series]),
                "wql": 2 * total(errors.pinball) / total(errors.target),
            }
        chosen = {name: _plain(values) for name, values in columns.items() if name in self.metrics}
        rows = [dict(zip(chosen, row, strict=True)) for row in zip(*chosen.values(), strict=True)] or [{}] * size
        if "coverage" not in self.metrics:
            return rows
        inside = np.zeros((size, self.inside.shape[1]))
        np.add.at(inside, group, self.inside)
        return [{**row, "coverage": self._shares(inside[i], int(count[i]))} for i, row in enumerate(rows)]

    def _shares(self, inside: NDArray[Any], count: int) -> dict[str, float] | None:
        if not count or not self.intervals:
            return None
        return {label: float(inside[k]) / count for k, label in enumerate(self.intervals)}


def _plain(values: Floats) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
