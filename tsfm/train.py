"""The one training loop. Methods act through their hooks (`tsfm.methods.base`); nothing else trains anything.

batch → backbone loss → backward → accumulation → clip → *finite?* → optimizer → schedule → `after_step` → report.
Data order is a pure function of (seed, epoch), the learning rate of (step, most steps), dropout draws from the seeded
global generators: a killed run that continues from its state ends with the same weights, bit for bit, on CPU.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tsfm.backbones.base import Backbone, Batch
from tsfm.backbones.weights import tensors_of
from tsfm.configs import TrainConfig
from tsfm.device import is_out_of_memory, training_precision
from tsfm.errors import Cancelled, NonFinite, OutOfMemory
from tsfm.methods.base import Method
from tsfm.progress import Reporter
from tsfm.series.windows import WindowBatch
from tsfm.state import (
    Saved,
    load_state,
    optimizer_tensors,
    random_state,
    restore_optimizer,
    restore_random_state,
    save_state,
)


class TrainWindows(Protocol):
    """What the loop needs of `tsfm.series.windows.Windows`."""

    def __len__(self) -> int: ...
    def batch(self, indices: ArrayLike) -> WindowBatch: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """One reading of the validation block: `error` decides (None = nothing to read), `metrics` are shown."""

    error: float | None
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One complete schedule from the start: a trial of a search, or the run itself."""

    name: str
    config: TrainConfig
    total_steps: int
    """Most steps; the schedule depends on it alone."""
    state_path: Path
    identity: str
    """Digest of everything the numbers depend on; a state of another identity is not continued."""
    budget_seconds: float | None = None
    last_step: int | None = None
    """Where it ends although the schedule is longer (a refit); None = with the schedule."""


@dataclass(slots=True, kw_only=True)
class Position:
    """Where a stage stands; everything that is not a tensor."""

    step: int = 0
    evaluated_at: int = -1
    best_error: float | None = None
    best_step: int = 0
    worse_evaluations: int = 0
    """Evaluations after warm-up, in a row, that could have been kept and had no better error."""
    micro_batch: int
    elapsed_seconds: float = 0.0
    stopped: str | None = None
    """None while running; then "completed", "early_stopping" or "budget"."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Each evaluation: step, train_loss, validation."""


def steps_per_epoch(num_windows: int, config: TrainConfig) -> int:
    return -(-num_windows // (config.batch_size * config.gradient_accumulation))


def learning_rate_at(step: int, *, config: TrainConfig, total_steps: int) -> float:
    """Linear warm-up, then cosine to zero; `step` counts from 0."""
    warmup = warmup_steps(config, total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(total_steps - warmup, 1)))


def warmup_steps(config: TrainConfig, total_steps: int) -> int:
    return math.ceil(config.warmup_fraction * total_steps)


def indices_of(step: int, *, num_windows: int, config: TrainConfig) -> NDArray[np.int64]:
    """The windows of optimizer step `step` (from 0): one permutation per epoch, from the seed and the epoch alone."""
    size = config.batch_size * config.gradient_accumulation
    epoch, place = divmod(step, steps_per_epoch(num_windows, config))
    return _order(num_windows, config.seed, epoch)[place * size : (place + 1) * size]


@lru_cache(maxsize=2)
def _order(num_windows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_windows)


