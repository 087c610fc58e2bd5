"""`POST /v1/anomalies`: how unlikely each point is."""

from fastapi import APIRouter, Request, Response

from app.anomalies.parse import parse_request
from app.anomalies.respond import to_csv, to_json
from app.anomalies.schemas import PARAMETERS, AnomaliesOut, AnomalyIn
from app.anomalies.service import detect
from app.forecasts.answering import DirectRoute, answered, described
from app.forecasts.schemas import openapi_extra

router = APIRouter(tags=["anomalies"], route_class=DirectRoute)


@router.post(
    "/anomalies",
    responses=described(AnomaliesOut, "The scored points of every series, oldest first."),
    openapi_extra=openapi_extra(AnomalyIn, PARAMETERS),
    summary="Score the points of series",
)
async def anomalies(request: Request) -> Response:
    """With a model tuned for anomaly_detection, a backbone (zero-shot) or a rival.

    The series are given as for `/forecast`; with neither a tuned model scores its own training file. A score above 1.0
    is an anomaly. What is normal is what the model's job calibrated, else the history that is given: all of it, or with
    `detection_size` what comes before the newest points. `Accept: text/csv` answers CSV.
    """
    return await answered(request, parse=parse_request, ask=detect, to_json=to_json, to_csv=to_csv)
