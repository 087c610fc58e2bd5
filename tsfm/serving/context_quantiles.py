"""Quantiles for point forecasters: split-conformal over rolling origins inside the history that was given.

At K origins near the end of each series the forecaster forecasts what is already known. For a central share c the
half-width at step h is the ⌈(K + 1)·c⌉-th smallest |y − ŷ| at that step (evaluation.md §4), so that a share c needs
K ≥ c ÷ (1 − c) origins; where the history holds fewer, the level is refused. The origins overlap, so that these
quantiles are answered as not calibrated.

Shapes: S series, H steps, Q levels, K origins.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tsfm.errors import ConfigError
from tsfm.series.frame import SeriesFrame
from tsfm.serving.frames import rolled_back

Floats = NDArray[np.float64]
MIN_ORIGINS = 20
MAX_ORIGINS = 200
MIN_HISTORY = 2
"""Points before the first origin."""
UNAVAILABLE = "quantiles_unavailable"
"""Code of the error that `_origins` raises."""


def context_quantiles(
    predict: Callable[[SeriesFrame], Floats],
    frame: SeriesFrame,
    point: Floats,
    levels: Sequence[float],
    *,
    keep: int,
) -> Floats:
    """[S, Q, H] quantiles around `point` [S, H]. `predict` forecasts H steps [·, H] after each series of a frame.

    `keep` is the longest history the forecaster looks at. `ConfigError` (code `quantiles_unavailable`) names the first
    series whose history is too short for the asked levels.
    """
    horizon = point.shape[1]
    shares = np.array([abs(2 * level - 1) for level in levels])
    needed = _origins_needed(float(shares.max()))
    ends = [_origins(frame, i, horizon=horizon, needed=needed) for i in range(len(frame))]
    forecasts = predict(rolled_back(frame, ends=ends, keep=keep))
    out = np.empty((len(frame), len(levels), horizon))
    row = 0
    for i, chosen in enumerate(ends):
        steps = np.asarray(chosen)[:, None] + np.arange(horizon)
        errors = np.abs(frame.series(i)[steps] - forecasts[row : row + len(chosen)])
        row += len(chosen)
        out[i] = point[i] + np.sign(np.asarray(levels) - 0.5)[:, None] * _half_widths(errors, shares)
    return np.sort(out, axis=1)


def _origins_needed(share: float) -> int:
    """The fewest origins whose rank ⌈(K + 1)·share⌉ exists; the tolerance keeps 0.95 at 19 despite rounding."""
    return max(math.ceil(share / (1 - share) - 1e-6), 1)


def _origins(frame: SeriesFrame, i: int, *, horizon: int, needed: int) -> list[int]:
    """Ends of history, the last of them one horizon before the end of the series."""
    length = int(frame.lengths[i])
    available = length - horizon - MIN_HISTORY + 1
    if needed > min(available, MAX_ORIGINS):
        most = "" if needed <= MAX_ORIGINS else f" (at most {MAX_ORIGINS} are used)"
        raise ConfigError(
            f"Series {frame.item_ids[i]!r}: quantiles at this level need {needed} rolling origins{most}, so "
            f"{needed + horizon + MIN_HISTORY - 1} points; it has {length}. Ask for a narrower level, or send more.",
            code="quantiles_unavailable",
            param="quantile_levels",
        )
    count = min(max(needed, MIN_ORIGINS), available)
    last = length - horizon
    return list(range(last - count + 1, last + 1))


def _half_widths(errors: Floats, shares: Floats) -> Floats:
    """`errors` [K, H], NaN = nothing observed there → [Q, H]; infinite ranks fall back on the largest error."""
    ordered = np.sort(errors, axis=0)  # NaN last
    count = (~np.isnan(errors)).sum(axis=0)
    rank = np.ceil((count + 1) * shares[:, None] - 1e-9).astype(np.int64)
    index = np.clip(rank, 1, np.maximum(count, 1)) - 1
    return np.nan_to_num(np.take_along_axis(ordered, index, axis=0))
