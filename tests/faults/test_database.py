"""The database dies, or lets nobody write, under a running job."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.db import upgrade
from tests import server as servers
from tests.backend import only_scale_out
from tests.faults.deployment import Deployment, deployment, wait_until


def test_nobody_can_write_for_longer_than_a_lease(deployment: Deployment) -> None:
    with deployment.worker():
        job = deployment.submit("steps 80")
        deployment.wait_for_step(job)
        with deployment.frozen_writes():
            time.sleep(deployment.settings.lease_seconds + 0.5)
        deployment.succeeds(job)


@pytest.fixture
def postgres() -> Iterator[servers.Postgres]:
    """One of our own, to crash."""
    with servers.postgres() as server:
        yield server


@only_scale_out
def test_postgresql_crashes_and_comes_back(tmp_path: Path, postgres: servers.Postgres) -> None:
    """Twice under one job: for a moment, and for longer than its lease."""
    postgres.run("CREATE DATABASE temper")
    postgres.run("ALTER DATABASE temper SET synchronous_commit = on")  # the server of the tests is set up to forget
    upgrade(postgres.url("temper"))
    home = tmp_path / "home"
    home.mkdir()
    with deployment(home, {"database_url": postgres.url("temper")}) as one, one.gateway(), one.worker() as worker:
        job = one.submit("steps 150")
        one.wait_for_step(job)
        with one.client() as client:
            for away_seconds in (0.5, one.settings.lease_seconds + 1.0):
                postgres.stop(immediately=True)
                assert client.get(f"/v1/jobs/{job}").status_code == 503
                time.sleep(away_seconds)
                postgres.start()
                wait_until(lambda: _status(client, job) == 200, "the gateway finds the database again")
        one.succeeds(job)
        assert worker.poll() is None


def _status(client: httpx.Client, job: str) -> int:
    return client.get(f"/v1/jobs/{job}").status_code
