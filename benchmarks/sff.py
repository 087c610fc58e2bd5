"""Does smoothed full fine-tuning (SFF) beat full fine-tuning, linear probing, scratch and zero-shot on temper-tiny?

    python benchmarks/sff.py                 the whole table; a second call skips the cells that are done
    python benchmarks/sff.py --seeds 0       one seed of it

ETTh1 and exchange_rate at the field's borders (12/4/4 months; 70/10/20 %), context 512, horizon 96, values standardised
by train. Every contender gets the same number of trials, each a complete schedule of the product's own loop
(`tsfm.search.Search`); the trial with the lowest validation MASE is the contender's, and only that one reads test.
Contender against contender is judged seed by seed on the same test windows; what the seeds cannot tell apart is a tie.
Data are found under TEMPER_DATA (default ../shared/data beside the repository).
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, ROOT, Row, append, facts, run
from sets import TABLE, SetSpec, panels

from tsfm import catalog, evaluate, finetune
from tsfm.backbones.weights import load_backbone
from tsfm.metrics import Scales, scales_of
from tsfm.progress import Progress, Reporter
from tsfm.provenance import frame_sha256, identity_of
from tsfm.request import FinetuneRequest, resolve
from tsfm.search import Search
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split
from tsfm.series.windows import Windows, cut
from tsfm.tasks.forecast import BackboneSource

BACKBONE, CONTEXT, HORIZON = "temper-tiny", 512, 96
FREQ = {"ETTh1": "h", "exchange_rate": "D"}
TEST_STRIDE = 24
METRIC = "mase"
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Two-sided 95 % points of Student's t, by number of seeds."""

FULL_RATE = catalog.learning_rate(catalog.method("full"), catalog.backbone(BACKBONE))
Trials = tuple[tuple[float | None, float], ...]
"""(alpha, learning rate) of each trial; alpha None where the method has none."""


