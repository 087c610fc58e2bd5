"""Blocks of time: train, validation, calibration, test (evaluation §1).

A window belongs to the block that holds its whole target; contexts may reach back. Series that share a clock are cut
at common timestamps, since otherwise one series' training would see another's test period.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm.errors import SeriesTooShort
from tsfm.series import freq as frequencies
from tsfm.series.frame import SeriesFrame

Ints = NDArray[np.int64]


class Block(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    CALIBRATION = "calibration"
    TEST = "test"


_ORDER = tuple(Block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Where each series is cut."""

    borders: Ints
    """[S, 5]: 0, end of train, of validation, of calibration, and the length; an empty block has equal borders."""
    clock: Ints
    """[S] place of each first point on its group's axis, in steps."""
    group: Ints
    """[S] series with the same number share a clock and are cut at common timestamps."""
    prediction_length: int
    min_context: int
    """Fewest points of history before a target (c_min)."""
    with_test: bool
    unused: tuple[int, ...]
    """Series without a training window."""
    unjudged: tuple[int, ...]
    """Series without a test window (all of them where there is no test block): they follow the pooled verdict."""

    def block(self, block: Block) -> tuple[Ints, Ints]:
        """([S], [S]) first and one-past-last point of the block in each series."""
        index = _ORDER.index(block)
        return self.borders[:, index], self.borders[:, index + 1]

    def first_origins(self, block: Block) -> Ints:
        """[S] earliest target start in the block that has `min_context` points of history."""
        first: Ints = np.maximum(self.block(block)[0], self.min_context)
        return first

    def num_origins(self, block: Block) -> Ints:
        """[S] targets that fit whole in the block."""
        room = self.block(block)[1] - self.prediction_length - self.first_origins(block) + 1
        count: Ints = np.maximum(room, 0)
        return count

    def report(self) -> Mapping[str, Any]:
        """JSON-ready facts for `data_report`."""
        return {
            "min_context": self.min_context,
            "with_test": self.with_test,
            "num_groups": int(self.group.max()) + 1 if len(self.group) else 0,
            "num_unused": len(self.unused),
            "num_unjudged": len(self.unjudged),
            "points": {b.value: int((self.block(b)[1] - self.block(b)[0]).sum()) for b in _ORDER},
        }


def min_context(context_length: int, *, patch_length: int, season: int) -> int:
    """c_min: two seasons or two patches of history, unless the context is shorter."""
    return min(context_length, max(2 * season, 2 * patch_length))


def needed(
    context_length: int, prediction_length: int, *, patch_length: int, season: int, with_test: bool = True
) -> int:
    """Points the longest series must have: c_min + 5H, or c_min + 3H without a test block."""
    c_min = min_context(context_length, patch_length=patch_length, season=season)
    return c_min + (5 if with_test else 3) * prediction_length


def fitting_context_length(
    longest: int, *, limit: int, prediction_length: int, patch_length: int, with_test: bool = True
) -> int:
    """The context length to use where none is asked: `limit`, or less where the history leaves less room.

    Never below two patches, so that `split` says have and need when even that does not fit.
    """
    room = longest - (5 if with_test else 3) * prediction_length
    return min(limit, max(room, 2 * patch_length))


