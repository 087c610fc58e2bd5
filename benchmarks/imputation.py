"""Are gaps filled better than by a line and by the neighbouring seasons?

    python benchmarks/imputation.py             the stated subset: the first 2,880 test rows of each set, one draw
    python benchmarks/imputation.py --full --seeds 3 --budget-seconds 120    every test row, three draws
    python benchmarks/imputation.py --fresh     again from the start
    python benchmarks/imputation.py --table     the tables of what is done

ETT at the field's borders and weather; values standardised by train. Of every channel runs of 8 steps (a patch of
MOMENT, which published this protocol) and of 24 (a segment of Timer, whose recipe SFF's authors took over) are hidden,
12.5 to 50 % of them, drawn anew for every channel, the first and the last run left visible; the error is over what was
hidden. The tuned model is the product's own job on train and validation (`task: imputation`), which never saw the test
rows. What a user of that job is answered with (its gate may send the gaps to zero-shot or a plain fill, each in the
mixture that validation chose) is "served": that is what the bar judges. "Zero-shot" is a request without any job. In
weather the sentinel -9999 is missing, and missing cells are neither hidden nor counted.
"""

import argparse
import concurrent.futures
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, ROOT, Row, append, facts, run
from numpy.typing import NDArray
from sets import TABLE, Panel, panels

from tsfm import finetune
from tsfm.artifact import open_artifact
from tsfm.request import FinetuneRequest
from tsfm.series.frame import SeriesFrame
from tsfm.tasks.forecast import Forecaster, stored_calibrations
from tsfm.tasks.impute import begin

