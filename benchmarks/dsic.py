"""Does dynamic selection (DSIC) find the one module through which a task can be solved?

    python benchmarks/dsic.py                 ten seeds of each task

A planted task is a small random network of which one linear, another for every seed, was changed by a matrix of rank 2:
the changed network draws the targets, the unchanged one is tuned by TRACE on them. In "branches" each of the eight
linears reads inputs of its own, so that no other one can make up for it. "decoy" is the same with a second change, as
large, in a branch that the readout hears half as loud: worth learning second, though AdamW moves it as far. In "chain"
the linears stand one after another in a residual network, where others can make up for the planted one in part.
Selection by DSIC, by magnitude and by lot stands at equal budgets: same schedules, seeds and number of modules kept.
"""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from common import Row, run
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.configs import TraceConfig, TrainConfig
from tsfm.methods.trace import Trace
from tsfm.progress import Reporter
from tsfm.series.windows import WindowBatch
from tsfm.train import Stage, Validation, steps_per_epoch, train

NUM_MODULES, WIDTH, HORIZON = 8, 16, 4
NUM_TRAIN, NUM_HELD_OUT = 512, 256
NOISE = 0.5
"""Of the targets, against a change of the network of size one."""
FAINT = 0.5
RANK = 2
BAR = 0.9
SELECTIONS = ("dsic", "magnitude", "random")
SETTINGS = TrainConfig(learning_rate=5e-3, batch_size=32, max_epochs=6, early_stopping=False)


class Branches(Backbone):
    """Sum over eight branches, each a linear on inputs of its own, a SiLU and a fixed readout."""

    num_faint: ClassVar[int] = 0
    """Branches after the planted one that the readout hears half as loud, and that are changed too."""

    lora_targets: ClassVar[str] = r"^modules_\.\d$"
    head_name: ClassVar[str] = "readout"

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.modules_ = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(NUM_MODULES))
        self.readout = nn.Linear(NUM_MODULES * WIDTH, HORIZON)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(**config)

    def answer(self, context: Tensor) -> Tensor:
        parts = context.view(len(context), NUM_MODULES, WIDTH)
        hidden = [F.silu(module(parts[:, i])) for i, module in enumerate(self.modules_)]
        out: Tensor = self.readout(torch.cat(hidden, dim=1))
        return out

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        return Prediction(point=self.answer(context), point_kind="mean", quantiles=None, levels=())

    def loss(self, batch: Batch) -> Tensor:
        return (self.answer(batch.context) - batch.target).square().mean()


class Decoy(Branches):
    """One branch beside the planted one is changed as much and counts for less."""

    num_faint: ClassVar[int] = 1


