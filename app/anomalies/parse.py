"""From the bytes of a request to a checked `AnomalyRequest`."""

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.anomalies.schemas import PARAMETERS, AnomalyIn, AnomalyOptions
from app.forecasts.parse import Ask, ask_of, ask_of_file, problems, read_body, validated
from tsfm.scores import ScoringAsk


@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyRequest:
    ask: Ask
    scoring: ScoringAsk


def parse_request(request: Request, body: bytes, *, max_series: int) -> AnomalyRequest:
    """Reads by content type, as `/forecast` does. 400 malformed, 415 another type, 422 well-formed but wrong."""
    return read_body(request, body, json=partial(_parse_json, max_series=max_series), file=_parse_file)


def _parse_json(body: bytes, *, max_series: int) -> AnomalyRequest:
    sent = validated(AnomalyIn, body)
    return AnomalyRequest(ask=ask_of(sent, max_series=max_series), scoring=_scoring(sent))


def _parse_file(body: bytes, query: list[tuple[str, str]]) -> AnomalyRequest:
    ask, texts = ask_of_file(body, query, PARAMETERS)
    try:
        options = AnomalyOptions.model_validate({name: _value(name, text) for name, text in texts.items()})
    except ValidationError as error:
        raise RequestValidationError(problems(error)) from error
    return AnomalyRequest(ask=ask, scoring=_scoring(options))


def _value(name: str, text: str) -> Any:
    """A number or a flag where the text is one; what is neither is refused with the field's name."""
    if name == "multivariate":
        return {"true": True, "false": False}.get(text.lower(), text)
    if name == "level":
        return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else text
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else text


def _scoring(options: AnomalyOptions) -> ScoringAsk:
    return ScoringAsk(
        level=options.level,
        detection_size=options.detection_size,
        scoring=options.scoring,
        prediction_length=options.prediction_length,
        together=options.multivariate,
    )