FREQ = {"ETTh1": "h", "ETTh2": "h", "ETTm1": "15min", "ETTm2": "15min", "weather": "10min"}
RATIOS, RUNS, LONGEST = (0.125, 0.25, 0.375, 0.5), (8, 24), 24
ROWS = 2_880
ENDS = (0.1, 0.9)
PLAIN = ("linear_fill", "seasonal_fill")
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def main() -> None:
    run("imputation", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sets", nargs="+", default=list(FREQ), choices=list(FREQ))
    parser.add_argument("--backbone", default="temper-tiny")
    parser.add_argument("--method", default="sff")
    parser.add_argument("--budget-seconds", type=float, default=60.0, help="of each job's training")
    parser.add_argument("--seeds", type=int, default=1, help="draws of what is hidden")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cells", type=Path, default=RESULTS / "imputation_cells.jsonl", help="what is done")
    parser.add_argument("--fresh", action="store_true", help="forget what is done")
    parser.add_argument("--table", action="store_true", help="measure nothing")


def measure(options: argparse.Namespace) -> list[Row]:
    done: set[str] = set()
    if options.fresh:
        options.cells.unlink(missing_ok=True)
    if options.cells.exists():
        done = {json.loads(line)["set"] for line in options.cells.read_text(encoding="utf-8").splitlines()}
    if not options.table:
        with concurrent.futures.ProcessPoolExecutor(options.processes) as pool:
            waiting = [pool.submit(_set, name, options) for name in options.sets if name not in done]
            for future in concurrent.futures.as_completed(waiting):
                cell = future.result()
                append(options.cells, cell)
                print(f"{cell['set']}: {cell['seconds']:.0f} s", flush=True)
    cells = [json.loads(line) for line in options.cells.read_text(encoding="utf-8").splitlines()]
    print(markdown(cells))
    return rows(cells)


def _set(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one set."""
    torch.set_num_threads(1)
    began = time.monotonic()
    folder = Path(os.environ.get("TEMPER_DATA", ROOT.parent / "shared" / "data"))
    if not folder.exists():
        raise SystemExit(f"Real data are absent: put them at {folder}, or set TEMPER_DATA.")
    panel = panels(next(spec for spec in TABLE if spec.name == name), folder)[0]
    values = _standardised(panel)
    with tempfile.TemporaryDirectory() as made:
        models, gate = _models(name, values[: panel.test_start], options, Path(made))
        test = values[panel.test_start : panel.test_end]
        shown = test if options.full else test[:ROWS]
        found = [
            {"run": length, "ratio": ratio, **_errors(name, shown, models, length, ratio, options.seeds)}
            for length in RUNS
            for ratio in RATIOS
        ]
    seconds = time.monotonic() - began
    return {"set": name, "rows": len(shown), "errors": found, "gate": gate, "machine": facts(), "seconds": seconds}


def _standardised(panel: Panel) -> Floats:
    train = panel.values[: panel.train_end]
    mean, deviation = np.nanmean(train, axis=0), np.nanstd(train, axis=0)
    scaled: Floats = (panel.values - mean) / np.where(deviation > 0, deviation, 1.0)
    return scaled


def _models(
    name: str, history: Floats, options: argparse.Namespace, folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What fills, by row of the table: forecaster, and what a job knows of it; and the job's verdict."""
    request = {
        "backbone": options.backbone,
        "method": options.method,
        "task": "imputation",
        "prediction_length": LONGEST,
        "budget_seconds": options.budget_seconds,
    }
    result = finetune.run(
        FinetuneRequest.from_mapping(request),
        _frame(history, FREQ[name]),
        weights_dir=None,
        state_dir=folder / "state",
        out_dir=folder / "artifact",
        report=lambda progress: None,
        should_stop=lambda: None,
    )
    tuned = Forecaster.open(folder / "artifact")
    manifest, verdict = result.manifest, result.gate or {}
    models: dict[str, Any] = {
        "tuned": {"forecaster": tuned},
        "zero-shot": {"forecaster": Forecaster.zero_shot(options.backbone)},
        **{plain: {"forecaster": Forecaster.rival(plain)} for plain in PLAIN},
    }
    fallback = verdict.get("fallback")
    known = stored_calibrations(open_artifact(folder / "artifact"))
    served = {"forecaster": tuned}
    if fallback == "zero_shot":
        served = {
            "forecaster": Forecaster.zero_shot(options.backbone),
            "like": manifest,
            "calibration": known.get("zero_shot"),
        }
    elif fallback is not None:
        served = {"forecaster": Forecaster.rival(fallback, period=verdict.get("fallback_period")), "like": manifest}
    models["served"] = served
    return models, {"sentence": verdict.get("sentence"), "fallback": fallback, "fill": manifest["fill"]}


def _frame(values: Floats, freq: str) -> SeriesFrame:
    length, count = values.shape
    return SeriesFrame(
        item_ids=tuple(str(i) for i in range(count)),
        values=np.ascontiguousarray(values.T).ravel(),
        offsets=np.arange(count + 1, dtype=np.int64) * length,
        starts=np.zeros(count, dtype=np.int64),
        freq=freq,
    )


def hidden_runs(shape: tuple[int, int], length: int, ratio: float, seed: int) -> Bools:
    """[T, C] which points are hidden: `ratio` of each channel's whole runs of `length`, but the first and the last."""
    rng = np.random.default_rng([seed, length, round(1_000 * ratio)])
    hidden = np.zeros(shape, dtype=np.bool_)
    count = shape[0] // length
    for channel in range(shape[1]):
        for place in rng.permutation(count - 2)[: round(ratio * count)] + 1:
            hidden[place * length : (place + 1) * length, channel] = True
    return hidden


def _errors(
    name: str, values: Floats, models: dict[str, Any], length: int, ratio: float, seeds: int
) -> dict[str, dict[str, float]]:
    """By row of the table: mae, mse and the share inside the 80 % interval, over the draws together."""
    sums: dict[str, NDArray[np.float64]] = {}
    for seed in range(seeds):
        hidden = hidden_runs((values.shape[0], values.shape[1]), length, ratio, seed) & ~np.isnan(values)
        frame = _frame(np.where(hidden, np.nan, values), FREQ[name])
        for label, model in models.items():
            sums[label] = sums.get(label, np.zeros(5)) + _filled(frame, values, hidden, **model)
    return {
        label: {
            "mae": absolute / count,
            "mse": squared / count,
            "coverage": inside / bounded if bounded else float("nan"),
        }
        for label, (count, absolute, squared, inside, bounded) in sums.items()
    }


def _filled(
    frame: SeriesFrame, values: Floats, hidden: Bools, *, forecaster: Forecaster, **known: Any
) -> NDArray[np.float64]:
    """[points, Σ |error|, Σ error², inside, with an interval] over what was hidden."""
    filling = begin(forecaster, frame, ENDS, long_gaps="leave", **known)
    for chunk in range(filling.num_chunks):
        filling.compute(chunk)
    made = filling.finish()
    length, count = values.shape
    got = made.values.reshape(count, length).T
    off = (got - values)[hidden & ~np.isnan(got)]
    inside, bounded = 0.0, 0.0
    if made.quantiles is not None:
        low, high = made.quantiles.reshape(2, count, length).transpose(0, 2, 1)
        judged = hidden & ~np.isnan(low)
        inside, bounded = float(((low <= values) & (values <= high))[judged].sum()), float(judged.sum())
    return np.array([len(off), np.abs(off).sum(), np.square(off).sum(), inside, bounded])


LABELS = ("tuned", "served", "zero-shot", *PLAIN)


def markdown(cells: Sequence[dict[str, Any]]) -> str:
    parts = []
    for cell in cells:
        lines = [
            f"**{cell['set']}**, {cell['rows']:,} rows. {cell['gate']['sentence']}",
            "",
            f"| run, hidden | {' | '.join(LABELS)} | 80 % served |",
            f"|---|{'---|' * (len(LABELS) + 1)}",
        ]
        for one in cell["errors"]:
            shown = [f"{one[label]['mae']:.3f} / {one[label]['mse']:.3f}" for label in LABELS]
            best = min(range(len(LABELS)), key=lambda i: one[LABELS[i]]["mae"])
            shown[best] = f"**{shown[best]}**"
            coverage = one["served"]["coverage"]
            lines.append(f"| {one['run']}, {100 * one['ratio']:g} % | {' | '.join(shown)} | {100 * coverage:.0f} % |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def rows(cells: Sequence[dict[str, Any]]) -> list[Row]:
    """The bar: on ETT the error of what is served below both plain fills' at every ratio."""
    found = []
    for length in RUNS:
        gaps = [
            one["served"]["mae"] / min(one[plain]["mae"] for plain in PLAIN)
            for cell in cells
            if cell["set"].startswith("ETT")
            for one in cell["errors"]
            if one["run"] == length
        ]
        if gaps:
            question = f"runs of {length}: worst MAE of what is served ÷ the better plain fill on ETT"
            found.append(Row(question=question, figure=max(gaps), unit="×", bar=1.0))
    return found


if __name__ == "__main__":
    main()
