"""All queries on models, versions and aliases. One tenant per repository: no query leaves its rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from app.tables import File, Job, JobEvent, Model, ModelAlias, ModelVersion, Tenant

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

    def models(self, *, after: Model | None, limit: int) -> list[Model]:
        """Living models, newest first, starting behind `after`."""
        query = select(Model).where(Model.tenant_id == self.tenant_id, Model.deleted_at.is_(None))
        if after is not None:
            query = query.where(
                or_(
                    Model.created_at < after.created_at,
                    and_(Model.created_at == after.created_at, Model.id < after.id),
                )
            )
        query = query.order_by(Model.created_at.desc(), Model.id.desc()).limit(limit)
        return list(self.session.execute(query).scalars())

    def versions(self, model_ids: Iterable[str]) -> list[ModelVersion]:
        """Versions of the models, newest first."""
        query = select(ModelVersion).where(ModelVersion.model_id.in_(list(model_ids)))
        return list(self.session.execute(query.order_by(ModelVersion.version.desc())).scalars())

    def version(self, model: Model, number: int) -> ModelVersion | None:
        query = select(ModelVersion).where(ModelVersion.model_id == model.id, ModelVersion.version == number)
        return self.session.execute(query).scalar_one_or_none()

    def newest(self, model: Model) -> ModelVersion | None:
        query = select(ModelVersion).where(ModelVersion.model_id == model.id)
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

    def file(self, file_id: str) -> File | None:
        """The living file of this tenant."""
        query = select(File).where(File.id == file_id, File.tenant_id == self.tenant_id, File.deleted_at.is_(None))
        return self.session.execute(query).scalar_one_or_none()

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


def referenced_blobs(session: Session, digests: Iterable[str]) -> set[str]:
    """Which artifact digests some living version of any tenant still uses (blobs are shared by content)."""
    query = (
        select(ModelVersion.digest)
        .join(Model, Model.id == ModelVersion.model_id)
        .where(ModelVersion.digest.in_(list(digests)), Model.deleted_at.is_(None))
    )
    return set(session.execute(query).scalars())


def living_files(session: Session) -> set[str]:
    """sha256 of every blob a living version of any tenant uses."""
    query = select(ModelVersion.files).join(Model, Model.id == ModelVersion.model_id).where(Model.deleted_at.is_(None))
    return {sha for files in session.execute(query).scalars() for sha in files.values()}


def running_jobs(session: Session) -> int:
    """Jobs of any tenant that may be writing blobs right now."""
    query = select(func.count()).select_from(Job).where(Job.status.in_(("running", "cancelling")))
    return session.execute(query).scalar_one()