def split(
    frame: SeriesFrame, *, context_length: int, prediction_length: int, patch_length: int, with_test: bool = True
) -> Split:
    """Cut every series: test 20 %, calibration 10 %, validation 10 % (each at least H, test 2H), train the rest.

    Raises `SeriesTooShort` when not even the longest series fits. Single series that are too short are kept: on their
    own clock they train only, on a shared clock they are cut where the others are.
    """
    freq = frequencies.parse(frame.freq)
    season = freq.season
    c_min = min_context(context_length, patch_length=patch_length, season=season)
    rule = _Rule(prediction_length=prediction_length, c_min=c_min, with_test=with_test)
    lengths = frame.lengths
    _check_longest(frame, rule, patch_length=patch_length, season=season)
    clock, group = _clocks(frame, freq)
    borders = np.zeros((len(frame), 5), dtype=np.int64)
    for members in _groups(group):
        cuts = rule.cuts(clock[members], lengths[members])
        borders[members, 1:4] = np.clip(cuts[None, :] - clock[members, None], 0, lengths[members, None])
    borders[:, 4] = lengths
    made = Split(
        borders=borders,
        clock=clock,
        group=group,
        prediction_length=prediction_length,
        min_context=c_min,
        with_test=with_test,
        unused=(),
        unjudged=(),
    )
    return replace(
        made,
        unused=tuple(np.flatnonzero(made.num_origins(Block.TRAIN) == 0).tolist()),
        unjudged=tuple(np.flatnonzero(made.num_origins(Block.TEST) == 0).tolist()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    prediction_length: int
    c_min: int
    with_test: bool

    @property
    def minimum(self) -> Ints:
        """[3] fewest steps of validation, calibration, test."""
        minimum: Ints = np.array([1, 1, 2 if self.with_test else 0], dtype=np.int64) * self.prediction_length
        return minimum

    @property
    def need(self) -> int:
        return self.c_min + self.prediction_length + int(self.minimum.sum())

    def cuts(self, clock: Ints, lengths: Ints) -> Ints:
        """[3] ends of train, validation, calibration on the group's axis."""
        longest = int(np.argmax(lengths))
        if lengths[longest] < self.need:
            end = int((clock + lengths).max())
            return np.array([end, end, end], dtype=np.int64)
        pooled = self._cuts(clock, lengths)
        if self._serves_all_blocks(pooled, clock, lengths):
            return pooled
        return self._cuts(clock[longest : longest + 1], lengths[longest : longest + 1])

    def _cuts(self, clock: Ints, lengths: Ints) -> Ints:
        """Cut by shares of the points, each block at least its minimum, train keeping c_min + H."""
        begin, end = int(clock.min()), int((clock + lengths).max())
        shares = np.array([0.1, 0.1, 0.2 if self.with_test else 0.0])
        edges = end - _time_of_share(clock, lengths, np.cumsum(shares[::-1])[::-1])
        wanted = np.append(edges[:-1] - edges[1:], edges[-1])
        spare = max(end - begin - self.need, 0)
        excess = np.maximum(np.rint(wanted).astype(np.int64) - self.minimum, 0)
        if excess.sum() > spare:
            excess = excess * spare // int(excess.sum())
        return end - np.cumsum((self.minimum + excess)[::-1])[::-1]

    def _serves_all_blocks(self, cuts: Ints, clock: Ints, lengths: Ints) -> bool:
        """Whether every block holds at least one window of some series."""
        inner = np.clip(cuts[None, :] - clock[:, None], 0, lengths[:, None])
        borders = np.concatenate([np.zeros_like(inner[:, :1]), inner, lengths[:, None]], axis=1)
        first = np.maximum(borders[:, :-1], self.c_min)
        fits = (borders[:, 1:] - first >= self.prediction_length).any(axis=0)
        return bool(fits.all() if self.with_test else fits[:3].all())


def _time_of_share(clock: Ints, lengths: Ints, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times (steps) after which the given shares of all points lie."""
    times = np.unique(np.concatenate([clock, clock + lengths]))
    changes = np.zeros(len(times), dtype=np.int64)
    np.add.at(changes, np.searchsorted(times, clock), 1)
    np.add.at(changes, np.searchsorted(times, clock + lengths), -1)
    alive = np.cumsum(changes)[:-1]
    mass = np.concatenate([[0], np.cumsum(alive * np.diff(times))]).astype(np.float64)
    edges: NDArray[np.float64] = np.interp((1.0 - shares) * mass[-1], mass, times.astype(np.float64))
    return edges


def _clocks(frame: SeriesFrame, freq: frequencies.Frequency) -> tuple[Ints, Ints]:
    """([S] axis place of the first point, [S] group): groups are chains of series that overlap in time.

    An integer index names no moment (step 5 of two machines is not one time): each series stands alone, unless all
    begin and end together, where both readings give the same cuts.
    """
    lengths = frame.lengths
    if freq.unit is frequencies.Unit.INTEGER:
        return frame.starts // freq.multiple, np.arange(len(frame), dtype=np.int64)
    counts, _ = freq.local_ordinals(frame.starts, frame.timezone)
    clock = counts // freq.stride
    order = np.argsort(clock, kind="stable")
    reach = np.maximum.accumulate((clock + lengths)[order])
    begins_group = np.ones(len(frame), dtype=np.bool_)
    begins_group[1:] = clock[order][1:] >= reach[:-1]
    group = np.empty(len(frame), dtype=np.int64)
    group[order] = np.cumsum(begins_group) - 1
    return clock, group


def _groups(group: Ints) -> list[Ints]:
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []


def _check_longest(frame: SeriesFrame, rule: _Rule, *, patch_length: int, season: int) -> None:
    lengths = frame.lengths
    have = int(lengths.max()) if len(lengths) else 0
    if have >= rule.need:
        return
    name = frame.item_ids[int(np.argmax(lengths))] if len(lengths) else ""
    blocks = "5 × prediction_length" if rule.with_test else "3 × prediction_length"
    shorter = max((have - rule.c_min) // (5 if rule.with_test else 3), 0)
    mends = [f"use prediction_length {shorter} or less"] if shorter else []
    if rule.c_min > 2 * patch_length:
        mends.append(f"a context_length below {rule.c_min}")
    if rule.with_test and have >= rule.c_min + 3 * rule.prediction_length:
        mends.append('give up the test block ("gate": null)')
    mends.append("give more history")
    raise SeriesTooShort(
        f"The longest series ({name!r}) has {have} points; {rule.need} are needed: {rule.c_min} of context (season "
        f"{season}, patch {patch_length}) + {blocks} ({rule.prediction_length}) for train, validation, calibration"
        f"{' and test' if rule.with_test else ''}. To mend: {'; or '.join(mends)}.",
        have=have,
        need=rule.need,
        param="prediction_length",
    )
