"""From a request about series to its answer: the road that forecasts, backtests, anomalies and imputations share."""

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app.auth.dependencies import authenticate
from app.auth.keys import Principal
from app.errors import responses
from app.forecasts.ran import CLIENT_CLOSED_REQUEST, CallerGone, Gone
from app.forecasts.service import ForecastService

T = TypeVar("T")
Asked = TypeVar("Asked")
Read = TypeVar("Read", covariant=True)
SMALL_BODY_BYTES = 256 * 1024
SMALL_ANSWER_VALUES = 20_000
"""Beyond these, reading and writing take long enough to hold up every other request: they go to a thread."""
CSV_TYPE = "text/csv"


class Result(Protocol):
    @property
    def num_values(self) -> int:
        """How many numbers the answer holds, about."""
        ...


Found = TypeVar("Found", bound=Result)


class Parse(Protocol[Read]):
    def __call__(self, request: Request, body: bytes, /, *, max_series: int) -> Read: ...


class DirectRoute(APIRoute):
    """Its endpoint takes the request and answers a response: there is nothing for the framework to resolve."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def described(model: type[BaseModel], text: str, *, csv: bool = True) -> dict[int | str, dict[str, Any]]:
    """The answers of such a route for the OpenAPI schema: `model` (or `csv`) on success, and what may go wrong."""
    success: dict[str, Any] = {"model": model, "description": text}
    if csv:
        success["content"] = {CSV_TYPE: {"schema": {"type": "string"}}}
    return {200: success, **responses(404, 409, 413, 415, 429, 503)}


async def answered(
    request: Request,
    *,
    parse: Parse[Asked],
    ask: Callable[[ForecastService, Principal, Asked, Gone], Awaitable[Found]],
    to_json: Callable[[Found], bytes],
    to_csv: Callable[[Found], bytes] | None = None,
) -> Response:
    """Who asks, what, and the answer in the form that `Accept` names; an empty 499 when nobody waits any more.

    Raises what `parse` and `ask` raise, and 401 or 403 for a key that may not ask.
    """
    principal = await authenticate(request, "forecast")
    state = request.app.state
    body = await request.body()
    read = partial(parse, request, body, max_series=state.services.settings.max_forecast_series)
    is_packed = "content-encoding" in request.headers  # a small body may then hold a large one
    asked = await _done(read, is_small=len(body) <= SMALL_BODY_BYTES and not is_packed)
    try:
        found = await ask(state.forecasts, principal, asked, request.is_disconnected)
    except CallerGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    media_type, write = "application/json", to_json
    if to_csv is not None and request.headers.get("accept", "").startswith(CSV_TYPE):
        media_type, write = f"{CSV_TYPE}; charset=utf-8", to_csv
    content = await _done(partial(write, found), is_small=found.num_values <= SMALL_ANSWER_VALUES)
    return Response(content, media_type=media_type)


async def _done(work: Callable[[], T], *, is_small: bool) -> T:
    return work() if is_small else await run_in_threadpool(work)
