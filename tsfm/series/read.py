"""Read a file of unknown make into the canonical Parquet and say what was understood, or refuse with every reason.

bytes → plain file (sniff) → table (dialect, sample) → plan (roles) → one sorted scan (scan)
      → grid (frequency, gaps, duplicates) → reading; anything wrong → rows and reasons (diagnose)
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tsfm.errors import DataError
from tsfm.series import diagnose, duck, grid, keys, reading, scan
from tsfm.series import freq as frequencies
from tsfm.series.freq import Frequency, Unit
from tsfm.series.grid import Fit, Times
from tsfm.series.options import Limits, ReadOptions
from tsfm.series.problems import MOST_LISTED, refusal
from tsfm.series.roles import Layout, Plan, make_plan
from tsfm.series.scan import Clock
from tsfm.series.sniff import Plain, open_plain
from tsfm.series.table import open_csv, open_parquet

_SPARSE = 20
"""A grid with more missing steps than this many times its points is taken for a wrong date, not for gaps."""


def read_file(
    path: Path, *, filename: str | None, options: ReadOptions, limits: Limits, out: Path, work_dir: Path
) -> dict[str, Any]:
    """Write the canonical Parquet at `out` and return the reading (see docs/data.md).

    `filename` is only repeated in the reading's warnings; what the file is, is judged from its bytes. Raises
    `DataError` with all problems at once, or `ConfigError` for an option that cannot be; then `out` is not written.
    """
    part = out.with_name(out.name + ".part")
    with tempfile.TemporaryDirectory(dir=work_dir) as scratch_name:
        scratch = Path(scratch_name)
        plain = open_plain(path, limits=limits, work_dir=scratch)
        con = duck.connect(
            directories=[plain.path.parent, out.parent],
            work_dir=scratch,
            memory_bytes=limits.memory_bytes,
            threads=limits.threads,
        )
        try:
            answer = _read(con, plain, options, limits, part)
            os.replace(part, out)
        except duck.BadInput as error:
            raise scan.scan_failure(error) from error
        finally:
            con.close()
            part.unlink(missing_ok=True)
    if filename and filename.lower().endswith((".xlsx", ".xls", ".json")):
        answer["warnings"].append(f"The file is called {filename!r} but holds {answer['format'].upper()}.")
    return answer


def _read(con: duck.Connection, plain: Plain, options: ReadOptions, limits: Limits, out: Path) -> dict[str, Any]:
    table = (open_csv if plain.format == "csv" else open_parquet)(con, plain, limits)
    given = frequencies.parse(options.freq) if options.freq else None
    plan = make_plan(table, options)
    clock = Clock(table, plan, options.timezone)
    warnings = [*table.warnings, *plan.warnings, *clock.warnings]
    scan.write_canonical(table, plan, clock, duplicates="error", out=out)
    found = diagnose.Diagnosis(table, plan, clock)
    nameless = plan.id is not None and table.dialect is not None and scan.has_nameless(con, out)
    if nameless or found.spells_missing():
        table.careful = True
        scan.write_canonical(table, plan, clock, duplicates="error", out=out)
    found.rejects()
    found.cells(out)
    found.never_was()
    names, times, num_cells = _load_times(con, plan, clock, out)
    if not len(times.counts):
        found.problems.refuse()
        raise refusal("header_only", "The file has no row with data.", "Add rows below the header.")
    _check_limits(names, num_cells, limits)
    repeated, duplicates = _duplicates(found, plan, clock, times, names, options.duplicates)
    if repeated and options.duplicates != "error" and not found.problems.listed:
        scan.write_canonical(table, plan, clock, duplicates=options.duplicates, out=out)
        _, times, _ = _load_times(con, plan, clock, out)
    times = _count_in_steps(con, times, clock, out, warnings)
    fit, evidence = _grid(found, plan, times, names, given, warnings, has_times=bool(plan.time.columns))
    found.problems.refuse()
    _check_content(con, plan, names, times, fit, limits, out)
    return reading.build(
        plain=plain,
        table=table,
        plan=plan,
        clock=clock,
        fit=fit,
        times=times,
        evidence=evidence,
        duplicates=duplicates,
        num_rows=len(names) if plan.layout is Layout.SERIES_PER_ROW else num_cells // len(plan.targets),
        parquet=out,
        warnings=warnings,
    )


def _load_times(con: duck.Connection, plan: Plan, clock: Clock, parquet: Path) -> tuple[list[str], Times, int]:
    """(item_ids, times of each series, points in the file); the columns of a wide file share one series of times."""
    source = f"read_parquet({duck.quote(str(parquet.resolve()))})"
    usable = "timestamp IS NOT NULL AND item_id IS NOT NULL"
    items = con.execute(
        f"SELECT item_id, count(*) FROM {source} WHERE {usable} GROUP BY item_id ORDER BY item_id"
    ).fetchall()
    names = [str(name) for name, _ in items]
    counts = np.array([n for _, n in items], dtype=np.int64)
    moment = "timestamp" if clock.is_integer else "epoch_us(timestamp)"
    total = int(counts.sum())
    if plan.layout is Layout.WIDE and names:
        usable += f" AND item_id = {duck.quote(names[0])}"
        counts = counts[:1]
    values = duck.columns(con, f"SELECT {moment} AS t FROM {source} WHERE {usable}")["t"]
    return names, Times(values=values.astype(np.int64), counts=counts, timezone=clock.timezone), total


def _check_limits(names: Sequence[str], num_cells: int, limits: Limits) -> None:
    if len(names) > limits.max_series:
        raise refusal(
            "too_many_series",
            f"The file holds {len(names):,} series; the limit is {limits.max_series:,}.",
            "Split it into several files.",
        )
    if num_cells > limits.max_rows:
        raise refusal(
            "too_many_rows",
            f"The file holds {num_cells:,} points; the limit is {limits.max_rows:,}.",
            "Split it into several files.",
        )


def _duplicates(
    found: diagnose.Diagnosis, plan: Plan, clock: Clock, times: Times, names: Sequence[str], policy: str
) -> tuple[bool, reading.Duplicates]:
    """Whether times repeat, and the report of it; with policy "error" their rows become problems."""
    same = grid.repeated(times)
    at = np.flatnonzero(same)[:MOST_LISTED]
    ends = np.cumsum(times.counts)
    places = [(names[int(np.searchsorted(ends, i, side="right"))], int(times.values[i])) for i in at]
    count = int(same.sum())
    if count and policy == "error" and not clock.missing:
        reason = "This time occurs more than once in its series."
        fix = "Remove the repeated rows, or say duplicates: first, last, mean or sum."
        if count * 20 > len(times.values):
            naming = keys.naming_columns(found.table, plan)
            fix = f"{keys.advice(naming)} Else remove{fix.removeprefix('Remove')}" if naming else fix
            if not naming and plan.layout is Layout.WIDE:
                fix += " If the file holds several series, say id_column."
        if clock.doubled:
            reason = f"This time occurs more than once; the clock of {clock.timezone} shows one hour a year twice."
        found.at_times(
            places,
            count=count,
            code="duplicate_timestamps",
            reason=reason,
            fix=f"Write offsets from UTC. {fix}" if clock.doubled else fix,
        )
    shown = frequencies.format_micros(
        np.array([t for _, t in places], dtype=np.int64), clock.timezone, integer=clock.is_integer
    )
    wide = plan.layout is Layout.WIDE
    examples = [
        {"item_id": None if wide else item, "timestamp": text} for (item, _), text in zip(places, shown, strict=True)
    ]
    return bool(count), reading.Duplicates(count=count, policy=policy, examples=examples)


def _count_in_steps(con: duck.Connection, times: Times, clock: Clock, out: Path, warnings: list[str]) -> Times:
    """An index that goes up by k is counted in steps of k, and said so."""
    if not clock.is_integer:
        return times
    inside = np.ones(len(times.values), dtype=np.bool_)
    inside[times.begins] = False
    jumps = np.diff(times.values, prepend=0)[inside]
    step = int(np.gcd.reduce(jumps)) if len(jumps) else 1
    if step <= 1:
        return times
    moved = out.with_name(out.name + ".steps")
    source = f"read_parquet({duck.quote(str(out.resolve()))})"
    try:
        con.execute(
            f"COPY (SELECT * REPLACE (CAST(floor(timestamp / {step}) AS BIGINT) AS timestamp) FROM {source}) "
            f"TO {duck.quote(str(moved.resolve()))} (FORMAT parquet, COMPRESSION zstd)"
        )
        os.replace(moved, out)
    finally:
        moved.unlink(missing_ok=True)
    warnings.append(f"The index goes up by {step}: points are numbered in steps of {step}.")
    return Times(values=np.floor_divide(times.values, step), counts=times.counts, timezone=None)


def _grid(
    found: diagnose.Diagnosis,
    plan: Plan,
    times: Times,
    names: Sequence[str],
    given: Frequency | None,
    warnings: list[str],
    *,
    has_times: bool,
) -> tuple[Fit, str]:
    """The frequency and how the times lie on it. Refuses series that disagree, and times that are irregular."""
    if found.clock.is_integer:
        if given is not None and given.unit is not Unit.INTEGER:
            raise refusal(
                "freq_without_times",
                f"freq {given.alias!r} needs times; the file has {'an integer' if has_times else 'no'} time column.",
                "Say timestamp_column, or leave freq out (series get an integer index).",
                param="freq",
            )
        fit = grid.lay(times, frequencies.parse("1"))
        why = "integer index: " + (
            "as in the file" if has_times else "the file has no time column; rows are counted from 0"
        )
        return fit, f"1: {why}."
    chosen = given or grid.infer(times)
    if given is not None:
        chosen = grid.settle_month_side(times, given)
        if chosen != given:
            warnings.append(f"freq {given.alias!r} was asked; the times lie on {chosen.alias!r}, which is used.")
    if chosen is None:
        found.problems.refuse()
        raise _irregular(found, times, names)
    fit = grid.lay(times, chosen)
    if given is None:
        _check_agreement(found, times, names, fit)
    off = np.flatnonzero(fit.off_grid)
    if len(off):
        ends = np.cumsum(times.counts)
        keys = [(names[int(np.searchsorted(ends, i, side="right"))], int(times.values[i])) for i in off[:MOST_LISTED]]
        found.at_times(
            keys,
            count=len(off),
            code="off_grid",
            reason=f"This time does not lie on the regular grid ({chosen.alias}) of its series.",
            fix="Say timezone, so that days begin with the clock of the place."
            if found.clock.several_offsets and chosen.is_calendar
            else "Correct it, resample the series, or say the freq that holds.",
        )
    short = int((times.counts < 3).sum())
    if short and len(times.counts) > 1:
        warnings.append(f"{short:,} series have fewer than 3 points and had no say in the frequency.")
    return fit, grid.describe(times, fit, given=given is not None)


def _check_agreement(found: diagnose.Diagnosis, times: Times, names: Sequence[str], fit: Fit) -> None:
    """Refuse series whose own frequency is another one, naming them."""
    others: list[tuple[str, str]] = []
    for i in fit.misfits:
        own = grid.classify(times.of(i), times.timezone)
        same = own is not None and (own.unit, own.multiple) == (fit.freq.unit, fit.freq.multiple)
        if not same:
            others.append((names[i], "irregular" if own is None else own.alias))
    if not others:
        return
    found.problems.refuse()
    if len(times.counts) == 1:
        raise _irregular(found, times, names)
    listed = ", ".join(f"{name!r} ({alias})" for name, alias in others[:MOST_LISTED])
    raise DataError(
        f"Most series step by {fit.freq.alias}, but {len(others):,} do not: {listed}. Send series of one frequency per "
        "file, resample those, or say freq.",
        code="mixed_freq",
        param="freq",
        details={"freq": fit.freq.alias, "series": [{"item_id": n, "freq": f} for n, f in others[:MOST_LISTED]]},
    )


def _irregular(found: diagnose.Diagnosis, times: Times, names: Sequence[str]) -> DataError:
    longest = int(times.counts.argmax())
    if times.counts[longest] < 2:
        return refusal(
            "too_few_points",
            f"The longest series has {int(times.counts[longest])} point; a frequency shows from 2 on.",
            "Give more history.",
        )
    steps, tally = np.unique(np.diff(np.unique(times.of(longest))), return_counts=True)
    common = ", ".join(
        f"{frequencies.from_span(int(steps[k])).alias} ({int(tally[k]):,} times)" for k in np.argsort(-tally)[:4]
    )
    return refusal(
        "irregular_timestamps",
        f"Times of {names[longest]!r} follow no regular step; the commonest differences are {common}.",
        "Say timezone, so that days begin with the clock of the place."
        if found.clock.several_offsets
        else "Resample the series to a regular step, or say the freq on whose grid they lie.",
        param="freq",
    )


def _check_content(
    con: duck.Connection, plan: Plan, names: Sequence[str], times: Times, fit: Fit, limits: Limits, out: Path
) -> None:
    """Refuse what is well-formed but cannot be used: nothing observed, one point, endless gaps."""
    source = f"read_parquet({duck.quote(str(out.resolve()))})"
    empty = con.execute(
        f"SELECT item_id FROM {source} GROUP BY item_id HAVING count(target) = 0 ORDER BY item_id"
    ).fetchall()
    if empty:
        listed = ", ".join(repr(str(row[0])) for row in empty[:MOST_LISTED])
        what = "columns" if plan.layout is Layout.WIDE else "series"
        raise refusal(
            "all_missing",
            f"These {what} hold no number at all ({len(empty):,}): {listed}.",
            "Leave them out (target_columns), or fill them in.",
            column=str(empty[0][0]),
        )
    if int(times.counts.max()) < 2:
        raise refusal(
            "too_few_points",
            f"No series has more than one point ({len(names):,} series).",
            "Give more history: the shortest usable series has a few times prediction_length points.",
        )
    columns = len(names) if plan.layout is Layout.WIDE else 1
    points, missing = len(times.values) * columns, fit.num_missing * columns
    if missing > _SPARSE * points + 1000 or points + missing > limits.max_rows:
        item, before, after, steps = grid.examples_of_gaps(times, fit, names, most=1)[0]
        span = frequencies.format_micros(
            np.array([before, after]), times.timezone, integer=fit.freq.unit is Unit.INTEGER
        )
        raise refusal(
            "too_sparse",
            f"On a grid of {fit.freq.alias} {missing:,} steps are missing beside {points:,} points; the longest gap, "
            f"of {steps:,} steps, lies between {span[0]} and {span[1]}{'' if columns > 1 else f' in {item!r}'}.",
            "Check those times for mistakes, or say a longer freq.",
            param="freq",
        )
