"""What callers ask of a job's state: every change conditional, every change with its event."""

from collections.abc import Callable
from itertools import product

import pytest
from sqlalchemy import Engine

from app.db import session_scope
from app.jobs.repository import Jobs, transition
from app.jobs.states import JobStatus, allowed
from app.tables import Job
from tests.app.jobs.factories import TENANT, add_job, add_tenant, events_of, job_of


def ask(engine: Engine, action: Callable[[Jobs], Job | None], tenant_id: str = TENANT) -> Job | None:
    with session_scope(engine) as session:
        return action(Jobs(session=session, tenant_id=tenant_id))


def make(engine: Engine, file_id: str, status: JobStatus, **values: object) -> str:
    with session_scope(engine) as session:
        return add_job(session, file_id, status, **values)


def test_the_database_follows_the_table_for_every_pair(engine: Engine, file_id: str) -> None:
    for source, target in product(JobStatus, JobStatus):
        job_id = make(engine, file_id, source)
        with session_scope(engine) as session:
            moved = transition(session, job_id, target, message="moved")
        assert (moved is not None) == allowed(source, target)
        assert job_of(engine, job_id).status == (target if moved else source)
        assert [e.data for e in events_of(engine, job_id)] == ([{"status": target.value}] if moved else [])


def test_a_rolled_back_change_leaves_neither_status_nor_event(engine: Engine, file_id: str) -> None:
    job_id = make(engine, file_id, JobStatus.QUEUED)

    def change_and_break() -> None:
        with session_scope(engine) as session:
            assert Jobs(session=session, tenant_id=TENANT).request_cancel(job_id)
            raise RuntimeError("the transaction breaks")

    with pytest.raises(RuntimeError):
        change_and_break()
    assert job_of(engine, job_id).status == "queued"
    assert events_of(engine, job_id) == []


@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        (JobStatus.QUEUED, "cancelled"),
        (JobStatus.PAUSED, "cancelled"),
        (JobStatus.RUNNING, "cancelling"),
        (JobStatus.CANCELLING, None),
        (JobStatus.SUCCEEDED, None),
        (JobStatus.FAILED, None),
        (JobStatus.CANCELLED, None),
    ],
)
def test_cancel_by_state(engine: Engine, file_id: str, status: JobStatus, becomes: str | None) -> None:
    job_id = make(engine, file_id, status)
    job = ask(engine, lambda jobs: jobs.request_cancel(job_id))
    assert (job.status if job else None) == becomes
    assert job_of(engine, job_id).status == (becomes or status)
    if becomes == "cancelled":
        assert job_of(engine, job_id).finished_at is not None


def test_pause_parks_a_queued_job_and_flags_a_running_one(engine: Engine, file_id: str) -> None:
    queued, running = make(engine, file_id, JobStatus.QUEUED), make(engine, file_id, JobStatus.RUNNING)
    assert ask(engine, lambda jobs: jobs.request_pause(queued)).status == "paused"  # type: ignore[union-attr]
    assert ask(engine, lambda jobs: jobs.request_pause(running)).status == "running"  # type: ignore[union-attr]
    assert job_of(engine, running).pause_requested
    assert ask(engine, lambda jobs: jobs.request_pause(running)) is None, "asking twice writes nothing"
    assert len(events_of(engine, running)) == 1


def test_resume_queues_a_paused_job_and_takes_a_pending_pause_back(engine: Engine, file_id: str) -> None:
    paused = make(engine, file_id, JobStatus.PAUSED, attempt=2)
    running = make(engine, file_id, JobStatus.RUNNING, pause_requested=True)
    assert ask(engine, lambda jobs: jobs.resume(paused)).status == "queued"  # type: ignore[union-attr]
    assert job_of(engine, paused).attempt == 0
    assert ask(engine, lambda jobs: jobs.resume(running)).status == "running"  # type: ignore[union-attr]
    assert not job_of(engine, running).pause_requested


def test_another_tenant_sees_and_moves_nothing(engine: Engine, file_id: str) -> None:
    job_id = make(engine, file_id, JobStatus.QUEUED)
    with session_scope(engine) as session:
        add_tenant(session, "tenant-b")
    for action in (Jobs.get, Jobs.request_cancel, Jobs.request_pause, Jobs.resume):
        assert ask(engine, lambda jobs, act=action: act(jobs, job_id), "tenant-b") is None  # type: ignore[misc]
    with session_scope(engine, read_only=True) as session:
        jobs = Jobs(session=session, tenant_id="tenant-b")
        assert session.scalars(jobs.every()).all() == []
        assert session.scalars(jobs.events(job_id)).all() == []
        assert jobs.num_active() == 0
