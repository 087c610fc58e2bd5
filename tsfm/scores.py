"""What is asked of anomaly scoring, and what it answers. Torch-free."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm.errors import ConfigError
from tsfm.joint import Joint

Floats = NDArray[np.float64]
MIN_LEVEL, MAX_LEVEL = 50.0, 99.99
DEFAULT_LEVEL = 99.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringAsk:
    """One request; `ConfigError` for a level out of range."""

    level: float = DEFAULT_LEVEL
    """Per cent of normal points that are not called anomalies."""
    detection_size: int | None = None
    """Only the newest so many points of each series; None: all that have enough history."""
    scoring: str | None = None
    prediction_length: int | None = None
    """Steps of one block; both are for what was not tuned."""
    together: bool = False
    """The series are the variables of one system, which is scored as such, too."""

    def __post_init__(self) -> None:
        check_level(self.level)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesScores:
    """One series' scored points, oldest first; [n] each."""

    index: int
    """Of the series in the frame."""
    first: int
    """Index of the first scored point."""
    values: Floats
    expected: Floats
    lower: Floats
    upper: Floats
    p_values: Floats
    scores: Floats
    """1.0 is the line; NaN where the value is missing."""
    severity: Floats
    """How far from normal, without an end: what ranks points (tsfm.severity)."""
    in_sample: NDArray[np.bool_]

    @property
    def is_anomaly(self) -> NDArray[np.bool_]:
        return np.nan_to_num(self.scores) > 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomalies:
    """What `finish` answers."""

    level: float
    scoring: str
    prediction_length: int
    """Steps of one block."""
    series: tuple[SeriesScores, ...]
    """Without the skipped ones."""
    together: Joint | None
    """The series as variables of one system, where that was asked."""
    calibrated: bool
    """Whether a job's calibration block is the null; else the history that was given."""
    extrapolated: bool
    """Whether the level lies beyond what the null resolves for any series, so that its tail was extrapolated."""
    num_scores: int
    """Fewest null scores of any series."""
    drift: dict[str, Any] | None
    """How far the scored points are from the null; None where they are the null themselves."""
    notes: tuple[str, ...]


def check_level(level: float) -> None:
    """`ConfigError` outside 50 to 99.99 per cent."""
    if not MIN_LEVEL <= level <= MAX_LEVEL:
        raise ConfigError(
            f"level is per cent of normal points that are no anomalies, from {MIN_LEVEL:g} to {MAX_LEVEL:g}, not "
            f"{level:g}.",
            param="level",
        )
