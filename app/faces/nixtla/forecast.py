"""`/v2/forecast`, onto `ForecastService.forecast`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from fastapi import Request
from numpy.typing import NDArray

from app.auth.keys import Principal
from app.faces.nixtla.names import served_name
from app.faces.nixtla.schemas import AskIn, ForecastIn, Level
from app.faces.nixtla.series import Clock, client_version, clock_of, history_of
from app.faces.nixtla.transport import read_wire
from app.forecasts.levels import NO_LEVELS, Levels, parse_levels
from app.forecasts.parse import Ask, ForecastRequest
from app.forecasts.ran import Gone
from app.forecasts.respond import ForecastResult, slim
from app.forecasts.service import ForecastService
from app.registry.directory import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastAsked:
    sent: ForecastIn
    clock: Clock
    request: ForecastRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastFound:
    asked: ForecastAsked
    result: ForecastResult

    @property
    def num_values(self) -> int:
        return self.result.num_values


def parse(request: Request, body: bytes, *, max_series: int) -> ForecastAsked:
    sent = read_wire(ForecastIn, request, body)
    clock, ask = asked_of(request, sent, max_series=max_series)
    return ForecastAsked(
        sent=sent,
        clock=clock,
        request=ForecastRequest(
            model=ask.model,
            history=ask.history,
            item_ids=None,
            prediction_length=sent.h,
            levels=levels_of(sent.level),
        ),
    )


def asked_of(request: Request, sent: AskIn, *, max_series: int) -> tuple[Clock, Ask]:
    """The clock and the history of any question; its `model` is as sent, until `served_name` says what it means."""
    has_times = sent.series.start_datetime is not None
    clock = clock_of(sent.freq, client_version=client_version(request), has_times=has_times)
    history = history_of(sent.series, clock, max_series=max_series)
    return clock, Ask(model=sent.model, history=history, item_ids=None)


def levels_of(level: Sequence[Level] | None) -> Levels:
    """No quantile is computed that nobody asked for."""
    return parse_levels(None, [float(one) for one in level]) if level else NO_LEVELS


async def ask(
    request: Request, forecasts: ForecastService, principal: Principal, asked: ForecastAsked, _gone: Gone
) -> ForecastFound:
    sent = asked.sent
    name = await served_name(request, principal, model=sent.model, finetuned_model_id=sent.finetuned_model_id)
    result = await forecasts.forecast(principal, replace(asked.request, model=name))
    return ForecastFound(asked=asked, result=result)


def to_json(found: ForecastFound) -> bytes:
    """`mean` and each bound are all series end to end; NaN (nothing can be said) becomes null."""
    result, asked = found.result, found.asked
    numbers = result.numbers
    point, quantiles = slim(result.frame, numbers.point, numbers.quantiles)
    answer = {
        "mean": point.ravel(),
        "intervals": intervals_of(asked.sent.level, asked.request.levels, quantiles),
        "weights_x": None,
        "feature_contributions": None,
        **served(result.target, calibrated=numbers.calibrated, notes=(*asked.clock.notes, *numbers.notes)),
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def intervals_of(
    level: Sequence[Level] | None, levels: Levels, quantiles: NDArray[Any]
) -> dict[str, NDArray[Any]] | None:
    """`lo-{level}` and `hi-{level}` with each level as sent; `quantiles` are [S, Q, H] at `levels.units`."""
    if not level:
        return None
    row = {unit: i for i, unit in enumerate(levels.units)}
    found = {}
    for one in level:
        (interval,) = parse_levels(None, [float(one)]).intervals
        found[f"lo-{one}"] = np.ascontiguousarray(quantiles[:, row[interval.lo]]).ravel()
        found[f"hi-{one}"] = np.ascontiguousarray(quantiles[:, row[interval.hi]]).ravel()
    return found


def served(target: Target, *, calibrated: bool, notes: Sequence[str]) -> dict[str, Any]:
    """What answered: the client passes over these keys, a person who looks at the wire does not."""
    return {
        "model": target.model,
        "version": target.version,
        "digest": target.digest,
        "fallback": target.fallback,
        "calibrated": calibrated,
        "notes": list(notes),
    }
