"""Errors of forecasts, scaled so that series can be averaged (evaluation.md §2).

Every number is first averaged over the observed targets of one series, then over series, so that every series weighs
the same; `wql` alone is pooled, as it is defined. NaN targets are missing and count nowhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_NEGLIGIBLE = 1e-9
"""Seasonal differences below this share of the ordinary ones are rounding."""
ZERO_SHARE = 0.5
"""Above this share of zeros in train the default metric is RMSSE: MASE would reward forecasting zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """What the errors of each series are divided by; from its train block alone."""

    mase: Floats
    """[S] mean |y_t − y_{t−m}|."""
    rmsse: Floats
    """[S] root mean square of the same differences."""
    season: int
    num_fallbacks: dict[str, int]
    """How many series could not use season m: "lag_1", "mean_absolute_value" or "one" was taken instead."""


def scales_of(frame: SeriesFrame, split: Split, *, season: int) -> Scales:
    """Scale of each series; where season m gives none or 0: m = 1, then mean |y|, then 1 (evaluation.md §2)."""
    mase, rmsse = np.ones(len(frame)), np.ones(len(frame))
    fallbacks = {"lag_1": 0, "mean_absolute_value": 0, "one": 0}
    first, end = split.block(Block.TRAIN)
    for i in range(len(frame)):
        fallback, mase[i], rmsse[i] = _scale(frame.series(i)[first[i] : end[i]], season)
        if fallback is not None:
            fallbacks[fallback] += 1
    return Scales(mase=mase, rmsse=rmsse, season=season, num_fallbacks=fallbacks)


def _scale(y: Floats, season: int) -> tuple[str | None, float, float]:
    """(fallback taken or None, mean, root mean square).

    A scale that is only rounding counts as 0: a pattern computed in float64 repeats to 1e-12 of itself, and dividing by
    that would let one such series outweigh all others.
    """
    step = _mean(np.abs(_differences(y, 1)))
    rounding = 4 * float(np.finfo(np.float64).eps * np.fmax.reduce(np.abs(y), initial=0.0))
    for fallback, d, negligible in (
        (None, _differences(y, season), max(_NEGLIGIBLE * step, rounding)),
        ("lag_1", _differences(y, 1), rounding),
        ("mean_absolute_value", y, 0.0),
    ):
        steps = np.abs(d[~np.isnan(d)])
        if len(steps) and steps.mean() > negligible:
            largest = float(steps.max())
            return fallback, float(steps.mean()), largest * float(np.sqrt(np.square(steps / largest).mean()))
    return "one", 1.0, 1.0


def _mean(values: Floats) -> float:
    observed = values[~np.isnan(values)]
    return float(observed.mean()) if len(observed) else 0.0


def _differences(y: Floats, lag: int) -> Floats:
    return y[lag:] - y[:-lag] if lag < len(y) else y[:0]


def zero_share(frame: SeriesFrame, split: Split) -> float:
    """Share of zeros among the observed points of all train blocks."""
    first, end = split.block(Block.TRAIN)
    parts = [frame.series(i)[first[i] : end[i]] for i in range(len(frame))]
    train = np.concatenate(parts) if parts else np.empty(0)
    observed = int((~np.isnan(train)).sum())
    return float((train == 0).sum() / observed) if observed else 0.0


METRICS: tuple[str, ...] = ("mase", "rmsse", "mae", "mse")
"""What a job may be judged by; the first two are scaled, so that series of any size weigh the same."""


PINBALL = "pinball"
"""What anomaly detection is judged by: the mean pinball loss of calibrated deciles, in MASE scales."""


