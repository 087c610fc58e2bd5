"""`series` and `freq` as the client sends them → a frame, and what horizon goes with a frequency."""

import re
from dataclasses import dataclass

from fastapi import Request

from app.errors import ApiError
from app.faces.nixtla.schemas import SeriesIn
from app.forecasts.parse import InlineHistory, check_num_series
from tsfm.series import freq as frequencies
from tsfm.series.load import InlineSeries, frame_from_inline
from tsfm.setting import LONGEST_BLOCK, SHORTEST_BLOCK

NOMINAL_START = "2001-01-01T00:00:00"
"""A Monday and the first day of a year. Clients before 0.9.0 send no times, and no answer holds any."""
INTEGER_INDEX = "1"
_PATTERN = re.compile(r"^\s*(\d*)\s*([A-Za-z]+)((?:-.*)?)$")
_SAME_SEASON = {
    # pandas: business months, quarters and years, and days of an own calendar
    "C": "B", "BMS": "MS", "CBMS": "MS", "BME": "ME", "BM": "ME", "CBME": "ME", "CBM": "ME",
    "BQS": "QS", "BQE": "QE", "BQ": "QE", "BYS": "YS", "BAS": "YS", "BYE": "YE", "BY": "YE", "BA": "YE",
    # polars; the client has made "MS" of its "mo"
    "m": "min", "q": "QS", "y": "YS",
}  # fmt: skip
"""Spelling → the frequency with as many steps a season: the place of each step on a calendar changes no number."""
_NO_SEASON = frozenset({"bh", "BH", "cbh", "CBH", "SMS", "SME", "SM", "WOM", "LWOM", "RE", "REQ", "ns", "N"})
"""Steps that no usual season is known of."""
_WITH_START_DATETIME = (0, 9)
"""The first client that sends times where there are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What `freq` means here."""

    freq: str
    """Our alias; `INTEGER_INDEX` where no season is known."""
    keeps_times: bool = True
    """Whether times that are sent lie on this grid; else they begin at `NOMINAL_START`."""
    notes: tuple[str, ...] = ()


def clock_of(freq: str, *, client_version: tuple[int, ...], has_times: bool) -> Clock:
    """The alias for a `freq` of pandas, polars or the client's own. `ConfigError` where it is none.

    The client says "MS" of integer times, too; from 0.9.0 on it can be told, since only those come without times.
    """
    if freq == "MS" and not has_times and client_version >= _WITH_START_DATETIME:
        return Clock(freq=INTEGER_INDEX)
    found = _PATTERN.match(freq)
    if found is None:
        return Clock(freq=frequencies.parse(freq).alias)
    count, unit, anchor = found.groups()
    if unit in _NO_SEASON:
        note = f"No season is known of freq {freq!r}: the series are taken as numbered points."
        return Clock(freq=INTEGER_INDEX, notes=(note,))
    plain = _SAME_SEASON.get(unit, unit)
    is_week = plain in ("W", "w")
    alias = frequencies.parse(f"{count}{plain}{anchor if is_week else ''}").alias
    return Clock(freq=alias, keeps_times=plain == unit)


def client_version(request: Request) -> tuple[int, ...]:
    """(major, minor) that the client says it has; () of those before 0.8.0, which say nothing."""
    numbers = re.match(r"(\d{1,6})\.(\d{1,6})", request.headers.get("nixtla-client-version", ""))
    return tuple(int(number) for number in numbers.groups()) if numbers else ()


def history_of(sent: SeriesIn, clock: Clock, *, max_series: int) -> InlineHistory:
    """The series, by their places: the wire has no names. 422 where sizes and values do not fit each other."""
    check_num_series(len(sent.sizes), max_series)
    if sum(sent.sizes) != len(sent.y):
        message = f"series.sizes add up to {sum(sent.sizes):,}, but series.y holds {len(sent.y):,} values."
        raise ApiError(422, "invalid_request", message, param="series.sizes")
    starts = _starts(sent, clock)
    items, begin = [], 0
    for i, size in enumerate(sent.sizes):
        values = sent.y[begin : begin + size]
        items.append(InlineSeries(item_id=item_id(i), target=values, start=starts[i], freq=clock.freq))
        begin += size
    return InlineHistory(frame=frame_from_inline(items), num_covariates=sent.num_features)


def item_id(place: int) -> str:
    """A name no file gives: a model that sends series by name to different sources knows nothing of these."""
    return f"nixtla#{place}"


def _starts(sent: SeriesIn, clock: Clock) -> list[str | None]:
    if clock.freq == INTEGER_INDEX:
        return [None] * len(sent.sizes)
    if sent.start_datetime is None or not clock.keeps_times:
        return [NOMINAL_START] * len(sent.sizes)
    if len(sent.start_datetime) != len(sent.sizes):
        message = f"series.start_datetime has {len(sent.start_datetime)} times for {len(sent.sizes)} series."
        raise ApiError(422, "invalid_request", message, param="series.start_datetime")
    return [*sent.start_datetime]


def usual_horizon(freq: str) -> int:
    """Steps that go with a frequency where nobody says how many: one season, from 12 to 96."""
    return min(max(frequencies.parse(freq).season, SHORTEST_BLOCK), LONGEST_BLOCK)
