"""A job that was asked for, whoever's words it came in: created at most once per `Idempotency-Key`, or measured."""

from collections.abc import Callable, Mapping
from typing import Any

import anyio.to_thread
from fastapi import Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from app.auth.keys import Principal
from app.db import session_scope
from app.errors import ApiError
from app.files.service import in_parse_slot
from app.idempotency import Once
from app.jobs import service
from app.jobs.measurements import DryRun, answer
from app.jobs.schemas import JobCreate, JobObject
from app.services import Services

Show = Callable[[JobObject], JobObject]
Create = Callable[[], JSONResponse | DryRun]
"""Blocking. A dry run creates nothing, so that it needs no Idempotency-Key and leaves one unused."""


def as_it_is(job: JobObject) -> JobObject:
    return job


async def json_body(request: Request, *, otherwise: str = "") -> bytes:
    """The body of a request for a job. 415 when it is not JSON; `otherwise` says what else the route takes."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ("", "application/json"):
        raise ApiError(415, "unsupported_media_type", f"A job is asked for as application/json{otherwise}.")
    if request.scope["query_string"]:  # a `?dry_run=true` that is not heard would start the job
        raise ApiError(422, "unknown_field", "A JSON request takes its fields from the body, not from the address.")
    return await request.body()


async def submit(
    spec: JobCreate, principal: Principal, services: Services, once: Once, *, show: Show = as_it_is
) -> JSONResponse:
    """The job on a stored file, or the estimate of a dry run. A job is answered, and remembered, as `show` has it."""

    def create(session: Session) -> JobObject | DryRun:
        return service.create_from_file(session, services, principal, spec)

    content = spec.model_dump(mode="json", exclude_unset=True)
    blocking = creating(create, spec, services, once, content, show=show)
    if service.given_roles(spec):  # the stored bytes may be parsed again
        made = await in_parse_slot(services, blocking)
    else:
        made = await anyio.to_thread.run_sync(blocking)
    return await measured(services, made)


async def measured(services: Services, made: JSONResponse | DryRun) -> JSONResponse:
    """The answer of what was created, or of a dry run once its figures are there."""
    if isinstance(made, JSONResponse):
        return made
    return JSONResponse((await answer(services, made)).model_dump(mode="json"))


def creating(
    create: Callable[[Session], JobObject | DryRun],
    spec: JobCreate,
    services: Services,
    once: Once,
    content: Mapping[str, Any],
    *,
    show: Show = as_it_is,
) -> Create:
    def dry() -> DryRun:
        with session_scope(services.engine) as session:
            made = create(session)
        assert isinstance(made, DryRun), "a dry run makes no job"
        return made

    def job(session: Session) -> JobObject:
        made = create(session)
        assert isinstance(made, JobObject), "only a dry run makes none"
        return show(made)

    return dry if spec.dry_run else lambda: once.run(content, job)
