"""A file as a DuckDB relation with columns c0, c1, …: the same questions for CSV and Parquet."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsfm.series import dialect as dialects
from tsfm.series import duck
from tsfm.series.dialect import Dialect
from tsfm.series.options import Limits
from tsfm.series.problems import refusal
from tsfm.series.sniff import Plain
from tsfm.series.stamps import looks_like_time

_SAMPLE_ROWS = 4000


@dataclass(slots=True, kw_only=True)
class Table:
    """Names, a sample of rows as text, and SQL to scan the whole."""

    con: duck.Connection
    path: Path
    names: tuple[str, ...]
    sample: tuple[tuple[str, ...], ...]
    dialect: Dialect | None
    """None for Parquet."""
    types: tuple[str, ...]
    """Parquet only: DuckDB type of each column."""
    whole: bool
    """Whether the sample holds every row."""
    num_lines: int
    max_cell_bytes: int
    warnings: list[str] = field(default_factory=list)
    careful: bool = False
    """Read every cell as text and tell missing values apart in SQL: slower, but a series may be called "NA"."""
    _scans: int = 0

    @property
    def decimal(self) -> str:
        """Decimal mark of its numbers."""
        return self.dialect.decimal if self.dialect else "."

    @property
    def max_line_bytes(self) -> int:
        """Longest line that is read: DuckDB's buffers grow with it."""
        return min(max(2 * 1024**2, 1024 * len(self.names), self.max_cell_bytes), 16 * 1024**2)

    def column(self, i: int) -> list[str]:
        """The sample's non-missing texts of one column."""
        return [row[i] for row in self.sample if not dialects.is_null(row[i])]

    def scan(self, numbers: Collection[int] = (), *, ids: Collection[int] = (), rejects: str | None = None) -> str:
        """A relation of c0 … cN: DOUBLE for `numbers`, VARCHAR for the rest; `ids` keep texts such as "NA".

        With `rejects`, rows that do not fit go to the table of that name instead of stopping the scan.
        """
        if self.dialect is None:
            source = f"read_parquet({duck.quote(str(self.path.resolve()))})"
            return self._typed_in_sql(source, self.names, numbers, ids)
        if self.careful:
            source = self._csv_scan(self.dialect, (), ids=(), rejects=rejects, nulls=("",))
            return self._typed_in_sql(source, [f"c{i}" for i in range(len(self.names))], numbers, ids)
        return self._csv_scan(self.dialect, numbers, ids=ids, rejects=rejects, nulls=dialects.NULLS)

    def number_sql(self, i: int) -> str:
        """DOUBLE of a cell that is text; NULL where it is no number."""
        if self.decimal == ".":
            return f"TRY_CAST(c{i} AS DOUBLE)"
        return f"CASE WHEN NOT contains(c{i}, '.') THEN TRY_CAST(replace(c{i}, ',', '.') AS DOUBLE) END"

    @property
    def casts_in_sql(self) -> bool:
        """Whether cells that are no numbers become NULL in a scan instead of being rejected."""
        return self.careful or self.dialect is None

    def _csv_scan(
        self,
        dialect: Dialect,
        numbers: Collection[int],
        *,
        ids: Collection[int],
        rejects: str | None,
        nulls: Sequence[str],
    ) -> str:
        columns = ", ".join(f"'c{i}': '{'DOUBLE' if i in numbers else 'VARCHAR'}'" for i in range(len(self.names)))
        settings = [
            duck.quote(str(self.path.resolve())),
            "auto_detect=false",
            "header=false",
            f"skip={dialect.header_records}",
            f"delim={duck.quote(dialect.delimiter)}",
            "quote='\"'",
            "escape='\"'",
            f"columns={{{columns}}}",
            f"nullstr=[{', '.join(duck.quote(n) for n in nulls)}]",
            f"max_line_size={self.max_line_bytes}",
        ]
        if ids:
            settings.append("force_not_null=[" + ", ".join(f"'c{i}'" for i in ids) + "]")
        if dialect.decimal == ",":
            settings.append("decimal_separator=','")
        if rejects:
            settings.append(f"store_rejects=true, rejects_table='{rejects}', rejects_scan='{rejects}_scan'")
        return f"read_csv({', '.join(settings)})"

    def _typed_in_sql(self, source: str, columns: Sequence[str], numbers: Collection[int], ids: Collection[int]) -> str:
        nulls = ", ".join(duck.quote(n) for n in dialects.NULLS)
        parts = []
        for i, column in enumerate(columns):
            text = f"CAST({duck.ident(column)} AS VARCHAR)"
            if i not in ids and (self.careful or self.types[i] == "VARCHAR"):
                text = f"CASE WHEN trim({text}) NOT IN ({nulls}) THEN {text} END"
            elif i in numbers:
                text = f"CAST({duck.ident(column)} AS DOUBLE)"
            parts.append(f"{text} AS c{i}")
        query = f"(SELECT {', '.join(parts)} FROM {source})"
        texts = [i for i in numbers if self.careful or self.types[i] == "VARCHAR"]
        if not texts:
            return query
        cast = ", ".join(f"{self.number_sql(i)} AS c{i}" for i in texts)
        return f"(SELECT * REPLACE ({cast}) FROM {query})"

    def ask(self, select: str, *, ids: Collection[int] = ()) -> tuple[Any, ...]:
        """One row: a SELECT list evaluated over the whole file as text; rows of the wrong width are left out."""
        self._scans += 1
        rejects = f"asked_{self._scans}" if self.dialect else None
        row = self.con.execute(f"SELECT {select} FROM {self.scan(ids=ids, rejects=rejects)}").fetchone()
        assert row is not None
        return tuple(row)

    def lines_of(self, rows: Collection[int], *, num_rows: int) -> Mapping[int, int]:
        """Line numbers of data rows (1 = first row of well-formed data)."""
        if self.dialect is None:
            return {row: row for row in rows}
        plain = self.num_lines == num_rows + self.dialect.first_line - 1
        if plain:
            return {row: row + self.dialect.first_line - 1 for row in rows}
        return dialects.read_lines(
            self.path,
            self.dialect.delimiter,
            len(self.names),
            list(rows),
            skipped_lines=self.dialect.skipped_lines,
            header_records=1 if self.dialect.has_header else 0,
        )


