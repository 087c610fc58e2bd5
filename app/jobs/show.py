"""Rows as the API shows them. Every field is there from the first answer on; what is not known yet is null."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from app.ids import unix_seconds, utc_now
from app.jobs.schemas import CheckpointObject, Estimate, JobError, JobEventObject, JobObject, Progress
from app.jobs.states import JobStatus
from app.tables import Job, JobCheckpoint, JobEvent


def show(job: Job) -> JobObject:
    result: Mapping[str, Any] = job.result or {}
    resolved: Mapping[str, Any] = result.get("resolved") or job.resolved
    asked = job.resolved
    return JobObject(
        id=job.id,
        object="fine_tuning.job",
        created_at=unix_seconds(job.created_at),
        started_at=unix_seconds(job.started_at) if job.started_at else None,
        finished_at=unix_seconds(job.finished_at) if job.finished_at else None,
        estimated_finish=_estimated_finish(job),
        status=job.status,
        pause_requested=job.pause_requested,
        attempt=job.attempt,
        organization_id=job.tenant_id,
        model=asked["backbone"],
        fine_tuned_model=job.fine_tuned_model,
        model_version=job.model_version,
        digest=result.get("digest"),
        training_file=job.training_file,
        validation_file=None,
        task=asked["task"],
        scoring=asked.get("scoring"),
        prediction_length=asked["prediction_length"],
        context_length=asked["context_length"],
        freq=asked["freq"],
        method=method_of(asked, resolved if result else None),
        hyperparameters=dict(resolved["hyperparameters"]),
        budget=None if asked["budget_seconds"] is None else {"seconds": asked["budget_seconds"]},
        seed=asked["seed"],
        initialisation=asked.get("initialisation", "pretrained"),
        accept_license=bool(job.request.get("accept_license", False)),
        suffix=job.suffix,
        register_as=job.register_as,
        refit=bool(asked.get("refit", False)),
        refit_version=(result.get("refit") or {}).get("version"),
        metadata=job.user_metadata or {},
        estimate=Estimate(**job.estimate) if job.estimate else None,
        progress=_progress(job),
        candidates=result.get("candidates"),
        verdict=result.get("verdict"),
        gate=result.get("gate"),
        calibration=result.get("calibration"),
        landscape=result.get("landscape"),
        data_report=result.get("data_report"),
        search=result.get("search"),
        timing=result.get("timing"),
        num_trainable_parameters=result.get("num_trainable_parameters"),
        manifest=result.get("manifest"),
        trained_tokens=None,
        result_files=result.get("result_files", []),
        integrations=None,
        error=JobError(**job.error) if job.error else None,
    )


def method_of(asked: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> dict[str, Any]:
    """`{type, chosen, …options}`: the options as asked and defaulted, then as the run settled them."""
    settled = chosen or asked
    return {
        "type": asked["method"],
        "chosen": chosen["method"] if chosen else None,
        **settled["method_config"],
    }


def show_event(event: JobEvent) -> JobEventObject:
    return JobEventObject.model_validate(
        {
            "id": event.id,
            "object": "fine_tuning.job.event",
            "created_at": unix_seconds(event.created_at),
            "level": event.level,
            "type": event.type,
            "message": event.message,
            "data": event.data,
        }
    )


def show_checkpoint(row: JobCheckpoint) -> CheckpointObject:
    return CheckpointObject(
        id=row.id,
        object="fine_tuning.job.checkpoint",
        created_at=unix_seconds(row.created_at),
        fine_tuning_job_id=row.job_id,
        fine_tuned_model_checkpoint=row.id if row.files else None,
        digest=row.digest,
        judged=False,
        metrics={name: value for name, value in row.metrics.items() if value is not None},
        step_number=row.step,
    )


def _progress(job: Job) -> Progress | None:
    """The run's last report. That all is done the job's end says, and what has stopped has no time left."""
    if not job.progress:
        return None
    left = job.progress["eta_seconds"] if job.status == JobStatus.RUNNING.value else None
    done = {"fraction": 1.0} if job.status == JobStatus.SUCCEEDED.value else {}
    return Progress(**{**job.progress, "eta_seconds": left, **done})


def _estimated_finish(job: Job) -> int | None:
    """When the run itself expects to end; only while it runs."""
    if job.status != JobStatus.RUNNING.value or not job.progress:
        return None
    eta = job.progress.get("eta_seconds")
    return None if eta is None else unix_seconds(utc_now() + timedelta(seconds=float(eta)))
