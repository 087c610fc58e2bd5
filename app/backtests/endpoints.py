"""`POST /v1/backtests`: how a model would have done on history that is sent."""

from fastapi import APIRouter, Request, Response

from app.auth.keys import Principal
from app.backtests.parse import BacktestRequest, parse_request
from app.backtests.respond import to_json
from app.backtests.schemas import OWN_PARAMETERS, BacktestIn, BacktestOut
from app.backtests.service import BacktestResult, BacktestService
from app.forecasts.answering import DirectRoute, answered, described
from app.forecasts.ran import Gone
from app.forecasts.schemas import CSV_PARAMETERS, openapi_extra
from app.forecasts.service import ForecastService

router = APIRouter(tags=["forecast"], route_class=DirectRoute)


@router.post(
    "/backtests",
    responses=described(BacktestOut, "The model's errors, then the rivals'.", csv=False),
    openapi_extra=openapi_extra(BacktestIn, {**CSV_PARAMETERS, **OWN_PARAMETERS}),
    summary="Evaluate a model on history",
)
async def backtest(request: Request) -> Response:
    """Rolling origins: at each cut-off the model forecasts what came next, knowing nothing of it.

    The history is given as for `/forecast`. Errors stand per window, per series and for all, beside the plain rivals'.
    `mase` and `rmsse` are divided by the seasonal differences before a series' first cut-off.
    """
    settings = request.app.state.services.settings

    async def ask(
        forecasts: ForecastService, principal: Principal, asked: BacktestRequest, gone: Gone
    ) -> BacktestResult:
        return await BacktestService(forecasts, settings).backtest(principal, asked, gone=gone)

    return await answered(request, parse=parse_request, ask=ask, to_json=to_json)
