"""From a resolved request to one trained model: the search over α and learning rates, then the run itself.

Every trial is a complete short schedule from the start (evaluation.md §5): half-finished schedules cannot be compared.
A search first tries the values of α at the default learning rate, then the learning rates at the chosen α, each for an
eighth of the run's steps. A trial that cannot be trained (`DROPPED`) is left out, and said. When a time budget cuts a
trial short the comparison is void: defaults are taken, and said.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsfm import catalog, configs, methods
from tsfm.backbones import fitted
from tsfm.backbones.base import Backbone, Batch
from tsfm.configs import TrainConfig
from tsfm.device import is_out_of_memory
from tsfm.errors import Cancelled, DataError, NonFinite, OutOfMemory
from tsfm.evaluate import score
from tsfm.halving import schedules
from tsfm.methods.base import Method
from tsfm.metrics import Scales
from tsfm.progress import Reporter
from tsfm.provenance import identity_of
from tsfm.request import train_config
from tsfm.series.windows import Windows
from tsfm.state import read_scalars, save_state
from tsfm.tasks.forecast import Source
from tsfm.train import Position, Stage, Validation, steps_per_epoch, train

SEARCH_BUDGET_SHARE = 0.3
"""Part of `budget_seconds` that all trials together may use."""
_NO_PATIENCE_LIMIT = 10**9
NO_VALIDATION = "no_validation_windows"
DROPPED = (NonFinite.code, OutOfMemory.code, NO_VALIDATION)
"""`stopped` of a trial that could not be trained; the last is TRACE with nothing to measure importance on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A model ready to be judged, and how it came about."""

    model: Backbone
    method: Method
    method_name: str
    """What was trained: the chosen one where `auto` was asked for."""
    method_config: dict[str, Any]
    hyperparameters: dict[str, Any]
    """Resolved values; `learning_rate` is the one that was used."""
    training: dict[str, Any] = field(default_factory=dict)
    num_trainable_parameters: int = 0
    search: list[dict[str, Any]] = field(default_factory=list)
    """Every trial as in `training["search"]`, and the `seconds` it took: an artifact knows no clock, a job does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One complete schedule with everything decided."""

    method: str
    method_config: dict[str, Any]
    learning_rate: float
    tried: dict[str, Any] = field(default_factory=dict)
    """The options of `method_config` that the search varies."""
    rung: int = 0

    def __str__(self) -> str:
        options = "".join(f", {name} {value}" for name, value in self.tried.items())
        return f"{self.method} at learning rate {self.learning_rate:.3g}{options}"


@dataclass(slots=True, kw_only=True)
class Search:
    """Everything that the stages of one job share."""

    resolved: dict[str, Any]
    train: Windows
    validation: Windows
    scales: Scales
    metric: str
    fresh: Callable[[], Backbone]
    """Loads the pretrained backbone anew, on CPU, as it was published."""
    source: Callable[[Backbone], Source]
    """How the tuned network will be asked for forecasts."""
    identity: Mapping[str, Any]
    state_dir: Path
    reporter: Reporter
    should_stop: Callable[[], str | None]
    device: torch.device
    on_kept: Callable[[Outcome], None] | None = None
    """Called with what the run itself (no trial) has come to, whenever that is its best so far."""
    spent_seconds: float = 0.0
    planned_steps: int = 0
    trials: list[dict[str, Any]] = field(default_factory=list)
    """What was tried: method, options, learning_rate, rung, steps, validation, stopped, seconds."""

    def start(self) -> Backbone:
        """The network a method is given: `fresh`, fitted to the job's horizon."""
        return fitted(self.fresh(), catalog.backbone(self.resolved["backbone"]), self.resolved)

    def run(self) -> Outcome:
        rates, alphas = self._rates(), self._alphas()
        config = train_config(self.resolved, learning_rate=rates[0])
        *short, total = schedules(self.resolved, steps_per_epoch(len(self.train), config) * config.max_epochs)
        self.reporter.plan(sum(short) + total)
        trial = self._search(rates, alphas, max(short, default=0), len(short))
        return self._final(trial, total)

    def _rates(self) -> list[float]:
        asked = self.resolved["hyperparameters"]["learning_rate"]
        return [float(rate) for rate in asked] if isinstance(asked, list | tuple) else [float(asked)]

    def _alphas(self) -> list[float]:
        asked = self.resolved["method_config"].get("alpha")
        return list(configs.ALPHA_SEARCH) if asked == "search" else [asked] if asked is not None else []

    def _search(self, rates: list[float], alphas: list[float], steps: int, num_trials: int) -> Trial:
        """The trial to run in full: α first, then the learning rate."""
        middle = rates[len(rates) // 2]
        options = dict(self.resolved["method_config"])
        start = Trial(method=self.resolved["method"], method_config=options, learning_rate=middle)
        if len(alphas) > 1:
            start = self._with_alpha(start, catalog.method(start.method).config().alpha)
        share = None
        if self.resolved["budget_seconds"] is not None and num_trials:
            share = SEARCH_BUDGET_SHARE * float(self.resolved["budget_seconds"]) / num_trials
        results: dict[tuple[float, float | None], float] = {}
        best = start
        if len(alphas) > 1:
            tried = [self._with_alpha(best, alpha) for alpha in alphas]
            best = self._pick(tried, best, steps, share, results)
        if len(rates) > 1:
            tried = [dataclasses.replace(best, learning_rate=rate) for rate in rates]
            best = self._pick(tried, best, steps, share, results)
        return best

    def _with_alpha(self, trial: Trial, alpha: float) -> Trial:
        return dataclasses.replace(trial, method_config={**trial.method_config, "alpha": alpha}, tried={"alpha": alpha})

    def _pick(
        self,
        tried: list[Trial],
        default: Trial,
        steps: int,
        budget_seconds: float | None,
        results: dict[tuple[float, float | None], float],
    ) -> Trial:
        """The trial with the lowest validation error, the first among equals; the default if one was cut short, or if
        none can be trained."""
        best, lowest = default, None
        for trial in tried:
            key = (trial.learning_rate, trial.method_config.get("alpha"))
            if key not in results:
                at = self._trial(trial, steps, budget_seconds)
                if at.stopped in DROPPED:
                    continue
                if at.stopped != "completed" or at.best_error is None:
                    self.reporter.message(
                        f"The search was given up ({self.trials[-1]['stopped']}): defaults are used instead."
                    )
                    return default
                results[key] = at.best_error
            if lowest is None or results[key] < lowest:
                best, lowest = trial, results[key]
        return best

    def _trial(self, trial: Trial, steps: int, budget_seconds: float | None) -> Position:
        """Where a short schedule ended; what an earlier attempt of this job ended is not repeated."""
        name = f"trial-{len(self.trials)}"
        config = dataclasses.replace(
            train_config(self.resolved, learning_rate=trial.learning_rate), patience=_NO_PATIENCE_LIMIT
        )
        stage = self.stage(name, trial, config, steps, budget_seconds)
        at = self.finished(stage)
        if at is None:
            self.reporter.stage(self.planned_steps, f"Trying {trial} for {steps} steps.")
            at = self.run_trial(stage, trial)
            self.remember(stage, at)
        self.planned_steps += steps
        self.spent_seconds += at.elapsed_seconds
        self.trials.append(
            {
                "method": trial.method,
                "options": trial.tried,
                "learning_rate": trial.learning_rate,
                "rung": trial.rung,
                "steps": at.step,
                "validation": at.best_error,
                "stopped": at.stopped,
                "seconds": round(at.elapsed_seconds, 3),
            }
        )
        return at

    def run_trial(self, stage: Stage, trial: Trial) -> Position:
        """Where the trial ended, run to its end or to where it could not go on."""
        began = time.monotonic()
        try:
            return self.run_stage(stage, trial)[0]
        except (RuntimeError, DataError) as error:
            code = dropped_for(error)
            self.say_dropped(trial, code, str(error))
            return self.dropped(stage, code, seconds=time.monotonic() - began)

    def dropped(self, stage: Stage, code: str, *, seconds: float) -> Position:
        """Where a stage that cannot go on stands."""
        scalars = read_scalars(stage.state_path)
        at = Position(micro_batch=stage.config.batch_size, elapsed_seconds=seconds)
        if scalars is not None and scalars["identity"] == stage.identity:
            at = Position(**scalars["position"])
        return dataclasses.replace(at, best_error=None, stopped=code)

    def say_dropped(self, trial: Trial, code: str, why: str) -> None:
        self.reporter.message(f"{trial} is left out ({code}): {why}")

    def remember(self, stage: Stage, at: Position) -> None:
        """An ended stage without its tensors."""
        save_state(stage.state_path, {}, {"identity": stage.identity, "position": dataclasses.asdict(at)})

    def _final(self, trial: Trial, total: int) -> Outcome:
        config = train_config(self.resolved, learning_rate=trial.learning_rate)
        budget = self.resolved["budget_seconds"]
        left = None if budget is None else max(float(budget) - self.spent_seconds, 0.0)
        stage = self.stage("run", trial, config, total, left)
        self.reporter.stage(self.planned_steps, f"Training for at most {total} steps at {trial.learning_rate:.3g}.")
        return self.outcome(*self.run_stage(stage, trial, self.on_kept), trial, total)

    def outcome(self, at: Position, model: Backbone, method: Method, trial: Trial, total: int) -> Outcome:
        return Outcome(
            model=model,
            method=method,
            method_name=trial.method,
            method_config=trial.method_config,
            hyperparameters={**self.resolved["hyperparameters"], "learning_rate": trial.learning_rate},
            training={
                "steps": at.step,
                "total_steps": total,
                "best_step": at.best_step,
                "best_validation": at.best_error,
                "stopped": at.stopped,
                "micro_batch": at.micro_batch,
                "history": at.history,
                "search": [{k: v for k, v in row.items() if k != "seconds"} for row in self.trials],
                "method": method.facts(model),
            },
            num_trainable_parameters=method.num_trainable_parameters(model),
            search=self.trials,
        )

    def stage(self, name: str, trial: Trial, config: TrainConfig, steps: int, budget_seconds: float | None) -> Stage:
        identity = identity_of(
            {
                **self.identity,
                "request": {**self.resolved, "budget_seconds": None},
                "trial": dataclasses.asdict(trial),
                "steps": steps,
            }
        )
        return Stage(
            name=name,
            config=config,
            total_steps=steps,
            state_path=self.state_dir / f"{name}.safetensors",
            identity=identity,
            budget_seconds=budget_seconds,
        )

    def finished(self, stage: Stage) -> Position | None:
        """Where a stage ended, if an earlier attempt of this job ended it."""
        scalars = read_scalars(stage.state_path)
        if scalars is None or scalars["identity"] != stage.identity or scalars["position"]["stopped"] is None:
            return None
        return Position(**scalars["position"])

    def run_stage(
        self,
        stage: Stage,
        trial: Trial,
        on_kept: Callable[[Outcome], None] | None = None,
        *,
        validate: Callable[[Backbone], Validation] | None = None,
    ) -> tuple[Position, Backbone, Method]:
        """Trains to the stage's end; `validate` in place of the errors on the validation block."""
        method = methods.create(trial.method, catalog.method(trial.method).config(**trial.method_config))
        model = method.prepare(self.start()).to(self.device)
        method.bind(
            model,
            self._some(self.validation, method.num_selection_windows, stage.config.batch_size),
            self._some(self.train, method.num_start_windows, stage.config.batch_size),
        )
        source = self.source(model)

        def read(_: Backbone) -> Validation:
            metrics = score(source, self.validation, self.scales, should_stop=self.should_stop)
            return Validation(error=metrics.get(self.metric), metrics=metrics)

        def kept(at: Position) -> None:
            if on_kept is not None:
                on_kept(self.outcome(at, model, method, trial, stage.total_steps))

        at = train(
            model,
            method,
            self.train,
            validate or read,
            stage=stage,
            device=self.device,
            reporter=self.reporter,
            should_stop=self.should_stop,
            on_kept=kept,
        )
        return at, model, method

    def _some(self, windows: Windows, num_windows: int, batch_size: int) -> list[Batch]:
        """At most `num_windows`, evenly strided over the block, with targets as long as those trained on."""
        windows = dataclasses.replace(windows, prediction_length=self.train.prediction_length)
        wanted = min(len(windows), num_windows)
        indices = np.linspace(0, len(windows) - 1, wanted).round().astype(np.int64)
        batches: list[Batch] = []
        for begin in range(0, wanted, batch_size):
            cut = windows.batch(indices[begin : begin + batch_size])
            batches.append(Batch.of(cut, self.device))
        return batches


def dropped_for(error: RuntimeError | DataError) -> str:
    """The code under which a trial is left out; any other error is raised again."""
    if isinstance(error, NonFinite | OutOfMemory | DataError) and error.code in DROPPED:
        return error.code
    if isinstance(error, RuntimeError) and not isinstance(error, Cancelled) and is_out_of_memory(error):
        return OutOfMemory.code
    raise error
