"""Every query about uploads in parts. Each takes the tenant, or the id of an upload that was found by it."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.tables import ChunkedUpload, UploadPart

PENDING = "pending"
COMPLETED = "completed"
CANCELLED = "cancelled"
EXPIRED = "expired"


def get(session: Session, tenant_id: str, upload_id: str, *, lock: bool = False) -> ChunkedUpload | None:
    """One upload; `lock` keeps it from ending until the transaction does."""
    statement = select(ChunkedUpload).where(ChunkedUpload.tenant_id == tenant_id, ChunkedUpload.id == upload_id)
    return session.scalar(statement.with_for_update() if lock else statement)


def parts(session: Session, upload_id: str) -> dict[str, UploadPart]:
    """All that arrived, by id."""
    return {part.id: part for part in session.scalars(select(UploadPart).where(UploadPart.upload_id == upload_id))}


def totals(session: Session, upload_id: str) -> tuple[int, int]:
    """Number and bytes of the parts."""
    counts = select(func.count(), func.coalesce(func.sum(UploadPart.bytes), 0)).where(UploadPart.upload_id == upload_id)
    row = session.execute(counts).one()
    return int(row[0]), int(row[1])


def part_exists(session: Session, part_id: str) -> bool:
    return session.scalar(select(UploadPart.id).where(UploadPart.id == part_id)) is not None


def end(session: Session, upload_id: str, status: str, **values: Any) -> ChunkedUpload | None:
    """The one way out of `pending`; None when it has ended already."""
    statement = (
        update(ChunkedUpload)
        .where(ChunkedUpload.id == upload_id, ChunkedUpload.status == PENDING)
        .values(status=status, **values)
        .returning(ChunkedUpload)
    )
    options = {"synchronize_session": False, "populate_existing": True}
    return session.execute(statement, execution_options=options).scalar_one_or_none()


def overdue(session: Session, *, now: datetime) -> list[str]:
    statement = select(ChunkedUpload.id).where(ChunkedUpload.status == PENDING, ChunkedUpload.expires_at <= now)
    return list(session.scalars(statement.order_by(ChunkedUpload.expires_at).limit(100)))


def forget(session: Session, *, before: datetime) -> None:
    """Deletes the rows of uploads that ended and expired so long ago."""
    old = select(ChunkedUpload.id).where(ChunkedUpload.status != PENDING, ChunkedUpload.expires_at < before)
    ids = list(session.scalars(old.limit(100)))
    session.execute(delete(UploadPart).where(UploadPart.upload_id.in_(ids)))
    session.execute(delete(ChunkedUpload).where(ChunkedUpload.id.in_(ids)))
