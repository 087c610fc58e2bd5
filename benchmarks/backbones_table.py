"""The figures of `backbones.py` as Markdown, and its ratios beside their bar."""

from collections.abc import Sequence
from typing import Any

from common import Row

BAR = 1.0
"""Ours ÷ the authors' code (issue 5)."""
COLUMNS = (
    "backbone",
    "parameters",
    "context → horizon",
    "forecast, batch 1",
    "batch 32",
    "batch",
    "step: full",
    "SFF",
    "TRACE",
    "peak: forecast",
    "full",
    "TRACE",
)
TRAINED = ("backbone", "full", "linear_probe", "lora", "trace")
BESIDE = ("backbone", "reference", "forecast, batch 1", "batch 32", "training step")


def markdown(cells: Sequence[dict[str, Any]]) -> str:
    """Three tables: cost, trainable parameters, and ours beside the authors' code."""
    if not cells:
        return "Nothing is measured yet."
    parts = [
        "Median (lowest) milliseconds; MB of the whole process at most.\n\n" + _table(COLUMNS, map(_cost, cells)),
        "Trained parameters (TRACE: of all its modules, before it keeps half of them).\n\n"
        + _table(TRAINED, map(_trained, cells)),
        "Ours ÷ theirs, median over rounds in which both took turns (theirs in milliseconds).\n\n"
        + _table(BESIDE, map(_beside, cells)),
    ]
    return "\n\n".join([*parts, _machine(cells)])


def ratios(cells: Sequence[dict[str, Any]]) -> list[Row]:
    """One row for each time that has a reference."""
    rows = []
    for cell in cells:
        times = cell["times"]
        measured = {f"forecast, batch {rows_}": found for rows_, found in times["forecasts"].items()}
        if "full" in times["steps"]:
            step = f"training step, batch {times['steps']['full']['batch']}"
            measured[step] = times["steps"]["full"]
            narrower = times["steps"]["full"].get("narrower", {})
            measured |= {f"{step}, {trained}": found for trained, found in narrower.items()}
        rows += [
            Row(
                question=f"{cell['name']}: {what} ÷ {times['reference']}",
                figure=found["ratio"],
                unit="×",
                bar=BAR,
                ours=f"{found['ms']:.1f} ms",
                baseline=f"{found['reference_ms']:.1f} ms",
                details={"size": cell["size"], "machine": cell["machine"], "rounds": found["rounds"]},
            )
            for what, found in measured.items()
            if "ratio" in found
        ]
    return rows


def _table(columns: Sequence[str], rows: Any) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cost(cell: dict[str, Any]) -> list[str]:
    times, peaks = cell["times"], cell["peak_mib"]
    steps = times["steps"]
    return [
        _name(cell),
        f"{times['parameters']:,}",
        f"{times['context']} → {times['horizon']}",
        *[_ms(times["forecasts"][rows]) for rows in ("1", "32")],
        str(steps["full"]["batch"]) if steps else "–",
        *[_ms(steps[name]) if name in steps else "–" for name in ("full", "sff", "trace")],
        *[f"{peaks[name]:,.0f}" if name in peaks else "–" for name in ("forecast", "full", "trace")],
    ]


def _trained(cell: dict[str, Any]) -> list[str]:
    counts = cell["times"]["trainable"]
    return [_name(cell), *[f"{counts[name]:,}" if name in counts else "–" for name in TRAINED[1:]]]


def _beside(cell: dict[str, Any]) -> list[str]:
    times = cell["times"]
    found = [times["forecasts"]["1"], times["forecasts"]["32"], times["steps"].get("full", {})]
    return [
        _name(cell),
        times["reference"],
        *[_ratio(one) for one in found],
    ]


def _ratio(found: dict[str, Any]) -> str:
    if "ratio" not in found:
        return "too large" if found.get("reference_too_large") else "–"
    others = [f"; {trained} {_ratio(narrower)}" for trained, narrower in found.get("narrower", {}).items()]
    apart = ", apart" if found.get("apart") else ""
    return "".join([f"**{found['ratio']:.2f}** ({_number(found['reference_ms'])}{apart})", *others])


def _name(cell: dict[str, Any]) -> str:
    return cell["name"] + ("" if cell["size"] == "published" else f" ({cell['size']})")


def _ms(found: dict[str, Any]) -> str:
    return f"{_number(found['ms'])} ({_number(found['lowest_ms'])})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _machine(cells: Sequence[dict[str, Any]]) -> str:
    """The facts in which the cells agree, and between which load averages they were measured."""
    machines = [cell["machine"] for cell in cells]
    shared = [f"{name} {machines[0][name]}" for name in ("cpu", "cores", "torch") if _same(machines, name)]
    loads = sorted(machine["load_average"][0] for machine in machines)
    days = sorted({machine["date"][:10] for machine in machines})
    threads = sorted({str(cell["times"]["threads"]) for cell in cells})
    return (
        f"{' to '.join([days[0], *days[1:][-1:]])}; {', '.join(shared)}; {', '.join(threads)} threads; "
        f"load average before each {loads[0]:.1f} to {loads[-1]:.1f}."
    )


def _same(machines: Sequence[dict[str, Any]], name: str) -> bool:
    return all(machine[name] == machines[0][name] for machine in machines)
