"""Rows for tests of jobs: one tenant, one processed file, jobs by status."""

from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.db import session_scope
from app.ids import FILE, JOB, new_id, utc_now
from app.jobs.states import HELD, JobStatus
from app.tables import File, Job, JobEvent, Tenant

TENANT = "tenant-a"
OWNER = "owner-1"
RESOLVED: dict[str, Any] = {
    "backbone": "temper-tiny",
    "method": "sff",
    "method_config": {"alpha": 0.9},
    "task": "forecast",
    "prediction_length": 12,
    "context_length": 512,
    "freq": "h",
    "hyperparameters": {"learning_rate": [0.001, 0.003]},
    "budget_seconds": None,
    "seed": 0,
    "with_test": True,
}


def add_tenant(session: Session, tenant_id: str = TENANT) -> str:
    """The tenant and a processed file of its own; answers the file's id."""
    now = utc_now()
    session.add(Tenant(id=tenant_id, name=tenant_id, created_at=now))
    session.flush()
    return add_file(session, tenant_id)


def add_file(session: Session, tenant_id: str) -> str:
    now = utc_now()
    file = File(
        id=new_id(FILE),
        tenant_id=tenant_id,
        filename="load.csv",
        purpose="fine-tune",
        bytes=1,
        sha256="0" * 64,
        status="processed",
        options={},
        reading={"freq": "h", "max_length": 1000},
        error=None,
        created_at=now,
        expires_at=None,
        deleted_at=None,
    )
    session.add(file)
    session.flush()
    return file.id


def add_job(session: Session, file_id: str, status: JobStatus = JobStatus.QUEUED, **values: Any) -> str:
    """A job row as the service or a worker would have left it; `lease_seconds` is relative to now."""
    now = utc_now()
    lease = now + timedelta(seconds=values.pop("lease_seconds", 30))
    held = status in HELD
    row: dict[str, Any] = {
        "id": new_id(JOB),
        "tenant_id": TENANT,
        "status": status.value,
        "training_file": file_id,
        "request": {},
        "resolved": {},
        "owner": OWNER if held else None,
        "lease_until": lease if held else None,
        "attempt": 1 if held else 0,
        "cancel_requested": status is JobStatus.CANCELLING,
        "sent_at": now,
        "created_at": now,
    }
    job = Job(**(row | values))
    session.add(job)
    session.flush()
    return job.id


def job_of(engine: Engine, job_id: str) -> Job:
    with session_scope(engine, read_only=True) as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def events_of(engine: Engine, job_id: str) -> list[JobEvent]:
    """Oldest first."""
    with session_scope(engine, read_only=True) as session:
        return list(session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.sequence)))
