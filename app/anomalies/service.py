"""Anomaly scores from request to numbers: what answers, the series, then the forecasts engine."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.anomalies.parse import AnomalyRequest
from app.auth.keys import Principal
from app.forecasts.history import check_num_points
from app.forecasts.ran import Ran
from app.forecasts.service import ForecastService, notes_on
from app.registry.directory import Target
from app.settings import Settings
from tsfm.scores import Anomalies
from tsfm.series.frame import SeriesFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyResult:
    target: Target
    frame: SeriesFrame
    ran: Ran[Anomalies]
    notes: tuple[str, ...]


class AnomalyService:
    """Holds no state of its own: models are the forecast service's."""

    def __init__(self, forecasts: ForecastService, settings: Settings) -> None:
        self._forecasts, self._settings = forecasts, settings

    async def detect(
        self, principal: Principal, request: AnomalyRequest, *, gone: Callable[[], Awaitable[bool]]
    ) -> AnomalyResult:
        """Raises `ApiError`, a core error, or `CallerGone` once `gone` says so; see the statuses of the route."""
        target = await self._forecasts.target(principal, request.ask, "anomaly_detection")
        frame = await self._forecasts.history(principal, request.ask, target, whole=True)
        check_num_points(len(frame.values), self._settings.max_scored_points, param="series")
        ran = await self._forecasts.detect(target, frame, request.scoring, gone=gone)
        notes = (*ran.value.notes, *notes_on(target, frame))
        return AnomalyResult(target=target, frame=frame, ran=ran, notes=notes)