def default_metric(share_of_zeros: float) -> str:
    return "rmsse" if share_of_zeros > ZERO_SHARE else "mase"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowErrors:
    """What a forecaster missed in each of W windows, relative to the scale of the window's series."""

    scales: Scales
    levels: tuple[float, ...]
    """Of the quantiles that were scored; empty for points."""
    series: Ints
    """[W]"""
    absolute: Floats
    """[W] Σ |error| ÷ MASE scale over the observed targets."""
    squared: Floats
    """[W] Σ (error ÷ RMSSE scale)² over the observed targets."""
    count: Ints
    """[W] observed targets."""
    pinball: Floats
    """[W] Σ pinball loss, averaged over levels, in the user's units; 0 without quantiles."""
    target: Floats
    """[W] Σ |target|; 0 without quantiles."""
    covered: Ints
    """[W] targets inside the outermost band; 0 without quantiles."""

    def __len__(self) -> int:
        return len(self.series)

    @staticmethod
    def join(parts: "Sequence[WindowErrors]") -> "WindowErrors":
        """The windows of all parts, in order; quantiles only where all have the same."""
        levels = {part.levels for part in parts if len(part)}
        joined: dict[str, Any] = {n: np.concatenate([getattr(part, n) for part in parts]) for n in _PER_WINDOW}
        return replace(parts[0], levels=next(iter(levels)) if len(levels) == 1 else (), **joined)

    def where(self, kept: NDArray[np.bool_] | Ints) -> "WindowErrors":
        """Only the windows that `kept` names, by a mask [W] or by their places."""
        return replace(self, **{name: getattr(self, name)[kept] for name in _PER_WINDOW})

    def choose(self, other: "WindowErrors", taken: NDArray[np.bool_]) -> "WindowErrors":
        """These errors, with `other`'s in the windows that `taken` [W] names; quantiles only where both have them."""
        both = self.levels if self.levels == other.levels else ()
        mixed = {name: np.where(taken, getattr(other, name), getattr(self, name)) for name in _PER_WINDOW}
        return replace(self, levels=both, **mixed)

    def weights(self) -> Floats:
        """[W] share of each window in its series' mean error; they add up to 1 in every series."""
        total = np.bincount(self.series, weights=self.count, minlength=len(self.scales.mase))
        weights: Floats = self.count / np.maximum(total[self.series], 1)
        return weights

    def losses(self, metric: str) -> Floats:
        """[W] losses whose weighted mean is the series' `metric`, up to one factor that all series share.

        A root mean square is linearised around the series' own (its influence function), so that window by window
        differences add up to the difference of the metric. `mse` and `mae` are relative to the largest scale.
        """
        count = np.maximum(self.count, 1)
        if metric == PINBALL:
            pinball: Floats = self.pinball / self.scales.mase[self.series] / count
            return pinball
        if metric in ("mase", "mae"):
            factor = 1.0 if metric == "mase" else self._share(self.scales.mase)
            absolute: Floats = self.absolute / count * factor
            return absolute
        square: Floats = self.squared / count
        if metric == "mse":
            return square * self._share(self.scales.rmsse) ** 2
        assert metric == "rmsse", metric
        mean = np.bincount(self.series, weights=self.weights() * square, minlength=len(self.scales.rmsse))
        root = np.sqrt(mean)[self.series]
        return np.where(root > 0, root + (square - root**2) / np.where(root > 0, 2 * root, 1.0), 0.0)

    def _share(self, scale: Floats) -> Floats:
        share: Floats = scale[self.series] / scale.max(initial=np.finfo(np.float64).tiny)
        return share

    def by_series(self, metric: str) -> Floats:
        """[S] error of each series in the unit of `losses`; NaN where it has no window."""
        size = len(self.scales.mase)
        mean = np.bincount(self.series, weights=self.weights() * self.losses(metric), minlength=size)
        return np.where(np.bincount(self.series, weights=self.count, minlength=size) > 0, mean, np.nan)

    def result(self) -> dict[str, Any]:
        """mase, rmsse, mae, mse, num_windows, num_series; with quantiles also wql and the outermost band's coverage.

        `mse` is None where it exceeds float64 (values beyond 1e154).
        """
        absolute, squared = np.zeros(len(self.scales.mase)), np.zeros(len(self.scales.mase))
        count = np.bincount(self.series, weights=self.count, minlength=len(absolute))
        np.add.at(absolute, self.series, self.absolute)
        np.add.at(squared, self.series, self.squared)
        judged = count > 0
        if not judged.any():
            return {"num_windows": 0, "num_series": 0}
        mase = absolute[judged] / count[judged]
        rmsse = np.sqrt(squared[judged] / count[judged])
        with np.errstate(over="ignore"):
            mse = float(np.square(rmsse * self.scales.rmsse[judged]).mean())
        answer: dict[str, Any] = {
            "mase": float(mase.mean()),
            "rmsse": float(rmsse.mean()),
            "mae": float((mase * self.scales.mase[judged]).mean()),
            "mse": mse if np.isfinite(mse) else None,
            "num_windows": len(self),
            "num_series": int(judged.sum()),
        }
        if self.levels:
            answer[PINBALL] = float(np.nanmean(self.by_series(PINBALL)))
        if self.levels and (target := float(self.target.sum())) > 0:
            answer["wql"] = 2.0 * float(self.pinball.sum()) / target
        if len(self.levels) > 1:
            nominal = 100 * (self.levels[-1] - self.levels[0])
            answer["coverage"] = {f"{nominal:.6g}": int(self.covered.sum()) / int(count.sum())}
        return answer


