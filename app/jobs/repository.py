"""Every query on jobs and their events. `transition` is the only writer of `jobs.status`: one conditional UPDATE,
with the event of the change in the same transaction.

Methods of `Jobs` belong to a tenant; what a worker does with a job it holds stands in `app/jobs/leases.py`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Select,
    Text,
    and_,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from app.ids import EVENT, new_id, utc_now
from app.jobs import states
from app.jobs.states import ACTIVE, JobStatus
from app.tables import Job, JobCheckpoint, JobEvent, UtcDateTime


def database_now(session: Session) -> ColumnElement[datetime]:
    """The clock that leases are judged by: PostgreSQL's own (its machines share it), ours on SQLite (one machine)."""
    if session.get_bind().dialect.name == "postgresql":
        return func.clock_timestamp(type_=DateTime(timezone=True))
    return literal(utc_now(), UtcDateTime)


def database_in(session: Session, seconds: float) -> ColumnElement[datetime]:
    """`database_now` plus `seconds` (negative: before now)."""
    if session.get_bind().dialect.name == "postgresql":
        return func.clock_timestamp(type_=DateTime(timezone=True)) + timedelta(seconds=seconds)
    return literal(utc_now() + timedelta(seconds=seconds), UtcDateTime)


def transition(
    session: Session,
    job_id: str,
    target: JobStatus,
    *,
    message: str,
    level: str = "info",
    data: Mapping[str, Any] | None = None,
    only_from: Collection[JobStatus] | None = None,
    where: Sequence[ColumnElement[bool]] = (),
    values: Mapping[str, Any] | None = None,
) -> Job | None:
    """Moves the job to `target` if its state and `where` allow it, and writes the event. None: nothing changed."""
    from_states = states.sources(target) & frozenset(only_from if only_from is not None else JobStatus)
    changed = dict(values or {}) | {"status": target.value}
    if target in states.TERMINAL:
        changed |= {"finished_at": database_now(session), "owner": None, "lease_until": None, "pause_requested": False}
    job = update_row(session, job_id, values=changed, where=(Job.status.in_(sorted(from_states)), *where))
    if job is not None:
        add_event(session, job_id, message, level=level, kind="status", data={"status": target.value, **(data or {})})
    return job


def update_row(
    session: Session, job_id: str, *, values: Mapping[str, Any], where: Sequence[ColumnElement[bool]]
) -> Job | None:
    """One conditional UPDATE … RETURNING; None when the row is not as `where` wants it."""
    statement = update(Job).where(Job.id == job_id, *where).values(**values).returning(Job)
    options = {"synchronize_session": False, "populate_existing": True}
    return session.execute(statement, execution_options=options).scalar_one_or_none()


