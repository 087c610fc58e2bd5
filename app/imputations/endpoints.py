"""`POST /v1/imputations`: missing points, filled from both sides."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.auth.dependencies import authenticate
from app.errors import responses
from app.forecasts.ran import CLIENT_CLOSED_REQUEST, CallerGone
from app.forecasts.schemas import openapi_extra
from app.imputations.parse import parse_request
from app.imputations.respond import to_csv, to_json
from app.imputations.schemas import PARAMETERS, ImputationIn, ImputationsOut
from app.imputations.service import ImputationService

router = APIRouter(tags=["imputations"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ImputationsOut,
        "description": "Every series with its gaps filled.",
        "content": {"text/csv": {"schema": {"type": "string"}}},
    },
    **responses(404, 409, 413, 415, 429, 503),
}


@router.post(
    "/imputations",
    responses=_ANSWERS,
    openapi_extra=openapi_extra(ImputationIn, PARAMETERS),
    summary="Fill the gaps of series",
)
async def imputations(request: Request) -> Response:
    """With a model tuned for imputation, a backbone (zero-shot) or a plain fill.

    The series are given as for `/forecast`; what is missing is null in `target`, an empty cell, or a time that a file
    leaves out. Each run of missing points is filled from both of its sides, observed values stay as they are.
    `Accept: text/csv` answers CSV.
    """
    principal = await authenticate(request, "forecast")
    settings = request.app.state.services.settings
    service = ImputationService(request.app.state.forecasts, settings)
    body = await request.body()
    asked = await run_in_threadpool(partial(parse_request, request, body, max_series=settings.max_forecast_series))
    try:
        result = await service.fill(principal, asked, gone=request.is_disconnected)
    except CallerGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    if request.headers.get("accept", "").startswith("text/csv"):
        return Response(await run_in_threadpool(to_csv, result), media_type="text/csv; charset=utf-8")
    return Response(await run_in_threadpool(to_json, result), media_type="application/json")
