"""The plan of a file: layout, and what each column is. What the caller says wins; the rest is inferred or refused."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from tsfm.errors import ConfigError, DataError
from tsfm.series import stamps, timecolumn
from tsfm.series.columns import Column, Kind, profile
from tsfm.series.options import ReadOptions
from tsfm.series.problems import refusal
from tsfm.series.table import Table
from tsfm.series.timecolumn import ROW_COUNT, TimeColumn

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class Layout(StrEnum):
    LONG = "long"
    WIDE = "wide"
    SERIES_PER_ROW = "series_per_row"


@dataclass(slots=True, kw_only=True)
class Plan:
    """How the file will be read."""

    layout: Layout
    id: int | None
    time: TimeColumn
    targets: tuple[int, ...]
    past: tuple[int, ...] = ()
    future: tuple[int, ...] = ()
    static: tuple[int, ...] = ()
    ignored: tuple[int, ...] = ()
    header_stamps: stamps.StampFormat | None = None
    """Series per row with dates for column names: how these are written."""
    warnings: list[str] = field(default_factory=list)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Columns read as numbers."""
        return (*self.targets, *self.past, *self.future)


def make_plan(table: Table, options: ReadOptions) -> Plan:
    """The plan, or a refusal naming the readings and the parameter that settles between them."""
    _check_names(table, options)
    columns = profile(table)
    index = {name: i for i, name in enumerate(table.names)}
    given = {role: tuple(index[n] for n in names) for role, names in options.roles.items()}
    taken = frozenset(i for role, found in given.items() if role != "timestamp_column" for i in found)
    rows = _series_per_row(table, columns, given)
    if rows is not None:
        return rows
    time = timecolumn.find(table, columns, options, taken)
    used = taken | set(time.columns)
    plan = Plan(
        layout=Layout.WIDE,
        id=given["id_column"][0] if given["id_column"] else None,
        time=time,
        targets=given["target_columns"],
        past=given["past_covariate_columns"],
        future=given["future_covariate_columns"],
        static=given["static_columns"],
    )
    free = [c for c in columns if c.index not in used]
    for drop in (_drop_row_counts, _drop_lone_names, _drop_row_keys):
        free = drop(table, plan, free)
    if plan.id is None:
        plan.id = _find_id(table, plan, free)
        free = [c for c in free if c.index != plan.id]
    plan.layout = Layout.WIDE if plan.id is None else Layout.LONG
    if not plan.targets:
        plan.targets = _find_targets(plan, columns, free)
    named = {plan.id, *time.columns, *plan.numbers, *plan.static}
    plan.ignored = tuple(c.index for c in columns if c.index not in named)
    _refuse_years_of_months(table, plan)
    _say_ignored(plan, columns)
    return plan


def _refuse_years_of_months(table: Table, plan: Plan) -> None:
    """A year in each row and its months in the columns (as statistical offices print) is one series, not twelve."""
    names = [table.names[i].strip().lower()[:3] for i in plan.targets]
    if plan.layout is Layout.WIDE and plan.time.format.patterns == ("%Y",) and set(_MONTHS) <= set(names):
        raise refusal(
            "unsupported_layout",
            "Each row holds a year and the columns hold its months, so that one series runs along the rows.",
            "Send one row per month: month (2020-01), value.",
            column=table.names[plan.time.columns[0]],
        )


def _check_names(table: Table, options: ReadOptions) -> None:
    known = set(table.names)
    seen: dict[str, str] = {}
    for role, names in options.roles.items():
        for name in names:
            if name not in known:
                listed = ", ".join(repr(n) for n in table.names[:50])
                raise ConfigError(
                    f"{role}: there is no column named {name!r}. Columns: {listed}.",
                    code="unknown_column",
                    param=role,
                    details={"columns": list(table.names[:1000])},
                )
            if name in seen and not (role == seen[name] == "timestamp_column"):
                raise ConfigError(
                    f"Column {name!r} is named twice, by {seen[name]} and {role}; a column has one role.",
                    code="column_named_twice",
                    param=role,
                )
            seen[name] = role