def open_csv(con: duck.Connection, plain: Plain, limits: Limits) -> Table:
    """The table of a text file; `DataError` as in `sniff_dialect`."""
    dialect = dialects.sniff_dialect(plain, max_columns=limits.max_columns, looks_like_time=looks_like_time)
    return Table(
        con=con,
        path=plain.path,
        names=dialect.names,
        sample=dialect.sample,
        dialect=dialect,
        types=(),
        whole=dialect.whole,
        num_lines=plain.num_lines,
        max_cell_bytes=limits.max_cell_bytes,
        warnings=list(dialect.warnings),
    )


def open_parquet(con: duck.Connection, plain: Plain, limits: Limits) -> Table:
    """The table of a Parquet file. Raises `DataError`: `truncated`, `too_large`, `header_only`, `unsupported_type`."""
    source = duck.quote(str(plain.path.resolve()))
    try:
        described = con.execute(f"DESCRIBE SELECT * FROM read_parquet({source})").fetchall()
        size = con.execute(
            "SELECT coalesce(sum(total_uncompressed_size), 0), "
            f"(SELECT sum(num_rows) FROM parquet_file_metadata({source})) FROM parquet_metadata({source})"
        ).fetchone()
    except duck.Error as error:
        text = str(error).splitlines()[0]
        raise refusal(
            "truncated", f"The Parquet file cannot be opened ({text}).", "Write and send it again."
        ) from error
    assert size is not None
    if size[0] > limits.max_decompressed_bytes:
        raise refusal(
            "too_large",
            f"The file holds {size[0]:,} bytes once decompressed; the limit is {limits.max_decompressed_bytes:,}.",
            "Split it into several files.",
        )
    if (size[1] or 0) == 0:
        raise refusal("header_only", "The Parquet file has columns and no rows.", "Add rows.")
    if len(described) > limits.max_columns:
        raise refusal(
            "too_many_columns",
            f"The file has {len(described):,} columns; the limit is {limits.max_columns:,}.",
            "Send a long file (item_id, timestamp, target), or fewer columns.",
        )
    names = tuple(str(row[0]) for row in described)
    types = tuple(str(row[1]) for row in described)
    for name, kind in zip(names, types, strict=True):
        if "[" in kind or kind.startswith(("STRUCT", "MAP", "UNION", "BLOB")):
            raise refusal(
                "unsupported_type",
                f"Column {name!r} has the nested type {kind[:60]}.",
                "Send one row per point: item_id, timestamp, target.",
                column=name,
            )
    cells = ", ".join(f"CAST({duck.ident(name)} AS VARCHAR)" for name in names)
    rows = con.execute(f"SELECT {cells} FROM read_parquet({source}) LIMIT {_SAMPLE_ROWS}").fetchall()
    return Table(
        con=con,
        path=plain.path,
        names=names,
        sample=tuple(tuple("" if cell is None else str(cell) for cell in row) for row in rows),
        dialect=None,
        types=types,
        whole=size[1] <= _SAMPLE_ROWS,
        num_lines=0,
        max_cell_bytes=limits.max_cell_bytes,
    )
