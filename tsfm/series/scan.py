"""The one pass that turns a file into the canonical Parquet: item_id, timestamp, target (and covariates), sorted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tsfm.errors import DataError
from tsfm.series import duck, zones
from tsfm.series import stamps as stampforms
from tsfm.series.problems import refusal
from tsfm.series.roles import Layout, Plan
from tsfm.series.table import Table

REJECTS = "rejects"
_MOST_UNIONS = 2000


class Clock:
    """SQL of the times of a file, in UTC where there is a zone, and what zone that is."""

    def __init__(self, table: Table, plan: Plan, timezone: str | None) -> None:
        self.timezone: str | None = None
        self.warnings: list[str] = []
        self.missing: list[tuple[int, int]] = []
        """Wall-clock spans that never were, where the file has times in them."""
        time = plan.time
        self.several_offsets = False
        self.doubled = 0
        """Times in an hour that the zone's clock showed twice."""
        self.is_integer = time.format.is_integer and plan.header_stamps is None
        self.wall_sql = time.sql() if time.columns else "NULL"
        self.sql = self.wall_sql
        asked = zones.canonical(timezone) if timezone else None
        if self.is_integer or not time.columns:
            if asked and self.is_integer:
                self.warnings.append("The index is made of integers, so the timezone has no meaning and is ignored.")
            return
        if time.format.kind is stampforms.Kind.EPOCH:
            self.timezone = asked or "UTC"
        elif time.format.zoned:
            self.timezone = asked or self._zone_of_texts(table, plan)
        elif asked is not None:
            self.timezone = asked
            self._localise(table, asked)

    def _zone_of_texts(self, table: Table, plan: Plan) -> str:
        """The one offset that all texts carry, else UTC."""
        text = plan.time.text_sql()
        minutes = f"datediff('minute', TIMESTAMP '2000-01-01', TIMESTAMP '2000-01-01' + {stampforms.offset_sql(text)})"
        count, low = table.ask(f"count(DISTINCT {minutes}), min({minutes}) FILTER ({self.wall_sql} IS NOT NULL)")
        if count == 1 and low is not None:
            return zones.canonical(f"{'-' if low < 0 else '+'}{abs(low) // 60:02d}:{abs(low) % 60:02d}")
        self.several_offsets = True
        self.warnings.append(
            "Times carry several offsets from UTC and are kept in UTC; say timezone to follow the clock of a place."
        )
        return "UTC"

    def _localise(self, table: Table, zone: str) -> None:
        """Read naive times on the clock of `zone`; times that never were are refused, doubled hours are the first."""
        wall = f"epoch_us({self.wall_sql})"
        low, high, midnights, rows = table.ask(
            f"min({wall}), max({wall}), count(*) FILTER ({wall} % 86400000000 = 0), count({wall})"
        )
        if low is None:
            return
        switches = [s for s in zones.switches(zone, low, high) if low <= s.boundary and s.span[0] <= high]
        last = switches[-1].after if switches else low - int(zones.to_utc(np.array([low]), zone).utc[0])
        cases = " ".join(f"WHEN {wall} < {s.boundary} THEN {s.before}" for s in switches)
        offset = f"CASE {cases} ELSE {last} END" if cases else str(last)
        self.sql = f"make_timestamp({wall} - ({offset}))"
        repeats = [s.span for s in switches if s.repeats]
        skipped = [s.span for s in switches if not s.repeats]
        doubled, never = table.ask(
            f"count(*) FILTER ({_within(wall, repeats)}), count(*) FILTER ({_within(wall, skipped)})"
        )
        self.doubled = int(doubled)
        if doubled:
            self.warnings.append(
                f"{doubled} times lie in the hour that the clock of {zone} showed twice and are read as the first; "
                "write offsets from UTC to tell them apart."
            )
        if never and midnights == rows:
            self.warnings.append(f"{never} midnights never were in {zone} (clock put forward) and are read as 01:00.")
        elif never:
            self.missing = skipped


def _within(wall: str, spans: Sequence[tuple[int, int]]) -> str:
    return " OR ".join(f"({wall} >= {a} AND {wall} < {b})" for a, b in spans) or "false"


def never_was_sql(clock: Clock) -> str:
    """Whether a row's wall-clock time never was."""
    return _within(f"epoch_us({clock.wall_sql})", clock.missing)


def write_canonical(table: Table, plan: Plan, clock: Clock, *, duplicates: str, out: Path) -> None:
    """Scan, sort, write `out`. Rows that do not fit are kept in the table `rejects` (CSV); with `duplicates` other than
    "error", repeated (item_id, timestamp) are made one."""
    con = table.con
    for name in (REJECTS, f"{REJECTS}_scan"):
        con.execute(f"DROP TABLE IF EXISTS {name}")
    con.execute("DROP TABLE IF EXISTS staged")
    query = {
        Layout.LONG: _long_sql,
        Layout.WIDE: _wide_sql,
        Layout.SERIES_PER_ROW: _per_row_sql,
    }[plan.layout](table, plan, clock, duplicates)
    con.execute(f"COPY ({query}) TO {duck.quote(str(out.resolve()))} (FORMAT parquet, COMPRESSION zstd)")


