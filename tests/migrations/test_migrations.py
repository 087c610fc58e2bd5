"""The migrations and the tables say the same, and they run both ways."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from app.db import alembic_config, make_engine, upgrade
from app.tables import Base
from tests.backend import Backend


@pytest.fixture
def url(tmp_path: Path, backend: Backend) -> Iterator[str]:
    with backend.empty_database(tmp_path) as url:
        yield url


def table_names(url: str) -> set[str]:
    engine = make_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


def test_up_down_up(url: str) -> None:
    everything = {*Base.metadata.tables, "alembic_version"}
    upgrade(url)
    assert table_names(url) == everything
    command.downgrade(alembic_config(url), "base")
    assert table_names(url) == {"alembic_version"}
    upgrade(url)
    assert table_names(url) == everything


def test_upgrade_twice_changes_nothing(url: str) -> None:
    upgrade(url)
    upgrade(url)
    assert table_names(url) >= set(Base.metadata.tables)


def test_tables_and_migrations_do_not_drift(url: str) -> None:
    upgrade(url)
    engine = make_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        difference = compare_metadata(context, Base.metadata)
    engine.dispose()
    assert difference == []


def test_four_processes_may_upgrade_at_once(url: str) -> None:
    code = f"from app.db import upgrade; upgrade({url!r})"
    running = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    complaints = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, complaints
    assert table_names(url) == {*Base.metadata.tables, "alembic_version"}
