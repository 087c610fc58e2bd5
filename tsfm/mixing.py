"""With which weights a network is mixed with plain fills: measured on gaps whose truth is known.

They err in different places, so that a mixture is better than any of them (docs/decisions/0022). Each class of
distances from the nearer edge (`tsfm.mixture`) takes the weights with the lowest absolute error relative to each
window's scale: in a job on validation, else on observed spans of the given series.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tsfm import rivals
from tsfm.errors import Cancelled
from tsfm.evaluate import never_stop
from tsfm.mixture import GRID, Floats, Ints, Mixture, classes
from tsfm.series.windows import WindowBatch, Windows
from tsfm.tasks.forecast import BATCH_SIZE, Answer
from tsfm.tasks.sources import FillSource, away_of, moved

LEAST_POINTS = 100
"""Points that choose the weights of a class; one with fewer takes in its neighbours, those nearer the edge first."""
NUM_CLASSES = 32
GUESS_WINDOWS = 512
"""Windows on which `best_guess` compares the two guesses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What each set of weights misses, by class of distances."""

    errors: Floats
    """[NUM_CLASSES, len(GRID)] absolute errors relative to the windows' scales, summed over observed points."""
    count: Ints
    """[NUM_CLASSES] observed points."""

    @classmethod
    def empty(cls) -> Self:
        return cls(errors=np.zeros((NUM_CLASSES, len(GRID))), count=np.zeros(NUM_CLASSES, dtype=np.int64))

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(errors=self.errors + other.errors, count=self.count + other.count)

    def deepened(self, other: "Tally") -> "Tally":
        """With those classes of `other` that lie behind all of this one's own."""
        deeper = np.arange(NUM_CLASSES) >= self._depth
        return self + Tally(errors=np.where(deeper[:, None], other.errors, 0.0), count=np.where(deeper, other.count, 0))

    def mixture(self, period: int) -> Mixture:
        """The best weights of each class. Of equals the first of `GRID`: a tie keeps the network."""
        usable = np.flatnonzero(GRID[:, 2:].sum(axis=1) == 0) if period <= 1 else np.arange(len(GRID))
        rows = [GRID[usable[np.argmin(self._pooled(k)[usable])]] for k in range(max(self._depth, 1))]
        return Mixture(period=period, weights=tuple(tuple(row.tolist()) for row in rows))

    @property
    def _depth(self) -> int:
        """One past the last class with any point."""
        return int(np.flatnonzero(self.count).max(initial=-1)) + 1

    def _pooled(self, chosen: int) -> Floats:
        """[len(GRID)] errors of a class and of as many of its neighbours as it takes."""
        order = [*range(chosen, -1, -1), *range(chosen + 1, self._depth)]
        enough = int(np.searchsorted(np.cumsum(self.count[order]), LEAST_POINTS)) + 1
        pooled: Floats = self.errors[order[:enough]].sum(axis=0)
        return pooled


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One batch of gaps whose truth is known: what the network alone says of them, and the plain fills."""

    batch: WindowBatch
    target: Floats
    """[B, H] in the user's units, NaN behind each gap."""
    answer: Answer
    parts: Floats
    """[B, H, P]"""
    away: Ints
    """[B, H] steps from the nearer edge."""

    @classmethod
    def of(cls, source: FillSource, windows: Windows, indices: NDArray[np.int64]) -> Self:
        batch, horizon = windows.batch(indices), windows.prediction_length
        answer = source.alone(batch, horizon)
        return cls(
            batch=batch,
            target=windows.raw_target(indices),
            answer=answer,
            parts=source.parts(answer, batch, horizon),
            away=away_of(batch, horizon),
        )

    def tally(self) -> Tally:
        observed = ~np.isnan(self.target)
        which = classes(self.away)[observed]
        scale = np.broadcast_to(self.batch.scale[:, None], self.target.shape)[observed]
        off = (self.parts - self.target[..., None])[observed] / scale[:, None]
        summed = [np.bincount(which, weights=np.abs(off @ row), minlength=NUM_CLASSES) for row in GRID]
        return Tally(errors=np.stack(summed, axis=1), count=np.bincount(which, minlength=NUM_CLASSES))

    def mixed(self, mixture: Mixture) -> Answer:
        """The answer with those weights."""
        return moved(self.answer, mixture.of(self.parts, self.away) - self.answer.point)


def tallied(source: FillSource, windows: Windows, *, should_stop: Callable[[], str | None] = never_stop) -> Tally:
    """Over all windows."""
    found = Tally.empty()
    for begin in range(0, len(windows), BATCH_SIZE):
        if reason := should_stop():
            raise Cancelled(f"Stopped while choosing how to fill: {reason}.", code=reason)
        indices = np.arange(begin, min(begin + BATCH_SIZE, len(windows)))
        found += Tried.of(source, windows, indices).tally()
    return found


def best_mixture(
    source: FillSource,
    windows: Windows,
    longer: Windows | None = None,
    *,
    period: int,
    should_stop: Callable[[], str | None] = never_stop,
) -> Mixture:
    """The best weights over `windows`; `longer` gaps say it of the distances that `windows` do not reach."""
    source = source.mixed(Mixture(period=period))
    found = tallied(source, windows, should_stop=should_stop)
    if longer is not None:
        found = found.deepened(tallied(source, longer, should_stop=should_stop))
    return found.mixture(period)


def best_guess(windows: Windows, season: int) -> int:
    """Period of the first guess of what else is missing around a gap: the season, or 1 where a line misses less.

    A network fills no better than what stands around the gap: where values hardly move within a gap the line is the
    better guess (docs/decisions/0022). No network is asked.
    """
    if season <= 1:
        return 1
    chosen = np.linspace(0, len(windows) - 1, min(len(windows), GUESS_WINDOWS)).round().astype(np.int64)
    off = np.zeros(2)
    for begin in range(0, len(chosen), BATCH_SIZE):
        batch = windows.batch(chosen[begin : begin + BATCH_SIZE])
        assert batch.gap is not None, "gaps have a length"
        assert batch.after is not None, "a gap has two sides"
        for i, name in enumerate(("seasonal_fill", "linear_fill")):
            said = rivals.fill(name, batch.context, batch.after, batch.gap, batch.target.shape[1], period=season)
            off[i] += float(np.nansum(np.abs(said - batch.target)))
    return 1 if off[1] < off[0] else season
