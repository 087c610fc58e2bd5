"""Do calibrated intervals hold on history that calibrated nothing, and what do they cost in sharpness?

    python benchmarks/calibration.py                                  every set, model and state
    python benchmarks/calibration.py --models temper-tiny --sets ETTh1

The field's borders (ETT 12/4/4 months; weather and exchange_rate 70/10/20 %), context 512, horizon 96, values
standardised by train. The first half of validation selects (the tuned models' best step), its second half calibrates
(evaluation.md §4), test only measures. Windows are strided to the given numbers and the strides recorded. *tuned* is
one short schedule of the product's own loop. Beside the product's way: what the model says itself (native quantiles;
for a point model normal quantiles whose one width, in window scales, is that of the selecting half), and three
variants: scores of native quantiles divided by the window's scale instead of their own width; and, where evaluation.md
§4 allows it, signed (each side by its own rank) and per series.
Data are found under TEMPER_DATA (default ../shared/data beside the repository).
"""

import argparse
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from common import ROOT, Row, run
from numpy.typing import NDArray
from sets import TABLE, SetSpec, panels

from tsfm import catalog, evaluate, finetune
from tsfm.backbones.weights import load_backbone
from tsfm.calibration import Calibration, base_of, fitted, offsets_of, ranks, scores_of
from tsfm.errors import WeightsError
from tsfm.metrics import Scales, scales_of
from tsfm.progress import Progress, Reporter
from tsfm.request import FinetuneRequest, resolve
from tsfm.search import Search
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split
from tsfm.series.windows import Windows, cut
from tsfm.tasks.forecast import BATCH_SIZE, BackboneSource, Source

Floats = NDArray[np.float64]
CONTEXT, HORIZON = 512, 96
FREQ = {"ETTh1": "h", "ETTh2": "h", "ETTm1": "15min", "ETTm2": "15min", "weather": "10min", "exchange_rate": "D"}
APART = "exchange_rate"
DECILES = tuple(i / 10 for i in range(1, 10))
ENDS = {80: (0.1, 0.9), 95: (0.025, 0.975)}
WAYS = ("calibrated", "uncalibrated", "window scale", "signed", "per series")
STATES = ("zero-shot", "tuned")
AVERAGE_BAR, SET_BAR = 3.0, 8.0
"""Points of coverage: on average over the sets, and on each (issue 4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """One set, cut at the field's borders."""

    name: str
    frame: SeriesFrame
    train: Windows
    selection: Windows
    calibration: Windows
    test: Windows
    scales: Scales


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A source's answers on W windows."""

    point: Floats
    quantiles: Floats | None
    native: tuple[float, ...]
    scale: Floats
    target: Floats
    series: NDArray[np.int64]


