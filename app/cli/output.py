"""How answers look in a terminal. Results go to stdout, everything said along the way to stderr."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.cli.client import CommandError, Refused

# Names of models hold colons: `ft:…:x:…` must not become an emoji.
out = Console(highlight=False, emoji=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

PROBLEM_COLUMNS = ("row", "column", "param", "value", "reason", "message", "fix")
FULL_WIDTH = 500
METRICS = (("mase", "MASE"), ("mae", "MAE"), ("wql", "WQL"))
SERIES_SHOWN = 5
BASES = {"table": "from the catalogue", "measured": "measured"}


def say(message: str) -> None:
    err.print(escape(message))


def print_json(value: Any, *, to_stderr: bool = False, indent: int | None = 2) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=indent), err=to_stderr)


def table(*columns: str, title: str | None = None) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", padding=(0, 2, 0, 0))
    for column in columns:
        name = column.removesuffix(">")
        made.add_column(name, justify="right" if column != name else "left", overflow="fold")
    return made


def print_table(shown: Table, *, to: Console = out, fold: bool = False) -> None:
    """Ids and names stay whole, so that they can be copied: a row that is too long is left to the terminal to wrap.

    `fold` breaks long cells instead, where they hold sentences; in a pipe nothing is ever folded.
    """
    if fold and to.is_terminal:
        to.print(shown)
    else:
        options = to.options.update(width=FULL_WIDTH, max_width=FULL_WIDTH)
        for line in to.render_lines(shown, options, pad=False):
            to.print(Text.assemble(*((part.text, part.style or "") for part in line)), overflow="ignore", no_wrap=True)


def row(target: Table, *cells: Any, style: str | None = None) -> None:
    target.add_row(*("–" if cell is None else escape(str(cell)) for cell in cells), style=style)


def moment(value: Any) -> str | None:
    """A time of the API (seconds since 1970, or ISO text) for a human."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return value[:19].replace("T", " ") if isinstance(value, str) else None


def number(value: Any, digits: int = 4) -> str | None:
    return None if value is None else f"{value:.{digits}g}"


def print_failure(failure: CommandError) -> None:
    err.print(f"[bold red]error:[/] {escape(failure.message)}")
    if isinstance(failure, Refused):
        _print_details(failure)
    if failure.mend:
        err.print(f"  [dim]mend[/]   {escape(failure.mend)}")


def _print_details(refused: Refused) -> None:
    error = refused.error
    if error.get("param"):
        err.print(f"  [dim]where[/]  {escape(str(error['param']))}")
    err.print(f"  [dim]code[/]   {escape(str(error.get('code')))} (HTTP {refused.status}; see docs/errors.md)")
    details = error.get("details") or {}
    problems = details.get("problems") or []
    if problems:
        _print_problems(problems, int(details.get("num_problems") or len(problems)))
    for name, value in details.items():
        if name not in {"problems", "num_problems", "known"}:
            err.print(f"  [dim]{escape(name)}[/]  {escape(str(value))}")
    if refused.status >= 500 and refused.request_id:
        err.print(f"  [dim]request[/]  {escape(refused.request_id)}")


def _print_problems(problems: Sequence[Mapping[str, Any]], total: int) -> None:
    columns = [name for name in PROBLEM_COLUMNS if any(problem.get(name) is not None for problem in problems)]
    shown = table(*columns)
    for problem in problems:
        row(shown, *(problem.get(name) for name in columns))
    print_table(shown, to=err, fold=True)
    if total > len(problems):
        err.print(f"  … and {total - len(problems)} more")


def print_reading(file: Mapping[str, Any]) -> None:
    """What the service understood of an uploaded file."""
    reading = file.get("reading") or {}
    if not reading:
        say(f"{file['filename']}: {file['status']}")
        return
    span = f", {reading['start']} to {reading['end']}" if reading.get("start") is not None else ""
    say(
        f"{file['filename']}: {reading['num_series']} series, {reading['num_points']:,} points, "
        f"freq {reading['freq']}{span} ({reading['layout']} layout)"
    )
    gaps = (reading.get("gaps") or {}).get("num_missing_steps") or 0
    if gaps:
        say(f"  gaps: {gaps} steps have no row; they are missing values, never filled in")
    for suspect in (reading.get("suspects") or [])[:SERIES_SHOWN]:
        place = suspect.get("column") or suspect.get("item_id")
        say(f"  suspect: {place} holds {suspect['value']} {suspect['count']} times: {suspect['reason']}")
    for warning in reading.get("warnings") or []:
        say(f"  note: {warning}")


