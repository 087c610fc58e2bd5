"""From the bytes of a request to a checked `ForecastRequest`: JSON with the series inline, or a file as the body."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from app.errors import ApiError
from app.forecasts.levels import Levels, parse_levels
from app.forecasts.schemas import CSV_PARAMETERS, HISTORY_PARAMETERS, ForecastIn, HistoryIn, SeriesIn
from app.registry.names import MAX_NAME_CHARS
from tsfm.series.frame import SeriesFrame
from tsfm.series.load import InlineSeries, frame_from_inline
from tsfm.series.options import ReadOptions

FILE_TYPES = frozenset(
    {
        "text/csv",
        "application/csv",
        "text/tab-separated-values",
        "application/vnd.apache.parquet",
        "application/x-parquet",
        "application/gzip",
        "application/x-gzip",
        "application/zstd",
    }
)
T = TypeVar("T")
Sent = TypeVar("Sent", bound=BaseModel)
In = TypeVar("In", bound=HistoryIn)
_COLUMN_LISTS = frozenset({"target_columns", "past_covariate_columns", "future_covariate_columns", "static_columns"})


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineHistory:
    frame: SeriesFrame
    num_covariates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyHistory:
    """A CSV or Parquet file sent as the body, not read yet."""

    data: bytes
    options: ReadOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHistory:
    file_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingHistory:
    """The end of the tuned model's own training file."""


History = InlineHistory | BodyHistory | FileHistory | TrainingHistory


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What every question has."""

    model: str
    history: History
    item_ids: tuple[str, ...] | None
    """Only these series, in this order; None for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastRequest(Ask):
    prediction_length: int | None
    levels: Levels


def parse_request(request: Request, body: bytes, *, max_series: int) -> ForecastRequest:
    """Reads by content type. 400 malformed, 415 another type, 422 well-formed but wrong."""
    return read_body(request, body, json=partial(parse_json, max_series=max_series), file=parse_file)


def read_body(
    request: Request, body: bytes, *, json: Callable[[bytes], T], file: Callable[[bytes, list[tuple[str, str]]], T]
) -> T:
    """What `json` or `file` (with the query's fields) make of a body, by its content type."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if "content-encoding" in request.headers:
        raise ApiError(
            415,
            "unsupported_encoding",
            "Send the body as it is; a gzip or zstd file is recognised by its content type.",
        )
    if media_type == "application/json" or media_type.endswith("+json"):
        if request.scope["query_string"]:
            raise ApiError(422, "unknown_field", "A JSON request takes its fields from the body, not from the address.")
        return json(body)
    if media_type in FILE_TYPES:
        return file(body, request.query_params.multi_items())
    raise ApiError(
        415,
        "unsupported_media_type",
        f"content-type {media_type or '(none)'!r} is not read here. Send application/json with the series inline, or a "
        "file as text/csv, application/vnd.apache.parquet, application/gzip or application/zstd.",
    )


def parse_json(body: bytes, *, max_series: int) -> ForecastRequest:
    return from_sent(validated(ForecastIn, body), max_series=max_series)


def validated(kind: type[Sent], body: bytes) -> Sent:
    """The body as a `kind`; what is wrong with it is answered as FastAPI would."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(problems(error)) from error


def read_own(
    request: Request,
    body: bytes,
    *,
    max_series: int,
    sent: type[In],
    options: type[Sent],
    parameters: Mapping[str, str],
    value: Callable[[str, str], Any],
    made: Callable[[Ask, In | Sent], T],
) -> T:
    """What `made` makes of an `Ask` and the fields that a question has of its own.

    A JSON body is a `sent`, which has these fields, too; of a file they are query parameters among `parameters`, whose
    texts `value` (name, text) reads for `options`.
    """

    def of_json(body: bytes) -> T:
        found = validated(sent, body)
        return made(ask_of(found, max_series=max_series), found)

    def of_file(body: bytes, query: list[tuple[str, str]]) -> T:
        ask, texts = ask_of_file(body, query, parameters)
        return made(ask, own_fields(options, texts, value))

    return read_body(request, body, json=of_json, file=of_file)


def own_fields(options: type[Sent], texts: Mapping[str, str], value: Callable[[str, str], Any]) -> Sent:
    """Query parameters as an `options`; what is wrong with them is answered as it would be in a JSON body."""
    try:
        return options.model_validate({name: value(name, text) for name, text in texts.items()})
    except ValidationError as error:
        raise RequestValidationError(problems(error)) from error


