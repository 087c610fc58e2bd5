"""What a step and an evaluation take on this machine: a few real ones, measured. For plans and estimates only."""

import dataclasses
import shutil
import statistics
import time

import numpy as np

from tsfm.errors import Cancelled
from tsfm.evaluate import score
from tsfm.progress import Reporter
from tsfm.request import train_config
from tsfm.search import Search, Trial
from tsfm.series.windows import Windows
from tsfm.tasks.forecast import Source

MEASURED_STEPS = 4
"""Besides the first one, which also pays for whatever is made once."""
MEASURED_SECONDS = 2.0
"""No further step begins once the measured ones have taken so long."""
MEASURED_WINDOWS = 64
_MEASURED = "measured"


class _Ticks(Reporter):
    """Notes when each step ended, and tells nobody."""

    def __init__(self) -> None:
        super().__init__(lambda progress: None)
        self.at: list[float] = []

    def stepped(self, step: int, train_loss: float) -> None:
        self.at.append(time.monotonic())

    @property
    def are_enough(self) -> bool:
        return len(self.at) > MEASURED_STEPS or (len(self.at) > 1 and self.at[-1] - self.at[0] > MEASURED_SECONDS)


def step_seconds(search: Search, trial: Trial, *, total_steps: int) -> float:
    """Seconds of one optimizer step of this trial, the first of a schedule of `total_steps`; evaluations apart.

    Nothing is left behind. Raises what the first steps of the trial itself would raise, `Cancelled` included.
    """
    ticks = _Ticks()

    def should_stop() -> str | None:
        return search.should_stop() or (_MEASURED if ticks.are_enough else None)

    folder = search.state_dir / "measuring"
    trying = dataclasses.replace(
        search,
        validation=first(search.validation, 1),
        state_dir=folder,
        reporter=ticks,
        should_stop=should_stop,
        on_kept=None,
    )
    config = train_config(search.resolved, learning_rate=trial.learning_rate)
    began = time.monotonic()
    try:
        trying.run_stage(trying.stage("measured", trial, config, total_steps, None), trial)
    except Cancelled as stopped:
        if stopped.code != _MEASURED:
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    gaps = np.diff(ticks.at)
    return float(statistics.median(gaps)) if len(gaps) else ticks.at[0] - began


def window_seconds(search: Search, source: Source, windows: Windows) -> float:
    """Seconds of scoring one window with this source, from a few of them."""
    few = first(windows, MEASURED_WINDOWS)
    began = time.monotonic()
    score(source, few, search.scales, should_stop=search.should_stop)
    return (time.monotonic() - began) / max(len(few), 1)


def first(windows: Windows, number: int) -> Windows:
    """At most `number` of the windows, spread evenly."""
    kept = np.linspace(0, len(windows) - 1, min(number, len(windows))).round().astype(np.int64)
    return dataclasses.replace(windows, series=windows.series[kept], origin=windows.origin[kept])
