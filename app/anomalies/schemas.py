"""The anomaly request and answer as documented; read from raw bytes and written straight from arrays, as forecasts."""

from typing import Literal

from pydantic import Field

from app.forecasts.schemas import HISTORY_PARAMETERS, MAX_INDEX, HistoryIn, Timing
from app.schemas import RequestModel, ResponseModel


class AnomalyOptions(RequestModel):
    level: float = Field(
        default=99.0,
        description="Per cent of normal points that are not called anomalies, from 50 to 99.99: 99 means one false "
        "alarm in a hundred.",
    )
    detection_size: int | None = Field(
        default=None,
        ge=1,
        le=MAX_INDEX,
        description="Score only the newest so many points of each series; default: all with history.",
    )
    prediction_length: int | None = Field(
        default=None, ge=1, description="Points that are scored at once, of what was not tuned; default: one season."
    )
    scoring: str | None = Field(
        default=None, max_length=32, description="forecast, every_patch or reconstruction, of a backbone (zero-shot)."
    )
    multivariate: bool = Field(
        default=False,
        description="The series are variables of one system: it is scored as such, too, with each one's contribution.",
    )


class AnomalyIn(AnomalyOptions, HistoryIn):
    pass


class EventOut(ResponseModel):
    """Neighbouring alarms: alarms cluster, so that points alone overstate how much happened."""

    start: str | int
    end: str | int
    points: int = Field(description="Alarms in it.")
    peak_score: float
    peak_severity: float


class ScoredSeriesOut(ResponseModel):
    item_id: str
    timestamps: list[str] | list[int]
    value: list[float | None]
    expected: list[float | None]
    lower: list[float | None] = Field(description="Below it a value is an anomaly at this level.")
    upper: list[float | None]
    score: list[float | None] = Field(description="Above 1.0 is an anomaly, whatever the model and the level.")
    p_value: list[float | None] = Field(description="Share of normal points at least as far off.")
    severity: list[float | None] = Field(
        description="How far from normal, to rank alarms: without an end, where p-values end (docs/anomalies.md)."
    )
    is_anomaly: list[bool]
    in_sample: list[bool] = Field(description="Points the model was trained, selected or calibrated with.")
    num_anomalies: int
    events: list[EventOut]
    version: int | None
    digest: str | None
    fallback: str | None = Field(
        description="Null where the tuned weights answered; else what did, because they did not pass the gate."
    )


class SystemOut(ResponseModel):
    timestamps: list[str] | list[int]
    score: list[float | None]
    p_value: list[float | None]
    severity: list[float | None]
    is_anomaly: list[bool]
    contributions: dict[str, list[float | None]] = Field(description="Of each series; they add up to 1.")
    num_anomalies: int
    events: list[EventOut]
    num_scores: int
    calibrated: bool
    extrapolated: bool


class NullOut(ResponseModel):
    """What is normal."""

    source: Literal["calibration", "history"] = Field(
        description="A job's calibration block, or the given history itself (before the detection window, if any)."
    )
    num_scores: int = Field(description="Fewest of any series; a level needs 1 ÷ (1 − level ÷ 100).")


class DriftOut(ResponseModel):
    """How far the scored points are from the null: a tenth of normal ones lies beyond its 90 % line."""

    points: int
    share_beyond_90: float | None
    standard_error: float | None
    drifted: bool | None


class AnomaliesOut(ResponseModel):
    object: Literal["anomalies"]
    model: str
    version: int | None
    digest: str | None
    level: float
    scoring: str
    prediction_length: int
    calibrated: bool = Field(description="Whether a job's calibration block says what is normal.")
    extrapolated: bool = Field(description="Whether the level lies beyond what the null resolves.")
    null: NullOut
    drift: DriftOut | None = Field(description="Null where the scored points are the null themselves.")
    series: list[ScoredSeriesOut]
    system: SystemOut | None = Field(description="With `multivariate`.")
    skipped: list[str] = Field(description="Series too short to be scored.")
    notes: list[str]
    timing_ms: Timing


PARAMETERS: dict[str, str] = {
    **HISTORY_PARAMETERS,
    "level": "Per cent of normal points that are not called anomalies, from 50 to 99.99.",
    "detection_size": "Score only the newest so many points of each series.",
    "prediction_length": "Points that are scored at once, of what was not tuned.",
    "scoring": "forecast, every_patch or reconstruction, of a backbone.",
    "multivariate": "true: the series are variables of one system.",
}
"""Query parameters of a request whose body is a file."""
