"""From the bytes of a request to a checked `ImputationRequest`."""

from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request

from app.forecasts.levels import Levels, parse_levels
from app.forecasts.parse import Ask, numbers, read_own
from app.imputations.schemas import PARAMETERS, ImputationIn, ImputationOptions
from tsfm.filled import LongGaps

_DEFAULTS = replace(parse_levels(None, [80.0]), asked=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImputationRequest:
    ask: Ask
    levels: Levels
    long_gaps: LongGaps


def parse_request(request: Request, body: bytes, *, max_series: int) -> ImputationRequest:
    """Reads by content type, as `/forecast` does. 400 malformed, 415 another type, 422 well-formed but wrong."""
    return read_own(
        request,
        body,
        max_series=max_series,
        sent=ImputationIn,
        options=ImputationOptions,
        parameters=PARAMETERS,
        value=_value,
        made=_made,
    )


def _value(name: str, text: str) -> Any:
    return numbers(name, text) if name in ("quantile_levels", "levels") else text


def _made(ask: Ask, options: ImputationOptions) -> ImputationRequest:
    named = options.quantile_levels is not None or options.levels is not None
    levels = parse_levels(options.quantile_levels, options.levels) if named else _DEFAULTS
    return ImputationRequest(ask=ask, levels=levels, long_gaps=options.long_gaps)
