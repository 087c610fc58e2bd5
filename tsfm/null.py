"""What a normal point scores: the null of anomaly scores, p-values against it, and its tail (evaluation.md §11).

A point's *raw* score is its distance from the expected value in units of the spread on its side: half of the native
band of its block, or the window's scale where a source has no quantiles. So alarms are as rare where a series is wild
as where it is calm (one spread a series alarmed twice as often as it said: docs/benchmarks.md). Each step of a scored
block has raw scores of its own size, so they are divided by the step's mean over the null; then all steps are one
distribution of n numbers.

The p-value of a score s is (#{null > s} + U·(#{null = s} + 1)) ÷ (n + 1), uniform on [0, 1] for a normal point, ties
and zero residuals included; U depends on the point's place alone, so that the same request gets the same answer. The
score that users see is ln p ÷ ln(1 − level ÷ 100): above 1.0 is an anomaly, whatever the model and the level.

A level needs 1 ÷ (1 − level ÷ 100) points, each counted once however many overlapping blocks scored it: else the one
outlier among 72 points, scored at 24 steps, resolves a level of 99.9. Beyond that a generalised Pareto tail takes over
from `TAIL_SHARE` on, fitted by probability-weighted moments (Hosking and Wallis 1987), and the answer says
`extrapolated`.

Torch-free. Shapes: B windows, H steps of a block, n null scores.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tsfm.errors import ArtifactError

Floats = NDArray[np.float64]
FILE = "null.safetensors"
EDGE, TOGETHER = ":edge", ":together"
"""Endings of the names of other nulls of a source: of blocks without anything behind them, of all series together."""
MAX_SCORES = 65_536
"""Null scores that are kept; of more, evenly spaced ranks."""
MIN_SCORES = 20
"""Fewer say nothing about what is normal."""
TAIL_SHARE = 0.9
MIN_EXCEEDANCES = 10
NARROWEST = 1e-3
"""No spread is below this share of the window's scale."""
ROUNDING = 1e-5
"""Residuals below this share of the window's scale are float32's, and count as 0."""
_SAME = 1e-12
"""Values that differ from a constant by no more than this share of it continue it: float64's rounding."""
_SMALLEST_P = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """What blocks are off, [B, H] each, in the user's units."""

    expected: Floats
    below: Floats
    """Spread on the lower side: a value this far below the expected one has the raw score 1."""
    above: Floats
    residual: Floats
    """Value less expected; NaN where the value is missing."""

    @property
    def score(self) -> Floats:
        """In units of the spread."""
        off = self.residual
        with np.errstate(invalid="ignore"):
            score: Floats = np.where(off >= 0, off / self.above, -off / self.below)
        return score


