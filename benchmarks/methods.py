"""What does a step of each method cost beside one of full fine-tuning, and how much of TRACE is its selection?

    python benchmarks/methods.py
    python benchmarks/methods.py --backbone ttm-r2 --methods full sff trace lora

Every method runs the product's own loop (`tsfm.train.train`) over the same windows in the same order, each in a thread
of its own; they take turns step by step, so that a busy machine hurts all alike. Only the one whose turn it is runs.
A figure is processor time of one torch thread, the median over the steps of a round, then over rounds. Validation is
left out of all. TRACE's selection happens after a few of its steps and is shown apart: its cost is per run, so its
share is that of a run of the default length.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # every optimizer imports it: not on the clock of whoever comes first
from common import Row, median, run, spread
from reproduce import pretrained
from training import training_windows

from tsfm import catalog, methods
from tsfm.backbones.base import Batch
from tsfm.configs import TrainConfig
from tsfm.methods.base import Method
from tsfm.progress import Progress, Reporter
from tsfm.series.windows import Windows
from tsfm.train import Stage, Validation, steps_per_epoch, train

SELECTING = "trace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One method in one round; a step is the median one."""

    step_seconds: float
    step_cpu_seconds: float
    selection_cpu_seconds: float
    """What the steps of the run cost beyond the median one each: TRACE's rounds of selection."""


