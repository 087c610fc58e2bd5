"""The Markdown and the bars of `anomaly.py`, made from its cells."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from bootstrap import Difference, paired_difference
from common import Row

Cell = Mapping[str, Any]
FIGURES = ("vus_pr", "vus_roc", "auc_pr")
SEED = 0
APART = "SMAP and MSL, degenerate"
"""Channels that are constant or have two values in train, listed apart (evaluation.md §11)."""
WAYS = ("point", "smoothed", "without level", "with level")
DIFFERENCES = (
    ("zero-shot", "zero-shot", "point", "point"),
    ("seasonal z-score", "seasonal z-score", "point", "point"),
    ("zero-shot, both smoothed", "zero-shot", "smoothed", "smoothed"),
    ("seasonal z-score, both smoothed", "seasonal z-score", "smoothed", "smoothed"),
    ("zero-shot, both without the level", "zero-shot", "without level", "point"),
    ("zero-shot, both with the level", "zero-shot", "point", "with level"),
)
"""Label, other method, way of `auto`, way of the other."""


def markdown(cells: Sequence[Cell]) -> str:
    """Mean figures by set and method, the differences that claims are about, and the false alarms."""
    parts = [_means(cells, name) for name in ("NAB", "SMAP", "MSL", "UCR") if _of(cells, name)]
    apart = [{**c, "set": APART, "degenerate": None} for c in cells if c.get("degenerate") and c.get("point")]
    if apart:
        parts.append(_means(apart, APART))
    return "\n\n".join([*parts, _ucr(cells), _differences(cells), _alarms(cells)])


def rows(cells: Sequence[Cell]) -> list[Row]:
    """The bars: tuned above zero-shot and above the seasonal z-score; false alarms at level 99."""
    found = []
    for sets, label in ((("NAB",), "NAB"), (("SMAP", "MSL"), "SMAP and MSL")):
        for other in ("zero-shot", "seasonal z-score"):
            if (gap := difference(cells, sets, other, way="point")) is not None:
                question = f"{label}: mean VUS-PR of auto − {other} ({gap.low:+.3f} to {gap.high:+.3f})"
                found.append(Row(question=question, figure=gap.mean, unit="", bar=0.0, higher_is_better=True))
    rate = pooled_rate(cells)
    if rate is not None:
        found.append(
            Row(
                question="false alarms at level 99, pooled, off 1 %",
                figure=100 * abs(rate - 0.01),
                unit="points",
                bar=0.5,
            )
        )
    return found


def _of(cells: Iterable[Cell], *sets: str) -> list[Cell]:
    """Cells with labels, without degenerate series."""
    return [c for c in cells if c["set"] in sets and c.get("point") and not c.get("degenerate")]


def _by_series(cells: Sequence[Cell], sets: Sequence[str], method: str, way: str) -> dict[str, float]:
    return {c["series"]: c[way]["vus_pr"] for c in _of(cells, *sets) if c["method"] == method and c.get(way)}


def difference(
    cells: Sequence[Cell], sets: Sequence[str], other: str, *, way: str, other_way: str | None = None
) -> Difference | None:
    """Mean VUS-PR of `auto` less that of another method over the series that both have; ways as in `WAYS`."""
    mine, theirs = _by_series(cells, sets, "auto", way), _by_series(cells, sets, other, other_way or way)
    shared = sorted(mine.keys() & theirs.keys())
    if len(shared) < 2:
        return None
    return paired_difference([mine[n] for n in shared], [theirs[n] for n in shared], seed=SEED)


def _means(cells: Sequence[Cell], name: str) -> str:
    mine = _of(cells, name)
    number = len({c["series"] for c in mine})
    lines = [
        f"**{name}**, {number} series with anomalies",
        "",
        "| method | VUS-PR | VUS-ROC | AUC-PR | range F1 | affiliation F1 | *point-adjusted F1* |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(c["method"] for c in mine):
        own = [c for c in mine if c["method"] == method]
        for way in WAYS:
            if all(c.get(way) for c in own):
                label = method if way == "point" else f"{method}, {way}"
                lines.append(f"| {label} | {' | '.join(_cells(own, way))} |")
    return "\n".join(lines)


def _cells(own: Sequence[Cell], way: str) -> list[str]:
    shown = [f"{np.mean([c[way][figure] for c in own]):.3f}" for figure in FIGURES]
    if way == "point" and all(c.get("found") for c in own):
        at_line = ("range_f1", "affiliation_f1", "point_adjusted_f1")
        return [*shown, *(f"{np.mean([c['found'][figure] for c in own]):.3f}" for figure in at_line)]
    return [*shown, "–", "–", "–"]


def _ucr(cells: Sequence[Cell]) -> str:
    """By the conventions of the papers that report UCR (papers.md §1.8 and §2.6), file by file."""
    lines = ["| UCR | method | rank of the hit | adjusted best F1 (an oracle) |", "|---|---|---|---|"]
    for c in (c for c in cells if c.get("ucr")):
        found = c["ucr"]
        rank = f"{found['rank']} of {found['segments']}"
        lines.append(f"| {c['series']} | {c['method']} | {rank} | {found['adjusted_best_f1']:.3f} |")
    return "\n".join(lines)


def _differences(cells: Sequence[Cell]) -> str:
    lines = ["| mean VUS-PR of `auto` less | NAB | SMAP and MSL |", "|---|---|---|"]
    for label, other, way, other_way in DIFFERENCES:
        gaps = [difference(cells, sets, other, way=way, other_way=other_way) for sets in (("NAB",), ("SMAP", "MSL"))]
        shown = ["–" if g is None else f"{g.mean:+.3f} [{g.low:+.3f}, {g.high:+.3f}]" for g in gaps]
        lines.append(f"| {label} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def _jobs(cells: Sequence[Cell]) -> list[Cell]:
    return [c for c in cells if c["method"] == "auto" and (c.get("detection") or {}).get("false_alarms")]


def pooled_rate(cells: Sequence[Cell]) -> float | None:
    """Share of points above the line at level 99 over all jobs' test blocks, every point weighing the same."""
    jobs = _jobs(cells)
    points = [c["detection"]["drift"]["points"] for c in jobs]
    rates = [c["detection"]["false_alarms"]["99"] for c in jobs]
    return float(np.average(rates, weights=points)) if jobs else None


def _alarms(cells: Sequence[Cell]) -> str:
    lines = [
        "| job | chosen | test points | alarms at 90 % | at 99 % ± block error | null scores | drifted |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in _jobs(cells):
        found = c["detection"]
        drift, rates, errors = found["drift"], found["false_alarms"], found.get("standard_errors") or {}
        error = errors.get("99")
        shown = f"{100 * rates['99']:.2f} %" + ("" if error is None else f" ± {100 * error:.2f}")
        is_drifted = {True: "yes", False: "no", None: "–"}[drift["drifted"]]
        lines.append(
            f"| {c['group']} | {found['chosen']} | {drift['points']:,} | {100 * rates['90']:.1f} % | {shown} "
            f"| {found['num_scores']:,} | {is_drifted} |"
        )
    for name in dict.fromkeys(c["set"] for c in _jobs(cells)):
        rate = pooled_rate([c for c in cells if c["set"] == name])
        lines.append(f"| *{name}, pooled* | | | | *{100 * (rate or 0.0):.2f} %* | | |")
    rate = pooled_rate(cells)
    if rate is not None:
        lines.append(f"| **all, pooled by points** | | | | **{100 * rate:.2f} %** | | |")
    return "\n".join(lines)
