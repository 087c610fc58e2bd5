"""Split-conformal quantiles per horizon step: what is stored, and how it answers any level (evaluation.md §4).

A *base* is a pair of native quantiles around a central share b (deciles: 0.2, 0.4, 0.6, 0.8); a point forecaster has
one base, b = 0, whose both ends are the point. The score of an observed target y at a base is

    max(lower − y, y − upper) ÷ unit

which is CQR for native quantiles and |y − point| ÷ unit for a point. The unit makes windows comparable: a point
forecaster's is the window's own scale, of native quantiles their own outermost width at that step (measured against
the window's scale: docs/benchmarks.md). For a central share c the pair is moved outwards by the ⌈(n + 1)·c⌉-th smallest
score of its step, pooled over series; the base of c is the narrowest one that holds it, else the widest: any base gives
the right coverage, a near one gives the better shape.

Stored per source and step: the offsets at the 105 central shares of `SHARES` (every 0.01, finer near 1), in float32,
and the number of scores; the median needs none. A share between two of them is interpolated linearly.

Torch-free. Shapes: B windows, H steps, Q levels, G = len(SHARES), N scores.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tsfm.errors import ArtifactError
from tsfm.spec import SEASONAL_RIVALS

Floats = NDArray[np.float64]
FILE = "calibration.safetensors"
SHARES: Floats = np.array([*(i / 100 for i in range(1, 100)), 0.992, 0.994, 0.995, 0.996, 0.998, 0.999])
"""[G] central shares whose offsets are stored; the quantile level p belongs to the share |2p − 1|."""
TUNED = "tuned"
"""Name of the tuned weights among a job's sources; `source_name` says the others'."""
CQR, SCALED_RESIDUALS = "cqr", "scaled_residuals"
_ROUNDING = 1e-9
_NARROWEST = 1e-3
"""Native widths count as no less than this share of the window's scale: a score stays finite where they vanish."""
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What a calibration says about one batch."""

    quantiles: Floats
    """[B, Q, H] in the order asked, ascending levels never cross."""
    calibrated: tuple[bool, ...]
    """[Q] whether the level was set by held-out scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The stored scores of one source."""

    offsets: NDArray[np.float32]
    """[G, H] in units; NaN where the step has too few scores for the share."""
    counts: NDArray[np.int64]
    """[H] observed scores of each step."""
    native: tuple[float, ...]
    """Quantile levels of the source whose answers are moved, ascending; empty for a point forecaster."""

    @property
    def method(self) -> str:
        return CQR if _bases(self.native) != (0.0,) else SCALED_RESIDUALS

    @property
    def prediction_length(self) -> int:
        return len(self.counts)

    @property
    def num_scores(self) -> int:
        """Fewest scores of any step."""
        return int(self.counts.min()) if len(self.counts) else 0

    @property
    def resolution(self) -> float:
        """Largest stored central share that every step's scores resolve; 0 where there is none."""
        return _resolution(self.num_scores)

    def resolves(self, level: float) -> bool:
        """Whether the quantile `level` can be set by the scores; the median always can, it is not moved."""
        return abs(2 * level - 1) <= self.resolution + _ROUNDING

    def spread(self, point: Floats, quantiles: Floats | None, scale: Floats, levels: Sequence[float]) -> Spread:
        """Quantiles at `levels` around `point` [B, H] of windows of `scale` [B].

        `quantiles` [B, ·, H] stand at `native`. H may be below the fitted horizon (its first steps) or above it: then
        nothing is calibrated: native levels stay native, for others the last step's offsets grow with the root of the
        distance.
        """
        beyond = point.shape[1] > self.prediction_length
        asked = np.asarray(levels, dtype=np.float64)
        unit = _unit(quantiles, self.native, scale)
        centre = _native(quantiles, self.native, 0.5)
        batch = _Batch(point=point if centre is None else centre, quantiles=quantiles, unit=unit)
        out = np.empty((len(point), len(asked), point.shape[1]))
        for i, level in enumerate(asked.tolist()):
            sign = np.sign(level - 0.5) if abs(2 * level - 1) >= _ROUNDING else 0.0
            out[:, i] = batch.point + sign * self._distance(batch, level, beyond=beyond)
        order = np.argsort(asked, kind="stable")
        ascending = out[:, order]
        if (ascending[:, 1:] < ascending[:, :-1]).any():  # looking costs a tenth of sorting
            out[:, order] = np.sort(ascending, axis=1)
        return Spread(quantiles=out, calibrated=tuple(self.resolves(level) and not beyond for level in asked.tolist()))

    def _distance(self, batch: "_Batch", level: float, *, beyond: bool) -> Floats:
        """[B, H] ≥ 0 from the centre to the quantile.

        A level that the scores do not resolve is never nearer than the widest one that they do: it is the native
        quantile, or outside the native ones the widest known distance stretched as a normal's.
        """
        share = abs(2 * level - 1)
        resolved = min(share, self.resolution)
        held = self._moved(batch, resolved, upper=level > 0.5)
        if share <= resolved + _ROUNDING and not beyond:
            return held
        native = _native(batch.quantiles, self.native, level)
        if native is not None:
            own: Floats = np.abs(native - batch.point)
            return own if beyond else np.maximum(own, held)
        widest = base_of(1.0, self.native)
        stretched = held * (_normal(share) / _normal(resolved)) if resolved else held
        if widest <= resolved:
            return stretched
        outermost = _native(batch.quantiles, self.native, 0.5 + np.sign(level - 0.5) * widest / 2)
        assert outermost is not None, "bases are pairs of native levels"
        away: Floats = np.abs(outermost - batch.point) * (_normal(share) / _normal(widest))
        return np.maximum(away, held)

    def _moved(self, batch: "_Batch", share: float, *, upper: bool) -> Floats:
        """[B, H] ≥ 0 from the centre to the end of a resolved share's interval."""
        base = base_of(share, self.native)
        sign = 1.0 if upper else -1.0
        end = _native(batch.quantiles, self.native, 0.5 + sign * base / 2) if base else batch.point
        assert end is not None, "bases are pairs of native levels"
        offset = self._offset(share, batch.point.shape[1]) if share else np.zeros(batch.point.shape[1])
        moved: Floats = np.maximum(sign * (end - batch.point) + offset * batch.unit, 0.0)
        return moved

    def _offset(self, share: float, horizon: int) -> Floats:
        """[horizon] offset at a resolved share, between stored shares of the same base interpolated."""
        above = int(np.searchsorted(SHARES, share - _ROUNDING))
        offset = self.offsets[above].astype(np.float64)
        below = above - 1
        if below >= 0 and SHARES[above] > share + _ROUNDING:
            same = base_of(float(SHARES[below]), self.native) == base_of(float(SHARES[above]), self.native)
            if same:
                weight = (SHARES[above] - share) / (SHARES[above] - SHARES[below])
                offset = weight * self.offsets[below] + (1 - weight) * offset
        known = len(offset)
        growth = np.sqrt(np.arange(known + 1, horizon + 1) / known)
        whole: Floats = np.concatenate([offset, offset[-1] * np.where(offset[-1] > 0, growth, 1.0)])
        return whole[:horizon]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    point: Floats
    """[B, H] the native median, or the point: where both sides begin."""
    quantiles: Floats | None
    unit: Floats
    """[B, H or 1]"""


