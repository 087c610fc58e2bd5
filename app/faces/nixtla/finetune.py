"""`/v2/finetune`, onto a job: what a call means as one, how repeats find it, and how its end is answered.

The client waits for the answer and gives up on a silent connection after a minute. So a call whose job is not done by
then is answered with status 200 and spaces, which a reader of JSON passes over, until the job has ended. If it fails
after that, the body says so and holds no `finetuned_model_id`. A call that is made again finds the job of the first.
"""

import asyncio
import hashlib
import math
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.auth.keys import Principal
from app.db import session_scope
from app.errors import ApiError, NotFound
from app.faces.nixtla.names import our_name
from app.faces.nixtla.repository import FINGERPRINT, OUTPUT_ID, Tunings
from app.faces.nixtla.schemas import FinetuneIn
from app.faces.nixtla.series import client_version, clock_of, history_of, usual_horizon
from app.faces.nixtla.transport import face_error_body
from app.files.fields import DEFAULT_PURPOSE, FileSpec
from app.files.upload import PART_PREFIX, Upload
from app.forecasts.ran import CLIENT_CLOSED_REQUEST
from app.forecasts.respond import cells, written
from app.ids import utc_now
from app.jobs import service as jobs
from app.jobs.estimate import estimate
from app.jobs.schemas import Budget, JobCreate, JobObject
from app.jobs.states import TERMINAL, JobStatus
from app.services import Services
from app.tables import Job
from tsfm import catalog
from tsfm.request import resolve
from tsfm.series import freq as frequencies
from tsfm.series import split
from tsfm.series.frame import SeriesFrame
from tsfm.series.options import ReadOptions

METHODS: dict[int, str | dict[str, Any]] = {
    1: "linear_probe",
    2: {"type": "trace", "keep_ratio": 0.25},
    3: {"type": "trace", "keep_ratio": 0.5},
    4: {"type": "trace", "keep_ratio": 0.75},
    5: "sff",
}
"""`finetune_depth` → method: the head alone, a growing share of gated adapters, everything."""
STEPS, DEPTH = "finetune_steps", "finetune_depth"
"""Keys of the job's metadata, beside those of `repository`."""
QUIET_SECONDS = 20.0
"""A job that ends by then is answered with the status that it deserves. Proxies wait 30 s, the client 60."""
SPACE_SECONDS = 5.0
POLL_SECONDS = 0.5
REPEAT_SECONDS = 600.0
"""The client repeats a call for six minutes: by then the job of the first may have ended."""
_STATES = {JobStatus.QUEUED: "pending", JobStatus.PAUSED: "pending", JobStatus.CANCELLING: "running"}
"""Of ours that are not the client's, its word."""
_COLUMNS = ("item_id", "timestamp", "target")


class _Repeat(Exception):
    """The same call was made meanwhile; what was begun here is undone."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id


def frame_of(request: Request, sent: FinetuneIn, *, max_series: int) -> SeriesFrame:
    has_times = sent.series.start_datetime is not None
    clock = clock_of(sent.freq, client_version=client_version(request), has_times=has_times)
    if sent.series.num_features:
        raise ApiError(
            422,
            "covariates_unsupported",
            "No backbone is tuned with features here: leave them out.",
            param="series.X",
        )
    return history_of(sent.series, clock, max_series=max_series).frame


def submit(services: Services, principal: Principal, sent: FinetuneIn, frame: SeriesFrame) -> str:
    """The id of the call's job, made unless it is there. Blocking for as long as a small upload is.

    422 for an id that is taken, and whatever a job is refused for.
    """
    fingerprint = hashlib.sha256(sent.model_dump_json().encode()).hexdigest()
    since = utc_now() - timedelta(seconds=REPEAT_SECONDS)
    with session_scope(services.engine, read_only=True) as session:
        tunings = Tunings(session=session, tenant_id=principal.tenant_id)
        if (job := tunings.repeated(fingerprint, since=since)) is not None:
            return job.id
        _check_free(tunings, sent.output_model_id)
    spec = job_spec(services, sent, frame, fingerprint=fingerprint)
    try:
        with session_scope(services.engine) as session:
            made = _create(session, services, principal, spec, frame)
            tunings = Tunings(session=session, tenant_id=principal.tenant_id)
            tunings.lock()
            if (job := tunings.repeated(fingerprint, since=since, but=made.id)) is not None:
                raise _Repeat(job.id)
            _check_free(tunings, sent.output_model_id, but=made.id)
            return made.id
    except _Repeat as repeat:
        return repeat.job_id


def job_spec(services: Services, sent: FinetuneIn, frame: SeriesFrame, *, fingerprint: str) -> JobCreate:
    """The native job. The call names no horizon: a season, or as much of it as the longest series has room for."""
    model = our_name(sent.model)
    backbone = catalog.backbone(model)
    chosen = {} if sent.output_model_id is None else {OUTPUT_ID: sent.output_model_id}
    spec = JobCreate(
        prediction_length=_prediction_length(backbone, frame),
        model=model,
        method=METHODS[sent.finetune_depth],
        suffix=sent.output_model_id,
        budget=None if sent.job_options is None else Budget(seconds=sent.job_options.timeout_seconds),
        metadata={
            FINGERPRINT: fingerprint,
            STEPS: str(sent.finetune_steps),
            DEPTH: str(sent.finetune_depth),
            **chosen,
        },
    )
    return spec.model_copy(update={"hyperparameters": _schedule(services, spec, frame, sent.finetune_steps)})


def _prediction_length(backbone: catalog.BackboneSpec, frame: SeriesFrame) -> int:
    season = frequencies.parse(frame.freq).season

    def needed(prediction_length: int) -> int:
        patch = backbone.patch_length
        return split.needed(backbone.context_length, prediction_length, patch_length=patch, season=season)

    room = (int(frame.lengths.max()) - needed(0)) // (needed(1) - needed(0))
    return max(min(usual_horizon(frame.freq), backbone.prediction_length, room), 1)


def _schedule(services: Services, spec: JobCreate, frame: SeriesFrame, steps: int) -> dict[str, Any]:
    """Hyperparameters that make about so many steps: part of one epoch, else whole ones. The search over learning rates
    that comes before stays what it is in every job."""
    reading = {
        "freq": frame.freq,
        "max_length": int(frame.lengths.max()),
        "num_points": len(frame.values),
        "num_series": len(frame),
    }
    resolved = resolve(jobs.requested(spec, services), reading)
    batch_size = int(resolved["hyperparameters"]["batch_size"])
    per_epoch = math.ceil(estimate(resolved, reading).windows / batch_size)
    if steps < per_epoch:
        return {"max_epochs": 1, "max_windows_per_epoch": steps * batch_size}
    return {"max_epochs": math.ceil(steps / per_epoch)}


def _create(
    session: Session, services: Services, principal: Principal, spec: JobCreate, frame: SeriesFrame
) -> JobObject:
    """The series as a file of the tenant's, and the job on it."""
    with tempfile.NamedTemporaryFile(dir=services.settings.tmp_dir, prefix=PART_PREFIX, suffix=".csv") as out:
        content = written(_COLUMNS, _rows(frame))
        out.write(content)
        out.flush()
        upload = Upload(
            path=Path(out.name),
            filename=None,
            num_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            fields={},
        )
        options = {"id_column": "item_id", "timestamp_column": "timestamp", "target_columns": ["target"]}
        file = FileSpec(
            filename=f"{spec.suffix or 'nixtla'}.csv",
            purpose=DEFAULT_PURPOSE,
            options=ReadOptions.from_mapping({**options, "freq": frame.freq}),
            expires_at=None,
        )
        made = jobs.create_from_upload(session, services, principal, spec, upload, file)
    assert isinstance(made, JobObject), "only a dry run makes none"
    return made


