"""`/v1/fine_tuning/jobs`: jobs for the official `openai` client, onto the services of `/v1/jobs`."""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse

from app.auth.dependencies import require
from app.auth.keys import Principal
from app.db import ReadSessionDep, SessionDep
from app.errors import ApiError, responses
from app.faces.openai.request import MULTIPLIER, SUPERVISED, read_job
from app.faces.openai.show import show_checkpoints, show_events, show_job, show_jobs
from app.idempotency import OnceDep
from app.jobs import forms, history, service
from app.jobs.schemas import MAX_METADATA_PAIRS, CheckpointObject, JobEstimate, JobEventObject, JobObject
from app.jobs.show import show
from app.jobs.submit import json_body, submit
from app.paging import MAX_LIMIT, Page, PageDep, PageQuery
from app.services import ServicesDep

router = APIRouter(prefix="/fine_tuning/jobs", tags=["fine-tuning by the openai client"])
JobsDep = Annotated[Principal, require("jobs")]

_NATIVE = forms.json_schema()
_THEIRS: dict[str, dict[str, Any]] = {
    "method": {
        "description": f"A name, or {{type, <type>: {{hyperparameters, …options}}}}; {SUPERVISED!r} is the default.",
    },
    "hyperparameters": {
        "description": f"n_epochs, batch_size, {MULTIPLIER} (of the method's default rate), and every native one.",
    },
    "validation_file": {"type": "null", "description": "Refused: the validation block is cut from the training file."},
    "integrations": {"type": "array", "maxItems": 0, "description": "Refused when there are any."},
}
_PROPERTIES = {**_NATIVE["properties"], **{k: _NATIVE["properties"].get(k, {}) | v for k, v in _THEIRS.items()}}
CREATE_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {**_NATIVE, "properties": _PROPERTIES}}},
    }
}


@router.post(
    "",
    response_model=JobObject | JobEstimate,
    responses=responses(404, 409, 413, 415, 429, 503, 507),
    openapi_extra=CREATE_OPENAPI,
    summary="Fine-tune, asked for in OpenAI's words; native fields by `extra_body`",
)
async def create_job(request: Request, principal: JobsDep, services: ServicesDep, once: OnceDep) -> JSONResponse:
    asked = read_job(await json_body(request))
    with asked.in_its_words():
        return await submit(asked.spec, principal, services, once, show=show_job)


_PAIR = re.compile(r"metadata\[(.*)\]", re.DOTALL)


def _metadata_filter(
    request: Request,
    metadata: Annotated[
        Literal["null"] | None,
        Query(description="`metadata[key]=value`: jobs with that pair; `metadata=null`: jobs without metadata."),
    ] = None,
) -> dict[str, str] | None:
    """Pairs that must be there; empty: there must be none; None: no filter."""
    pairs: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        found = _PAIR.fullmatch(name)
        if found is None:
            continue
        if found[1] in pairs or metadata is not None or len(pairs) == MAX_METADATA_PAIRS:
            message = f"{name}: give each key once, at most {MAX_METADATA_PAIRS}, and none beside metadata=null."
            raise ApiError(422, "invalid_request", message, param=name)
        pairs[found[1]] = value
    return pairs or (None if metadata is None else {})


@router.get("", responses=responses(), summary="Your jobs, newest first")
def list_jobs(
    principal: JobsDep,
    session: ReadSessionDep,
    page: PageDep,
    metadata: Annotated[dict[str, str] | None, Depends(_metadata_filter)],
) -> Page[JobObject]:
    return show_jobs(service.list_jobs(session, principal, page, metadata=metadata))


@router.get("/{job_id}", responses=responses(404), summary="One job")
def get_job(job_id: str, principal: JobsDep, session: ReadSessionDep) -> JobObject:
    return show_job(show(service.get(session, principal, job_id)))


@router.get("/{job_id}/events", responses=responses(404), summary="What happened, newest first")
def get_events(job_id: str, principal: JobsDep, session: ReadSessionDep, page: PageDep) -> Page[JobEventObject]:
    return show_events(history.list_events(session, principal, job_id, page))


def _checkpoint_page(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many objects at most.")] = 10,
    after: Annotated[str | None, Query(max_length=255, description="The last id of the page before.")] = None,
) -> PageQuery:
    """Ten by default, as OpenAI's route."""
    return PageQuery(limit=limit, after=after)


@router.get("/{job_id}/checkpoints", responses=responses(404), summary="The best states the run kept, newest first")
def get_checkpoints(
    job_id: str, principal: JobsDep, session: ReadSessionDep, page: Annotated[PageQuery, Depends(_checkpoint_page)]
) -> Page[CheckpointObject]:
    return show_checkpoints(history.list_checkpoints(session, principal, job_id, page))


@router.post("/{job_id}/cancel", responses=responses(404, 409), summary="Stop a job for good")
def cancel_job(job_id: str, principal: JobsDep, session: SessionDep) -> JobObject:
    return show_job(service.cancel(session, principal, job_id))


@router.post("/{job_id}/pause", responses=responses(404, 409), summary="Save the state and stop for now")
def pause_job(job_id: str, principal: JobsDep, session: SessionDep) -> JobObject:
    return show_job(service.pause(session, principal, job_id))


@router.post("/{job_id}/resume", responses=responses(404, 409), summary="Go on from the saved state")
def resume_job(job_id: str, principal: JobsDep, session: SessionDep, services: ServicesDep) -> JobObject:
    return show_job(service.resume(session, services, principal, job_id))
