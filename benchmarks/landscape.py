"""How sharp is the loss at the pretrained weights, at SFF's starting points, and at the random twin?

    python benchmarks/landscape.py --backbone ttm-r2 --set ETTh1

The curvature that a job measures (`tsfm.landscape`, evaluation.md §8), here over starting points only: nothing is
trained. Train windows of the field's split (`ltsf.py`), evenly spaced; the same windows, probes and start vectors at
every point. Data and published weights are found under TEMPER_DATA (default ../shared/data).
"""

import argparse
import json
from pathlib import Path
from typing import Any, get_args

import ltsf
import torch
from common import Row, run
from reproduce import data_folder, pretrained
from sets import TABLE

from tsfm import catalog, landscape, landscape_plot
from tsfm.backbones.base import Backbone
from tsfm.configs import Initialisation, LandscapeConfig
from tsfm.methods.sff import smooth


def main() -> None:
    run("landscape", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="temper-tiny", choices=list(catalog.BACKBONES))
    parser.add_argument("--set", dest="set_name", default="ETTh1", choices=[spec.name for spec in TABLE])
    parser.add_argument("--alphas", nargs="+", type=float, default=[0.9, 0.7, 0.0])
    parser.add_argument("--initialisations", nargs="+", default=["backbone"], choices=get_args(Initialisation))
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of the twin, the probes and the start vector")
    parser.add_argument(
        "--units",
        default="normalised",
        choices=get_args(landscape.Units),
        help="windows: standardised by the train split",
    )
    parser.add_argument("--surface", action="store_true")
    parser.add_argument("--plot", type=Path, default=None, help="where to draw it")


def measure(options: argparse.Namespace) -> list[Row]:
    spec = catalog.backbone(options.backbone)
    horizon = min(96, spec.prediction_length)
    data = ltsf.standardised(options.set_name, data_folder())
    caps = ltsf.Caps(train=0, validation=1)
    blocks = ltsf.blocks(data, context_length=spec.context_length, prediction_length=horizon, caps=caps)

    def start(alpha: float, initialisation: Initialisation) -> Backbone:
        return smooth(pretrained(spec), alpha=alpha, twin_seed=options.seed, initialisation=initialisation)

    networks = {"pretrained": pretrained(spec)}
    for initialisation in options.initialisations:
        for alpha in options.alphas:
            networks[f"α = {alpha:g}, {initialisation}"] = start(alpha, initialisation)
    config = LandscapeConfig(surface=options.surface, windows=options.windows, probes=options.probes)
    found = landscape.measure(
        networks,
        start(0.0, options.initialisations[0]),
        blocks.train,
        config,
        seed=options.seed,
        device=torch.device("cpu"),
        units=options.units,
    )
    if options.plot is not None:
        landscape_plot.draw(found, options.plot)
    print(f"{spec.name} on {options.set_name}: {found['loss']}; {found['windows']} windows, {found['probes']} probes")
    print(table(found["points"]))
    path = found["interpolation"]["random"]
    print(f"\nLoss on the way to the random twin: {json.dumps(dict(zip(path['share'], path['loss'], strict=True)))}")
    return [
        Row(
            question=f"{spec.name}, {options.set_name}, {name}: largest Hessian eigenvalue",
            figure=point["lambda_max"],
            unit="",
            details=point | {"windows": found["windows"], "probes": found["probes"]},
        )
        for name, point in found["points"].items()
        if "lambda_max" in point
    ]


def table(points: dict[str, dict[str, Any]]) -> str:
    """Markdown, as it stands in docs/benchmarks.md; ± is a standard error, of λ the residual."""
    lines = ["| point | loss | λ max | λ min | Tr | ‖H‖² | Tr ÷ ‖H‖ | Tr(H·θ²) |", "|---|---|---|---|---|---|---|---|"]
    for name, p in points.items():
        if "lambda_max" not in p:
            lines.append(f"| {name} | {p['loss']:.4f} | {p['omitted']} |")
            continue
        ends = [f"{p[f'lambda_{end}']:.2f} ± {p[f'lambda_{end}_residual']:.1g}" for end in ("max", "min")]
        sums = [
            f"{p[key]['value']:.3g} ± {p[key]['standard_error']:.1g}"
            for key in ("trace", "squared_frobenius", "trace_over_frobenius", "scaled_trace")
        ]
        lines.append(f"| {name} | {p['loss']:.4f} | {' | '.join([*ends, *sums])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
