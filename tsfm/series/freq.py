"""Frequencies: what a step of a regular grid is, in calendar and clock terms.

Aliases are the ones of the field (pandas): "s", "15min", "h", "D", "B", "W-SUN", "MS", "ME", "QS", "QE", "YS", "YE",
with a count in front where the step is longer, and "1" for an integer index. Steps of a day and more are calendar
steps: with a time zone they follow its wall clock. Shorter steps are spans of physical time.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tsfm.errors import ConfigError
from tsfm.series import zones
from tsfm.series.frame import SeriesFrame

Micros = NDArray[np.int64]

DAY = 86_400_000_000


class Unit(StrEnum):
    INTEGER = "1"
    MICROSECOND = "us"
    MILLISECOND = "ms"
    SECOND = "s"
    MINUTE = "min"
    HOUR = "h"
    DAY = "D"
    BUSINESS_DAY = "B"
    WEEK = "W"
    MONTH_START = "MS"
    MONTH_END = "ME"
    QUARTER_START = "QS"
    QUARTER_END = "QE"
    YEAR_START = "YS"
    YEAR_END = "YE"


_SPAN = {
    Unit.MICROSECOND: 1,
    Unit.MILLISECOND: 1_000,
    Unit.SECOND: 1_000_000,
    Unit.MINUTE: 60_000_000,
    Unit.HOUR: 3_600_000_000,
    Unit.DAY: DAY,
    Unit.WEEK: 7 * DAY,
}
_MONTHS = {
    Unit.MONTH_START: 1,
    Unit.MONTH_END: 1,
    Unit.QUARTER_START: 3,
    Unit.QUARTER_END: 3,
    Unit.YEAR_START: 12,
    Unit.YEAR_END: 12,
}
_ENDS = frozenset({Unit.MONTH_END, Unit.QUARTER_END, Unit.YEAR_END})
_YEARS = {unit: span / (365 * DAY) for unit, span in _SPAN.items()}
_YEARS |= {unit: months / 12 for unit, months in _MONTHS.items()} | {Unit.BUSINESS_DAY: 1 / 260, Unit.INTEGER: 0.0}
LONGEST_YEARS = 1000
"""Longer steps would leave what a 64-bit count of microseconds can hold."""
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_SPELLINGS = {
    Unit.MICROSECOND: ("us", "U", "microsecond"),
    Unit.MILLISECOND: ("ms", "L", "millisecond"),
    Unit.SECOND: ("s", "S", "sec", "second", "secondly"),
    Unit.MINUTE: ("min", "T", "minute", "minutely"),
    Unit.HOUR: ("h", "H", "hour", "hourly"),
    Unit.DAY: ("D", "d", "day", "daily"),
    Unit.BUSINESS_DAY: ("B", "b", "business day"),
    Unit.WEEK: ("W", "w", "week", "weekly"),
    Unit.MONTH_START: ("MS", "month", "monthly"),
    Unit.MONTH_END: ("ME", "M"),
    Unit.QUARTER_START: ("QS", "quarter", "quarterly"),
    Unit.QUARTER_END: ("QE", "Q"),
    Unit.YEAR_START: ("YS", "AS", "year", "yearly", "annual"),
    Unit.YEAR_END: ("YE", "Y", "A", "AE"),
}
_BY_SPELLING = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings}
_ALIAS = re.compile(r"^\s*(\d{0,9})\s*([A-Za-z][A-Za-z ]*?)(?:-([A-Za-z]{3}))?\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency:
    """One step of a regular grid: `multiple` × `unit`."""

    unit: Unit
    multiple: int = 1
    weekday: int | None = None
    """Weeks only: the day they are dated by, Monday 0."""

    @property
    def alias(self) -> str:
        """Canonical spelling, e.g. "15min", "W-SUN"."""
        if self.unit is Unit.INTEGER:
            return "1"
        count = "" if self.multiple == 1 else str(self.multiple)
        anchor = "" if self.weekday is None else f"-{WEEKDAYS[self.weekday]}"
        return f"{count}{self.unit.value}{anchor}"

    @property
    def is_calendar(self) -> bool:
        """Whether steps follow the wall clock of the zone (a day and longer)."""
        return self.unit in _MONTHS or self.unit in {Unit.DAY, Unit.BUSINESS_DAY, Unit.WEEK}

    @property
    def season(self) -> int:
        """Season length m in steps (evaluation §2): 1 where none is usual."""
        whole = {
            Unit.SECOND: 60,
            Unit.MINUTE: 1440,
            Unit.HOUR: 24,
            Unit.DAY: 7,
            Unit.BUSINESS_DAY: 5,
            Unit.WEEK: 52,
            Unit.MONTH_START: 12,
            Unit.MONTH_END: 12,
            Unit.QUARTER_START: 4,
            Unit.QUARTER_END: 4,
        }.get(self.unit, 1)
        return whole // self.multiple if whole % self.multiple == 0 else 1

    @property
    def periods(self) -> tuple[int, ...]:
        """Every period, in steps, at which a seasonal naive rival is worth judging; the season first."""
        longer = {
            Unit.SECOND: 3600,
            Unit.MINUTE: 7 * 1440,
            Unit.HOUR: 168,
            Unit.DAY: 365,
        }.get(self.unit)
        if longer is None or longer % self.multiple or longer // self.multiple <= self.season:
            return (self.season,)
        return (self.season, longer // self.multiple)

    def ordinals(self, times: Micros) -> tuple[Micros, Micros]:
        """Place of each wall-clock time: (step count since a fixed zero, offset inside the step).

        Two times lie on one grid when their offsets are equal and their counts differ by a multiple of `stride`.
        """
        if self.unit is Unit.INTEGER:
            return times, np.zeros_like(times)
        if self.unit in _SPAN:
            span = _SPAN[self.unit] * self.multiple
            return np.floor_divide(times, span), np.mod(times, span)
        if self.unit is Unit.BUSINESS_DAY:
            days, inside = np.floor_divide(times, DAY), np.mod(times, DAY)
            # 1970-01-05 was a Monday; Saturday and Sunday lie off the grid.
            weeks, weekday = np.floor_divide(days - 4, 7), np.mod(days - 4, 7)
            return weeks * 5 + np.minimum(weekday, 4), inside + np.where(weekday > 4, DAY * (weekday - 3), 0)
        months = times.astype("datetime64[us]").astype("datetime64[M]")
        if self.unit in _ENDS:
            return months.astype(np.int64), _micros(months + 1) - times
        return months.astype(np.int64), times - _micros(months)

    @property
    def stride(self) -> int:
        """How far apart neighbours on the grid are in `ordinals`."""
        if self.unit in _MONTHS:
            return _MONTHS[self.unit] * self.multiple
        return self.multiple if self.unit in {Unit.BUSINESS_DAY, Unit.INTEGER} else 1

    def from_ordinals(self, counts: Micros, inside: Micros) -> Micros:
        """The inverse of `ordinals`; a day that a month does not have becomes its last."""
        if self.unit is Unit.INTEGER:
            return counts
        if self.unit in _SPAN:
            return counts * (_SPAN[self.unit] * self.multiple) + inside
        if self.unit is Unit.BUSINESS_DAY:
            return (np.floor_divide(counts, 5) * 7 + np.mod(counts, 5) + 4) * DAY + inside
        months = counts.astype("datetime64[M]")
        begin, end = _micros(months), _micros(months + 1)
        moved: Micros = (
            np.maximum(end - inside, begin)
            if self.unit in _ENDS
            else np.minimum(begin + inside, end - DAY + np.mod(inside, DAY))
        )
        return moved

    def timestamps(self, start: int, n: int, timezone: str | None = None, *, first: int = 0) -> Micros:
        """[n] times of the steps `first …` of a grid whose step 0 is at `start` (microseconds; UTC with a zone)."""
        steps = np.arange(first, first + n, dtype=np.int64)
        origin = np.array([start], dtype=np.int64)
        if self.unit is Unit.INTEGER:
            return start + steps * self.multiple
        if not self.is_calendar:
            return start + steps * (_SPAN[self.unit] * self.multiple)
        counts, inside = self.ordinals(zones.to_local(origin, timezone))
        wall = self.from_ordinals(counts + steps * self.stride, np.broadcast_to(inside, steps.shape))
        return zones.to_utc(wall, timezone).utc

    def future(self, start: int, length: int, n: int, timezone: str | None = None) -> Micros:
        """[n] times of the steps that follow a series of `length` points begun at `start`."""
        return self.timestamps(start, n, timezone, first=length)

    def local_ordinals(self, times: Micros, timezone: str | None) -> tuple[Micros, Micros]:
        """`ordinals` of UTC times of a zone: on its wall clock for calendar steps, in UTC for shorter ones."""
        return self.ordinals(zones.to_local(times, timezone) if self.is_calendar else times)


def parse(alias: str) -> Frequency:
    """The frequency an alias names, or `ConfigError` (param `freq`). Old spellings ("H", "T", "M") are understood."""
    if alias.strip() in {"1", "integer", "int"}:
        return Frequency(unit=Unit.INTEGER)
    match = _ALIAS.match(alias)
    unit = None if match is None else _BY_SPELLING.get(match.group(2)) or _BY_SPELLING.get(match.group(2).lower())
    if match is None or unit is None or (match.group(1) and int(match.group(1)) == 0):
        raise ConfigError(
            f"{alias!r} is not a frequency. Use for example 's', '15min', 'h', 'D', 'B', 'W-SUN', 'MS', 'ME', 'QS', "
            "'YS', or '1' for an integer index.",
            code="unknown_freq",
            param="freq",
        )
    multiple, anchor = int(match.group(1) or 1), (match.group(3) or "").upper()
    if multiple * _YEARS[unit] > LONGEST_YEARS:
        raise ConfigError(
            f"{alias!r}: a step is at most {LONGEST_YEARS} years long.", code="unknown_freq", param="freq"
        )
    if unit is Unit.WEEK:
        if anchor and anchor not in WEEKDAYS:
            raise ConfigError(f"{alias!r}: weeks are anchored on MON … SUN.", code="unknown_freq", param="freq")
        return Frequency(unit=unit, multiple=multiple, weekday=WEEKDAYS.index(anchor) if anchor else 6)
    return _normalised(unit, multiple)


def _normalised(unit: Unit, multiple: int) -> Frequency:
    """The same step in its largest unit: 60min is h, 24h is D, 3MS is QS."""
    larger = {
        Unit.MICROSECOND: (1000, Unit.MILLISECOND),
        Unit.MILLISECOND: (1000, Unit.SECOND),
        Unit.SECOND: (60, Unit.MINUTE),
        Unit.MINUTE: (60, Unit.HOUR),
        Unit.HOUR: (24, Unit.DAY),
        Unit.MONTH_START: (3, Unit.QUARTER_START),
        Unit.MONTH_END: (3, Unit.QUARTER_END),
        Unit.QUARTER_START: (4, Unit.YEAR_START),
        Unit.QUARTER_END: (4, Unit.YEAR_END),
    }
    while unit in larger and multiple % larger[unit][0] == 0:
        count, unit = larger[unit]
        multiple //= count
    return Frequency(unit=unit, multiple=multiple)


def from_span(span: int) -> Frequency:
    """The clock frequency of a step of `span` microseconds."""
    return _normalised(Unit.MICROSECOND, span)


def format_micros(times: Micros, timezone: str | None, *, integer: bool = False) -> list[str] | list[int]:
    """ISO 8601 strings (with the zone's offset where there is a zone); plain integers for an integer index."""
    if integer:
        return [int(t) for t in times]
    wall = zones.to_local(times, timezone)
    stamps = wall.astype("datetime64[us]")
    whole = not np.any(np.mod(wall, 1_000_000))
    texts: list[str] = np.datetime_as_string(stamps.astype("datetime64[s]") if whole else stamps).tolist()
    if timezone is None:
        return texts
    minutes = ((wall - times) // 60_000_000).tolist()
    return [text + _offset_text(m) for text, m in zip(texts, minutes, strict=True)]


def format_timestamps(frame: SeriesFrame, i: int, first_index: int, n: int) -> list[str] | list[int]:
    """Times of the steps `first_index …` of series `i`: ISO strings, or integers for an integer index."""
    freq = parse(frame.freq)
    times = freq.timestamps(int(frame.starts[i]), n, frame.timezone, first=first_index)
    return format_micros(times, frame.timezone, integer=freq.unit is Unit.INTEGER)


def _offset_text(minutes: int) -> str:
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def _micros(months: NDArray[np.datetime64]) -> Micros:
    return months.astype("datetime64[us]").astype(np.int64)
