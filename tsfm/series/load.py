"""From the canonical Parquet, or from series given inline, to a `SeriesFrame` on a regular grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm.errors import DataError
from tsfm.series import duck, zones
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame

LARGEST = 1e100
"""Values beyond this are refused: their squares would leave float64."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineSeries:
    """One series of a request body."""

    item_id: str
    target: Sequence[float | None]
    start: str | int | None = None
    """ISO 8601 time of the first point; an integer (or nothing) for an integer index."""
    freq: str | None = None
    """Alias; needed where `start` is a time."""


def load_frame(parquet: Path, reading: Mapping[str, Any], *, last: int | None = None) -> SeriesFrame:
    """The frame of a file that `read_file` wrote; steps the file does not hold become NaN.

    With `last`, only that many points from the end of each series are held in memory.
    """
    con = duck.connect(directories=[parquet.parent])
    try:
        file = duck.quote(str(parquet.resolve()))
        source = f"read_parquet({file})" if last is None else _ends_of_series(file, last)
        items = con.execute(f"SELECT item_id, count(*) FROM {source} GROUP BY item_id ORDER BY item_id").fetchall()
        stamp = '"timestamp"' if reading["freq"] == "1" else 'epoch_us("timestamp")'
        order = "" if last is None else " ORDER BY file_row_number"
        points = duck.columns(con, f"SELECT {stamp} AS t, target AS y FROM {source}{order}")
    finally:
        con.close()
    counts = np.array([n for _, n in items], dtype=np.int64)
    return on_grid(
        [str(name) for name, _ in items],
        counts,
        points["t"].astype(np.int64),
        points["y"].astype(np.float64),
        freq=str(reading["freq"]),
        timezone=reading["timezone"],
    )


def _ends_of_series(file: str, last: int) -> str:
    """The last rows of each series; the file is sorted by series and time."""
    rows = f"read_parquet({file}, file_row_number = true)"
    ends = f"(SELECT item_id, max(file_row_number) AS place FROM {rows} GROUP BY item_id)"
    return f"(SELECT p.* FROM {rows} p JOIN {ends} e USING (item_id) WHERE p.file_row_number > e.place - {last})"


def on_grid(
    item_ids: Sequence[str],
    counts: NDArray[np.int64],
    times: NDArray[np.int64],
    values: NDArray[np.float64],
    *,
    freq: str,
    timezone: str | None,
) -> SeriesFrame:
    """Sorted points (series after series, `counts` each) laid on their grids; times must lie on them."""
    frequency = frequencies.parse(freq)
    begins = np.cumsum(counts) - counts
    ordinals, _ = frequency.local_ordinals(times, timezone)
    steps = (ordinals - np.repeat(ordinals[begins], counts)) // frequency.stride
    lengths = steps[begins + counts - 1] + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    grid = np.full(int(offsets[-1]), np.nan)
    grid[np.repeat(offsets[:-1], counts) + steps] = values
    return SeriesFrame(
        item_ids=tuple(item_ids),
        values=grid,
        offsets=offsets,
        starts=times[begins],
        freq=frequency.alias,
        timezone=timezone,
    )


def frame_from_inline(
    items: Sequence[InlineSeries], *, freq: str | None = None, timezone: str | None = None
) -> SeriesFrame:
    """The frame of a request's `series`. `freq` and `timezone` hold for items that do not say their own.

    A start written with an offset is kept as that moment; without one it is on `timezone`'s clock. `DataError` names
    the item (`param` is its path, e.g. "series.0.target").
    """
    if not items:
        raise DataError("No series was given.", code="no_series", param="series")
    _check_names(items)
    frequency = _one_frequency(items, freq)
    zone = None if frequency.unit is frequencies.Unit.INTEGER else _one_zone(items, timezone)
    starts = [_start(item, i, frequency, zone) for i, item in enumerate(items)]
    parts = [_values(item, i) for i, item in enumerate(items)]
    return SeriesFrame(
        item_ids=tuple(item.item_id for item in items),
        values=np.concatenate(parts),
        offsets=np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64),
        starts=np.array(starts, dtype=np.int64),
        freq=frequency.alias,
        timezone=zone,
    )