class Chain(Branches):
    """Eight residual layers one after another; all inputs enter at the first."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(NUM_MODULES * WIDTH, WIDTH)
        self.readout = nn.Linear(WIDTH, HORIZON)

    def answer(self, context: Tensor) -> Tensor:
        hidden = self.enter(context)
        for module in self.modules_:
            hidden = hidden + F.silu(module(hidden))
        out: Tensor = self.readout(hidden)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Planted windows; what the training loop needs of them."""

    context: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.context)

    def batch(self, indices: ArrayLike) -> WindowBatch:
        chosen = np.asarray(indices)
        nothing = np.zeros(len(chosen))
        return WindowBatch(
            context=self.context[chosen].numpy(),
            target=self.target[chosen].numpy(),
            loc=nothing,
            scale=nothing + 1,
            series=nothing.astype(np.int64),
            origin=nothing.astype(np.int64),
        )

    def whole(self) -> Batch:
        return Batch(context=self.context, target=self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    network: Branches
    planted: str
    """Name of the module through which the targets can be reached."""
    train: Rows
    validation: Rows
    test: Rows
    test_floor: float
    """Error on test of the network that drew the targets."""
    test_start: float
    """Error on test of the untuned network."""


def planted(kind: type[Branches], seed: int) -> Task:
    """A task of its own for every seed."""
    generator = torch.Generator().manual_seed(seed)
    network, changed = kind.from_config({}, seed=seed), kind.from_config({}, seed=seed)
    index = int(torch.randint(NUM_MODULES, (1,), generator=generator))
    context = torch.randn(NUM_TRAIN + 2 * NUM_HELD_OUT, NUM_MODULES * WIDTH, generator=generator)
    with torch.no_grad():
        for place in range(index, index + 1 + kind.num_faint):
            weight = changed.modules_[place % NUM_MODULES].weight
            change = torch.randn(WIDTH, RANK, generator=generator) @ torch.randn(RANK, WIDTH, generator=generator)
            weight += weight.norm() * change / change.norm()
            if place > index:
                begin = place % NUM_MODULES * WIDTH
                for faint in (network, changed):
                    faint.readout.weight[:, begin : begin + WIDTH] *= FAINT
        wanted, before = changed.answer(context), network.answer(context)
        # Relative to the change, so that no module's task is easier for its size.
        target = wanted + NOISE * (wanted - before).std() * torch.randn(wanted.shape, generator=generator)
    first, last = NUM_TRAIN, NUM_TRAIN + NUM_HELD_OUT
    train_rows, validation, test = (
        Rows(context=context[rows], target=target[rows])
        for rows in (slice(first), slice(first, last), slice(last, None))
    )
    return Task(
        network=network,
        planted=f"modules_.{index}",
        train=train_rows,
        validation=validation,
        test=test,
        test_floor=error(changed, test),
        test_start=error(network, test),
    )


@torch.no_grad()
def error(network: Backbone, rows: Rows) -> float:
    return float(network.loss(rows.whole()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one run of TRACE came to."""

    rank: int
    """Of the planted module by the scores of the last round, from 1."""
    kept: bool
    missed: float
    """Test error: 1 is the untuned network, 0 the one that drew the targets."""
    selection_share: float
    """Of the seconds of the run."""


def tuned(kind: type[Branches], *, seed: int, selection: str, num_kept: int) -> Found:
    task = planted(kind, seed)
    method = Trace(
        TraceConfig(
            selection=selection,  # type: ignore[arg-type]  # one of SELECTIONS
            keep_ratio=num_kept / NUM_MODULES,
            rank=RANK,
            lora_alpha=2.0 * RANK,
            dropout=0.0,
            head="keep",
            init_seed=seed,
        )
    )
    model = method.prepare(task.network)
    method.bind(model, [task.validation.whole()], [])
    with tempfile.TemporaryDirectory() as folder:
        at = train(
            model,
            method,
            task.train,
            lambda network: Validation(error=error(network, task.validation), metrics={}),
            stage=Stage(
                name="run",
                config=SETTINGS,
                total_steps=SETTINGS.max_epochs * steps_per_epoch(len(task.train), SETTINGS),
                state_path=Path(folder) / "run.safetensors",
                identity="",
            ),
            device=torch.device("cpu"),
            reporter=Reporter(lambda progress: None),
            should_stop=lambda: None,
        )
    chosen = method.facts(model)
    scores: dict[str, float] = chosen["selection"]["importance"]
    return Found(
        rank=sorted(scores, key=lambda name: -scores[name]).index(task.planted) + 1,
        kept=task.planted in chosen["kept"],
        missed=(error(model, task.test) - task.test_floor) / (task.test_start - task.test_floor),
        selection_share=method.laps()["selection_seconds"] / at.elapsed_seconds,
    )


def main() -> None:
    run("dsic", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--kept", type=int, nargs="+", default=[1, 4], help="modules that are kept of the eight")


def measure(options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    rows: list[Row] = []
    for kind in (Branches, Decoy, Chain):
        for num_kept in options.kept:
            found = {
                selection: [
                    tuned(kind, seed=seed, selection=selection, num_kept=num_kept) for seed in range(options.seeds)
                ]
                for selection in SELECTIONS
            }
            rows += [row(kind.__name__.lower(), num_kept, name, runs) for name, runs in found.items()]
    return rows


def row(task: str, num_kept: int, selection: str, runs: list[Found]) -> Row:
    """How often the planted module was ranked first; only DSIC, only where nothing else can solve it, has a bar."""
    first = sum(found.rank == 1 for found in runs)
    kept = sum(found.kept for found in runs)
    missed = [found.missed for found in runs]
    return Row(
        question=f"{task}, {num_kept} of {NUM_MODULES} kept, by {selection}: planted module ranked first",
        figure=first / len(runs),
        unit="of seeds",
        bar=BAR if selection == "dsic" and task != "chain" else None,
        higher_is_better=True,
        ours=f"kept in {kept} of {len(runs)}",
        baseline=f"test error left: {np.mean(missed):.2f} (median {np.median(missed):.2f})",
        details={
            "ranks": [found.rank for found in runs],
            "kept": kept,
            "missed": missed,
            "selection_share": float(np.median([found.selection_share for found in runs])),
        },
    )


if __name__ == "__main__":
    main()
