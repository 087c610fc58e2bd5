"""Anomaly scores from request to numbers: what answers, the series, then the forecasts engine."""

from app.anomalies.parse import AnomalyRequest
from app.auth.keys import Principal
from app.forecasts.ran import Gone, Whole
from app.forecasts.service import ForecastService
from tsfm.scores import Anomalies

AnomalyResult = Whole[Anomalies]


async def detect(
    forecasts: ForecastService, principal: Principal, request: AnomalyRequest, gone: Gone
) -> AnomalyResult:
    """Raises `ApiError`, a core error, or `CallerGone` once `gone` says so; see the statuses of the route."""
    return await forecasts.whole(
        principal,
        request.ask,
        "anomaly_detection",
        lambda engine, source, frame: engine.detect(source, frame, request.scoring, gone=gone),
        steps=request.scoring.prediction_length,
    )
