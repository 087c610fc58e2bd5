"""How good is a backbone without any training, beside the plain rivals? Protocol: evaluation.md §10.

    python benchmarks/zero_shot.py --out results.json                  temper-tiny on the nine table sets
    python benchmarks/zero_shot.py --selection --weights DIR           the sets on which checkpoints are chosen

Data are found under TEMPER_DATA (default ../shared/data beside the repository).
"""

import argparse
import datetime
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from sets import SELECTION, TABLE, Panel, SetSpec, panels  # noqa: E402

from tsfm import catalog  # noqa: E402
from tsfm.backbones import build  # noqa: E402
from tsfm.backbones.base import Backbone  # noqa: E402
from tsfm.backbones.weights import load_backbone, load_tensors  # noqa: E402

Array = NDArray[np.float64]
DECILES = np.arange(1, 10) / 10
Forecaster = Callable[[Array, int, int], tuple[Array, Array | None]]
"""(contexts [B, T] NaN-padded on the left, horizon, season) -> point [B, H], deciles [B, 9, H] or None."""


@dataclass(slots=True)
class Score:
    """Errors of one forecaster on one set; a point forecaster's deciles are all its point."""

    mase: float
    wql: float
    coverage_80: float | None
    seconds: float
    ratio: float = math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="temper-tiny", help="name in the catalogue")
    parser.add_argument("--weights", type=Path, help="folder with model.safetensors and config.json (default: shipped)")
    parser.add_argument("--selection", action="store_true", help="the selection sets instead of the table's")
    parser.add_argument("--sets", nargs="*", help="only these")
    parser.add_argument("--max-windows", type=int, default=0, help="at most so many windows a panel (0: all)")
    parser.add_argument("--no-mse", action="store_true", help="skip the standardised MSE over every window")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = Path(os.environ.get("TEMPER_DATA", ROOT.parent / "shared" / "data"))
    spec = catalog.backbone(options.model)
    backbone = load_backbone(spec) if options.weights is None else candidate(spec, options.weights)
    model = backbone_forecaster(backbone.eval(), spec.context_length)
    chosen = [s for s in (SELECTION if options.selection else TABLE) if not options.sets or s.name in options.sets]
    cap = options.max_windows or (24 if options.selection else 0)
    rows: dict[str, dict[str, object]] = {}
    results: dict[str, dict[str, Score]] = {}
    for entry in chosen:
        scores = evaluate(entry, panels(entry, data), {options.model: model} | RIVALS, spec.context_length, cap=cap)
        results[entry.name] = scores
        row: dict[str, object] = {name: asdict(score) for name, score in scores.items()}
        if entry.ibm_mse and not options.no_mse:
            row["standardised_mse"] = standardised_mse(entry, data, model, spec.context_length)
        rows[entry.name] = row
        show(entry.name, scores, row.get("standardised_mse"))
    ratios = [entry[options.model].ratio for entry in results.values()]
    summary = {
        "geometric_mean_ratio": float(np.exp(np.mean(np.log(ratios)))),
        "ratio_at_least_1": sum(r >= 1 for r in ratios),
    }
    print(json.dumps(summary))
    print(markdown(results, options.model))
    if options.out:
        facts = machine_facts() | {"model": options.model, "sha256": spec.sha256, "threads": options.threads}
        options.out.write_text(json.dumps({"facts": facts, "summary": summary, "sets": rows}, indent=1) + "\n")


def candidate(spec: catalog.BackboneSpec, folder: Path) -> Backbone:
    """An unpublished checkpoint, not checked against the catalogue's digest."""
    model = build(spec, json.loads((folder / "config.json").read_text()), seed=0)
    load_tensors(model, load_file(folder / "model.safetensors"))
    return model


def show(name: str, scores: dict[str, Score], mse: object) -> None:
    for who, score in scores.items():
        coverage = "  -  " if score.coverage_80 is None else f"{score.coverage_80:.3f}"
        errors = f"MASE {score.mase:8.4f}  ratio {score.ratio:6.3f}  WQL {score.wql:7.4f}"
        print(f"{name:20s} {who:15s} {errors}  cov80 {coverage}")
    if mse is not None:
        print(f"{name:20s} standardised MSE, every window: {mse:.4f}")
    sys.stdout.flush()


