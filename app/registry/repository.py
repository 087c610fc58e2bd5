"""All queries on models, versions and aliases. One tenant per repository: no query leaves its rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.jobs.states import HELD
from app.tables import File, Job, JobCheckpoint, JobEvent, Model, ModelAlias, ModelVersion, Tenant

PRODUCTION = "production"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Models of one tenant, through one session."""

    session: Session
    tenant_id: str

    def tenant_name(self) -> str:
        return self.session.execute(select(Tenant.name).where(Tenant.id == self.tenant_id)).scalar_one()

    def model(self, name: str, *, lock: bool = False) -> Model | None:
        """The living model called `name`; `lock` holds its row until the transaction ends (a no-op on SQLite)."""
        query = select(Model).where(Model.tenant_id == self.tenant_id, Model.name == name, Model.deleted_at.is_(None))
        return self.session.execute(query.with_for_update() if lock else query).scalar_one_or_none()

    def living(self) -> Select[Model]:
        """The tenant's models that are not deleted, unordered."""
        return self.every().where(Model.deleted_at.is_(None))

    def every(self) -> Select[Model]:
        """The same with deleted ones: what a paging cursor may name."""
        return select(Model).where(Model.tenant_id == self.tenant_id)

    def versions_of(self, model: Model) -> Select[ModelVersion]:
        return select(ModelVersion).where(ModelVersion.model_id == model.id)

    def versions(self, model_ids: Iterable[str]) -> list[ModelVersion]:
        """Versions of the models, newest first."""
        query = select(ModelVersion).where(ModelVersion.model_id.in_(list(model_ids)))
        return list(self.session.execute(query.order_by(ModelVersion.version.desc())).scalars())

    def version(self, model: Model, number: int) -> ModelVersion | None:
        query = select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.version == number)
        return self.session.execute(query).scalar_one_or_none()

    def newest(self, model: Model, *, refits: bool = False) -> ModelVersion | None:
        """The last version that a gate has seen; with `refits` the last of all."""
        query = select(ModelVersion).where(ModelVersion.model_id == model.id)
        if not refits:
            query = query.where(ModelVersion.refit.is_(False))
        return self.session.execute(query.order_by(ModelVersion.version.desc()).limit(1)).scalar_one_or_none()

    def by_short_id(self, version_id: str) -> tuple[Model, ModelVersion] | None:
        query = (
            select(Model, ModelVersion)
            .join(ModelVersion, ModelVersion.model_id == Model.id)
            .where(ModelVersion.id == version_id, Model.tenant_id == self.tenant_id, Model.deleted_at.is_(None))
        )
        row = self.session.execute(query).one_or_none()
        return None if row is None else (row[0], row[1])

    def aliases(self, model_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        """Model id → alias → version."""
        found: dict[str, dict[str, int]] = {model_id: {} for model_id in model_ids}
        for alias in self.session.execute(select(ModelAlias).where(ModelAlias.model_id.in_(list(found)))).scalars():
            found[alias.model_id][alias.alias] = alias.version
        return found

    def alias(self, model: Model, alias: str) -> ModelAlias | None:
        return self.session.get(ModelAlias, (model.id, alias))

    def job(self, job_id: str) -> Job | None:
        return self.session.execute(
            select(Job).where(Job.id == job_id, Job.tenant_id == self.tenant_id)
        ).scalar_one_or_none()

    def checkpoint(self, checkpoint_id: str) -> tuple[JobCheckpoint, Job] | None:
        """A checkpoint whose weights are still kept, and its job."""
        query = (
            select(JobCheckpoint, Job)
            .join(Job, Job.id == JobCheckpoint.job_id)
            .where(JobCheckpoint.id == checkpoint_id, Job.tenant_id == self.tenant_id)
        )
        row = self.session.execute(query).one_or_none()
        return None if row is None or not row[0].files else (row[0], row[1])

    def file(self, file_id: str) -> File | None:
        """The living file of this tenant."""
        query = select(File).where(File.id == file_id, File.tenant_id == self.tenant_id, File.deleted_at.is_(None))
        return self.session.execute(query).scalar_one_or_none()

    def reading(self, file_id: str) -> dict[str, Any]:
        """How a file of this tenant was read, also one that was deleted since; empty where nothing is known."""
        query = select(File.reading).where(File.id == file_id, File.tenant_id == self.tenant_id)
        return self.session.execute(query).scalar_one_or_none() or {}

    def alias_events(self, job_ids: Iterable[str], *, limit: int) -> list[JobEvent]:
        """Alias moves (events whose data name an alias) recorded on the versions' jobs, newest first."""
        query = select(JobEvent).where(JobEvent.job_id.in_(list(job_ids)), JobEvent.type == "message")
        events = self.session.execute(query.order_by(JobEvent.sequence.desc())).scalars()
        return list(islice((event for event in events if event.data and "alias" in event.data), limit))

    def add_event(self, *, event_id: str, job_id: str, at: datetime, message: str, data: Mapping[str, Any]) -> None:
        self.session.add(
            JobEvent(
                id=event_id,
                job_id=job_id,
                created_at=at,
                level="info",
                type="message",
                message=message,
                data=dict(data),
            )
        )


def deleted_versions(session: Session) -> list[ModelVersion]:
    """Versions of deleted models, of any tenant, whose blobs were not freed yet."""
    query = select(ModelVersion).join(Model, Model.id == ModelVersion.model_id).where(Model.deleted_at.is_not(None))
    return [version for version in session.execute(query).scalars() if version.files]


def living_blobs(session: Session) -> set[str]:
    """sha256 of every blob that a living version or a checkpoint of any tenant uses (blobs are shared by content)."""
    query = select(ModelVersion.files).join(Model, Model.id == ModelVersion.model_id).where(Model.deleted_at.is_(None))
    kept = (*session.execute(query).scalars(), *session.execute(select(JobCheckpoint.files)).scalars())
    return {sha256 for files in kept for sha256 in files.values()}


def num_held_jobs(session: Session) -> int:
    """Jobs of any tenant that a worker holds, so that it may be storing blobs right now."""
    query = select(func.count()).select_from(Job).where(Job.status.in_([str(status) for status in HELD]))
    return session.execute(query).scalar_one()
