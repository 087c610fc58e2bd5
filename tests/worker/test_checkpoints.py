"""A job's best weights so far forecast while it runs: real worker, real gateway."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, select

from app.auth.keys import ALL_SCOPES, make_key
from app.auth.repository import add_key
from app.db import session_scope
from app.main import create_app
from app.queue import FakeQueue
from app.storage import blob_key
from app.tables import JobCheckpoint
from tests import server as servers
from tests.app.jobs.factories import TENANT
from tests.backend import Backend
from tests.worker.live import Live, kill_group, live, wait_until

EPOCHS = 60
"""Of 41 steps of 25 ms at least: a minute, of which the test needs a part."""


@pytest.fixture
def deployment(tmp_path_factory: pytest.TempPathFactory, backend: Backend, valkey: str) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("home"), backend, valkey) as deployment:
        yield deployment


@pytest.fixture
def client(deployment: Live) -> Iterator[httpx.Client]:
    """Of the tenant whose job it is, at a gateway on the same database and store."""
    key = make_key()
    scopes = [str(scope) for scope in ALL_SCOPES]
    with session_scope(deployment.engine) as session:
        add_key(session, key_id=key.id, tenant_id=TENANT, name="t", sha256=key.sha256, scopes=scopes)
    headers = {"authorization": f"Bearer {key.secret}"}
    with (
        servers.serve(create_app(deployment.settings, queue=FakeQueue())) as url,
        httpx.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False) as client,
    ):
        yield client


def test_a_checkpoint_forecasts_before_the_job_ends(
    deployment: Live, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_CHECKPOINT_SECONDS", "5")  # three are kept: the one asked for lives for 15 s
    job_id = deployment.submit(max_epochs=EPOCHS)
    worker = deployment.start_worker()
    try:
        newest = wait_until(lambda: listed(client, job_id)[1:], f"two checkpoints; {deployment.log()}")[0]
        name = listed(client, job_id)[0]["fine_tuned_model_checkpoint"]
        answer = client.post("/v1/forecast", json={"model": name}).json()
        assert deployment.job(job_id).status == "running"
        assert client.get("/v1/models").json()["data"][0]["id"] != name
        assert (answer["model"], answer["version"], answer["calibrated"]) == (name, None, False), answer
        assert [(f["item_id"], len(f["mean"]), f["fallback"]) for f in answer["forecasts"]] == [("a", 8, None)]
        assert (newest["fine_tuning_job_id"], newest["judged"]) == (job_id, False)
        assert client.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelling"
        assert deployment.wait_for_end(job_id).status == "cancelled"
        kept = [item["fine_tuned_model_checkpoint"] for item in listed(client, job_id)]
        assert 0 < sum(each is not None for each in kept) <= 3
        assert client.post("/v1/forecast", json={"model": kept[0]}).status_code == 200, "it outlives the job"
        for sha256 in blobs(deployment.engine):
            assert deployment.store.exists(blob_key(sha256))
    finally:
        kill_group(worker)


def listed(client: httpx.Client, job_id: str) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    return data


def blobs(engine: Engine) -> set[str]:
    with session_scope(engine, read_only=True) as session:
        return {sha256 for files in session.scalars(select(JobCheckpoint.files)) for sha256 in files.values()}