_PER_WINDOW = ("series", "absolute", "squared", "count", "pinball", "target", "covered")


class Errors:
    """Errors of forecasts in the user's units, batch by batch, kept relative to each series' scale."""

    def __init__(self, scales: Scales, *, levels: Sequence[float] = ()) -> None:
        self.scales, self.levels = scales, np.asarray(levels, dtype=np.float64)
        self._batches: list[WindowErrors] = []

    def add(self, series: Ints, target: Floats, point: Floats, quantiles: Floats | None) -> None:
        """`series` [B], `target` and `point` [B, H], `quantiles` [B, Q, H] at `levels`, or None."""
        observed = ~np.isnan(target)
        error = np.where(observed, target - point, 0.0)
        pinball, covered = np.zeros(len(series)), np.zeros(len(series), dtype=np.int64)
        known = np.where(observed, target, 0.0)
        scored = quantiles is not None and len(self.levels) > 0
        if quantiles is not None and scored:
            gap = known[:, None, :] - quantiles
            levels = self.levels[None, :, None]
            loss = np.maximum(levels * gap, (levels - 1.0) * gap).mean(axis=1)
            pinball = np.where(observed, loss, 0.0).sum(axis=1)
            covered = ((target >= quantiles[:, 0]) & (target <= quantiles[:, -1]) & observed).sum(axis=1)
        self._batches.append(
            WindowErrors(
                scales=self.scales,
                levels=tuple(self.levels.tolist()) if scored else (),
                series=np.asarray(series, dtype=np.int64),
                absolute=np.abs(error / self.scales.mase[series, None]).sum(axis=1),
                squared=np.square(error / self.scales.rmsse[series, None]).sum(axis=1),
                count=observed.sum(axis=1),
                pinball=pinball,
                target=np.abs(known).sum(axis=1) if scored else np.zeros(len(series)),
                covered=covered,
            )
        )

    def windows(self) -> WindowErrors:
        """All windows added so far, in the order they came."""
        if not self._batches:
            none, nothing = np.empty(0), np.empty(0, dtype=np.int64)
            return WindowErrors(
                scales=self.scales,
                levels=tuple(self.levels.tolist()),
                series=nothing,
                absolute=none,
                squared=none,
                count=nothing,
                pinball=none,
                target=none,
                covered=nothing,
            )
        return WindowErrors.join(self._batches)

    def result(self) -> dict[str, Any]:
        """`WindowErrors.result` of everything added."""
        return self.windows().result()
