"""The reading: what was understood of a file, as one JSON object with every key always present."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tsfm.series import dialect as dialects
from tsfm.series import duck, grid, suspects
from tsfm.series import freq as frequencies
from tsfm.series.freq import Micros, Unit
from tsfm.series.grid import Fit, Times
from tsfm.series.problems import MOST_LISTED
from tsfm.series.roles import Layout, Plan
from tsfm.series.scan import Clock
from tsfm.series.sniff import Plain
from tsfm.series.table import Table

_NULLS = frozenset(dialects.NULLS)
_WHOLE_ORDER_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Repeated (item_id, timestamp) found before the policy was applied."""

    count: int
    policy: str
    examples: list[dict[str, Any]]


def build(
    *,
    plain: Plain,
    table: Table,
    plan: Plan,
    clock: Clock,
    fit: Fit,
    times: Times,
    evidence: str,
    duplicates: Duplicates,
    num_rows: int,
    parquet: Path,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Everything known of a file that was read."""
    con = table.con
    integer = fit.freq.unit is Unit.INTEGER
    source = f"read_parquet({duck.quote(str(parquet.resolve()))})"
    items = con.execute(
        f"SELECT item_id, count(*), count(target) FROM {source} GROUP BY item_id ORDER BY item_id"
    ).fetchall()
    steps = _lengths(times, fit)
    lengths = np.repeat(steps, len(items)) if plan.layout is Layout.WIDE else steps
    firsts, lasts = times.values[times.begins], times.values[np.cumsum(times.counts) - 1]

    def text(values: Micros) -> list[Any]:
        return list(frequencies.format_micros(values, clock.timezone, integer=integer))

    shown = len(items[:MOST_LISTED])
    which = np.zeros(shown, dtype=np.int64) if plan.layout is Layout.WIDE else np.arange(shown)
    starts, ends = text(firsts[which]), text(lasts[which])
    num_points = int(lengths.sum())
    observed = sum(int(n) for _, _, n in items)
    cells = sum(int(n) for _, n, _ in items)
    names = [str(i[0]) for i in items] if plan.layout is not Layout.WIDE else [""]
    return {
        "format": plain.format,
        "compression": plain.compression,
        "encoding": plain.encoding,
        "delimiter": table.dialect.delimiter if table.dialect else None,
        "decimal": table.dialect.decimal if table.dialect else None,
        "layout": plan.layout.value,
        "columns": _columns(table, plan),
        "timestamp_format": _stamp_label(plan),
        "timezone": clock.timezone,
        "freq": fit.freq.alias,
        "freq_evidence": evidence,
        "num_series": len(items),
        "num_rows": num_rows,
        "num_points": num_points,
        "start": text(firsts[[int(firsts.argmin())]])[0],
        "end": text(lasts[[int(lasts.argmax())]])[0],
        "min_length": int(lengths.min()),
        "max_length": int(lengths.max()),
        "gaps": {"num_missing_steps": fit.num_missing, "examples": _gap_examples(times, fit, names, text)},
        "duplicates": {"count": duplicates.count, "policy": duplicates.policy, "examples": duplicates.examples},
        "missing": {"count": cells - observed, "spellings": _null_spellings(plain, table, plan, cells - observed)},
        "suspects": _suspects(con, table, plan, parquet),
        "warnings": [*warnings],
        "items": [
            {
                "item_id": str(item),
                "start": starts[k],
                "end": ends[k],
                "length": int(lengths[k]),
                "missing": int(lengths[k]) - int(n),
            }
            for k, (item, _, n) in enumerate(items[:MOST_LISTED])
        ],
        "order": _order(plain, table, plan, clock),
    }


def _columns(table: Table, plan: Plan) -> dict[str, Any]:
    def named(indices: Sequence[int]) -> list[str]:
        return [table.names[i] for i in indices]

    stamp = named(plan.time.columns)
    return {
        "id": None if plan.id is None else table.names[plan.id],
        "timestamp": None if not stamp else stamp[0] if len(stamp) == 1 else stamp,
        "targets": named(plan.targets),
        "past_covariates": named(plan.past),
        "future_covariates": named(plan.future),
        "static": named(plan.static),
        "ignored": named(plan.ignored),
    }


def _suspects(con: duck.Connection, table: Table, plan: Plan, parquet: Path) -> list[dict[str, Any]]:
    """Suspect values, each with its column: in a wide file that is the series itself."""
    found = suspects.find(con, parquet)
    target = None if plan.layout is Layout.SERIES_PER_ROW else table.names[plan.targets[0]]
    several = plan.layout is Layout.LONG and len(plan.targets) > 1
    for suspect in found:
        item = suspect["item_id"]
        wide = plan.layout is Layout.WIDE
        suspect["column"] = item if wide else item.rpartition("/")[2] if several else target
    return found


def _stamp_label(plan: Plan) -> str:
    if plan.header_stamps is not None:
        return plan.header_stamps.label
    return plan.time.format.label


def _lengths(times: Times, fit: Fit) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """[S] steps of each grid from first to last time."""
    owner = np.repeat(np.arange(len(times.counts)), times.counts)
    return np.bincount(owner, weights=fit.steps, minlength=len(times.counts)).astype(np.int64) + 1


def _gap_examples(times: Times, fit: Fit, names: Sequence[str], text: Any) -> list[dict[str, Any]]:
    found = grid.examples_of_gaps(times, fit, names, most=MOST_LISTED)
    return [
        {
            "item_id": item or None,
            "after": text(np.array([before], dtype=np.int64))[0],
            "before": text(np.array([after], dtype=np.int64))[0],
            "missing_steps": missing,
        }
        for item, before, after, missing in found
    ]


def _null_spellings(plain: Plain, table: Table, plan: Plan, missing: int) -> dict[str, int]:
    """How missing values are spelled in the sample's target cells, with how often there; {} where none is missing."""
    if missing == 0 or plain.format != "csv":
        return {}
    seen: dict[str, int] = {}
    for row in table.sample:
        for i in plan.targets:
            text = row[i].strip()
            if text == "" or text in _NULLS:
                seen[text] = seen.get(text, 0) + 1
    return seen


def _order(plain: Plain, table: Table, plan: Plan, clock: Clock) -> str:
    """Whether times rise, fall or neither down the file, series by series; from the sample's head for large files."""
    if not plan.time.columns:
        return "oldest_first"
    ids = [] if plan.id is None else [plan.id]
    item = f"c{plan.id}" if plan.id is not None else "''"
    source = table.scan(ids=ids, rejects=f"order_{plan.layout.value}" if table.dialect else None)
    if plain.num_bytes > _WHOLE_ORDER_BYTES:
        source = f"(SELECT * FROM {source} LIMIT 100000)"
    row = table.con.execute(
        "SELECT count(*) FILTER (t > before), count(*) FILTER (t < before) FROM ("
        "SELECT t, lag(t) OVER (PARTITION BY i ORDER BY n) AS before FROM ("
        f"SELECT {item} AS i, {clock.sql} AS t, row_number() OVER () AS n FROM {source}) WHERE t IS NOT NULL)"
    ).fetchone()
    assert row is not None
    rising, falling = row
    if falling == 0:
        return "oldest_first"
    return "newest_first" if rising == 0 else "unsorted"
