"""The landscape of a job: which networks are compared, how long it may take, and the files it leaves."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tsfm import catalog, landscape, landscape_plot, methods
from tsfm.adapter_files import open_network
from tsfm.artifact import open_artifact, write_synced
from tsfm.backbones import fitted
from tsfm.backbones.base import Backbone
from tsfm.backbones.weights import Base
from tsfm.configs import LandscapeConfig, SFFConfig
from tsfm.errors import Cancelled
from tsfm.methods.sff import smooth
from tsfm.progress import MIN_INTERVAL_SECONDS, Reporter
from tsfm.search import Outcome
from tsfm.series.windows import Windows

SHARE = 0.1
"""evaluation.md §8, design.md §5: at most a tenth of the budget."""
LEAST_SECONDS = 60.0
"""Without a budget a tenth of what training took, but no less than this: a short run has a landscape, too."""
_SHOWN_FROM = 0.9
"""Where on the bar of what follows training the landscape begins: behind `saving`."""
FACTS, PLOT = "landscape.json", "landscape.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run whose artifact is written."""

    outcome: Outcome
    artifact: Path
    train: Windows
    clock: Mapping[str, float]
    """The job's `timing` so far."""


def describe(
    finished: Finished,
    resolved: Mapping[str, Any],
    config: LandscapeConfig,
    base: Base,
    device: torch.device,
    tick: landscape.Tick,
) -> dict[str, Any]:
    """The landscape of the pretrained, the smoothed (SFF only) and the tuned network, opened as serving opens it.

    An adapter is folded into the weights it adapts, so that all are points of one space: the backbone's parameters.
    """

    def fresh() -> Backbone:
        return fitted(base.fresh(), base.spec, resolved)

    name = finished.outcome.method_name
    options = catalog.method(name).config(**finished.outcome.method_config)
    networks = {"pretrained": fresh()}
    if isinstance(options, SFFConfig):
        networks["smoothed"] = methods.create(name, options).prepare(fresh())
    networks["tuned"] = open_network(open_artifact(finished.artifact), base.spec, lambda: base)
    budget = resolved["budget_seconds"]
    return landscape.measure(
        networks,
        twin_for(options, fresh()),
        finished.train,
        config,
        seed=int(resolved["seed"]),
        device=device,
        allowed_seconds=None if config.windows is not None else allowance(budget, finished.clock["training_seconds"]),
        tick=tick,
    )


def twin_for(options: Any, pretrained: Backbone) -> Backbone:
    """The random end of the path: SFF's own at alpha 0, else the backbone's initialisation under the method's seed."""
    if isinstance(options, SFFConfig):
        return smooth(
            pretrained,
            alpha=0.0,
            twin_seed=options.twin_seed,
            exclude=options.exclude,
            initialisation=options.initialisation,
        )
    return smooth(pretrained, alpha=0.0, twin_seed=getattr(options, "twin_seed", 0))


def watched(reporter: Reporter, should_stop: Callable[[], str | None]) -> landscape.Tick:
    """Reports the phase `landscape` at most twice a second, and raises `Cancelled` when asked to stop."""
    sent_at = time.monotonic()

    def tick(share: float) -> None:
        nonlocal sent_at
        if reason := should_stop():
            raise Cancelled(f"Stopped while measuring the landscape: {reason}.", code=reason)
        if time.monotonic() - sent_at >= MIN_INTERVAL_SECONDS:
            sent_at = time.monotonic()
            reporter.phase("landscape", share=_SHOWN_FROM + (1.0 - _SHOWN_FROM) * share)

    reporter.phase("landscape", share=_SHOWN_FROM)
    return tick


def allowance(budget_seconds: float | None, training_seconds: float) -> float:
    """Seconds the landscape of a job may take."""
    return SHARE * budget_seconds if budget_seconds is not None else max(SHARE * training_seconds, LEAST_SECONDS)


def write(found: dict[str, Any], folder: Path) -> dict[str, Path]:
    """`landscape.json`, and `landscape.png` where something was measured; file name → where it lies."""
    folder.mkdir(parents=True, exist_ok=True)
    write_synced(folder / FACTS, (json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    files = {FACTS: folder / FACTS}
    if "points" in found:
        landscape_plot.draw(found, folder / PLOT)
        files[PLOT] = folder / PLOT
    return files