def _check_names(items: Sequence[InlineSeries]) -> None:
    seen: set[str] = set()
    for i, item in enumerate(items):
        if item.item_id in seen:
            raise DataError(
                f"item_id {item.item_id!r} appears twice.", code="duplicate_item_id", param=f"series.{i}.item_id"
            )
        seen.add(item.item_id)


def _one_frequency(items: Sequence[InlineSeries], freq: str | None) -> frequencies.Frequency:
    named = [(i, item.freq or freq) for i, item in enumerate(items)]
    aliases = {frequencies.parse(alias).alias for _, alias in named if alias is not None}
    if len(aliases) > 1:
        raise DataError(
            f"All series of a request share one freq; these differ: {', '.join(sorted(aliases))}. Ask once for each.",
            code="mixed_freq",
            param="freq",
        )
    if aliases:
        return frequencies.parse(aliases.pop())
    for i, item in enumerate(items):
        if isinstance(item.start, str):
            raise DataError(
                f"Series {item.item_id!r} starts at {item.start!r} but says no freq (for example 'h', 'D', 'MS').",
                code="freq_required",
                param=f"series.{i}.freq",
            )
    return frequencies.parse("1")


def _one_zone(items: Sequence[InlineSeries], timezone: str | None) -> str | None:
    if timezone is not None:
        return zones.canonical(timezone)
    found = {_offset(item, i) for i, item in enumerate(items)}
    if len(found) <= 1:
        return found.pop()
    if None in found:
        raise DataError(
            "Some starts carry an offset from UTC and some do not: write all alike, or give `timezone`.",
            code="mixed_timezones",
            param="timezone",
        )
    return "UTC"


def _offset(item: InlineSeries, i: int) -> str | None:
    shift = _moment(item, i).utcoffset()
    if shift is None:
        return None
    minutes = shift // timedelta(minutes=1)
    return zones.canonical(f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}")


def _moment(item: InlineSeries, i: int) -> datetime:
    if isinstance(item.start, str):
        try:
            return datetime.fromisoformat(item.start.strip())
        except ValueError:
            pass
    raise DataError(
        f"Series {item.item_id!r}: start {item.start!r} is not an ISO 8601 time such as '2026-01-31T00:00:00'"
        " (an integer, or none, only goes with freq '1').",
        code="invalid_timestamp",
        param=f"series.{i}.start",
    )


def _start(item: InlineSeries, i: int, frequency: frequencies.Frequency, zone: str | None) -> int:
    if frequency.unit is frequencies.Unit.INTEGER:
        if item.start is None or isinstance(item.start, int):
            return item.start or 0
        raise DataError(
            f"Series {item.item_id!r}: freq '1' is an integer index, so start must be an integer, not {item.start!r}.",
            code="invalid_timestamp",
            param=f"series.{i}.start",
        )
    moment = _moment(item, i)
    if frequency.unit is frequencies.Unit.BUSINESS_DAY and moment.weekday() > 4:
        raise DataError(
            f"Series {item.item_id!r} starts on a {moment:%A}, but freq 'B' has business days only: correct the start, "
            "or say freq 'D'.",
            code="invalid_timestamp",
            param=f"series.{i}.start",
        )
    if moment.tzinfo is not None:
        return (moment - _EPOCH) // timedelta(microseconds=1)
    wall = np.array([(moment.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)], dtype=np.int64)
    return int(zones.to_utc(wall, zone).utc[0])


def _values(item: InlineSeries, i: int) -> NDArray[np.float64]:
    values = np.array(item.target, dtype=np.float64)
    wild = np.flatnonzero(np.abs(values) > LARGEST)
    if not len(values) or len(wild):
        reason = (
            f"the value at index {wild[0]} is infinite or beyond 1e100; send null for a missing point"
            if len(wild)
            else "target is empty"
        )
        raise DataError(f"Series {item.item_id!r}: {reason}.", code="invalid_values", param=f"series.{i}.target")
    return values