def markdown(results: dict[str, dict[str, Score]], model: str) -> str:
    """The table of `docs/benchmarks.md`."""
    lines = [
        f"| set | {model} | seasonal naive | last value | window mean | ratio | WQL | WQL seasonal | 80 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, scores in results.items():
        ours = scores[model]
        errors = " | ".join(f"{scores[who].mase:.3f}" for who in (model, *RIVALS))
        coverage = "" if ours.coverage_80 is None else f"{100 * ours.coverage_80:.0f} %"
        wql = f"{ours.wql:.4f} | {scores['seasonal_naive'].wql:.4f}"
        lines.append(f"| {name} | {errors} | **{ours.ratio:.3f}** | {wql} | {coverage} |")
    return "\n".join(lines)


def evaluate(
    spec: SetSpec, sets: list[Panel], forecasters: dict[str, Forecaster], context: int, *, cap: int
) -> dict[str, Score]:
    """Scores of every forecaster on the same windows; stride H // 4, every series weighing the same in MASE."""
    scores: dict[str, Score] = {}
    for name, forecaster in forecasters.items():
        errors: list[float] = []
        pinball, absolute, inside, count = 0.0, 0.0, 0, 0
        native, started = True, time.perf_counter()
        for contexts, targets, scales in _batches(spec, sets, context, cap):
            point, deciles = forecaster(contexts, spec.horizon, spec.season)
            native = deciles is not None
            quantiles = point[:, None, :] if deciles is None else deciles
            seen = ~np.isnan(targets)
            error = np.where(seen, np.abs(np.nan_to_num(targets) - point), np.nan)
            errors += [
                float(np.nanmean(e) / s) if ok.any() else math.nan for e, s, ok in zip(error, scales, seen, strict=True)
            ]
            signed = np.nan_to_num(targets)[:, None, :] - quantiles
            level = DECILES[None, :, None]
            loss = np.maximum(level * signed, (level - 1) * signed).mean(1)
            pinball += 2 * float(loss[seen].sum())
            absolute += float(np.abs(targets[seen]).sum())
            inside += int(((targets >= quantiles[:, 0]) & (targets <= quantiles[:, -1]))[seen].sum())
            count += int(seen.sum())
        coverage = inside / count if native else None
        seconds = round(time.perf_counter() - started, 2)
        mase = _mean_over_series(errors, spec, sets, cap)
        scores[name] = Score(mase=mase, wql=pinball / absolute, coverage_80=coverage, seconds=seconds)
    for score in scores.values():
        score.ratio = score.mase / scores["seasonal_naive"].mase
    return scores


def _origins(spec: SetSpec, panel: Panel, cap: int) -> list[int]:
    """First target rows of the test windows."""
    origins = list(range(panel.test_start, panel.test_end - spec.horizon + 1, max(1, spec.horizon // 4)))
    if cap and len(origins) > cap:
        origins = [origins[i] for i in np.linspace(0, len(origins) - 1, cap).round().astype(int)]
    return origins


def _batches(
    spec: SetSpec, sets: list[Panel], context: int, cap: int, *, size: int = 128
) -> Iterator[tuple[Array, Array, Array]]:
    """Contexts [B, T], targets [B, H] and MASE scales [B], in the order panel, series, origin."""
    contexts: list[Array] = []
    targets: list[Array] = []
    scales: list[float] = []
    for panel in sets:
        for series in panel.values.T:
            scale = mase_scale(series[: panel.train_end], spec.season)
            for origin in _origins(spec, panel, cap):
                past = series[max(0, origin - context) : origin]
                contexts.append(np.pad(past, (context - len(past), 0), constant_values=np.nan))
                targets.append(series[origin : origin + spec.horizon])
                scales.append(scale)
                if len(contexts) == size:
                    yield np.stack(contexts), np.stack(targets), np.array(scales)
                    contexts, targets, scales = [], [], []
    if contexts:
        yield np.stack(contexts), np.stack(targets), np.array(scales)


def _mean_over_series(errors: list[float], spec: SetSpec, sets: list[Panel], cap: int) -> float:
    """Mean over windows of a series, then over series (a series without any observed target does not count)."""
    means: list[float] = []
    position = 0
    for panel in sets:
        windows = len(_origins(spec, panel, cap))
        for _ in range(panel.values.shape[1]):
            part = np.array(errors[position : position + windows])
            position += windows
            if not np.isnan(part).all():
                means.append(float(np.nanmean(part)))
    assert position == len(errors)
    return float(np.mean(means))


def mase_scale(train: Array, season: int) -> float:
    """Mean absolute seasonal difference of the train block; evaluation.md §2 says what replaces zero."""
    for lag in (season, 1):
        differences = np.abs(train[lag:] - train[:-lag])
        if np.isfinite(differences).any() and np.nanmean(differences) > 0:
            return float(np.nanmean(differences))
    level = float(np.nanmean(np.abs(train))) if np.isfinite(train).any() else 0.0
    return level or 1.0


def backbone_forecaster(model: Backbone, context_length: int) -> Forecaster:
    """Centres and scales each window in float64, as the product does, and asks the backbone."""

    def forecast(contexts: Array, horizon: int, season: int) -> tuple[Array, Array | None]:
        contexts = contexts[:, -context_length:]
        empty = np.isnan(contexts).all(1, keepdims=True)
        safe = np.where(empty, 0.0, contexts)
        centre = np.nanmean(safe, axis=1, keepdims=True)
        spread = np.nanstd(safe, axis=1, keepdims=True)
        spread = np.where(spread > 0, spread, 1.0)
        scaled = torch.from_numpy(((contexts - centre) / spread).astype(np.float32))
        with torch.inference_mode():
            answer = model.predict(scaled, horizon)
        point = answer.point.double().numpy() * spread + centre
        if answer.quantiles is None:
            return point, None
        return point, answer.quantiles.double().numpy() * spread[:, None] + centre[:, None]

    return forecast


def _forward_fill(contexts: Array) -> Array:
    """Missing values take the last one before them; leading ones the first after."""
    index = np.where(np.isnan(contexts), -1, np.arange(contexts.shape[1]))
    last = np.maximum.accumulate(index, axis=1)
    first = np.argmax(index >= 0, axis=1)[:, None]
    filled = np.take_along_axis(contexts, np.where(last >= 0, last, first), axis=1)
    return np.nan_to_num(filled)


def naive(contexts: Array, horizon: int, season: int) -> tuple[Array, None]:
    return np.repeat(_forward_fill(contexts)[:, -1:], horizon, axis=1), None


def seasonal_naive(contexts: Array, horizon: int, season: int) -> tuple[Array, None]:
    """The same phase of the last season that has it; without any, the last value."""
    steps = np.arange(horizon)
    out = np.full((len(contexts), horizon), np.nan)
    length = contexts.shape[1]
    for back in range(1, length // season + 1):
        source = length - back * season + steps % season
        out = np.where(np.isnan(out), contexts[:, source], out)
    return np.where(np.isnan(out), naive(contexts, horizon, season)[0], out), None


def window_mean(contexts: Array, horizon: int, season: int) -> tuple[Array, None]:
    safe = np.where(np.isnan(contexts).all(1, keepdims=True), 0.0, contexts)
    return np.repeat(np.nanmean(safe, axis=1, keepdims=True), horizon, axis=1), None


RIVALS: dict[str, Forecaster] = {"seasonal_naive": seasonal_naive, "naive": naive, "window_mean": window_mean}


def standardised_mse(spec: SetSpec, data: Path, model: Forecaster, context: int) -> float:
    """IBM's protocol: every test window (stride 1), values standardised by the train split, sentinels left in the
    statistics and targets as every published figure has them; only the model's context sees them as missing."""
    raw = panels(SetSpec(**(asdict(spec) | {"sentinel": None})), data)[0]
    mean, deviation = raw.values[: raw.train_end].mean(0), raw.values[: raw.train_end].std(0)
    total, count = 0.0, 0
    for column in range(raw.values.shape[1]):
        series = (raw.values[:, column] - mean[column]) / deviation[column]
        shown = series.copy()
        if spec.sentinel is not None:
            shown[raw.values[:, column] == spec.sentinel] = np.nan
        origins = np.arange(raw.test_start, raw.test_end - spec.horizon + 1)
        for part in np.array_split(origins, max(1, len(origins) // 256)):
            point, _ = model(shown[part[:, None] + np.arange(-context, 0)], spec.horizon, spec.season)
            error = series[part[:, None] + np.arange(spec.horizon)] - point
            total += float((error**2).sum())
            count += error.size
    return total / count


def machine_facts() -> dict[str, object]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


if __name__ == "__main__":
    main()
