"""`POST /v1/forecast`. The route reads its own bytes: the body is parsed once, in one pass, and no model is rebuilt
from it (stack.md §6: this form costs a fifth of the usual one)."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from app.auth.dependencies import authenticate
from app.errors import responses
from app.forecasts.parse import parse_request
from app.forecasts.respond import to_csv, to_json
from app.forecasts.schemas import CSV_PARAMETERS, ForecastIn, ForecastOut, openapi_extra
from app.forecasts.service import ForecastService
from app.registry.state import registry_state


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Runs once although the router is mounted twice; the application's services are up by then."""
    if getattr(app.state, "forecasts", None) is not None:
        yield
        return
    service = ForecastService(app.state.services, registry_state(app))
    app.state.forecasts = service
    service.start()
    try:
        yield
    finally:
        app.state.forecasts = None
        await service.close()


SMALL_BODY_BYTES = 256 * 1024
SMALL_ANSWER_VALUES = 20_000
"""Beyond these, reading and writing take long enough to hold up every other request: they go to a thread."""


class _Direct(APIRoute):
    """Its endpoint takes the request and answers a response: there is nothing for the framework to resolve."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


router = APIRouter(tags=["forecast"], lifespan=_lifespan, route_class=_Direct)

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ForecastOut,
        "description": "One forecast per series, in the order of the history.",
        "content": {"text/csv": {"schema": {"type": "string"}}},
    },
    **responses(404, 409, 413, 415, 429, 503),
}


@router.post(
    "/forecast",
    responses=_ANSWERS,
    openapi_extra=openapi_extra(ForecastIn, CSV_PARAMETERS),
    summary="Forecast series",
)
async def forecast(request: Request) -> Response:
    """With a tuned model, a backbone (zero-shot) or a rival.

    The history is inline (`series`), the body itself (CSV or Parquet; the other fields as query parameters), an
    uploaded `file`, or nothing: then a tuned model continues its own training file. `Accept: text/csv` answers CSV.
    """
    principal = await authenticate(request, "forecast")
    service: ForecastService = request.app.state.forecasts
    max_series = request.app.state.services.settings.max_forecast_series
    body = await request.body()
    parse = partial(parse_request, request, body, max_series=max_series)
    asked = parse() if len(body) <= SMALL_BODY_BYTES else await run_in_threadpool(parse)
    result = await service.forecast(principal, asked)
    if request.headers.get("accept", "").startswith("text/csv"):
        media_type, write = "text/csv; charset=utf-8", partial(to_csv, result.frame, result.levels, result.numbers)
    else:
        media_type = "application/json"
        write = partial(to_json, result.target, result.frame, result.levels, result.numbers)
    content = write() if result.num_values <= SMALL_ANSWER_VALUES else await run_in_threadpool(write)
    return Response(content, media_type=media_type)
