"""What a gap is filled with: a network and three plain fills, weighed by the distance from the nearer edge. Torch-free.

    mixture = Mixture.stored(manifest["fill"], "tuned")
    filled = mixture.of(parts, distance(gap, horizon, before=before, behind=behind))

A line is hard to beat beside an edge, a season in the middle of a long gap, a network between them
(docs/decisions/0022), so that there is one set of weights for each class of distances, by powers of two: 1, 2, 3–4,
5–8, … steps. How the weights are found is `tsfm.mixing`.
Shapes: B gaps of at most H steps, P parts, K classes.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PARTS = ("network", "linear_fill", "seasonal_fill", "seasonal_line")
"""What is weighed, in the order of weights; the plain ones are those of `tsfm.rivals`."""
_QUARTERS = 4
GRID: Floats = (
    np.array([w for w in itertools.product(range(_QUARTERS, -1, -1), repeat=len(PARTS)) if sum(w) == _QUARTERS])
    / _QUARTERS
)
"""[35, P] every convex combination in quarters, the network's largest weights first."""
Row = tuple[float, ...]
_ALONE: Row = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Weights of `PARTS` by class of distances."""

    period: int = 1
    """Season of the plain fills in steps; 1: there is none, and the line stands for all of them."""
    weights: tuple[Row, ...] = (_ALONE,)
    """[K, P], each row summing to 1; what is further from its edge than the last class has the last row."""

    @classmethod
    def stored(cls, fill: Mapping[str, Any], name: str) -> Self:
        """What the `fill` of a manifest says of the network `name`, "tuned" or "zero_shot".

        A checkpoint holds nothing of it: the network alone. Artifacts made before 0022 hold one share of one plain
        fill, which is one class.
        """
        period = int(fill["period"])
        if "shares" in fill:
            share = float(fill["shares"][name])
            plain = (0.0, share, 0.0) if period > 1 else (share, 0.0, 0.0)
            return cls(period=period, weights=((1.0 - share, *plain),))
        rows = fill["weights"].get(name, (_ALONE,))
        return cls(period=period, weights=tuple(tuple(float(w) for w in row) for row in rows))

    @property
    def is_network_alone(self) -> bool:
        return all(row == _ALONE for row in self.weights)

    def of(self, parts: Floats, away: Ints) -> Floats:
        """[B, H] the mixture of `parts` [B, H, P] at the distances `away` [B, H]."""
        rows = np.array(self.weights)[np.minimum(classes(away), len(self.weights) - 1)]
        mixed: Floats = (rows * parts).sum(axis=-1)
        return mixed


def guess_of(facts: Mapping[str, Any], season: int) -> int:
    """Period of the first guess that a network of this manifest is shown of what else is missing (`WindowBatch`)."""
    fill = facts.get("fill") or {}
    return int(fill.get("guess", fill.get("period", season)))


def distance(gap: Ints, horizon: int, *, before: Bools, behind: Bools) -> Ints:
    """[B, H] steps from the nearer edge of gaps of `gap` [B] steps, from 1 on; behind a gap 1.

    `before` and `behind` [B] say whether anything is observed there: the edge of a side without counts for nothing.
    """
    step = np.arange(horizon)[None, :]
    left, right = np.broadcast_to(step + 1, (len(gap), horizon)), gap[:, None] - step
    one_sided = np.where(before[:, None], left, right)
    nearer = np.where((before == behind)[:, None], np.minimum(left, right), one_sided)
    return np.maximum(nearer, 1)


def classes(away: Ints) -> Ints:
    """Class of each distance: 0 of 1, 1 of 2, 2 of 3 and 4, 3 of 5 to 8, …"""
    found: Ints = np.ceil(np.log2(away)).astype(np.int64)
    return found
