"""What is asked of imputation, and what it answers. Torch-free."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LongGaps = Literal["refuse", "leave"]
"""What becomes of gaps that are too long to be filled: the request, or they alone, are left undone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One run of missing points."""

    series: int
    first: int
    """Index of its first point."""
    length: int
    filled: bool
    one_sided: bool
    """Whether it is the beginning or the end of its series: only one side is known."""
    calibrated: bool
    """Whether its intervals were set by held-out history of a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What `finish` answers; arrays are aligned with `SeriesFrame.values`, [N]."""

    values: Floats
    """The frame's, with gaps filled; NaN where one was left."""
    quantiles: Floats | None
    """[Q, N] at the asked levels, NaN but in filled gaps; None where the source has no intervals."""
    gaps: tuple[Gap, ...]
    calibrated: bool
    """Whether every filled gap's intervals are."""
    notes: tuple[str, ...]
