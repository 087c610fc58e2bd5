"""Rules of jobs: what may be submitted, what a caller may ask of a running one, how a row is shown."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Row
from sqlalchemy.orm import Session

from app.auth.keys import Principal
from app.backbones.service import require_weights
from app.errors import ApiError, Conflict, NotFound
from app.files import service as files
from app.files.fields import ROLE_FIELDS, FileSpec
from app.files.parse import parsed
from app.files.upload import Upload
from app.ids import JOB, new_id, utc_now
from app.jobs.estimate import estimate
from app.jobs.measurements import Data, DryRun, ask, key_of
from app.jobs.repository import Jobs
from app.jobs.schemas import JobCreate, JobEstimate, JobObject
from app.jobs.show import method_of, show
from app.jobs.states import JobStatus
from app.paging import Page, PageQuery, list_rows, to_page
from app.queue import RUN_JOB, enqueue
from app.registry.register import check_register_as
from app.services import Services
from app.settings import Settings
from app.storage import MissingObject, file_key
from app.tables import File, Job
from tsfm import catalog
from tsfm.errors import ConfigError
from tsfm.request import FinetuneRequest, random_start, resolve
from tsfm.series.options import ReadOptions

RETRY_AFTER_SECONDS = 30
_RACES = 3
"""A state can change between two conditional updates; after so many it is a storm, not a race."""


def create_from_file(session: Session, services: Services, principal: Principal, spec: JobCreate) -> JobObject | DryRun:
    """A job on a stored file. Roles given here are laid over the file's own; where that changes how it is read, the job
    gets a file of its own."""
    request = requested(spec, services)
    if spec.training_file is None:
        raise ApiError(
            422, "missing_field", "training_file is required (or send the file itself by form).", param="training_file"
        )
    file = files.get_file(session, principal.tenant_id, spec.training_file, lock=True)
    options = ReadOptions.from_mapping({**file.options, **given_roles(spec)})
    if options != ReadOptions.from_mapping(file.options):
        return _on_reread_file(session, services, principal, spec, request, file, options)
    reading = files.require_processed(file)
    data = Data(sha256=file.sha256, options=file.options, reading=reading, file_id=file.id)
    if spec.dry_run:
        return _dry_run(session, services, principal, request, data)
    return _create(session, services, principal, spec, request, data)


def create_from_upload(
    session: Session, services: Services, principal: Principal, spec: JobCreate, upload: Upload, file_spec: FileSpec
) -> JobObject | DryRun:
    """A job and its file in one transaction: either both stand or nothing is kept. Blocking for as long as parsing."""
    request = requested(spec, services)
    _check_inline(
        upload.num_bytes, services.settings, mend="POST it to /v1/files, then the job with training_file.", param="file"
    )
    if spec.dry_run:
        with parsed(
            upload.path,
            settings=services.settings,
            filename=file_spec.filename,
            options=file_spec.options,
            timeout_seconds=services.settings.parse_seconds,
        ) as found:
            options = file_spec.options.to_mapping()
            data = Data(sha256=upload.sha256, options=options, reading=found.reading, series=found.series)
            return _dry_run(session, services, principal, request, data)
    file = files.create_from_upload(session, services, tenant_id=principal.tenant_id, upload=upload, spec=file_spec)
    reading = files.require_processed(file)
    data = Data(sha256=file.sha256, options=file.options, reading=reading, file_id=file.id)
    return _create(session, services, principal, spec, request, data)


def requested(spec: JobCreate, services: Services) -> FinetuneRequest:
    """All that can be checked without the file: names, options, ranges, and that the weights lie here."""
    limit = services.settings.max_prediction_length
    if spec.prediction_length > limit:
        raise ConfigError(f"prediction_length may be at most {limit} on this service.", param="prediction_length")
    request = FinetuneRequest.from_mapping(
        {
            "backbone": spec.model,
            "method": spec.method,
            "prediction_length": spec.prediction_length,
            "task": spec.task,
            "scoring": spec.scoring,
            "context_length": spec.context_length,
            "hyperparameters": spec.hyperparameters,
            "budget_seconds": spec.budget.seconds if spec.budget else None,
            "seed": spec.seed,
            "initialisation": spec.initialisation,
            "landscape": spec.landscape,
            "with_test": spec.gate is not None,
            "refit": spec.refit,
            "metric": spec.gate.metric if spec.gate else None,
            "min_gain": spec.gate.min_gain if spec.gate else 0.0,
        }
    )
    if random_start(request.initialisation) is None:
        require_weights(
            catalog.backbone(request.backbone), services.settings, accept_license=spec.accept_license, param="model"
        )
    return request


def given_roles(spec: JobCreate) -> dict[str, Any]:
    """The column roles given with the job, by option name."""
    return {name: value for name in sorted(ROLE_FIELDS) if (value := getattr(spec, name)) is not None}


def _check_inline(num_bytes: int, settings: Settings, *, mend: str, param: str) -> None:
    if num_bytes > settings.inline_parse_bytes:
        raise ApiError(
            413,
            "too_large",
            f"A file of up to {settings.inline_parse_bytes:,} bytes is read while a job is asked for; this one has "
            f"{num_bytes:,}. {mend}",
            param=param,
        )


def _on_reread_file(
    session: Session,
    services: Services,
    principal: Principal,
    spec: JobCreate,
    request: FinetuneRequest,
    file: File,
    options: ReadOptions,
) -> JobObject | DryRun:
    """The stored bytes once more, read by other roles: a job then names the file it was really trained on."""
    _check_inline(
        file.bytes,
        services.settings,
        mend="Upload it again with these roles, then ask for the job without them.",
        param="training_file",
    )
    session.rollback()  # the parse may take a while and needs no transaction
    with tempfile.TemporaryDirectory(dir=services.settings.tmp_dir, prefix="reread-") as work:
        raw = Path(work) / "raw"
        try:
            services.store.get_to(file_key(file.id), raw)
        except MissingObject as error:
            message = f"The stored bytes of {file.id} are gone. Upload the file again."
            raise Conflict("content_missing", message, param="training_file") from error
        upload = Upload(path=raw, filename=file.filename, num_bytes=file.bytes, sha256=file.sha256, fields={})
        again = FileSpec(filename=file.filename, purpose=file.purpose, options=options, expires_at=file.expires_at)
        return create_from_upload(session, services, principal, spec, upload, again)


def _dry_run(
    session: Session, services: Services, principal: Principal, request: FinetuneRequest, data: Data
) -> DryRun:
    resolved = _resolve(request, data.reading)
    shown = JobEstimate(
        object="fine_tuning.job.estimate",
        model=resolved["backbone"],
        task=resolved["task"],
        scoring=resolved["scoring"],
        prediction_length=resolved["prediction_length"],
        context_length=resolved["context_length"],
        freq=resolved["freq"],
        method=method_of(resolved, None),
        hyperparameters=resolved["hyperparameters"],
        seed=resolved["seed"],
        initialisation=resolved["initialisation"],
        estimate=estimate(resolved, data.reading),
    )
    return ask(session, services, principal.tenant_id, shown, resolved, data)


def _resolve(request: FinetuneRequest, reading: Mapping[str, Any]) -> dict[str, Any]:
    """What depends on the series: lengths, and covariates the backbone must be able to use."""
    _refuse_unusable_covariates(catalog.backbone(request.backbone), reading["columns"])
    return resolve(request, reading)


def _refuse_unusable_covariates(spec: catalog.BackboneSpec, columns: Mapping[str, Any]) -> None:
    usable = {"past_covariates": spec.past_covariates, "future_covariates": spec.future_covariates, "static": False}
    for role, can in usable.items():
        if columns.get(role) and not can:
            param = "static_columns" if role == "static" else f"{role[:-1]}_columns"
            raise ConfigError(
                f"{spec.name} cannot use {param} ({', '.join(columns[role])}). Leave them out, or choose "
                "a backbone that can (GET /v1/backbones).",
                param=param,
                code="covariates_unsupported",
            )


def _create(
    session: Session,
    services: Services,
    principal: Principal,
    spec: JobCreate,
    request: FinetuneRequest,
    data: Data,
) -> JobObject:
    resolved = _resolve(request, data.reading)
    measured = services.measuring.cache.get(key_of(resolved, data))
    jobs = Jobs(session=session, tenant_id=principal.tenant_id)
    if spec.register_as is not None:
        check_register_as(
            session,
            tenant_id=principal.tenant_id,
            name=spec.register_as,
            task=request.task,
            prediction_length=request.prediction_length,
            freq=resolved["freq"],
            columns=data.reading.get("columns", {}),
        )
    _check_room(jobs, services.settings.max_queued_jobs)
    now = utc_now()
    job = Job(
        id=new_id(JOB),
        tenant_id=principal.tenant_id,
        status=JobStatus.QUEUED.value,
        training_file=data.file_id,
        request=spec.model_dump(mode="json", exclude_unset=True),
        resolved=resolved,
        estimate=(measured or estimate(resolved, data.reading)).model_dump(),
        suffix=spec.suffix,
        register_as=spec.register_as,
        user_metadata=spec.metadata,
        attempt=0,
        cancel_requested=False,
        pause_requested=False,
        sent_at=now,
        created_at=now,
    )
    jobs.add(job)
    enqueue(session, services.queue, RUN_JOB, job.id)
    return show(job)


def _check_room(jobs: Jobs, limit: int) -> None:
    if jobs.num_active() >= limit:
        raise ApiError(
            429,
            "too_many_jobs",
            f"{limit} jobs wait or run already. Wait for one to end, or cancel one.",
            headers={"retry-after": str(RETRY_AFTER_SECONDS)},
        )


def get(session: Session, principal: Principal, job_id: str) -> Job:
    """The tenant's job, or 404."""
    job = Jobs(session=session, tenant_id=principal.tenant_id).get(job_id)
    if job is None:
        raise NotFound("job", job_id)
    return job