def _series_per_row(table: Table, columns: Sequence[Column], given: dict[str, tuple[int, ...]]) -> Plan | None:
    """The plan of a file with a series in each row (M4's layout): text ids, and a run of numbered or dated columns."""
    if given["timestamp_column"] or given["target_columns"] or (table.dialect and not table.dialect.has_header):
        return None
    texts = [c for c in columns if c.kind is Kind.TEXT]
    ids = [columns[i] for i in given["id_column"]] or [c for c in texts if c.num_distinct == len(table.sample)]
    if not ids or ids[0].names_time or any(c.kind is Kind.TIME for c in columns):
        return None
    body = [c for c in columns if c.kind in {Kind.NUMBER, Kind.EMPTY} and c.index not in {i.index for i in ids}]
    numbered = len(body) >= 3 and _numbered([c.name for c in body])
    dated = stamps.detect([c.name for c in body]) if len(body) >= 3 else None
    if not numbered and (dated is None or dated.share < 1):
        return None
    format_ = None
    if not numbered and dated is not None:
        if len(dated.by_order) > 1:
            raise DataError(
                f"Column names such as {body[0].name!r} can be read day-first or month-first. Rename them to ISO 8601.",
                code="ambiguous_dates",
                param="timestamp_format",
            )
        format_ = next(iter(dated.by_order.values()))
    kept = {ids[0].index, *(c.index for c in body)}
    plan = Plan(
        layout=Layout.SERIES_PER_ROW,
        id=ids[0].index,
        time=ROW_COUNT,
        targets=tuple(c.index for c in body),
        header_stamps=format_,
        ignored=tuple(c.index for c in columns if c.index not in kept),
    )
    if format_ is None:
        plan.warnings.append(
            "Each row is a series and the columns carry no dates: points are numbered from 0 (freq '1')."
        )
    _say_ignored(plan, columns)
    return plan


def _numbered(names: Sequence[str]) -> bool:
    """Whether names are one prefix with rising consecutive numbers: V2, V3, … or 1, 2, 3, …"""
    matches = [re.fullmatch(r"(\D*?)_?(\d+)", name.strip()) for name in names]
    found = [m for m in matches if m]
    if len(found) != len(names) or len({m[1] for m in found}) != 1:
        return False
    numbers = [int(m[2]) for m in found]
    return all(b - a == 1 for a, b in pairwise(numbers))


def _drop_row_counts(table: Table, plan: Plan, free: Sequence[Column]) -> list[Column]:
    """Without the row counts that data frames write beside the data."""
    if table.dialect is not None and not table.dialect.has_header:
        return list(free)
    counts = [c for c in free if (c.names_index or c.plain_name == "id") and timecolumn.counts_up(table, c)]
    counts = [c for c in counts if plan.time.columns and c.num_distinct > 2]
    plan.warnings.extend(f"Column {c.name!r} only counts the rows and is ignored." for c in counts)
    return [c for c in free if c not in counts]


def _drop_row_keys(table: Table, plan: Plan, free: Sequence[Column]) -> list[Column]:
    """Without columns called like ids that differ in every row, as databases number theirs: they name no series."""
    if not plan.time.columns or len(table.sample) < 3:
        return list(free)
    keys = [c for c in free if c.names_id and c.num_distinct == len(table.sample) and (c.kind is Kind.TEXT or c.whole)]
    for c in list(keys):
        rows, distinct = table.ask(f"count(*), count(DISTINCT c{c.index})", ids=[c.index])
        if distinct < rows:
            keys.remove(c)
    plan.warnings.extend(f"Column {c.name!r} differs in every row, so it names no series and is ignored." for c in keys)
    return [c for c in free if c not in keys]


def _drop_lone_names(table: Table, plan: Plan, free: Sequence[Column]) -> list[Column]:
    """Without whole numbers that name the one thing measured (a meter's number in every row): they are no series."""
    named = [c for c in free if c.whole and c.could_name_id and c.num_distinct == 1]
    numbers = [c for c in free if c.kind is Kind.NUMBER and c not in named]
    if not named or not numbers or len(table.sample) < 3:
        return list(free)
    counts = table.ask(", ".join(f"count(DISTINCT c{c.index})" for c in named))
    lone = [c for c, distinct in zip(named, counts, strict=True) if distinct == 1]
    plan.warnings.extend(f"Column {c.name!r} holds one value in every row and is ignored." for c in lone)
    return [c for c in free if c not in lone]


def _find_id(table: Table, plan: Plan, free: Sequence[Column]) -> int | None:
    """The column that names the series, or None for a wide file."""
    named = [c for c in free if c.names_id and (c.kind is Kind.TEXT or c.whole)]
    if named:
        best = min(named, key=lambda c: ("item", "unique", "series").index(p) if (p := _prefix(c)) else 9)
        return best.index
    texts = [c for c in free if c.kind is Kind.TEXT]
    numeric = [c for c in free if c.whole and c.could_name_id]
    others = [c for c in free if c.whole and not c.could_name_id and c.num_distinct * 2 < len(table.sample)]
    candidates = texts or numeric
    if not candidates:
        if not others or not plan.time.columns or not _repeats_in_sample(table, plan):
            return None
        candidates = others
    return _choose_id(table, plan, candidates, free, proven=bool(texts))


def _prefix(column: Column) -> str | None:
    return next((p for p in ("item", "unique", "series") if column.plain_name.startswith(p)), None)


def _repeats_in_sample(table: Table, plan: Plan) -> bool:
    stamps_seen = {tuple(row[i] for i in plan.time.columns) for row in table.sample}
    return len(stamps_seen) * 1.05 < len(table.sample)


