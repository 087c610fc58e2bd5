"""How a run tells its caller where it stands: at most twice a second, except for what must not be missed."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIN_INTERVAL_SECONDS = 0.5
TRAINING_SHARE = 0.9
"""Part of the bar that training fills; loading comes before it as nothing, evaluating and saving after it."""
PHASES = ("loading", "training", "evaluating", "saving", "refitting", "landscape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One report. `message` is set for what a user should read as an event; `metrics` after an evaluation (`kept` in it
    says whether the weights of that step became the ones to return)."""

    phase: str
    step: int = 0
    """Optimizer steps done, those of the search included."""
    total_steps: int = 0
    fraction: float = 0.0
    eta_seconds: float | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    """The job's metric on the validation block, at the last evaluation."""
    message: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The best weights of a run that goes on, as an artifact that nobody judged."""

    digest: str
    out_dir: Path
    """The receiver may move or remove it."""
    at: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Wanted at an improvement of the validation error: the first one, then at most one every `every_seconds`."""

    every_seconds: float
    take: Callable[[Checkpoint], None]
    """Called in the thread that trains, which waits."""


class Reporter:
    """Builds `Progress` values and throttles them: phase changes, messages and evaluations always go through."""

    def __init__(self, send: Callable[[Progress], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._sent_at = -MIN_INTERVAL_SECONDS
        self._first: tuple[float, int] | None = None
        self._now = Progress(phase="loading")
        self._offset = 0

    @property
    def now(self) -> Progress:
        """Where the run stands, whether it was sent or not."""
        return self._now

    def phase(self, phase: str, message: str | None = None, *, share: float = 0.0) -> None:
        """`share` is how much of what follows training is done (evaluating and saving)."""
        assert phase in PHASES, phase
        fraction = self._now.fraction
        if phase in ("evaluating", "saving", "landscape"):
            fraction = TRAINING_SHARE + (1.0 - TRAINING_SHARE) * share
        self._now = dataclasses.replace(self._now, phase=phase, fraction=fraction, eta_seconds=None)
        self._emit(message=message)

    def plan(self, total_steps: int) -> None:
        """Steps of all stages together, at most."""
        self._now = dataclasses.replace(self._now, total_steps=total_steps)

    def stage(self, offset: int, message: str | None) -> None:
        """A stage begins after `offset` of the planned steps."""
        self._offset = offset
        self._now = dataclasses.replace(self._now, step=offset, validation_loss=None)
        self._emit(message=message)

    def stepped(self, step: int, train_loss: float) -> None:
        """Optimizer step `step` of this stage is done; sent only when half a second has passed."""
        now = self._clock()
        done, total = self._offset + step, self._now.total_steps
        if self._first is None:
            self._first = (now, done)
        eta = None
        if done > self._first[1]:
            eta = (now - self._first[0]) / (done - self._first[1]) * max(total - done, 0)
        self._now = dataclasses.replace(
            self._now,
            step=done,
            # A plan that grows on the way must not take the bar back.
            fraction=max(self._now.fraction, TRAINING_SHARE * min(1.0, done / max(total, 1))),
            eta_seconds=eta,
            train_loss=train_loss,
        )
        if now - self._sent_at >= MIN_INTERVAL_SECONDS:
            self._emit()

    def evaluated(self, validation_loss: float | None, metrics: dict[str, Any]) -> None:
        self._now = dataclasses.replace(self._now, validation_loss=validation_loss)
        self._emit(metrics=metrics)

    def message(self, text: str) -> None:
        self._emit(message=text)

    def _emit(self, *, message: str | None = None, metrics: dict[str, Any] | None = None) -> None:
        self._sent_at = self._clock()
        self._send(dataclasses.replace(self._now, message=message, metrics=metrics or {}))
