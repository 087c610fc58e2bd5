"""Which column (or pair of columns) holds the time, and how it is written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tsfm.errors import ConfigError, DataError
from tsfm.series import dialect as dialects
from tsfm.series import duck, stamps
from tsfm.series.columns import Column, Kind
from tsfm.series.options import ReadOptions
from tsfm.series.problems import refusal
from tsfm.series.stamps import StampFormat
from tsfm.series.table import Table

_STRICT_NAMES = frozenset({"ds", "date", "datetime", "timestamp", "time"})
_TICKS = 1000
_SCALES = (1.0, 1e3, 1e6, 1e9)
_CENTURY = (978_307_200.0, 4_102_444_800.0)
"""Seconds since 1970 from 2001 to 2100."""
_YEAR = re.compile(r"(?<!\d)(19|20)\d{2}(?!\d)")
_CLOCK_NAMES = frozenset({"time", "hour", "hr", "timeofday", "interval"})
_PERIOD_NAMES = frozenset({"week", "weeknumber", "weekno", "isoweek", "quarter", "qtr"})
_PARTS = ("year", "month", "day", "hour", "minute")
_PART_PATTERNS = ("%Y", "%m", "%d", "%H", "%M")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeColumn:
    """Columns whose texts, joined by a space, are times."""

    columns: tuple[int, ...]
    """Empty where the file has no time column: rows are counted."""
    format: StampFormat
    fixed_orders: tuple[str, ...] = ()

    def text_sql(self) -> str:
        """The joined text, NULL where a part is missing."""
        return " || ' ' || ".join(f"trim(c{i})" for i in self.columns)

    def sql(self) -> str:
        """TIMESTAMP (BIGINT for an integer index), NULL where it cannot be read."""
        return self.format.sql(self.text_sql())


ROW_COUNT = TimeColumn(columns=(), format=StampFormat(kind=stamps.Kind.INTEGER))


def find(table: Table, columns: Sequence[Column], options: ReadOptions, taken: frozenset[int]) -> TimeColumn:
    """The time column given or inferred; `ROW_COUNT` where there is none.

    Raises `DataError`: `ambiguous_timestamp_column`, `ambiguous_dates`, `unknown_timestamp_format`.
    """
    if options.timestamp_column is not None:
        names = options.roles["timestamp_column"]
        chosen = tuple(columns[table.names.index(name)] for name in names)
    else:
        chosen = _infer(table, [c for c in columns if c.index not in taken])
    if not chosen:
        return ROW_COUNT
    indices = tuple(c.index for c in chosen)
    return TimeColumn(columns=indices, format=_format(table, chosen, options))


def _infer(table: Table, columns: Sequence[Column]) -> tuple[Column, ...]:
    times = [c for c in columns if c.kind is Kind.TIME]
    if len(times) > 1:
        named = [c for c in times if c.names_time]
        if len(named) != 1:
            raise _ambiguous_columns(times)
        times = named
    clocks = [c for c in columns if c.kind is Kind.CLOCK]
    if times:
        return _with_clock(table, times[0], clocks, columns)
    parts = [next((c for c in columns if c.plain_name == part), None) for part in _PARTS]
    numeric = [c for c in columns if c.kind in {Kind.NUMBER, Kind.CLOCK} and c.names_time]
    numeric = [c for c in numeric if c.kind is Kind.CLOCK or _numeric_format(table, c) is not None]
    _refuse_split_periods(columns, parts)
    if parts[0] is not None and parts[1] is not None and all(c in parts for c in numeric):
        count = next((n for n, c in enumerate(parts) if c is None), len(parts))
        return tuple(c for c in parts[:count] if c is not None)
    if len(numeric) > 1:
        return _one_of(table, numeric, clocks, columns)
    if numeric:
        return (numeric[0],)
    ticking = [c for c in columns if _ticks(table, c)]
    if len(ticking) > 1:
        raise _ambiguous_columns(ticking)
    if ticking:
        _say_ticking(table, ticking[0])
        return (ticking[0],)
    unread = [c for c in columns if c.kind is Kind.TEXT and (c.names_time or _dates_rows(table, c))]
    if unread and not any(c.kind is Kind.NUMBER and c.names_index for c in columns):
        raise _unknown_format(table, unread[:1])
    measured = [c for c in columns if c.kind is Kind.NUMBER and c.plain_name in _STRICT_NAMES]
    if measured:
        raise _unknown_format(table, measured[:1])
    index = [c for c in columns if _counts_rows(table, c)]
    return (index[0],) if index else ()


def _refuse_split_periods(columns: Sequence[Column], parts: Sequence[Column | None]) -> None:
    """A year beside the number of its week or quarter: neither column is the time, and neither names a series."""
    counted = [c for c in columns if c.kind is Kind.NUMBER and c.plain_name in _PERIOD_NAMES and c.num_distinct > 2]
    if parts[0] is None or parts[1] is not None or not counted or parts[0].num_distinct < 2:
        return
    raise refusal(
        "unknown_timestamp_format",
        f"Columns {parts[0].name!r} and {counted[0].name!r} hold the time together.",
        "Write them in one column, such as 2020-W05 or 2020Q3.",
        param="timestamp_column",
        column=counted[0].name,
    )


def _one_of(
    table: Table, numeric: Sequence[Column], clocks: Sequence[Column], columns: Sequence[Column]
) -> tuple[Column, ...]:
    """One of several columns of plain numbers named like times: the one that is a date and no count, with its clock."""
    dated = [
        c
        for c in numeric
        if c.kind is Kind.NUMBER and (found := _numeric_format(table, c)) is not None and not found.is_integer
    ]
    if len(dated) == 1:
        return _with_clock(table, dated[0], clocks, columns)
    strong = [c for c in numeric if not c.names_index]
    if len(dated) == 0 and len(strong) == 1:
        return (strong[0],)
    raise _ambiguous_columns(numeric)


def _with_clock(table: Table, date: Column, clocks: Sequence[Column], columns: Sequence[Column]) -> tuple[Column, ...]:
    """A date with the time of day beside it, when the date has none of its own."""
    texts = table.column(date.index)
    has_clock = any(re.search(r"\d:\d|T\d|\d{10}", t) for t in texts)
    unread = [c for c in columns if c.kind is Kind.TEXT and c.plain_name in _CLOCK_NAMES]
    if unread and not has_clock and not clocks and len(set(texts)) < len(texts):
        raise _unknown_format(table, unread[:1])
    if has_clock or len(clocks) != 1:
        return (date,)
    return (date, clocks[0])


def _dates_rows(table: Table, column: Column) -> bool:
    """Whether texts of an unknown form surely stand for times: in the first column, no two alike, each with a year."""
    texts = table.column(column.index)
    if column.index != 0 or len(texts) < 3 or len(set(texts)) < len(texts):
        return False
    return sum(bool(_YEAR.search(t)) for t in texts) >= 0.9 * len(texts)


def _ticks(table: Table, column: Column) -> bool:
    """Whether a column of any name counts seconds … nanoseconds since 1970: whole numbers of this century, one behind
    the other at one distance. No series anybody would forecast looks so."""
    if column.kind is not Kind.NUMBER or not column.whole or column.names_target or column.names_value:
        return False
    values = [float(t) for t in table.column(column.index)[:_TICKS]]
    if len(values) < 3 or not any(_CENTURY[0] * s <= min(values) <= max(values) < _CENTURY[1] * s for s in _SCALES):
        return False
    steps = [b - a for a, b in pairwise(values)]
    if steps.count(0) * 2 > len(steps) or min(steps) < 0 < max(steps):
        return False
    moved = [step for step in steps if step]
    return moved.count(moved[0]) >= 0.9 * len(moved)


def _say_ticking(table: Table, column: Column) -> None:
    table.warnings.append(
        f"Column {column.name!r} holds times since 1970 by its numbers and is read as the time. If it is a series, say "
        "target_columns with it, and timestamp_column for the time."
    )


def _numeric_format(table: Table, column: Column) -> StampFormat | None:
    texts = [t for t in table.column(column.index) if dialects.NUMBER.match(t)]
    return stamps.detect_numeric(texts, name=column.plain_name)


def _counts_rows(table: Table, column: Column) -> bool:
    """Whether the column is a bare row count, as data frames write it."""
    return column.names_index and counts_up(table, column) and (table.dialect is None or table.dialect.has_header)


def counts_up(table: Table, column: Column) -> bool:
    """Whether the first rows of a column go 0, 1, 2 … or 1, 2, 3 …"""
    if not column.whole:
        return False
    head = [row[column.index].strip().removesuffix(".0") for row in table.sample[:100]]
    if not all(t.lstrip("-").isdigit() for t in head):
        return False
    values = [int(t) for t in head]
    return values[0] in (0, 1) and all(b - a == 1 for a, b in pairwise(values))


def _format(table: Table, chosen: Sequence[Column], options: ReadOptions) -> StampFormat:
    asked = stamps.from_option(options.timestamp_format) if options.timestamp_format else None
    if isinstance(asked, StampFormat):
        _check_pattern(table, asked)
        return asked
    texts = [
        " ".join(row[c.index].strip() for c in chosen)
        for row in table.sample
        if not any(dialects.is_null(row[c.index]) for c in chosen)
    ]
    if not texts:
        raise _unknown_format(table, chosen)
    if len(chosen) > 1 and all(c.plain_name in _PARTS for c in chosen) and chosen[0].plain_name == "year":
        patterns = dict(zip(_PARTS, _PART_PATTERNS, strict=True))
        return StampFormat(kind=stamps.Kind.PATTERNS, patterns=(" ".join(patterns[c.plain_name] for c in chosen),))
    numbers = [t for t in texts if dialects.NUMBER.match(t)]
    if len(chosen) == 1 and len(numbers) * 2 >= len(texts):
        return _number_format(table, chosen[0], numbers)
    detected = stamps.detect(texts)
    if detected is None:
        raise _unknown_format(table, chosen)
    if isinstance(asked, str):
        if asked not in detected.by_order:
            raise _unknown_format(table, chosen)
        return detected.by_order[asked]
    if set(detected.by_order) <= {"fixed"}:
        return detected.by_order["fixed"]
    return _settle_order(table, chosen, detected, texts)


def _number_format(table: Table, column: Column, numbers: Sequence[str]) -> StampFormat:
    found = stamps.detect_numeric(numbers, name=column.plain_name)
    if found is None:
        raise _unknown_format(table, [column])
    dated = column.names_time and not column.names_index and column.plain_name != "time"
    if found.is_integer and dated and all(20_000 <= float(n) <= 80_000 for n in numbers):
        raise DataError(
            f"Column {column.name!r} holds numbers such as {numbers[0]!r}: they could be Excel's day numbers or an "
            "integer index. Say timestamp_format 'excel' or 'integer'.",
            code="ambiguous_dates",
            param="timestamp_format",
            details={"readings": ["excel", "integer"], "column": column.name},
        )
    if found.is_integer and column.names_date and all(float(n) > 80_000 for n in numbers):
        raise refusal(
            "unknown_timestamp_format",
            f"Column {column.name!r} holds numbers such as {numbers[0]!r}: they could be dates in digits or an integer "
            "index.",
            "Say timestamp_format, such as '%d%m%Y' or '%y%m%d', or 'integer'.",
            param="timestamp_format",
            column=column.name,
            value=numbers[0],
        )
    return found


def _settle_order(
    table: Table, chosen: Sequence[Column], detected: stamps.Detected, texts: Sequence[str]
) -> StampFormat:
    """Day-first or month-first, proven by a number above 12 anywhere in the file; else a refusal naming both."""
    text = " || ' ' || ".join(f"trim(c{c.index})" for c in chosen)

    def part(group: int) -> str:
        pattern = duck.quote(r"^(\d{1,2})[-/. ](\d{1,2})[-/. ]")
        return f"try_cast(regexp_extract({text}, {pattern}, {group}) AS INTEGER)"

    first, second, both = table.ask(
        f"max({part(1)}), max({part(2)}), count(*) FILTER ({part(1)} > 12) * count(*) FILTER ({part(2)} > 12)"
    )
    if both:
        # Some rows are surely day-first and others surely month-first: read the commoner, the others are refused.
        return next(iter(detected.by_order.values()))
    if (first or 0) > 12:
        order = "dmy"
    elif (second or 0) > 12:
        order = "mdy"
    else:
        raise _ambiguous_order(chosen, texts)
    return detected.by_order.get(order) or stamps.detect([t for t in texts if t])  # type: ignore[return-value]


def _ambiguous_order(chosen: Sequence[Column], texts: Sequence[str]) -> DataError:
    name = " + ".join(c.name for c in chosen)
    example = next((t for t in texts if len(set(re.findall(r"\d+", t)[:2])) == 2), texts[0])
    readings = stamps.detect([example])
    assert readings is not None
    by_order = readings.by_order
    day, month = by_order["dmy"].label, by_order["mdy"].label
    a, b = re.findall(r"\d+", example)[:2]
    return DataError(
        f"Dates in {name!r} such as {example!r} can be read day-first (day {a}, month {b}) or month-first (month {a}, "
        f"day {b}), and no number above 12 settles it. Say timestamp_format {day!r} or {month!r}.",
        code="ambiguous_dates",
        param="timestamp_format",
        details={
            "readings": [day, month],
            "column": name,
            "problems": [
                {
                    "row": None,
                    "column": name,
                    "value": example,
                    "reason": f"day-first ({day}) or month-first ({month})",
                    "fix": f"Say timestamp_format {day!r} or {month!r}.",
                    "code": "ambiguous_dates",
                }
            ],
            "num_problems": 1,
        },
    )


def _ambiguous_columns(columns: Sequence[Column]) -> DataError:
    names = [c.name for c in columns]
    return DataError(
        f"Several columns could hold the time: {', '.join(map(repr, names))}. Say timestamp_column (two for date and "
        "time of day).",
        code="ambiguous_timestamp_column",
        param="timestamp_column",
        details={"candidates": names},
    )


def _unknown_format(table: Table, columns: Sequence[Column]) -> DataError:
    name = " + ".join(c.name for c in columns)
    example = next((" ".join(row[c.index] for c in columns) for row in table.sample), "")
    spaced = len(table.names) == 1 and len(name.split()) > 1
    return refusal(
        "unknown_timestamp_format",
        f"Times in {name!r} such as {example[:60]!r} are written in no form known here.",
        "Separate columns by commas, semicolons, tabs or bars; blanks separate nothing."
        if spaced
        else "Say timestamp_format as a strptime pattern, or write ISO 8601 (2020-01-31T12:00:00).",
        param="timestamp_format",
        column=name,
        value=example[:60],
    )


def _check_pattern(table: Table, asked: StampFormat) -> None:
    if asked.kind is not stamps.Kind.PATTERNS:
        return
    try:
        table.con.execute(f"SELECT try_strptime('x', {duck.quote(asked.patterns[0])})").fetchall()
    except duck.Error as error:
        raise ConfigError(
            f"timestamp_format {asked.patterns[0]!r} is not a strptime pattern: {str(error).splitlines()[0]}",
            code="invalid_timestamp_format",
            param="timestamp_format",
        ) from error
