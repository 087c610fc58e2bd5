"""Several series as the variables of one system: one score a moment, and each variable's part in it.

The aggregate of a moment is the root mean square of its variables' scores (each in units of its own null), over those
that were observed; it is calibrated as such (evaluation.md §11), since parts that move together are no independent
evidence. A variable's contribution is its share of the sum of squares. Shapes: V variables, n moments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tsfm import null
from tsfm.errors import ConfigError, SeriesTooShort
from tsfm.null import Null
from tsfm.series.frame import SeriesFrame
from tsfm.series.windows import place_hash

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """[n] each, of the asked moments."""

    names: tuple[str, ...]
    first: int
    """Index of the first moment in every series."""
    p_values: Floats
    scores: Floats
    """1.0 is the line."""
    severity: Floats
    contributions: Floats
    """[V, n], adding up to 1; 0 where a variable is missing, NaN where all are."""
    num_scores: int
    calibrated: bool
    extrapolated: bool


def check_clock(frame: SeriesFrame, skipped: Sequence[int]) -> None:
    """That all series begin and end together; `ConfigError` says which do not."""
    if len(frame) < 2:
        raise ConfigError("multivariate needs two series or more.", param="multivariate")
    lengths, starts = frame.lengths, frame.starts
    apart = [frame.item_ids[i] for i in range(len(frame)) if (starts[i], lengths[i]) != (starts[0], lengths[0])]
    if apart or skipped:
        named = ", ".join(apart[:5]) or "too short ones"
        raise ConfigError(
            f"multivariate needs series that begin and end together; {named} do not: send a wide file, or cut them.",
            param="multivariate",
        )


def aggregate(scores: Floats) -> Floats:
    """[V, n] → [n] root mean square over the observed variables; NaN where there is none."""
    known = ~np.isnan(scores)
    count = known.sum(axis=0)
    total = np.where(known, np.square(np.where(known, scores, 0.0)), 0.0).sum(axis=0)
    return np.where(count > 0, np.sqrt(total / np.maximum(count, 1)), np.nan)


def score(
    parts: Sequence[tuple[int, Floats]], *, first: int, stored: Null | None, level: float, names: tuple[str, ...]
) -> Joint:
    """From each variable's (first scored index, scores in units); `first` is the first asked moment.

    Without a `stored` null the moments before `first` are it, or all where all are asked.
    """
    scores = np.stack([units for _, units in parts])
    whole = aggregate(scores)
    asked = first - parts[0][0]
    known = stored or null.fitted(whole[: asked or None, None])
    if known is None:
        have, need = int((~np.isnan(whole[: asked or None])).sum()), null.MIN_SCORES
        raise SeriesTooShort(
            f"{have} moments of history are too few to say what is normal of all series together; {need} are needed.",
            have=have,
            need=need,
            param="multivariate",
        )
    units = known.in_units(whole[asked:], np.zeros(len(whole) - asked, dtype=np.int64))
    uniform = null.uniforms(place_hash(np.ones(len(units), dtype=np.int64), first + np.arange(len(units))))
    p = known.p_values(units, uniform, level=level)
    line = known.threshold(level)
    squares = np.square(np.nan_to_num(scores[:, asked:]))
    total = squares.sum(axis=0)
    observed = ~np.isnan(scores[:, asked:])
    equal = observed / np.maximum(observed.sum(axis=0), 1)
    shares = np.where(total > 0, squares / np.where(total > 0, total, 1.0), equal)
    with np.errstate(divide="ignore", invalid="ignore"):
        severity = np.where(line > 0, units / line, np.where(units > 0, np.inf, 0.0))
    return Joint(
        names=names,
        first=first,
        p_values=p,
        scores=null.shown_scores(p, level=level),
        severity=np.where(np.isnan(units), np.nan, severity),
        contributions=np.where(np.isnan(units), np.nan, shares),
        num_scores=known.num_scores,
        calibrated=stored is not None,
        extrapolated=not known.resolves(level),
    )
