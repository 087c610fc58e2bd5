"""What the client's requests hold, by the names on the wire (clients.md b.4).

Versions of the client add fields. One that is not known here is refused where it asks for something, and passed over
where it is null, false or empty.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.errors import ApiError
from app.forecasts.schemas import MAX_INDEX
from app.ids import VERSION
from app.registry.names import MAX_NAME_CHARS

MAX_FREQ_CHARS = 64
Count = Annotated[int, Field(ge=1, le=MAX_INDEX)]
Level = Annotated[int | float, Field(ge=0, le=100)]
"""Kept as sent, since the answer's keys repeat it: 80 is `lo-80`, 95.5 is `lo-95.5`."""
Loss = Literal["default", "mae", "mse", "rmse", "mape", "smape"]
ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,36}$")]


class WireModel(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    def check(self) -> None:
        """422 for an unknown field that asks for something, and for what no service here does."""
        for name, value in (self.model_extra or {}).items():
            if value:
                raise ApiError(
                    422, "unknown_field", f"This service does not know the field {name!r}: leave it out.", param=name
                )


class SeriesIn(WireModel):
    y: list[float | None] = Field(min_length=1)
    """All series end to end."""
    sizes: list[Count] = Field(min_length=1)
    X: list[Any] | None = None
    """One row per feature."""
    X_future: list[Any] | None = None
    categorical_exog: list[int] | None = None
    start_datetime: list[str] | None = None
    """One a series; from 0.9.0 on, and absent where time is an integer."""

    @property
    def num_features(self) -> int:
        return len(self.X or ()) + len(self.X_future or ())


class AskIn(WireModel):
    """What every question to a model has."""

    series: SeriesIn
    model: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    freq: str = Field(min_length=1, max_length=MAX_FREQ_CHARS)
    finetuned_model_id: ModelId | None = None
    clean_ex_first: bool = True
    """Order of two steps that both need features: nothing changes without any."""
    multivariate: bool = False
    model_parameters: dict[str, Any] | None = None

    def check(self) -> None:
        super().check()
        self.series.check()
        if self.multivariate:
            raise unsupported("multivariate", "The models here look at one series at a time: set multivariate=False.")
        if self.model_parameters:
            raise unsupported("model_parameters", "The models here take no parameters with a request: leave them out.")


class TunedAskIn(AskIn):
    """A question that could tune on its way."""

    finetune_steps: int = Field(default=0, ge=0)
    finetune_depth: int = 1
    finetune_loss: Loss = "default"
    """Depth and loss say how to tune: nothing where no step is asked."""

    def check(self) -> None:
        super().check()
        if self.finetune_steps:
            raise unsupported(
                "finetune_steps",
                "Tuning is a job here, so that it is judged before it serves: call finetune() first (POST "
                "/v2/finetune), then ask with its finetuned_model_id and finetune_steps=0.",
            )


class HistoryIn(TunedAskIn):
    """`/v2/historic_forecast`, of clients up to 0.7.1."""

    level: list[Level] | None = None
    feature_contributions: bool = False
    feature_contributions_type: str | None = None

    def check(self) -> None:
        super().check()
        if self.feature_contributions:
            raise unsupported("feature_contributions", "No model here uses features, so none has a contribution.")


class ForecastIn(HistoryIn):
    h: Count


class CrossValidationIn(TunedAskIn):
    h: Count
    n_windows: Count = 1
    step_size: Count | None = None
    level: list[Level] | None = None
    hist_exog: list[int] | None = None
    """Which features are of the past alone: nothing where there are none."""
    refit: bool = True
    """Whether each window tunes anew: nothing where no step is asked."""
    full_history: bool = False
    """From 0.8.0 on: as much of the history as can be had, whatever `h` and `n_windows` say."""


class AnomalyIn(AskIn):
    level: Level


class OnlineAnomalyIn(TunedAskIn):
    h: Count
    detection_size: Count
    threshold_method: Literal["univariate", "multivariate"] = "univariate"
    level: Level
    step_size: Count | None = None
    hist_exog: list[int] | None = None
    refit: bool = False

    def check(self) -> None:
        super().check()
        if self.step_size not in (None, self.h):
            raise unsupported(
                "step_size", f"Points are scored in blocks of h, one after the other: leave step_size out or {self.h}."
            )


class JobOptions(WireModel):
    timeout_seconds: Count


class FinetuneIn(WireModel):
    series: SeriesIn
    model: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    freq: str = Field(min_length=1, max_length=MAX_FREQ_CHARS)
    finetune_steps: Count
    finetune_depth: int = Field(default=1, ge=1, le=5)
    finetune_loss: Loss = "default"
    output_model_id: ModelId | None = None
    finetuned_model_id: ModelId | None = None
    job_options: JobOptions | None = None
    """Of a call that is not waited for: how long training may take."""

    def check(self) -> None:
        super().check()
        self.series.check()
        if self.job_options is not None:
            self.job_options.check()
        if (self.output_model_id or "").startswith(VERSION):
            message = f"Ids that begin with {VERSION!r} are the service's own: choose another."
            raise ApiError(422, "invalid_request", message, param="output_model_id")
        if self.finetune_loss != "default":
            raise unsupported("finetune_loss", "Each backbone is tuned with the loss it was made with: 'default'.")
        if self.finetuned_model_id is not None:
            raise unsupported(
                "finetuned_model_id",
                "Tuning starts from a backbone's own weights here, not from tuned ones: leave finetuned_model_id out.",
            )


class ModelParamsIn(WireModel):
    model: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    freq: str = Field(min_length=1, max_length=MAX_FREQ_CHARS)


def unsupported(param: str, why: str) -> ApiError:
    """422: the client's wire has it, the services behind do not."""
    return ApiError(422, "unsupported_parameter", why, param=param)
