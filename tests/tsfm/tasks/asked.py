"""One whole request of each task, as the service makes it."""

from collections.abc import Sequence
from typing import Any

from tsfm.series.frame import SeriesFrame
from tsfm.tasks.anomaly import Anomalies, Detector
from tsfm.tasks.forecast import Forecaster
from tsfm.tasks.impute import Filled, Imputer


def detect(
    forecaster: Forecaster,
    frame: SeriesFrame,
    *,
    level: float = 99.0,
    size: int | None = None,
    together: bool = False,
    backwards: bool = False,
    **how: Any,
) -> Anomalies:
    """`size` is the detection window; `backwards` computes the last chunk first."""
    scanning = Detector.of(forecaster, freq=frame.freq, **how).begin(frame, detection_size=size)
    for chunk in sorted(range(scanning.num_chunks), reverse=backwards):
        scanning.compute(chunk)
    return scanning.finish(level=level, together=together)


def fill(
    forecaster: Forecaster, frame: SeriesFrame, levels: Sequence[float] = (), *, long_gaps: Any = "refuse", **how: Any
) -> Filled:
    filling = Imputer.of(forecaster, freq=frame.freq, **how).begin(frame, levels, long_gaps=long_gaps)
    for chunk in range(filling.num_chunks):
        filling.compute(chunk)
    return filling.finish()
