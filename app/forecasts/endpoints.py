"""`POST /v1/forecast`. The route reads its own bytes: the body is parsed once, in one pass, and no model is rebuilt
from it (stack.md §6: this form costs a fifth of the usual one)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request, Response

from app.auth.keys import Principal
from app.forecasts.answering import DirectRoute, answered, described
from app.forecasts.parse import ForecastRequest, parse_request
from app.forecasts.ran import Gone
from app.forecasts.respond import ForecastResult, to_csv, to_json
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


router = APIRouter(tags=["forecast"], lifespan=_lifespan, route_class=DirectRoute)


@router.post(
    "/forecast",
    responses=described(ForecastOut, "One forecast per series, in the order of the history."),
    openapi_extra=openapi_extra(ForecastIn, CSV_PARAMETERS),
    summary="Forecast series",
)
async def forecast(request: Request) -> Response:
    """With a tuned model, a backbone (zero-shot) or a rival.

    The history is inline (`series`), the body itself (CSV or Parquet; the other fields as query parameters), an
    uploaded `file`, or nothing: then a tuned model continues its own training file. `Accept: text/csv` answers CSV.
    """
    return await answered(request, parse=parse_request, ask=_ask, to_json=to_json, to_csv=to_csv)


async def _ask(forecasts: ForecastService, principal: Principal, asked: ForecastRequest, _gone: Gone) -> ForecastResult:
    """Work of one pass or a few: it is not asked between them whether somebody still waits."""
    return await forecasts.forecast(principal, asked)
