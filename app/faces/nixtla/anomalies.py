"""`/v2/anomaly_detection` and `/v2/online_anomaly_detection`, onto `detect`."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from fastapi import Request

from app.anomalies.parse import AnomalyRequest
from app.anomalies.service import AnomalyResult, detect
from app.auth.keys import Principal
from app.faces.nixtla.forecast import asked_of, served
from app.faces.nixtla.names import served_name
from app.faces.nixtla.schemas import AnomalyIn, OnlineAnomalyIn
from app.faces.nixtla.series import Clock
from app.faces.nixtla.transport import read_wire
from app.forecasts.ran import Gone
from app.forecasts.respond import narrow
from app.forecasts.service import ForecastService
from tsfm.scores import ScoringAsk


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresAsked:
    sent: AnomalyIn | OnlineAnomalyIn
    clock: Clock
    request: AnomalyRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresFound:
    asked: ScoresAsked
    result: AnomalyResult

    @property
    def num_values(self) -> int:
        return self.result.num_values


def parse(request: Request, body: bytes, *, max_series: int) -> ScoresAsked:
    sent = read_wire(AnomalyIn, request, body)
    return _asked(request, sent, ScoringAsk(level=float(sent.level)), max_series=max_series)


def parse_online(request: Request, body: bytes, *, max_series: int) -> ScoresAsked:
    sent = read_wire(OnlineAnomalyIn, request, body)
    scoring = ScoringAsk(
        level=float(sent.level),
        detection_size=sent.detection_size,
        prediction_length=sent.h,
        together=sent.threshold_method == "multivariate",
    )
    return _asked(request, sent, scoring, max_series=max_series)


def _asked(request: Request, sent: AnomalyIn | OnlineAnomalyIn, scoring: ScoringAsk, *, max_series: int) -> ScoresAsked:
    clock, ask = asked_of(request, sent, max_series=max_series)
    return ScoresAsked(sent=sent, clock=clock, request=AnomalyRequest(ask=ask, scoring=scoring))


async def ask(
    request: Request, forecasts: ForecastService, principal: Principal, asked: ScoresAsked, gone: Gone
) -> ScoresFound:
    sent = asked.sent
    name = await served_name(request, principal, model=sent.model, finetuned_model_id=sent.finetuned_model_id)
    renamed = replace(asked.request, ask=replace(asked.request.ask, model=name))
    return ScoresFound(asked=asked, result=await detect(forecasts, principal, renamed, gone))


def to_json(found: ScoresFound) -> bytes:
    """Rows are the last `sizes[i]` points of each series, and `idxs` their places in the `y` that was sent; a series
    too short to be scored has none. NaN (missing, or nothing can be said) becomes null."""
    result, level = found.result, found.asked.sent.level
    anomalies, frame = result.ran.value, result.frame
    sizes = np.zeros(len(frame), dtype=np.int64)
    for one in anomalies.series:
        sizes[one.index] = len(one.values)
    rows = np.stack(
        [np.concatenate([getattr(one, name) for one in anomalies.series]) for name in ("expected", "lower", "upper")]
    )
    mean, lower, upper = narrow(rows, frame.values)
    answer = {
        "mean": mean,
        "sizes": sizes,
        "idxs": np.concatenate(
            [frame.offsets[one.index] + one.first + np.arange(len(one.values)) for one in anomalies.series]
        ),
        "intervals": {f"lo-{level}": lower, f"hi-{level}": upper},
        "weights_x": None,
        **_alarms(result),
        **served(result.target, calibrated=anomalies.calibrated, notes=(*found.asked.clock.notes, *result.notes)),
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _alarms(result: AnomalyResult) -> dict[str, Any]:
    """A score above 1.0 is an anomaly. Of one system its own score decides, for all series of a moment alike."""
    anomalies = result.ran.value
    alarms: dict[str, Any] = {
        "anomaly": np.concatenate([one.is_anomaly for one in anomalies.series]),
        "anomaly_score": np.concatenate([one.scores for one in anomalies.series]).astype(np.float32),
    }
    if anomalies.together is not None:
        system = np.tile(anomalies.together.scores, len(anomalies.series))
        alarms["anomaly"] = np.nan_to_num(system) > 1.0
        alarms["accumulated_anomaly_score"] = system.astype(np.float32)
    return alarms