def _choose_id(
    table: Table, plan: Plan, candidates: Sequence[Column], free: Sequence[Column], *, proven: bool
) -> int | None:
    stamp = plan.time.text_sql() if plan.time.columns else "NULL"
    asked = ["count(*)", f"count(DISTINCT {stamp})"]
    for c in candidates:
        asked += [f"count(DISTINCT c{c.index})", f"count(DISTINCT c{c.index} || chr(31) || {stamp})"]
    rows, moments, *pairs = table.ask(", ".join(asked), ids=[c.index for c in candidates])
    # One value everywhere names nothing apart, and a value for every row names no series.
    varying = [(c, pairs[2 * k], pairs[2 * k + 1]) for k, c in enumerate(candidates) if 1 < pairs[2 * k] < rows]
    if not varying:
        return None
    if not plan.time.columns:
        repeated = [c for c, distinct, _ in varying if distinct * 2 <= rows]
        if proven and len(repeated) == 1:
            return repeated[0].index
        return None
    if moments * 1.05 >= rows:
        return _unique_times(table, plan, varying[0][0], free, proven=proven)
    unique = [c for c, _, n in varying if n * 1.02 >= rows and n > moments]
    if len(unique) == 1 and (proven or unique[0].could_name_id):
        return unique[0].index
    if not unique and proven and len(varying) == 1:
        return varying[0][0].index
    likely = [c for c in unique if c.could_name_id]
    if len(likely) == 1 and proven:
        return likely[0].index
    if not unique and not proven:
        return None
    names = [c.name for c in (unique or [c for c, _, _ in varying])]
    raise DataError(
        f"Times repeat, so the file holds several series, and {', '.join(map(repr, names))} could name them. Say "
        "id_column (join columns into one where it takes several).",
        code="ambiguous_id_column",
        param="id_column",
        details={"candidates": names},
    )


def _unique_times(table: Table, plan: Plan, column: Column, free: Sequence[Column], *, proven: bool) -> int | None:
    """No time repeats and a column varies: an attribute of one series, or names of series that never meet."""
    numbers = [c for c in free if c.kind is Kind.NUMBER and c is not column]
    if plan.targets or len(numbers) > 1 or not proven:
        return None
    if column.could_name_id:
        return column.index
    texts = [row[column.index] for row in table.sample]
    runs = 1 + sum(a != b for a, b in pairwise(texts))
    if runs > 2 * len(set(texts)):
        return None
    raise DataError(
        f"Column {column.name!r} varies and no time repeats: it may name several series, or describe one. "
        f"Say id_column {column.name!r} for several, or target_columns for one.",
        code="ambiguous_id_column",
        param="id_column",
        details={"candidates": [column.name]},
    )


def _find_targets(plan: Plan, columns: Sequence[Column], free: Sequence[Column]) -> tuple[int, ...]:
    numbers = [c for c in free if c.kind is Kind.NUMBER]
    if not numbers:
        # Columns that hold nothing at all are refused later, with their names.
        numbers = [c for c in free if c.kind is Kind.EMPTY]
    if not numbers:
        listed = ", ".join(repr(c.name) for c in free) or "none is left"
        spaced = len(columns) == 1 and len(columns[0].name.split()) > 1
        raise refusal(
            "no_target",
            f"No column holds numbers to forecast (candidates: {listed}).",
            "Separate columns by commas, semicolons, tabs or bars; blanks separate nothing."
            if spaced
            else "Say target_columns, or send numbers with a decimal point.",
            param="target_columns",
        )
    if plan.id is None:
        named = [c for c in numbers if c.names_target]
        if len(named) == 1 and len(numbers) > 1:
            plan.warnings.append(
                f"All {len(numbers)} columns of numbers are read as series. If the others only explain "
                f"{named[0].name!r}, say target_columns, and past_covariate_columns or future_covariate_columns."
            )
        return tuple(c.index for c in numbers)
    for chosen in ([c for c in numbers if c.names_target], [c for c in numbers if c.names_value]):
        if len(chosen) == 1 and len(numbers) > 1:
            others = ", ".join(repr(c.name) for c in numbers if c is not chosen[0])
            plan.warnings.append(
                f"Only {chosen[0].name!r} is read as a series. To use {others} as well, name them in target_columns, "
                "past_covariate_columns or future_covariate_columns."
            )
            return (chosen[0].index,)
    if len(numbers) == 1:
        return tuple(c.index for c in numbers)
    names = [c.name for c in numbers]
    raise DataError(
        f"Besides the series' names there are several columns of numbers: {', '.join(map(repr, names[:20]))}. Say "
        "target_columns for what to forecast (past_covariate_columns, future_covariate_columns for what explains it).",
        code="ambiguous_target_columns",
        param="target_columns",
        details={"candidates": names},
    )


def _say_ignored(plan: Plan, columns: Sequence[Column]) -> None:
    said = " ".join(plan.warnings)
    for i in plan.ignored:
        column = columns[i]
        if repr(column.name) in said:
            continue
        if column.kind is Kind.EMPTY:
            plan.warnings.append(f"Column {column.name!r} is empty and is ignored.")
        else:
            plan.warnings.append(f"Column {column.name!r} holds no numbers to forecast and is ignored.")
