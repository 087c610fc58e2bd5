"""The tables of `reproduce.py`: what is done, beside IBM's figures, with what the seeds can and cannot tell apart."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

IBM_FEW_SHOT = {"ETTh1": 0.36197, "ETTh2": 0.27278, "ETTm1": 0.34084, "ETTm2": 0.17623, "weather": 0.15043}
"""IBM's own 5 % figures for TTM-R2, 512 → 96, unrounded (evaluation.md §9)."""
SFF_AUTHORS: dict[tuple[str, float], dict[str, dict[str, float]]] = {
    ("timer-v1-forecast", 0.25): {
        "sff": {"exchange_rate": 0.0805, "ETTh1": 0.3506, "ETTm1-70-10-20": 0.2980, "weather": 0.1440},
        "full": {"exchange_rate": 0.0865, "ETTh1": 0.3550, "ETTm1-70-10-20": 0.3049, "weather": 0.1472},
        "scratch": {"exchange_rate": 0.1441, "ETTh1": 0.3788, "ETTm1-70-10-20": 0.3330, "weather": 0.1627},
    },
    ("timer-v1-forecast", 1.0): {
        "sff": {"exchange_rate": 0.0800, "ETTh1": 0.3547, "ETTm1-70-10-20": 0.2954, "weather": 0.1443},
        "full": {"exchange_rate": 0.0910, "ETTh1": 0.3709, "ETTm1-70-10-20": 0.3128, "weather": 0.1612},
        "scratch": {"exchange_rate": 0.0981, "ETTh1": 0.3600, "ETTm1-70-10-20": 0.3093, "weather": 0.1526},
    },
    ("moment-large", 1.0): {
        "sff": {"ETTh1": 0.4287, "weather": 0.1673},
        "full": {"ETTh1": 0.4454, "weather": 0.1682},
    },
}
"""What SFF's authors report at 96 steps (papers.md §2.7), the epoch picked on test, by backbone and share of train."""
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Two-sided 95 % points of Student's t, by number of seeds."""
MIN_SEEDS = 5
PAIRS = (("sff", "full"), ("trace", "full"), ("sff, as published", "full, as published"))
"""Methods that claims are about, and what they are compared with."""
Line = Mapping[str, Any]
Cells = dict[str, dict[str, list[Line]]]
"""Set → method → its seeds."""


def load(path: Path) -> list[dict[str, Any]]:
    """Every cell so far; [] where there is none."""
    if not path.exists():
        return []
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def print_tables(lines: Sequence[Line]) -> None:
    print(tables(lines))


def tables(lines: Sequence[Line]) -> str:
    """One section per backbone, context, horizon, fraction and mode, in the order in which they were begun."""
    sections: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        named = (line["backbone"], line.get("context"), line["horizon"], line["fraction"], line["fraction_mode"])
        sections.setdefault(named, []).append(line)
    return "\n\n".join(_section(*name, found) for name, found in sections.items())


def _section(
    backbone: str, context: int | None, horizon: int, fraction: float, mode: str, lines: Sequence[Line]
) -> str:
    cells: Cells = {}
    latest = {(line["set"], line["method"], line["seed"]): line for line in lines}  # a recipe may have been changed
    for line in latest.values():
        cells.setdefault(line["set"], {}).setdefault(line["method"], []).append(line)
    methods = list(dict.fromkeys(line["method"] for line in lines))
    few_shot = backbone == "ttm-r2" and horizon == 96 and fraction == 0.05 and mode == "first"
    read = "" if context is None else f", context {context}"
    title = f"{backbone}{read}, horizon {horizon}, {fraction:.0%} of train ({mode})"
    published = _published(backbone, horizon, fraction, mode)
    parts = [
        f"**{title}: test MSE, every window; mean ± deviation over seeds**",
        "",
        _errors(cells, methods, published),
    ]
    parts += ["", f"**{title}: claims**", "", *(f"- {claim}" for claim in _claims(cells, few_shot))]
    return "\n".join(parts)


