"""What a request may ask: covariates, horizon, size and calendar. Each refusal names the field and the bound."""

import numpy as np

from app.errors import ApiError
from app.forecasts.levels import Levels
from app.forecasts.parse import Ask, BodyHistory, ForecastRequest, InlineHistory
from app.registry.directory import SourceKind, Target
from tsfm import catalog
from tsfm.series.frame import SeriesFrame
from tsfm.series.freq import Unit, parse

MAX_VALUES = 10_000_000
"""Numbers in one answer: series x steps x (1 + levels)."""
_SECONDS = {
    Unit.MICROSECOND: 1e-6,
    Unit.MILLISECOND: 1e-3,
    Unit.SECOND: 1.0,
    Unit.MINUTE: 60.0,
    Unit.HOUR: 3600.0,
    Unit.DAY: 86_400.0,
    Unit.BUSINESS_DAY: 121_000.0,
    Unit.WEEK: 604_800.0,
    Unit.MONTH_START: 2_630_000.0,
    Unit.MONTH_END: 2_630_000.0,
    Unit.QUARTER_START: 7_889_000.0,
    Unit.QUARTER_END: 7_889_000.0,
    Unit.YEAR_START: 31_557_000.0,
    Unit.YEAR_END: 31_557_000.0,
}
"""About how long one step is."""
_LAST_SECOND = 253_370_000_000.0
"""In the last year that ISO 8601 writes with four digits, 9998."""


def check_task(target: Target, task: catalog.Task) -> None:
    """That the model answers such questions."""
    if task not in target.tasks:
        does = " and ".join(target.tasks)
        raise ApiError(
            422,
            "wrong_task",
            f"{target.model} is for {does}, not for {task}: use a model tuned for that, or a backbone.",
            param="model",
            details={"tasks": list(target.tasks)},
        )


def check_covariates(target: Target, request: Ask) -> None:
    """Covariates are used or refused, never dropped."""
    match request.history:
        case InlineHistory(num_covariates=count):
            given = count
        case BodyHistory(options=options):
            given = len(options.past_covariate_columns) + len(options.future_covariate_columns)
        case _:
            given = 0
    if given:
        raise ApiError(
            422,
            "covariates_unsupported",
            f"{target.source.name} looks at the target alone: leave the covariates out.",
            param="past_covariates",
        )


def resolve_prediction_length(target: Target, request: ForecastRequest, most: int) -> int:
    steps = request.prediction_length or target.prediction_length
    if steps is None:
        message = f"{target.model} was not tuned for a horizon: give prediction_length."
        raise ApiError(422, "missing_field", message, param="prediction_length")
    if target.source.kind is not SourceKind.RIVAL:
        most = min(most, catalog.backbone(target.source.name).max_prediction_length)
    check_steps(target, steps, most, does="forecasts")
    return steps


def check_steps(target: Target, steps: int, most: int, *, does: str) -> None:
    """Refuses more steps at once than anything may be laid out for, rivals included."""
    if steps > most:
        raise ApiError(
            422,
            "prediction_length_too_long",
            f"{target.model} {does} at most {most} steps, not {steps}.",
            param="prediction_length",
            details={"max_prediction_length": most},
        )


def check_observed(frame: SeriesFrame) -> None:
    """Refuses series of which not one value is known."""
    if np.isnan(frame.values).all():
        raise ApiError(
            422,
            "nothing_observed",
            "No value of any series is known, so there is nothing to go on from: send series with some values.",
            param="series",
        )


def check_size(num_series: int, prediction_length: int, levels: Levels) -> None:
    values = num_series * prediction_length * (1 + len(levels.units))
    if values > MAX_VALUES:
        raise ApiError(
            422,
            "forecast_too_large",
            f"The answer would hold {values:,} numbers; at most {MAX_VALUES:,} are sent. Ask for fewer series or "
            "levels.",
            param="series",
        )


def check_calendar(frame: SeriesFrame, prediction_length: int) -> None:
    """Refuses series that would go on beyond the year 9998, where times no longer fit their type."""
    freq = parse(frame.freq)
    if freq.unit is Unit.INTEGER or not len(frame):
        return
    steps = (frame.lengths + prediction_length) * (_SECONDS[freq.unit] * freq.multiple)
    if float((frame.starts / 1e6 + steps).max()) > _LAST_SECOND:
        raise ApiError(
            422,
            "timestamps_out_of_range",
            f"With freq {frame.freq!r} the times would go beyond the year 9998: check start and freq.",
            param="freq",
        )
