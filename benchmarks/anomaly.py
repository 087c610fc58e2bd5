"""Do anomaly scores find what people labelled, and are alarms as rare on normal data as they are said to be?

    python benchmarks/anomaly.py                     the stated subset: NAB, SMAP and MSL whole, three tuning methods
    python benchmarks/anomaly.py --full              every method of every group, too
    python benchmarks/anomaly.py --fresh             again from the start
    python benchmarks/anomaly.py --table             the tables of what is done

Labels choose nothing. A model is tuned per group (NAB: folder; SMAP; MSL; UCR: file) on the pooled train parts of its
series, by the product's own job (`task: anomaly_detection`), and scores what follows; `auto` is the one that claims are
about. Points are ranked by their severity, since p-values end at 1 ÷ (n + 1) (evaluation.md §11). VUS, ROC and range
figures are TSB-AD's (extra "benchmarks"). A row "smoothed" is the same score, squared, averaged over windows as
sub-PCA's is, for methods that judge single points; the rows "without level" and "with level" are a job's severity
without what it remembers of train, and zero-shot's with it. False alarms are counted on each job's own test block:
the end of the train parts, which nothing was fitted on and nobody labelled an anomaly in; and on ETT.
One JSON line a cell in `results/anomaly_cells.jsonl`; a second call skips what is done. Series of a group are shared
among processes, one thread each.
"""

import argparse
import concurrent.futures
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomaly_baselines import BASELINES, period_of, smoothed, width_of
from anomaly_metrics import (
    AbsentLibrary,
    adjusted_best_f1,
    first_hit,
    found,
    lowest_where_undefined,
    ranking,
    window_length,
)
from anomaly_sets import Labelled, data_folder, nab, smap_msl, ucr
from anomaly_table import markdown, rows
from common import RESULTS, Row, append, facts, run
from numpy.typing import NDArray
from sets import TABLE, panels

from tsfm import finetune
from tsfm.request import FinetuneRequest
from tsfm.scores import ScoringAsk, SeriesScores
from tsfm.series.frame import SeriesFrame
from tsfm.severity import severity
from tsfm.tasks.anomaly import begin
from tsfm.tasks.forecast import Forecaster

CONTEXT, HORIZON, LEVEL = 256, 24, 99.0
SEGMENT = 96
"""Rows of a segment that is ranked on UCR, as Timer and SFF have it."""
TRIED = ("auto", "sff", "trace")
ALL = (*TRIED, "full", "lora", "linear_probe", "scratch")
BOTH_WAYS = ("zero-shot", "auto", "seasonal z-score")
"""Methods that are shown smoothed, too, and scores with the level on and off."""
ETT = {"ETTh1": "h", "ETTh2": "h", "ETTm1": "15min", "ETTm2": "15min"}
Floats = NDArray[np.float64]


