"""`POST /v1/anomalies`: how unlikely each point is."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.anomalies.parse import parse_request
from app.anomalies.respond import to_csv, to_json
from app.anomalies.schemas import PARAMETERS, AnomaliesOut, AnomalyIn
from app.anomalies.service import AnomalyService
from app.auth.dependencies import authenticate
from app.errors import responses
from app.forecasts.ran import CLIENT_CLOSED_REQUEST, CallerGone
from app.forecasts.schemas import openapi_extra

router = APIRouter(tags=["anomalies"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": AnomaliesOut,
        "description": "The scored points of every series, oldest first.",
        "content": {"text/csv": {"schema": {"type": "string"}}},
    },
    **responses(404, 409, 413, 415, 429, 503),
}


@router.post(
    "/anomalies",
    responses=_ANSWERS,
    openapi_extra=openapi_extra(AnomalyIn, PARAMETERS),
    summary="Score the points of series",
)
async def anomalies(request: Request) -> Response:
    """With a model tuned for anomaly_detection, a backbone (zero-shot) or a rival.

    The series are given as for `/forecast`; with neither a tuned model scores its own training file. A score above 1.0
    is an anomaly. What is normal is what the model's job calibrated, else the history that is given: all of it, or with
    `detection_size` what comes before the newest points. `Accept: text/csv` answers CSV.
    """
    principal = await authenticate(request, "forecast")
    settings = request.app.state.services.settings
    service = AnomalyService(request.app.state.forecasts, settings)
    body = await request.body()
    asked = await run_in_threadpool(partial(parse_request, request, body, max_series=settings.max_forecast_series))
    try:
        result = await service.detect(principal, asked, gone=request.is_disconnected)
    except CallerGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    if request.headers.get("accept", "").startswith("text/csv"):
        return Response(await run_in_threadpool(to_csv, result), media_type="text/csv; charset=utf-8")
    return Response(await run_in_threadpool(to_json, result), media_type="application/json")