def source_name(name: str, period: int | None = None) -> str:
    """How a job's source is called among its calibrations: a seasonal naive is one source per period."""
    return f"{name}:{period}" if name in SEASONAL_RIVALS else name


def ranks(count: int, shares: Floats) -> NDArray[np.int64]:
    """⌈(count + 1)·share⌉; the tolerance keeps 0.95 of 19 at the 19th despite rounding."""
    rank: NDArray[np.int64] = np.maximum(np.ceil((count + 1) * shares - _ROUNDING), 1).astype(np.int64)
    return rank


def offsets_of(scores: Floats, shares: Floats) -> NDArray[np.float32]:
    """`scores` [N, H], NaN = the target was missing → [len(shares), H], NaN where a rank exceeds the step's scores."""
    ordered = np.sort(scores, axis=0)  # NaN last
    out = np.full((len(shares), scores.shape[1]), np.nan, dtype=np.float32)
    for step, count in enumerate((~np.isnan(scores)).sum(axis=0).tolist()):
        rank = ranks(count, shares)
        resolved = rank <= count
        out[resolved, step] = np.clip(ordered[rank[resolved] - 1, step], -_LARGEST, _LARGEST)
    return out


def scores_of(
    target: Floats, point: Floats, quantiles: Floats | None, native: tuple[float, ...], scale: Floats
) -> NDArray[np.float32]:
    """[number of bases, B, H] scores of `target` [B, H], NaN where it is missing."""
    out = []
    unit = _unit(quantiles, native, scale)
    for base in _bases(native):
        low = _native(quantiles, native, 0.5 - base / 2) if base else point
        high = _native(quantiles, native, 0.5 + base / 2) if base else point
        assert low is not None, "bases are pairs of native levels"
        assert high is not None, "bases are pairs of native levels"
        score = np.maximum(low - target, target - high) / unit
        out.append(np.clip(score, -_LARGEST, _LARGEST).astype(np.float32))
    return np.stack(out)