def train(
    model: Backbone,
    method: Method,
    windows: TrainWindows,
    validate: Callable[[Backbone], Validation],
    *,
    stage: Stage,
    device: torch.device,
    reporter: Reporter,
    should_stop: Callable[[], str | None],
    on_kept: Callable[[Position], None] | None = None,
) -> Position:
    """Trains `model` (prepared by `method`, on `device`) in place and leaves its best weights in it.

    Continues from the stage's state where there is one. The global generators are seeded and put back afterwards.
    Raises `Cancelled` within one step of a stop (its `code` is the reason; the state is saved), `NonFinite` with the
    weights before that step kept in the state, `OutOfMemory` when not even one window fits. `on_kept` is called
    whenever the weights that `model` holds, in eval mode, became the best; it must not change them.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stage.config.seed)
        run = _Run(model, method, windows, stage=stage, device=device, reporter=reporter)
        run.resume()
        run.loop(validate, should_stop, on_kept or (lambda at: None))
        run.keep_best()
    return run.at


class _Run:
    """One stage being trained: the tensors and the position that a state file holds."""

    def __init__(
        self,
        model: Backbone,
        method: Method,
        windows: TrainWindows,
        *,
        stage: Stage,
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        self.model, self.method, self.windows = model, method, windows
        self.stage, self.config, self.device, self.reporter = stage, stage.config, device, reporter
        model.gradient_checkpointing = self.config.gradient_checkpointing
        self.parameters = [p for _, p in method.trainable_parameters(model)]
        decayed = [p for p in self.parameters if p.ndim >= 2]
        plain = [p for p in self.parameters if p.ndim < 2]  # norms and biases are never decayed
        groups = [{"params": decayed, "weight_decay": self.config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        # fused: one pass over each tensor in the place of ten, a tenth of a step of 84 million parameters on a CPU.
        groups = [group for group in groups if group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=self.config.learning_rate, fused=True)
        self.at = Position(micro_batch=self.config.batch_size)
        self.best: dict[str, Tensor] = {}
        self.interval = max(1, steps_per_epoch(len(windows), self.config) // self.config.evaluations_per_epoch)
        self.train_loss: float | None = None
        self._clock = time.monotonic()
        self._saved_at = self._clock

    def loop(
        self,
        validate: Callable[[Backbone], Validation],
        should_stop: Callable[[], str | None],
        on_kept: Callable[[Position], None],
    ) -> None:
        """Evaluate when due, else step, until the schedule, patience or the budget ends."""
        at, total = self.at, self.stage.last_step or self.stage.total_steps
        while at.stopped is None:
            self._tick()
            if reason := should_stop():
                self._save()
                raise Cancelled(f"Stopped at step {at.step} of {total}: {reason}.", code=reason)
            over = self.stage.budget_seconds is not None and at.elapsed_seconds >= self.stage.budget_seconds
            last = at.step == total or (over and at.step > 0)
            if at.evaluated_at < at.step and (last or at.step % self.interval == 0):
                if self._evaluate(validate):
                    on_kept(at)
                continue
            if last:
                at.stopped = "completed" if at.step == total else "budget"
            elif self.config.early_stopping and at.worse_evaluations >= self.config.patience:
                at.stopped = "early_stopping"
            else:
                self._save_if_due()
                self.train_loss = self._step()
                self.reporter.stepped(at.step, self.train_loss)
        self._keep_last_if_none()
        self._save()

    def _keep_last_if_none(self) -> None:
        """A run that was cut short before its method let anything be kept ends with the weights it has."""
        at = self.at
        if at.best_step == 0:
            at.best_error, at.best_step = at.history[-1]["validation"], at.step
            self.best = self._snapshot()
            self.reporter.message(
                f"The run ended ({at.stopped}) before the method had settled: its last weights are kept, not its best."
            )

    def _step(self) -> float:
        """One optimizer step over `batch_size * gradient_accumulation` windows; the mean loss."""
        at, total = self.at, self.stage.total_steps
        self.model.train()
        place, length = self.method.schedule(at.step, total)
        rate = learning_rate_at(place, config=self.config, total_steps=length)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._accumulate(indices_of(at.step, num_windows=len(self.windows), config=self.config))
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_gradient_norm)
        if not math.isfinite(loss) or not bool(torch.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            self._save()
            raise NonFinite(
                f"Loss or gradient was not finite at step {at.step + 1} of {total} (learning rate {rate:.3g}): "
                "use a lower learning_rate, or look for extreme values in the series.",
                details={"step": at.step + 1},
            )
        self.optimizer.step()
        at.step += 1
        self.method.after_step(self.model, step=at.step, total_steps=total)
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _accumulate(self, indices: NDArray[np.int64]) -> float:
        """Gradients of the loss of the windows at `indices`; halves the micro-batch until it fits in memory."""
        while True:
            begins = range(0, len(indices), self.at.micro_batch)
            cuts = [self.windows.batch(indices[begin : begin + self.at.micro_batch]) for begin in begins]
            # The share of a batch in the loss is that of its observed target points: `Backbone.loss` averages them.
            counts = [np.count_nonzero(~np.isnan(cut.target)) for cut in cuts]
            try:
                losses = [
                    self._gradients(cut, weight=count / sum(counts)) for cut, count in zip(cuts, counts, strict=True)
                ]
                return float(torch.stack(losses).sum())
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if self.at.micro_batch == 1:
                raise OutOfMemory("Not even one window fits in memory: use a shorter context_length.")
            self.at.micro_batch = -(-self.at.micro_batch // 2)
            self.reporter.message(
                f"Out of memory: gradients are now accumulated over batches of {self.at.micro_batch} windows."
            )

    def _gradients(self, cut: WindowBatch, *, weight: float) -> Tensor:
        batch = Batch.of(cut, self.device)
        precision = training_precision(self.device)
        return self.method.gradients(self.model, batch, weight=weight, precision=precision) * weight

    def _evaluate(self, validate: Callable[[Backbone], Validation]) -> bool:
        """Whether the weights were kept. Step 0 is logged but never eligible (evaluation.md §5): else `full` would
        silently become zero-shot. A method may rule out more steps: patience does not count there."""
        at = self.at
        self.model.eval()
        try:
            found = validate(self.model)
        except Cancelled:
            self._save()
            raise
        at.evaluated_at = at.step
        at.history.append({"step": at.step, "train_loss": self.train_loss, "validation": found.error})
        eligible = at.step > 0 and self.method.eligible(at.step, self.stage.total_steps)
        better = found.error is not None and (at.best_error is None or found.error < at.best_error)
        keeps_last = not self.config.early_stopping or found.error is None
        kept = eligible and (better or keeps_last)
        if kept:
            at.best_error, at.best_step, at.worse_evaluations = found.error, at.step, 0
            self.best = self._snapshot()
        elif eligible and self._has_warmed_up():
            at.worse_evaluations += 1
        self.reporter.evaluated(found.error, {**found.metrics, "kept": kept})
        return kept

    def _has_warmed_up(self) -> bool:
        """In a method of several phases: each has a warm-up of its own."""
        place, length = self.method.schedule(self.at.step, self.stage.total_steps)
        return place > warmup_steps(self.config, length)

    def keep_best(self) -> None:
        """The best weights into the model; eval mode."""
        own = tensors_of(self.model)
        with torch.no_grad():
            for name, t in self.best.items():
                own[name].copy_(t)
        self.model.eval()

    def resume(self) -> None:
        saved = load_state(self.stage.state_path)
        if saved is None:
            return
        if saved.scalars["identity"] != self.stage.identity:
            self.reporter.message(
                "The stored state belongs to another configuration: training starts from the beginning."
            )
            return
        self._restore(saved)
        threads = saved.scalars["num_threads"]
        if threads != torch.get_num_threads():
            self.reporter.message(
                f"Continued with {torch.get_num_threads()} threads after {threads}: the last bits may differ."
            )
        self.reporter.message(f"Continued from step {self.at.step} of {self.stage.total_steps}.")

    def _restore(self, saved: Saved) -> None:
        own = tensors_of(self.model)
        with torch.no_grad():
            for name, t in saved.group("model").items():
                own[name].copy_(t)
        self.best = {name: t.to(self.device) for name, t in saved.group("best").items()}
        restore_optimizer(self.optimizer, saved.group("optimizer"))
        self.method.load_state(saved.group("method"))
        restore_random_state(saved.group("random"), self.device)
        self.at = Position(**saved.scalars["position"])
        self.train_loss = saved.scalars["train_loss"]

    def _snapshot(self) -> dict[str, Tensor]:
        """Copies of everything training may change: what is trained, and buffers."""
        frozen = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        return {name: t.clone() for name, t in tensors_of(self.model).items() if name not in frozen}

    def _tick(self) -> None:
        now = time.monotonic()
        self.at.elapsed_seconds += now - self._clock
        self._clock = now

    def _save_if_due(self) -> None:
        every = self.config.checkpoint_every_steps
        due = time.monotonic() - self._saved_at >= self.config.checkpoint_every_seconds
        if self.at.step > 0 and (due or (every is not None and self.at.step % every == 0)):
            self._save()

    def _save(self) -> None:
        save_state(
            self.stage.state_path,
            {
                "model": self._snapshot(),
                "best": self.best,
                "optimizer": optimizer_tensors(self.optimizer),
                "method": self.method.state(),
                "random": random_state(self.device),
            },
            {
                "identity": self.stage.identity,
                "position": asdict(self.at),
                "train_loss": self.train_loss,
                "num_threads": torch.get_num_threads(),
            },
        )
        self._saved_at = time.monotonic()
