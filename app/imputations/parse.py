"""From the bytes of a request to a checked `ImputationRequest`."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.forecasts.levels import Levels, parse_levels
from app.forecasts.parse import Ask, ask_of, ask_of_file, numbers, problems, read_body, validated
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
    return read_body(request, body, json=partial(_parse_json, max_series=max_series), file=_parse_file)


def _parse_json(body: bytes, *, max_series: int) -> ImputationRequest:
    sent = validated(ImputationIn, body)
    return _made(ask_of(sent, max_series=max_series), sent)


def _parse_file(body: bytes, query: list[tuple[str, str]]) -> ImputationRequest:
    ask, texts = ask_of_file(body, query, PARAMETERS)
    own: dict[str, Any] = {
        name: numbers(name, text) if name in ("quantile_levels", "levels") else text for name, text in texts.items()
    }
    try:
        options = ImputationOptions.model_validate(own)
    except ValidationError as error:
        raise RequestValidationError(problems(error)) from error
    return _made(ask, options)


def _made(ask: Ask, options: ImputationOptions) -> ImputationRequest:
    named = options.quantile_levels is not None or options.levels is not None
    levels = parse_levels(options.quantile_levels, options.levels) if named else _DEFAULTS
    return ImputationRequest(ask=ask, levels=levels, long_gaps=options.long_gaps)
