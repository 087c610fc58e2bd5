"""Series in memory: one columnar value type that reading produces and windows, methods and tasks consume."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFrame:
    """S regular univariate series, end to end, oldest point first.

    A wide file gives one series per target column. Every series lies on the regular grid of `freq`; a point the
    user's file does not hold is NaN, as is a missing value. Values stay float64 until a window is cut, so that a
    level of 1e12 with a noise of 1 survives.
    """

    item_ids: tuple[str, ...]
    values: NDArray[np.float64]
    """[N] all series end to end; NaN = missing."""
    offsets: NDArray[np.int64]
    """[S + 1]; series i is `values[offsets[i]:offsets[i + 1]]`."""
    starts: NDArray[np.int64]
    """[S] time of each first point: microseconds since 1970 (UTC where `timezone` is set, else the naive wall clock);
    for an integer index (`freq == "1"`) the index itself."""
    freq: str
    """Canonical alias (`tsfm.series.freq`), e.g. "h", "15min", "D", "W-SUN", "MS"; "1" for an integer index."""
    timezone: str | None = None

    def __post_init__(self) -> None:
        assert len(self.offsets) == len(self.item_ids) + 1 == len(self.starts) + 1
        assert int(self.offsets[-1]) == len(self.values)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[S] points per series, missing ones included."""
        return np.diff(self.offsets)

    def series(self, index: int) -> NDArray[np.float64]:
        """Values of one series, a view."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take(self, indices: Iterable[int]) -> Self:
        """The same frame with only the named series, in the order given."""
        chosen = list(indices)
        parts = [self.series(i) for i in chosen]
        return type(self)(
            item_ids=tuple(self.item_ids[i] for i in chosen),
            values=np.concatenate(parts) if parts else np.empty(0),
            offsets=np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64),
            starts=self.starts[chosen] if chosen else np.empty(0, dtype=np.int64),
            freq=self.freq,
            timezone=self.timezone,
        )
