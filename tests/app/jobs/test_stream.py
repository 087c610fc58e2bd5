"""The live history: in order, each event once, resumable behind `Last-Event-ID`, and ended with the job."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from app.auth.repository import tenant_named
from app.db import session_scope
from app.jobs import leases
from app.jobs.states import JobStatus
from tests.app.jobs.factories import OWNER, RESOLVED, add_file, add_job


@pytest.fixture
def job_id(client: httpx.Client, engine: Engine) -> str:
    """A running job of the client's tenant."""
    with session_scope(engine) as session:
        tenant_id = tenant_named(session, "local").id
        return add_job(session, add_file(session, tenant_id), JobStatus.RUNNING, tenant_id=tenant_id, resolved=RESOLVED)


def report(engine: Engine, job_id: str, *steps: int) -> None:
    with session_scope(engine) as session:
        events = [leases.Event(message=f"step {step}", data={"step": step}) for step in steps]
        progress = {"phase": "training", "step": steps[-1]}
        assert leases.heartbeat(session, job_id, owner=OWNER, lease_seconds=30, progress=progress, events=events)


def end(engine: Engine, job_id: str) -> None:
    with session_scope(engine) as session:
        assert leases.fail(session, job_id, owner=OWNER, code="non_finite", message="step 9", param=None)


def messages(client: httpx.Client, job_id: str, last_event_id: str | None = None) -> Iterator[dict[str, Any]]:
    """Every server-sent event until the server closes the stream: {event, id, data}."""
    headers = {"accept": "text/event-stream"} | ({"last-event-id": last_event_id} if last_event_id else {})
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        found: dict[str, Any] = {}
        for line in response.iter_lines():
            if line == "":
                if "data" in found:
                    yield found
                found = {}
            elif not line.startswith(":"):
                name, _, value = line.partition(": ")
                found[name] = json.loads(value) if name == "data" else value


def test_a_stream_brings_the_past_then_the_present_then_the_end(
    client: httpx.Client, engine: Engine, job_id: str
) -> None:
    report(engine, job_id, 1, 2)
    seen: list[dict[str, Any]] = []
    for message in messages(client, job_id):
        seen.append(message)
        if message["event"] == "progress" and message["data"]["step"] == 2:
            report(engine, job_id, 3)
        if message["event"] == "progress" and message["data"]["step"] == 3:
            end(engine, job_id)
    events = [m for m in seen if "id" in m]
    assert [m["data"]["message"] for m in events] == ["step 1", "step 2", "step 3", "step 9"]
    assert [int(m["id"]) for m in events] == sorted({int(m["id"]) for m in events})
    assert (seen[-1]["event"], seen[-1]["data"]) == ("done", {"status": "failed"})


def test_a_broken_stream_goes_on_behind_the_last_event(client: httpx.Client, engine: Engine, job_id: str) -> None:
    report(engine, job_id, 1, 2, 3)
    stream = messages(client, job_id)
    first = next(stream)
    stream.close()
    end(engine, job_id)
    rest = [m for m in messages(client, job_id, first["id"]) if "id" in m]
    assert [m["data"]["message"] for m in rest] == ["step 2", "step 3", "step 9"]


def test_a_client_that_has_seen_the_end_is_told_not_to_come_back(
    client: httpx.Client, engine: Engine, job_id: str
) -> None:
    end(engine, job_id)
    last = [m for m in messages(client, job_id) if "id" in m][-1]
    headers = {"accept": "text/event-stream", "last-event-id": last["id"]}
    assert client.get(f"/v1/jobs/{job_id}/events", headers=headers).status_code == 204


def test_many_listeners_see_the_same(client: httpx.Client, engine: Engine, job_id: str) -> None:
    seen: list[list[str]] = [[] for _ in range(5)]

    def listen(into: list[str]) -> None:
        into.extend(m["data"]["message"] for m in messages(client, job_id) if "id" in m)

    threads = [threading.Thread(target=listen, args=(one,)) for one in seen]
    for thread in threads:
        thread.start()
    for step in range(1, 4):
        report(engine, job_id, step)
    end(engine, job_id)
    for thread in threads:
        thread.join(timeout=30)
    assert seen == [["step 1", "step 2", "step 3", "step 9"]] * 5


def test_a_malformed_place_is_422(client: httpx.Client, job_id: str) -> None:
    headers = {"accept": "text/event-stream", "last-event-id": "soon"}
    assert client.get(f"/v1/jobs/{job_id}/events", headers=headers).status_code == 422
