"""Writes the answer straight from arrays: JSON by orjson, or CSV."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.anomalies.service import AnomalyResult
from app.forecasts.respond import cells, narrow, written
from tsfm.joint import Joint
from tsfm.scores import SeriesScores
from tsfm.series.freq import format_timestamps

COLUMNS = ("value", "expected", "lower", "upper", "score", "p_value", "severity")
"""Numbers of every point, in the order of the CSV."""
EVENT_GAP = 1
"""Alarms with at most so many quiet points between them are one event."""


def to_json(result: AnomalyResult) -> bytes:
    """The JSON answer; NaN (missing, or nothing can be said) becomes null."""
    found, frame, target = result.ran.value, result.frame, result.target
    skipped = sorted(set(range(len(frame))) - {one.index for one in found.series})
    answer = {
        "object": "anomalies",
        "model": target.model,
        "version": target.version,
        "digest": target.digest,
        "level": found.level,
        "scoring": found.scoring,
        "prediction_length": found.prediction_length,
        "calibrated": found.calibrated,
        "extrapolated": found.extrapolated,
        "null": {"source": "calibration" if found.calibrated else "history", "num_scores": found.num_scores},
        "drift": found.drift,
        "series": [_series(result, one) for one in found.series],
        "system": None if found.together is None else _system(result, found.together),
        "skipped": [frame.item_ids[i] for i in skipped],
        "notes": result.notes,
        "timing_ms": result.ran.timing_ms(),
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _series(result: AnomalyResult, one: SeriesScores) -> dict[str, Any]:
    source = result.target.source
    times = format_timestamps(result.frame, one.index, one.first, len(one.values))
    return {
        "item_id": result.frame.item_ids[one.index],
        "timestamps": times,
        **_numbers(one),
        "is_anomaly": one.is_anomaly,
        "in_sample": one.in_sample,
        "num_anomalies": int(one.is_anomaly.sum()),
        "events": _events(times, one.is_anomaly, one.scores, one.severity),
        "version": source.version,
        "digest": source.digest,
        "fallback": result.target.fallback,
    }


def _numbers(one: SeriesScores) -> dict[str, NDArray[Any]]:
    """Values as they came; the rest in 32 bits where nothing is lost by it."""
    expected, lower, upper = narrow(np.stack([one.expected, one.lower, one.upper]), one.values)
    return {
        "value": one.values,
        "expected": expected,
        "lower": lower,
        "upper": upper,
        "score": one.scores.astype(np.float32),
        "p_value": one.p_values,
        "severity": _finite(one.severity),
    }


def _system(result: AnomalyResult, joint: Joint) -> dict[str, Any]:
    first = result.ran.value.series[0]
    times = format_timestamps(result.frame, first.index, joint.first, len(joint.scores))
    is_anomaly = np.nan_to_num(joint.scores) > 1.0
    return {
        "timestamps": times,
        "score": joint.scores.astype(np.float32),
        "p_value": joint.p_values,
        "severity": _finite(joint.severity),
        "is_anomaly": is_anomaly,
        "contributions": {name: joint.contributions[i].astype(np.float32) for i, name in enumerate(joint.names)},
        "num_anomalies": int(is_anomaly.sum()),
        "events": _events(times, is_anomaly, joint.scores, joint.severity),
        "num_scores": joint.num_scores,
        "calibrated": joint.calibrated,
        "extrapolated": joint.extrapolated,
    }


def _finite(severity: NDArray[np.float64]) -> NDArray[np.float32]:
    """JSON has no infinity: what is off where nothing may be has the largest number there is."""
    most = np.finfo(np.float32).max
    return np.minimum(severity, most).astype(np.float32)


def _events(
    times: list[str] | list[int],
    is_anomaly: NDArray[np.bool_],
    scores: NDArray[np.float64],
    severity: NDArray[np.float64],
) -> list[dict[str, Any]]:
    """Runs of alarms with their peaks."""
    at = np.flatnonzero(is_anomaly)
    if not len(at):
        return []
    runs = np.split(at, np.flatnonzero(np.diff(at) > EVENT_GAP + 1) + 1)
    most = float(np.finfo(np.float32).max)
    return [
        {
            "start": times[run[0]],
            "end": times[run[-1]],
            "points": len(run),
            "peak_score": float(scores[run].max()),
            "peak_severity": min(float(severity[run].max()), most),
        }
        for run in runs
    ]


def to_csv(result: AnomalyResult) -> bytes:
    """One row a point: item_id, timestamp, `COLUMNS`, is_anomaly, in_sample; empty where unknown."""
    header = ["item_id", "timestamp", *COLUMNS, "is_anomaly", "in_sample"]
    return written(header, (row for one in result.ran.value.series for row in _rows(result, one)))


def _rows(result: AnomalyResult, one: SeriesScores) -> Iterator[tuple[Any, ...]]:
    numbers = _numbers(one)
    times = format_timestamps(result.frame, one.index, one.first, len(one.values))
    flags = ([str(bool(flag)).lower() for flag in flags] for flags in (one.is_anomaly, one.in_sample))
    item_id = [result.frame.item_ids[one.index]] * len(times)
    return zip(item_id, times, *(cells(numbers[name]) for name in COLUMNS), *flags, strict=True)
