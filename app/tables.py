"""Every database table. Portable between SQLite and PostgreSQL: plain JSON, text states, UTC microsecond timestamps.

A row belongs to one tenant; repositories filter by `tenant_id` in every query. Names of backbones, methods and states
are text checked by the catalogue and by `app/jobs/states.py`, so that a new backbone needs no migration.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python, whatever the database keeps (SQLite drops the zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "naive timestamps never reach the database"
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, datetime: UtcDateTime, str: Text}


class Tenant(Base):
    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]


class ApiKey(Base):
    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str]
    secret_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class File(Base):
    __tablename__ = "files"
    __table_args__ = (Index(None, "tenant_id", "created_at", "id"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    """uploaded (being parsed by a worker: shown as processing) | processed | error"""
    options: Mapped[dict[str, Any]]
    reading: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class ChunkedUpload(Base):
    """A file that arrives in parts; the row outlives its end for a day, so that what is repeated finds its answer."""

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "status", "expires_at"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str | None]
    bytes: Mapped[int] = mapped_column(BigInteger)
    """As announced: the parts must add up to it."""
    options: Mapped[dict[str, Any]]
    """Column roles, as of a file."""
    file_expiry_seconds: Mapped[int | None] = mapped_column(Integer)
    """After which the file goes, counted from its creation; null: never."""
    status: Mapped[str] = mapped_column(String(16))
    """pending | completed | cancelled | expired"""
    part_ids: Mapped[list[Any] | None] = mapped_column(JSON)
    """In the order in which they were joined; null until then."""
    file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class UploadPart(Base):
    __tablename__ = "upload_parts"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (Index(None, "tenant_id", "created_at", "id"), Index(None, "status", "lease_until"))
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    status: Mapped[str] = mapped_column(String(16))
    training_file: Mapped[str] = mapped_column(ForeignKey("files.id"))
    request: Mapped[dict[str, Any]]
    """What the caller asked for, as sent."""
    resolved: Mapped[dict[str, Any]]
    """Every default filled in: `tsfm.request.FinetuneRequest` as a mapping plus the echoed fields."""
    estimate: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """What the run was expected to cost when it was submitted."""
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """`FinetuneResult` as a mapping, once succeeded."""
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    suffix: Mapped[str | None]
    register_as: Mapped[str | None]
    user_metadata: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    fine_tuned_model: Mapped[str | None]
    model_version: Mapped[int | None] = mapped_column(Integer)
    owner: Mapped[str | None] = mapped_column(String(64))
    """Fencing token of the current claim; a writer whose token is not here has lost the job."""
    lease_until: Mapped[datetime | None]
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False)
    sent_at: Mapped[datetime | None]
    """When a broker message was last sent for this row; the sweeper re-sends what stays queued."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobEvent(Base):
    __tablename__ = "job_events"
    __table_args__ = (Index(None, "job_id", "sequence"),)
    sequence: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    """Order of writing; `id` of an event stream, so that `Last-Event-ID` resumes."""
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(8))
    type: Mapped[str] = mapped_column(String(16))
    """message | metrics | status"""
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON)


class JobCheckpoint(Base):
    __tablename__ = "job_checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"),)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """`ftckpt_…`: also the name that `/v1/forecast` takes."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    step: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime]
    metrics: Mapped[dict[str, Any]]
    digest: Mapped[str] = mapped_column(String(80))
    files: Mapped[dict[str, Any]]
    """Artifact path → sha256 of the stored blob; empty once it is no longer kept."""


class Model(Base):
    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("tenant_id", "name"), Index(None, "tenant_id", "created_at", "id"))
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str]
    backbone: Mapped[str]
    task: Mapped[str]
    prediction_length: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class ModelVersion(Base):
    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model_id", "version"), UniqueConstraint("job_id", "refit"))
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    """Short id, `^[A-Za-z0-9_-]{1,36}$` (clients.md: the Nixtla client accepts no other)."""
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    version: Mapped[int] = mapped_column(Integer)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    """One version per job, and one refit: the unique constraint is what makes a second registration impossible."""
    digest: Mapped[str] = mapped_column(String(80), index=True)
    files: Mapped[dict[str, Any]]
    """Artifact path → sha256 of the stored blob."""
    manifest: Mapped[dict[str, Any]]
    verdict: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    gate: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """The verdict with its evidence, as in the job."""
    fallback: Mapped[str | None]
    """What a bare name serves instead because it was not beaten; null when the tuned weights won."""
    judged: Mapped[bool]
    """Whether its test block was read for a verdict: never of a refit, nor where the gate was given up."""
    refit: Mapped[bool] = mapped_column(default=False, server_default=false())
    """The same recipe trained on all history: no alias points here by itself."""
    incumbent: Mapped[int | None] = mapped_column(Integer)
    """Number of the version of this model that was in production when this one was judged."""
    created_at: Mapped[datetime]


class Verdict(Base):
    """Every look at a test block is counted: the k-th verdict on the same rows needs stronger evidence."""

    __tablename__ = "verdicts"
    __table_args__ = (UniqueConstraint("tenant_id", "test_sha256", "job_id"),)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    test_sha256: Mapped[str] = mapped_column(String(80), primary_key=True)
    """Digest of the test rows, whatever file they came from."""
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    """k, from 1: two jobs never share one."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime]


class Measurement(Base):
    """A dry run that waits for a worker: whoever asked takes the row away again, answered or not."""

    __tablename__ = "measurements"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    file_id: Mapped[str] = mapped_column(String(64))
    """Under which the series are stored; the row's own id where they were stored for it alone."""
    resolved: Mapped[dict[str, Any]]
    reading: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """Figures of `app.jobs.schemas.Estimate`, or `{"error": …}`."""
    created_at: Mapped[datetime]


class ModelAlias(Base):
    __tablename__ = "model_aliases"
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
    updated_at: Mapped[datetime]


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    status_code: Mapped[int | None] = mapped_column(Integer)
    """Null while the first request is still running."""
    response: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[datetime]


class Worker(Base):
    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    hostname: Mapped[str]
    device: Mapped[str]
    seen_at: Mapped[datetime]