def scan_failure(error: duck.Error) -> DataError:
    """What to tell the user when DuckDB gives up on the whole file."""
    text = str(error).splitlines()[0][:300]
    return refusal(
        "unreadable_csv",
        f"The rows cannot be told apart ({text}).",
        "Check quotes and line ends near the place named, and that all rows use one delimiter.",
    )


def _merge(expression: str, duplicates: str) -> str:
    """Aggregate of the rows of one time; `n` is the row's place in the file."""
    match duplicates:
        case "first" | "last":
            return f"{duplicates}({expression} ORDER BY n)"
        case "mean":
            return f"avg({expression})"
        case _:
            return f"sum({expression})"


def _long_sql(table: Table, plan: Plan, clock: Clock, duplicates: str) -> str:
    assert plan.id is not None
    extra = _extra_columns(table, plan)
    source = _filled_rows(table, plan)
    item, time = f"c{plan.id}", clock.sql
    if not plan.time.columns:
        source = f"(SELECT *, row_number() OVER () AS n FROM {source})"
        time = f"row_number() OVER (PARTITION BY c{plan.id} ORDER BY n) - 1"
    elif duplicates != "error":
        source = f"(SELECT *, row_number() OVER () AS n FROM {source})"
    if len(plan.targets) > 1:
        selected = ", ".join(f"c{t}" for t in plan.targets)
        others = "".join(f", c{i} AS {duck.ident(name)}" for i, name in extra)
        policy = duplicates if plan.time.columns else "error"
        number = ", n" if policy != "error" else ""
        table.con.execute(
            f"CREATE TEMP TABLE staged AS SELECT {item} AS i, {time} AS t, {selected}{others}{number} FROM {source}"
        )
        pairs = [(duck.ident(name), name) for _, name in extra]
        parts = [
            _select(f"i || {duck.quote('/' + table.names[t])}", "t", f"c{t}", pairs, policy, "staged")
            for t in plan.targets
        ]
        return f"SELECT * FROM ({' UNION ALL '.join(parts)}) ORDER BY item_id, timestamp"
    policy = duplicates if plan.time.columns else "error"
    pairs = [(f"c{i}", name) for i, name in extra]
    return _select(item, time, f"c{plan.targets[0]}", pairs, policy, source) + " ORDER BY item_id, timestamp"


def _filled_rows(table: Table, plan: Plan) -> str:
    """The scan without rows of empty cells, as spreadsheets leave them below the data. Without a time column every
    row counts, empty or not."""
    ids = [] if plan.id is None else [plan.id]
    source = table.scan(plan.numbers, ids=ids, rejects=REJECTS if table.dialect else None)
    if not plan.time.columns:
        return source
    filled = [f"c{i} IS NOT NULL" for i in (*plan.time.columns, *plan.numbers)] + [f"trim(c{i}) <> ''" for i in ids]
    return f"(SELECT * FROM {source} WHERE {' OR '.join(filled)})"


def _select(item: str, time: str, target: str, extra: Sequence[tuple[str, str]], duplicates: str, source: str) -> str:
    """Canonical columns from `source`, rows of one (item, time) merged by the policy."""
    if duplicates == "error":
        others = "".join(f", {expression} AS {duck.ident(name)}" for expression, name in extra)
        return f"SELECT {item} AS item_id, {time} AS timestamp, {target} AS target{others} FROM {source}"
    others = "".join(f", first({expression} ORDER BY n) AS {duck.ident(name)}" for expression, name in extra)
    merged = _merge(target, duplicates)
    return f"SELECT {item} AS item_id, {time} AS timestamp, {merged} AS target{others} FROM {source} GROUP BY ALL"


def _extra_columns(table: Table, plan: Plan) -> list[tuple[int, str]]:
    """(column, name) of what is kept beside the target; Parquet as DuckDB writes it tells no capitals from small."""
    used = {"item_id", "timestamp", "target", "file_row_number"}
    named = []
    for i in (*plan.past, *plan.future, *plan.static):
        name = table.names[i]
        while name.lower() in used:
            name += "_"
        used.add(name.lower())
        named.append((i, name))
    return named


