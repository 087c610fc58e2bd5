"""Windows: a context and the target that follows it, cut from a frame by index arithmetic, scaled by the context."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split

Ints = NDArray[np.int64]

OTHER_GAPS = (0.0, 0.125, 0.25, 0.375, 0.5)
"""Shares of what is around a gap that is missing, too, where gaps vary: what published protocols hide."""
_FLAT = 1e-13
"""No scale is below this share of the context's level: under it stands rounding, not spread."""
_BOUND = np.float32(1e18)
"""Scaled values stop here, so that the square of one wild target after a nearly constant context stays finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBatch:
    """B windows. Scaled values are (raw − loc) ÷ scale; NaN = missing, or before the start of the series."""

    context: NDArray[np.float32]
    """[B, T], left-padded with NaN."""
    target: NDArray[np.float32]
    """[B, H]; H = 0 for `tail`."""
    loc: NDArray[np.float64]
    """[B] mean of the context's observed points; 0 where there is none."""
    scale: NDArray[np.float64]
    """[B] standard deviation of the context's observed points; 1 where it is 0 or there is none."""
    series: Ints
    """[B] index of the series in the frame."""
    origin: Ints
    """[B] index of the target's first point in its series."""
    after: NDArray[np.float32] | None = None
    """[B, A] of windows around gaps: what follows each gap, padded with NaN; `loc` and `scale` are of both sides."""
    gap: Ints | None = None
    """[B] steps of each gap, 1 to H: the target's first; NaN stands behind them. Given where `after` is."""
    period: int | None = None
    """Season of the first guess that a network is shown of what else is missing (`tsfm.rivals.completed`), or None."""

    def __len__(self) -> int:
        return len(self.series)

    def rows(self, begin: int, end: int) -> "WindowBatch":
        """The windows [begin, end)."""
        kept: dict[str, Any] = {}
        for f in fields(self):
            every = getattr(self, f.name)
            kept[f.name] = every[begin:end] if isinstance(every, np.ndarray) else every
        return WindowBatch(**kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """W windows named by series and origin; nothing is copied until `batch`."""

    frame: SeriesFrame
    series: Ints
    """[W]"""
    origin: Ints
    """[W] index of the target's first point in its series; sorted by series, then origin."""
    context_length: int
    prediction_length: int
    stride: int
    """Steps between neighbouring origins of a series, as used (larger than asked where `max_windows` bound)."""
    num_dropped: int
    """Windows left out because nothing of their target, or of their context, was observed."""
    around: "Around | None" = None
    """Set where the targets fill gaps: what is shown behind them."""

    def __len__(self) -> int:
        return len(self.series)

    def batch(self, indices: ArrayLike) -> WindowBatch:
        """The windows at `indices`; the same numbers whichever windows stand beside them."""
        chosen = np.asarray(indices, dtype=np.int64)
        return gather(
            self.frame,
            self.series[chosen],
            self.origin[chosen],
            context_length=self.context_length,
            prediction_length=self.prediction_length,
            around=self.around,
        )

    def showing(self, context_length: int) -> "Windows":
        """The same windows with another number of steps shown: before each target, and behind one that fills a gap."""
        around = None if self.around is None else replace(self.around, length=context_length)
        return replace(self, context_length=context_length, around=around)

    def raw_target(self, indices: ArrayLike) -> NDArray[np.float64]:
        """[B, H] unscaled targets, NaN = missing, or behind the gap."""
        chosen = np.asarray(indices, dtype=np.int64)
        series, origin = self.series[chosen], self.origin[chosen]
        raw = _take(self.frame, series, origin, before=0, after=self.prediction_length)
        if self.around is None:
            return raw
        return _first(raw, self.around.gaps(series, origin, self.prediction_length))


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """How windows around gaps are cut."""

    length: int
    """Steps shown behind a gap."""
    limits: Ints
    """[S] one past the last point that may be shown: the end of the windows' block, so that no later block leaks."""
    period: int | None = None
    """Of the first guess that a network is shown of what else is missing; None: it is shown as missing."""
    vary: bool = False
    """Gaps of 1 to H steps, drawn from the window's place alone; False: all of H."""
    whole: float = 0.0
    """Share of varied gaps that have all H steps nevertheless: else few windows reach the middle of a long gap."""
    with_others: bool = False
    """Hides other gaps of like length around each, drawn from the window's place alone, too."""

    def gaps(self, series: Ints, origin: Ints, prediction_length: int) -> Ints:
        """[B] length of each window's gap; the same whichever windows stand beside it."""
        if not self.vary:
            return np.full(len(series), prediction_length, dtype=np.int64)
        seed = place_hash(series, origin)
        drawn = (seed % np.uint64(prediction_length)).astype(np.int64) + 1
        is_whole = (seed >> np.uint64(40)).astype(np.float64) / 2.0**24 < self.whole
        return np.where(is_whole, prediction_length, drawn)

    def others(self, series: Ints, origin: Ints, gap: Ints, place: Ints) -> NDArray[np.bool_]:
        """[B, L] which of the points at `place` [B, L] lie in other gaps: of each window a share from `OTHER_GAPS`, in
        runs as long as its own gap."""
        if not self.with_others:
            return np.zeros(place.shape, dtype=np.bool_)
        seed = (place_hash(series, origin) >> np.uint64(34)).astype(np.int64)
        share = np.asarray(OTHER_GAPS)[seed % len(OTHER_GAPS)]
        run = (place - origin[:, None]) // gap[:, None] + (1 << 20)  # both sides count from their edge of the gap
        drawn = place_hash(np.broadcast_to(seed[:, None] & 0xFFFFF, run.shape), run)
        return (drawn >> np.uint64(11)).astype(np.float64) / 2.0**53 < share[:, None]


def place_hash(series: Ints, place: Ints) -> NDArray[np.uint64]:
    """A well-mixed number for every place of every series, the same everywhere (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = (series.astype(np.uint64) << np.uint64(40)) + place.astype(np.uint64) + np.uint64(1)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def cut(
    frame: SeriesFrame,
    split: Split,
    block: Block,
    *,
    context_length: int,
    prediction_length: int,
    stride: int = 1,
    max_windows: int | None = None,
    around: Callable[[Ints], Around] | None = None,
) -> Windows:
    """Every window whose whole target lies in the block and that has `split.min_context` points of history.

    `prediction_length` may be below the split's. Origins of series that share a clock fall on common timestamps, the
    last one on the block's end. With `max_windows` the stride grows until they fit; where even one per series is too
    many, the windows are thinned evenly. With `around` the targets fill gaps; it is given the block's ends, since no
    later block may be seen behind them.
    """
    first = split.first_origins(block)
    last = split.block(block)[1] - prediction_length
    used = stride
    if max_windows is not None:
        used = _stride_for(first, last, stride=stride, max_windows=max_windows)
    series, origin = _origins(split, first, last, stride=used)
    if max_windows is not None and len(series) > max_windows:
        kept = np.linspace(0, len(series) - 1, max_windows).round().astype(np.int64)
        series, origin = series[kept], origin[kept]
    windows = Windows(
        frame=frame,
        series=series,
        origin=origin,
        context_length=context_length,
        prediction_length=prediction_length,
        stride=used,
        num_dropped=0,
        around=None if around is None else around(split.block(block)[1]),
    )
    return _drop_unobserved(windows)


def tail(frame: SeriesFrame, *, context_length: int) -> WindowBatch:
    """One context per series, ending at its last point; the target is empty and `origin` is the series' length."""
    every = np.arange(len(frame), dtype=np.int64)
    return gather(frame, every, frame.lengths, context_length=context_length, prediction_length=0)


def gather(
    frame: SeriesFrame,
    series: Ints,
    origin: Ints,
    *,
    context_length: int,
    prediction_length: int,
    around: Around | None = None,
) -> WindowBatch:
    """Cut and scale the windows named by `series` and `origin`."""
    raw = _take(frame, series, origin, before=context_length, after=prediction_length)
    if around is not None:
        return _gather_around(frame, raw, series, origin, around, context_length=context_length)
    context, target = raw[:, :context_length], raw[:, context_length:]
    loc, scale = _location_and_scale(context)
    with np.errstate(over="ignore"):
        scaled = np.clip((raw - loc[:, None]) / scale[:, None], -_BOUND, _BOUND).astype(np.float32)
    return WindowBatch(
        context=np.ascontiguousarray(scaled[:, :context_length]),
        target=np.ascontiguousarray(scaled[:, context_length : context_length + target.shape[1]]),
        loc=loc,
        scale=scale,
        series=series,
        origin=origin,
    )


def _gather_around(
    frame: SeriesFrame,
    raw: NDArray[np.float64],
    series: Ints,
    origin: Ints,
    around: Around,
    *,
    context_length: int,
    gap: Ints | None = None,
) -> WindowBatch:
    """Windows around gaps; `raw` [B, context + H]."""
    gap = around.gaps(series, origin, raw.shape[1] - context_length) if gap is None else gap
    end = origin + gap
    behind = _take(frame, series, end, before=0, after=around.length)
    after = end[:, None] + np.arange(around.length)[None, :]
    before = origin[:, None] + np.arange(-context_length, 0)[None, :]
    behind = np.where(after >= around.limits[series][:, None], np.nan, behind)
    sides = np.concatenate([raw[:, :context_length], behind], axis=1)
    others = around.others(series, origin, gap, np.concatenate([before, after], axis=1))
    others &= (~np.isnan(sides) & ~others).any(axis=1)[:, None]  # where nothing would be left to see, all is
    sides = np.where(others, np.nan, sides)
    context, behind = sides[:, :context_length], sides[:, context_length:]
    target = _first(raw[:, context_length:], gap)
    loc, scale = _location_and_scale(sides)

    def scaled(x: NDArray[np.float64]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            return np.clip((x - loc[:, None]) / scale[:, None], -_BOUND, _BOUND).astype(np.float32)

    return WindowBatch(
        context=scaled(context),
        target=scaled(target),
        loc=loc,
        scale=scale,
        series=series,
        origin=origin,
        after=scaled(behind),
        gap=gap,
        period=around.period,
    )


def gaps_at(
    frame: SeriesFrame,
    series: Ints,
    origin: Ints,
    gap: Ints,
    *,
    context_length: int,
    prediction_length: int,
    after_length: int,
    period: int,
) -> WindowBatch:
    """Windows around given gaps [B], none of them longer than `prediction_length`."""
    raw = _take(frame, series, origin, before=context_length, after=prediction_length)
    around = Around(length=after_length, limits=frame.lengths, period=period)
    return _gather_around(frame, raw, series, origin, around, context_length=context_length, gap=gap)


def _first(raw: NDArray[np.float64], count: Ints) -> NDArray[np.float64]:
    """The first `count` [B] columns of `raw` [B, H]; NaN behind them."""
    return np.where(np.arange(raw.shape[1])[None, :] < count[:, None], raw, np.nan)


def _location_and_scale(context: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """([B], [B]) mean and standard deviation of the observed points of each row."""
    observed = ~np.isnan(context)
    count = np.maximum(observed.sum(axis=1), 1)
    loc = np.where(observed, context, 0.0).sum(axis=1) / count
    centred = np.where(observed, context - loc[:, None], 0.0)
    # A second pass takes out the rounding of the first: a level of 1e12 with a noise of 1 keeps its mean.
    correction = centred.sum(axis=1) / count
    loc = loc + correction
    centred = np.where(observed, centred - correction[:, None], 0.0)
    scale = np.sqrt(np.square(centred).sum(axis=1) / count)
    low = np.min(np.where(observed, context, np.inf), axis=1, initial=np.inf)
    high = np.max(np.where(observed, context, -np.inf), axis=1, initial=-np.inf)
    floor = _FLAT * np.maximum(np.abs(low), np.abs(high))
    constant = low >= high
    loc = np.where(low == high, low, loc)
    return loc, np.where(constant, 1.0, np.maximum(scale, np.where(constant, 1.0, floor)))


def _take(frame: SeriesFrame, series: Ints, origin: Ints, *, before: int, after: int) -> NDArray[np.float64]:
    """[B, before + after] raw values around each origin; NaN outside the series."""
    relative = origin[:, None] + np.arange(-before, after, dtype=np.int64)[None, :]
    inside = (relative >= 0) & (relative < frame.lengths[series][:, None])
    absolute = np.where(inside, relative + frame.offsets[series][:, None], 0)
    if not len(frame.values):
        return np.full(relative.shape, np.nan)
    return np.where(inside, frame.values[absolute], np.nan)


def _stride_for(first: Ints, last: Ints, *, stride: int, max_windows: int) -> int:
    """The smallest stride ≥ the asked one that leaves at most `max_windows`, or the largest that still matters."""
    room = np.maximum(last - first + 1, 0)

    def total(step: int) -> int:
        return int(np.ceil(room / step).sum())

    low, high = stride, max(int(room.max(initial=1)), stride)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if total(middle) <= max_windows else (middle + 1, high)
    return low


def _origins(split: Split, first: Ints, last: Ints, *, stride: int) -> tuple[Ints, Ints]:
    """(series [W], origin [W]) of every origin in [first, last] that falls on its group's stride."""
    reach = np.full(int(split.group.max(initial=0)) + 1, np.iinfo(np.int64).min)
    np.maximum.at(reach, split.group, split.clock + last)
    phase = np.mod(reach[split.group] - split.clock - first, stride)
    begin = first + phase
    count = np.where(last >= begin, (last - begin) // stride + 1, 0)
    # A series with room but no common origin (it ended early) still gives its last one.
    stranded = (count == 0) & (last >= first)
    begin, count = np.where(stranded, last, begin), np.where(stranded, 1, count)
    series = np.repeat(np.arange(len(first), dtype=np.int64), count)
    within = np.arange(len(series), dtype=np.int64) - np.repeat(np.cumsum(count) - count, count)
    return series, begin[series] + within * stride


def _drop_unobserved(windows: Windows) -> Windows:
    frame = windows.frame
    observed = np.concatenate([[0], np.cumsum(~np.isnan(frame.values))])
    at = frame.offsets[windows.series] + windows.origin
    back = np.maximum(at - windows.context_length, frame.offsets[windows.series])
    has_target = observed[at + windows.prediction_length] > observed[at]
    kept = has_target & (observed[at] > observed[back])
    if kept.all():
        return windows
    return replace(
        windows,
        series=windows.series[kept],
        origin=windows.origin[kept],
        num_dropped=int((~kept).sum()),
    )
