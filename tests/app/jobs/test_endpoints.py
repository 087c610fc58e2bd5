"""Jobs over HTTP once they exist: look, list, cancel, pause, resume; and nobody else's."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from app.auth.repository import tenant_named
from app.db import session_scope
from app.jobs import leases
from app.jobs.states import JobStatus
from app.queue import RUN_JOB, FakeQueue
from tests.app.jobs.factories import OWNER, RESOLVED, add_file, add_job

Make = Callable[..., str]


@pytest.fixture
def make(client: httpx.Client, engine: Engine) -> Make:
    """`make(status, **columns)` → a job of the client's tenant."""
    with session_scope(engine) as session:
        tenant_id = tenant_named(session, "local").id
        file_id = add_file(session, tenant_id)

    def job(status: JobStatus = JobStatus.QUEUED, **values: Any) -> str:
        with session_scope(engine) as session:
            return add_job(session, file_id, status, tenant_id=tenant_id, resolved=RESOLVED, **values)

    return job


def test_a_job_shows_every_field_from_the_first_answer_on(client: httpx.Client, make: Make) -> None:
    queued = client.get(f"/v1/jobs/{make()}").json()
    done = client.get(f"/v1/jobs/{make(JobStatus.SUCCEEDED, result=_RESULT, fine_tuned_model='ft:x')}").json()
    assert queued.keys() == done.keys()
    assert (queued["progress"], queued["verdict"], queued["method"]["chosen"]) == (None, None, None)
    assert done["verdict"] == _RESULT["verdict"]
    assert (done["method"]["chosen"], done["digest"], done["fine_tuned_model"]) == ("sff", "sha256:d", "ft:x")
    assert done["hyperparameters"] == {"learning_rate": 0.001}, "what the search chose"


_RESULT: dict[str, Any] = {
    "digest": "sha256:d",
    "resolved": RESOLVED | {"hyperparameters": {"learning_rate": 0.001}},
    "candidates": [],
    "verdict": {"promoted": True, "reason": "It won."},
    "data_report": {},
    "timing": {},
    "num_trainable_parameters": 7,
    "manifest": {},
}


def test_lists_are_newest_first_paged_and_filtered(client: httpx.Client, make: Make) -> None:
    made = [make(), make(JobStatus.FAILED), make()]
    page = client.get("/v1/jobs", params={"limit": 2}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == ([made[2], made[1]], True)
    rest = client.get("/v1/jobs", params={"limit": 2, "after": page["last_id"]}).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == ([made[0]], False)
    failed = client.get("/v1/jobs", params={"status": "failed"}).json()
    assert [job["id"] for job in failed["data"]] == [made[1]]
    assert client.get("/v1/jobs", params={"status": "dancing"}).status_code == 422


@pytest.mark.parametrize(
    ("action", "status", "answer"),
    [
        ("cancel", "queued", "cancelled"),
        ("cancel", "running", "cancelling"),
        ("cancel", "cancelling", "cancelling"),
        ("cancel", "paused", "cancelled"),
        ("cancel", "succeeded", "succeeded"),
        ("cancel", "failed", "failed"),
        ("cancel", "cancelled", "cancelled"),
        ("pause", "queued", "paused"),
        ("pause", "running", "running"),
        ("pause", "paused", "paused"),
        ("pause", "cancelling", 409),
        ("pause", "succeeded", 409),
        ("pause", "failed", 409),
        ("pause", "cancelled", 409),
        ("resume", "paused", "queued"),
        ("resume", "queued", "queued"),
        ("resume", "running", "running"),
        ("resume", "cancelling", 409),
        ("resume", "succeeded", 409),
        ("resume", "failed", 409),
        ("resume", "cancelled", 409),
    ],
)
def test_what_may_be_asked_in_each_state(
    client: httpx.Client, make: Make, action: str, status: str, answer: str | int
) -> None:
    job_id = make(JobStatus(status))
    for _ in range(2):  # asking twice is asking once
        response = client.post(f"/v1/jobs/{job_id}/{action}")
        if isinstance(answer, int):
            assert (response.status_code, response.json()["error"]["code"]) == (answer, "job_state")
        else:
            assert (response.status_code, response.json()["status"]) == (200, answer)


def test_a_resumed_job_is_sent_and_a_pause_shows_as_asked(client: httpx.Client, make: Make, queue: FakeQueue) -> None:
    running, paused = make(JobStatus.RUNNING), make(JobStatus.PAUSED)
    assert client.post(f"/v1/jobs/{running}/pause").json()["pause_requested"] is True
    client.post(f"/v1/jobs/{paused}/resume")
    assert queue.sent == [(RUN_JOB, paused)]


def test_another_tenant_finds_nothing(client: httpx.Client, other_client: httpx.Client, make: Make) -> None:
    job_id = make()
    routes = [("GET", ""), ("GET", "/events"), ("GET", "/checkpoints")]
    routes += [("POST", f"/{action}") for action in ("cancel", "pause", "resume")]
    for method, tail in routes:
        answer = other_client.request(method, f"/v1/jobs/{job_id}{tail}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found"), tail
    stream = {"accept": "text/event-stream"}
    assert other_client.get(f"/v1/jobs/{job_id}/events", headers=stream).status_code == 404
    assert other_client.get("/v1/jobs").json()["data"] == []


def _evaluate(engine: Engine, job_id: str, losses: list[float | None]) -> None:
    events = [
        leases.Event(
            message="evaluated", kind="metrics", data={"step": step, "validation_loss": loss, "kept": step > 0}
        )
        for step, loss in enumerate(losses)
    ]
    with session_scope(engine) as session:
        assert leases.heartbeat(session, job_id, owner=OWNER, lease_seconds=30, events=events)


def test_events_page_newest_first(client: httpx.Client, make: Make, engine: Engine) -> None:
    job_id = make(JobStatus.RUNNING)
    _evaluate(engine, job_id, [0.9, 0.8, 0.7])
    page = client.get(f"/v1/jobs/{job_id}/events", params={"limit": 2}).json()
    assert [event["data"]["step"] for event in page["data"]] == [2, 1]
    assert {event["object"] for event in page["data"]} == {"fine_tuning.job.event"}
    rest = client.get(f"/v1/jobs/{job_id}/events", params={"after": page["last_id"]}).json()
    assert ([event["data"]["step"] for event in rest["data"]], rest["has_more"]) == ([0], False)
    assert client.get(f"/v1/jobs/{job_id}/events", params={"after": "ftevent-none"}).status_code == 422
