"""What is wrong, row by row: run only when the fast pass found something, so it may take its time."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tsfm.series import dialect as dialects
from tsfm.series import duck, scan
from tsfm.series.load import LARGEST
from tsfm.series.problems import MOST_LISTED, Problem, Problems
from tsfm.series.roles import Layout, Plan
from tsfm.series.scan import Clock
from tsfm.series.table import Table

_NUMBER_FIX = "Write a number with '{mark}' as decimal mark, or leave the cell empty where the value is missing."
_TIME_FIX = "Correct the time, or say timestamp_format."
YEARS = (1678, 2261)
"""First and last whole year that a count of nanoseconds in 64 bits reaches; DuckDB reads times of day into one."""


class Diagnosis:
    """Turns counts of bad rows into listed problems with lines and raw text."""

    def __init__(self, table: Table, plan: Plan, clock: Clock) -> None:
        self.table, self.plan, self.clock = table, plan, clock
        self.problems = Problems()
        self._num_rows: int | None = None
        self._raws = 0

    def rejects(self) -> None:
        """Rows that DuckDB could not split or whose numbers it could not read."""
        count = scan.num_rejected(self.table)
        if count:
            listed = [self._rejected(*cell) for cell in scan.rejected_cells(self.table)[:MOST_LISTED]]
            self.problems.extend(listed, count=count)

    def spells_missing(self) -> bool:
        """Whether a rejected cell spells a missing value with blanks around it."""
        if self.table.dialect is None:
            return False
        nulls = ", ".join(duck.quote(n) for n in dialects.NULLS)
        pattern = duck.quote('(?s)Could not convert string "(.*)" to ')
        row = self.table.con.execute(
            f"SELECT count(*) FROM {scan.REJECTS} WHERE error_type = 'CAST' "
            f"AND trim(regexp_extract(error_message, {pattern}, 1)) IN ({nulls})"
        ).fetchone()
        return row is not None and bool(row[0])

    def cells(self, parquet: Path) -> None:
        """Times and ids that are missing or unreadable, numbers beyond the finite."""
        source = f"read_parquet({duck.quote(str(parquet.resolve()))})"
        row = self.table.con.execute(
            "SELECT count(*) FILTER (timestamp IS NULL), count(*) FILTER (item_id IS NULL OR trim(item_id) = ''), "
            f"count(*) FILTER (NOT isfinite(target) OR abs(target) > {LARGEST}) FROM {source}"
        ).fetchone()
        assert row is not None
        if row[0]:
            self._times()
        if row[1] and self.plan.id is not None:
            name = self.table.names[self.plan.id]
            self._listed(
                "item IS NULL OR trim(item) = ''",
                "missing_id",
                f"The series' name ({name!r}) is missing.",
                "Fill it in, or remove the row.",
                column=name,
                value="item",
            )
        for i in self.plan.numbers if row[2] else ():
            number = self.table.number_sql(i)
            self._listed(
                f"NOT isfinite({number}) OR abs({number}) > {LARGEST}",
                "infinite_value",
                "The value is infinite or beyond 1e100.",
                "Leave the cell empty where the value is missing.",
                column=self.table.names[i],
                value=f"c{i}",
            )
        if self.table.casts_in_sql:
            self._text_numbers()

    def never_was(self) -> None:
        """Wall-clock times that the zone's clock skipped."""
        if self.clock.missing:
            zone = self.clock.timezone
            self._listed(
                scan.never_was_sql(self.clock),
                "nonexistent_local_time",
                f"This time never was in {zone}: the clock was put forward over it.",
                "Write times with their offset from UTC, or give the timezone in which they were taken ('UTC'?).",
                column=self._time_name(),
                value="stamp",
            )

    def at_times(self, keys: Sequence[tuple[str, int]], *, count: int, code: str, reason: str, fix: str) -> None:
        """Rows of the given (item_id, time) pairs; `count` such rows exist."""
        if self.plan.layout is Layout.SERIES_PER_ROW or not self.plan.time.columns:
            listed = [Problem(code=code, reason=reason, fix=fix, column=item) for item, _ in keys[:MOST_LISTED]]
            self.problems.extend(listed, count=count)
            return
        wide = self.plan.layout is Layout.WIDE
        moment = "ts" if self.clock.is_integer else "epoch_us(ts)"
        # The item of a long file with several targets is "id/column"; the row is the same for all.
        pairs = ", ".join(f"({duck.quote(item)}, {time})" for item, time in dict.fromkeys(keys))
        names = [duck.quote("/" + self.table.names[t]) for t in self.plan.targets]
        several = f"OR (item || {names[0]}, {moment}) IN ({pairs})" if not wide and len(names) > 1 else ""
        where = (
            f"{moment} IN ({', '.join(str(t) for _, t in keys)})"
            if wide
            else f"(item, {moment}) IN ({pairs}) {several}"
        )
        self._listed(where, code, reason, fix, column=self._time_name(), value="stamp", count=count)

    def _times(self) -> None:
        name, expected = self._time_name(), self.plan.time.format.label
        self._listed(
            "ts IS NULL AND stamp IS NULL",
            "missing_timestamp",
            "The time is missing.",
            "Fill it in, or remove the row.",
            column=name,
            value="stamp",
        )
        midnight = "regexp_matches(stamp, '[T ]24(:00)*$')"
        year = r"try_cast(regexp_extract(stamp, '(^|\D)(\d{4})(\D|$)', 2) AS INTEGER)"
        far = f"coalesce({year} NOT BETWEEN {YEARS[0]} AND {YEARS[1]}, false)"
        self._listed(
            f"ts IS NULL AND {far}",
            "invalid_timestamp",
            f"Times of day before {YEARS[0]} or after {YEARS[1]} are not read.",
            "Correct the year; remove a row whose time only stands for one without an end.",
            column=name,
            value="stamp",
        )
        self._listed(
            f"ts IS NULL AND stamp IS NOT NULL AND {midnight} AND NOT {far}",
            "invalid_timestamp",
            "There is no hour 24.",
            "Count hours from 0, or write midnight as 00:00 of the next day.",
            column=name,
            value="stamp",
        )
        self._listed(
            f"ts IS NULL AND stamp IS NOT NULL AND NOT {midnight} AND NOT {far}",
            "invalid_timestamp",
            f"This is no time in the form {expected} that the column has.",
            _TIME_FIX,
            column=name,
            value="stamp",
        )

    def _text_numbers(self) -> None:
        for i in self.plan.numbers:
            if self.table.careful or self.table.types[i] == "VARCHAR":
                self._listed(
                    f"c{i} IS NOT NULL AND {self.table.number_sql(i)} IS NULL",
                    "not_a_number",
                    lambda text: _not_a_number(text, self.table.decimal),
                    _NUMBER_FIX.format(mark=self.table.decimal),
                    column=self.table.names[i],
                    value=f"c{i}",
                )

    def _time_name(self) -> str:
        return " + ".join(self.table.names[i] for i in self.plan.time.columns)

    def _listed(
        self,
        where: str,
        code: str,
        reason: str | Callable[[str], str],
        fix: str,
        *,
        column: str,
        value: str,
        count: int | None = None,
    ) -> None:
        """List the rows where a condition over (n, item, ts, stamp, c…) holds."""
        raw = self._raw()
        query = f"SELECT n, {value} FROM {raw} WHERE {where} ORDER BY n LIMIT {MOST_LISTED}"
        rows = self.table.con.execute(query).fetchall()
        if count is None:
            counted = self.table.con.execute(f"SELECT count(*) FROM {self._raw()} WHERE {where}").fetchone()
            assert counted is not None
            count = int(counted[0])
        if not count:
            return
        lines = self.table.lines_of([int(r[0]) for r in rows], num_rows=self._rows())
        listed = [
            Problem(
                code=code,
                reason=reason if isinstance(reason, str) else reason(str(text)),
                fix=fix,
                row=lines.get(int(n)),
                column=column,
                value=None if text is None else str(text)[:120],
            )
            for n, text in rows
        ]
        self.problems.extend(listed, count=count)

    def _raw(self) -> str:
        """Rows as text with their place in the file: n, item, ts, stamp, c0 …; empty rows left out."""
        self._raws += 1
        ids = [] if self.plan.id is None else [self.plan.id]
        source = self.table.scan(ids=ids, rejects=f"raw_{self._raws}" if self.table.dialect else None)
        item = f"c{self.plan.id}" if self.plan.id is not None else "NULL"
        time = self.plan.time
        stamp = time.text_sql() if time.columns else "NULL"
        used = (*time.columns, *self.plan.numbers)
        filled = " OR ".join([*(f"c{i} IS NOT NULL" for i in used), *(f"trim(c{i}) <> ''" for i in ids)])
        return (
            f"(SELECT *, {item} AS item, {self.clock.sql} AS ts, {stamp} AS stamp "
            f"FROM (SELECT row_number() OVER () AS n, * FROM {source}) WHERE {filled})"
        )

    def _rows(self) -> int:
        if self._num_rows is None:
            self._num_rows = int(self.table.ask("count(*)")[0])
        return self._num_rows

    def _rejected(self, line: int, column: int | None, kind: str, raw: str, message: str) -> Problem:
        names = self.table.names
        assert self.table.dialect is not None
        cells = next(iter(csv.reader(io.StringIO(raw[:65536]), delimiter=self.table.dialect.delimiter)), [])
        if kind == "CAST" and column is not None and column < len(cells):
            text = cells[column]
            return Problem(
                code="not_a_number",
                reason=_not_a_number(text, self.table.decimal),
                fix=_NUMBER_FIX.format(mark=self.table.decimal),
                row=line,
                column=names[column],
                value=text[:120],
            )
        if kind in {"MISSING COLUMNS", "TOO MANY COLUMNS"}:
            return Problem(
                code="ragged_row",
                reason=f"The row has {len(cells)} cells; the file has {len(names)} columns.",
                fix="Add or remove cells; put text that holds the delimiter in double quotes.",
                row=line,
                value=raw[:120],
            )
        reasons = {
            "UNQUOTED VALUE": "A double quote opens and does not close where a cell ends.",
            "LINE SIZE OVER MAXIMUM": f"The line is longer than {self.table.max_line_bytes:,} bytes.",
        }
        return Problem(
            code="unreadable_row",
            reason=reasons.get(kind, message.splitlines()[0][:200]),
            fix="Correct the row.",
            row=line,
            column=names[column] if column is not None and column < len(names) else None,
            value=raw[:120],
        )


