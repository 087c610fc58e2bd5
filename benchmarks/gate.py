"""Does the gate accept what is better, and refuse what is not? Planted series, whole jobs on temper-tiny (full).

    python benchmarks/gate.py               all of it; a second call skips the jobs that are done
    python benchmarks/gate.py --jobs 3      three jobs of each kind

pattern   one series each, with a pattern that no pretraining has shown and that tuning can learn: to be accepted
noise     one series of independent normal values each: to be refused
noise512  the same with the whole context, as a job has it by default: there tuning comes closest to the mean
changed   the pattern, but on test it goes the other way: to be refused
half      20 series in one job: ten with the pattern, ten with a season longer than the tuned context, which zero-shot
          sees: the routed forecaster is to beat both the tuned model and zero-shot on test

Every job is the product's own run: training, choice on validation, gate on test. No seed was left out.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import planted
import torch
from common import RESULTS, Row, append, run

from tsfm import finetune
from tsfm.request import FinetuneRequest
from tsfm.series.frame import SeriesFrame

LENGTH, HALF_LENGTH, HALF_SERIES = 1_500, 1_000, 20
TEST_SHARE = 0.2
WHOLE_CONTEXT = 512
HYPERPARAMETERS = {"learning_rate": 4e-3, "batch_size": 32, "max_test_windows": 1_200}
SINGLE = {"max_epochs": 8, "max_windows_per_epoch": 900, "max_validation_windows": 150}
HALF = {"max_epochs": 5, "max_windows_per_epoch": 2_400, "max_validation_windows": 800}
"""Two to four hundred steps."""
LONG = {"max_epochs": 3, "max_windows_per_epoch": 900, "max_validation_windows": 150}
"""At sixteen times the context a step costs six times as much."""
SIZES = {"pattern": SINGLE, "noise": SINGLE, "noise512": LONG, "changed": SINGLE, "half": HALF}
KINDS = tuple(SIZES)
HALF_JOBS = 5
"""Jobs of 20 series; the other kinds have 20 jobs of one."""


def main() -> None:
    run("gate", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=20, help="of each kind with one series")
    parser.add_argument("--half-jobs", type=int, default=HALF_JOBS, help="of 20 series")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--epochs", type=int, default=0, help="0: those of the kind")
    parser.add_argument("--cells", type=Path, default=RESULTS / "gate_cells.jsonl", help="where finished jobs are kept")


def measure(options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    done = _read(options.cells)
    rows = []
    for kind in options.kinds:
        cells = []
        for seed in range(options.half_jobs if kind == "half" else options.jobs):
            name = f"{kind}/{seed}" + (f"/{options.epochs}" if options.epochs else "")
            if name not in done:
                done[name] = {"name": name, **job(kind, seed, epochs=options.epochs)}
                append(options.cells, done[name])
                print(name, done[name]["seconds"], done[name]["sentence"], flush=True)
            cells.append(done[name])
        rows += ROWS[kind](cells)
    return rows


def series(kind: str, seed: int) -> SeriesFrame:
    if kind == "pattern":
        return planted.frame(planted.echo(LENGTH, seed=seed))
    if kind in ("noise", "noise512"):
        return planted.frame(planted.noise(LENGTH, seed=seed))
    if kind == "changed":
        return planted.frame(planted.echo(LENGTH, seed=seed, changed_from=round((1 - TEST_SHARE) * LENGTH)))
    return planted.half_helped(HALF_LENGTH, seed=seed, num_series=HALF_SERIES)


def job(kind: str, seed: int, *, epochs: int) -> dict[str, Any]:
    """One whole run; what its gate said, and the test errors. `epochs` 0: those of the kind."""
    sizes = {**SIZES[kind], **({"max_epochs": epochs} if epochs else {})}
    asked = {
        "backbone": "temper-tiny",
        "method": "full",
        "prediction_length": planted.HORIZON,
        "context_length": WHOLE_CONTEXT if kind == "noise512" else planted.CONTEXT,
        "hyperparameters": {**HYPERPARAMETERS, **sizes},
        "seed": seed,
    }
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tb") as folder:
        result = finetune.run(
            FinetuneRequest.from_mapping(asked),
            series(kind, seed),
            weights_dir=None,
            state_dir=Path(folder) / "state",
            out_dir=Path(folder) / "artifact",
            report=lambda _: None,
            should_stop=lambda: None,
        )
    gate = result.gate
    assert gate is not None, "there is a test block"
    return {
        "passed": gate["passed"],
        "winner": gate["winner"],
        "reason": gate["reason"],
        "sentence": gate["sentence"],
        "gain": gate["gain"],
        "ci95": gate["ci95"],
        "horizon_blocks": gate["horizon_blocks"],
        "routes": gate["routes"],
        "versus": {name: found["gain"] for name, found in gate["versus"].items()},
        "test": {c["name"]: c["test"][gate["metric"]] for c in result.candidates},
        "seconds": round(time.monotonic() - begun, 1),
    }


def _rate(question: str, cells: Sequence[dict[str, Any]], right: Sequence[bool], bar: float) -> Row:
    gains = sorted(cell["gain"] for cell in cells if cell["gain"] is not None)
    between = f"gain over zero-shot {100 * gains[0]:+.1f} to {100 * gains[-1]:+.1f} %" if gains else ""
    return Row(
        question=question,
        figure=100.0 * sum(right) / max(len(right), 1),
        unit="%",
        bar=bar,
        higher_is_better=True,
        ours=f"{sum(right)} of {len(right)} jobs",
        baseline=between,
        details={"jobs": list(cells)},
    )


def _pattern(cells: Sequence[dict[str, Any]]) -> list[Row]:
    return [_rate("a learnable pattern is accepted", cells, [c["passed"] for c in cells], 90.0)]


def _noise(cells: Sequence[dict[str, Any]]) -> list[Row]:
    return [_rate("pure noise is refused", cells, [not c["passed"] for c in cells], 95.0)]


def _noise_whole(cells: Sequence[dict[str, Any]]) -> list[Row]:
    return [_rate("pure noise is refused, whole context", cells, [not c["passed"] for c in cells], 95.0)]


def _changed(cells: Sequence[dict[str, Any]]) -> list[Row]:
    return [_rate("a regime change after the cut is refused", cells, [not c["passed"] for c in cells], 95.0)]


def _half(cells: Sequence[dict[str, Any]]) -> list[Row]:
    better = [
        "routed" in c["test"] and c["test"]["routed"] < min(c["test"]["tuned"], c["test"]["zero_shot"]) for c in cells
    ]
    return [
        _rate("half the series helped: routing beats tuned and zero-shot", cells, better, 100.0),
        _rate("half the series helped: the routed forecaster is accepted", cells, [c["passed"] for c in cells], 90.0),
    ]


ROWS = {"pattern": _pattern, "noise": _noise, "noise512": _noise_whole, "changed": _changed, "half": _half}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    return {cell["name"]: cell for cell in map(json.loads, path.read_text().splitlines())}


if __name__ == "__main__":
    main()
