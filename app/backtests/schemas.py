"""The backtest request and answer as documented; the request is read as a forecast's is."""

from typing import Literal

from pydantic import Field

from app.forecasts.schemas import ForecastIn
from app.schemas import RequestModel, ResponseModel

MAX_WINDOWS = 200
"""Cut-offs of one series."""
Metric = Literal["mase", "rmsse", "mae", "mse", "wql", "coverage"]
Rival = Literal["naive", "seasonal_naive", "window_mean"]


class BacktestOptions(RequestModel):
    """What a forecast's request has not."""

    num_windows: int = Field(
        default=5, ge=1, le=MAX_WINDOWS, description="Cut-offs of each series, counted back from its end."
    )
    stride: int | None = Field(
        default=None, ge=1, description="Steps between two cut-offs; default: prediction_length, so that none overlap."
    )
    metrics: list[Metric] = Field(
        default=["mase", "rmsse", "mae", "mse", "wql", "coverage"],
        min_length=1,
        description="What is answered for every window and series.",
    )
    rivals: list[Rival] = Field(
        default=["naive", "seasonal_naive", "window_mean"], description="Plain forecasters evaluated beside the model."
    )


class BacktestIn(BacktestOptions, ForecastIn):
    pass


class Metrics(ResponseModel):
    """Those asked; null where nothing was observed, or where the model has no quantiles."""

    mase: float | None = None
    rmsse: float | None = None
    mae: float | None = None
    mse: float | None = None
    wql: float | None = None
    coverage: dict[str, float] | None = None


class WindowOut(Metrics):
    cutoff: str | int = Field(description="Time of the last point that was known.")


class BacktestSeriesOut(Metrics):
    item_id: str
    windows: list[WindowOut] = Field(description="Oldest first.")


class ResultOut(ResponseModel):
    model: str
    version: int | None
    digest: str | None
    fallback: str | None = Field(description="What answered instead of the tuned weights, because it was not beaten.")
    calibrated: bool
    metrics: Metrics = Field(description="Every series weighs the same; wql and coverage are pooled.")
    series: list[BacktestSeriesOut]


class BacktestOut(ResponseModel):
    object: Literal["backtest"]
    model: str
    prediction_length: int
    num_windows: int = Field(description="Of all series together.")
    stride: int
    season: int = Field(description="Period of the differences that scale mase and rmsse.")
    results: list[ResultOut] = Field(description="The model first, then the rivals.")
    skipped: list[str] = Field(description="Series too short for a single window.")
    notes: list[str]
    timing_ms: dict[str, float]


OWN_PARAMETERS: dict[str, str] = {
    "num_windows": "Cut-offs of each series.",
    "stride": "Steps between two cut-offs.",
    "metrics": "Comma-separated: mase, rmsse, mae, mse, wql, coverage.",
    "rivals": "Comma-separated: naive, seasonal_naive, window_mean; empty for none.",
}
