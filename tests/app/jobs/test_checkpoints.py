"""Checkpoints of jobs over HTTP: listed, paged, three kept, another tenant's not found."""

from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import Engine, select

from app.auth.repository import tenant_named
from app.db import session_scope
from app.errors import NotFound
from app.jobs.checkpoints import KEEP, Checkpoint, add_checkpoint
from app.jobs.states import JobStatus
from app.registry.directory import find_target
from app.registry.repository import living_blobs
from app.tables import Job
from tests.app.jobs.factories import RESOLVED, add_file, add_job

Add = Callable[..., None]


@pytest.fixture
def job_id(client: httpx.Client, engine: Engine) -> str:
    """A running job of the client's tenant."""
    with session_scope(engine) as session:
        tenant_id = tenant_named(session, "local").id
        file_id = add_file(session, tenant_id)
        return add_job(session, file_id, JobStatus.RUNNING, tenant_id=tenant_id, resolved=RESOLVED)


@pytest.fixture
def add(engine: Engine, job_id: str) -> Add:
    """`add(step)`: the run has reported a checkpoint, whose only blob is named after its step."""

    def report(step: int, blob: str = "") -> None:
        metrics = {"step": step, "train_loss": None, "validation_loss": 1 / (1 + step)}
        files = {"model.safetensors": blob or f"sha{step}"}
        with session_scope(engine) as session:
            add_checkpoint(session, job_id, Checkpoint(metrics=metrics, digest=f"sha256:{step}", files=files))

    return report


def test_they_are_listed_newest_first_and_paged(client: httpx.Client, job_id: str, add: Add) -> None:
    assert client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"] == []
    for step in (3, 7, 11):
        add(step)
    page = client.get(f"/v1/jobs/{job_id}/checkpoints", params={"limit": 2}).json()
    assert ([item["step_number"] for item in page["data"]], page["has_more"]) == ([11, 7], True)
    newest = page["data"][0]
    assert newest["id"].startswith("ftckpt_")
    assert newest["fine_tuned_model_checkpoint"] == newest["id"]
    assert (newest["judged"], newest["digest"]) == (False, "sha256:11")
    assert newest["metrics"] == {"step": 11, "validation_loss": 1 / 12}
    rest = client.get(f"/v1/jobs/{job_id}/checkpoints", params={"after": page["last_id"]}).json()
    assert ([item["step_number"] for item in rest["data"]], rest["has_more"]) == ([3], False)
    assert client.get(f"/v1/jobs/{job_id}/checkpoints", params={"after": "ftckpt_none"}).status_code == 422


def test_the_newest_keep_their_weights(client: httpx.Client, engine: Engine, job_id: str, add: Add) -> None:
    for step in range(1, KEEP + 3):
        add(step)
    listed = client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    assert [item["fine_tuned_model_checkpoint"] is not None for item in listed] == [True] * KEEP + [False] * 2
    with session_scope(engine, read_only=True) as session:
        assert living_blobs(session) == {f"sha{step}" for step in range(3, KEEP + 3)}


def test_a_run_that_passes_a_step_again_renews_its_checkpoint(client: httpx.Client, job_id: str, add: Add) -> None:
    add(5)
    before = client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    add(5, "again")
    assert client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"] == before


def test_its_id_is_a_model_of_its_tenant_alone(client: httpx.Client, engine: Engine, job_id: str, add: Add) -> None:
    for step in range(1, KEEP + 2):
        add(step)
    newest, *_, oldest = client.get(f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    with session_scope(engine, read_only=True) as session:
        job = session.scalars(select(Job).where(Job.id == job_id)).one()
    target = find_target(engine, job.tenant_id, newest["id"])
    assert (target.model, target.version, target.fallback) == (newest["id"], None, None)
    assert target.source.files == {"model.safetensors": f"sha{KEEP + 1}"}
    assert (target.prediction_length, target.training_file) == (RESOLVED["prediction_length"], job.training_file)
    for tenant, name in ((job.tenant_id, oldest["id"]), ("another", newest["id"]), (job.tenant_id, "ftckpt_none")):
        with pytest.raises(NotFound, match="checkpoint"):
            find_target(engine, tenant, name)
