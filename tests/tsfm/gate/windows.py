"""Errors from numbers alone, for tests that need no forecaster."""

import numpy as np

from tsfm.metrics import Scales, WindowErrors

HORIZON = 6


def errors(values: np.ndarray, *, series: np.ndarray | None = None) -> WindowErrors:
    """Windows whose mean scaled error is `values` [W]; one series unless told."""
    values = np.asarray(values, dtype=np.float64)
    series = np.zeros(len(values), dtype=np.int64) if series is None else series
    one, zeros = np.ones(int(series.max(initial=0)) + 1), np.zeros(len(values))
    return WindowErrors(
        scales=Scales(mase=one, rmsse=one, season=1, num_fallbacks={}),
        levels=(),
        series=series,
        absolute=values * HORIZON,
        squared=values**2 * HORIZON,
        count=np.full(len(values), HORIZON),
        pinball=zeros,
        target=zeros,
        covered=zeros.astype(np.int64),
    )


def noisy(mean: float, n: int = 120, *, seed: int = 0) -> np.ndarray:
    """[n] errors around `mean` that overlap as windows of `HORIZON` do."""
    noise = np.random.default_rng(seed).normal(scale=0.1, size=n + HORIZON - 1)
    return mean + np.convolve(noise, np.ones(HORIZON) / HORIZON, mode="valid")
