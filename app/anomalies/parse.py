"""From the bytes of a request to a checked `AnomalyRequest`."""

import re
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from app.anomalies.schemas import PARAMETERS, AnomalyIn, AnomalyOptions
from app.forecasts.parse import Ask, integer_or_text, read_own
from tsfm.scores import ScoringAsk


@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyRequest:
    ask: Ask
    scoring: ScoringAsk


def parse_request(request: Request, body: bytes, *, max_series: int) -> AnomalyRequest:
    """Reads by content type, as `/forecast` does. 400 malformed, 415 another type, 422 well-formed but wrong."""
    return read_own(
        request,
        body,
        max_series=max_series,
        sent=AnomalyIn,
        options=AnomalyOptions,
        parameters=PARAMETERS,
        value=_value,
        made=_made,
    )


def _value(name: str, text: str) -> Any:
    """A number or a flag where the text is one; what is neither is refused with the field's name."""
    if name == "multivariate":
        return {"true": True, "false": False}.get(text.lower(), text)
    if name == "level":
        return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else text
    return integer_or_text(text)


def _made(ask: Ask, options: AnomalyOptions) -> AnomalyRequest:
    scoring = ScoringAsk(
        level=options.level,
        detection_size=options.detection_size,
        scoring=options.scoring,
        prediction_length=options.prediction_length,
        together=options.multivariate,
    )
    return AnomalyRequest(ask=ask, scoring=scoring)