def fitted(scores: NDArray[np.float32], native: tuple[float, ...]) -> Calibration:
    """From `scores` [bases, N, H] as `scores_of` answers them for N windows."""
    bases = _bases(native)
    of_share = np.array([bases.index(base_of(float(share), native)) for share in SHARES])
    offsets = np.full((len(SHARES), scores.shape[2]), np.nan, dtype=np.float32)
    for i in range(len(bases)):
        mine = of_share == i
        offsets[mine] = offsets_of(scores[i].astype(np.float64), SHARES[mine])
    return Calibration(
        offsets=offsets,
        counts=(~np.isnan(scores[0])).sum(axis=0).astype(np.int64),
        native=tuple(native),
    )


def base_of(share: float, native: tuple[float, ...]) -> float:
    """The narrowest base that holds the share, else the widest."""
    bases = _bases(native)
    return next((base for base in bases if base >= share - 1e-6), bases[-1])


@lru_cache
def _resolution(count: int) -> float:
    resolved = SHARES[ranks(count, SHARES) <= count]
    return float(resolved[-1]) if len(resolved) else 0.0


@lru_cache
def _bases(native: tuple[float, ...]) -> tuple[float, ...]:
    """Central shares of the pairs of native levels, ascending; (0,) where there is none."""
    lower = [level for level in native if level < 0.5 - 1e-6 and any(abs(1 - level - other) < 1e-6 for other in native)]
    return tuple(sorted(round(1 - 2 * level, 6) for level in lower)) or (0.0,)


def _unit(quantiles: Floats | None, native: tuple[float, ...], scale: Floats) -> Floats:
    """[B, H or 1] what scores are divided by."""
    widest = _bases(native)[-1]
    if not widest:
        return scale[:, None]
    low, high = _native(quantiles, native, 0.5 - widest / 2), _native(quantiles, native, 0.5 + widest / 2)
    assert low is not None, "bases are pairs of native levels"
    assert high is not None, "bases are pairs of native levels"
    unit: Floats = np.maximum(high - low, _NARROWEST * scale[:, None])
    return unit


def _native(quantiles: Floats | None, native: tuple[float, ...], level: float) -> Floats | None:
    """[B, H] the level among the native ones, interpolated linearly between two; None outside them."""
    if quantiles is None or not native or not native[0] - 1e-6 <= level <= native[-1] + 1e-6:
        return None
    position = float(np.interp(level, native, np.arange(len(native), dtype=np.float64)))
    low = math.floor(position + 1e-6)
    weight = position - low
    if weight < 1e-6:
        return quantiles[:, low]
    between: Floats = (1 - weight) * quantiles[:, low] + weight * quantiles[:, low + 1]
    return between


def _normal(share: float) -> float:
    """Half-width of a standard normal's central share."""
    return NormalDist().inv_cdf(0.5 + share / 2)


def to_bytes(calibrations: Mapping[str, Calibration]) -> bytes:
    """`calibration.safetensors`: per source "NAME.offsets", "NAME.counts" and "NAME.native", and "shares" once."""
    tensors: dict[str, NDArray[Any]] = {"shares": SHARES}
    for name, one in calibrations.items():
        tensors[f"{name}.offsets"] = np.ascontiguousarray(one.offsets)
        tensors[f"{name}.counts"] = one.counts
        tensors[f"{name}.native"] = np.asarray(one.native, dtype=np.float64)
    return save(tensors)


def from_bytes(data: bytes) -> dict[str, Calibration]:
    """Every source's calibration; `ArtifactError` when the file is not one this version reads."""
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ArtifactError(f"{FILE} does not open: {error}.") from error
    names = sorted(name.removesuffix(".offsets") for name in tensors if name.endswith(".offsets"))
    if "shares" not in tensors or not np.array_equal(tensors["shares"], SHARES):
        raise ArtifactError(f"{FILE} holds other shares than this version reads.")
    return {
        name: Calibration(
            offsets=tensors[f"{name}.offsets"],
            counts=tensors[f"{name}.counts"],
            native=tuple(tensors[f"{name}.native"].tolist()),
        )
        for name in names
    }
