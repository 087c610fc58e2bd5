"""Every query about files. Each takes the tenant, but for what the worker asks."""

from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session

from app.tables import File, Job

UPLOADED = "uploaded"
PROCESSED = "processed"
FAILED = "error"
LIVE_JOB_STATES = ("queued", "running", "paused", "cancelling")
"""While a job is in one of these, its file stays."""


def owned(tenant_id: str) -> Select[File]:
    """Every file of the tenant, deleted ones too."""
    return select(File).where(File.tenant_id == tenant_id)


def visible(tenant_id: str, *, now: datetime) -> Select[File]:
    """What the tenant sees: neither deleted nor expired."""
    return owned(tenant_id).where(File.deleted_at.is_(None), or_(File.expires_at.is_(None), File.expires_at > now))


def get(session: Session, tenant_id: str, file_id: str, *, now: datetime, lock: bool = False) -> File | None:
    """One visible file; `lock` keeps it from being deleted until the transaction ends."""
    statement = visible(tenant_id, now=now).where(File.id == file_id)
    return session.scalar(statement.with_for_update(read=True) if lock else statement)


def get_owned(session: Session, tenant_id: str, file_id: str) -> File | None:
    """One file of the tenant, deleted ones too; locked, so that no job can start to use it meanwhile."""
    return session.scalar(owned(tenant_id).where(File.id == file_id).with_for_update())


def live_job_of(session: Session, file_id: str) -> str | None:
    """The id of a job that still needs the file."""
    statement = select(Job.id).where(Job.training_file == file_id, Job.status.in_(LIVE_JOB_STATES))
    return session.scalar(statement.order_by(Job.created_at).limit(1))


def exists(session: Session, file_id: str) -> bool:
    return session.scalar(select(File.id).where(File.id == file_id)) is not None


def is_kept(session: Session, file_id: str) -> bool:
    """Whether the stored objects of this id belong to a file that is not deleted."""
    return session.scalar(select(File.id).where(File.id == file_id, File.deleted_at.is_(None))) is not None


def pending_ids(session: Session, *, older_than: datetime) -> list[str]:
    """Files nobody has read yet although their message is that old; the sweeper sends it again."""
    statement = select(File.id).where(File.status == UPLOADED, File.deleted_at.is_(None), File.created_at < older_than)
    return list(session.scalars(statement.order_by(File.created_at).limit(100)))


def pending(session: Session, file_id: str) -> File | None:
    """For the worker: a file that waits to be read."""
    statement = select(File).where(File.id == file_id, File.status == UPLOADED, File.deleted_at.is_(None))
    return session.scalar(statement)


def finish_reading(session: Session, file_id: str, values: dict[str, Any]) -> bool:
    """Writes the outcome once; False when the file was read by another worker or deleted meanwhile."""
    done = session.execute(
        update(File)
        .where(File.id == file_id, File.status == UPLOADED, File.deleted_at.is_(None))
        .values(**values)
        .returning(File.id)
    )
    return done.one_or_none() is not None


def expired(session: Session, *, now: datetime) -> list[File]:
    statement = select(File).where(File.deleted_at.is_(None), File.expires_at <= now)
    return list(session.scalars(statement.order_by(File.expires_at).limit(100)))


def totals(session: Session, tenant_id: str, *, now: datetime) -> tuple[int, int]:
    """Number and bytes of the tenant's visible files."""
    seen = visible(tenant_id, now=now).subquery()
    row = session.execute(select(func.count(), func.coalesce(func.sum(seen.c.bytes), 0)).select_from(seen)).one()
    return int(row[0]), int(row[1])