def main() -> None:
    run("methods", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="temper-tiny", choices=list(catalog.BACKBONES))
    parser.add_argument("--methods", nargs="+", default=["full", "sff", "linear_probe", "lora", SELECTING])
    parser.add_argument("--steps", type=int, default=30, help="steps of each method in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=TrainConfig().batch_size)


def measure(options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)  # so that a thread's CPU time is that of its steps
    windows = training_windows()
    names = list(dict.fromkeys(["full", *options.methods]))
    rounds = [one_round(names, windows, options, seed) for seed in range(options.rounds)]
    rows = []
    for name in names[1:]:
        ratios = [costs[name].step_cpu_seconds / costs["full"].step_cpu_seconds for costs in rounds]
        wall = [costs[name].step_seconds / costs["full"].step_seconds for costs in rounds]
        rows.append(
            Row(
                question=f"{options.backbone}: seconds per step of `{name}` ÷ `full`",
                figure=median(ratios),
                unit="×",
                ours=f"{1e3 * median([costs[name].step_cpu_seconds for costs in rounds]):.1f} ms",
                baseline=f"{1e3 * median([costs['full'].step_cpu_seconds for costs in rounds]):.1f} ms",
                details={"ratios": ratios, "spread": spread(ratios), "wall_ratios": wall},
            )
        )
    if SELECTING in names:
        rows.append(selection_share([costs[SELECTING] for costs in rounds], windows, options))
    return rows


def selection_share(costs: Sequence[Cost], windows: Windows, options: argparse.Namespace) -> Row:
    """Of the training time of a run of the default length on as many windows as a job takes at most."""
    config = TrainConfig(batch_size=options.batch_size)
    steps = config.max_epochs * steps_per_epoch(len(windows), config)
    parts = [(c.selection_cpu_seconds, steps * c.step_cpu_seconds) for c in costs]
    shares = [selection / (selection + rest) for selection, rest in parts]
    return Row(
        question=f"{options.backbone}: DSIC's share of TRACE's training time, {steps} steps",
        figure=100 * median(shares),
        unit="%",
        ours=f"{median([selection for selection, _ in parts]):.1f} s of selection",
        baseline=f"{median([rest for _, rest in parts]):.0f} s of steps",
        details={"shares": shares},
    )


def one_round(names: Sequence[str], windows: Windows, options: argparse.Namespace, seed: int) -> dict[str, Cost]:
    turns = Turns(len(names))
    with ThreadPoolExecutor(len(names)) as pool, tempfile.TemporaryDirectory() as folder:
        asked = [
            pool.submit(one_run, name, windows, options, seed, turns, place, Path(folder))
            for place, name in enumerate(names)
        ]
        return {name: one.result() for name, one in zip(names, asked, strict=True)}


def one_run(
    name: str, windows: Windows, options: argparse.Namespace, seed: int, turns: "Turns", place: int, folder: Path
) -> Cost:
    """The whole loop of one method."""
    turns.wait(place)
    try:
        torch.set_num_threads(1)  # of this thread, too
        spec = catalog.backbone(options.backbone)
        method_spec = catalog.method(name)
        method = methods.create(name, method_spec.config())
        model = method.prepare(pretrained(spec))
        bind(method, model, windows, options.batch_size)
        config = TrainConfig(
            batch_size=options.batch_size,
            learning_rate=catalog.learning_rate(method_spec, spec),
            early_stopping=False,
            evaluations_per_epoch=1,
            seed=seed,
        )
        clock = Clock()

        def hand_over() -> None:
            """Asked by the loop before each step and each evaluation."""
            clock.pause()
            turns.next(place)
            clock.resume()

        clock.resume()
        train(
            model,
            method,
            windows,
            lambda _: Validation(error=None, metrics={}),
            stage=Stage(
                name="run",
                config=config,
                total_steps=options.steps,
                state_path=folder / f"{name}.safetensors",
                identity="benchmark",
            ),
            device=torch.device("cpu"),
            reporter=Reporter(ignore),
            should_stop=hand_over,
        )
        clock.pause()
        # Before the steps: setting up and the evaluation at step 0; after them: the last evaluation and the end.
        assert len(clock.laps) == options.steps + 4, f"{len(clock.laps)} turns for {options.steps} steps"
        steps = clock.laps[2:-2]
        typical = median([cpu for _, cpu in steps])
        return Cost(
            step_seconds=median([seconds for seconds, _ in steps]),
            step_cpu_seconds=typical,
            selection_cpu_seconds=sum(cpu - typical for _, cpu in steps),
        )
    finally:
        turns.leave(place)


def bind(method: Method, model: "torch.nn.Module", windows: Windows, batch_size: int) -> None:
    """What a job gives a method to measure on; here both from the train block, which costs the same."""
    given = []
    for wanted in (method.num_selection_windows, method.num_start_windows):
        indices = np.linspace(0, len(windows) - 1, wanted).round().astype(np.int64)
        cuts = [windows.batch(indices[i : i + batch_size]) for i in range(0, wanted, batch_size)]
        given.append([Batch(context=torch.from_numpy(c.context), target=torch.from_numpy(c.target)) for c in cuts])
    method.bind(model, *given)


class Turns:
    """One of several threads runs at a time, in a ring."""

    def __init__(self, count: int) -> None:
        self._changed = threading.Condition()
        self._ring = list(range(count))
        self._at = 0

    def wait(self, place: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._at == place)

    def next(self, place: int) -> None:
        """Lets the next one run, and comes back when it is this one's turn again."""
        with self._changed:
            self._pass_on(place)
            self._changed.wait_for(lambda: self._at == place)

    def leave(self, place: int) -> None:
        with self._changed:
            self._pass_on(place)
            self._ring.remove(place)

    def _pass_on(self, place: int) -> None:
        self._at = self._ring[(self._ring.index(place) + 1) % len(self._ring)]
        self._changed.notify_all()


class Clock:
    """Wall and processor time of one thread, turn by turn."""

    def __init__(self) -> None:
        self.laps: list[tuple[float, float]] = []
        """(wall, processor) seconds of each turn."""
        self._since = (0.0, 0.0)

    def resume(self) -> None:
        self._since = (time.perf_counter(), time.thread_time())

    def pause(self) -> None:
        self.laps.append((time.perf_counter() - self._since[0], time.thread_time() - self._since[1]))


def ignore(_: Progress) -> None: ...


if __name__ == "__main__":
    main()
