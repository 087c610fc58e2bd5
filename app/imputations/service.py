"""Imputation from request to numbers: what answers, the series, then the forecasts engine."""

from dataclasses import dataclass

from app.auth.keys import Principal
from app.forecasts.levels import Levels
from app.forecasts.ran import Gone, Whole
from app.forecasts.service import ForecastService
from app.imputations.parse import ImputationRequest
from tsfm.filled import Filled


@dataclass(frozen=True, slots=True, kw_only=True)
class ImputationResult(Whole[Filled]):
    levels: Levels


async def fill(
    forecasts: ForecastService, principal: Principal, request: ImputationRequest, gone: Gone
) -> ImputationResult:
    """Raises `ApiError`, a core error, or `CallerGone` once `gone` says so; see the statuses of the route."""
    levels = request.levels
    found = await forecasts.whole(
        principal,
        request.ask,
        "imputation",
        lambda engine, source, frame: engine.fill(source, frame, levels.floats, request.long_gaps, gone=gone),
        levels=levels,
    )
    return ImputationResult(target=found.target, frame=found.frame, ran=found.ran, notes=found.notes, levels=levels)
