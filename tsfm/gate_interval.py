"""Intervals of a mean of overlapping forecast errors (evaluation.md §3).

Windows of horizon H share all but one target with their neighbour, so that n errors hold about n ÷ H independent
ones. The equal-weighted-cosine estimate of the long-run variance (Lazarus, Lewis, Stock and Watson 2018) with Student's
t keeps its level there, where a percentile bootstrap does not; the bootstrap is shown beside it.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MIN_DEGREES = 4
BOOTSTRAP_DRAWS = 999


def degrees_of_freedom(num_origins: int, horizon_origins: float) -> int:
    """ν = max(4, min(0.41·n^⅔, 0.5·n÷H)), never more than the n − 1 cosines that n values have.

    `horizon_origins` is H counted in origins: with a stride of s steps between origins it is H ÷ s, at least 1.
    """
    wanted = max(MIN_DEGREES, min(0.41 * num_origins ** (2 / 3), 0.5 * num_origins / horizon_origins))
    return max(1, min(int(wanted), num_origins - 1))


def cosine_interval(d: Floats, *, degrees: int, level: float) -> tuple[Floats, Floats]:
    """(lower, upper) of the mean over the last axis of `d` [..., n], in time order, at a two-sided `level`."""
    n = d.shape[-1]
    mean = d.mean(axis=-1)
    steps = (np.arange(n) + 0.5) / n
    cosines = math.sqrt(2.0 / n) * np.cos(np.pi * np.arange(1, degrees + 1)[:, None] * steps)
    long_run = np.square((d - mean[..., None]) @ cosines.T).mean(axis=-1)
    half = student_quantile(0.5 + level / 2, degrees) * np.sqrt(long_run / n)
    return mean - half, mean + half


def bootstrap_interval(d: Floats, *, block: int, level: float, seed: int = 0) -> tuple[float, float] | None:
    """Percentile interval of the mean of `d` [n] over moving blocks of `block` origins; None with fewer than two.

    The draws are centred on the sample's mean: origins near the ends lie in fewer blocks.
    """
    n = len(d)
    if n < 2 * block:
        return None
    sums = np.concatenate([[0.0], np.cumsum(d - d.mean())])
    blocks = (sums[block:] - sums[:-block]) / block
    starts = np.random.default_rng(seed).integers(0, len(blocks), size=(BOOTSTRAP_DRAWS, -(-n // block)))
    means = blocks[starts].mean(axis=1) - blocks.mean()
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return float(d.mean() + low), float(d.mean() + high)


def student_quantile(probability: float, degrees: int) -> float:
    """The value that Student's t with whole `degrees` stays below with `probability` (at least one half)."""
    assert 0.5 <= probability < 1.0, probability
    low, high = 0.0, 1.0
    while _student_cdf(high, degrees) < probability:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, degrees) < probability else (low, middle)
    return high


def _student_cdf(t: float, degrees: int) -> float:
    """The finite sums for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine = math.cos(angle) ** 2
    odd = degrees % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine * (k - 1) / k
        total += term
    inside = math.sin(angle) * total
    return 0.5 + ((2 / math.pi) * (angle + inside) if odd else inside) / 2
