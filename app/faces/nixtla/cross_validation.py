"""`/v2/cross_validation` and `/v2/historic_forecast`, onto `BacktestService.forecasts`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import orjson
from fastapi import Request

from app.auth.keys import Principal
from app.backtests.service import BacktestService, WindowForecasts
from app.faces.nixtla.forecast import asked_of, intervals_of, levels_of, served
from app.faces.nixtla.names import served_name
from app.faces.nixtla.schemas import CrossValidationIn, HistoryIn
from app.faces.nixtla.series import Clock, usual_horizon
from app.faces.nixtla.transport import read_wire
from app.forecasts.parse import Ask, ForecastRequest
from app.forecasts.ran import Gone
from app.forecasts.respond import narrow
from app.forecasts.service import ForecastService
from tsfm.backtest import MIN_HISTORY
from tsfm.errors import SeriesTooShort


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsAsked:
    sent: CrossValidationIn | HistoryIn
    clock: Clock
    request: ForecastRequest
    num_windows: int
    stride: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsFound:
    asked: WindowsAsked
    result: WindowForecasts

    @property
    def num_values(self) -> int:
        return self.result.num_values + self.result.point.size  # and the places of the rows


def parse(request: Request, body: bytes, *, max_series: int) -> WindowsAsked:
    sent = read_wire(CrossValidationIn, request, body)
    if sent.full_history:
        return _whole_history(request, sent, max_series=max_series)
    stride = sent.step_size or sent.h
    _check_sizes(sent.series.sizes, h=sent.h, n_windows=sent.n_windows, step_size=stride)
    clock, asked = asked_of(request, sent, max_series=max_series)
    return _asked(sent, clock, asked, h=sent.h, num_windows=sent.n_windows, stride=stride)


def parse_history(request: Request, body: bytes, *, max_series: int) -> WindowsAsked:
    return _whole_history(request, read_wire(HistoryIn, request, body), max_series=max_series)


def _whole_history(request: Request, sent: CrossValidationIn | HistoryIn, *, max_series: int) -> WindowsAsked:
    """Windows side by side from each series' end backwards, as many as fit in it and in one request.

    A series with no room for one has no rows; where none has any, the windows are shorter.
    """
    clock, asked = asked_of(request, sent, max_series=max_series)
    h = max(min(usual_horizon(clock.freq), max(sent.series.sizes) - MIN_HISTORY), 1)
    return _asked(sent, clock, asked, h=h, num_windows=max(max_series // len(sent.series.sizes), 1), stride=h)


def _asked(
    sent: CrossValidationIn | HistoryIn, clock: Clock, asked: Ask, *, h: int, num_windows: int, stride: int
) -> WindowsAsked:
    return WindowsAsked(
        sent=sent,
        clock=clock,
        request=ForecastRequest(
            model=asked.model,
            history=asked.history,
            item_ids=None,
            prediction_length=h,
            levels=levels_of(sent.level),
        ),
        num_windows=num_windows,
        stride=stride,
    )


def _check_sizes(sizes: Sequence[int], *, h: int, n_windows: int, step_size: int) -> None:
    """A series without all its windows would be missing from the client's frame without a word."""
    need, have = h + step_size * (n_windows - 1) + MIN_HISTORY, min(sizes)
    if have < need:
        raise SeriesTooShort(
            f"The shortest series has {have} points; {n_windows} windows of {h} steps, {step_size} apart, need {need}: "
            "use fewer or shorter windows, or leave out what is shorter.",
            have=have,
            need=need,
            param="n_windows",
        )


async def ask(
    request: Request, forecasts: ForecastService, principal: Principal, asked: WindowsAsked, gone: Gone
) -> WindowsFound:
    sent = asked.sent
    name = await served_name(request, principal, model=sent.model, finetuned_model_id=sent.finetuned_model_id)
    service = BacktestService(forecasts, request.app.state.services.settings)
    result = await service.forecasts(
        principal,
        replace(asked.request, model=name),
        num_windows=asked.num_windows,
        stride=asked.stride,
        gone=gone,
    )
    return WindowsFound(asked=asked, result=result)


def to_json(found: WindowsFound) -> bytes:
    """Rows stand window by window, those of a series oldest first; `idxs` are their places in the `y` that was sent."""
    asked, result = found.asked, found.result
    plan, num_steps = result.plan, result.plan.prediction_length
    first = plan.frame.offsets[plan.series] + plan.end
    answer = {
        "mean": narrow(result.point, plan.frame.values).ravel(),
        "sizes": np.bincount(plan.series, minlength=len(plan.frame)) * num_steps,
        "idxs": (first[:, None] + np.arange(num_steps)).ravel(),
        "intervals": intervals_of(asked.sent.level, asked.request.levels, narrow(result.quantiles, plan.frame.values)),
        "weights_x": None,
        "feature_contributions": None,
        **served(result.target, calibrated=result.calibrated, notes=(*asked.clock.notes, *result.notes)),
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
