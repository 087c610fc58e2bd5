"""What a run would take on this machine, from a few real steps of its own recipe: the figures of `dry_run`.

The run's data are read and cut, its network is built and trained for a few steps, a few windows are forecast; the rest
is arithmetic. What a method does besides its steps (TRACE's selection) is not in it.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tsfm import catalog, halving, methods, provenance
from tsfm.backbones.start import base_of
from tsfm.backbones.weights import Base
from tsfm.device import default_device, peak_memory_bytes
from tsfm.finetune import tuned_source
from tsfm.halving import Candidate
from tsfm.prepare import Data, prepare
from tsfm.progress import Reporter
from tsfm.request import FinetuneRequest, method_config, resolve, train_config
from tsfm.search import Search, Trial
from tsfm.series.frame import SeriesFrame
from tsfm.timing import step_seconds, window_seconds
from tsfm.train import steps_per_epoch

MEASURING_SECONDS = 2.0
"""Of the methods of `auto`, no further one is measured after so long: it is taken to be as dear as the dearest."""
REFIT_SHARE_OF_STEPS = 1 / 0.6
"""Steps of a refit for every step of the run: all history against the train block."""
LANDSCAPE_SHARE = 0.1
"""design.md §5: a landscape may take a tenth of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    seconds: float
    """From loading to saving, if no schedule stops early."""
    memory_bytes: int
    """Most the process held; on a GPU, most of the GPU's memory."""
    windows: int
    steps: int
    trainable_parameters: int | None
    """At most; None where it shows while training: of `auto`, and of a method that shares ranks out."""
    device: str

    def to_mapping(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def measure(
    request: FinetuneRequest,
    frame: SeriesFrame,
    *,
    weights_dir: Path | None,
    work_dir: Path,
    should_stop: Callable[[], str | None],
    device: torch.device | None = None,
) -> Measured:
    """Measures this request on these series; raises whatever its run would raise so early. `work_dir` is left empty."""
    began = time.monotonic()
    device = device or default_device()
    resolved = resolve(request, {"freq": frame.freq, "max_length": int(frame.lengths.max(initial=0))})
    spec = catalog.backbone(request.backbone)
    data = prepare(frame, resolved, spec)
    base = base_of(spec, resolved["initialisation"], weights_dir=weights_dir)
    zero_shot = base.fresh().to(device).requires_grad_(False)
    search = _search(data, resolved, spec, base, work_dir, should_stop, device)
    loading = time.monotonic() - began
    per_window = window_seconds(search, search.source(zero_shot), data.validation)
    training, steps = 0.0, 0
    trainable: int | None = 0
    if catalog.method(request.method).trains:
        training, steps = _training(search, per_window)
        trainable = _trainable(search)
    return Measured(
        seconds=round(loading + training + per_window * _judged_windows(data), 1),
        memory_bytes=peak_memory_bytes(device),
        windows=len(data.train),
        steps=steps,
        trainable_parameters=trainable,
        device=device.type,
    )


def _search(
    data: Data,
    resolved: dict[str, Any],
    spec: catalog.BackboneSpec,
    base: Base,
    work_dir: Path,
    should_stop: Callable[[], str | None],
    device: torch.device,
) -> Search:
    return Search(
        resolved=resolved,
        train=data.train,
        validation=data.validation,
        scales=data.scales,
        metric=data.metric,
        fresh=base.fresh,
        source=lambda model: tuned_source(model, resolved, spec),
        identity={"data": provenance.frame_sha256(data.frame), "backbone": base.digest},
        state_dir=work_dir,
        reporter=Reporter(lambda progress: None),
        should_stop=should_stop,
        device=device,
    )


def _training(search: Search, per_window: float) -> tuple[float, int]:
    """(seconds, steps at most) of all schedules of the job."""
    resolved = search.resolved
    tried = _tried(resolved)
    config = train_config(resolved, learning_rate=tried[0].learning_rate)
    per_epoch = steps_per_epoch(len(search.train), config)
    *trials, total = halving.schedules(resolved, per_epoch * config.max_epochs)
    evaluation = per_window * len(search.validation)
    interval = max(1, per_epoch // config.evaluations_per_epoch)
    costs = _step_costs(search, tried, total)
    own = max(costs)
    every = [costs[i] if i < len(costs) else statistics.mean(costs) for i in range(len(trials))]
    seconds = sum(cost * steps for cost, steps in zip(every, trials, strict=True)) + own * total
    seconds += sum(evaluation * (2 + steps // interval) for steps in (*trials, total))
    if resolved["budget_seconds"] is not None:
        seconds = min(seconds, float(resolved["budget_seconds"]))
    if resolved["landscape"]:
        seconds *= 1.0 + LANDSCAPE_SHARE
    steps = sum(trials) + total
    if resolved["refit"]:
        again = int(REFIT_SHARE_OF_STEPS * total)
        seconds, steps = seconds + own * again, steps + again
    return seconds, steps


def _tried(resolved: dict[str, Any]) -> tuple[Candidate, ...]:
    """What is trained: the candidates of `auto` in the order of its first rung, else the method at one of its rates."""
    if resolved["method"] == catalog.AUTO:
        return halving.candidates(resolved)
    options = dict(resolved["method_config"])
    if options.get("alpha") == "search":
        options["alpha"] = catalog.method(resolved["method"]).config().alpha
    rates = resolved["hyperparameters"]["learning_rate"]
    rate = rates[len(rates) // 2] if isinstance(rates, list | tuple) else rates
    return (Candidate(method=resolved["method"], options=options, learning_rate=float(rate)),)


def _step_costs(search: Search, tried: tuple[Candidate, ...], total_steps: int) -> list[float]:
    """Seconds of one step of each candidate; every method is measured once, while there is time."""
    began = time.monotonic()
    known: dict[str, float] = {}
    for candidate in tried:
        if candidate.method not in known and (not known or time.monotonic() - began < MEASURING_SECONDS):
            known[candidate.method] = step_seconds(search, _trial(candidate), total_steps=total_steps)
    dearest = max(known.values())
    return [known.get(candidate.method, dearest) for candidate in tried]


def _trial(candidate: Candidate) -> Trial:
    config = method_config(candidate.method, candidate.options)
    return Trial(
        method=candidate.method,
        method_config=dataclasses.asdict(config),
        learning_rate=candidate.learning_rate,
    )


def _trainable(search: Search) -> int | None:
    if search.resolved["method"] == catalog.AUTO:
        return None
    (candidate,) = _tried(search.resolved)
    method = methods.create(candidate.method, method_config(candidate.method, candidate.options))
    return method.num_trainable_parameters(method.prepare(search.start())) or None


def _judged_windows(data: Data) -> int:
    """Windows that judging and calibrating forecast, with the tuned network and with the zero-shot one."""
    test = 0 if data.test is None else len(data.test)
    return 2 * (len(data.validation) + 2 * len(data.calibration) + 2 * test)
