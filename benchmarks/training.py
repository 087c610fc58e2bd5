"""How much of a bare PyTorch loop's speed does Temper's training loop keep?

    python benchmarks/training.py

`tsfm.train.train` (windows cut and scaled, schedule, clipping, finiteness, progress, snapshots, checkpoints, stop
asked at every step) beside twenty lines of plain PyTorch over the same weights and windows in the same order. The two
take turns step by step: Temper's loop asks `should_stop` before each step, and the plain step runs inside that
question, off Temper's clock. Validation is left out of both (the plain loop has none). Both must end with the same
weights, bit for bit on CPU.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import Row, median, run, spread

from tsfm import catalog, methods
from tsfm.backbones.base import Backbone, Batch
from tsfm.backbones.weights import load_backbone, tensors_of
from tsfm.configs import TrainConfig
from tsfm.device import default_device
from tsfm.methods.base import Method
from tsfm.progress import Progress, Reporter
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split
from tsfm.series.windows import Windows, cut
from tsfm.train import Stage, Validation, indices_of, learning_rate_at, train

BAR = 0.95
CONTEXT, HORIZON = 512, 96


def main() -> None:
    run("training", __doc__, arguments, measure)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--methods", nargs="+", default=["full", "sff", "linear_probe"])
    parser.add_argument("--steps", type=int, default=60, help="steps of each loop in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=TrainConfig().batch_size)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its default")


def measure(options: argparse.Namespace) -> list[Row]:
    if options.threads:
        torch.set_num_threads(options.threads)
    windows = training_windows()
    rows = []
    for name in options.methods:
        rounds = [one_round(name, windows, options, seed) for seed in range(options.rounds)]
        ratios = [bare / ours for ours, bare, _ in rounds]
        steps = options.steps
        rows.append(
            Row(
                question=f"training `{name}`: throughput ÷ bare PyTorch loop",
                figure=median(ratios),
                unit="×",
                bar=BAR,
                higher_is_better=True,
                ours=f"{1e3 * median([ours for ours, _, _ in rounds]) / steps:.1f} ms a step",
                baseline=f"{1e3 * median([bare for _, bare, _ in rounds]) / steps:.1f} ms a step",
                details={
                    "ratios": ratios,
                    "spread": spread(ratios),
                    "largest_weight_difference": max(gap for _, _, gap in rounds),
                    "threads": torch.get_num_threads(),
                    "device": default_device().type,
                },
            )
        )
    return rows


def training_windows() -> Windows:
    """The train block of seven generated hourly series of 14,400 points (the size of ETTh1)."""
    rng = np.random.default_rng(0)
    hours = np.arange(14_400)
    series = [
        5 * np.sin(2 * np.pi * hours / 24 + i) + np.cumsum(0.1 * rng.standard_normal(len(hours))) for i in range(7)
    ]
    frame = SeriesFrame(
        item_ids=tuple(f"s{i}" for i in range(len(series))),
        values=np.concatenate(series),
        offsets=np.arange(len(series) + 1, dtype=np.int64) * len(hours),
        starts=np.zeros(len(series), dtype=np.int64),
        freq="h",
    )
    blocks = split(frame, context_length=CONTEXT, prediction_length=HORIZON, patch_length=16)
    most = TrainConfig().max_windows_per_epoch
    return cut(frame, blocks, Block.TRAIN, context_length=CONTEXT, prediction_length=HORIZON, max_windows=most)


def one_round(name: str, windows: Windows, options: argparse.Namespace, seed: int) -> tuple[float, float, float]:
    """(seconds of Temper's loop, seconds of the plain one, largest difference of their weights)."""
    device = default_device()
    steps = int(options.steps)
    config = TrainConfig(
        batch_size=options.batch_size,
        learning_rate=catalog.learning_rate(catalog.method(name), catalog.backbone("temper-tiny")),
        early_stopping=False,  # so that both end with their last weights
        seed=seed,
    )
    method, ours = prepared(name, device)
    _, other = prepared(name, device)
    plain = PlainLoop(other, windows, config, steps, device)
    clock = Clock()

    def between_steps() -> None:
        """Called by Temper's loop before each step and each evaluation."""
        clock.pause()
        if plain.step < steps:  # evaluations ask too, so the plain loop is a few steps ahead
            plain.one_step()
        synchronise(device)
        clock.resume()

    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(
            name="run",
            config=config,
            total_steps=steps,
            state_path=Path(folder) / "run.safetensors",
            identity="benchmark",
        )
        clock.resume()
        train(
            ours,
            method,
            windows,
            lambda _: Validation(error=None, metrics={}),
            stage=stage,
            device=device,
            reporter=Reporter(ignore),
            should_stop=between_steps,
        )
        synchronise(device)
        clock.pause()
    assert plain.step == steps, f"{plain.step} plain steps beside {steps}"
    return clock.seconds, plain.seconds, largest_difference(ours, other)


class Clock:
    """Temper's own time: it stands while the other loop runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    def pause(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def resume(self) -> None:
        self._since = time.perf_counter()


class PlainLoop:
    """The loop anybody would write: slice, standardise, stack, loss, backward, clip, step."""

    def __init__(
        self, model: Backbone, windows: Windows, config: TrainConfig, steps: int, device: torch.device
    ) -> None:
        self.model, self.config, self.steps, self.device = model, config, steps, device
        frame = windows.frame
        self.series = [frame.series(i) for i in range(len(frame))]
        self.windows = list(zip(windows.series.tolist(), windows.origin.tolist(), strict=True))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=0.0, fused=True)
        self.step, self.seconds = 0, 0.0

    def one_step(self) -> None:
        synchronise(self.device)
        begun = time.perf_counter()
        self.model.train()
        contexts, targets = [], []
        for i in indices_of(self.step, num_windows=len(self.windows), config=self.config):
            series, origin = self.windows[i]
            context = self.series[series][max(origin - CONTEXT, 0) : origin]
            mean, deviation = context.mean(), context.std()
            padded = np.full(CONTEXT, np.nan)
            padded[CONTEXT - len(context) :] = (context - mean) / deviation
            contexts.append(padded)
            targets.append((self.series[series][origin : origin + HORIZON] - mean) / deviation)
        batch = Batch(context=self._tensor(contexts), target=self._tensor(targets))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, config=self.config, total_steps=self.steps)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.model.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        synchronise(self.device)
        self.seconds += time.perf_counter() - begun
        self.step += 1

    def _tensor(self, rows: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(rows).astype(np.float32)).to(self.device)


def prepared(name: str, device: torch.device) -> tuple[Method, Backbone]:
    spec = catalog.method(name)
    method = methods.create(name, spec.config())
    return method, method.prepare(load_backbone(catalog.backbone("temper-tiny"))).to(device)


def largest_difference(one: Backbone, other: Backbone) -> float:
    theirs = tensors_of(other)
    return max(float((t - theirs[name]).abs().max()) for name, t in tensors_of(one).items())


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ignore(_: Progress) -> None: ...


if __name__ == "__main__":
    main()