def _not_a_number(text: str, decimal: str) -> str:
    stripped = text.strip()
    if re.fullmatch(r"[+-]?\d{1,3}([.,'\u00a0\u202f ]\d{3})+([.,]\d+)?", stripped):
        return "The number has separators between thousands."
    if decimal == "." and dialects.COMMA_NUMBER.match(text):
        return "The number has a decimal comma while others in the file have a decimal point."
    if decimal == "," and dialects.NUMBER.match(text):
        return "The number has a decimal point while others in the file have a decimal comma."
    if stripped[:1] in "\u2212\u2013\u2014":
        return "The minus sign is a typographic dash."
    if re.fullmatch(r"[+-]?[\d.,]+\s*%", stripped):
        return "The number carries a percent sign."
    if re.fullmatch(r"\([\d.,]*\d[\d.,]*\)", stripped):
        return "The number stands in parentheses, as accounts write negative ones."
    if re.fullmatch(r"[\d.,]*\d[\d.,]*-", stripped):
        return "The minus sign stands behind the number."
    if re.fullmatch(r"[^\d\s+-]{1,3}\s*[+-]?[.,]?\d[\d.,]*|[+-]?[.,]?\d[\d.,]*\s*[^\d\s.,]{1,4}", stripped):
        return "The number carries a unit or a currency sign."
    return "This is text in a column of numbers."
