"""The official `openai` client, unchanged, and jobs for it to look at."""

from collections.abc import Callable
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import Engine

from app.auth.repository import tenant_named
from app.db import session_scope
from app.jobs.states import JobStatus
from app.tables import File
from tests.app.conftest import Open
from tests.app.jobs.factories import RESOLVED, add_file, add_job

Make = Callable[..., str]


@pytest.fixture
def stranger(open_client: Open, new_key: Callable[..., str]) -> OpenAI:
    return open_client(new_key("other"))


@pytest.fixture
def file_id(openai: OpenAI, engine: Engine) -> str:
    """A processed file of the client's tenant, 1000 hours long as far as its row says."""
    with session_scope(engine) as session:
        file_id = add_file(session, tenant_named(session, "local").id)
        file = session.get_one(File, file_id)
        file.reading = {"freq": "h", "max_length": 1000, "num_points": 1000, "num_series": 1, "columns": {}}
        return file_id


@pytest.fixture
def make(engine: Engine, file_id: str) -> Make:
    """`make(status, **columns)` → a job of the client's tenant."""

    def job(status: JobStatus = JobStatus.QUEUED, **values: Any) -> str:
        with session_scope(engine) as session:
            tenant_id = tenant_named(session, "local").id
            return add_job(session, file_id, status, tenant_id=tenant_id, resolved=RESOLVED, **values)

    return job
