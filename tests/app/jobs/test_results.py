"""What a job leaves for a reader: result files in the job, among the files, and gone with the model."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from sqlalchemy import Engine

from app.auth.repository import tenant_named
from app.db import session_scope
from app.files.results import add_results, store_results
from app.registry.register import register_version
from app.storage import ObjectStore, file_key
from app.tables import Job
from tests.app.jobs.factories import RESOLVED, add_file, add_job

CSV = b"step,train_loss,valid_loss\n0,,1.5\n4,0.5,1.25\n"


@pytest.fixture
def job(engine: Engine, store: ObjectStore, tmp_path: Path) -> tuple[str, str, str]:
    """Ids of an ended job and of its one result file, and the name of its model."""
    (tmp_path / "metrics").write_bytes(CSV)
    with session_scope(engine) as session:
        tenant_id = tenant_named(session, "local").id
        job_id = add_job(session, add_file(session, tenant_id), tenant_id=tenant_id, resolved=RESOLVED)
        stored = store_results(store, job_id, {"step_metrics.csv": tmp_path / "metrics"})
        assert store_results(store, job_id, {"step_metrics.csv": tmp_path / "metrics"}) == stored, "another attempt"
        (file_id,) = add_results(session, tenant_id=tenant_id, results=stored)
        row = session.get_one(Job, job_id)
        result = {
            "digest": "sha256:" + "a" * 64,
            "manifest": {},
            "verdict": {"promoted": True, "fallback": None},
            "gate": {"passed": True, "gain": 0.1, "ci95": [0.05, 0.15], "versus": {}},
            "resolved": RESOLVED,
        }
        done = register_version(session, tenant_id=tenant_id, job_row=row, result=result, files={})
        row.status, row.fine_tuned_model, row.model_version = "succeeded", done.name, done.version
        row.result = {**result, "result_files": [file_id], "refit": {"version": 2, "digest": "sha256:" + "b" * 64}}
    return job_id, file_id, done.name


def test_they_are_named_by_the_job_and_listed_by_their_purpose(
    client: httpx.Client, other_client: httpx.Client, job: tuple[str, str, str]
) -> None:
    job_id, file_id, _ = job
    shown = client.get(f"/v1/jobs/{job_id}").json()
    assert (shown["result_files"], shown["refit_version"]) == ([file_id], 2)
    (listed,) = client.get("/v1/files", params={"purpose": "fine-tune-results"}).json()["data"]
    assert (listed["id"], listed["filename"], listed["bytes"]) == (file_id, "step_metrics.csv", len(CSV))
    assert (listed["status"], listed["reading"], listed["next"]) == ("processed", None, None)
    assert client.get(f"/v1/files/{file_id}/content").content == CSV
    assert other_client.get(f"/v1/files/{file_id}/content").status_code == 404


@pytest.mark.parametrize(
    ("status", "fraction", "left"),
    [("running", 0.99, 4.0), ("paused", 0.99, None), ("failed", 0.99, None), ("succeeded", 1.0, None)],
)
def test_the_bar_is_full_when_all_is_done_and_only_a_run_has_time_left(
    engine: Engine, client: httpx.Client, job: tuple[str, str, str], status: str, fraction: float, left: float | None
) -> None:
    last = {"phase": "saving", "step": 4, "total_steps": 4, "fraction": 0.99, "eta_seconds": 4.0}
    with session_scope(engine) as session:
        row = session.get_one(Job, job[0])
        row.status, row.progress = status, {**last, "train_loss": 0.5, "validation_loss": 1.25}
    shown = client.get(f"/v1/jobs/{job[0]}").json()["progress"]
    assert (shown["fraction"], shown["eta_seconds"], shown["step"]) == (fraction, left, 4)


def test_the_openai_client_reads_one(server: str, new_key: Callable[..., str], job: tuple[str, str, str]) -> None:
    openai = OpenAI(api_key=new_key("local"), base_url=f"{server}/v1", max_retries=0)
    assert openai.files.content(job[1]).read() == CSV


def test_nobody_trains_on_one_or_continues_it(client: httpx.Client, job: tuple[str, str, str]) -> None:
    asked = client.post("/v1/jobs", json={"training_file": job[1], "prediction_length": 2})
    assert (asked.status_code, asked.json()["error"]["code"]) == (422, "no_series")
    asked = client.post("/v1/forecast", json={"model": "naive", "prediction_length": 2, "file": job[1]})
    assert (asked.status_code, asked.json()["error"]["code"]) == (422, "no_series")


def test_they_go_with_the_model(client: httpx.Client, store: ObjectStore, job: tuple[str, str, str]) -> None:
    _, file_id, name = job
    versions = client.get(f"/v1/models/{name}/versions").json()["data"]
    assert versions[0]["gate"] == {"passed": True, "gain": 0.1, "ci95": [0.05, 0.15]}
    assert client.delete(f"/v1/models/{name}").json()["deleted"] is True
    assert client.get(f"/v1/files/{file_id}").status_code == 404
    assert not store.exists(file_key(file_id))


def test_one_may_be_deleted_alone(client: httpx.Client, store: ObjectStore, job: tuple[str, str, str]) -> None:
    assert client.delete(f"/v1/files/{job[1]}").json()["deleted"] is True
    assert not store.exists(file_key(job[1]))
    assert client.get(f"/v1/jobs/{job[0]}").status_code == 200


def test_a_job_may_only_join_a_name_whose_requests_it_can_answer(
    client: httpx.Client, job: tuple[str, str, str]
) -> None:
    name = job[2]

    def submit(step: timedelta) -> httpx.Response:
        rows = [f"{datetime(2024, 1, 1, tzinfo=UTC) + i * step},{i % 24}" for i in range(400)]
        csv = "\n".join(["timestamp,load", *rows])
        fields = {"prediction_length": "12", "register_as": name}
        return client.post("/v1/jobs", files={"file": ("load.csv", csv)}, data=fields)

    accepted = submit(timedelta(hours=1))
    assert (accepted.status_code, accepted.json()["register_as"]) == (200, name), accepted.text
    refused = submit(timedelta(days=1))
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_mismatch")
    assert "freq 'h'; this file has 'D'" in refused.json()["error"]["message"]
