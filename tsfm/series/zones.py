"""Time zones as arithmetic on microseconds: UTC to wall clock and back, whole arrays at once.

A zone is an IANA name ("Europe/Berlin") or a fixed offset ("+02:00"). The switches of a zone are found once per year
by probing `zoneinfo`, after which every conversion is a table look-up.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from tsfm.errors import ConfigError

Micros = NDArray[np.int64]

_SECOND = 1_000_000
_PROBE = 7 * 86_400
_OFFSET = re.compile(r"^(?:UTC|GMT)?([+-])(\d{1,2}):?(\d{2})?$")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class WallClock:
    """Wall-clock times of a zone turned into UTC, with the hours that no clock or two clocks show."""

    utc: Micros
    missing: NDArray[np.bool_]
    """True where the clock was put forward over that time; `utc` holds it moved forward by the jump."""
    repeated: NDArray[np.bool_]
    """True where the clock shows that time twice; `utc` holds the first."""


def canonical(zone: str) -> str:
    """The zone's canonical spelling, or `ConfigError` (param `timezone`)."""
    name = zone.strip()
    if name in {"Z", "UTC", "utc", "GMT", "Etc/UTC"}:
        return "UTC"
    match = _OFFSET.match(name)
    if match:
        sign, hours, minutes = match.group(1), int(match.group(2)), int(match.group(3) or 0)
        if hours <= 15 and minutes < 60:
            return "UTC" if hours == minutes == 0 else f"{sign}{hours:02d}:{minutes:02d}"
    elif re.fullmatch(r"[A-Za-z][A-Za-z0-9_+\-/]*", name):
        try:
            return ZoneInfo(name).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    raise ConfigError(
        f"There is no time zone named {zone!r}: use an IANA name such as 'Europe/Berlin', or an offset ('+02:00').",
        code="unknown_timezone",
        param="timezone",
    )


def to_local(utc: Micros, zone: str | None) -> Micros:
    """Wall-clock microseconds of UTC ones; unchanged where there is no zone."""
    if zone is None or zone == "UTC" or not len(utc):
        return utc
    if zone[0] in "+-":
        return utc + _fixed_offset(zone)
    starts, offsets = _segments(zone, int(utc.min()), int(utc.max()))
    return utc + offsets[np.searchsorted(starts, utc, side="right") - 1]


def to_utc(wall: Micros, zone: str | None) -> WallClock:
    """UTC microseconds of wall-clock ones; unchanged where there is no zone."""
    none = np.zeros(len(wall), dtype=np.bool_)
    if zone is None or zone == "UTC" or not len(wall):
        return WallClock(utc=wall, missing=none, repeated=none)
    if zone[0] in "+-":
        return WallClock(utc=wall - _fixed_offset(zone), missing=none, repeated=none)
    starts, offsets = _segments(zone, int(wall.min()), int(wall.max()))
    # Segment i shows the wall clock from starts[i] + offsets[i]; a wall time belongs to the last one begun.
    index = np.searchsorted(starts[1:] + offsets[1:], wall, side="right")
    before = np.maximum(index - 1, 0)
    repeated = (index > 0) & (wall < starts[index] + offsets[before])
    after = np.append(starts[1:], np.iinfo(np.int64).max // 2)[index]
    missing = wall >= after + offsets[index]
    return WallClock(utc=wall - offsets[np.where(repeated, before, index)], missing=missing, repeated=repeated)


def _fixed_offset(zone: str) -> int:
    sign = -1 if zone[0] == "-" else 1
    return sign * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60) * _SECOND


def _segments(zone: str, low: int, high: int) -> tuple[Micros, Micros]:
    """Starts (UTC) and offsets of the spans of equal offset that cover [low, high] with two years to spare."""
    first = min(max(_year(low) - 1, 2), 9997)
    last = min(max(_year(high) + 1, first), 9998)
    starts = [np.iinfo(np.int64).min // 2]
    offsets = [_probe(ZoneInfo(zone), int((datetime(first, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds()))]
    for year in range(first, last + 1):
        for second, offset in _switches(zone, year):
            starts.append(second * _SECOND)
            offsets.append(offset)
    return np.array(starts, dtype=np.int64), np.array(offsets, dtype=np.int64) * _SECOND


def _year(micros: int) -> int:
    return int(np.datetime64(micros, "us").astype("datetime64[Y]").astype(np.int64)) + 1970


@lru_cache(maxsize=4096)
def _switches(zone: str, year: int) -> tuple[tuple[int, int], ...]:
    """(UTC second, new offset in seconds) of every switch in that year."""
    info = ZoneInfo(zone)
    low = int((datetime(year, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())
    end = int((datetime(year + 1, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())
    found = []
    before = _probe(info, low)
    while low < end:
        high = min(low + _PROBE, end)
        after = _probe(info, high)
        if after != before:
            left, right = low, high
            while right - left > 1:
                middle = (left + right) // 2
                left, right = (middle, right) if _probe(info, middle) == before else (left, middle)
            found.append((right, after))
        low, before = high, after
    return tuple(found)


def _probe(info: ZoneInfo, second: int) -> int:
    offset = (_EPOCH + timedelta(seconds=second)).astimezone(info).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One change of a zone's clock."""

    boundary: int
    """Wall-clock microseconds from which `after` holds; before it `before` does, repeated hours read as the first."""
    before: int
    after: int
    """Microseconds ahead of UTC."""

    @property
    def span(self) -> tuple[int, int]:
        """Wall-clock times [from, to) that no clock showed (clock put forward) or that were shown twice."""
        return self.boundary - abs(self.after - self.before), self.boundary

    @property
    def repeats(self) -> bool:
        """Whether the span was shown twice."""
        return self.after < self.before


def switches(zone: str, low: int, high: int) -> list[Switch]:
    """The switches around wall-clock times in [low, high]; none for a fixed offset."""
    if zone == "UTC" or zone[0] in "+-":
        return []
    starts, offsets = _segments(zone, low, high)
    return [
        Switch(boundary=int(start) + max(int(before), int(after)), before=int(before), after=int(after))
        for start, before, after in zip(starts[1:], offsets, offsets[1:], strict=False)
        if before != after
    ]