def list_jobs(
    session: Session,
    principal: Principal,
    query: PageQuery,
    *,
    status: JobStatus | None = None,
    training_file: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Page[JobObject]:
    """Newest first. A job that left the filtered state meanwhile may still be the place to go on from."""
    jobs = Jobs(session=session, tenant_id=principal.tenant_id)
    found = list_rows(
        session,
        jobs.every(status=status, training_file=training_file, metadata=metadata),
        query,
        keys=(Job.created_at, Job.id),
        id_column=Job.id,
        cursors=jobs.every(),
    )
    return to_page(found, _show_row, id_of=lambda job: job.id)


def _show_row(row: Row[Job]) -> JobObject:
    return show(row[0])


def cancel(session: Session, principal: Principal, job_id: str) -> JobObject:
    """Idempotent: a job that has ended, or is about to, is answered as it is."""
    return _ask(session, principal, job_id, Jobs.request_cancel, asked=lambda job: _ended(job) or job.cancel_requested)


def pause(session: Session, principal: Principal, job_id: str) -> JobObject:
    """Idempotent while the job can be paused; 409 once it has ended or is being cancelled."""
    return _ask(
        session, principal, job_id, Jobs.request_pause, asked=lambda job: _is(job, "paused") or job.pause_requested
    )


def resume(session: Session, services: Services, principal: Principal, job_id: str) -> JobObject:
    """Idempotent: a job that waits or runs already is answered as it is; 409 once it has ended."""
    shown = _ask(
        session,
        principal,
        job_id,
        Jobs.resume,
        asked=lambda job: _is(job, "queued") or (_is(job, "running") and not job.pause_requested),
    )
    if shown.status == JobStatus.QUEUED.value:
        enqueue(session, services.queue, RUN_JOB, job_id)
    return shown


def _ask(
    session: Session,
    principal: Principal,
    job_id: str,
    change: Callable[[Jobs, str], Job | None],
    *,
    asked: Callable[[Job], bool],
) -> JobObject:
    """Makes the change, or answers the job if what is asked is so already; 409 where it can never be."""
    jobs = Jobs(session=session, tenant_id=principal.tenant_id)
    job = get(session, principal, job_id)
    for _ in range(_RACES):
        changed = change(jobs, job_id)
        if changed is not None:
            return show(changed)
        session.expire_all()
        job = get(session, principal, job_id)
        if asked(job):
            return show(job)
        if _ended(job) or _is(job, "cancelling"):
            break
    raise Conflict("job_state", f"The job {job_id} is {job.status}: this cannot be asked of it any more.")


def _is(job: Job, status: str) -> bool:
    return job.status == status


def _ended(job: Job) -> bool:
    return job.status in {"succeeded", "failed", "cancelled"}
