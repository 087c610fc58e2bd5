"""Steps of gaps laid out by their distance from the nearer edge: what decides how far off a fill may be. Torch-free.

A gap of g steps becomes two rows of D = ⌈H ÷ 2⌉ columns: its first half from the left edge inwards, and its second half
from the right edge inwards; the middle of an odd gap belongs to the first. What does not exist is NaN.
Shapes: B gaps of at most H steps.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def by_edge(x: Floats, gap: Ints) -> Floats:
    """[B, …, H] → [2B, …, D]; `gap` [B] steps each."""
    depth = -(-x.shape[-1] // 2)
    d = np.arange(depth)
    half = -(-gap // 2)
    left = _taken(x, np.broadcast_to(d, (len(gap), depth)), d[None, :] < half[:, None])
    right = _taken(x, gap[:, None] - 1 - d[None, :], d[None, :] < (gap - half)[:, None])
    return np.concatenate([left, right])


def from_edge(y: Floats, gap: Ints, horizon: int) -> Floats:
    """[2B, …, D] → [B, …, H]: the inverse of `by_edge`; NaN behind each gap."""
    k = np.arange(horizon)
    back = gap[:, None] - 1 - k[None, :]
    is_left = k[None, :] <= back
    inside = back >= 0
    count = len(gap)
    left = _taken(y[:count], np.minimum(np.broadcast_to(k, back.shape), y.shape[-1] - 1), inside & is_left)
    right = _taken(y[count:], np.clip(back, 0, y.shape[-1] - 1), inside & ~is_left)
    middle = tuple(range(1, y.ndim - 1))
    chosen = np.expand_dims(is_left, middle)
    return np.where(chosen, left, right)


def _taken(x: Floats, place: NDArray[np.int64], exists: NDArray[np.bool_]) -> Floats:
    """`x` [B, …, H] at `place` [B, D] of its last axis; NaN where it does not exist."""
    middle = tuple(range(1, x.ndim - 1))
    index = np.expand_dims(np.clip(place, 0, x.shape[-1] - 1), middle)
    index = np.broadcast_to(index, (*x.shape[:-1], place.shape[1]))
    return np.where(np.expand_dims(exists, middle), np.take_along_axis(x, index, axis=-1), np.nan)
