"""Nulls of a job's sources, from its calibration block, and how often test is called an anomaly by them (tsfm.null).

Nothing is chosen here. Reconstruction has two nulls: of blocks seen from both sides, and of the last one of a history,
behind which there is nothing yet.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsfm import null
from tsfm.errors import Cancelled
from tsfm.evaluate import Asked, never_stop
from tsfm.gate_verdict import FalseAlarms
from tsfm.joint import aggregate
from tsfm.null import EDGE, TOGETHER, Null, Raw, raw_scores
from tsfm.series.windows import Around, WindowBatch, Windows, place_hash
from tsfm.tasks.forecast import BATCH_SIZE, Answer, Source

Floats = NDArray[np.float64]
LEVELS = (90.0, 99.0)
"""At which false alarms are counted; the gate asks about the last one."""


def raw_of(source: Source, batch: WindowBatch, values: Floats) -> Raw:
    """Raw scores of `values` [B, H], which are `batch`'s targets in the user's units."""
    answer = source(batch, values.shape[1])
    return raw_scores(values, answer.point, _band(answer), batch.scale, _constant(batch))


def _band(answer: Answer) -> tuple[Floats, Floats] | None:
    if answer.quantiles is None:
        return None
    return answer.quantiles[:, 0], answer.quantiles[:, -1]


def _constant(batch: WindowBatch) -> Floats:
    """[B] the value where all that is shown is one value, which scaling has put at 0; NaN elsewhere."""
    seen = batch.context if batch.after is None else np.concatenate([batch.context, batch.after], axis=1)
    known = ~np.isnan(seen)
    is_constant = known.any(axis=1) & (np.where(known, seen, 0.0) == 0.0).all(axis=1)
    return np.where(is_constant, batch.loc, np.nan)


def scores_on(asked: Asked, windows: Windows, *, should_stop: Callable[[], str | None] = never_stop) -> Floats:
    """[W, H] raw scores of every window's target."""
    shown = windows.showing(asked.context_length)
    found: list[Raw] = []
    for begin in range(0, len(shown), BATCH_SIZE):
        if reason := should_stop():
            raise Cancelled(f"Stopped while scoring: {reason}.", code=reason)
        indices = np.arange(begin, min(begin + BATCH_SIZE, len(shown)))
        found.append(raw_of(asked.source, shown.batch(indices), shown.raw_target(indices)))
    if not found:
        return np.empty((0, windows.prediction_length))
    whole = {f.name: np.concatenate([getattr(raw, f.name) for raw in found]) for f in fields(Raw)}
    return Raw(**whole).score


def fit_nulls(
    sources: Mapping[str, Asked], windows: Windows, *, should_stop: Callable[[], str | None] = never_stop
) -> dict[str, Null]:
    """The null of every source that has one, by name; of gaps the edge's, too."""
    nulls: dict[str, Null] = {}
    for name, asked in sources.items():
        for ending, shown in variants(windows).items():
            raw = scores_on(asked, shown, should_stop=should_stop)
            made = null.fitted(raw, num_points=_num_points(windows.frame.offsets[windows.series] + windows.origin, raw))
            if made is None:
                continue
            nulls[f"{name}{ending}"] = made
            if not ending and (joint := _together(made, raw, windows)) is not None:
                nulls[f"{name}{TOGETHER}"] = joint
    return nulls


def _together(own: Null, raw: Floats, windows: Windows) -> Null | None:
    """The null of all series as one system (tsfm.joint), over the moments that every one of them has; None where they
    share no clock."""
    frame = windows.frame
    if len(frame) < 2 or len(set(frame.starts.tolist())) > 1 or len(set(frame.lengths.tolist())) > 1:
        return None
    origins, number = np.unique(windows.origin, return_counts=True)
    whole = np.isin(windows.origin, origins[number == len(frame)])
    order = np.lexsort((windows.series[whole], windows.origin[whole]))
    scores = own.in_units(raw, np.broadcast_to(np.arange(raw.shape[1]), raw.shape))[whole][order]
    moments = scores.reshape(-1, len(frame), raw.shape[1]).swapaxes(0, 1).reshape(len(frame), -1)
    joint = aggregate(moments)
    begins = np.unique(windows.origin[whole])
    return null.fitted(joint[:, None], num_points=_num_points(begins, joint.reshape(len(begins), -1)))


def _num_points(begins: NDArray[np.int64], raw: Floats) -> int:
    """How many points the observed scores [W, H] of blocks that begin at `begins` [W] are of: blocks overlap."""
    places = begins[:, None] + np.arange(raw.shape[1])
    return len(np.unique(places[~np.isnan(raw)]))


def variants(windows: Windows) -> dict[str, Windows]:
    """The same blocks by what is shown behind them."""
    if windows.around is None:
        return {"": windows}
    return {"": windows, EDGE: replace(windows, around=at_the_edge(windows))}


def at_the_edge(windows: Windows) -> Around:
    """Nothing is behind any block."""
    assert windows.around is not None, "blocks without gaps show nothing behind them"
    return replace(windows.around, limits=np.zeros_like(windows.around.limits))


def report(
    nulls: Mapping[str, Null],
    sources: Mapping[str, Asked],
    test: Windows | None,
    *,
    should_stop: Callable[[], str | None] = never_stop,
) -> dict[str, Any]:
    """By source: how many scores its null has, and on test, which is taken to be normal, the share of points above the
    line at each of `LEVELS`, and the drift. Test holds whatever anomalies it holds: nobody labelled it."""
    facts: dict[str, Any] = {}
    for name, asked in sources.items():
        if name not in nulls:
            continue
        known = nulls[name]
        facts[name] = {
            "num_scores": known.num_scores,
            "extrapolated": [level for level in LEVELS if not known.resolves(level)],
            "false_alarms": None,
            "drift": None,
        }
        if test is not None and len(test):
            facts[name] |= _on_test(known, asked, test, should_stop)
    return facts


def _on_test(known: Null, asked: Asked, test: Windows, should_stop: Callable[[], str | None]) -> dict[str, Any]:
    raw = scores_on(asked, test, should_stop=should_stop)
    step = np.arange(raw.shape[1])
    scores = known.in_units(raw, np.broadcast_to(step, raw.shape)).ravel()
    place = place_hash(np.repeat(test.series, len(step)), (test.origin[:, None] + step).ravel())
    found = {level: known.p_values(scores, null.uniforms(place), level=level) for level in LEVELS}
    rates: dict[str, float | None] = {}
    for level, p in found.items():
        observed = p[~np.isnan(p)]
        above = null.shown_scores(observed, level=level) > 1.0
        rates[f"{level:g}"] = float(above.mean()) if len(observed) else None
    block = 2 * test.prediction_length
    errors = {f"{level:g}": null.share_below(p, 1.0 - level / 100.0, block=block)[1] for level, p in found.items()}
    return {
        "false_alarms": rates,
        "standard_errors": errors,
        "drift": null.drift(found[LEVELS[0]], block=block),
    }


def alarms_of(facts: Mapping[str, Any] | None) -> FalseAlarms | None:
    """What the gate asks about; None where nothing was counted."""
    rates = None if facts is None else facts["false_alarms"]
    level = LEVELS[-1]
    rate = None if rates is None else rates[f"{level:g}"]
    return None if rate is None else FalseAlarms(level=level, rate=rate)
