"""What the sweeper repairs, and that any number of sweepers repairs it once."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from app.db import session_scope
from app.ids import utc_now
from app.jobs.checkpoints import Checkpoint, add_checkpoint
from app.jobs.states import JobStatus
from app.queue import READ_FILE, RUN_JOB, FakeQueue
from app.registry.register import register_version
from app.storage import blob_key, part_key
from app.tables import ChunkedUpload, File, Job
from app.tables import Worker as WorkerRow
from tests.app.jobs.factories import TENANT, job_of
from tests.worker.conftest import MakeJob
from worker import sweep
from worker.runs import run_folder
from worker.supervise import Worker

LONG_AGO = timedelta(days=2)


def age(path: Path, delta: timedelta = LONG_AGO) -> None:
    then = time.time() - delta.total_seconds()
    os.utime(path, (then, then))


class TestLeases:
    def test_an_expired_job_is_queued_and_sent_once(self, worker: Worker, make_job: MakeJob, queue: FakeQueue) -> None:
        dead = make_job("obey", JobStatus.RUNNING, lease_seconds=-1)
        alive = make_job("obey", JobStatus.RUNNING)
        assert sweep.reclaim(worker) == [dead]
        assert sweep.reclaim(worker) == []
        assert queue.sent == [(RUN_JOB, dead)]
        assert [job_of(worker.engine, job).status for job in (dead, alive)] == ["queued", "running"]

    def test_a_job_without_attempts_left_fails_as_worker_lost(
        self, worker: Worker, make_job: MakeJob, queue: FakeQueue
    ) -> None:
        dead = make_job("obey", JobStatus.RUNNING, lease_seconds=-1, attempt=3)
        assert sweep.reclaim(worker) == [dead]
        job = job_of(worker.engine, dead)
        assert (job.status, (job.error or {})["code"]) == ("failed", "worker_lost")
        assert queue.sent == []


class TestMessages:
    def test_a_job_that_stays_queued_is_sent_again_but_not_at_once(
        self, worker: Worker, make_job: MakeJob, queue: FakeQueue
    ) -> None:
        minute_ago = utc_now() - timedelta(minutes=1)
        lost = make_job("obey", created_at=minute_ago, sent_at=minute_ago)
        never = make_job("obey", sent_at=None)
        make_job("obey")
        make_job("obey", JobStatus.PAUSED, created_at=minute_ago, sent_at=minute_ago)
        assert sweep.resend_jobs(worker) == [lost, never]
        assert sweep.resend_jobs(worker) == [], "another sweeper has just sent it"
        assert queue.sent == [(RUN_JOB, lost), (RUN_JOB, never)]

    def test_the_wait_doubles_while_a_queue_is_long(self, worker: Worker, make_job: MakeJob) -> None:
        """Sent 60 s after its creation, and 40 s ago: the next message is due after 60 s."""
        now = utc_now()
        make_job("obey", created_at=now - timedelta(seconds=100), sent_at=now - timedelta(seconds=40))
        assert sweep.resend_jobs(worker) == []

    def test_a_broken_broker_loses_nothing(self, worker: Worker, make_job: MakeJob, queue: FakeQueue) -> None:
        dead = make_job("obey", JobStatus.RUNNING, lease_seconds=-1)
        queue.broken = True
        assert sweep.reclaim(worker) == [dead]
        queue.broken = False
        with session_scope(worker.engine) as session:
            session.execute(update(Job).values(created_at=utc_now() - LONG_AGO, sent_at=utc_now() - LONG_AGO))
        assert sweep.resend_jobs(worker) == [dead]

    def test_a_file_that_was_never_read_is_sent_again(self, worker: Worker, file_id: str, queue: FakeQueue) -> None:
        assert sweep.resend_files(worker) == []
        with session_scope(worker.engine) as session:
            session.execute(update(File).values(status="uploaded", created_at=utc_now() - LONG_AGO))
        assert sweep.resend_files(worker) == [file_id]
        assert queue.sent == [(READ_FILE, file_id)]


class TestLeftovers:
    def test_folders_of_ended_and_unknown_jobs_go_and_others_stay(self, worker: Worker, make_job: MakeJob) -> None:
        ended, paused = make_job("obey", JobStatus.FAILED), make_job("obey", JobStatus.PAUSED)
        fresh = make_job("obey", JobStatus.FAILED)
        folders = {job: run_folder(worker.settings.home, job) for job in (ended, paused, fresh, "ftjob-unknown")}
        for job, folder in folders.items():
            folder.make()
            if job != fresh:
                age(folder.path)
        sweep.clean(worker)
        assert {job for job, folder in folders.items() if folder.path.exists()} == {paused, fresh}

    def test_old_blobs_that_nothing_names_go(
        self, worker: Worker, make_job: MakeJob, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = make_job("succeed", JobStatus.RUNNING)
        of_version, of_checkpoint, orphan = blobs = ("a" * 64, "b" * 64, "c" * 64)
        for sha256 in blobs:
            worker.store.put_bytes(blob_key(sha256), b"x")
        verdict = {"promoted": False, "fallback": "zero_shot", "reason": ""}
        with session_scope(engine) as session:
            job = session.scalars(select(Job).where(Job.id == job_id)).one()
            result = {"digest": "sha256:d", "manifest": {}, "verdict": verdict}
            register_version(session, tenant_id=TENANT, job_row=job, result=result, files={"w": of_version})
            add_checkpoint(session, job_id, Checkpoint(metrics={"step": 1}, digest="d", files={"w": of_checkpoint}))

        def stored() -> list[str]:
            return [sha256 for sha256 in blobs if worker.store.exists(blob_key(sha256))]

        sweep.clean(worker)
        assert stored() == [of_version, of_checkpoint, orphan], "a run may be about to name it"
        later = utc_now() + LONG_AGO
        monkeypatch.setattr(sweep, "utc_now", lambda: later)
        sweep.clean(worker)
        assert stored() == [of_version, of_checkpoint]

    def test_uploads_whose_hour_is_over_go_with_their_parts(self, worker: Worker, file_id: str, engine: Engine) -> None:
        now = utc_now()
        values = {"tenant_id": TENANT, "filename": "a.csv", "purpose": "fine-tune", "bytes": 1, "options": {}}
        hours = {"upload_over": now, "upload_pending": now + timedelta(hours=1)}
        with session_scope(engine) as session:
            for upload_id, end in hours.items():
                session.add(ChunkedUpload(id=upload_id, status="pending", created_at=now, expires_at=end, **values))
                worker.store.put_bytes(part_key(upload_id, "part_0"), b"x")
        sweep.clean(worker)
        with session_scope(engine, read_only=True) as session:
            found = {row.id: row.status for row in session.scalars(select(ChunkedUpload))}
        assert found == {"upload_over": "expired", "upload_pending": "pending"}
        assert worker.store.list("uploads") == [part_key("upload_pending", "part_0")]


def test_a_worker_signs_and_old_signatures_are_forgotten(worker: Worker, engine: Engine) -> None:
    def signed() -> list[str]:
        with session_scope(engine, read_only=True) as session:
            return sorted(session.scalars(select(WorkerRow.id)))

    sweep.sweep(worker, "one")
    sweep.sweep(worker, "one")
    sweep.sweep(worker, "two")
    assert signed() == ["one", "two"]
    with session_scope(engine) as session:
        session.execute(update(WorkerRow).where(WorkerRow.id == "one").values(seen_at=utc_now() - LONG_AGO))
    sweep.clean(worker)
    assert signed() == ["two"]


def test_the_sweeper_survives_a_failing_round(
    worker: Worker, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = make_job("obey", JobStatus.RUNNING, lease_seconds=-1)
    real: Callable[..., Any] = sweep.sweep
    calls = []

    def fails_first(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise ConnectionError("the database is away")
        real(*arguments)

    monkeypatch.setattr(sweep, "sweep", fails_first)
    thread = sweep.start_sweeper(worker)
    deadline = time.monotonic() + 20
    while job_of(worker.engine, dead).status != "queued":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    worker.stopping.set()
    thread.join(timeout=20)
    assert not thread.is_alive()
