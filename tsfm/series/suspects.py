"""Values that look like a code for "missing" (-999, -9999, -200 …): reported, never changed."""

from pathlib import Path
from typing import Any

from tsfm.series import duck

_LOW = (-1.0, -9.0, -99.0, -99.9, -99.99, -200.0, -999.0, -999.9, -999.99, -9999.0, -9999.9, -99999.0, -32768.0)
_HIGH = (999.0, 9999.0, 99999.0, 999999.0, 32767.0, 65535.0, 1e20, 1e30, 9.96921e36)
_KNOWN = (*_LOW, -1e20, -1e30, *_HIGH)
_MOST = 100


def find(con: duck.Connection, parquet: Path) -> list[dict[str, Any]]:
    """Suspect values by series, commonest first: known codes outside what the series otherwise holds, and any value
    repeated at the far end of a series."""
    known = ", ".join(repr(v) for v in _KNOWN)
    source = (
        f"(SELECT item_id, target AS y FROM read_parquet({duck.quote(str(parquet.resolve()))}) WHERE isfinite(target))"
    )
    # The three smallest (largest) values are equal where an end of the series is repeated; few series pass this sieve.
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE sifted AS SELECT * FROM (
            SELECT item_id, min(y, 3) AS low, max(y, 3) AS high, count(*) FILTER (y IN ({known})) AS codes
            FROM {source} GROUP BY item_id
        ) WHERE codes > 0 OR (low[1] = low[3] AND low[1] < high[1]) OR (high[1] = high[3] AND low[1] < high[1])
    """)
    rows = con.execute(f"""
        WITH points AS (SELECT p.*, s.low[1] AS low, s.high[1] AS high FROM {source} p JOIN sifted s USING (item_id)),
        codes AS (
            SELECT item_id, y, count(*) AS n, y IN ({known}) AS known FROM points
            WHERE y IN ({known}) OR y = low OR y = high GROUP BY item_id, y HAVING known OR n >= 3
        ),
        rest AS (
            SELECT p.item_id, min(p.y) AS low, max(p.y) AS high, count(*) AS n
            FROM points p ANTI JOIN codes c ON c.item_id = p.item_id AND c.y = p.y GROUP BY p.item_id
        )
        SELECT c.item_id, c.y, c.n, c.known, r.low, r.high, r.n FROM codes c JOIN rest r USING (item_id)
        ORDER BY c.n DESC, c.item_id, c.y
    """).fetchall()
    found = []
    for item, value, count, is_known, low, high, others in rows:
        reason = _reason(value, count, bool(is_known), low, high, others)
        if reason is not None:
            found.append({"item_id": item, "value": value, "count": count, "reason": reason})
    return found[:_MOST]


def _reason(value: float, count: int, known: bool, low: float, high: float, others: int) -> str | None:
    """Why the value is suspect beside `others` values in [low, high]; None when it is not."""
    distance = low - value if value < low else value - high
    if distance <= 0:
        return None
    spread = high - low
    span = f"the other {others:,} values lie between {low:g} and {high:g}"
    if known and (distance > spread > 0 or (spread == 0 and abs(value) >= 99)):
        return f"a usual code for 'missing', and {span}"
    if known and value < 0 <= low and count >= 2:
        return f"a usual code for 'missing', {count:,} times, and {span}"
    if not known and count >= 3 and spread > 0 and distance > 3 * spread and value == round(value):
        return f"far from the rest and repeated {count:,} times: {span}"
    return None
