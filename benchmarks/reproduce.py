"""Fine-tuning on the field's sets beside IBM's figures: any backbone × method × set × horizon × fraction × seeds.

    python benchmarks/reproduce.py --plan                 the whole table, in its order; skips the cells that are done
    python benchmarks/reproduce.py --sets ETTh1 --methods zero_shot full sff --fraction 0.05 --seeds 0 1
    python benchmarks/reproduce.py --table                prints the tables of what is done; the default of ./run bench

Every trial is one schedule of the product's own loop (`tsfm.train.train`) on standardised windows (`ltsf.py`); which of
a contender's trials counts is decided on validation under the first seed, and the other seeds take the same settings
(`recipes.py`). Test is read at stride 1, once per cell, after everything was chosen. Beside it stands, for the first
seed, what papers report: the epoch that was best on test (looked for on a thinned test block, read at stride 1). One
JSON line a cell in benchmarks/results/reproduce.jsonl. Data and weights lie under TEMPER_DATA (default ../shared/data).
"""

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import ltsf
import numpy as np
import torch
import trainers
from common import RESULTS, ROOT, append, facts
from ltsf import Blocks, Caps, LtsfWindows, Standardised
from recipes import Recipe, Trial, create, known, recipes
from reproduce_table import load, print_tables
from sets import PAPERS, TABLE

from tsfm import catalog
from tsfm.backbones.base import Backbone, Batch
from tsfm.backbones.places import Checkpoint, find_weights
from tsfm.backbones.weights import open_checkpoint
from tsfm.methods.base import Method
from tsfm.progress import Progress, Reporter
from tsfm.provenance import identity_of
from tsfm.train import Position, Stage, Validation, steps_per_epoch, train

FEW = ("zero_shot", "linear_probe", "head_decoder", "full", "sff", "lora", "trace")
SEEDS = (0, 1, 2, 3, 4)
PUBLISHED_FOLDERS = {"ttm-r2": "ttm_r2_512_96"}
"""Where the published weights of a backbone lie among the data."""
CPU = torch.device("cpu")
BEST_EPOCH_WINDOWS = 1_000
"""Test windows on which the best epoch is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Everything that names a cell but its method and seed."""

    backbone: str
    set_name: str
    horizon: int
    fraction: float
    mode: ltsf.FractionMode
    caps: Caps
    first_seed: int
    """Trials are picked under it."""
    context: int | None = None
    """Steps of history; None: the backbone's longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One schedule that was run to its end; `model` holds its best weights on validation."""

    trial: Trial
    model: Backbone
    method: Method
    at: Position
    best_epoch: dict[str, Any] | None
    """The network of the epoch that was best on the thinned test block, and which one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true", help="every cell of the table, in its order")
    parser.add_argument("--table", action="store_true", help="print the tables of what is done, and run nothing")
    parser.add_argument("--backbone", default="ttm-r2", choices=list(catalog.BACKBONES))
    parser.add_argument("--sets", nargs="+", default=["ETTh1"], choices=[spec.name for spec in (*TABLE, *PAPERS)])
    parser.add_argument("--methods", nargs="+", default=list(FEW), help="names of recipes.py")
    parser.add_argument("--horizon", type=int, default=96)
    parser.add_argument("--context", type=int, help="steps of history (default: the backbone's longest)")
    parser.add_argument("--fraction", type=float, default=0.05)
    parser.add_argument("--fraction-mode", default="first", choices=["first", "strided"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--train-windows", type=int, default=Caps().train, help="at most so many an epoch (0: all)")
    parser.add_argument("--validation-windows", type=int, default=Caps().validation, help="at most so many (0: all)")
    parser.add_argument("--no-best-epoch", action="store_true", help="leave the papers' figure out: saves time")
    parser.add_argument("--device", type=torch.device, default=CPU, help='"cuda" where there is one')
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    cells = options.results / "reproduce.jsonl"
    if options.table:
        print_tables(load(cells))
        return
    longest = catalog.backbone(options.backbone).context_length
    if options.context is not None and not 1 <= options.context <= longest:
        parser.error(f"--context: {options.backbone} reads 1 to {longest} steps.")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    with trainers.listed():
        run(planned(options) if options.plan else asked(options), options, cells)
    print_tables(load(cells))


Work = tuple[Question, tuple[str, ...], tuple[int, ...]]
"""Methods and seeds of one question."""


def asked(options: argparse.Namespace) -> Iterator[Work]:
    for name in options.sets:
        yield question(options, name, options.fraction), tuple(options.methods), tuple(options.seeds)


def planned(options: argparse.Namespace) -> Iterator[Work]:
    """The project's table: few-shot on five sets, then all of the data on three."""
    for fraction, names in (
        (0.05, ("ETTh1", "ETTh2", "ETTm1", "ETTm2", "weather")),
        (1.0, ("ETTh1", "ETTh2", "exchange_rate")),
    ):
        for name in names:
            yield question(options, name, fraction), FEW, SEEDS


