"""Every query of this face: versions by the ids its callers know, and the jobs that its finetune calls became."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.jobs.states import TERMINAL, JobStatus
from app.tables import Job, Model, ModelVersion, Tenant

OUTPUT_ID = "output_model_id"
FINGERPRINT = "nixtla_request"
"""Keys of a job's metadata: the id a caller chose, and the hash of what was asked."""
MAX_LISTED = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """A living version and how it came to be."""

    model: Model
    version: ModelVersion
    job: Job

    @property
    def id(self) -> str:
        """What callers name it by: the id they chose, else the version's short one. A refit has its own alone."""
        chosen = (self.job.user_metadata or {}).get(OUTPUT_ID)
        return str(chosen) if chosen and not self.version.refit else self.version.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunings:
    """Those of one tenant."""

    session: Session
    tenant_id: str

    def newest(self) -> list[Tuning]:
        """The last `MAX_LISTED`, newest first."""
        query = self._living().order_by(ModelVersion.created_at.desc(), ModelVersion.id).limit(MAX_LISTED)
        return list(self._found(query))

    def names(self) -> list[str]:
        """Of living models, as many, newest first."""
        mine = (Model.tenant_id == self.tenant_id, Model.deleted_at.is_(None))
        query = select(Model.name).where(*mine).order_by(Model.created_at.desc(), Model.id).limit(MAX_LISTED)
        return list(self.session.scalars(query))

    def find(self, model_id: str) -> Tuning | None:
        """By a version's short id, or by the id that a finetune call chose."""
        by_version = next(self._found(self._living().where(ModelVersion.id == model_id)), None)
        if by_version is not None:
            return by_version
        return next((found for job in self._asked(OUTPUT_ID, model_id) if (found := self.of_job(job.id))), None)

    def of_job(self, job_id: str) -> Tuning | None:
        """The judged version of a job, while its model lives."""
        query = self._living().where(ModelVersion.job_id == job_id, ModelVersion.refit.is_(False))
        return next(self._found(query), None)

    def in_model(self, model: Model) -> list[Tuning]:
        return list(self._found(self._living().where(Model.id == model.id)))

    def lock(self) -> None:
        """Until the transaction ends no other finetune call of the tenant looks (on SQLite every writer waits).

        `key_share`: the jobs that both have written refer to the tenant, and would else keep each other from its row.
        """
        mine = select(Tenant.id).where(Tenant.id == self.tenant_id)
        self.session.execute(mine.with_for_update(key_share=True))

    def repeated(self, fingerprint: str, *, since: datetime, but: str | None = None) -> Job | None:
        """The job of the same request: under way, or succeeded `since`."""
        for job in self._asked(FINGERPRINT, fingerprint):
            ended = job.finished_at is not None and job.finished_at < since
            if job.id != but and not ended and self._stands(job):
                return job
        return None

    def holder(self, output_model_id: str, *, but: str | None = None) -> Job | None:
        """The job that this id belongs to, while it is under way or its version lives."""
        jobs = self._asked(OUTPUT_ID, output_model_id)
        return next((job for job in jobs if job.id != but and self._stands(job)), None)

    def _stands(self, job: Job) -> bool:
        status = JobStatus(job.status)
        return status not in TERMINAL or (status is JobStatus.SUCCEEDED and self.of_job(job.id) is not None)

    def _asked(self, key: str, value: str) -> list[Job]:
        """Newest first."""
        query = select(Job).where(Job.tenant_id == self.tenant_id, Job.user_metadata[key].as_string() == value)
        return list(self.session.scalars(query.order_by(Job.created_at.desc(), Job.id)))

    def _living(self) -> Select[Model, ModelVersion, Job]:
        return (
            select(Model, ModelVersion, Job)
            .join(ModelVersion, ModelVersion.model_id == Model.id)
            .join(Job, Job.id == ModelVersion.job_id)
            .where(Model.tenant_id == self.tenant_id, Model.deleted_at.is_(None))
        )

    def _found(self, query: Select[Model, ModelVersion, Job]) -> Iterator[Tuning]:
        for model, version, job in self.session.execute(query):
            yield Tuning(model=model, version=version, job=job)
