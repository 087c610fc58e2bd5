"""The synthetic prior: which share of series comes from which family, how they are mixed and damaged.

A block of series is a function of (seed, block number) alone, so that a resumed run sees exactly the series that
an uninterrupted one would have seen.
"""

from collections.abc import Callable

import numpy as np

from tsfm.pretrain import processes
from tsfm.pretrain.processes import Array, Rng

GENERATOR_VERSION = 1
"""Goes into the model card: raise it whenever the numbers drawn from a seed change."""

SHARES: dict[str, float] = {
    # evaluation.md §10: at least 20 % pure stochastic trend and 5 % pure noise or constant, after mixing.
    "stochastic_trend": 0.22,
    "pure_noise": 0.055,
    "periodic": 0.45,
    "gaussian_process": 0.13,
    "counts": 0.05,
    "oscillator": 0.045,
    "regimes": 0.05,
}
UNMIXED = ("stochastic_trend", "pure_noise")
"""Families kept pure: TSMixup would turn them into something else."""
MIXED_SHARE = 0.18
DRAWS: dict[str, Callable[[Rng, int, int], Array]] = {name: getattr(processes, name) for name in SHARES}


def draw_block(seed: int, block: int, *, rows: int, length: int) -> tuple[Array, list[str]]:
    """`rows` series [rows, length] of mean 0 and deviation 1 with NaN where missing, and the family of each."""
    rng = np.random.default_rng((seed, block))
    sizes = _apportion(rows)
    parts = [DRAWS[name](rng, count, length) for name, count in sizes.items()]
    families = [name for name, count in sizes.items() for _ in range(count)]
    series = _unit(np.concatenate(parts))
    first_mixable = sum(sizes[name] for name in UNMIXED)
    series[first_mixable:] = _mix(rng, series[first_mixable:])
    series[first_mixable:] = _disturb(rng, series[first_mixable:])
    series *= np.where(rng.random((rows, 1)) < 0.15, -1, 1).astype(np.float32)
    series = _quantise(rng, series)
    series = _lose(rng, series)
    order = rng.permutation(rows)
    return series[order], [families[i] for i in order]


def _apportion(rows: int) -> dict[str, int]:
    """Whole numbers per family that sum to `rows`, in the order of `SHARES`, pure families first and never short."""
    counts = {name: int(np.ceil(share * rows)) for name, share in SHARES.items() if name in UNMIXED}
    rest = {name: int(share * rows) for name, share in SHARES.items() if name not in UNMIXED}
    rest["periodic"] += rows - sum(counts.values()) - sum(rest.values())
    return counts | rest


def _unit(series: Array) -> Array:
    """Mean 0, deviation 1 per row; constants become 0."""
    centred = series - series.mean(1, keepdims=True)
    deviation = centred.std(1, keepdims=True)
    unit: Array = (centred / np.where(deviation > 1e-6, deviation, 1)).astype(np.float32)
    return unit


def _mix(rng: Rng, series: Array) -> Array:
    """TSMixup: some rows become a random convex combination of two or three rows, then unit again."""
    rows = len(series)
    chosen = np.flatnonzero(rng.random(rows) < MIXED_SHARE / (1 - sum(SHARES[n] for n in UNMIXED)))
    weights = rng.dirichlet((1.5, 1.5, 1.5), len(chosen)).astype(np.float32)
    weights[rng.random(len(chosen)) < 0.6, 2] = 0
    partners = rng.integers(0, rows, (len(chosen), 3))
    partners[:, 0] = chosen
    mixed = sum(weights[:, k, None] * series[partners[:, k]] for k in range(3))
    out = series.copy()
    out[chosen] = _unit(np.asarray(mixed, dtype=np.float32))
    return out


def _disturb(rng: Rng, series: Array) -> Array:
    """Level shifts, spikes and stretches at a changed scale, each in a small share of rows."""
    rows, length = series.shape
    t = np.arange(length)[None, :]
    shift = (rng.random((rows, 1)) < 0.08) * rng.standard_normal((rows, 1)) * 1.5
    out = series + shift * (t >= rng.integers(0, length, (rows, 1)))
    spikes = rng.random((rows, length)) < processes.log_uniform(rng, 0.001, 0.02, rows)
    spikes &= rng.random((rows, 1)) < 0.12
    out = out + spikes * rng.standard_normal((rows, length), dtype=np.float32) * 4
    start = rng.integers(0, length, (rows, 1))
    inside = (t >= start) & (t < start + rng.integers(10, 120, (rows, 1))) & (rng.random((rows, 1)) < 0.04)
    return np.where(inside, out * processes.uniform(rng, 0, 1.5, rows), out).astype(np.float32)


def _quantise(rng: Rng, series: Array) -> Array:
    """Some sensors answer in coarse steps."""
    rows = len(series)
    step = processes.log_uniform(rng, 0.01, 0.5, rows)
    coarse: Array = np.where(rng.random((rows, 1)) < 0.1, np.round(series / step) * step, series).astype(np.float32)
    return coarse


def _lose(rng: Rng, series: Array) -> Array:
    """Missing values: single points in some rows, one or two runs in others."""
    rows, length = series.shape
    t = np.arange(length)[None, :]
    rate = np.where(rng.random((rows, 1)) < 0.06, processes.log_uniform(rng, 0.005, 0.3, rows), 0)
    lost = rng.random((rows, length)) < rate
    for _ in range(2):
        start = rng.integers(0, length, (rows, 1))
        lost |= (t >= start) & (t < start + rng.integers(2, 80, (rows, 1))) & (rng.random((rows, 1)) < 0.06)
    out: Array = np.where(lost, np.float32(np.nan), series)
    return out
