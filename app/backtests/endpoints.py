"""`POST /v1/backtests`: how a model would have done on history that is sent."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from app.auth.dependencies import authenticate
from app.backtests.parse import parse_request
from app.backtests.respond import to_json
from app.backtests.schemas import OWN_PARAMETERS, BacktestIn, BacktestOut
from app.backtests.service import BacktestService
from app.errors import responses
from app.forecasts.ran import CLIENT_CLOSED_REQUEST, CallerGone
from app.forecasts.schemas import CSV_PARAMETERS, openapi_extra

router = APIRouter(tags=["forecast"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": BacktestOut, "description": "The model's errors, then the rivals'."},
    **responses(404, 409, 413, 415, 429, 503),
}


@router.post(
    "/backtests",
    responses=_ANSWERS,
    openapi_extra=openapi_extra(BacktestIn, {**CSV_PARAMETERS, **OWN_PARAMETERS}),
    summary="Evaluate a model on history",
)
async def backtest(request: Request) -> Response:
    """Rolling origins: at each cut-off the model forecasts what came next, knowing nothing of it.

    The history is given as for `/forecast`. Errors stand per window, per series and for all, beside the plain rivals'.
    `mase` and `rmsse` are divided by the seasonal differences before a series' first cut-off.
    """
    principal = await authenticate(request, "forecast")
    settings = request.app.state.services.settings
    service = BacktestService(request.app.state.forecasts, settings)
    body = await request.body()
    asked = await run_in_threadpool(partial(parse_request, request, body, max_series=settings.max_forecast_series))
    try:
        found = await service.backtest(principal, asked, gone=request.is_disconnected)
    except CallerGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return Response(await run_in_threadpool(to_json, found), media_type="application/json")
