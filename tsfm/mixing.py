"""How much of a plain fill is mixed into a network's: measured on gaps whose truth is known.

A network and the mean of both neighbouring seasons err in different places, so that a mixture is often better than
either (docs/benchmarks.md, imputation). One share for a source, from `SHARES`, with the lowest absolute error relative
to each window's scale: in a job on validation, else on observed spans of the given series.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tsfm.errors import Cancelled
from tsfm.evaluate import never_stop
from tsfm.series.windows import WindowBatch, Windows
from tsfm.tasks.forecast import BATCH_SIZE, Answer, Floats
from tsfm.tasks.sources import FillSource, moved

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One batch of gaps whose truth is known: what the network alone says of them, and the plain fill."""

    batch: WindowBatch
    target: Floats
    """[B, H] in the user's units, NaN behind each gap."""
    answer: Answer
    plain: Floats

    @classmethod
    def of(cls, source: FillSource, windows: Windows, indices: NDArray[np.int64]) -> Self:
        batch = windows.batch(indices)
        return cls(
            batch=batch,
            target=windows.raw_target(indices),
            answer=source.mixed(0.0)(batch, windows.prediction_length),
            plain=source.plain(batch, windows.prediction_length),
        )

    def errors(self) -> Floats:
        """Absolute error at each of `SHARES`, relative to the windows' scales, summed over observed points."""
        said, scale = self.answer.point, self.batch.scale[:, None]
        off = [np.abs(said + share * (self.plain - said) - self.target) / scale for share in SHARES]
        return np.array([np.nansum(one) for one in off])

    def mixed(self, share: float) -> Answer:
        """The answer at that share."""
        return moved(self.answer, share * (self.plain - self.answer.point))


def share_of(errors: Floats) -> float:
    """The share with the lowest of `errors` (by `SHARES`). Of equals the smallest: a tie changes nothing."""
    return SHARES[int(np.argmin(errors))]


def best_share(source: FillSource, windows: Windows, *, should_stop: Callable[[], str | None] = never_stop) -> float:
    """The share of the plain fill over all windows; 0 where nothing is observed."""
    errors = np.zeros(len(SHARES))
    for begin in range(0, len(windows), BATCH_SIZE):
        if reason := should_stop():
            raise Cancelled(f"Stopped while choosing how to fill: {reason}.", code=reason)
        indices = np.arange(begin, min(begin + BATCH_SIZE, len(windows)))
        errors += Tried.of(source, windows, indices).errors()
    return share_of(errors)
