"""Imputation from request to numbers: what answers, the series, then the forecasts engine."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.auth.keys import Principal
from app.forecasts.history import check_num_points
from app.forecasts.levels import Levels
from app.forecasts.ran import Ran
from app.forecasts.service import ForecastService, notes_on
from app.imputations.parse import ImputationRequest
from app.registry.directory import Target
from app.settings import Settings
from tsfm.filled import Filled
from tsfm.series.frame import SeriesFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class ImputationResult:
    target: Target
    frame: SeriesFrame
    levels: Levels
    ran: Ran[Filled]
    notes: tuple[str, ...]


class ImputationService:
    """Holds no state of its own: models are the forecast service's."""

    def __init__(self, forecasts: ForecastService, settings: Settings) -> None:
        self._forecasts, self._settings = forecasts, settings

    async def fill(
        self, principal: Principal, request: ImputationRequest, *, gone: Callable[[], Awaitable[bool]]
    ) -> ImputationResult:
        """Raises `ApiError`, a core error, or `CallerGone` once `gone` says so; see the statuses of the route."""
        target = await self._forecasts.target(principal, request.ask, "imputation")
        frame = await self._forecasts.history(principal, request.ask, target, whole=True)
        check_num_points(len(frame.values), self._settings.max_scored_points, param="series")
        ran = await self._forecasts.fill(target, frame, request.levels.floats, request.long_gaps, gone=gone)
        notes = (*ran.value.notes, *notes_on(target, frame))
        return ImputationResult(target=target, frame=frame, levels=request.levels, ran=ran, notes=notes)
