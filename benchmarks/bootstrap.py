"""A paired bootstrap over series: is one method's mean figure higher than another's on the same series?

Series are drawn with replacement, both methods' figures of a series together, so that what makes a series hard for both
cancels. Series count as independent draws; the interval says nothing of another set of series.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Mean of first − second over series, and the percentile interval of it."""

    mean: float
    low: float
    high: float
    num_series: int

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> Difference:
    """Figures of two methods on the same series in the same order."""
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    assert len(first) == len(second) > 1, f"{len(first)} figures beside {len(second)}"
    assert np.isfinite(gaps).all(), "a figure is missing: drop the series for both methods, and say so"
    drawn = np.random.default_rng(seed).integers(len(gaps), size=(draws, len(gaps)))
    low, high = np.quantile(gaps[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Difference(mean=float(gaps.mean()), low=float(low), high=float(high), num_series=len(gaps))
