"""Writes the answer straight from arrays: JSON by orjson (32-bit numbers where they lose nothing), or CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.forecasts.levels import Levels
from app.registry.directory import Target
from tsfm.series.frame import SeriesFrame
from tsfm.series.freq import format_timestamps

ROWS_AT_ONCE = 5_000
_LOSS = 1e-4
"""Largest rounding to 32 bits, as a share of the history's range, that is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """S series, H steps, Q levels: what the engine computed for one request."""

    point: NDArray[np.float64]
    """[S, H]"""
    quantiles: NDArray[np.float64]
    """[S, Q, H] at the ascending levels of the request's `Levels.units`."""
    point_kind: str
    calibrated: bool
    """Whether every asked level was set by held-out history."""
    uncalibrated_levels: tuple[float, ...]
    """Those that were not."""
    notes: tuple[str, ...]
    sent: list[str] | None
    """[S] where each series was sent by the version's routes: tuned, zero_shot or a rival; None without routes."""
    queue_seconds: float
    load_seconds: float
    compute_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastResult:
    target: Target
    frame: SeriesFrame
    levels: Levels
    """Those that were answered: the asked ones, or the defaults where they could be had."""
    numbers: Numbers

    @property
    def num_values(self) -> int:
        """How many numbers the answer holds."""
        return self.numbers.point.size + self.numbers.quantiles.size


def to_json(result: ForecastResult) -> bytes:
    """The JSON answer; NaN (nothing can be said) becomes null."""
    target, frame, levels, numbers = result.target, result.frame, result.levels, result.numbers
    point, quantiles = slim(frame, numbers.point, numbers.quantiles)
    row = {unit: i for i, unit in enumerate(levels.units)}
    served = _served(target, numbers.sent, len(frame))
    answer = {
        "object": "forecast",
        "model": target.model,
        "version": target.version,
        "digest": target.digest,
        "calibrated": numbers.calibrated,
        "uncalibrated_levels": numbers.uncalibrated_levels,
        "point": numbers.point_kind,
        "forecasts": [
            {
                "item_id": item_id,
                "timestamps": times,
                "mean": point[i],
                "quantiles": {label: quantiles[i, row[unit]] for label, unit in levels.quantiles},
                "intervals": {
                    one.label: {"lo": quantiles[i, row[one.lo]], "hi": quantiles[i, row[one.hi]]}
                    for one in levels.intervals
                },
                **served[i],
            }
            for i, (item_id, times) in enumerate(zip(frame.item_ids, _timestamps(frame, point.shape[1]), strict=True))
        ],
        "notes": numbers.notes,
        "timing_ms": {
            "queue": round(numbers.queue_seconds * 1e3, 3),
            "load": round(numbers.load_seconds * 1e3, 3),
            "compute": round(numbers.compute_seconds * 1e3, 3),
        },
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _served(target: Target, sent: list[str] | None, num_series: int) -> list[dict[str, Any]]:
    """[S] version, digest and fallback of what answered for each series."""
    shown = {"version": target.source.version, "digest": target.source.digest, "fallback": target.fallback}
    if sent is None:
        return [shown] * num_series
    by_source: dict[str, dict[str, Any]] = {}
    for name in set(sent):
        digest = target.source.backbone_digest if name == "zero_shot" else None
        by_source[name] = shown if name == "tuned" else {"version": None, "digest": digest, "fallback": name}
    return [by_source[name] for name in sent]


def to_csv(result: ForecastResult) -> bytes:
    """Columns item_id, timestamp, mean, one per quantile ("0.1"), lo-80 and hi-80 per interval; empty where unknown."""
    frame, levels, numbers = result.frame, result.levels, result.numbers
    point, quantiles = slim(frame, numbers.point, numbers.quantiles)
    row = {unit: i for i, unit in enumerate(levels.units)}
    columns = list(levels.quantiles)
    for one in levels.intervals:
        columns += [(f"lo-{one.label}", one.lo), (f"hi-{one.label}", one.hi)]

    def rows() -> Iterator[Sequence[Any]]:
        for i, (item_id, times) in enumerate(zip(frame.item_ids, _timestamps(frame, point.shape[1]), strict=True)):
            series = [point[i], *(quantiles[i, row[unit]] for _, unit in columns)]
            yield from zip([item_id] * len(times), times, *map(cells, series), strict=True)

    return written(["item_id", "timestamp", "mean", *(label for label, _ in columns)], rows())


def written(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A CSV file. It is written in portions: one call for a million rows would keep every other thread waiting, the
    event loop's too."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    left = iter(rows)
    while portion := list(islice(left, ROWS_AT_ONCE)):
        writer.writerows(portion)
    return out.getvalue().encode()


def cells(values: NDArray[Any]) -> list[str]:
    """The shortest decimals that read back as the same numbers; NaN is an empty cell."""
    return ["" if value != value else str(value) for value in values]


def narrow(numbers: NDArray[np.float64], history: NDArray[np.float64]) -> NDArray[Any]:
    """`numbers` in 32 bits if none of them loses by it, measured by the range of `history`; else as they are."""
    with np.errstate(over="ignore", invalid="ignore"):
        slim = numbers.astype(np.float32)
        loss = np.fmax.reduce(np.abs(slim - numbers), axis=None, initial=0.0)
    spread = np.fmax.reduce(history, initial=-np.inf) - np.fmin.reduce(history, initial=np.inf)
    return numbers if loss > _LOSS * spread else slim


def _timestamps(frame: SeriesFrame, prediction_length: int) -> list[list[str] | list[int]]:
    """Times of the steps after each series' end; series on one clock share the list."""
    known: dict[tuple[int, int], list[str] | list[int]] = {}
    out = []
    for i, (start, length) in enumerate(zip(frame.starts.tolist(), frame.lengths.tolist(), strict=True)):
        if (start, length) not in known:
            known[start, length] = format_timestamps(frame, i, length, prediction_length)
        out.append(known[start, length])
    return out


def slim(
    frame: SeriesFrame, point: NDArray[np.float64], quantiles: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both in 32 bits if no series loses by it (half the bytes), else as they are: 1e12 ± 1 needs 64."""
    every = np.concatenate([point[:, None], quantiles], axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = every.astype(np.float32)
        loss = np.fmax.reduce(np.abs(narrow - every), axis=(1, 2))
    begins = frame.offsets[:-1]
    spread = np.fmax.reduceat(frame.values, begins) - np.fmin.reduceat(frame.values, begins)
    if np.any(loss > _LOSS * spread):  # no comparison holds for NaN: a series without values loses nothing
        return point, quantiles
    return narrow[:, 0], narrow[:, 1:]