def main() -> None:
    run("calibration", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sets", nargs="+", default=list(FREQ), choices=list(FREQ))
    parser.add_argument("--models", nargs="+", default=["temper-tiny", "ttm-r2"])
    parser.add_argument("--states", nargs="+", default=list(STATES), choices=STATES)
    parser.add_argument("--windows", type=int, default=2_000, help="at most so many for calibration and for test each")
    parser.add_argument("--train-windows", type=int, default=1_024)
    parser.add_argument("--selection-windows", type=int, default=256)


def measure(options: argparse.Namespace) -> list[Row]:
    os.nice(max(0, 10 - os.nice(0)))
    torch.set_num_threads(1)
    data = Path(os.environ.get("TEMPER_DATA", ROOT.parent / "shared" / "data"))
    if not data.exists():
        raise SystemExit(f"Real data are absent: put them at {data}, or set TEMPER_DATA.")
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for spec in (spec for spec in TABLE if spec.name in options.sets):
        blocks = blocks_of(spec, data, options)
        for model in options.models:
            for state in options.states:
                try:
                    source = source_of(model, state, blocks, options, data)
                except WeightsError as error:
                    print(f"{model} is left out: {error.message}", flush=True)
                    continue
                cell = judge(source, blocks)
                found.setdefault((model, state), {})[blocks.name] = cell
                show(model, state, blocks.name, cell)
    print(markdown(found))
    return [row for (model, state), cells in found.items() for row in bars(model, state, cells)]


def blocks_of(spec: SetSpec, data: Path, options: argparse.Namespace) -> Blocks:
    """Train, selecting, calibrating and test windows at the field's borders."""
    panel = panels(spec, data)[0]
    values = panel.values[: panel.test_end]
    mean, deviation = np.nanmean(values[: panel.train_end], axis=0), np.nanstd(values[: panel.train_end], axis=0)
    values = (values - mean) / np.where(deviation > 0, deviation, 1.0)
    length, count = values.shape
    frame = SeriesFrame(
        item_ids=tuple(f"{spec.name}/{i}" for i in range(count)),
        values=np.ascontiguousarray(values.T).ravel(),
        offsets=np.arange(count + 1, dtype=np.int64) * length,
        starts=np.zeros(count, dtype=np.int64),
        freq=FREQ[spec.name],
    )
    middle = (panel.train_end + panel.test_start) // 2
    borders = np.array([0, panel.train_end, middle, panel.test_start, panel.test_end], dtype=np.int64)
    split = Split(
        borders=np.tile(borders, (count, 1)),
        clock=np.zeros(count, dtype=np.int64),
        group=np.zeros(count, dtype=np.int64),
        prediction_length=HORIZON,
        min_context=CONTEXT,
        with_test=True,
        unused=(),
        unjudged=(),
    )

    def windows(block: Block, most: int) -> Windows:
        return cut(frame, split, block, context_length=CONTEXT, prediction_length=HORIZON, max_windows=most)

    return Blocks(
        name=spec.name,
        frame=frame,
        train=windows(Block.TRAIN, options.train_windows),
        selection=windows(Block.VALIDATION, options.selection_windows),
        calibration=windows(Block.CALIBRATION, options.windows),
        test=windows(Block.TEST, options.windows),
        scales=scales_of(frame, split, season=frequencies.parse(frame.freq).season),
    )


def source_of(model: str, state: str, blocks: Blocks, options: argparse.Namespace, data: Path) -> Source:
    spec = catalog.backbone(model)
    weights_dir = weights_of(model, data)
    if state == "zero-shot":
        return BackboneSource(
            load_backbone(spec, weights_dir=weights_dir).requires_grad_(False),
            block_length=spec.block_length(),
            context_length=CONTEXT,
            cut_from_block=False,
        )
    asked = {
        "backbone": model,
        "method": "full",
        "prediction_length": HORIZON,
        "context_length": CONTEXT,
        "hyperparameters": {
            "learning_rate": catalog.learning_rate(catalog.method("full"), spec) / 3,
            "max_epochs": 1,
            "max_windows_per_epoch": options.train_windows,
            "max_validation_windows": options.selection_windows,
        },
    }
    longest = int(blocks.frame.lengths.max())
    resolved = resolve(FinetuneRequest.from_mapping(asked), {"freq": blocks.frame.freq, "max_length": longest})
    with tempfile.TemporaryDirectory() as folder:
        outcome = Search(
            resolved=resolved,
            train=blocks.train,
            validation=blocks.selection,
            scales=blocks.scales,
            metric="mase",
            fresh=lambda: load_backbone(spec, weights_dir=weights_dir),
            source=lambda network: finetune.tuned_source(network, resolved, spec),
            identity={"benchmark": "calibration"},
            state_dir=Path(folder),
            reporter=Reporter(ignore),
            should_stop=evaluate.never_stop,
            device=torch.device("cpu"),
        ).run()
    return finetune.tuned_source(outcome.model.eval(), resolved, spec)


def weights_of(model: str, data: Path) -> Path | None:
    """TTM-R2 lies among the data in a folder of its own name; the loader looks for the catalogue's."""
    place = data / "ttm_r2_512_96"
    if model != "ttm-r2" or not place.exists():
        return None
    folder = Path(tempfile.mkdtemp(prefix="weights-"))
    (folder / model).symlink_to(place.resolve(), target_is_directory=True)
    return folder


def ignore(progress: Progress) -> None:
    """Nobody watches a benchmark's schedule."""


def ask(source: Source, windows: Windows) -> Answers:
    points, quantiles, scales, targets, series = [], [], [], [], []
    for begin in range(0, len(windows), BATCH_SIZE):
        chosen = np.arange(begin, min(begin + BATCH_SIZE, len(windows)))
        batch = windows.batch(chosen)
        answer = source(batch, windows.prediction_length)
        points.append(answer.point)
        if answer.quantiles is not None:
            quantiles.append(answer.quantiles)
        scales.append(batch.scale)
        targets.append(windows.raw_target(chosen))
        series.append(batch.series)
    return Answers(
        point=np.concatenate(points),
        quantiles=np.concatenate(quantiles) if quantiles else None,
        native=source.levels,
        scale=np.concatenate(scales),
        target=np.concatenate(targets),
        series=np.concatenate(series),
    )


def judge(source: Source, blocks: Blocks) -> dict[str, Any]:
    """Coverage, width and pinball on test of every way to make intervals."""
    past, new = ask(source, blocks.calibration), ask(source, blocks.test)
    unit = blocks.scales.mase[new.series, None]
    levels = (*DECILES, 0.025, 0.975)
    ways = {
        "calibrated": product(past).spread(new.point, new.quantiles, new.scale, levels).quantiles,
        "uncalibrated": uncalibrated(ask(source, blocks.selection), new, levels),
        "window scale": by_window_scale(past, new, levels),
        "signed": signed(past, new, levels),
        "per series": per_series(past, new, levels),
    }
    return {
        "strides": {"calibration": blocks.calibration.stride, "test": blocks.test.stride},
        "num_windows": {"calibration": len(past.point), "test": len(new.point)},
        **{name: figures(quantiles, levels, new.target, unit) for name, quantiles in ways.items()},
    }


def product(past: Answers) -> Calibration:
    return fitted(scores_of(past.target, past.point, past.quantiles, past.native, past.scale), past.native)


def uncalibrated(selection: Answers, new: Answers, levels: tuple[float, ...]) -> Floats:
    """[W, Q, H]; NaN at levels that native quantiles do not reach."""
    if new.quantiles is None:
        width = float(np.nanstd((selection.target - selection.point) / selection.scale[:, None]))
        steps = np.array([NormalDist().inv_cdf(level) for level in levels])
        return new.point[:, None] + steps[None, :, None] * width * new.scale[:, None, None]
    out = np.full((len(new.point), len(levels), new.point.shape[1]), np.nan)
    for i, level in enumerate(levels):
        known = [j for j, native in enumerate(new.native) if abs(native - level) < 1e-9]
        if known:
            out[:, i] = new.quantiles[:, known[0]]
    return out


def by_window_scale(past: Answers, new: Answers, levels: tuple[float, ...]) -> Floats:
    """As the product's, but for the unit; a point model's scores have that unit already."""
    if past.quantiles is None:
        return product(past).spread(new.point, new.quantiles, new.scale, levels).quantiles
    out = np.empty((len(new.point), len(levels), new.point.shape[1]))
    for i, level in enumerate(levels):
        share = abs(2 * level - 1)
        if share < 1e-9:
            out[:, i] = new.point
            continue
        low, high = _end(past, 0.5 - share / 2)[0], _end(past, 0.5 + share / 2)[0]
        scores = np.maximum(low - past.target, past.target - high) / past.scale[:, None]
        away = offsets_of(scores, np.array([share]))[0] * new.scale[:, None]
        out[:, i] = _end(new, level)[0] + np.sign(level - 0.5) * away
    return np.sort(out[:, np.argsort(levels)], axis=1)[:, np.argsort(np.argsort(levels))]


def signed(past: Answers, new: Answers, levels: tuple[float, ...]) -> Floats:
    """Each side by its own scores (y − end) ÷ unit at rank ⌈(n + 1)·p⌉."""
    out = np.empty((len(new.point), len(levels), new.point.shape[1]))
    for i, level in enumerate(levels):
        end, unit = _end(past, level)
        score = np.sort((past.target - end) / unit, axis=0)
        count = (~np.isnan(score)).sum(axis=0)
        rank = np.array([ranks(int(n), np.array([level]))[0] for n in count]).clip(1, count)
        end, unit = _end(new, level)
        out[:, i] = end + score[rank - 1, np.arange(len(count))] * unit
    return np.sort(out[:, np.argsort(levels)], axis=1)[:, np.argsort(np.argsort(levels))]


def _end(answers: Answers, level: float) -> tuple[Floats, Floats]:
    """The nearest native quantile, or the point, and what its scores are divided by."""
    if answers.quantiles is None:
        return answers.point, answers.scale[:, None]
    base = base_of(abs(2 * level - 1), answers.native)
    wanted = 0.5 + np.sign(level - 0.5) * (base / 2 if abs(level - 0.5) > 1e-9 else 0.0)
    index = int(np.argmin(np.abs(np.array(answers.native) - wanted)))
    width = answers.quantiles[:, -1] - answers.quantiles[:, 0]
    return answers.quantiles[:, index], np.maximum(width, 1e-3 * answers.scale[:, None])


def per_series(past: Answers, new: Answers, levels: tuple[float, ...]) -> Floats:
    out = np.empty((len(new.point), len(levels), new.point.shape[1]))
    for series in np.unique(new.series):
        mine, theirs = past.series == series, new.series == series
        made = product(_only(past, mine))
        other = _only(new, theirs)
        out[theirs] = made.spread(other.point, other.quantiles, other.scale, levels).quantiles
    return out


def _only(answers: Answers, kept: NDArray[np.bool_]) -> Answers:
    return Answers(
        point=answers.point[kept],
        quantiles=None if answers.quantiles is None else answers.quantiles[kept],
        native=answers.native,
        scale=answers.scale[kept],
        target=answers.target[kept],
        series=answers.series[kept],
    )


def figures(quantiles: Floats, levels: tuple[float, ...], target: Floats, unit: Floats) -> dict[str, Any]:
    """Coverage in per cent and width in MASE scales by interval; pinball over the deciles in MASE scales."""
    row = {level: i for i, level in enumerate(levels)}
    observed = ~np.isnan(target)
    answer: dict[str, Any] = {"coverage": {}, "width": {}}
    for share, (low, high) in ENDS.items():
        lower, upper = quantiles[:, row[low]], quantiles[:, row[high]]
        if np.isnan(lower).all():
            continue
        inside = (lower <= target) & (target <= upper)
        answer["coverage"][str(share)] = 100 * float(inside[observed].mean())
        answer["width"][str(share)] = float(((upper - lower) / unit)[observed].mean())
    level = np.array(DECILES)[None, :, None]
    gap = target[:, None] - quantiles[:, : len(DECILES)]
    loss = np.maximum(level * gap, (level - 1) * gap).mean(axis=1) / unit
    answer["pinball"] = float(loss[observed].mean())
    return answer


def show(model: str, state: str, name: str, cell: Mapping[str, Any]) -> None:
    for way in WAYS:
        found = cell[way]
        cover = "  ".join(f"{share} %: {value:5.1f}" for share, value in found["coverage"].items())
        print(f"{model:12s} {state:10s} {name:14s} {way:13s} {cover}  pinball {found['pinball']:.5f}", flush=True)


def markdown(found: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]]) -> str:
    """The table of `docs/benchmarks.md`."""
    lines = [
        "| model | set | 80 % | 95 % | uncalibrated 80 % | width 80 / 95 % | pinball | uncalibrated | "
        "window scale: width, pinball | signed 80 / 95 % | per series 80 / 95 % |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (model, state), cells in found.items():
        for name, cell in cells.items():
            own, plain, other = cell["calibrated"], cell["uncalibrated"], cell["window scale"]
            cover = {way: " / ".join(f"{v:.1f}" for v in cell[way]["coverage"].values()) for way in WAYS}
            width = {way: " / ".join(f"{v:.2f}" for v in cell[way]["width"].values()) for way in WAYS}
            cells_of = (
                f"{model} {state}",
                name,
                f"{own['coverage']['80']:.1f}",
                f"{own['coverage']['95']:.1f}",
                f"{plain['coverage']['80']:.1f}",
                width["calibrated"],
                f"{own['pinball']:.4f}",
                f"{plain['pinball']:.4f}",
                f"{width['window scale']}, {other['pinball']:.4f}",
                cover["signed"],
                cover["per series"],
            )
            lines.append(f"| {' | '.join(cells_of)} |")
    return "\n".join(lines)


def bars(model: str, state: str, cells: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The issue's bars; exchange_rate told apart."""
    counted = {name: cell for name, cell in cells.items() if name != APART}
    rows = []
    for share in ENDS:
        off = {name: cell["calibrated"]["coverage"][str(share)] - share for name, cell in cells.items()}
        details = {"cells": cells, "apart": off.get(APART)}
        mine = [off[name] for name in counted]
        if not mine:
            continue
        question = f"{model} {state}, {share} % intervals"
        apart = f"; {APART} {off[APART]:+.1f}" if APART in off else ""
        rows.append(
            Row(
                question=f"{question}: coverage off on average",
                figure=float(np.mean(np.abs(mine))),
                unit="points",
                bar=AVERAGE_BAR,
                ours=f"with signs {float(np.mean(mine)):+.1f}{apart}",
                details=details if share == 80 else {},
            )
        )
        worst = max(counted, key=lambda name: abs(off[name]))
        rows.append(
            Row(
                question=f"{question}: coverage off on the worst set",
                figure=abs(off[worst]),
                unit="points",
                bar=SET_BAR,
                ours=f"{worst} {off[worst]:+.1f}",
            )
        )
    ratio = [cell["calibrated"]["pinball"] / cell["uncalibrated"]["pinball"] for cell in counted.values()]
    if ratio:
        geometric = float(np.exp(np.mean(np.log(ratio))))
        rows.append(Row(question=f"{model} {state}: pinball ÷ uncalibrated", figure=geometric, unit="×", bar=1.0))
    return rows


if __name__ == "__main__":
    main()
