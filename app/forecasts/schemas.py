"""The forecast request and answer as documented. The request is validated from raw bytes; the answer is written by
`respond.py` straight from arrays and only described here."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from app.registry.names import MAX_NAME_CHARS
from app.schemas import RequestModel, ResponseModel

MAX_POINTS = 1_000_000
MAX_INDEX = 2**53
"""Largest integer that every JSON reader keeps exact."""
ItemId = Annotated[str, Field(min_length=1, max_length=512)]


def _within_json(start: str | int | None) -> str | int | None:
    if isinstance(start, int) and abs(start) > MAX_INDEX:
        raise ValueError("an integer start lies between -2^53 and 2^53")
    return start


class SeriesIn(RequestModel):
    item_id: ItemId | None = Field(default=None, description="Defaults to the series' place in the list: 0, 1, …")
    start: Annotated[str | int | None, AfterValidator(_within_json)] = Field(
        default=None, description="ISO 8601 time of the first value; an integer or nothing for an integer index."
    )
    freq: str | None = Field(default=None, max_length=32, description="For example h, 15min, D, W-SUN, MS.")
    target: list[float | None] = Field(
        min_length=1, max_length=MAX_POINTS, description="Oldest value first; null where one is missing."
    )
    past_covariates: dict[str, list[float | None]] = Field(default_factory=dict)
    future_covariates: dict[str, list[float | None]] = Field(default_factory=dict)


class HistoryIn(RequestModel):
    """What every question to a model has: which one, and the series."""

    model: str = Field(
        min_length=1,
        max_length=MAX_NAME_CHARS,
        description="A fine-tuned model, name@alias, name@version, a version's short id, a backbone or a rival.",
    )
    series: list[SeriesIn] | None = Field(default=None, min_length=1)
    file: str | None = Field(default=None, max_length=64, description="An uploaded file to continue.")
    item_ids: list[ItemId] | None = Field(
        default=None, min_length=1, description="Only these series of the file (or of the training file)."
    )
    timezone: str | None = Field(default=None, max_length=64, description="Zone of starts written without an offset.")


class ForecastIn(HistoryIn):
    prediction_length: int | None = Field(
        default=None, ge=1, description="Steps ahead; defaults to the horizon a model was tuned for."
    )
    quantile_levels: list[float] | None = Field(default=None, examples=[[0.1, 0.5, 0.9]])
    levels: list[float] | None = Field(default=None, description="Central intervals in per cent.", examples=[[80]])


class IntervalOut(ResponseModel):
    lo: list[float | None]
    hi: list[float | None]


class SeriesOut(ResponseModel):
    item_id: str
    timestamps: list[str] | list[int]
    mean: list[float | None] = Field(description="The mean where the model has one, else the median: see `point`.")
    quantiles: dict[str, list[float | None]]
    intervals: dict[str, IntervalOut]
    version: int | None
    digest: str | None
    fallback: str | None = Field(
        description="Null where the tuned weights answered; else what did, because they did not beat it or this series "
        "is routed there: incumbent, zero_shot, naive, seasonal_naive or window_mean."
    )


class Timing(ResponseModel):
    queue: float
    load: float
    compute: float


class ForecastOut(ResponseModel):
    object: Literal["forecast"]
    model: str
    version: int | None
    digest: str | None
    calibrated: bool = Field(
        description="Whether every asked level was set by the scores of the model's calibration block."
    )
    uncalibrated_levels: list[float] = Field(
        description="Quantile levels (an interval has two) that were not: beyond the scores' resolution, beyond the "
        "calibrated horizon, or of a model that nothing was calibrated for."
    )
    point: Literal["mean", "median"]
    forecasts: list[SeriesOut]
    notes: list[str]
    timing_ms: Timing


HISTORY_PARAMETERS: dict[str, str] = {
    "model": "What shall answer; as in the JSON body.",
    "item_ids": "Comma-separated: only these series.",
    "id_column": "Column that names the series.",
    "timestamp_column": "Column of times; two, comma-separated, for date and time.",
    "target_columns": "Comma-separated columns that hold the series' values.",
    "past_covariate_columns": "Comma-separated.",
    "future_covariate_columns": "Comma-separated.",
    "static_columns": "Comma-separated.",
    "freq": "For example h, 15min, D.",
    "timezone": "Zone of times written without one.",
    "timestamp_format": "strptime pattern that settles an ambiguous date.",
    "duplicates": "error, first, last, mean or sum.",
}
"""Query parameters of every request whose body is a file."""
CSV_PARAMETERS: dict[str, str] = {
    **HISTORY_PARAMETERS,
    "prediction_length": "Steps ahead.",
    "quantile_levels": "Comma-separated, e.g. 0.1,0.5,0.9.",
    "levels": "Comma-separated central intervals in per cent, e.g. 80,95.",
}
"""Those of a forecast."""


def openapi_extra(request: type[BaseModel], parameters: Mapping[str, str]) -> dict[str, Any]:
    """What FastAPI cannot see, since the route reads its own body: `request` as JSON, or a file and `parameters`."""
    schema = request.model_json_schema()
    inline = schema.pop("$defs")["SeriesIn"]
    schema["properties"]["series"]["anyOf"][0]["items"] = inline
    queries = [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}, "description": f"CSV: {text}"}
        for name, text in parameters.items()
    ]
    body = {"type": "string", "format": "binary", "description": "CSV or Parquet, or gzip or zstd of either."}
    return {
        "parameters": queries,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema}, "text/csv": {"schema": body}},
        },
        "security": [{"HTTPBearer": []}],
    }
