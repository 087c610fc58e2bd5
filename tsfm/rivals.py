"""The plain forecasters, and plain ways to fill gaps, that jobs are judged against (evaluation.md §2, §3).

Missing values are skipped, not zero-filled.
"""

import numpy as np
from numpy.typing import NDArray

from tsfm.catalog import FILL_RIVALS, RIVALS, SEASONAL_RIVALS
from tsfm.errors import UnknownName

Floats = NDArray[np.floating]
GUESS_SEASONS = 8
"""Seasons on each side that `completed` looks through."""
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
    return max(context_length, SEASONS * period) if name in SEASONAL_RIVALS else context_length


def forecast(name: str, context: Floats, prediction_length: int, *, period: int) -> Floats:
    """The rival `name` on scaled contexts [B, T], NaN = missing; `UnknownName` for another name."""
    if name == "naive":
        return naive(context, prediction_length)
    if name == "window_mean":
        return window_mean(context, prediction_length)
    if name == "seasonal_naive":
        return seasonal_naive(context, prediction_length, period)
    raise UnknownName("rival", name, RIVALS, param="model")


def fill(name: str, context: Floats, after: Floats, gap: NDArray[np.int64], horizon: int, *, period: int) -> Floats:
    """[B, H] what the rival `name` puts into gaps between `context` [B, T] and `after` [B, A]; `gap` [B] steps each."""
    if name == "linear_fill":
        return linear_fill(context, after, gap, horizon)
    if name == "seasonal_fill":
        return seasonal_fill(context, after, gap, horizon, period)
    raise UnknownName("rival", name, FILL_RIVALS, param="model")


def linear_fill(context: Floats, after: Floats, gap: NDArray[np.int64], horizon: int) -> Floats:
    """[B, H]: the line between the nearest observed values; where one side has none, the other's value; else 0."""
    left, left_at = _nearest(context[:, ::-1])
    right, right_at = _nearest(after)
    step = np.arange(1, horizon + 1)[None, :]
    before = step + left_at[:, None]
    whole = (left_at + right_at + gap + 1)[:, None]
    between = left[:, None] + (right - left)[:, None] * (before / whole)
    one_sided = np.where(np.isnan(left), right, left)[:, None]
    line = np.where(np.isnan(between), one_sided, between)
    return np.nan_to_num(line).astype(context.dtype)


def seasonal_fill(context: Floats, after: Floats, gap: NDArray[np.int64], horizon: int, period: int) -> Floats:
    """[B, H]: the mean of the nearest observed values of the same phase on both sides, looked for as many seasons away
    as the gap has and `SEASONS` more; one side's alone, or the line, where there are none."""
    seen, begin = _seen(context, after, gap, horizon), context.shape[1]
    at = begin + np.arange(horizon)
    mean = _same_phase(seen, at, period=period, seasons=SEASONS + -(-horizon // period))
    filled: Floats = np.where(np.isnan(mean), linear_fill(context, after, gap, horizon), mean)
    return filled


def seasonal_line(context: Floats, after: Floats, gap: NDArray[np.int64], horizon: int, period: int) -> Floats:
    """[B, H]: the seasonal fill, shifted by the line between what it misses of the nearest observed values on both
    sides; a side where it says nothing of any observed value counts for nothing."""
    seen, begin = _seen(context, after, gap, horizon), context.shape[1]
    every = np.arange(seen.shape[1])
    missed = seen - _same_phase(seen, every, period=period, seasons=SEASONS + -(-horizon // period))
    behind = np.take_along_axis(missed, begin + gap[:, None] + np.arange(after.shape[1])[None, :], axis=1)
    shift = linear_fill(missed[:, :begin], behind, gap, horizon)
    shifted: Floats = seasonal_fill(context, after, gap, horizon, period) + shift
    return shifted


def completed(
    context: Floats, after: Floats, gap: NDArray[np.int64], horizon: int, *, period: int
) -> tuple[Floats, Floats]:
    """`context` [B, T] and `after` [B, A] with a first guess of what is missing between their observed points.

    The guess is the mean of the nearest values of the same phase within `GUESS_SEASONS`, else the line between
    neighbours; it looks at no value of the gap. Networks fill a gap better beside a rough guess of the others than
    beside their absence (docs/benchmarks.md). What stands before the first observed point or behind the last one stays
    missing.
    """
    seen, begin = _seen(context, after, gap, horizon), context.shape[1]
    missing = np.isnan(seen)
    steps = np.arange(seen.shape[1])
    inside = (steps < begin) | (steps >= begin + gap[:, None])
    known = ~missing
    first, last = known.argmax(axis=1), seen.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    wanted: NDArray[np.bool_] = missing & inside & (steps > first[:, None]) & (steps < last[:, None])
    wanted[~known.any(axis=1)] = False
    if not wanted.any():
        return context, after
    guess = np.full_like(seen, np.nan)
    if period > 1:
        guess = _same_phase(seen, steps, period=period, seasons=GUESS_SEASONS)
    for row in np.flatnonzero((wanted & np.isnan(guess)).any(axis=1)).tolist():
        line = np.interp(steps, steps[known[row]], seen[row, known[row]])
        guess[row] = np.where(np.isnan(guess[row]), line, guess[row])
    whole = np.where(wanted, guess, seen).astype(context.dtype)
    place = begin + gap[:, None] + np.arange(after.shape[1])[None, :]
    return np.ascontiguousarray(whole[:, :begin]), np.take_along_axis(whole, place, axis=1)


def _seen(context: Floats, after: Floats, gap: NDArray[np.int64], horizon: int) -> Floats:
    """[B, T + H + A]: `context`, NaN for each row's gap, `after`, NaN."""
    begin = context.shape[1]
    seen = np.full((len(context), begin + horizon + after.shape[1]), np.nan, dtype=context.dtype)
    seen[:, :begin] = context
    np.put_along_axis(seen, begin + gap[:, None] + np.arange(after.shape[1])[None, :], after, axis=1)
    return seen


def _same_phase(seen: Floats, at: NDArray[np.int64], *, period: int, seasons: int) -> Floats:
    """[B, len(at)] mean of the nearest observed values whole periods before and after; one of them; or NaN."""
    found = []
    for sign in (-1, 1):
        side = np.full((len(seen), len(at)), np.nan, dtype=seen.dtype)
        for k in range(1, seasons + 1):
            source = at + sign * k * period
            inside = (source >= 0) & (source < seen.shape[1])
            values = np.where(inside, seen[:, np.where(inside, source, 0)], np.nan)
            side = np.where(np.isnan(side), values, side)
        found.append(side)
    before, behind = found
    return np.where(np.isnan(before), behind, np.where(np.isnan(behind), before, (before + behind) / 2))


def _nearest(side: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """([B], [B]) the first observed value of `side` [B, T] and its place; (NaN, 0) where there is none."""
    observed = ~np.isnan(side)
    if not side.shape[1]:
        return np.full(len(side), np.nan), np.zeros(len(side), dtype=np.int64)
    first = observed.argmax(axis=1)
    value = np.where(observed.any(axis=1), np.take_along_axis(side, first[:, None], axis=1)[:, 0], np.nan)
    return value, np.where(observed.any(axis=1), first, 0).astype(np.int64)