def integer_or_text(text: str) -> int | str:
    """A number where the text is one; what is none is refused later, with the field's name."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else text


def from_sent(sent: ForecastIn, *, max_series: int) -> ForecastRequest:
    """From a body that fits the schema; 422 where its fields do not fit each other."""
    return _forecast(
        ask_of(sent, max_series=max_series), sent.prediction_length, parse_levels(sent.quantile_levels, sent.levels)
    )


def _forecast(ask: Ask, prediction_length: int | None, levels: Levels) -> ForecastRequest:
    return ForecastRequest(
        model=ask.model,
        history=ask.history,
        item_ids=ask.item_ids,
        prediction_length=prediction_length,
        levels=levels,
    )


def ask_of(sent: HistoryIn, *, max_series: int) -> Ask:
    """The model and the history of a JSON body; 422 where its fields do not fit each other."""
    if sent.series is not None and sent.file is not None:
        raise ApiError(422, "ambiguous_history", "Give the history as `series` or as `file`, not both.", param="file")
    history: History = TrainingHistory()
    if sent.series is not None:
        if sent.item_ids is not None:
            raise ApiError(422, "ambiguous_history", "`item_ids` selects from a file; leave it out.", param="item_ids")
        check_num_series(len(sent.series), max_series)
        history = _inline(sent.series, sent.timezone)
    elif sent.timezone is not None:
        raise ApiError(
            422, "unknown_field", "`timezone` belongs to inline series; a file has its own.", param="timezone"
        )
    elif sent.file is not None:
        history = FileHistory(file_id=sent.file)
    return Ask(model=sent.model, history=history, item_ids=tuple(sent.item_ids) if sent.item_ids else None)


def problems(error: ValidationError) -> list[dict[str, Any]]:
    """pydantic's findings; a wrong `start`, which may be of two types, is one finding at `start` itself."""
    found: dict[tuple[int | str, ...], dict[str, Any]] = {}
    for problem in error.errors(include_url=False, include_input=False):
        place = problem["loc"]
        if "start" in place:
            place = place[: place.index("start") + 1]
        found.setdefault(place, {**problem, "loc": place})
    return list(found.values())


def _inline(series: list[SeriesIn], timezone: str | None) -> InlineHistory:
    items = [
        InlineSeries(
            item_id=str(i) if one.item_id is None else one.item_id, target=one.target, start=one.start, freq=one.freq
        )
        for i, one in enumerate(series)
    ]
    num_covariates = sum(len(one.past_covariates) + len(one.future_covariates) for one in series)
    return InlineHistory(frame=frame_from_inline(items, timezone=timezone), num_covariates=num_covariates)


def check_num_series(num_series: int, max_series: int) -> None:
    if num_series > max_series:
        raise ApiError(
            422,
            "too_many_series",
            f"A request may hold {max_series:,} series, not {num_series:,}: send several, or name item_ids.",
            param="series",
        )


def parse_file(body: bytes, query: list[tuple[str, str]]) -> ForecastRequest:
    ask, own = ask_of_file(body, query, CSV_PARAMETERS)
    quantiles, levels = own.get("quantile_levels"), own.get("levels")
    return _forecast(
        ask,
        count(own.get("prediction_length"), "prediction_length"),
        parse_levels(
            None if quantiles is None else numbers("quantile_levels", quantiles),
            None if levels is None else numbers("levels", levels),
        ),
    )


def ask_of_file(body: bytes, query: list[tuple[str, str]], parameters: Mapping[str, str]) -> tuple[Ask, dict[str, str]]:
    """The model and the history of a file sent as the body, and the texts of what else `parameters` allow."""
    if not body:
        raise ApiError(422, "empty_file", "The body is empty: send the file as the request's body.")
    values = _single(query, parameters)
    own = {name: value for name, value in values.items() if name not in HISTORY_PARAMETERS}
    asked = {name: value for name, value in values.items() if name in ("model", "item_ids")}
    options = {name: _option(name, value) for name, value in values.items() if name not in own and name not in asked}
    if not 0 < len(asked.get("model", "")) <= MAX_NAME_CHARS:
        raise ApiError(422, "missing_field", "Name the model: ?model=…", param="model")
    item_ids = tuple(_split(asked["item_ids"])) or None if "item_ids" in asked else None
    history = BodyHistory(data=body, options=ReadOptions.from_mapping(options))
    return Ask(model=asked["model"], history=history, item_ids=item_ids), own


def _single(query: list[tuple[str, str]], parameters: Mapping[str, str]) -> Mapping[str, str]:
    values: dict[str, str] = {}
    for name, value in query:
        if name not in parameters:
            known = ", ".join(parameters)
            raise ApiError(422, "unknown_field", f"There is no parameter {name!r}. Known: {known}.", param=name)
        values[name] = f"{values[name]},{value}" if name in values else value
    return values


def _option(name: str, value: str) -> Any:
    if name in _COLUMN_LISTS or (name == "timestamp_column" and "," in value):
        return _split(value)
    return value


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def count(value: str | None, name: str) -> int | None:
    """A query parameter's positive whole number; 422 for anything else."""
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) > 0):
        raise ApiError(
            422,
            "invalid_request",
            f"{name}: {value!r} is not a positive whole number.",
            param=name,
        )
    return int(value)


def numbers(name: str, value: str) -> list[float]:
    """A query parameter's comma-separated numbers; 422 for anything else."""
    try:
        return [float(part) for part in _split(value)]
    except ValueError as error:
        message = f"{name}: {value!r} is not a comma-separated list of numbers."
        raise ApiError(422, "invalid_level", message, param=name) from error