def rates(method: str) -> Trials:
    """The product's own search: a third of the method's default rate, the default, three times it."""
    default = catalog.learning_rate(catalog.method(method), catalog.backbone(BACKBONE))
    return tuple((None, default * k) for k in (1 / 3, 1.0, 3.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    name: str
    method: str
    trials: Trials


CONTENDERS = (
    Contender(name="full", method="full", trials=rates("full")),
    Contender(name="sff, alpha picked", method="sff", trials=tuple((a, FULL_RATE) for a in (0.7, 0.9, 0.95))),
    Contender(name="sff, rate picked", method="sff", trials=tuple((0.9, r) for _, r in rates("sff"))),
    Contender(name="linear_probe", method="linear_probe", trials=rates("linear_probe")),
    Contender(name="scratch", method="scratch", trials=rates("scratch")),
)
assert len({len(c.trials) for c in CONTENDERS}) == 1, "every contender gets the same number of trials"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One complete schedule: its numbers on validation, and the trained network."""

    validation: float
    record: dict[str, Any]
    source: BackboneSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """One set, cut at the field's borders."""

    name: str
    frame: SeriesFrame
    train: Windows
    validation: Windows
    test: Windows
    scales: Scales


def main() -> None:
    run("sff", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sets", nargs="+", default=list(FREQ), choices=list(FREQ))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--contenders", nargs="+", default=[c.name for c in CONTENDERS])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--train-windows", type=int, default=1_024, help="at most so many an epoch (strided)")
    parser.add_argument("--validation-windows", type=int, default=256, help="at most so many an evaluation (strided)")
    parser.add_argument("--test-windows", type=int, default=0, help="at most so many (0: all at stride 24)")
    parser.add_argument("--cells", type=Path, default=RESULTS / "sff_cells.jsonl", help="where finished cells are kept")


def measure(options: argparse.Namespace) -> list[Row]:
    os.nice(max(0, 10 - os.nice(0)))
    torch.set_num_threads(1)
    data = Path(os.environ.get("TEMPER_DATA", ROOT.parent / "shared" / "data"))
    if not data.exists():
        raise SystemExit(f"Real data are absent: put them at {data}, or set TEMPER_DATA.")
    sets = [blocks_of(spec, data, options) for spec in TABLE if spec.name in options.sets]
    chosen = [c for c in CONTENDERS if c.name in options.contenders]
    done = load_cells(options.cells)
    for blocks in sets:
        fixed_cell(blocks, options, done)
    for seed in options.seeds:  # seed by seed: what is there after an interruption is a whole smaller table
        for blocks in sets:
            shared: dict[tuple[str, float | None, float], Trial] = {}
            for contender in chosen:
                cell(contender, blocks, seed, options, done, shared)
    return report(sets, chosen, options, done)


def blocks_of(spec: SetSpec, data: Path, options: argparse.Namespace) -> Blocks:
    """Train, validation and test windows at the field's borders; the whole validation block selects."""
    panel = panels(spec, data)[0]
    values = panel.values[: panel.test_end]
    mean, deviation = values[: panel.train_end].mean(0), values[: panel.train_end].std(0)
    values = (values - mean) / deviation
    length, count = values.shape
    frame = SeriesFrame(
        item_ids=tuple(f"{spec.name}/{i}" for i in range(count)),
        values=np.ascontiguousarray(values.T).ravel(),
        offsets=np.arange(count + 1, dtype=np.int64) * length,
        starts=np.zeros(count, dtype=np.int64),
        freq=FREQ[spec.name],
    )
    borders = [0, panel.train_end, panel.test_start, panel.test_start, panel.test_end]
    split = Split(
        borders=np.tile(np.array(borders, dtype=np.int64), (count, 1)),
        clock=np.zeros(count, dtype=np.int64),
        group=np.zeros(count, dtype=np.int64),
        prediction_length=HORIZON,
        min_context=CONTEXT,
        with_test=True,
        unused=(),
        unjudged=(),
    )

    def windows(block: Block, stride: int, most: int | None) -> Windows:
        return cut(
            frame,
            split,
            block,
            context_length=CONTEXT,
            prediction_length=HORIZON,
            stride=stride,
            max_windows=most,
        )

    return Blocks(
        name=spec.name,
        frame=frame,
        train=windows(Block.TRAIN, 1, options.train_windows),
        validation=windows(Block.VALIDATION, 1, options.validation_windows),
        test=windows(Block.TEST, TEST_STRIDE, options.test_windows or None),
        scales=scales_of(frame, split, season=frequencies.parse(frame.freq).season),
    )


def protocol(blocks: Blocks, options: argparse.Namespace) -> dict[str, Any]:
    """Everything the numbers of a set depend on but the contender and the seed."""
    return {
        "set": blocks.name,
        "data": frame_sha256(blocks.frame),
        "backbone": catalog.backbone(BACKBONE).sha256,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "train": [len(blocks.train), blocks.train.stride],
        "validation": [len(blocks.validation), blocks.validation.stride],
        "test": [len(blocks.test), blocks.test.stride],
    }


def key_of(blocks: Blocks, options: argparse.Namespace, name: str, trials: object, seed: int | None) -> str:
    return identity_of({**protocol(blocks, options), "contender": name, "trials": trials, "seed": seed})


def load_cells(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    return {line["key"]: line for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def cell(
    contender: Contender,
    blocks: Blocks,
    seed: int,
    options: argparse.Namespace,
    done: dict[str, dict[str, Any]],
    shared: "dict[tuple[str, float | None, float], Trial]",
) -> None:
    """All trials of one contender on one set under one seed; the picked one is read on test.

    `shared` are trials of this set and seed that another contender has run already: the same numbers, bit for bit.
    """
    key = key_of(blocks, options, contender.name, contender.trials, seed)
    done.update(load_cells(options.cells))  # another process may be at work on the same table
    if key in done:
        return
    begun, cpu = time.monotonic(), time.process_time()
    trials = []
    for alpha, rate in contender.trials:
        same = (contender.method, alpha, rate)
        if same not in shared:
            shared[same] = trial(contender.method, alpha, rate, blocks, seed, options)
        trials.append(shared[same])
    picked = min(trials, key=lambda t: t.validation)
    test = slim(evaluate.score(picked.source, blocks.test, blocks.scales))
    line = {
        "key": key,
        "protocol": protocol(blocks, options),
        "contender": contender.name,
        "seed": seed,
        "trials": [t.record for t in trials],
        "picked": picked.record,
        "validation": picked.validation,
        "test": test,
        "seconds": round(time.monotonic() - begun, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "machine": facts(),
    }
    keep(line, options, done)
    print(
        f"{blocks.name} seed {seed} {contender.name:18s} validation {picked.validation:.4f} "
        f"test MASE {test['mase']:.4f} MSE {test['mse']:.4f} picked {shown(picked.record)}; "
        f"{line['cpu_seconds']:.0f} CPU s",
        flush=True,
    )


def keep(line: dict[str, Any], options: argparse.Namespace, done: dict[str, dict[str, Any]]) -> None:
    append(options.cells, line)
    done[line["key"]] = line


def trial(
    method: str, alpha: float | None, rate: float, blocks: Blocks, seed: int, options: argparse.Namespace
) -> Trial:
    """One complete schedule by the product's own search, with nothing left to search."""
    chosen: dict[str, Any] = {"type": method}
    if method in ("sff", "scratch"):
        chosen["twin_seed"] = seed
    if alpha is not None:
        chosen["alpha"] = alpha
    request = FinetuneRequest.from_mapping(
        {
            "backbone": BACKBONE,
            "method": chosen,
            "prediction_length": HORIZON,
            "context_length": CONTEXT,
            "seed": seed,
            "hyperparameters": {
                "learning_rate": rate,
                "max_epochs": options.epochs,
                "batch_size": options.batch_size,
                "max_windows_per_epoch": options.train_windows,
                "max_validation_windows": options.validation_windows,
            },
        }
    )
    spec = catalog.backbone(BACKBONE)
    resolved = resolve(request, {"freq": blocks.frame.freq, "max_length": int(blocks.frame.lengths.max())})
    with tempfile.TemporaryDirectory() as folder:
        outcome = Search(
            resolved=resolved,
            train=blocks.train,
            validation=blocks.validation,
            scales=blocks.scales,
            metric=METRIC,
            fresh=lambda: load_backbone(spec),
            source=lambda model: finetune.tuned_source(model, resolved, spec),
            identity={"benchmark": "sff"},
            state_dir=Path(folder),
            reporter=Reporter(ignore),
            should_stop=evaluate.never_stop,
            device=torch.device("cpu"),
        ).run()
    training = outcome.training
    record = {
        "alpha": alpha,
        "learning_rate": rate,
        "steps": training["steps"],
        "best_step": training["best_step"],
        "validation": training["best_validation"],
    }
    source = finetune.tuned_source(outcome.model, resolved, spec)
    return Trial(validation=training["best_validation"], record=record, source=source)


def fixed_cell(blocks: Blocks, options: argparse.Namespace, done: dict[str, dict[str, Any]]) -> None:
    """Zero-shot and the rivals, which no seed changes."""
    key = key_of(blocks, options, "fixed", None, None)
    if key in done:
        return
    spec = catalog.backbone(BACKBONE)
    zero_shot = BackboneSource(
        load_backbone(spec).requires_grad_(False),
        block_length=spec.prediction_length,
        context_length=CONTEXT,
        cut_from_block=False,
    )
    scores = {"zero_shot": slim(evaluate.score(zero_shot, blocks.test, blocks.scales))}
    periods = frequencies.parse(blocks.frame.freq).periods
    for rival in evaluate.judge_rivals(blocks.validation, blocks.test, blocks.scales, metric=METRIC, periods=periods):
        scores[rival["name"]] = slim(rival["test"])
    keep({"key": key, "protocol": protocol(blocks, options), "test": scores, "machine": facts()}, options, done)


def slim(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: metrics[name] for name in ("mase", "mae", "mse", "num_windows")}


def report(
    sets: Sequence[Blocks], chosen: Sequence[Contender], options: argparse.Namespace, done: dict[str, dict[str, Any]]
) -> list[Row]:
    """Prints the table of each set and of the pairs; the pairs are the benchmark's rows."""
    rows: list[Row] = []
    for blocks in sets:
        fixed = done[key_of(blocks, options, "fixed", None, None)]["test"]
        cells = {
            c.name: [done[key_of(blocks, options, c.name, c.trials, seed)] for seed in options.seeds] for c in chosen
        }
        print(f"\n{blocks.name}: {json.dumps(protocol(blocks, options))}\n")
        print("| contender | test MASE | test MSE | test MAE | validation MASE | picked (per seed) |")
        print("|---|---|---|---|---|---|")
        for name, lines in cells.items():
            parts = [mean_and_deviation([line["test"][m] for line in lines]) for m in ("mase", "mse", "mae")]
            parts.append(mean_and_deviation([line["validation"] for line in lines]))
            parts.append("; ".join(shown(line["picked"]) for line in lines))
            print(f"| {name} | {' | '.join(parts)} |")
        for name, scores in fixed.items():
            print(f"| {name} | {' | '.join(f'{scores[m]:.4f}' for m in ('mase', 'mse', 'mae'))} | | |")
        rows += pairs(blocks.name, cells, fixed)
    return rows


def pairs(name: str, cells: dict[str, list[dict[str, Any]]], fixed: dict[str, dict[str, float]]) -> list[Row]:
    """Each SFF contender against everything else on test MASE."""
    rows = []
    for ours in [c for c in cells if c.startswith("sff")]:
        mine = [line["test"][METRIC] for line in cells[ours]]
        others = {c: [line["test"][METRIC] for line in lines] for c, lines in cells.items() if not c.startswith("sff")}
        others["zero_shot"] = [fixed["zero_shot"][METRIC]] * len(mine)
        for other, theirs in others.items():
            gaps = [a - b for a, b in zip(mine, theirs, strict=True)]
            rows.append(
                Row(
                    question=f"{name}: {ours} ÷ {other}, test MASE ({told_apart(gaps)})",
                    figure=statistics.mean(mine) / statistics.mean(theirs),
                    unit="×",
                    ours=mean_and_deviation(mine),
                    baseline=mean_and_deviation(theirs),
                    details={"differences": gaps},
                )
            )
    return rows


def told_apart(gaps: Sequence[float]) -> str:
    """better, worse, or tie: whether the 95 % interval of the mean difference over seeds excludes 0."""
    if len(gaps) < 2:
        return "one seed"
    half = T_95[len(gaps)] * statistics.stdev(gaps) / math.sqrt(len(gaps))
    mean = statistics.mean(gaps)
    return "tie" if abs(mean) <= half else "better" if mean < 0 else "worse"


def mean_and_deviation(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def shown(picked: dict[str, Any]) -> str:
    alpha = "" if picked["alpha"] is None else f"α {picked['alpha']:g}, "
    return f"{alpha}{picked['learning_rate']:.1g} at step {picked['best_step']}"


def ignore(_: Progress) -> None: ...


if __name__ == "__main__":
    main()
