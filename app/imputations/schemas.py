"""The imputation request and answer as documented; read from raw bytes and written straight from arrays."""

from typing import Literal

from pydantic import Field

from app.forecasts.schemas import HISTORY_PARAMETERS, HistoryIn, IntervalOut, Timing
from app.schemas import RequestModel, ResponseModel


class ImputationOptions(RequestModel):
    quantile_levels: list[float] | None = Field(default=None, examples=[[0.1, 0.9]])
    levels: list[float] | None = Field(
        default=None, description="Central intervals in per cent; default: 80.", examples=[[80]]
    )
    long_gaps: Literal["refuse", "leave"] = Field(
        default="refuse", description="Gaps beyond what the model can fill: refuse the request, or leave them missing."
    )


class ImputationIn(ImputationOptions, HistoryIn):
    pass


class GapOut(ResponseModel):
    start: str | int
    end: str | int
    points: int
    filled: bool = Field(description="False where it was left: too long, or its series holds no value.")
    one_sided: bool = Field(description="At the beginning or end of its series, so that only one side is known.")
    calibrated: bool = Field(description="Whether its intervals were set by held-out history of a job.")


class FilledSeriesOut(ResponseModel):
    item_id: str
    timestamps: list[str] | list[int]
    values: list[float | None] = Field(description="Observed values as they came, filled ones in between.")
    imputed: list[bool]
    quantiles: dict[str, list[float | None]] = Field(description="Null where the value was observed.")
    intervals: dict[str, IntervalOut]
    gaps: list[GapOut]
    version: int | None
    digest: str | None
    fallback: str | None = Field(
        description="Null where the tuned weights answered; else what did, because they did not pass the gate."
    )


class ImputationsOut(ResponseModel):
    object: Literal["imputations"]
    model: str
    version: int | None
    digest: str | None
    calibrated: bool = Field(description="Whether every filled gap's intervals were set by held-out history of a job.")
    num_imputed: int
    num_left: int = Field(description="Points that are still missing.")
    series: list[FilledSeriesOut]
    notes: list[str]
    timing_ms: Timing


PARAMETERS: dict[str, str] = {
    **HISTORY_PARAMETERS,
    "quantile_levels": "Comma-separated, e.g. 0.1,0.9.",
    "levels": "Comma-separated central intervals in per cent, e.g. 80,95.",
    "long_gaps": "refuse, or leave: gaps beyond what the model can fill.",
}
"""Query parameters of a request whose body is a file."""
