"""A supervised run from claim to end, with a fake subprocess: every way it can end, and what the row says after."""

import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, func, select, update

from app.db import session_scope
from app.jobs import leases
from app.jobs.repository import Jobs
from app.jobs.states import JobStatus
from app.queue import RUN_JOB, FakeQueue
from app.tables import Job, ModelVersion
from tests.app.jobs.factories import TENANT, events_of, job_of
from tests.worker.conftest import MakeJob
from worker import supervise
from worker.runs import run_folder
from worker.supervise import Worker
from worker.tasks import run_job


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


class Running:
    """`run_job` in a thread, seen to have reported a first step."""

    def __init__(self, worker: Worker, job_id: str) -> None:
        self.worker, self.job_id = worker, job_id
        self.status: JobStatus | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_until(lambda: bool((job_of(worker.engine, job_id).progress or {}).get("step")), "a reported step")

    def _run(self) -> None:
        self.status = run_job(self.worker, self.job_id)

    def ask(self, action: Callable[[Jobs, str], object]) -> None:
        with session_scope(self.worker.engine) as session:
            assert action(Jobs(session=session, tenant_id=TENANT), self.job_id) is not None

    def end(self) -> JobStatus | None:
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()
        return self.status


def num_versions(engine: Engine) -> int:
    with session_scope(engine, read_only=True) as session:
        return session.scalar(select(func.count()).select_from(ModelVersion)) or 0


def test_a_run_that_succeeds_registers_one_version(worker: Worker, make_job: MakeJob) -> None:
    job_id = make_job("succeed")
    assert run_job(worker, job_id) is JobStatus.SUCCEEDED
    job = job_of(worker.engine, job_id)
    assert job.fine_tuned_model is not None
    assert job.fine_tuned_model.startswith("ft:temper-tiny:")
    assert (job.model_version, job.owner, job.error) == (1, None, None)
    assert job.result is not None
    assert num_versions(worker.engine) == 1
    kinds = [(e.type, e.message) for e in events_of(worker.engine, job_id)]
    assert kinds[0] == ("status", "Run started.")
    assert ("message", "Training began.") in kinds
    assert any(kind == "metrics" for kind, _ in kinds)
    assert "Zero-shot was not beaten." in kinds[-1][1]
    assert not run_folder(worker.settings.home, job_id).path.exists(), "an ended job leaves no folder"


def test_the_same_message_again_is_a_no_op(worker: Worker, make_job: MakeJob) -> None:
    job_id = make_job("succeed")
    assert run_job(worker, job_id) is JobStatus.SUCCEEDED
    assert run_job(worker, job_id) is None
    assert num_versions(worker.engine) == 1


def test_a_run_that_judges_is_told_which_verdict_on_these_rows_it_gives(worker: Worker, make_job: MakeJob) -> None:
    for number in (1, 2):
        job_id = make_job("judge")
        assert run_job(worker, job_id) is JobStatus.SUCCEEDED
        messages = [event.message for event in events_of(worker.engine, job_id)]
        assert f"Heard ['verdict_number {number}']." in messages


def test_two_deliveries_at_once_start_one_run(worker: Worker, make_job: MakeJob) -> None:
    job_id = make_job("obey")
    first = Running(worker, job_id)
    assert run_job(worker, job_id) is None
    first.ask(Jobs.request_cancel)
    assert first.end() is JobStatus.CANCELLED
    assert job_of(worker.engine, job_id).attempt == 1


@pytest.mark.parametrize("behaviour", ["obey", "slow", "ignore"])
def test_a_cancelled_run_stops_whatever_it_does(worker: Worker, make_job: MakeJob, behaviour: str) -> None:
    run = Running(worker, make_job(behaviour))
    run.ask(Jobs.request_cancel)
    assert run.end() is JobStatus.CANCELLED
    assert num_versions(worker.engine) == 0, "a result that came after the cancellation is not registered"


def test_pause_then_resume(worker: Worker, make_job: MakeJob, queue: FakeQueue) -> None:
    run = Running(worker, make_job("obey"))
    run.ask(Jobs.request_pause)
    assert run.end() is JobStatus.PAUSED
    assert run_job(worker, run.job_id) is None, "a paused job is not to be had"
    assert run_folder(worker.settings.home, run.job_id).path.exists(), "its state is kept"
    run.ask(Jobs.resume)
    with session_scope(worker.engine) as session:
        session.execute(update(Job).values(progress=None))
    again = Running(worker, run.job_id)
    again.ask(Jobs.request_cancel)
    assert again.end() is JobStatus.CANCELLED


def test_a_worker_that_stops_gives_its_job_back(worker: Worker, make_job: MakeJob, queue: FakeQueue) -> None:
    run = Running(worker, make_job("obey"))
    worker.stopping.set()
    assert run.end() is JobStatus.QUEUED
    assert queue.sent == [(RUN_JOB, run.job_id)]
    assert job_of(worker.engine, run.job_id).attempt == 0


def test_an_error_of_the_run_is_final_and_keeps_its_code(worker: Worker, make_job: MakeJob) -> None:
    job_id = make_job("error")
    assert run_job(worker, job_id) is JobStatus.FAILED
    assert job_of(worker.engine, job_id).error == {"code": "non_finite", "message": "step 3", "param": None}


@pytest.mark.parametrize("behaviour", ["crash", "garbage", "retry"])
def test_a_lost_run_is_tried_again_until_its_attempts_are_spent(
    worker: Worker, make_job: MakeJob, queue: FakeQueue, behaviour: str
) -> None:
    job_id = make_job(behaviour)
    assert [run_job(worker, job_id) for _ in range(4)] == ["queued", "queued", "failed", None]
    assert queue.sent == [(RUN_JOB, job_id)] * 2
    job = job_of(worker.engine, job_id)
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert job.attempt == 3
    if behaviour == "crash":
        assert "killed by SIGKILL" in events_of(worker.engine, job_id)[-1].message


def test_the_time_limit_ends_a_run(worker: Worker, make_job: MakeJob) -> None:
    limited = supervise.Worker(
        settings=worker.settings.model_copy(update={"max_run_seconds": 0.5}),
        engine=worker.engine,
        store=worker.store,
        queue=worker.queue,
        command=worker.command,
    )
    job_id = make_job("obey")
    assert run_job(limited, job_id) is JobStatus.FAILED
    assert job_of(worker.engine, job_id).error["code"] == "time_limit"  # type: ignore[index]


def test_a_supervisor_that_lost_its_lease_writes_nothing(worker: Worker, make_job: MakeJob) -> None:
    run = Running(worker, make_job("obey"))
    with session_scope(worker.engine) as session:
        leases.lose(
            session, run.job_id, owner=str(job_of(worker.engine, run.job_id).owner), max_attempts=3,
            expired_only=False, reason="test",
        )  # fmt: skip
    assert run.end() is None
    assert job_of(worker.engine, run.job_id).status == "queued"


def test_the_end_of_a_job_wakes_the_one_that_was_held_back(worker: Worker, make_job: MakeJob, queue: FakeQueue) -> None:
    first, second = make_job("succeed"), make_job("succeed")
    assert run_job(worker, first) is JobStatus.SUCCEEDED
    assert queue.sent == [(RUN_JOB, second)]
