"""The winning recipe once more, on all history: validation, calibration and test are trained on too.

Method, options and learning rate are those that won; nothing is selected, and nothing is left to judge the result by.
The schedule has as many epochs as the run's had and ends at the share of it where the run's best weights were, so that
every window is seen as often, at the same learning rates, as on the way to the weights that were judged
(docs/decisions/0013). Same loop, same seed; a killed run continues from its state and ends with the same weights.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm.backbones.base import Backbone
from tsfm.request import train_config
from tsfm.search import Outcome, Search, Trial
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split
from tsfm.series.windows import Around, Windows, cut
from tsfm.train import Validation, steps_per_epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Refitted:
    """An artifact that nobody judged."""

    digest: str
    out_dir: Path
    manifest: dict[str, Any]


def whole(split: Split) -> Split:
    """The same series with every point in the train block."""
    borders = np.repeat(split.borders[:, 4:], 5, axis=1)
    borders[:, 0] = 0
    return dataclasses.replace(split, borders=borders, with_test=False)


def windows_of(frame: SeriesFrame, split: Split, like: Windows, *, max_windows: int) -> Windows:
    """Training windows over all of `split` (which is `whole`), as long as those of `like`."""
    shape = like.around

    def around(limits: NDArray[np.int64]) -> Around:
        assert shape is not None, "windows without gaps show nothing behind them"
        return dataclasses.replace(shape, limits=limits)

    return cut(
        frame,
        split,
        Block.TRAIN,
        context_length=like.context_length,
        prediction_length=like.prediction_length,
        max_windows=max_windows,
        around=None if shape is None else around,
    )


def train_on_all(winner: Outcome, search: Search, *, like: Windows) -> Outcome:
    """Trains the winner's recipe on `search.train`, the windows of all history; `like` are those of the run.

    `search` has the state folder and the reporter of the job, and validates nothing. Raises what training raises.
    """
    rate = float(winner.hyperparameters["learning_rate"])
    trial = Trial(method=winner.method_name, method_config=winner.method_config, learning_rate=rate)
    config = dataclasses.replace(train_config(search.resolved, learning_rate=rate), early_stopping=False)
    longer = steps_per_epoch(len(search.train), config) / steps_per_epoch(len(like), config)
    total, last = num_steps(winner, longer=longer)
    stage = dataclasses.replace(search.stage("refit", trial, config, total, None), last_step=last)
    reporter, done = search.reporter, search.reporter.now.step
    reporter.plan(done + last)
    reporter.stage(done, f"Training the same recipe on all history: {last} steps over {len(search.train)} windows.")
    at, model, method = search.run_stage(stage, trial, validate=_nothing)
    made = search.outcome(at, model, method, trial, total)
    kept = {k: v for k, v in made.training.items() if k not in ("history", "search", "best_validation")}
    return dataclasses.replace(made, training={**kept, "windows": len(search.train), "judged_windows": len(like)})


def num_steps(winner: Outcome, *, longer: float) -> tuple[int, int]:
    """(most steps, steps made) of a refit whose epochs have `longer` times the steps of the winner's.

    Shares of steps are rounded apart: where the winner's weights were ones that its method lets be kept (after TRACE's
    final freeze, AdaLoRA's last allocation), the refit goes on until its own are.
    """
    method, ran, best = winner.method, winner.training["total_steps"], winner.training["best_step"]
    total = max(1, round(longer * ran))
    last = min(total, max(1, round(longer * best)))
    if method.eligible(best, ran):
        last = next((step for step in range(last, total) if method.eligible(step, total)), total)
    return total, last


def _nothing(_: Backbone) -> Validation:
    """There is no block to validate on: the last weights are kept."""
    return Validation(error=None, metrics={})