def raw_scores(
    values: Floats, expected: Floats, band: tuple[Floats, Floats] | None, scale: Floats, constant: Floats
) -> Raw:
    """`values` and `expected` [B, H]; `band` are the outermost native quantiles, None for points; `scale` [B].

    `constant` [B] is what windows have shown whose history is one constant, NaN of others: a value that continues it
    scores 0 whatever was expected, and any other is as far off as it is from the constant.
    """
    unit = np.broadcast_to(scale[:, None], expected.shape)
    if band is None:
        below = above = unit
    else:
        below = np.maximum(expected - band[0], NARROWEST * unit)
        above = np.maximum(band[1] - expected, NARROWEST * unit)
    steady = np.broadcast_to(constant[:, None], expected.shape)
    is_steady = ~np.isnan(steady)
    expected = np.where(is_steady, steady, expected)
    residual = values - expected
    rounding = np.where(is_steady, _SAME * np.abs(steady), ROUNDING * unit)
    residual = np.where(np.abs(residual) <= rounding, 0.0, residual)
    return Raw(expected=expected, below=below, above=above, residual=residual)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """Generalised Pareto beyond `start`: P(S > s) = share · (1 + shape·(s − start) ÷ scale)^(−1 ÷ shape)."""

    start: float
    share: float
    shape: float
    scale: float

    def p_values(self, scores: Floats) -> Floats:
        """Of scores above `start`."""
        z = np.maximum(scores - self.start, 0.0) / self.scale
        if abs(self.shape) < 1e-6:
            return self.share * np.exp(-z)
        base = np.maximum(1.0 + self.shape * z, 0.0)
        with np.errstate(divide="ignore", over="ignore"):
            p: Floats = self.share * base ** (-1.0 / self.shape)
        return np.maximum(p, _SMALLEST_P)

    def score_of(self, p: float) -> float:
        """The score that a normal point exceeds with probability `p` ≤ `share`."""
        ratio = p / self.share
        if abs(self.shape) < 1e-6:
            return self.start - self.scale * math.log(ratio)
        return self.start + self.scale / self.shape * float(ratio**-self.shape - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    """The scores of normal points of one source."""

    units: Floats
    """[H] mean raw score of each step; 1 where it is 0."""
    scores: Floats
    """[n] ascending, in `units`."""
    count: int
    """Points that were scored: fewer than scores where blocks overlap, since each is scored at several steps then."""

    @property
    def num_scores(self) -> int:
        """What levels are resolved by: one score a point, and of very many those that are kept."""
        return min(len(self.scores), self.count)

    def resolves(self, level: float) -> bool:
        """Whether `level` (per cent) can be read off the scores themselves."""
        return self.num_scores * (1.0 - level / 100.0) >= 1.0 - 1e-9

    def in_units(self, raw: Floats, step: NDArray[np.int64]) -> Floats:
        """Raw scores of points at `step` of their blocks."""
        scores: Floats = raw / self.units[np.minimum(step, len(self.units) - 1)]
        return scores

    def tail(self) -> Tail:
        """Fitted anew at every call: a handful of sums over the largest tenth."""
        return fit_tail(self.scores, share_of_points=self.num_scores / len(self.scores))

    def p_values(self, scores: Floats, uniform: Floats, *, level: float) -> Floats:
        """Of `scores` in units, NaN stays NaN; `uniform` in (0, 1) breaks ties."""
        n = len(self.scores)
        scores = scores.astype(np.float32).astype(np.float64)  # as the kept ones are: ties stay ties
        above = n - np.searchsorted(self.scores, scores, side="right")
        equal = n - above - np.searchsorted(self.scores, scores, side="left")
        p = (above + uniform * (equal + 1)) / (n + 1)
        p = np.where(scores <= 0.0, 1.0, p)  # exactly as expected: never an anomaly
        if not self.resolves(level):
            tail = self.tail()
            p = np.where(scores > tail.start, tail.p_values(scores), np.maximum(p, tail.share))
        return np.where(np.isnan(scores), np.nan, np.maximum(p, _SMALLEST_P))

    def threshold(self, level: float) -> float:
        """The score in units that a normal point exceeds with probability 1 − level ÷ 100."""
        if not self.resolves(level):
            return self.tail().score_of(1.0 - level / 100.0)
        n = len(self.scores)
        rank = math.ceil((n + 1) * level / 100.0 - 1e-9)
        return float(self.scores[min(rank, n) - 1])


def fitted(raw: Floats, *, num_points: int | None = None) -> Null | None:
    """From raw scores [N, H] of normal blocks, NaN = missing; None where there are fewer than `MIN_SCORES`.

    `num_points` is how many different points they are of, where blocks overlap.
    """
    known = ~np.isnan(raw)
    if known.sum() < MIN_SCORES:
        return None
    count = known.sum(axis=0)
    mean = np.where(known, raw, 0.0).sum(axis=0) / np.maximum(count, 1)
    whole = float(mean[count > 0].mean())
    units = np.where(count > 0, mean, whole)
    units = np.where(units > 0, units, 1.0)
    scores = np.sort((raw / units)[known])
    kept = scores
    if len(scores) > MAX_SCORES:
        kept = scores[np.linspace(0, len(scores) - 1, MAX_SCORES).round().astype(np.int64)]
    return Null(
        units=units,
        scores=kept.astype(np.float32).astype(np.float64),
        count=len(scores) if num_points is None else num_points,
    )


def fit_tail(scores: Floats, *, share_of_points: float = 1.0) -> Tail:
    """The Pareto tail of ascending `scores`; exponential where few points (that share of the scores) lie in it."""
    n = len(scores)
    first = min(math.floor(TAIL_SHARE * n), n - 1)
    start = float(scores[first - 1]) if first else 0.0
    beyond = scores[scores > start] - start
    share = max(len(beyond), 1) / (n + 1)
    if not len(beyond):  # nothing but ties at the top
        return Tail(start=start, share=share, shape=0.0, scale=max(abs(start), 1.0) * 1e-6)
    mean = float(beyond.mean())
    if len(beyond) * share_of_points < MIN_EXCEEDANCES:
        return Tail(start=start, share=share, shape=0.0, scale=mean)
    place = (np.arange(1, len(beyond) + 1) - 0.35) / len(beyond)
    weighted = float(((1.0 - place) * beyond).mean())
    spread = mean - 2.0 * weighted
    if spread <= 1e-12 * mean:
        return Tail(start=start, share=share, shape=0.0, scale=mean)
    shape = float(np.clip(2.0 - mean / spread, -0.5, 0.9))
    return Tail(start=start, share=share, shape=shape, scale=max(mean * (1.0 - shape), 1e-12))


def shown_scores(p: Floats, *, level: float) -> Floats:
    """ln p ÷ ln(1 − level ÷ 100): 1.0 is the line."""
    scores: Floats = np.log(p) / math.log(1.0 - level / 100.0)
    return scores + 0.0  # no "-0.0"


def uniforms(hashes: NDArray[np.uint64]) -> Floats:
    """Numbers in (0, 1) from well-mixed ones (`tsfm.series.windows.place_hash`)."""
    u: Floats = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return u


def share_below(p_values: Floats, limit: float, *, block: int) -> tuple[float | None, float | None]:
    """(share of the known p-values below `limit`, its standard error). The error is that of means over blocks of
    `block` points, in order of time, since neighbours move together; None without two blocks."""
    known = p_values[~np.isnan(p_values)]
    if not len(known):
        return None, None
    below = (known < limit).astype(np.float64)
    num_blocks = len(below) // max(block, 1)
    if num_blocks < 2:
        return float(below.mean()), None
    means = below[: num_blocks * block].reshape(num_blocks, block).mean(axis=1)
    return float(below.mean()), float(means.std(ddof=1) / math.sqrt(num_blocks))


def drift(p_values: Floats, *, block: int) -> dict[str, Any]:
    """How far p-values, in order of time, are from uniform: the share below a tenth.

    `drifted` where that is more than three standard errors, and more than 0.05, from a tenth; None without an error.
    """
    share, error = share_below(p_values, 0.1, block=block)
    drifted = None if error is None or share is None else bool(abs(share - 0.1) > max(3.0 * error, 0.05))
    points = int((~np.isnan(p_values)).sum())
    return {"points": points, "share_beyond_90": share, "standard_error": error, "drifted": drifted}


def to_bytes(nulls: Mapping[str, Null]) -> bytes:
    """`null.safetensors`: per source "NAME.units", "NAME.scores" and "NAME.count"."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, one in nulls.items():
        tensors[f"{name}.units"] = np.ascontiguousarray(one.units)
        tensors[f"{name}.scores"] = one.scores.astype(np.float32)
        tensors[f"{name}.count"] = np.array([one.count], dtype=np.int64)
    return save(tensors)


def from_bytes(data: bytes) -> dict[str, Null]:
    """Every source's null; `ArtifactError` when the file is not one this version reads."""
    try:
        tensors = load(data)
        names = sorted(name.removesuffix(".units") for name in tensors if name.endswith(".units"))
        return {
            name: Null(
                units=tensors[f"{name}.units"],
                scores=tensors[f"{name}.scores"].astype(np.float64),
                count=int(tensors[f"{name}.count"][0]),
            )
            for name in names
        }
    except (SafetensorError, KeyError) as error:
        raise ArtifactError(f"{FILE} does not open: {error}.") from error
