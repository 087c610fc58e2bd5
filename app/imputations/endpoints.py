"""`POST /v1/imputations`: missing points, filled from both sides."""

from fastapi import APIRouter, Request, Response

from app.forecasts.answering import DirectRoute, answered, described
from app.forecasts.schemas import openapi_extra
from app.imputations.parse import parse_request
from app.imputations.respond import to_csv, to_json
from app.imputations.schemas import PARAMETERS, ImputationIn, ImputationsOut
from app.imputations.service import fill

router = APIRouter(tags=["imputations"], route_class=DirectRoute)


@router.post(
    "/imputations",
    responses=described(ImputationsOut, "Every series with its gaps filled."),
    openapi_extra=openapi_extra(ImputationIn, PARAMETERS),
    summary="Fill the gaps of series",
)
async def imputations(request: Request) -> Response:
    """With a model tuned for imputation, a backbone (zero-shot) or a plain fill.

    The series are given as for `/forecast`; what is missing is null in `target`, an empty cell, or a time that a file
    leaves out. Each run of missing points is filled from both of its sides, observed values stay as they are.
    `Accept: text/csv` answers CSV.
    """
    return await answered(request, parse=parse_request, ask=fill, to_json=to_json, to_csv=to_csv)
