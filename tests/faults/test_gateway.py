"""kill -9 of the gateway: in an upload, in a job's POST, and under a running job that somebody follows."""

import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from app.db import session_scope
from app.tables import Base, File, IdempotencyKey, Job
from tests.app.jobs.factories import events_of
from tests.faults.deployment import CSV, LONG, SHORT, Deployment, kill, wait_until

FORM = {"prediction_length": "8", "context_length": "64", "method": "full"}


@pytest.fixture(scope="module", autouse=True)
def worker(deployment: Deployment) -> Iterator[subprocess.Popen[bytes]]:
    process = deployment.start_worker()
    yield process
    kill(process)


@pytest.fixture
def client(deployment: Deployment) -> Iterator[httpx.Client]:
    with deployment.client() as client:
        yield client


def count(deployment: Deployment, table: type[Base]) -> int:
    with session_scope(deployment.engine, read_only=True) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def post_job(client: httpx.Client, csv: str = CSV, **headers: str) -> httpx.Response:
    return client.post("/v1/jobs", files={"file": ("load.csv", csv)}, data=FORM, headers=headers)


class Request(threading.Thread):
    """A request that its server may not outlive; `join` and look at `failed`."""

    def __init__(self, ask: Any) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self.failed = False
        self.start()

    def run(self) -> None:
        try:
            self._ask()
        except httpx.TransportError:
            self.failed = True


def test_an_upload_that_is_cut_off_leaves_nothing(deployment: Deployment, client: httpx.Client) -> None:
    killed = threading.Event()

    def body() -> Iterator[bytes]:
        yield CSV.encode().ljust(3 << 20)
        killed.wait(60)
        yield b"\n"

    files = count(deployment, File)
    with deployment.gateway() as gateway:
        upload = Request(lambda: client.post("/v1/files", content=body(), headers={"content-type": "text/csv"}))
        parts = deployment.settings.tmp_dir
        wait_until(lambda: any(path.stat().st_size for path in parts.glob("upload-*")), "the first bytes are written")
        kill(gateway)
        killed.set()
        upload.join(60)
    assert upload.failed
    assert count(deployment, File) == files
    with deployment.gateway():
        again = client.post("/v1/files", content=CSV.encode(), headers={"content-type": "text/csv"})
        assert again.status_code == 200, again.text
    assert count(deployment, File) == files + 1
    deployment.settled()


def test_a_job_killed_between_store_and_commit_never_was(deployment: Deployment, client: httpx.Client) -> None:
    files, jobs, objects = count(deployment, File), count(deployment, Job), len(deployment.store.list("files/"))
    with deployment.gateway() as gateway, deployment.frozen_writes():
        request = Request(lambda: post_job(client))
        wait_until(lambda: len(deployment.store.list("files/")) == objects + 2, "both objects are stored")
        kill(gateway)
        request.join(60)
    assert request.failed
    assert (count(deployment, File), count(deployment, Job)) == (files, jobs)
    with deployment.gateway():
        deployment.succeeds(post_job(client).raise_for_status().json()["id"])


@pytest.mark.parametrize("kill_at", [IdempotencyKey, Job], ids=["claimed", "committed"])
def test_a_post_repeated_with_its_key_makes_one_job(
    deployment: Deployment, client: httpx.Client, kill_at: type[Base]
) -> None:
    """The gateway dies once the key is claimed (the file is being read), or once the job stands."""
    key = f"key-{kill_at.__name__}"
    jobs, before = count(deployment, Job), count(deployment, kill_at)
    with deployment.gateway() as gateway:
        request = Request(lambda: post_job(client, **{"idempotency-key": key}))
        wait_until(lambda: count(deployment, kill_at) > before, "the row", every_seconds=0.005)
        kill(gateway)
        request.join(60)
    wait_until(lambda: not deployment.pids("tsfm.series.parse"), "the reader goes with its gateway")
    with deployment.gateway():
        answer = wait_until(lambda: _unless_in_use(post_job(client, **{"idempotency-key": key})), "the key is free")
        replay = post_job(client, **{"idempotency-key": key})
    assert replay.headers["idempotent-replayed"] == "true"
    assert replay.json()["id"] == answer.json()["id"]
    assert count(deployment, Job) == jobs + 1
    deployment.succeeds(answer.json()["id"])


def _unless_in_use(response: httpx.Response) -> httpx.Response | None:
    if response.status_code == 409:
        assert response.json()["error"]["code"] == "idempotency_key_in_use"
        return None
    return response.raise_for_status()


def test_a_stream_goes_on_where_it_broke_and_the_job_does_not_notice(
    deployment: Deployment, client: httpx.Client
) -> None:
    """Two gateways one after the other; the listener sees each event once, and the end."""
    job = deployment.submit(LONG)
    seen: list[int] = []
    with deployment.gateway() as gateway:
        deployment.wait_for_step(job)
        listener = Request(lambda: _follow(client, job, seen))
        wait_until(lambda: seen, "the first event")
        kill(gateway)
        listener.join(60)
    assert listener.failed, "half a stream is no clean end"
    assert deployment.job(job).status == "running"
    with deployment.gateway():
        client.post(f"/v1/jobs/{job}/pause").raise_for_status()
        deployment.wait_for_status(job, "paused")
        deployment.script(job, SHORT)
        client.post(f"/v1/jobs/{job}/resume").raise_for_status()
        assert _follow(client, job, seen) == {"status": "succeeded"}
        headers = {"accept": "text/event-stream", "last-event-id": str(seen[-1])}
        assert client.get(f"/v1/jobs/{job}/events", headers=headers).status_code == 204
    assert seen == [event.sequence for event in events_of(deployment.engine, job)]
    deployment.succeeds(job)


def _follow(client: httpx.Client, job: str, seen: list[int]) -> Any:
    """Appends the id of every event behind the last one; answers the data of `done`."""
    headers = {"accept": "text/event-stream"} | ({"last-event-id": str(seen[-1])} if seen else {})
    with client.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as response:
        kind = ""
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "id":
                seen.append(int(value))
            elif field == "event":
                kind = value
            elif field == "data" and kind == "done":
                return json.loads(value)
    raise httpx.RemoteProtocolError("the stream ended before the job")
