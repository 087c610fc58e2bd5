"""Rolling-origin evaluation of candidates, and the sentence that says which one won.

Validation decides; test is read here once, for the report and the verdict, after everything was chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tsfm import rivals
from tsfm.catalog import RIVALS
from tsfm.errors import Cancelled
from tsfm.metrics import Errors, Scales
from tsfm.series.windows import Windows
from tsfm.tasks.forecast import BATCH_SIZE, RivalSource, Source

TUNED, ZERO_SHOT = "tuned", "zero_shot"


def never_stop() -> str | None:
    """A `should_stop` that lets everything run."""
    return None


def score(
    source: Source, windows: Windows, scales: Scales, *, should_stop: Callable[[], str | None] = never_stop
) -> dict[str, Any]:
    """Metrics (tsfm.metrics) of a source on windows, in the user's units; `Cancelled` within one batch of a stop."""
    errors = Errors(scales, levels=source.levels)
    for begin in range(0, len(windows), BATCH_SIZE):
        if reason := should_stop():
            raise Cancelled(f"Stopped while evaluating: {reason}.", code=reason)
        indices = np.arange(begin, min(begin + BATCH_SIZE, len(windows)))
        batch = windows.batch(indices)
        answer = source(batch, windows.prediction_length)
        errors.add(batch.series, windows.raw_target(indices), answer.point, answer.quantiles)
    return errors.result()


def score_rival(name: str, windows: Windows, scales: Scales, *, period: int) -> dict[str, Any]:
    """A rival sees as much history as it can use, whatever the backbone's context is."""
    needed = rivals.history_needed(name, context_length=windows.context_length, period=period)
    return score(RivalSource(name, period=period), replace(windows, context_length=needed), scales)


def judge_rivals(
    validation: Windows, test: Windows | None, scales: Scales, *, metric: str, periods: Sequence[int]
) -> list[dict[str, Any]]:
    """One candidate per rival; `seasonal_naive` at the listed period that is best on validation, and says which."""
    candidates = []
    for name in RIVALS:
        tried = periods if name == "seasonal_naive" else (1,)
        scored = {p: score_rival(name, validation, scales, period=p) for p in tried}
        best = min(scored, key=lambda p: scored[p].get(metric, np.inf))
        candidate: dict[str, Any] = {
            "name": name,
            "validation": scored[best],
            "test": None if test is None else score_rival(name, test, scales, period=best),
        }
        if name == "seasonal_naive":
            candidate["period"] = best
        candidates.append(candidate)
    return candidates


def verdict(candidates: Sequence[Mapping[str, Any]], *, metric: str, method: str) -> dict[str, Any]:
    """Promoted iff the tuned model's test error is strictly below zero-shot's and every rival's.

    `winner` has the lowest test error (validation error where there are no test windows; then nothing is promoted).
    `fallback` is what a bare model name serves instead: zero-shot where it was not beaten, else the best rival that
    was not; None when promoted, or when nothing was judged.
    """
    judged = all(c["test"] is not None and metric in c["test"] for c in candidates)
    block = "test" if judged else "validation"
    errors = {c["name"]: float((c[block] or {}).get(metric, np.inf)) for c in candidates}
    tuned = errors[TUNED]
    winner = min(errors, key=lambda name: (errors[name], name == TUNED))
    num_windows = next(int(c["test"]["num_windows"]) for c in candidates if c["name"] == TUNED) if judged else 0
    unbeaten = [name for name in (ZERO_SHOT, *RIVALS) if not tuned < errors[name]]
    promoted = judged and not unbeaten
    fallback = None
    if judged and unbeaten:
        fallback = ZERO_SHOT if ZERO_SHOT in unbeaten else min(unbeaten, key=lambda name: errors[name])
    if not judged:
        reason = f"There are no test windows, so nothing was judged; {metric} on validation: {_listed(errors)}."
    elif promoted:
        reason = f"{metric} on {num_windows} test windows: {_listed(errors)}; the tuned model is below all of them."
    elif method == ZERO_SHOT:
        reason = f"Nothing was trained. {metric} on {num_windows} test windows: {_listed(errors)}."
    else:
        reason = (
            f"{metric} on {num_windows} test windows: {_listed(errors)}; the tuned model did not beat "
            f"{', '.join(unbeaten)}, so {fallback} is served."
        )
    return {
        "metric": metric,
        "winner": winner,
        "promoted": promoted,
        "fallback": fallback,
        "reason": reason,
        "test_windows": num_windows,
    }


def _listed(errors: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in errors.items())
