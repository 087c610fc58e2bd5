import pytest
from sqlalchemy import Engine

from app.db import session_scope
from tests.app.jobs import factories


@pytest.fixture
def file_id(engine: Engine) -> str:
    with session_scope(engine) as session:
        return factories.add_tenant(session)
