"""The plain forecasters every job is judged against (evaluation.md §2). Missing values are skipped, not zero-filled."""

import numpy as np
from numpy.typing import NDArray

from tsfm.catalog import RIVALS
from tsfm.errors import UnknownName

Floats = NDArray[np.floating]
SEASONS = 3
"""Seasons of history `seasonal_naive` looks back through for an observed value of the same phase."""


def naive(context: Floats, prediction_length: int) -> Floats:
    """[B, T] → [B, H]: the last observed value; 0 (the window's centre, once scaled) where nothing is observed."""
    observed = ~np.isnan(context)
    last = np.where(observed, np.arange(context.shape[1]), 0).max(axis=1, initial=0)
    value = np.nan_to_num(np.take_along_axis(context, last[:, None], axis=1))
    return np.repeat(value, prediction_length, axis=1)


def window_mean(context: Floats, prediction_length: int) -> Floats:
    """[B, T] → [B, H]: the mean of the observed values; 0 where there is none."""
    observed = ~np.isnan(context)
    total = np.where(observed, context, 0.0).sum(axis=1, dtype=np.float64)
    mean = (total / np.maximum(observed.sum(axis=1), 1)).astype(context.dtype)
    return np.repeat(mean[:, None], prediction_length, axis=1)


def seasonal_naive(context: Floats, prediction_length: int, period: int) -> Floats:
    """[B, T] → [B, H]: the latest observed value of the same phase within `SEASONS` seasons, else the last value."""
    b, length = context.shape
    seasons = min(SEASONS, -(-length // period))
    padded = np.full((b, seasons * period), np.nan, dtype=context.dtype)
    used = min(length, seasons * period)
    padded[:, seasons * period - used :] = context[:, length - used :]
    by_season = padded.reshape(b, seasons, period)
    phase = by_season[:, -1].copy()
    for k in range(2, seasons + 1):
        phase = np.where(np.isnan(phase), by_season[:, -k], phase)
    repeated = np.take(phase, np.arange(prediction_length) % period, axis=1)
    return np.where(np.isnan(repeated), naive(context, prediction_length), repeated)


def history_needed(name: str, *, context_length: int, period: int) -> int:
    """Steps of history a rival should be shown, so that it is not handicapped by the backbone's context."""
    return max(context_length, SEASONS * period) if name == "seasonal_naive" else context_length


def forecast(name: str, context: Floats, prediction_length: int, *, period: int) -> Floats:
    """The rival `name` on scaled contexts [B, T], NaN = missing; `UnknownName` for another name."""
    if name == "naive":
        return naive(context, prediction_length)
    if name == "window_mean":
        return window_mean(context, prediction_length)
    if name == "seasonal_naive":
        return seasonal_naive(context, prediction_length, period)
    raise UnknownName("rival", name, RIVALS, param="model")
