"""Errors of forecasts, scaled so that series can be averaged (evaluation.md §2).

Every number is first averaged over the observed targets of one series, then over series, so that every series weighs
the same; `wql` alone is pooled, as it is defined. NaN targets are missing and count nowhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split

Floats = NDArray[np.float64]
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


def default_metric(share_of_zeros: float) -> str:
    return "rmsse" if share_of_zeros > ZERO_SHARE else "mase"


class Errors:
    """Sums over windows of forecasts in the user's units, kept relative to each series' scale; `result` divides."""

    def __init__(self, scales: Scales, *, levels: Sequence[float] = ()) -> None:
        num_series = len(scales.mase)
        self.scales, self.levels = scales, np.asarray(levels, dtype=np.float64)
        self.absolute, self.squared = np.zeros(num_series), np.zeros(num_series)
        self.count, self.windows = np.zeros(num_series, dtype=np.int64), np.zeros(num_series, dtype=np.int64)
        self.pinball, self.target, self.covered = 0.0, 0.0, 0

    def add(self, series: NDArray[np.int64], target: Floats, point: Floats, quantiles: Floats | None) -> None:
        """`series` [B], `target` and `point` [B, H], `quantiles` [B, Q, H] at `levels`, or None."""
        observed = ~np.isnan(target)
        error = np.where(observed, target - point, 0.0)
        scales = self.scales
        np.add.at(self.absolute, series, np.abs(error / scales.mase[series, None]).sum(axis=1))
        np.add.at(self.squared, series, np.square(error / scales.rmsse[series, None]).sum(axis=1))
        np.add.at(self.count, series, observed.sum(axis=1))
        np.add.at(self.windows, series, 1)
        if quantiles is None or not len(self.levels):
            return
        known = np.where(observed, target, 0.0)
        gap = known[:, None, :] - quantiles
        levels = self.levels[None, :, None]
        loss = np.maximum(levels * gap, (levels - 1.0) * gap).mean(axis=1)
        self.pinball += float(np.where(observed, loss, 0.0).sum())
        self.target += float(np.abs(known).sum())
        inside = (target >= quantiles[:, 0]) & (target <= quantiles[:, -1])
        self.covered += int((inside & observed).sum())

    def result(self) -> dict[str, Any]:
        """mase, rmsse, mae, mse, num_windows, num_series; with quantiles also wql and the outermost band's coverage.

        `mse` is None where it exceeds float64 (values beyond 1e154).
        """
        judged = self.count > 0
        if not judged.any():
            return {"num_windows": 0, "num_series": 0}
        mase = self.absolute[judged] / self.count[judged]
        rmsse = np.sqrt(self.squared[judged] / self.count[judged])
        with np.errstate(over="ignore"):
            mse = float(np.square(rmsse * self.scales.rmsse[judged]).mean())
        answer: dict[str, Any] = {
            "mase": float(mase.mean()),
            "rmsse": float(rmsse.mean()),
            "mae": float((mase * self.scales.mase[judged]).mean()),
            "mse": mse if np.isfinite(mse) else None,
            "num_windows": int(self.windows.sum()),
            "num_series": int(judged.sum()),
        }
        if len(self.levels) and self.target > 0:
            answer["wql"] = 2.0 * self.pinball / self.target
        if len(self.levels) > 1:
            nominal = 100 * (self.levels[-1] - self.levels[0])
            answer["coverage"] = {f"{nominal:.6g}": self.covered / int(self.count.sum())}
        return answer
