"""`/v1/jobs`: submit, look, follow, stop."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy.orm import Session
from sse_starlette.sse import EventSourceResponse

from app.auth.dependencies import require
from app.auth.keys import Principal
from app.db import ReadSessionDep, SessionDep
from app.errors import responses
from app.files.endpoints import FIELD_SCHEMAS
from app.files.fields import file_spec
from app.files.service import in_parse_slot
from app.files.upload import Upload, receive
from app.idempotency import Once, OnceDep
from app.jobs import forms, history, service
from app.jobs.measurements import DryRun
from app.jobs.schemas import CheckpointObject, JobEstimate, JobEventObject, JobObject
from app.jobs.show import show
from app.jobs.states import JobStatus
from app.jobs.submit import Create, creating, json_body, measured, submit
from app.paging import Page, PageDep
from app.services import ServicesDep

router = APIRouter(prefix="/jobs", tags=["jobs"])
JobsDep = Annotated[Principal, require("jobs")]

_JSON_SCHEMA = forms.json_schema()
_FORM_FIELDS = {name: schema for name, schema in _JSON_SCHEMA["properties"].items() if name in forms.JOB_FIELDS}
"""As text in a form; what is an object here is sent as JSON text."""
CREATE_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _JSON_SCHEMA},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "prediction_length"],
                    "properties": {"file": {"type": "string", "format": "binary"}, **FIELD_SCHEMAS, **_FORM_FIELDS},
                }
            },
        },
    }
}


@router.post(
    "",
    response_model=JobObject | JobEstimate,
    responses=responses(404, 409, 413, 415, 429, 503, 507),
    openapi_extra=CREATE_OPENAPI,
    summary="Fine-tune: by the id of a file, or with the file itself",
)
async def create_job(request: Request, principal: JobsDep, services: ServicesDep, once: OnceDep) -> JSONResponse:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        async with receive(request, services.settings) as upload:
            made = await in_parse_slot(services, _from_form(upload, principal, services, once))
        return await measured(services, made)
    body = await json_body(request, otherwise=", or as multipart/form-data with the file itself")
    return await submit(forms.from_json(body), principal, services, once)


def _from_form(upload: Upload, principal: Principal, services: ServicesDep, once: Once) -> Create:
    of_file = file_spec(
        {name: values for name, values in upload.fields.items() if name not in forms.JOB_FIELDS},
        filename=upload.filename,
        known=forms.KNOWN_FIELDS,
    )
    spec = forms.from_form(upload.fields)

    def create(session: Session) -> JobObject | DryRun:
        return service.create_from_upload(session, services, principal, spec, upload, of_file)

    content = {"sha256": upload.sha256, "filename": of_file.filename, "fields": upload.fields}
    return creating(create, spec, services, once, content)


@router.get("", responses=responses(), summary="Your jobs, newest first")
def list_jobs(
    principal: JobsDep,
    session: ReadSessionDep,
    page: PageDep,
    status: JobStatus | None = None,
    training_file: Annotated[str | None, Query(max_length=64)] = None,
) -> Page[JobObject]:
    return service.list_jobs(session, principal, page, status=status, training_file=training_file)


@router.get("/{job_id}", responses=responses(404), summary="One job")
def get_job(job_id: str, principal: JobsDep, session: ReadSessionDep) -> JobObject:
    return show(service.get(session, principal, job_id))


@router.get(
    "/{job_id}/events",
    response_model=Page[JobEventObject],
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "A page, or a stream."},
        204: {"description": "The stream has ended and everything was seen."},
        **responses(404),
    },
    summary="What happened, newest first; or as it happens, by `Accept: text/event-stream`",
)
def get_events(
    job_id: str,
    request: Request,
    principal: JobsDep,
    session: ReadSessionDep,
    page: PageDep,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str, Header(pattern=r"^[0-9]{0,18}$", description="Go on behind this event.")] = "",
) -> Response | Page[JobEventObject]:
    if "text/event-stream" not in accept:
        return history.list_events(session, principal, job_id, page)
    after = int(last_event_id or 0)
    if history.all_seen(session, principal, job_id, after=after):
        return Response(status_code=204)  # tells a browser's EventSource not to come back
    return EventSourceResponse(history.live(request.app.state.job_events, job_id, after=after))


@router.get("/{job_id}/checkpoints", responses=responses(404), summary="The best states the run kept, newest first")
def get_checkpoints(job_id: str, principal: JobsDep, session: ReadSessionDep, page: PageDep) -> Page[CheckpointObject]:
    return history.list_checkpoints(session, principal, job_id, page)


@router.post("/{job_id}/cancel", responses=responses(404, 409), summary="Stop a job for good")
def cancel_job(job_id: str, principal: JobsDep, session: SessionDep) -> JobObject:
    return service.cancel(session, principal, job_id)


@router.post("/{job_id}/pause", responses=responses(404, 409), summary="Save the state and stop for now")
def pause_job(job_id: str, principal: JobsDep, session: SessionDep) -> JobObject:
    return service.pause(session, principal, job_id)


@router.post("/{job_id}/resume", responses=responses(404, 409), summary="Go on from the saved state")
def resume_job(job_id: str, principal: JobsDep, session: SessionDep, services: ServicesDep) -> JobObject:
    return service.resume(session, services, principal, job_id)
