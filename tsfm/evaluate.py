"""Rolling-origin evaluation: what a source misses in each window, in the user's units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tsfm import rivals
from tsfm.calibration import Calibration, Spread
from tsfm.catalog import RIVALS
from tsfm.errors import Cancelled
from tsfm.gaps import by_edge, from_edge
from tsfm.metrics import Errors, Scales, WindowErrors
from tsfm.routes import Routes
from tsfm.series.windows import WindowBatch, Windows
from tsfm.tasks.forecast import BATCH_SIZE, Answer, Source
from tsfm.tasks.sources import rival_source

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TUNED, ZERO_SHOT, ROUTED = "tuned", "zero_shot", "routed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A source and the history it is shown."""

    source: Source
    context_length: int


def never_stop() -> str | None:
    """A `should_stop` that lets everything run."""
    return None


def measure(
    asked: Asked,
    windows: Windows,
    scales: Scales,
    *,
    calibration: Calibration | None = None,
    should_stop: Callable[[], str | None] = never_stop,
) -> WindowErrors:
    """Errors in every window, in the order of `windows`; `Cancelled` within one batch of a stop.

    With `calibration` the quantiles are its deciles, so that sources without any of their own can be compared.
    """
    shown = windows.showing(asked.context_length)
    errors = Errors(scales, levels=asked.source.levels if calibration is None else DECILES)
    for begin in range(0, len(shown), BATCH_SIZE):
        if reason := should_stop():
            raise Cancelled(f"Stopped while evaluating: {reason}.", code=reason)
        indices = np.arange(begin, min(begin + BATCH_SIZE, len(shown)))
        batch = shown.batch(indices)
        answer = asked.source(batch, shown.prediction_length)
        quantiles = answer.quantiles
        if calibration is not None:
            quantiles = spread(calibration, answer, batch, DECILES).quantiles
        errors.add(batch.series, shown.raw_target(indices), answer.point, quantiles)
    return errors.windows()


def spread(calibration: Calibration, answer: Answer, batch: WindowBatch, levels: Sequence[float]) -> Spread:
    """Calibrated quantiles of one batch; those of gaps by the distance of each step from the nearer edge."""
    if batch.gap is None:
        return calibration.spread(answer.point, answer.quantiles, batch.scale, levels)
    point = by_edge(answer.point, batch.gap)
    native = None if answer.quantiles is None else by_edge(answer.quantiles, batch.gap)
    found = calibration.spread(point, native, np.concatenate([batch.scale, batch.scale]), levels)
    return replace(found, quantiles=from_edge(found.quantiles, batch.gap, answer.point.shape[1]))


def measure_routed(
    sources: Mapping[str, Asked],
    routes: Routes,
    windows: Windows,
    scales: Scales,
    *,
    should_stop: Callable[[], str | None] = never_stop,
) -> WindowErrors:
    """As `measure`, every window asked of the source that its series is sent to."""
    chosen = np.array([routes.of(item_id) for item_id in windows.frame.item_ids], dtype=object)[windows.series]
    parts, places = [], []
    for name in routes.sources:
        place = np.flatnonzero(chosen == name)
        part = replace(windows, series=windows.series[place], origin=windows.origin[place])
        parts.append(measure(sources[name], part, scales, should_stop=should_stop))
        places.append(place)
    return WindowErrors.join(parts).where(np.argsort(np.concatenate(places), kind="stable"))


def score(
    source: Source, windows: Windows, scales: Scales, *, should_stop: Callable[[], str | None] = never_stop
) -> dict[str, Any]:
    """Metrics (tsfm.metrics) of a source on windows."""
    asked = Asked(source=source, context_length=windows.context_length)
    return measure(asked, windows, scales, should_stop=should_stop).result()


def rival(name: str, *, context_length: int, period: int = 1) -> Asked:
    """A rival sees as much history as it can use, whatever the backbone's context is."""
    needed = rivals.history_needed(name, context_length=context_length, period=period)
    return Asked(source=rival_source(name, period=period), context_length=needed)


def score_rival(name: str, windows: Windows, scales: Scales, *, period: int) -> dict[str, Any]:
    """Metrics of one rival on windows, with the history it can use."""
    return measure(rival(name, context_length=windows.context_length, period=period), windows, scales).result()


def judge_rivals(
    validation: Windows, test: Windows | None, scales: Scales, *, metric: str, periods: Sequence[int]
) -> list[dict[str, Any]]:
    """One candidate per rival; `seasonal_naive` at the listed period that is best on validation, and says which."""
    candidates = []
    for name in RIVALS:
        tried = periods if name == "seasonal_naive" else (1,)
        scored = {p: score_rival(name, validation, scales, period=p) for p in tried}
        best = min(scored, key=lambda p: scored[p].get(metric, np.inf))
        candidate: dict[str, Any] = {
            "name": name,
            "validation": scored[best],
            "test": None if test is None else score_rival(name, test, scales, period=best),
        }
        if name == "seasonal_naive":
            candidate["period"] = best
        candidates.append(candidate)
    return candidates
