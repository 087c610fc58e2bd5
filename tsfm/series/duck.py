"""Every use of DuckDB begins here: one sandboxed in-memory connection."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

Connection = duckdb.DuckDBPyConnection
Error = duckdb.Error
BadInput = (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.OutOfRangeException)
"""What DuckDB raises because of a file; anything else is a fault of ours or the machine's."""


def connect(
    *, directories: Sequence[Path], work_dir: Path | None = None, memory_bytes: int = 1024**3, threads: int = 2
) -> Connection:
    """A connection that can open files below `directories` (and `work_dir`) and nothing else, and sorts on disk
    beyond `memory_bytes`. Its settings are locked."""
    allowed = [*directories, *([work_dir] if work_dir else [])]
    listed = ", ".join(quote(f"{path.resolve()}/") for path in allowed)
    con = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{max(memory_bytes // 1024**2, 128)}MB",
            "threads": threads,
            "temp_directory": str(work_dir.resolve()) if work_dir else "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "preserve_insertion_order": "true",
        },
    )
    con.execute(f"SET allowed_directories = [{listed}]")
    con.execute("SET TimeZone = 'UTC'")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")
    return con


def quote(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("'", "''") + "'"


def ident(name: str) -> str:
    """A quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def columns(con: Connection, query: str, parameters: Sequence[Any] = ()) -> dict[str, NDArray[Any]]:
    """The query's answer as one array per column; a NULL in a numeric column becomes NaN, in others None."""
    fetched = con.execute(query, list(parameters)).fetchnumpy()
    return {name: _filled(values) for name, values in fetched.items()}


def _filled(values: NDArray[Any]) -> NDArray[Any]:
    if not isinstance(values, np.ma.MaskedArray):
        return values
    data: NDArray[Any] = np.asarray(values.data)
    missing = np.ma.getmaskarray(values)
    if not missing.any():
        return data
    numeric = data.dtype.kind in "iuf"
    filled: NDArray[Any] = data.astype(np.float64 if numeric else object)
    filled[missing] = np.nan if numeric else None
    return filled
