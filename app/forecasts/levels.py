"""Quantile levels as exact numbers: what was asked is what the answer is labelled with (0.57 stays "0.57").

A level is an integer count of 1/1,000,000, so that 95.5 % splits into 0.0225 and 0.9775 without rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import ApiError

UNITS = 1_000_000
DEFAULT_QUANTILES = (0.1, 0.5, 0.9)
MAX_LEVELS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    label: str
    """The level as asked, e.g. "80" or "95.5"."""
    lo: int
    hi: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What the answer shows: quantiles by label, and intervals; both may be empty."""

    quantiles: tuple[tuple[str, int], ...]
    intervals: tuple[Interval, ...]
    asked: bool
    """False where the caller named none and these are the defaults."""

    @property
    def units(self) -> tuple[int, ...]:
        """Every level needed, ascending, each once."""
        ends = {end for interval in self.intervals for end in (interval.lo, interval.hi)}
        return tuple(sorted({unit for _, unit in self.quantiles} | ends))

    @property
    def floats(self) -> tuple[float, ...]:
        """`units` as the numbers between 0 and 1 nearest to them."""
        return tuple(unit / UNITS for unit in self.units)


NO_LEVELS = Levels(quantiles=(), intervals=(), asked=False)


def parse_levels(quantile_levels: Sequence[float] | None, levels: Sequence[float] | None) -> Levels:
    """From the request's two fields. Duplicates are one; a level of 0 is the median as both ends."""
    if quantile_levels is None and levels is None:
        return Levels(quantiles=tuple(_quantile(q) for q in DEFAULT_QUANTILES), intervals=(), asked=False)
    for name, given in (("quantile_levels", quantile_levels), ("levels", levels)):
        if given is not None and len(given) > MAX_LEVELS:
            raise _invalid(name, f"{name} may hold {MAX_LEVELS} levels, not {len(given)}.")
    quantiles = dict(_quantile(q) for q in quantile_levels or ())
    intervals = {interval.label: interval for interval in map(_interval, levels or ())}
    return Levels(quantiles=tuple(quantiles.items()), intervals=tuple(intervals.values()), asked=True)


def _quantile(level: float) -> tuple[str, int]:
    if not 0 < level < 1:
        raise _invalid("quantile_levels", f"quantile_levels lie strictly between 0 and 1; {level:g} does not.")
    units = round(level * UNITS)
    if abs(level * UNITS - units) > 1e-4 or not 0 < units < UNITS:
        raise _invalid("quantile_levels", f"quantile_levels have at most six decimals; {level!r} has more.")
    return _label(level), units


def _interval(level: float) -> Interval:
    if not 0 <= level < 100:
        raise _invalid("levels", f"levels are per cent, from 0 to below 100; {level:g} is not.")
    thousandths = round(level * 1_000)
    if abs(level * 1_000 - thousandths) > 1e-6 or thousandths == 100_000:
        raise _invalid("levels", f"levels have at most three decimals; {level!r} has more.")
    outside = UNITS // 2 - thousandths * 5
    return Interval(label=_label(level), lo=outside, hi=UNITS - outside)


def _label(level: float) -> str:
    """The shortest decimal that is this number, without an exponent or a trailing ".0"."""
    text = f"{level:.6f}".rstrip("0").rstrip(".")
    return text or "0"


def _invalid(param: str, message: str) -> ApiError:
    return ApiError(422, "invalid_level", message, param=param)
