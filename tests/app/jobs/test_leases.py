"""Claims, heartbeats and ends of a run: one winner, and nobody writes who has lost the lease."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.db import session_scope
from app.jobs import leases
from app.jobs.repository import Jobs
from app.jobs.states import JobStatus
from app.settings import Settings
from app.tables import Job
from tests.app.jobs.factories import OWNER, TENANT, add_job, events_of, job_of


def make(engine: Engine, file_id: str, status: JobStatus = JobStatus.QUEUED, **values: object) -> str:
    with session_scope(engine) as session:
        return add_job(session, file_id, status, **values)


def do(engine: Engine, action: Callable[[Session], Job | None]) -> Job | None:
    with session_scope(engine) as session:
        return action(session)


def claim(engine: Engine, job_id: str, owner: str = "new", max_running: int = 4) -> Job | None:
    return do(
        engine,
        lambda s: leases.claim(s, job_id, owner=owner, lease_seconds=30, max_attempts=3, max_running=max_running),
    )


def succeed(engine: Engine, job_id: str, owner: str) -> Job | None:
    result = {"digest": "d"}
    return do(
        engine,
        lambda s: leases.succeed(s, job_id, owner=owner, result=result, name="ft:a", version=1, message="done"),
    )


def lose(engine: Engine, job_id: str, *, expired_only: bool = False) -> Job | None:
    return do(
        engine,
        lambda s: leases.lose(s, job_id, owner=OWNER, max_attempts=3, expired_only=expired_only, reason="test"),
    )


class TestClaim:
    def test_a_queued_job_is_taken_once(self, engine: Engine, file_id: str) -> None:
        job_id = make(engine, file_id)
        first, second = claim(engine, job_id, "one"), claim(engine, job_id, "two")
        assert first is not None
        assert (first.status, first.owner, first.attempt) == ("running", "one", 1)
        assert second is None
        assert [e.message for e in events_of(engine, job_id)] == ["Run started."]

    def test_an_expired_lease_is_taken_over_and_a_live_one_is_not(self, engine: Engine, file_id: str) -> None:
        live = make(engine, file_id, JobStatus.RUNNING)
        dead = make(engine, file_id, JobStatus.RUNNING, lease_seconds=-1)
        assert claim(engine, live) is None
        taken = claim(engine, dead)
        assert taken is not None
        assert taken.attempt == 2

    @pytest.mark.parametrize(
        "values", [{"attempt": 3}, {"cancel_requested": True}, {"pause_requested": True}], ids=lambda v: next(iter(v))
    )
    def test_spent_and_flagged_jobs_are_not_taken(
        self, engine: Engine, file_id: str, values: dict[str, object]
    ) -> None:
        assert claim(engine, make(engine, file_id, **values)) is None

    def test_the_limit_of_running_jobs_holds_the_next_one_back(self, engine: Engine, file_id: str) -> None:
        make(engine, file_id, JobStatus.RUNNING)
        waiting = make(engine, file_id)
        assert claim(engine, waiting, max_running=1) is None
        assert claim(engine, waiting, max_running=2) is not None

    def test_of_racing_processes_one_wins(self, engine: Engine, file_id: str, settings: Settings) -> None:
        job_ids = [make(engine, file_id) for _ in range(20)]
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", _RACER, settings.database_url, f"racer-{i}", *job_ids],
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(3)
        ]
        wins = [line for racer in racers for line in racer.communicate(timeout=60)[0].split()]
        assert sorted(wins) == sorted(job_ids)
        assert all(job_of(engine, job_id).attempt == 1 for job_id in job_ids)


_RACER = """
import sys
from app.db import make_engine, session_scope
from app.jobs import leases
engine = make_engine(sys.argv[1])
for job_id in sys.argv[3:]:
    with session_scope(engine) as s:
        won = leases.claim(s, job_id, owner=sys.argv[2], lease_seconds=30, max_attempts=3, max_running=99)
    if won is not None:
        print(job_id)
