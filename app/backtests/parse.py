"""From the bytes of a request to a checked `BacktestRequest`: a forecast's request and four fields of its own."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import Request

from app.backtests.schemas import OWN_PARAMETERS, BacktestIn, BacktestOptions
from app.forecasts.levels import Levels, parse_levels
from app.forecasts.parse import (
    ForecastRequest,
    from_sent,
    integer_or_text,
    own_fields,
    parse_file,
    read_body,
    validated,
)

QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels that wql is averaged over where the caller names none."""
INTERVALS = (80.0,)
_DEFAULTS = parse_levels(QUANTILES, INTERVALS)


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestRequest:
    forecast: ForecastRequest
    """Its `levels` are complete: what was not asked is the deciles, or the 80 % interval."""
    options: BacktestOptions


def parse_request(request: Request, body: bytes, *, max_series: int) -> BacktestRequest:
    """Reads by content type, as `/forecast` does. 400 malformed, 415 another type, 422 well-formed but wrong."""
    return read_body(request, body, json=partial(_parse_json, max_series=max_series), file=_parse_file)


def _parse_json(body: bytes, *, max_series: int) -> BacktestRequest:
    sent = validated(BacktestIn, body)
    return _made(from_sent(sent, max_series=max_series), sent)


def _parse_file(body: bytes, query: list[tuple[str, str]]) -> BacktestRequest:
    texts: dict[str, str] = {}
    for name, value in query:
        if name in OWN_PARAMETERS:
            texts[name] = f"{texts[name]},{value}" if name in texts else value
    options = own_fields(BacktestOptions, texts, _value)
    return _made(parse_file(body, [(name, value) for name, value in query if name not in OWN_PARAMETERS]), options)


def _value(name: str, text: str) -> Any:
    """A number or a list where the text is one; what is neither is refused with the field's name."""
    if name in ("metrics", "rivals"):
        return [part.strip() for part in text.split(",") if part.strip()]
    return integer_or_text(text)


def _made(forecast: ForecastRequest, options: BacktestOptions) -> BacktestRequest:
    return BacktestRequest(forecast=replace(forecast, levels=_complete(forecast.levels)), options=options)


def _complete(levels: Levels) -> Levels:
    if not levels.asked:
        return replace(_DEFAULTS, asked=False)
    return replace(
        levels,
        quantiles=levels.quantiles or _DEFAULTS.quantiles,
        intervals=levels.intervals or _DEFAULTS.intervals,
    )