def question(options: argparse.Namespace, set_name: str, fraction: float) -> Question:
    return Question(
        backbone=options.backbone,
        set_name=set_name,
        horizon=options.horizon,
        fraction=fraction,
        mode=options.fraction_mode,
        caps=Caps(train=options.train_windows, validation=options.validation_windows),
        first_seed=options.seeds[0],
        context=options.context,
    )


def run(works: Iterator[Work], options: argparse.Namespace, cells: Path) -> None:
    """Every cell that is not there yet, the first seed of all methods first; what this version has not is left out."""
    for asked_for, names, seeds in works:
        data = ltsf.standardised(asked_for.set_name, data_folder())
        bench = Bench(asked_for, data, cells, device=options.device, with_best_epoch=not options.no_best_epoch)
        listed = recipes(asked_for.set_name)
        chosen = [listed[name] for name in names if known(listed[name])]
        for seed, recipe in product(seeds, chosen):
            if recipe.trials or seed == asked_for.first_seed:
                bench.cell(recipe, seed)


class Bench:
    """The cells of one question."""

    def __init__(
        self,
        asked_for: Question,
        data: Standardised,
        cells: Path,
        *,
        with_best_epoch: bool,
        device: torch.device = CPU,
    ) -> None:
        self.question, self.data, self.cells, self.with_best_epoch = asked_for, data, cells, with_best_epoch
        self.device = device
        self.spec = catalog.backbone(asked_for.backbone)
        self.context = self.spec.context_length if asked_for.context is None else asked_for.context
        self.blocks: Blocks = ltsf.blocks(
            data,
            context_length=self.context,
            prediction_length=asked_for.horizon,
            fraction=asked_for.fraction,
            mode=asked_for.mode,
            caps=asked_for.caps,
        )
        self.few_test = self.blocks.test.thinned(BEST_EPOCH_WINDOWS)
        self.checkpoint, network = opened(self.spec)
        self.pretrained = network.to(device)

    def cell(self, recipe: Recipe, seed: int) -> None:
        """Trains, picks and reads test, unless the cell is there; a seed but the first takes the first one's pick."""
        done = {line["key"]: line for line in load(self.cells)}
        key = self.key(recipe, seed)
        if key in done:
            return
        begun, cpu = time.monotonic(), time.process_time()
        trials: tuple[Trial, ...] = recipe.trials
        if trials and seed != self.question.first_seed:
            first = done[self.key(recipe, self.question.first_seed)]
            trials = (recipe.trials[first["picked"]],)
        ended = [self.schedule(recipe, trial, seed) for trial in trials]
        best = min(ended, key=lambda e: np.inf if e.at.best_error is None else e.at.best_error, default=None)
        model = self.pretrained if best is None else best.model
        line = {
            "key": key,
            **self.facts(recipe, seed),
            **asdict(ltsf.error_of(model, self.blocks.test)),
            "validation_mse": ltsf.error_of(model, self.blocks.validation).mse,
            **({} if best is None else self.told(recipe, ended, best)),
            "seconds": round(time.monotonic() - begun, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "machine": facts(),
        }
        append(self.cells, line)
        print(
            f"{self.question.set_name} {self.question.fraction:g} {recipe.name} seed {seed}: "
            f"test MSE {line['mse']:.5f}, validation {line['validation_mse']:.5f}, picked {line.get('trial')}; "
            f"{line['cpu_seconds']:.0f} CPU s in {line['seconds']:.0f} s",
            flush=True,
        )

    def told(self, recipe: Recipe, ended: Sequence[Ended], best: Ended) -> dict[str, Any]:
        """What a cell keeps of its schedules."""
        said = {
            "picked": recipe.trials.index(best.trial),
            "trial": asdict(best.trial),
            "trials": [
                {
                    **asdict(e.trial),
                    "validation_mse": e.at.best_error,
                    "best_step": e.at.best_step,
                    "steps": e.at.step,
                    "seconds": round(e.at.elapsed_seconds, 1),
                }
                for e in ended
            ],
            "trainable_parameters": best.method.num_trainable_parameters(best.model),
            "method_facts": short(best.method.facts(best.model)),
        }
        if best.best_epoch is not None:
            found = ltsf.error_of(best.best_epoch["model"], self.blocks.test)
            said["best_epoch"] = {
                "epoch": best.best_epoch["epoch"],
                "mse": found.mse,
                "looked_for_at_stride": self.few_test.stride,
            }
        return said

    def schedule(self, recipe: Recipe, trial: Trial, seed: int) -> Ended:
        """One trial from the pretrained weights to its end."""
        config = recipe.train_config(trial, seed=seed)
        windows = self.blocks.train.by_origin() if recipe.by_origin else self.blocks.train
        method = create(recipe.method, trial.options, seed=seed)
        model = copy.deepcopy(self.pretrained).cpu()
        model.fit_to(self.spec.tuned_length(self.question.horizon), seed=seed)
        model = method.prepare(model).to(self.device)
        method.bind(
            model,
            some(self.blocks.validation, method.num_selection_windows, config.batch_size, self.device),
            some(self.blocks.train, method.num_start_windows, config.batch_size, self.device),
        )
        per_epoch = steps_per_epoch(len(windows), config)
        watch = BestEpoch(self.few_test, per_epoch, max(1, per_epoch // config.evaluations_per_epoch))

        def validate(network: Backbone) -> Validation:
            if self.with_best_epoch and seed == self.question.first_seed:
                watch(network)
            return Validation(error=ltsf.error_of(network, self.blocks.validation).mse, metrics={})

        with tempfile.TemporaryDirectory() as folder:
            at = train(
                model,
                method,
                windows,
                validate,
                stage=Stage(
                    name="run",
                    config=config,
                    total_steps=per_epoch * recipe.epochs,
                    state_path=Path(folder) / "run.safetensors",
                    identity="",
                ),
                device=self.device,
                reporter=Reporter(ignore),
                should_stop=lambda: None,
            )
        return Ended(trial=trial, model=model, method=method, at=at, best_epoch=watch.found)

    def facts(self, recipe: Recipe, seed: int) -> dict[str, Any]:
        asked_for = self.question
        return {
            **({} if self.context == self.spec.context_length else {"context": self.context}),
            "backbone": asked_for.backbone,
            "set": asked_for.set_name,
            "horizon": asked_for.horizon,
            "fraction": asked_for.fraction,
            "fraction_mode": asked_for.mode,
            "method": recipe.name,
            "seed": seed,
            "blocks": {
                "train": ltsf.described(self.blocks.train),
                "validation": ltsf.described(self.blocks.validation),
                "test": ltsf.described(self.blocks.test),
            },
        }

    def key(self, recipe: Recipe, seed: int) -> str:
        """Digest of all that the numbers depend on."""
        return identity_of(
            {
                **self.facts(recipe, seed),
                "recipe": asdict(recipe),
                "first_seed": self.question.first_seed if recipe.trials else None,
                "weights": self.checkpoint.sha256,
                "data": self.data.sha256,
            }
        )


class BestEpoch:
    """Watches the evaluations of one schedule and keeps the network of the epoch that was best on (thinned) test."""

    def __init__(self, windows: LtsfWindows, steps_per_epoch_: int, interval: int) -> None:
        self.windows, self.per_epoch, self.interval = windows, steps_per_epoch_, interval
        self.evaluations = 0
        self.found: dict[str, Any] | None = None

    def __call__(self, network: Backbone) -> None:
        """The loop evaluates at step 0 and then every `interval` steps; an epoch counts at its end, or just after."""
        step = self.evaluations * self.interval
        self.evaluations += 1
        epoch = step // self.per_epoch
        if step == 0 or step - self.interval >= epoch * self.per_epoch:
            return
        error = ltsf.error_of(network, self.windows).mse
        if self.found is None or error < self.found["error"]:
            self.found = {"epoch": epoch, "error": error, "model": copy.deepcopy(network).requires_grad_(False)}


def short(method_facts: dict[str, Any]) -> dict[str, Any]:
    """A line keeps numbers and names; of lists and tables how long they are."""
    return {name: len(v) if isinstance(v, list | dict) else v for name, v in method_facts.items()}


def some(windows: LtsfWindows, count: int, batch_size: int, device: torch.device) -> list[Batch]:
    """At most `count` windows, evenly strided, in batches: what `Method.bind` is given."""
    wanted = min(len(windows), count)
    indices = np.linspace(0, len(windows) - 1, wanted).round().astype(np.int64)
    cuts = [windows.batch(indices[i : i + batch_size]) for i in range(0, wanted, batch_size)]
    tensors = [(torch.from_numpy(c.context).to(device), torch.from_numpy(c.target).to(device)) for c in cuts]
    return [Batch(context=context, target=target) for context, target in tensors]


def data_folder() -> Path:
    return Path(os.environ.get("TEMPER_DATA", ROOT.parent / "shared" / "data"))


def pretrained(spec: catalog.BackboneSpec) -> Backbone:
    """From TEMPER_WEIGHTS_DIR, or from the published files among the data."""
    return opened(spec)[1]


def opened(spec: catalog.BackboneSpec) -> tuple[Checkpoint, Backbone]:
    """The network, and which weights it holds."""
    with tempfile.TemporaryDirectory() as folder:
        named = os.environ.get("TEMPER_WEIGHTS_DIR")
        weights_dir = Path(named) if named else None
        if weights_dir is None and spec.name in PUBLISHED_FOLDERS:
            weights_dir = Path(folder)
            (weights_dir / spec.name).symlink_to((data_folder() / PUBLISHED_FOLDERS[spec.name]).absolute())
        checkpoint = find_weights(spec, weights_dir=weights_dir)
        return checkpoint, open_checkpoint(checkpoint).requires_grad_(False)


def ignore(_: Progress) -> None: ...


if __name__ == "__main__":
    main()
