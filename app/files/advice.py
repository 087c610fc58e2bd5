"""What a caller can do next with a file: which backbones fit, and request bodies that work as they stand."""

from collections.abc import Mapping
from typing import Any

from app.files.schemas import BackboneFit, NextRequest, NextRequests
from tsfm import catalog
from tsfm.series import freq as frequencies
from tsfm.series import split

DEFAULT_HORIZON = 12
MAX_SUGGESTED_HORIZON = 96


def backbones_for(reading: Mapping[str, Any]) -> list[BackboneFit]:
    """Every backbone with the longest horizon it can be fine-tuned for on this file (0: none)."""
    return [_fit(spec, reading) for spec in catalog.BACKBONES.values()]


def _fit(spec: catalog.BackboneSpec, reading: Mapping[str, Any]) -> BackboneFit:
    have = int(reading["max_length"])
    longest = min(spec.max_prediction_length, max(have // 5, 1))
    while longest > 0 and _need(spec, reading, longest) > have:
        longest -= 1
    need = _need(spec, reading, 1)
    reason = None if longest else f"The longest series has {have} points; {spec.name} needs {need} even for one step."
    return BackboneFit(
        model=spec.name, fits=longest > 0, max_prediction_length=longest, have=have, need=need, reason=reason
    )


def _need(spec: catalog.BackboneSpec, reading: Mapping[str, Any], prediction_length: int) -> int:
    """Points the longest series must have for a job with its defaults (evaluation.md §1)."""
    context_length = split.fitting_context_length(
        int(reading["max_length"]),
        limit=spec.context_length,
        prediction_length=prediction_length,
        patch_length=spec.patch_length,
    )
    return split.needed(
        context_length,
        prediction_length,
        patch_length=spec.patch_length,
        season=frequencies.parse(str(reading["freq"])).season,
    )


def next_requests(file_id: str, reading: Mapping[str, Any], fits: list[BackboneFit]) -> NextRequests:
    """A job and a zero-shot forecast for the first backbone that fits; null where none does."""
    best = next((fit for fit in fits if fit.fits), None)
    season = frequencies.parse(str(reading["freq"])).season
    horizon = min(season if season > 1 else DEFAULT_HORIZON, MAX_SUGGESTED_HORIZON)
    job = None
    if best is not None:
        length = min(horizon, best.max_prediction_length)
        body = {"training_file": file_id, "prediction_length": length, "model": best.model}
        job = NextRequest(method="POST", path="/v1/jobs", body=body)
    model = best.model if best is not None else "seasonal_naive"
    forecast = {"model": model, "file": file_id, "prediction_length": horizon}
    return NextRequests(job=job, forecast=NextRequest(method="POST", path="/v1/forecast", body=forecast))