def _wide_sql(table: Table, plan: Plan, clock: Clock, duplicates: str) -> str:
    extra = _extra_columns(table, plan)
    kept = [*plan.targets, *(i for i, _ in extra)]
    source = _filled_rows(table, plan)
    columns = ", ".join(f"c{i}" for i in kept)
    if not plan.time.columns:
        query = f"SELECT row_number() OVER () - 1 AS t, {columns} FROM {source}"
    elif duplicates == "error":
        query = f"SELECT {clock.sql} AS t, {columns} FROM {source} ORDER BY t"
    else:
        merged = ", ".join(f"{_merge(f'c{i}', duplicates)} AS c{i}" for i in plan.targets)
        merged += "".join(f", first(c{i} ORDER BY n) AS c{i}" for i, _ in extra)
        query = (
            f"SELECT t, {merged} FROM (SELECT {clock.sql} AS t, row_number() OVER () AS n, {columns} FROM {source}) "
            "GROUP BY t ORDER BY t"
        )
    table.con.execute(f"CREATE TEMP TABLE staged AS {query}")
    if not plan.time.columns:
        filled = " OR ".join(f"c{i} IS NOT NULL" for i in kept)
        table.con.execute(f"DELETE FROM staged WHERE t > (SELECT coalesce(max(t), 0) FROM staged WHERE {filled})")
    others = "".join(f", c{i} AS {duck.ident(name)}" for i, name in extra)
    ordered = sorted(plan.targets, key=lambda i: table.names[i].encode())
    if len(ordered) <= _MOST_UNIONS:
        return " UNION ALL ".join(
            f"SELECT {duck.quote(table.names[i])} AS item_id, t AS timestamp, c{i} AS target{others} FROM staged"
            for i in ordered
        )
    names = ", ".join(duck.quote(table.names[i]) for i in ordered)
    ranks = ", ".join(f"'c{i}'" for i in ordered)
    listed = ", ".join(f"c{i}" for i in ordered)
    return (
        f"SELECT ([{names}])[list_position([{ranks}], k)] AS item_id, t AS timestamp, v AS target{others} "
        f"FROM staged UNPIVOT INCLUDE NULLS (v FOR k IN ({listed})) ORDER BY item_id, timestamp"
    )


def _per_row_sql(table: Table, plan: Plan, clock: Clock, duplicates: str) -> str:
    assert plan.id is not None
    columns = ", ".join(f"c{i}" for i in plan.targets)
    source = table.scan(plan.targets, ids=[plan.id], rejects=REJECTS if table.dialect else None)
    table.con.execute(f"CREATE TEMP TABLE staged AS SELECT c{plan.id} AS i, {columns} FROM {source}")
    ranks = ", ".join(f"'c{i}'" for i in plan.targets)
    place = f"list_position([{ranks}], k) - 1"
    if plan.targets[-1] - plan.targets[0] == len(plan.targets) - 1:
        place = f"CAST(substr(k, 2) AS BIGINT) - {plan.targets[0]}"
    time = "p"
    if plan.header_stamps is not None:
        texts = ", ".join(duck.quote(table.names[i]) for i in plan.targets)
        time = f"(list_transform([{texts}], lambda x: {plan.header_stamps.sql('x')}))[p + 1]"
    return (
        f"SELECT i AS item_id, {time} AS timestamp, v AS target FROM (SELECT *, "
        "min(p) FILTER (v IS NOT NULL) OVER w AS low, max(p) FILTER (v IS NOT NULL) OVER w AS high "
        f"FROM (SELECT i, {place} AS p, v FROM staged UNPIVOT INCLUDE NULLS (v FOR k IN ({columns}))) "
        "WINDOW w AS (PARTITION BY i)) WHERE p BETWEEN coalesce(low, 0) AND coalesce(high, 0) ORDER BY item_id, p"
    )


def rejected_cells(table: Table) -> list[tuple[int, int | None, str, str, str]]:
    """(line, column, kind, raw line, message) of every rejected row, in file order."""
    if table.dialect is None:
        return []
    rows = table.con.execute(
        f"SELECT line, column_idx, error_type, csv_line, error_message FROM {REJECTS} "
        "ORDER BY line, column_idx LIMIT 2000"
    ).fetchall()
    return [
        (int(r[0]), None if r[1] is None else int(r[1]) - 1, str(r[2]), (r[3] or "").strip("\r\n"), r[4]) for r in rows
    ]


def num_rejected(table: Table) -> int:
    """How many cells and rows were rejected."""
    if table.dialect is None:
        return 0
    row = table.con.execute(f"SELECT count(*) FROM {REJECTS}").fetchone()
    assert row is not None
    return int(row[0])


def has_nameless(con: duck.Connection, parquet: Path) -> bool:
    """Whether some row has no series name: none in the file, or one that spells a missing value."""
    source = f"read_parquet({duck.quote(str(parquet.resolve()))})"
    row = con.execute(f"SELECT count(*) FROM {source} WHERE item_id IS NULL OR item_id = ''").fetchone()
    return row is not None and bool(row[0])