def add_event(
    session: Session,
    job_id: str,
    message: str,
    *,
    level: str = "info",
    kind: str = "message",
    data: Mapping[str, Any] | None = None,
) -> None:
    """Appends to the job's history. Call it after the job's row was written in this transaction: the row's lock is
    what makes the sequence numbers of one job appear in order to readers."""
    event = JobEvent(
        id=new_id(EVENT),
        job_id=job_id,
        created_at=utc_now(),
        level=level,
        type=kind,
        message=message,
        data=dict(data) if data else None,
    )
    session.add(event)
    session.flush()


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """The jobs that one tenant may see."""

    session: Session
    tenant_id: str

    def get(self, job_id: str) -> Job | None:
        return self.session.scalar(self._mine().where(Job.id == job_id))

    def add(self, job: Job) -> None:
        assert job.tenant_id == self.tenant_id
        self.session.add(job)
        self.session.flush()
        add_event(self.session, job.id, "Job created and queued.", kind="status", data={"status": job.status})

    def num_active(self) -> int:
        """Jobs that wait or run."""
        condition = and_(Job.tenant_id == self.tenant_id, Job.status.in_(sorted(ACTIVE)))
        return self.session.scalar(select(func.count()).select_from(Job).where(condition)) or 0

    def every(
        self,
        *,
        status: JobStatus | None = None,
        training_file: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Select[Job]:
        """The tenant's jobs that pass the filters, for `app.paging.list_rows`.

        `metadata` names pairs that all have to be there; an empty one asks for jobs that have none at all.
        """
        query = self._mine()
        if status is not None:
            query = query.where(Job.status == status.value)
        if training_file is not None:
            query = query.where(Job.training_file == training_file)
        if metadata is None:
            return query
        if not metadata:
            return query.where(or_(Job.user_metadata.is_(None), cast(Job.user_metadata, Text).in_(("{}", "null"))))
        return query.where(*(self._has_pair(key, value) for key, value in metadata.items()))

    def _has_pair(self, key: str, value: str) -> ColumnElement[bool]:
        if self.session.get_bind().dialect.name == "postgresql":
            stored: ColumnElement[str] = Job.user_metadata[key].as_string()
            return stored == value
        pairs = func.json_each(Job.user_metadata).table_valued("key", "value")  # a key is no path: it may hold quotes
        return exists().select_from(pairs).where(pairs.c.key == key, pairs.c.value == value)

    def events(self, job_id: str) -> Select[JobEvent]:
        """The job's history, for `app.paging.list_rows`."""
        return select(JobEvent).join(Job).where(JobEvent.job_id == job_id, Job.tenant_id == self.tenant_id)

    def checkpoints(self, job_id: str) -> Select[JobCheckpoint]:
        """The same of its checkpoints."""
        return select(JobCheckpoint).join(Job).where(JobCheckpoint.job_id == job_id, Job.tenant_id == self.tenant_id)

    def num_events_behind(self, job_id: str, sequence: int) -> int:
        behind = self.events(job_id).where(JobEvent.sequence > sequence).subquery()
        return self.session.scalar(select(func.count()).select_from(behind)) or 0

    def request_cancel(self, job_id: str) -> Job | None:
        """Ends a waiting job at once and flags a running one; None when the job can no longer be cancelled."""
        return self._move(
            job_id, JobStatus.CANCELLED, message="Job cancelled before it ran.", only_from=_WAITING
        ) or self._move(
            job_id,
            JobStatus.CANCELLING,
            message="Cancellation asked for; the run stops at its next step.",
            values={"cancel_requested": True},
        )

    def request_pause(self, job_id: str) -> Job | None:
        """Parks a waiting job at once and flags a running one; None when the job cannot be paused (any more)."""
        parked = self._move(job_id, JobStatus.PAUSED, message="Job paused before it ran.", only_from=_QUEUED)
        if parked is not None:
            return parked
        flagged = self._update(
            job_id,
            {"pause_requested": True},
            (Job.status == JobStatus.RUNNING.value, Job.pause_requested.is_(False)),
        )
        if flagged is not None:
            add_event(self.session, job_id, "Pause asked for; the run saves its state and stops at its next step.")
        return flagged

    def resume(self, job_id: str) -> Job | None:
        """Queues a paused job again, or takes back a pause that has not happened yet; None when there is neither."""
        queued = self._move(
            job_id,
            JobStatus.QUEUED,
            message="Job resumed and queued.",
            only_from=frozenset({JobStatus.PAUSED}),
            values={"pause_requested": False, "attempt": 0, "sent_at": utc_now()},
        )
        if queued is not None:
            return queued
        still_running = (Job.status == JobStatus.RUNNING.value, Job.pause_requested.is_(True))
        kept = self._update(job_id, {"pause_requested": False}, still_running)
        if kept is not None:
            add_event(self.session, job_id, "The pause was taken back.")
        return kept

    def _mine(self) -> Select[Job]:
        return select(Job).where(Job.tenant_id == self.tenant_id)

    def _update(self, job_id: str, values: Mapping[str, Any], where: Sequence[ColumnElement[bool]]) -> Job | None:
        return update_row(self.session, job_id, values=values, where=(Job.tenant_id == self.tenant_id, *where))

    def _move(
        self,
        job_id: str,
        target: JobStatus,
        *,
        message: str,
        only_from: Collection[JobStatus] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> Job | None:
        return transition(
            self.session,
            job_id,
            target,
            message=message,
            only_from=only_from,
            where=(Job.tenant_id == self.tenant_id,),
            values=values,
        )


_QUEUED = frozenset({JobStatus.QUEUED})
_WAITING = frozenset({JobStatus.QUEUED, JobStatus.PAUSED})
