"""One whole request of each task, as the service makes it."""

from collections.abc import Sequence
from typing import Any

from tsfm.filled import Filled
from tsfm.scores import Anomalies, ScoringAsk
from tsfm.series.frame import SeriesFrame
from tsfm.tasks import anomaly, impute
from tsfm.tasks.anomaly import Scanning
from tsfm.tasks.forecast import Forecaster
from tsfm.tasks.impute import Filling


def scanned(
    forecaster: Forecaster,
    frame: SeriesFrame,
    *,
    like: dict[str, Any] | None = None,
    nulls: Any = None,
    backwards: bool = False,
    **asked: Any,
) -> Scanning:
    """All of it computed, `backwards` the last chunk first."""
    scanning = anomaly.begin(forecaster, frame, ScoringAsk(**asked), like=like, nulls=nulls)
    for chunk in sorted(range(scanning.num_chunks), reverse=backwards):
        scanning.compute(chunk)
    return scanning


def detect(forecaster: Forecaster, frame: SeriesFrame, *, size: int | None = None, **how: Any) -> Anomalies:
    """`size` is the detection window."""
    return scanned(forecaster, frame, detection_size=size, **how).finish()


def filling(
    forecaster: Forecaster, frame: SeriesFrame, levels: Sequence[float] = (), *, long_gaps: Any = "refuse", **how: Any
) -> Filling:
    """All of it computed."""
    begun = impute.begin(forecaster, frame, levels, long_gaps=long_gaps, **how)
    for chunk in range(begun.num_chunks):
        begun.compute(chunk)
    return begun


def fill(forecaster: Forecaster, frame: SeriesFrame, levels: Sequence[float] = (), **how: Any) -> Filled:
    return filling(forecaster, frame, levels, **how).finish()
