"""Writes the answer straight from arrays: JSON by orjson, or CSV."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.forecasts.respond import cells, narrow, written
from app.imputations.service import ImputationResult
from tsfm.filled import Gap
from tsfm.series.freq import format_timestamps


def to_json(result: ImputationResult) -> bytes:
    """The JSON answer; NaN (still missing, or observed where a bound would stand) becomes null."""
    filled, frame, target = result.ran.value, result.frame, result.target
    gaps: dict[int, list[Gap]] = {}
    for gap in filled.gaps:
        gaps.setdefault(gap.series, []).append(gap)
    missing = np.isnan(filled.values)
    answer = {
        "object": "imputations",
        "model": target.model,
        "version": target.version,
        "digest": target.digest,
        "calibrated": filled.calibrated,
        "num_imputed": int((np.isnan(frame.values) & ~missing).sum()),
        "num_left": int(missing.sum()),
        "series": [_series(result, i, gaps.get(i, [])) for i in range(len(frame))],
        "notes": result.notes,
        "timing_ms": result.ran.timing_ms(),
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _series(result: ImputationResult, i: int, gaps: list[Gap]) -> dict[str, Any]:
    frame, levels, source = result.frame, result.levels, result.target.source
    times = format_timestamps(frame, i, 0, int(frame.lengths[i]))
    values, bounds = _numbers(result, i)
    row = {unit: k for k, unit in enumerate(levels.units)}
    known = bounds is not None
    return {
        "item_id": frame.item_ids[i],
        "timestamps": times,
        "values": values,
        "imputed": _imputed(result, i),
        "quantiles": {label: bounds[row[unit]] for label, unit in levels.quantiles} if bounds is not None else {},
        "intervals": {one.label: {"lo": bounds[row[one.lo]], "hi": bounds[row[one.hi]]} for one in levels.intervals}
        if known and bounds is not None
        else {},
        "gaps": [
            {
                "start": times[gap.first],
                "end": times[gap.first + gap.length - 1],
                "points": gap.length,
                "filled": gap.filled,
                "one_sided": gap.one_sided,
                "calibrated": gap.calibrated,
            }
            for gap in gaps
        ],
        "version": source.version,
        "digest": source.digest,
        "fallback": result.target.fallback,
    }


def _numbers(result: ImputationResult, i: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """([n] values, [Q, n] quantiles or None): filled ones in 32 bits where nothing is lost by it."""
    filled = result.ran.value
    at = slice(int(result.frame.offsets[i]), int(result.frame.offsets[i + 1]))
    values = filled.values[at].copy()
    imputed = _imputed(result, i)
    values[imputed] = narrow(values[imputed], result.frame.values[at]).astype(np.float64)
    return values, None if filled.quantiles is None else narrow(filled.quantiles[:, at], result.frame.values[at])


def _imputed(result: ImputationResult, i: int) -> NDArray[np.bool_]:
    at = slice(int(result.frame.offsets[i]), int(result.frame.offsets[i + 1]))
    found: NDArray[np.bool_] = np.isnan(result.frame.values[at]) & ~np.isnan(result.ran.value.values[at])
    return found


def to_csv(result: ImputationResult) -> bytes:
    """One row a point: item_id, timestamp, value, imputed, then the quantiles and bounds of what was filled."""
    levels = result.levels
    row = {unit: k for k, unit in enumerate(levels.units)}
    columns = [(label, row[unit]) for label, unit in levels.quantiles]
    for one in levels.intervals:
        columns += [(f"lo-{one.label}", row[one.lo]), (f"hi-{one.label}", row[one.hi])]
    if result.ran.value.quantiles is None:
        columns = []
    header = ["item_id", "timestamp", "value", "imputed", *(label for label, _ in columns)]
    shown = [k for _, k in columns]
    return written(header, (row for i in range(len(result.frame)) for row in _rows(result, i, shown)))


def _rows(result: ImputationResult, i: int, columns: list[int]) -> Iterator[tuple[Any, ...]]:
    values, bounds = _numbers(result, i)
    times = format_timestamps(result.frame, i, 0, len(values))
    flags = [str(bool(flag)).lower() for flag in _imputed(result, i)]
    shown = [cells(bounds[k]) for k in columns] if bounds is not None else []
    return zip([result.frame.item_ids[i]] * len(times), times, cells(values), flags, *shown, strict=True)
