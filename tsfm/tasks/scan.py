"""Blocks of points to be scored: which there are, what came out for each, and the same by series in order of time.

Shapes: S series, W blocks, H steps of a block.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsfm import null
from tsfm.errors import SeriesTooShort
from tsfm.null import EDGE, Null, Raw
from tsfm.series.frame import SeriesFrame
from tsfm.tasks.forecast import BATCH_SIZE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The blocks that have to be asked for. Blind ones, shown nothing behind them, only serve as a null."""

    frame: SeriesFrame
    series: Ints
    """[W]"""
    origin: Ints
    """[W] index of each block's first point; blind blocks come last."""
    count: Ints
    """[W] steps of the block that are used, from its first on."""
    num_blind: int
    first: Ints
    """[S] first point that is scored for the caller; what is scored before it is history for the null."""
    min_context: int
    """Points of history before the first that can be scored."""
    is_two_sided: bool
    skipped: tuple[int, ...]
    """Series too short to be scored at all."""

    @property
    def num_chunks(self) -> int:
        open_blocks = len(self.series) - self.num_blind
        return -(-open_blocks // BATCH_SIZE) + -(-self.num_blind // BATCH_SIZE)

    def chunk(self, number: int) -> slice:
        """Blocks of one forward pass."""
        open_blocks = len(self.series) - self.num_blind
        of_open = -(-open_blocks // BATCH_SIZE)
        begin, end = (0, open_blocks) if number < of_open else (open_blocks, len(self.series))
        at = begin + (number if number < of_open else number - of_open) * BATCH_SIZE
        return slice(at, min(at + BATCH_SIZE, end))


def blocks_of(begin: Ints, lengths: Ints, *, horizon: int) -> tuple[Ints, Ints, Ints]:
    """(series, origin, steps used) of blocks over [begin, length) of every series, laid out from the end."""
    series, origin, count = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for i, (at, end) in enumerate(zip(begin.tolist(), lengths.tolist(), strict=True)):
        whole, rest = divmod(max(end - at, 0), horizon)
        of_rest = [at] if rest else []
        origins = np.array([*of_rest, *range(at + rest, end, horizon)], dtype=np.int64)
        series.append(np.full(len(origins), i, dtype=np.int64))
        origin.append(origins)
        count.append(np.array([rest] * len(of_rest) + [horizon] * whole, dtype=np.int64))
    return np.concatenate(series), np.concatenate(origin), np.concatenate(count)


class Laid:
    """What was computed, by series and in order of time."""

    def __init__(self, scan: Scan, work: Raw, *, stored: Mapping[str, Null]) -> None:
        """`stored` are the nulls that a job measured, by ending; empty where none did."""
        self.scan = scan
        self._stored = stored
        self._open = len(scan.series) - scan.num_blind
        self.work = work
        self._raw = work.score
        self._pooled: tuple[Null, Null] | None = None
        skipped = set(scan.skipped)
        self.series = [i for i in range(len(scan.frame)) if i not in skipped]

    def nulls(self, i: int, level: float) -> tuple[Null, Null]:
        """The null of a series, and that of its last block where that one is seen from one side alone."""
        if self._stored:
            return self._stored[""], self._stored.get(EDGE, self._stored[""])
        own = self._fit(lambda series: series == i)
        if own is not None and own[0].resolves(level):
            return own
        if self._pooled is None:
            self._pooled = self._fit(lambda series: np.ones(len(series), dtype=np.bool_))
        if self._pooled is None:
            raise self._too_little_history()
        return self._pooled

    def _too_little_history(self) -> SeriesTooShort:
        """Of points; or, where there are enough of them, of points that are known."""
        lengths = self.scan.frame.lengths
        have, asked = int(lengths.max()), int((lengths - self.scan.first).max())
        need = self.scan.min_context + asked + null.MIN_SCORES
        said = f"The longest series has {have} points, of which too few are history"
        if have >= need:
            have, need = int((~np.isnan(self._history(self._raw))).sum()), null.MIN_SCORES
            said = f"Of the history only {have} points are known, too few"
        return SeriesTooShort(
            f"{said} to say what is normal: {need} are needed. Send more history, or use a model tuned for "
            "anomaly_detection, which knows its own.",
            have=have,
            need=need,
            param="series",
        )

    def _history(self, raw: Floats) -> Floats:
        """`raw` [W, H] of the points before the detection window, of all where all are asked for; NaN elsewhere."""
        scan = self.scan
        before = scan.origin[:, None] + np.arange(raw.shape[1]) < scan.first[scan.series][:, None]
        everything = scan.first[scan.series] <= scan.min_context
        return np.where(before | everything[:, None], raw, np.nan)

    def _fit(self, mine: Callable[[Ints], NDArray[np.bool_]]) -> tuple[Null, Null] | None:
        """From the history alone."""
        chosen, usable = mine(self.scan.series), self._history(self._raw)
        is_open = np.arange(len(chosen)) < self._open
        made = null.fitted(usable[chosen & is_open])
        if made is None:
            return None
        blind = null.fitted(usable[chosen & ~is_open]) if self.scan.num_blind else None
        return made, blind or made

    def points(self, i: int) -> tuple[Ints, NDArray[np.bool_], Floats, Floats, Floats, Floats]:
        """(step of its block, whether nothing is behind it, expected, below, above, raw) of every asked point."""
        scan, work = self.scan, self.work
        rows = np.flatnonzero(scan.series[: self._open] == i)
        horizon = self._raw.shape[1]
        used = np.arange(horizon)[None, :] < scan.count[rows][:, None]
        index = (scan.origin[rows][:, None] + np.arange(horizon))[used]
        step = np.broadcast_to(np.arange(horizon), used.shape)[used]
        asked = index >= scan.first[i]
        length = int(scan.frame.lengths[i])
        at_end = np.broadcast_to((scan.origin[rows] + horizon >= length)[:, None], used.shape)[used]
        at_end = at_end & scan.is_two_sided
        columns = (one[rows][used][asked] for one in (work.expected, work.below, work.above, self._raw))
        expected, below, above, raw = columns
        return step[asked], at_end[asked], expected, below, above, raw

    def in_units(self, i: int, nulls: tuple[Null, Null]) -> tuple[int, Floats]:
        """(index of the first scored point, scores in units of all, the history before the asked ones included)."""
        scan = self.scan
        rows = np.flatnonzero(scan.series[: self._open] == i)
        horizon = self._raw.shape[1]
        used = np.arange(horizon)[None, :] < scan.count[rows][:, None]
        step = np.broadcast_to(np.arange(horizon), used.shape)[used]
        return int(scan.origin[rows[0]]), nulls[0].in_units(self._raw[rows][used], step)
