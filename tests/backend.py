"""Where the tests of the service keep state: `TEMPER_TEST_PROFILE` chooses.

embedded (default)   SQLite and the local disk below the test's home; Valkey on a unix socket
scale-out            one PostgreSQL and one S3 server for the whole session, Valkey over TCP
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from app.db import upgrade
from app.settings import Settings
from app.tables import Base
from tests import server as servers

TABLES = [table.name for table in Base.metadata.sorted_tables]
PROFILES = ("embedded", "scale-out")
PROFILE = os.environ.get("TEMPER_TEST_PROFILE", "embedded")
SCALE_OUT = PROFILE == "scale-out"
assert PROFILE in PROFILES, f"TEMPER_TEST_PROFILE is one of {PROFILES}, not {PROFILE!r}"

only_embedded = pytest.mark.skipif(SCALE_OUT, reason="about SQLite or the local disk")
only_scale_out = pytest.mark.skipif(not SCALE_OUT, reason="needs TEMPER_TEST_PROFILE=scale-out")


class Backend(Protocol):
    def migrated(self, home: Path) -> contextlib.AbstractContextManager[dict[str, str]]:
        """A migrated database and an empty store for a service in `home`; yields the settings that say where."""

    def empty_database(self, folder: Path) -> contextlib.AbstractContextManager[str]:
        """The address of a database without any table."""


class Embedded:
    """A file that the real migrations made once, copied for each test."""

    def __init__(self, folder: Path) -> None:
        self._template = folder / "template.db"
        upgrade(f"sqlite:///{self._template}")

    @contextlib.contextmanager
    def migrated(self, home: Path) -> Iterator[dict[str, str]]:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy(self._template, home / "temper.db")
        yield {}

    @contextlib.contextmanager
    def empty_database(self, folder: Path) -> Iterator[str]:
        yield f"sqlite:///{folder}/temper.db"


class ScaleOut:
    """Databases that the real migrations made, emptied and used again; for each test a prefix of one bucket."""

    def __init__(self, postgres: servers.Postgres) -> None:
        self._postgres = postgres
        self._number = itertools.count()
        self._free: list[str] = []

    @contextlib.contextmanager
    def migrated(self, home: Path) -> Iterator[dict[str, str]]:
        if not self._free:
            self._free.append(self._create())
            upgrade(self._postgres.url(self._free[-1]))
        name = self._free.pop()
        storage = f"s3://{servers.BUCKET}/{next(self._number)}"
        try:
            yield {"database_url": self._postgres.url(name), "storage_url": storage}
        finally:
            self._postgres.disconnect(name)
            self._postgres.run("; ".join(f"DELETE FROM {table}" for table in reversed(TABLES)), database=name)
            self._free.append(name)

    @contextlib.contextmanager
    def empty_database(self, folder: Path) -> Iterator[str]:
        name = self._create()
        try:
            yield self._postgres.url(name)
        finally:
            self._postgres.run(f"DROP DATABASE {name} WITH (FORCE)")

    def _create(self) -> str:
        name = f"t{next(self._number)}"
        self._postgres.run(f"CREATE DATABASE {name}")
        return name


@contextlib.contextmanager
def backend(folder: Path) -> Iterator[Backend]:
    """That of this session's profile. S3's address and credentials stand in the environment while it lives."""
    if not SCALE_OUT:
        yield Embedded(folder)
        return
    with servers.postgres() as postgres, servers.s3() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield ScaleOut(postgres)


def variables_of(settings: Settings) -> dict[str, str]:
    """What another process needs in its environment to find the same state."""
    return {
        "TEMPER_HOME": str(settings.home),
        "TEMPER_DATABASE_URL": settings.database_url,
        "TEMPER_STORAGE_URL": settings.storage_url,
        "TEMPER_BROKER_URL": settings.broker_url,
    }
