"""Where does SFF gain over full fine-tuning on TTM-R2? Trials judged on validation alone; test is never read.

    python benchmarks/sff_search.py --sets ETTh1 --fraction 0.05 --seeds 0 1

Schedules are those of `reproduce.py` with five epochs. One JSON line a trial in benchmarks/results/sff_search.jsonl;
what is there is not run again. The table names the best of each kind, set by set and seed by seed.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import ltsf
import torch
import trainers
from common import RESULTS, append
from recipes import Recipe, Trial, rates
from reproduce import Bench, Question, data_folder
from reproduce_table import load

from tsfm.provenance import identity_of

EPOCHS = 5
CAPS = ltsf.Caps(train=4_000, validation=700)
HEAD = ("head.",)
GRID: tuple[tuple[str, tuple[Trial, ...]], ...] = (
    ("full", rates(1e-5, 3e-5, 1e-4, 3e-4)),
    *(("sff", rates(1e-5, 3e-5, 1e-4, 3e-4, alpha=alpha)) for alpha in (0.99, 0.98, 0.97, 0.95, 0.9, 0.7)),
    *(("sff", rates(3e-5, 1e-4, alpha=alpha, exclude=HEAD)) for alpha in (0.98, 0.97, 0.95, 0.9)),
    *(("sff", rates(3e-5, 1e-4, alpha=alpha, initialisation="matched")) for alpha in (0.97, 0.95)),
    *(("shrink_perturb", rates(3e-5, 1e-4, alpha=alpha, parts="noise")) for alpha in (0.98, 0.95, 0.9)),
    *(("shrink_perturb", rates(3e-5, 1e-4, alpha=alpha, parts="shrink")) for alpha in (0.97, 0.95)),
    ("sam", rates(3e-5, rho=0.05)),
    ("l2_sp", rates(3e-5, beta=0.01)),
    ("swa", rates(3e-5, 1e-4)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["ETTh1", "ETTh2"])
    parser.add_argument("--fraction", type=float, default=0.05)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--table", action="store_true", help="print what is done, and run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    lines = options.results / "sff_search.jsonl"
    if not options.table:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        torch.set_flush_denormal(True)
        with trainers.listed():
            for set_name in options.sets:
                search(set_name, options.fraction, options.seeds, lines)
    print_table(load(lines))


def search(set_name: str, fraction: float, seeds: list[int], lines: Path) -> None:
    question = Question(
        backbone="ttm-r2", set_name=set_name, horizon=96, fraction=fraction, mode="first", caps=CAPS, first_seed=0
    )
    bench = Bench(question, ltsf.standardised(set_name, data_folder()), lines, with_best_epoch=False)
    done = {line["key"] for line in load(lines)}
    for seed in seeds:
        for method, trials in GRID:
            for trial in trials:
                facts = facts_of(set_name, fraction, seed, method, trial.learning_rate, dict(trial.options))
                if facts["key"] not in done:
                    at = bench.schedule(
                        Recipe(name=method, method=method, trials=(trial,), epochs=EPOCHS), trial, seed
                    ).at
                    append(lines, {**facts, "validation_mse": at.best_error, "best_step": at.best_step})


def facts_of(
    set_name: str, fraction: float, seed: int, method: str, learning_rate: float, options: dict[str, Any]
) -> dict[str, Any]:
    """What names a trial."""
    named = {
        "set": set_name,
        "fraction": fraction,
        "seed": seed,
        "method": method,
        "learning_rate": learning_rate,
        "options": json.loads(json.dumps(options)),
    }
    return {"key": identity_of(named), **named}


def print_table(lines: list[dict[str, Any]]) -> None:
    """The lowest validation MSE of each kind of trial and how it was reached."""
    best: dict[tuple[str, float, int], dict[str, dict[str, Any]]] = {}
    for line in lines:
        kinds = best.setdefault((line["set"], line["fraction"], line["seed"]), {})
        kind = line["method"] if line["method"] != "shrink_perturb" else f"{line['options']['parts']} only"
        if kind not in kinds or line["validation_mse"] < kinds[kind]["validation_mse"]:
            kinds[kind] = line
    columns = sorted({kind for kinds in best.values() for kind in kinds})
    print("| set, share of train, seed | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for (set_name, fraction, seed), kinds in sorted(best.items()):
        cells = [told(kinds[kind]) if kind in kinds else "" for kind in columns]
        print(f"| {set_name}, {fraction:.0%}, {seed} | " + " | ".join(cells) + " |")


def told(line: dict[str, Any]) -> str:
    options = ", ".join(f"{key} {value}" for key, value in line["options"].items() if key != "parts")
    return f"{line['validation_mse']:.4f} ({line['learning_rate']:g}{', ' + options if options else ''})"


if __name__ == "__main__":
    main()