def _rows(frame: SeriesFrame) -> Iterator[tuple[Any, ...]]:
    for i in range(len(frame)):
        values = frame.series(i)
        times = frequencies.format_timestamps(frame, i, 0, len(values))
        yield from zip([str(i)] * len(values), times, cells(values), strict=True)


def _check_free(tunings: Tunings, output_model_id: str | None, *, but: str | None = None) -> None:
    if output_model_id is None:
        return
    if (job := tunings.holder(output_model_id, but=but)) is not None:
        raise ApiError(
            422,
            "model_id_taken",
            f"output_model_id {output_model_id!r} belongs to the job {job.id} ({job.status}): choose another, or "
            "delete that model first.",
            param="output_model_id",
        )


async def answer(request: Request, services: Services, principal: Principal, job_id: str) -> Response:
    """Once the job has ended; before that, after a while, the beginning of an answer."""
    until = monotonic() + QUIET_SECONDS
    while monotonic() < until:
        if (found := await run_in_threadpool(_outcome, services, principal, job_id)) is not None:
            return JSONResponse(found)
        if await request.is_disconnected():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        await asyncio.sleep(POLL_SECONDS)
    return StreamingResponse(_spaces(services, principal, job_id), media_type="application/json")


async def _spaces(services: Services, principal: Principal, job_id: str) -> AsyncIterator[bytes]:
    """Spaces until the job has ended, then its answer, or its error: the status is out already."""
    sent = 0.0
    while True:
        if monotonic() - sent >= SPACE_SECONDS:
            yield b" "
            sent = monotonic()
        try:
            found = await run_in_threadpool(_outcome, services, principal, job_id)
        except ApiError as error:
            found = face_error_body(error)
        if found is not None:
            yield orjson.dumps(found)
            return
        await asyncio.sleep(POLL_SECONDS)


def _outcome(services: Services, principal: Principal, job_id: str) -> Mapping[str, Any] | None:
    """The answer once the job has succeeded, None until it has ended; raises why it did not succeed."""
    with session_scope(services.engine, read_only=True) as session:
        job = jobs.get(session, principal, job_id)
        return _result(session, principal, job) if JobStatus(job.status) in TERMINAL else None


def _result(session: Session, principal: Principal, job: Job) -> dict[str, Any]:
    """Of a job that has ended; raises why it did not succeed."""
    if JobStatus(job.status) is not JobStatus.SUCCEEDED:
        error = job.error or {"code": "job_state", "message": f"The job was {job.status}."}
        raise ApiError(422, error["code"], f"{job.id}: {error['message']}", param=error.get("param"))
    found = Tunings(session=session, tenant_id=principal.tenant_id).of_job(job.id)
    if found is None:
        raise NotFound("model", job.fine_tuned_model or job.id)
    verdict = found.version.verdict or {}
    return {
        "finetuned_model_id": found.id,
        "job_id": job.id,
        "served_model": found.model.name,
        "version": found.version.version,
        "promoted": verdict.get("promoted"),
        "reason": verdict.get("reason"),
    }


def state(session: Session, principal: Principal, job_id: str) -> dict[str, Any]:
    """What a client that does not wait polls; 404 for none of this tenant's jobs."""
    job = jobs.get(session, principal, job_id)
    status, result, error = _STATES.get(JobStatus(job.status), job.status), None, None
    if JobStatus(job.status) in TERMINAL:
        try:
            result = _result(session, principal, job)
        except ApiError as failure:  # of a job that succeeded: its model was deleted since
            status, error = ("failed" if status == "succeeded" else status), face_error_body(failure)["error"]
    return {"status": status, "result": result, "error": error}