def _published(backbone: str, horizon: int, fraction: float, mode: str) -> list[tuple[str, str, dict[str, float]]]:
    """Figures of the same protocol, for the last rows: whose, trainable parameters, by set."""
    if backbone == "ttm-r2" and horizon == 96 and fraction == 0.05 and mode == "first":
        return [("IBM, tuned on 5 %", "289,696", IBM_FEW_SHOT)]
    if horizon != 96 or (mode == "first" and fraction < 1):
        return []
    return [(f"SFF's authors, `{method}`", "", by) for method, by in SFF_AUTHORS.get((backbone, fraction), {}).items()]


def _errors(cells: Cells, methods: Sequence[str], published: Iterable[tuple[str, str, dict[str, float]]]) -> str:
    rows = [["method", "trainable", *cells], ["---"] * (2 + len(cells))]
    for method in methods:
        done = {name: by_method.get(method, []) for name, by_method in cells.items()}
        some = next(found for found in done.values() if found)
        trained = some[0].get("trainable_parameters", 0)
        rows.append([f"`{method}`", f"{trained:,}", *(spread([x["mse"] for x in found]) for found in done.values())])
        if any("best_epoch" in x for found in done.values() for x in found):
            best = [[x["best_epoch"]["mse"] for x in found if "best_epoch" in x] for found in done.values()]
            rows.append([f"`{method}`, epoch picked on test", "", *(f"*{spread(v)}*" if v else "" for v in best)])
    for whose, parameters, by_set in published:
        rows.append([whose, parameters, *(f"{by_set[name]:.5f}" if name in by_set else "" for name in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _claims(cells: Cells, few_shot: bool) -> Iterable[str]:
    for name, found in cells.items():
        mse = {method: [x["mse"] for x in seeds] for method, seeds in found.items()}
        for method in (ours for ours, _ in PAIRS):
            if method in mse and "zero_shot" in mse:
                bars = {"zero-shot": mse["zero_shot"][0]}
                if few_shot:
                    bars["IBM's figure"] = IBM_FEW_SHOT[name]
                yield f"{name}: `{method}` {won(mse[method], bars)}"
        for method, other in PAIRS:
            if method in found and other in found:
                yield f"{name}: `{method}` against `{other}`: {against(found[method], found[other])}"


def won(values: Sequence[float], bars: Mapping[str, float]) -> str:
    """A win is a mean over at least five seeds below every bar by more than one standard error (evaluation.md §9)."""
    told = ", ".join(f"{bar} {value:.5f}" for bar, value in bars.items())
    mean = statistics.mean(values)
    if len(values) < MIN_SEEDS:
        return f"{mean:.5f} on {len(values)} of {MIN_SEEDS} seeds; {told}: not judged yet."
    error = statistics.stdev(values) / math.sqrt(len(values))
    verdict = "**wins**" if all(mean + error < bar for bar in bars.values()) else "does not win"
    return f"{mean:.5f} (standard error {error:.5f}) {verdict}; {told}."


def against(ours: Sequence[Line], theirs: Sequence[Line]) -> str:
    """Seed by seed on the same test windows; what a 95 % interval of the difference cannot tell is a tie."""
    other = {line["seed"]: line["mse"] for line in theirs}
    gaps = [line["mse"] - other[line["seed"]] for line in ours if line["seed"] in other]
    if len(gaps) < 2:
        return "not enough seeds yet."
    mean, half = statistics.mean(gaps), T_95[len(gaps)] * statistics.stdev(gaps) / math.sqrt(len(gaps))
    word = "tie" if abs(mean) <= half else "below" if mean < 0 else "above"
    return f"{word} ({mean:+.5f} ± {half:.5f}, {len(gaps)} seeds)."


def spread(values: Sequence[float]) -> str:
    """Mean ± deviation, and how many seeds where not five."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.5f}"
    few = "" if len(values) == MIN_SEEDS else f" ({len(values)})"
    return f"{statistics.mean(values):.5f} ± {statistics.stdev(values):.5f}{few}"