def print_verdict(job: Mapping[str, Any]) -> None:
    """The comparison on history the job never trained on, and what follows from it."""
    candidates = job.get("candidates") or []
    verdict = job.get("verdict") or {}
    if candidates:
        print_table(_comparison(job, candidates, verdict.get("winner")))
    if verdict.get("reason"):
        out.print(f"\n[bold]Verdict[/]  {escape(verdict['reason'])}")
    model = job.get("fine_tuned_model")
    if job.get("refit_version"):
        out.print(f"{escape(str(model))}@{job['refit_version']} is the same recipe on all history; nobody judged it.")
    if model and verdict.get("fallback"):
        # Nothing but a passed gate moves `production`: an incumbent that was beaten stays, too.
        stays = model == job.get("register_as") and "incumbent" in ((job.get("gate") or {}).get("versus") or {})
        instead = candidate_name(job, "incumbent" if stays else verdict["fallback"])
        out.print(f"The name {escape(model)} therefore answers with {escape(instead)};")
        judged = "routed forecaster" if (job.get("gate") or {}).get("winner") == "routed" else "tuned weights"
        out.print(f"{escape(model)}@{job['model_version']} always serves the {judged}.")
    if held := _held(job):
        out.print(escape(held))
    if cost := _cost(job):
        out.print(f"[dim]{escape(cost)}[/]")


def _held(job: Mapping[str, Any]) -> str | None:
    """What the tuned weights' intervals covered of the test block."""
    found = (job.get("calibration") or {}).get("coverage") or {}
    shares = [
        f"{100 * value:.1f} % inside its {share} % interval" for share, value in found.items() if value is not None
    ]
    return f"Of the test block, the tuned model held {' and '.join(shares)}." if shares else None


def _cost(job: Mapping[str, Any]) -> str | None:
    """What the run took, beside what it was expected to."""
    timing, estimate = job.get("timing") or {}, job.get("estimate") or {}
    if timing.get("seconds") is None:
        return None
    took = f"Took {duration(timing['seconds'])} and {megabytes(timing.get('peak_memory_bytes'))}"
    if estimate.get("seconds") is None:
        return f"{took}."
    expected = f"{duration(estimate['seconds'])} and {megabytes(estimate['memory_bytes'])}"
    return f"{took}; expected were {expected} ({BASES[estimate['basis']]})."


def print_estimate(shown: Mapping[str, Any]) -> None:
    """The answer to a dry run."""
    estimate, method = shown["estimate"], shown["method"]
    options = ", ".join(f"{name} {value}" for name, value in method.items() if name not in ("type", "chosen") and value)
    out.print(
        escape(
            f"{shown['model']}, {method['type']}" + (f" ({options})" if options else "") + f", context "
            f"{shown['context_length']} → {shown['prediction_length']} steps, freq {shown['freq']}"
        )
    )
    trained = estimate["trainable_parameters"]
    facts = {
        "time": duration(estimate["seconds"]),
        "memory": megabytes(estimate["memory_bytes"]),
        "windows": f"{estimate['windows']:,}",
        "steps at most": f"{estimate['steps']:,}",
        "trained parameters": "–" if trained is None else f"{trained:,}",
        "basis": BASES[estimate["basis"]] + (f" on {estimate['device']}" if estimate["device"] else ""),
    }
    for name, value in facts.items():
        out.print(f"  [dim]{name:<20}[/]{value}")
    if estimate["note"]:
        say(estimate["note"])


def duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def megabytes(count: int | None) -> str | None:
    return None if count is None else f"{count / 1e6:,.0f} MB"


def _comparison(job: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], winner: str | None) -> Table:
    metrics = [(key, name) for key, name in METRICS if any(_metric(c, "test", key) is not None for c in candidates)]
    judged = bool(metrics)
    block = "test" if judged else "validation"
    columns = ["model", "validation MASE>", *(f"{block} {name}>" for _, name in metrics)]
    shown = table(*columns, *(["vs zero-shot>"] if judged else []))
    baseline = next((_metric(c, "test", "mase") for c in candidates if c["name"] == "zero_shot"), None)
    order = sorted(candidates, key=lambda c: _or_worst(_metric(c, block, "mase")))
    for candidate in order:
        cells = [number(_metric(candidate, "validation", "mase"))]
        cells += [number(_metric(candidate, "test", key)) for key, _ in metrics]
        if judged:
            cells.append(_gain(_metric(candidate, "test", "mase"), baseline))
        style = "bold green" if candidate["name"] == winner else None
        row(shown, candidate_name(job, candidate["name"]), *cells, style=style)
    return shown


def _metric(candidate: Mapping[str, Any], block: str, name: str) -> float | None:
    value = (candidate.get(block) or {}).get(name)
    return None if value is None else float(value)


def _or_worst(error: float | None) -> float:
    return float("inf") if error is None else error


def _gain(error: float | None, baseline: float | None) -> str | None:
    if error is None or not baseline:
        return None
    return f"{100 * (error / baseline - 1):+.1f} %"


def candidate_name(job: Mapping[str, Any], name: str) -> str:
    """A candidate in words: "tuned" becomes the method, "zero_shot" the backbone it is."""
    backbone = str(job.get("model") or "the backbone")
    method = job.get("method") or {}
    kind = method.get("type", "tuned") if isinstance(method, Mapping) else str(method)
    if kind == "auto" and method.get("chosen"):
        kind = f"auto: {method['chosen']}"
    words = {"tuned": f"tuned ({kind})", "zero_shot": f"zero-shot {backbone}"}
    return words.get(name, name.replace("_", " "))
