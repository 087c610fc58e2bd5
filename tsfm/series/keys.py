"""Which columns could tell apart rows of one time; asked only when a file is about to be refused for repeated times."""

from collections.abc import Sequence
from itertools import combinations

from tsfm.series.columns import Kind, profile
from tsfm.series.roles import Plan
from tsfm.series.table import Table

_MOST_CANDIDATES = 6
_MOST_JOINED = 3


def naming_columns(table: Table, plan: Plan) -> list[str]:
    """The fewest columns (the id column found included) that, with the time, occur once; [] where there are none."""
    if not plan.time.columns:
        return []
    found = [c for c in profile(table) if c.index not in {*plan.time.columns, plan.id}]
    usable = [c for c in found if c.kind is Kind.TEXT or (c.whole and not c.names_target and not c.names_value)]
    grouping = [c for c in usable if 1 < c.num_distinct * 2 < len(table.sample)]
    chosen = sorted(grouping, key=lambda c: not (c.could_name_id or c.names_id))[:_MOST_CANDIDATES]
    own = () if plan.id is None else (plan.id,)
    for size in range(1, _MOST_JOINED + 1):
        sets = list(combinations([c.index for c in sorted(chosen, key=lambda c: c.index)], size))
        best = _first_unique(table, plan, [(*own, *columns) for columns in sets])
        if best is not None:
            return [table.names[i] for i in best]
    return []


def advice(names: Sequence[str]) -> str:
    """How to mend it, as a sentence."""
    if len(names) == 1:
        return f"If column {names[0]!r} names the series, say id_column {names[0]!r}."
    listed = ", ".join(map(repr, names))
    return f"Columns {listed} together tell the rows apart: join them into one column and say id_column."


def _first_unique(table: Table, plan: Plan, sets: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    if not sets:
        return None
    stamp = plan.time.text_sql()
    keys = [" || chr(31) || ".join([stamp, *(f"coalesce(c{i}, '')" for i in columns)]) for columns in sets]
    rows, *distinct = table.ask(f"count({stamp}), " + ", ".join(f"count(DISTINCT {key})" for key in keys))
    return next((columns for columns, n in zip(sets, distinct, strict=True) if n == rows), None)