engine.dispose()
"""


class TestHeartbeat:
    def test_it_writes_progress_and_events_and_answers_the_flags(self, engine: Engine, file_id: str) -> None:
        job_id = make(engine, file_id, JobStatus.RUNNING, lease_seconds=1)
        before = job_of(engine, job_id).lease_until
        with session_scope(engine) as session:
            Jobs(session=session, tenant_id=TENANT).request_pause(job_id)
        with session_scope(engine) as session:
            event = leases.Event(message="evaluated", kind="metrics", data={"step": 3})
            flags = leases.heartbeat(
                session, job_id, owner=OWNER, lease_seconds=30, progress={"step": 3}, events=[event]
            )
        job = job_of(engine, job_id)
        assert flags == leases.Flags(cancel=False, pause=True)
        assert (job.progress, job.lease_until > before) == ({"step": 3}, True)  # type: ignore[operator]
        assert events_of(engine, job_id)[-1].type == "metrics"

    def test_without_the_token_nothing_is_written(self, engine: Engine, file_id: str) -> None:
        job_id = make(engine, file_id, JobStatus.RUNNING)
        with session_scope(engine) as session:
            event = leases.Event(message="late")
            kept = leases.heartbeat(
                session, job_id, owner="other", lease_seconds=30, progress={"step": 9}, events=[event]
            )
        assert kept is None
        assert job_of(engine, job_id).progress is None
        assert events_of(engine, job_id) == []


class TestEnds:
    def test_only_the_owner_ends_a_job_and_only_once(self, engine: Engine, file_id: str) -> None:
        job_id = make(engine, file_id, JobStatus.RUNNING)
        assert succeed(engine, job_id, "other") is None
        done = succeed(engine, job_id, OWNER)
        assert done is not None
        assert (done.status, done.owner, done.result) == ("succeeded", None, {"digest": "d"})
        assert done.finished_at is not None
        assert succeed(engine, job_id, OWNER) is None

    def test_a_cancellation_wins_over_a_late_success(self, engine: Engine, file_id: str) -> None:
        job_id = make(engine, file_id, JobStatus.CANCELLING)
        assert succeed(engine, job_id, OWNER) is None
        assert do(engine, lambda s: leases.cancelled(s, job_id, owner=OWNER)).status == "cancelled"  # type: ignore[union-attr]

    def test_a_pause_taken_back_is_no_pause(self, engine: Engine, file_id: str) -> None:
        asked = make(engine, file_id, JobStatus.RUNNING, pause_requested=True)
        not_asked = make(engine, file_id, JobStatus.RUNNING)
        assert do(engine, lambda s: leases.paused(s, asked, owner=OWNER)).status == "paused"  # type: ignore[union-attr]
        assert do(engine, lambda s: leases.paused(s, not_asked, owner=OWNER)) is None

    def test_a_worker_that_shuts_down_does_not_use_up_an_attempt(self, engine: Engine, file_id: str) -> None:
        job_id = make(engine, file_id, JobStatus.RUNNING, attempt=3)
        back = do(engine, lambda s: leases.give_back(s, job_id, owner=OWNER))
        assert back is not None
        assert (back.status, back.attempt, back.owner) == ("queued", 2, None)

    def test_a_failure_keeps_its_code(self, engine: Engine, file_id: str) -> None:
        job_id = make(engine, file_id, JobStatus.RUNNING)
        do(engine, lambda s: leases.fail(s, job_id, owner=OWNER, code="non_finite", message="step 3", param=None))
        assert job_of(engine, job_id).error == {"code": "non_finite", "message": "step 3", "param": None}
        assert events_of(engine, job_id)[-1].level == "error"


class TestLost:
    @pytest.mark.parametrize(
        ("status", "values", "becomes"),
        [
            (JobStatus.RUNNING, {"attempt": 1}, "queued"),
            (JobStatus.RUNNING, {"attempt": 3}, "failed"),
            (JobStatus.RUNNING, {"attempt": 3, "pause_requested": True}, "paused"),
            (JobStatus.CANCELLING, {}, "cancelled"),
        ],
    )
    def test_what_becomes_of_a_lost_run(
        self, engine: Engine, file_id: str, status: JobStatus, values: dict[str, object], becomes: str
    ) -> None:
        job_id = make(engine, file_id, status, **values)
        assert lose(engine, job_id).status == becomes  # type: ignore[union-attr]
        assert job_of(engine, job_id).owner is None
        if becomes == "failed":
            assert job_of(engine, job_id).error["code"] == "worker_lost"  # type: ignore[index]

    def test_the_sweeper_touches_only_expired_leases(self, engine: Engine, file_id: str) -> None:
        live = make(engine, file_id, JobStatus.RUNNING)
        dead = make(engine, file_id, JobStatus.RUNNING, lease_seconds=-1)
        with session_scope(engine, read_only=True) as session:
            assert leases.expired(session) == [(dead, OWNER)]
        assert lose(engine, live, expired_only=True) is None
        assert lose(engine, dead, expired_only=True) is not None
        assert lose(engine, dead, expired_only=True) is None, "a second sweeper finds nothing to do"
