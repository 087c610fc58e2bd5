import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.db import session_scope
from app.jobs.states import JobStatus
from app.queue import FakeQueue
from app.settings import Settings
from app.storage import ObjectStore
from tests.app.jobs import factories
from worker.supervise import Worker

MakeJob = Callable[..., str]


@pytest.fixture
def file_id(engine: Engine) -> str:
    with session_scope(engine) as session:
        return factories.add_tenant(session)


@pytest.fixture
def make_job(engine: Engine, file_id: str) -> MakeJob:
    """`make_job("behaviour")` → the id of a queued job whose fake run behaves so."""

    def make(behaviour: str, status: JobStatus = JobStatus.QUEUED, **values: object) -> str:
        resolved = {"behaviour": behaviour, "backbone": "temper-tiny", "task": "forecast", "prediction_length": 4}
        with session_scope(engine) as session:
            return factories.add_job(session, file_id, status, resolved=resolved, **values)

    return make


@pytest.fixture
def worker(settings: Settings, engine: Engine, store: ObjectStore, queue: FakeQueue) -> Worker:
    """A worker in this process with short times and the fake run."""
    short = {"lease_seconds": 3.0, "heartbeat_seconds": 0.2, "stop_grace_seconds": 0.5, "sweep_seconds": 0.2}
    return Worker(
        settings=settings.model_copy(update=short),
        engine=engine,
        store=store,
        queue=queue,
        command=(sys.executable, str(Path(__file__).with_name("fake_run.py"))),
    )