def main() -> None:
    run("anomaly", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sets", nargs="+", default=["nab", "smap_msl", "ucr", "ett"])
    parser.add_argument("--methods", nargs="+", default=list(TRIED), choices=["all", *ALL])
    parser.add_argument("--full", action="store_true", help="every method, as --methods all")
    parser.add_argument("--backbone", default="temper-tiny")
    parser.add_argument("--scoring", default=None, help="default: the backbone's own")
    parser.add_argument("--budget-seconds", type=float, default=40.0, help="of each job's training")
    parser.add_argument("--series", type=int, default=0, help="of each group at most; 0: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cells", type=Path, default=RESULTS / "anomaly_cells.jsonl", help="what is done")
    parser.add_argument("--fresh", action="store_true", help="forget what is done")
    parser.add_argument("--table", action="store_true", help="measure nothing")


def measure(options: argparse.Namespace) -> list[Row]:
    methods = list(ALL) if options.full or "all" in options.methods else options.methods
    if options.fresh:
        options.cells.unlink(missing_ok=True)
    if not options.table:
        _measure_all(options, methods)
    cells = [json.loads(line) for line in options.cells.read_text(encoding="utf-8").splitlines()]
    print(markdown(cells))
    return rows(cells)


def _measure_all(options: argparse.Namespace, methods: Sequence[str]) -> None:
    done = _done(options.cells)
    work = [(group, [*BASELINES, "zero-shot", *methods]) for group in _groups(options)]
    tasks = [
        (group, method)
        for group, named in work
        for method in named
        if (group[0].group if group[0].group != "UCR" else group[0].name, method) not in done
    ]
    jobs: list[tuple[Any, ...]] = [(_group_cells, group, method, options) for group, method in tasks]
    if "ett" in options.sets:
        jobs += [(_ett_cells, name, options) for name in ETT if (name, "auto") not in done]
    with concurrent.futures.ProcessPoolExecutor(options.processes) as pool:
        waiting = [pool.submit(*job) for job in jobs]
        failed: list[BaseException] = []
        for future in concurrent.futures.as_completed(waiting):
            if (error := future.exception()) is not None:
                failed.append(error)  # what the others found is kept first
                continue
            cells = future.result()
            for cell in cells:
                append(options.cells, cell)
            print(f"{cells[0]['group']} {cells[0]['method']}: {cells[0]['seconds']:.0f} s", flush=True)
    if failed:
        raise failed[0]


def _done(path: Path) -> set[tuple[str, str]]:
    if not path.exists():
        return set()
    cells = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {(cell["group"], cell["method"]) for cell in cells}


def _groups(options: argparse.Namespace) -> Iterator[list[Labelled]]:
    """Series that are tuned on together, degenerate ones last."""
    loaders = {"nab": nab, "smap_msl": smap_msl, "ucr": ucr}
    for name in (name for name in options.sets if name in loaders):
        every = loaders[name](data_folder())
        groups = dict.fromkeys(one.name if name == "ucr" else one.group for one in every)
        for group in groups:
            mine = [one for one in every if group in (one.name if name == "ucr" else one.group,)]
            yield mine[: options.series] if options.series else mine


def _group_cells(group: list[Labelled], method: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One cell a series, and the job's own figures in the first one."""
    torch.set_num_threads(1)
    began = time.monotonic()
    name = group[0].name if group[0].group == "UCR" else group[0].group
    detection: dict[str, Any] | None = None
    with tempfile.TemporaryDirectory() as folder:
        if method in BASELINES:
            forecaster = None
        elif method == "zero-shot":
            forecaster = Forecaster.zero_shot(options.backbone, context_length=CONTEXT)
        else:
            frame = _frame([one.values[: one.train_end] for one in group], [one.name for one in group], "1")
            forecaster, detection = _tuned(frame, method, options, Path(folder))
        cells = [_cell(one, method, forecaster, name, options) for one in group]
    cells[0] |= {"detection": detection, "machine": facts(), "seconds": time.monotonic() - began}
    return cells


def _frame(values: Sequence[Floats], names: Sequence[str], freq: str) -> SeriesFrame:
    lengths = [len(one) for one in values]
    return SeriesFrame(
        item_ids=tuple(names),
        values=np.concatenate(values).astype(np.float64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        starts=np.zeros(len(lengths), dtype=np.int64),
        freq=freq,
    )


def _tuned(
    frame: SeriesFrame, method: str, options: argparse.Namespace, folder: Path
) -> tuple[Forecaster, dict[str, Any]]:
    request = {
        "backbone": options.backbone,
        "method": method,
        "task": "anomaly_detection",
        "scoring": options.scoring,
        "prediction_length": HORIZON,
        "context_length": CONTEXT,
        "budget_seconds": options.budget_seconds,
    }
    result = finetune.run(
        FinetuneRequest.from_mapping(request),
        frame,
        weights_dir=None,
        state_dir=folder / "state",
        out_dir=folder / "artifact",
        report=lambda progress: None,
        should_stop=lambda: None,
    )
    found = {**(result.calibration or {}).get("detection", {}).get("tuned", {}), "gate": result.gate}
    return Forecaster.open(folder / "artifact"), {**found, "chosen": result.manifest["method"]["type"]}


def _cell(
    one: Labelled, method: str, forecaster: Forecaster | None, group: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Figures of one series, by point and smoothed; without any anomaly only how often it alarmed."""
    period = period_of(one.values[: one.train_end])
    labels = one.labels[one.train_end :]
    scored: SeriesScores | None = None
    if forecaster is None:
        ranked = BASELINES[method](one.values, one.train_end, period)[one.train_end :]
    else:
        scored = _scores(one, forecaster, options)
        ranked = scored.severity
    alarms = None if scored is None else scored.is_anomaly
    scores, missing = lowest_where_undefined(ranked)
    cell: dict[str, Any] = {
        "set": one.group if one.group in ("SMAP", "MSL", "UCR") else "NAB",
        "group": group,
        "series": one.name,
        "method": method,
        "degenerate": None if one.degenerate is None else str(one.degenerate),
        "missing": missing,
        "alarms": None if alarms is None else float(alarms[~labels].mean()),
    }
    if not one.has_anomaly:
        return cell
    window = window_length(one.values)
    cell["point"] = vars_of(ranking(labels, scores, window=window))
    if alarms is not None:
        cell["found"] = vars_of(found(labels, alarms))
    if one.group == "UCR":
        squares = np.square(scores)  # errors are squared in both papers
        hit = first_hit(labels, squares, segment=SEGMENT)
        best = adjusted_best_f1(labels, squares)
        cell["ucr"] = {"rank": hit.rank, "segments": hit.total, "adjusted_best_f1": best}
    if method in BOTH_WAYS and scored is not None:
        level = None if method == "auto" else float(np.median(one.values[: one.train_end]))
        other = severity(scored.values, scored.expected, scored.lower, scored.upper, level=level)
        way = "without level" if level is None else "with level"
        cell[way] = vars_of(ranking(labels, lowest_where_undefined(other)[0], window=window))
    if method in BOTH_WAYS:
        wide = smoothed(np.square(scores), width_of(one.train_end, period))
        cell["smoothed"] = vars_of(ranking(labels, wide, window=window))
    return cell


def vars_of(figures: Any) -> dict[str, float]:
    return {name: float(getattr(figures, name)) for name in figures.__dataclass_fields__}


def _scores(one: Labelled, forecaster: Forecaster, options: argparse.Namespace) -> SeriesScores:
    """Of every row after the train part."""
    frame = _frame([one.values], [one.name], "1")
    tuned = forecaster.manifest is not None
    asked = ScoringAsk(
        level=LEVEL,
        detection_size=len(one.values) - one.train_end,
        prediction_length=None if tuned else HORIZON,
        scoring=None if tuned else options.scoring,
    )
    scanning = begin(forecaster, frame, asked)
    for chunk in range(scanning.num_chunks):
        scanning.compute(chunk)
    return scanning.finish().series[0]


def _ett_cells(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A job on ETT, where nobody labelled anything: its test block says how often it alarms."""
    torch.set_num_threads(1)
    began = time.monotonic()
    spec = next(spec for spec in TABLE if spec.name == name)
    panel = panels(spec, Path(os.fspath(data_folder())))[0]
    values = panel.values[: panel.test_end]
    frame = _frame(list(values.T), [f"{name}/{i}" for i in range(values.shape[1])], ETT[name])
    with tempfile.TemporaryDirectory() as folder:
        _, detection = _tuned(frame, "auto", options, Path(folder))
    seconds = time.monotonic() - began
    cell = {"set": "ETT", "group": name, "series": name, "method": "auto", "detection": detection}
    return [{**cell, "machine": facts(), "seconds": seconds}]


if __name__ == "__main__":
    try:
        main()
    except AbsentLibrary as absent:
        raise SystemExit(str(absent)) from absent
