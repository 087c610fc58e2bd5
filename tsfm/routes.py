"""Routes: which source answers for which series, decided on validation (evaluation.md §3). Torch-free.

Sources are the tuned model, the zero-shot backbone and the rivals. All series start with the pooled winner; one leaves
it only when its own evidence, shrunken towards what all series say together, favours another source.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tsfm.metrics import WindowErrors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """item_id → source name ("tuned", "zero_shot", or a rival)."""

    default: str
    """The pooled winner: for series that did not leave it, and for those nobody has seen."""
    items: Mapping[str, str] = field(default_factory=dict)
    """Only the series that left the default."""
    period: int | None = None
    """Of `seasonal_naive`, where it is used."""

    def of(self, item_id: str) -> str:
        return self.items.get(item_id, self.default)

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source in use, the default first."""
        return tuple(dict.fromkeys((self.default, *self.items.values())))

    def counts(self, item_ids: Iterable[str]) -> dict[str, int]:
        """How many of these series each source answers for."""
        counts = dict.fromkeys(self.sources, 0)
        for item_id in item_ids:
            counts[self.of(item_id)] += 1
        return counts

    def to_mapping(self) -> dict[str, Any]:
        return {"default": self.default, "items": dict(self.items), "period": self.period}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        return cls(default=mapping["default"], items=dict(mapping["items"]), period=mapping["period"])


def decide(
    sources: Mapping[str, WindowErrors],
    *,
    metric: str,
    horizon_origins: float,
    item_ids: Sequence[str],
    period: int | None = None,
) -> Routes:
    """Routes from errors over the same validation windows. `horizon_origins` is H counted in (strided) origins.

    A tie for the pooled winner goes to the source named first. For every other source a and series i, d_i is what a
    would save over the winner; d̃_i = w_i·d_i + (1 − w_i)·d̄ with w_i = τ² ÷ (τ² + s_i²). A series takes the source with
    the largest d̃_i above 0, else stays.
    """
    error = {name: errors.by_series(metric) for name, errors in sources.items()}
    known = np.flatnonzero(~np.isnan(next(iter(error.values()))))
    if not len(known):
        return Routes(default=next(iter(sources)), period=period)
    default = min(sources, key=lambda name: float(error[name][known].mean()))
    best, saved = np.full(len(known), default, dtype=object), np.zeros(len(known))
    for name, errors in sources.items():
        if name == default:
            continue
        d = error[default][known] - error[name][known]
        shrunken = shrink(d, _variances(sources[default], errors, metric, horizon_origins)[known])
        better = shrunken > saved
        best[better], saved[better] = name, shrunken[better]
    left = {item_ids[int(i)]: str(name) for i, name in zip(known, best, strict=True) if name != default}
    return Routes(default=default, items=left, period=period)


def shrink(d: Floats, variance: Floats) -> Floats:
    """[S] d̃_i = w_i·d_i + (1 − w_i)·d̄, w_i = τ² ÷ (τ² + s_i²), τ² = max(0, Var(d) − mean s²) (moments).

    No spread beyond chance, or no estimate of chance (`variance` NaN), leaves every series at the mean.
    """
    mean = float(d.mean())
    if len(d) < 2 or np.isnan(variance).any():
        return np.full(len(d), mean)
    spread = max(0.0, float(d.var(ddof=1)) - float(variance.mean()))
    total = spread + variance
    weight = np.where(total > 0, spread / np.where(total > 0, total, 1.0), 0.0)
    return weight * d + (1.0 - weight) * mean


def _variances(one: WindowErrors, other: WindowErrors, metric: str, horizon_origins: float) -> Floats:
    """[S] s_i², the variance of d_i by chance: one long-run variance pooled over series, divided by the series' n_i.

    Within a series the long-run variance is taken at the lowest half of n ÷ H cosines (at least one), over their
    expected share of it: errors that overlap for H origins have little left at the frequencies a short block can show.
    NaN where no series has two windows.
    """
    size = len(one.scales.mase)
    x, weight = one.losses(metric) - other.losses(metric), one.weights()
    n = np.bincount(one.series, minlength=size)
    begins = np.flatnonzero(np.diff(one.series, prepend=-1))
    total, terms = 0.0, 0
    for begin in begins:
        count = int(n[one.series[begin]])
        if count < 2:
            continue
        rows = slice(int(begin), int(begin) + count)
        part = count * weight[rows] * (x[rows] - float(weight[rows] @ x[rows]))
        j = np.arange(1, max(1, min(int(0.5 * count / horizon_origins), count - 1)) + 1)
        cosines = np.sqrt(2.0 / count) * np.cos(np.pi * j[:, None] * (np.arange(count) + 0.5) / count)
        total += float((np.square(cosines @ part) / _overlap_share(j / (2.0 * count), horizon_origins)).sum())
        terms += len(j)
    if not terms:
        return np.full(size, np.nan)
    return total / terms / np.maximum(n, 1)


def _overlap_share(frequency: Floats, horizon_origins: float) -> Floats:
    """Spectrum of a moving sum of `horizon_origins` terms at `frequency`, relative to frequency 0; at least a tenth."""
    share: Floats = np.maximum(np.sinc(frequency * horizon_origins) ** 2, 0.1)
    return share


def combine(sources: Mapping[str, WindowErrors], routes: Routes, item_ids: Sequence[str]) -> WindowErrors:
    """Errors of the routed forecaster over windows that every source was measured on."""
    errors = sources[routes.default]
    chosen = np.array([routes.of(item_id) for item_id in item_ids], dtype=object)
    for name in routes.sources:
        if name != routes.default:
            errors = errors.choose(sources[name], chosen[errors.series] == name)
    return errors
