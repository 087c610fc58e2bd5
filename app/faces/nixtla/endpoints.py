"""The routes of the official `nixtla` client, at the root and under `/v2`. Their contract is that client, so that they
stand in docs/clients.md and not in the OpenAPI schema. `GET /usage` is the native route.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from app.auth.dependencies import require
from app.auth.keys import Principal
from app.db import ReadSessionDep, SessionDep
from app.errors import ApiError
from app.faces.nixtla import anomalies, cross_validation, finetune, finetuned, forecast
from app.faces.nixtla.names import THEIRS, model_params
from app.faces.nixtla.repository import Tunings
from app.faces.nixtla.schemas import MAX_FREQ_CHARS, FinetuneIn, ModelParamsIn
from app.faces.nixtla.series import client_version
from app.faces.nixtla.transport import DirectFaceRoute, FaceRoute, read_wire
from app.files.service import in_parse_slot
from app.forecasts.answering import Parse, Result, answered
from app.forecasts.ran import Gone
from app.forecasts.service import ForecastService
from app.jobs import service as jobs
from app.jobs.states import TERMINAL, JobStatus
from app.registry.endpoints import RegistryDep, delete_model
from app.registry.names import MAX_NAME_CHARS
from app.registry.show import catalogue_models
from app.services import Services, ServicesDep

router = APIRouter(tags=["nixtla"], route_class=FaceRoute)
asking = APIRouter(tags=["nixtla"], route_class=DirectFaceRoute)
"""Questions to a model, which read their own bodies."""
KeyDep = Annotated[Principal, require(None)]
JobsDep = Annotated[Principal, require("jobs")]
ModelsDep = Annotated[Principal, require("models")]
VALID = "This API key is valid. Forecasting! :)"
"""Clients up to 0.6.4 look for the last two words."""
NOT_OFFERED = (
    "Not offered here: simulate, explain, execute_step, and asynchronous jobs of anything but finetune (call the "
    "others without async)."
)
Asked = TypeVar("Asked")
Found = TypeVar("Found", bound=Result)
Ask = Callable[[Request, ForecastService, Principal, Asked, Gone], Awaitable[Found]]


@router.get("/validate_api_key")
def validate_api_key(_: KeyDep) -> dict[str, str]:
    return {"detail": VALID}


@router.post("/validate_token")
def validate_token(_: KeyDep) -> dict[str, str]:
    """Of clients up to 0.6.4."""
    return {"message": "success", "detail": VALID}


@router.get("/model_params")
async def get_model_params(
    request: Request,
    principal: KeyDep,
    model: Annotated[str, Query(min_length=1, max_length=MAX_NAME_CHARS)],
    freq: Annotated[str, Query(min_length=1, max_length=MAX_FREQ_CHARS)],
) -> dict[str, Any]:
    return {"detail": await model_params(request, principal, ModelParamsIn(model=model, freq=freq))}


@router.post("/model_params")
async def post_model_params(request: Request, principal: KeyDep) -> dict[str, Any]:
    """Of clients up to 0.6.4."""
    asked = read_wire(ModelParamsIn, request, await request.body())
    return {"detail": await model_params(request, principal, asked)}


@router.get("/v2/models")
def list_models(principal: ModelsDep, session: ReadSessionDep) -> dict[str, Any]:
    """The client's own names, then backbones and rivals that forecast, then the tenant's tuned models."""
    return {"models": [{"name": name} for name in _names(principal, session)]}


def _names(principal: Principal, session: Session) -> list[str]:
    built_in = [model.id for model in catalogue_models() if "forecast" in model.tasks]
    return [*THEIRS, *built_in, *Tunings(session=session, tenant_id=principal.tenant_id).names()]


async def _submitted(request: Request, principal: Principal, services: Services) -> str:
    """The id of the job that the call is."""
    body = await request.body()

    def submitted() -> str:
        sent = read_wire(FinetuneIn, request, body)
        frame = finetune.frame_of(request, sent, max_series=services.settings.max_series)
        return finetune.submit(services, principal, sent, frame)

    return await in_parse_slot(services, submitted)


@router.post("/v2/finetune")
async def post_finetune(request: Request, principal: JobsDep, services: ServicesDep) -> Response:
    return await finetune.answer(request, services, principal, await _submitted(request, principal, services))


@router.post("/v2/finetune/async", status_code=202)
async def submit_finetune(request: Request, principal: JobsDep, services: ServicesDep) -> dict[str, str]:
    return {"job_id": await _submitted(request, principal, services)}


@router.get("/v2/finetune/jobs/{job_id}")
def get_finetune_job(job_id: str, principal: JobsDep, session: ReadSessionDep) -> dict[str, Any]:
    return finetune.state(session, principal, job_id)


@router.post("/v2/async/jobs/{job_id}/cancel", status_code=202)
def cancel_job(job_id: str, principal: JobsDep, session: SessionDep) -> Response:
    """409 is what the client takes for nothing to cancel; it does not repeat this call."""
    if JobStatus(jobs.get(session, principal, job_id).status) in TERMINAL:
        return JSONResponse({"detail": f"{job_id} has ended."}, 409)
    return JSONResponse({"status": jobs.cancel(session, principal, job_id).status}, 202)


@router.get("/v2/finetuned_models")
def list_finetuned_models(request: Request, principal: ModelsDep, session: ReadSessionDep) -> dict[str, Any]:
    return finetuned.listed(session, principal, names_itself=bool(client_version(request)))


@router.get("/v2/finetuned_models/{model_id}")
def get_finetuned_model(
    model_id: str, request: Request, principal: ModelsDep, session: ReadSessionDep
) -> dict[str, Any]:
    found = finetuned.found(session, principal, model_id)
    return finetuned.shown(found, principal, names_itself=bool(client_version(request)))


@router.delete("/v2/finetuned_models/{model_id}")
def delete_finetuned_model(
    model_id: str, principal: ModelsDep, session: SessionDep, services: ServicesDep, registry: RegistryDep
) -> Response:
    """204 is what the client takes for success."""
    tuning = finetuned.found(session, principal, model_id)
    finetuned.check_alone(session, principal, tuning)
    delete_model(tuning.model.name, principal, session, services, registry)
    return Response(status_code=204)


async def _answered(
    request: Request, parse: Parse[Asked], ask: Ask[Asked, Found], to_json: Callable[[Found], bytes]
) -> Response:
    return await answered(request, parse=parse, ask=partial(ask, request), to_json=to_json)


@asking.post("/v2/forecast")
async def post_forecast(request: Request) -> Response:
    return await _answered(request, forecast.parse, forecast.ask, forecast.to_json)


@asking.post("/v2/historic_forecast")
async def post_historic_forecast(request: Request) -> Response:
    """Of clients up to 0.7.1; later ones ask `/v2/cross_validation`."""
    return await _answered(request, cross_validation.parse_history, cross_validation.ask, cross_validation.to_json)


@asking.post("/v2/cross_validation")
async def post_cross_validation(request: Request) -> Response:
    return await _answered(request, cross_validation.parse, cross_validation.ask, cross_validation.to_json)


@asking.post("/v2/anomaly_detection")
async def post_anomaly_detection(request: Request) -> Response:
    return await _answered(request, anomalies.parse, anomalies.ask, anomalies.to_json)


@asking.post("/v2/online_anomaly_detection")
async def post_online_anomaly_detection(request: Request) -> Response:
    return await _answered(request, anomalies.parse_online, anomalies.ask, anomalies.to_json)


async def not_offered(request: Request) -> Response:
    raise ApiError(404, "not_found", f"There is no route {request.method} {request.url.path}. {NOT_OFFERED}")


everything_else = APIRouter(route_class=DirectFaceRoute)
everything_else.add_api_route("/v2/{path:path}", not_offered, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])


def routers() -> tuple[APIRouter, ...]:
    """In the order in which they are matched."""
    return asking, router, everything_else
