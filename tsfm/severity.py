"""How far from normal a point is, as a number that ranks points without an end. Torch-free.

A p-value measures a point by the band of its own hour and ends at 1 ÷ (n + 1). That makes alarms as rare in wild hours
as in calm ones, but it cannot order them: what goes wrong widens the band that it is measured by. Severity is the
distance from the expected value in one unit a series, half the usual distance between its bounds. A job for anomaly
detection also remembers at what level each series was in train; half of the distance from there is added, since a
forecaster gets used to whatever lasts (docs/benchmarks.md, "How a point is ranked"). Arrays are [n] points of a series.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split

Floats = NDArray[np.float64]
LEVEL_SHARE = 0.5
"""Weight of the distance from the remembered level, beside that from the expected value."""


def remembered(frame: SeriesFrame, split: Split) -> dict[str, float]:
    """The manifest's `levels`: the median of each series over its train block, in the user's units, by item_id; series
    without a value there are left out."""
    begins, ends = split.block(Block.TRAIN)
    levels: dict[str, float] = {}
    for i, item_id in enumerate(frame.item_ids):
        train = frame.series(i)[begins[i] : ends[i]]
        known = train[~np.isnan(train)]
        if len(known):
            levels[item_id] = float(np.median(known))
    return levels


def level_of(facts: Mapping[str, Any] | None, item_id: str) -> float | None:
    """What a job with these facts remembers of a series; None of one it did not know, and without a job."""
    levels: Mapping[str, float] = (facts or {}).get("levels") or {}
    return levels.get(item_id)


def severity(values: Floats, expected: Floats, lower: Floats, upper: Floats, *, level: float | None) -> Floats:
    """NaN where a value or its bounds are missing; infinite for what is off where bounds leave no room (a constant
    ended)."""
    known = ~np.isnan(values) & ~np.isnan(lower)
    away = np.abs(values - expected)
    if level is not None:
        away = away + LEVEL_SHARE * np.abs(values - level)
    room = (upper - lower)[~np.isnan(lower)]
    usual = float(np.median(room)) / 2.0 if len(room) else 0.0
    outside = (values < lower) | (values > upper)
    ranked = away / usual if usual > 0 else np.where(outside, np.inf, 0.0)
    return np.where(known, ranked, np.nan)
