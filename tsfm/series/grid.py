"""Frequency of sorted times, with its evidence; steps that are missing, times that repeat, times off the grid."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tsfm.series import freq as frequencies
from tsfm.series import zones
from tsfm.series.freq import DAY, Frequency, Micros, Unit

Mask = NDArray[np.bool_]

_FIT = 0.95
"""Share of steps that must be whole numbers of the step (stack.md §3)."""
_EXACT = 0.5
"""Share of steps that must be exactly one step, for a frequency nobody named."""
_VOTERS = 25
_JUDGED = 8192
"""Points from which one series' frequency is judged; all of them are then laid on its grid."""
_HOUR = DAY // 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Sorted times of S series, end to end."""

    values: Micros
    """[N] microseconds (UTC where there is a zone), or integers."""
    counts: NDArray[np.int64]
    """[S] times of each series; none is empty."""
    timezone: str | None

    @property
    def begins(self) -> NDArray[np.int64]:
        """[S] place of each first time."""
        return np.cumsum(self.counts) - self.counts

    def of(self, i: int) -> Micros:
        """Times of one series."""
        begin = int(self.begins[i])
        return self.values[begin : begin + int(self.counts[i])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How times lie on the grid of a frequency."""

    freq: Frequency
    off_grid: Mask
    """[N] not on the grid of their series."""
    steps: NDArray[np.int64]
    """[N] whole steps since the time before; 0 for the first of a series and for a repeated time."""
    share: float
    """Share of steps that are whole."""
    exact: float
    """Share of steps that are one."""
    misfits: tuple[int, ...]
    """Series whose own steps do not fit."""

    @property
    def num_missing(self) -> int:
        """Steps of the grids without a time."""
        return int(np.maximum(self.steps[~self.off_grid] - 1, 0).sum())


def repeated(times: Times) -> Mask:
    """[N] True where a time equals the one before it in its series."""
    same = np.zeros(len(times.values), dtype=np.bool_)
    same[1:] = times.values[1:] == times.values[:-1]
    same[times.begins] = False
    return same


def infer(times: Times) -> Frequency | None:
    """The frequency that most series show, each judged alone; None when no series shows one."""
    enough = np.flatnonzero(times.counts >= 3)
    if not len(enough):
        return _of_pairs(times)
    longest = enough[np.argsort(-times.counts[enough], kind="stable")]
    voters = longest[np.unique(np.linspace(0, len(longest) - 1, _VOTERS).astype(np.int64))]
    votes = Counter(found for i in voters if (found := classify(times.of(int(i)), times.timezone)) is not None)
    if not votes:
        return None
    return votes.most_common(1)[0][0]


def classify(values: Micros, timezone: str | None) -> Frequency | None:
    """The frequency of one sorted series: calendar classes first, then the commonest difference. None if irregular."""
    values = values[:_JUDGED]
    values = values[np.diff(values, prepend=values[0] - 1) > 0]
    if len(values) < 2:
        return None
    wall = zones.to_local(values, timezone)
    span = _mode(np.diff(wall))
    candidates: list[Frequency] = []
    if span >= 28 * DAY:
        months, into = Frequency(unit=Unit.MONTH_START).ordinals(wall)
        _, left = Frequency(unit=Unit.MONTH_END).ordinals(wall)
        step = max(_mode(np.diff(months)), 1)
        ends = np.median(left) <= DAY and np.median(into) >= DAY
        sides = (Unit.MONTH_END, Unit.MONTH_START) if ends else (Unit.MONTH_START,)
        candidates.extend(frequencies.parse(f"{step}{side.value}") for side in sides)
    if span % (7 * DAY) == 0:
        weekday = int(np.bincount(_weekdays(wall), minlength=7).argmax())
        candidates.append(Frequency(unit=Unit.WEEK, multiple=span // (7 * DAY), weekday=weekday))
    if span == DAY and _skips_weekends(wall):
        candidates.append(Frequency(unit=Unit.BUSINESS_DAY))
    if span % DAY == 0:
        candidates.append(Frequency(unit=Unit.DAY, multiple=span // DAY))
    else:
        candidates.append(frequencies.from_span(_mode(np.diff(values))))
    one = Times(values=values, counts=np.array([len(values)]), timezone=timezone)
    for candidate in candidates:
        fit = lay(one, candidate)
        if fit.share > _FIT and fit.exact >= _EXACT:
            return candidate
    return None


def lay(times: Times, freq: Frequency) -> Fit:
    """How the times lie on that frequency's grids, each series on its own."""
    counts, inside = freq.local_ordinals(times.values, times.timezone)
    begins = times.begins
    phase = np.mod(counts, freq.stride) if freq.stride > 1 else np.zeros_like(counts)
    off = inside != np.repeat(inside[begins], times.counts)
    if freq.stride > 1:
        off |= phase != np.repeat(phase[begins], times.counts)
    if not off.any():
        return _fit(times, freq, counts, off)
    owner = np.repeat(np.arange(len(times.counts)), times.counts)
    if freq.is_calendar and times.timezone is not None and "/" in times.timezone:
        # A day whose midnight the clock skipped starts an hour late, and stands for that day all the same.
        late = (np.abs(inside - inside[begins][owner]) <= 2 * _HOUR) & (phase == phase[begins][owner])
        first_of_step = np.ones(len(counts), dtype=np.bool_)
        first_of_step[1:] = counts[1:] != counts[:-1]
        first_of_step[begins] = True
        off &= ~(late & first_of_step)
    for i in np.unique(owner[off]):
        # The first time of a series may be the stray one: judge by the commonest place instead.
        part = slice(int(begins[i]), int(begins[i] + times.counts[i]))
        place = np.stack([inside[part], phase[part]], axis=1)
        places, members, tally = np.unique(place, axis=0, return_inverse=True, return_counts=True)
        common = int(tally.argmax())
        if not np.array_equal(places[common], place[0]):
            off[part] = members.reshape(-1) != common
    return _fit(times, freq, counts, off)


def _fit(times: Times, freq: Frequency, counts: Micros, off: Mask) -> Fit:
    steps = np.zeros(len(counts), dtype=np.int64)
    np.subtract(counts[1:], counts[:-1], out=steps[1:])
    if freq.stride > 1:
        np.floor_divide(steps, freq.stride, out=steps)
    begins = times.begins
    steps[begins] = 0

    def per_series(which: Mask) -> NDArray[np.int64]:
        return np.add.reduceat(which, begins, dtype=np.int64)

    moves = per_series((steps > 0) | off)
    bad = per_series(off)
    single = per_series((steps == 1) & ~off)
    judged = times.counts >= 3
    misfit = judged & ((bad > (1 - _FIT) * moves) | (single < _EXACT * moves))
    total = max(int(moves.sum()), 1)
    return Fit(
        freq=freq,
        off_grid=off,
        steps=steps,
        share=1 - int(bad.sum()) / total,
        exact=int(single.sum()) / total,
        misfits=tuple(np.flatnonzero(misfit).tolist()),
    )


def settle_month_side(times: Times, freq: Frequency) -> Frequency:
    """The same month-based frequency on the side (start or end) where the times lie."""
    sides = {
        Unit.MONTH_START: Unit.MONTH_END,
        Unit.QUARTER_START: Unit.QUARTER_END,
        Unit.YEAR_START: Unit.YEAR_END,
    }
    sides |= {end: start for start, end in sides.items()}
    if freq.unit not in sides:
        return freq
    other = replace(freq, unit=sides[freq.unit])
    return other if lay(times, other).off_grid.sum() < lay(times, freq).off_grid.sum() else freq


def describe(times: Times, fit: Fit, *, given: bool) -> str:
    """The evidence in one sentence."""
    judged = int((times.counts >= 3).sum())
    moves = int((fit.steps > 0).sum())
    how = "as given" if given else "the commonest step"
    who = "the series" if len(times.counts) == 1 else f"{judged:,} of {len(times.counts):,} series"
    return (
        f"{fit.freq.alias}: {how}; {100 * fit.exact:.2f} % of {moves:,} steps are exactly one and "
        f"{100 * fit.share:.2f} % whole numbers of it, over {who} with 3 points or more."
    )


def _of_pairs(times: Times) -> Frequency | None:
    """From series of two points, where there is nothing longer."""
    found = [classify(times.of(int(i)), times.timezone) for i in np.flatnonzero(times.counts == 2)[:_VOTERS]]
    votes = Counter(f for f in found if f is not None)
    return votes.most_common(1)[0][0] if votes else None


def _mode(differences: Micros) -> int:
    values, tally = np.unique(differences[differences > 0], return_counts=True)
    return int(values[tally.argmax()]) if len(values) else 1


def _weekdays(wall: Micros) -> NDArray[np.int64]:
    days: NDArray[np.int64] = np.mod(np.floor_divide(wall, DAY) + 3, 7)
    return days


def _skips_weekends(wall: Micros) -> bool:
    """Whether the times pass over weekends and never fall on one."""
    return bool((_weekdays(wall) < 5).all()) and bool(wall[-1] - wall[0] >= 7 * DAY)


def examples_of_gaps(times: Times, fit: Fit, names: Sequence[str], *, most: int) -> list[tuple[str, int, int, int]]:
    """(series, time before, time after, missing steps) of the longest gaps."""
    gaps = np.flatnonzero((fit.steps > 1) & ~fit.off_grid)
    longest = np.sort(gaps[np.argsort(-fit.steps[gaps], kind="stable")[:most]])
    ends = np.cumsum(times.counts)
    return [
        (
            names[int(np.searchsorted(ends, at, side="right"))],
            int(times.values[at - 1]),
            int(times.values[at]),
            int(fit.steps[at] - 1),
        )
        for at in longest
    ]
