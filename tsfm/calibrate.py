"""Fitting and checking calibrations (evaluation.md §4): scores from the calibration block, coverage from test.

Nothing is chosen here: the calibration block sets the offsets, the test block is only measured, after everything.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm.calibration import TUNED, Calibration, fitted, scores_of
from tsfm.errors import Cancelled
from tsfm.evaluate import DECILES, Asked, never_stop
from tsfm.gaps import by_edge
from tsfm.metrics import Floats, Scales
from tsfm.series.windows import WindowBatch, Windows
from tsfm.tasks.forecast import BATCH_SIZE, Answer, Source

INTERVALS = (80, 95)
"""Per cent of the central intervals whose coverage and width are measured."""
MAX_MEASURED_WINDOWS = 500
"""Windows of the test block whose coverage is measured, evenly spaced."""


def fit_all(
    asked: Mapping[str, Asked], windows: Windows, *, should_stop: Callable[[], str | None] = never_stop
) -> dict[str, Calibration]:
    """Every source by its own scores on the calibration windows; without those that have none."""
    found = {
        name: fit(one.source, windows.showing(one.context_length), should_stop=should_stop)
        for name, one in asked.items()
    }
    return {name: made for name, made in found.items() if made is not None}


def report(
    calibrations: Mapping[str, Calibration],
    asked: Mapping[str, Asked],
    windows: Windows,
    test: Windows | None,
    scales: Scales,
    *,
    should_stop: Callable[[], str | None] = never_stop,
) -> dict[str, Any] | None:
    """The job's `calibration`: the tuned weights' facts, and under `sources` everybody else's. None: nothing to say.

    `windows` are those that were fitted on. Coverage, width and pinball are measured on test, and None without one.
    """
    facts: dict[str, dict[str, Any]] = {}
    for name, made in calibrations.items():
        facts[name] = {"method": made.method, "num_scores": made.num_scores, "resolution": made.resolution}
        measured: dict[str, Any] = {"coverage": None, "width": None, "pinball": None}
        if test is not None and len(test):
            judged = test.showing(asked[name].context_length)
            measured = measure(asked[name].source, judged, made, scales, should_stop=should_stop)
        facts[name] |= measured
    if TUNED not in facts:
        return None
    own = facts.pop(TUNED)
    return {**own, "num_windows": len(windows), "stride": windows.stride, "sources": facts}


def fit(source: Source, windows: Windows, *, should_stop: Callable[[], str | None] = never_stop) -> Calibration | None:
    """Scores of `windows`, pooled over series per step; None where a step has no observed target at all."""
    return fit_answers(_answers(source, windows, np.arange(len(windows)), should_stop), source.levels)


def fit_answers(answers: Iterable[tuple[WindowBatch, Floats, Answer]], levels: tuple[float, ...]) -> Calibration | None:
    """From windows, their targets and what a source with these native `levels` said of them, as `laid_out`."""
    scores = [
        scores_of(target, answer.point, answer.quantiles, answer.levels, batch.scale)
        for batch, target, answer in answers
    ]
    made = fitted(np.concatenate(scores, axis=1), levels) if scores else None
    return made if made is not None and made.num_scores else None


def measure(
    source: Source,
    windows: Windows,
    calibration: Calibration,
    scales: Scales,
    *,
    should_stop: Callable[[], str | None] = never_stop,
) -> dict[str, Any]:
    """What the calibrated intervals do on `windows`, pooled over observed targets.

    `coverage` per interval (a share; None where the scores do not resolve the level), `width` in MASE scales, `pinball`
    in MASE scales at the native levels (deciles for a point forecaster) with and without calibration; uncalibrated is
    what the source itself says, a point forecaster its point at every level.
    """
    own = source.levels or DECILES
    ends = [(0.5 - share / 200, 0.5 + share / 200) for share in INTERVALS]
    levels = (*own, *(end for pair in ends for end in pair))
    inside, width = np.zeros(len(INTERVALS)), np.zeros(len(INTERVALS))
    pinball, uncalibrated, count = 0.0, 0.0, 0
    chosen = np.arange(len(windows))
    if len(chosen) > MAX_MEASURED_WINDOWS:
        chosen = np.linspace(0, len(windows) - 1, MAX_MEASURED_WINDOWS).round().astype(np.int64)
    for batch, target, answer in _answers(source, windows, chosen, should_stop):
        spread = calibration.spread(answer.point, answer.quantiles, batch.scale, levels).quantiles
        native = np.repeat(answer.point[:, None], len(own), axis=1) if answer.quantiles is None else answer.quantiles
        observed = ~np.isnan(target)
        unit = scales.mase[batch.series, None]
        for i in range(len(INTERVALS)):
            low, high = spread[:, len(own) + 2 * i], spread[:, len(own) + 2 * i + 1]
            inside[i] += int(((low <= target) & (target <= high)).sum())
            width[i] += float(((high - low) / unit)[observed].sum())
        pinball += float((_pinball(target, spread[:, : len(own)], own) / unit)[observed].sum())
        uncalibrated += float((_pinball(target, native, own) / unit)[observed].sum())
        count += int(observed.sum())
    resolved = [calibration.resolves(high) for _, high in ends]
    named = [str(share) for share in INTERVALS]
    return {
        "coverage": {name: float(inside[i] / count) if resolved[i] and count else None for i, name in enumerate(named)},
        "width": {name: float(width[i] / count) if resolved[i] and count else None for i, name in enumerate(named)},
        "pinball": {"calibrated": pinball / count, "uncalibrated": uncalibrated / count} if count else None,
    }


def _answers(
    source: Source, windows: Windows, chosen: NDArray[np.int64], should_stop: Callable[[], str | None]
) -> Iterator[tuple[WindowBatch, Floats, Answer]]:
    """(windows, raw targets [B, H], the source's answer) batch by batch.

    Of gaps both are laid out by the distance from the nearer edge, which is the step then (tsfm.gaps): two rows for a
    window, of half as many columns.
    """
    for begin in range(0, len(chosen), BATCH_SIZE):
        if reason := should_stop():
            raise Cancelled(f"Stopped while calibrating: {reason}.", code=reason)
        indices = chosen[begin : begin + BATCH_SIZE]
        batch = windows.batch(indices)
        target, answer = windows.raw_target(indices), source(batch, windows.prediction_length)
        yield laid_out(batch, target, answer)


def laid_out(batch: WindowBatch, target: Floats, answer: Answer) -> tuple[WindowBatch, Floats, Answer]:
    """Step by step; of gaps by the distance from the nearer edge."""
    gap = batch.gap
    if gap is None:
        return batch, target, answer
    doubled = np.concatenate([np.arange(len(gap))] * 2)
    twice = replace(
        batch, series=batch.series[doubled], scale=batch.scale[doubled], loc=batch.loc[doubled], gap=gap[doubled]
    )
    laid_out = replace(
        answer,
        point=by_edge(answer.point, gap),
        quantiles=None if answer.quantiles is None else by_edge(answer.quantiles, gap),
    )
    return twice, by_edge(target, gap), laid_out


def _pinball(target: Floats, quantiles: Floats, levels: tuple[float, ...]) -> Floats:
    """[B, H] mean over levels of the pinball loss of `quantiles` [B, Q, H]."""
    gap = target[:, None, :] - quantiles
    level = np.asarray(levels)[None, :, None]
    loss: Floats = np.maximum(level * gap, (level - 1.0) * gap).mean(axis=1)
    return loss
