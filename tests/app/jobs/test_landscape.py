"""`landscape` in a job: as it is asked for by JSON and by form, as the run is told, and as the job shows it."""

from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, select

from app.auth.repository import tenant_named
from app.db import session_scope
from app.jobs.states import JobStatus
from app.tables import Job
from tests.app.jobs.factories import RESOLVED, add_file, add_job
from tests.app.jobs.test_create import submit, upload

DEFAULT = {"surface": False, "windows": None, "probes": 16}


def told(engine: Engine, job_id: str) -> Any:
    """What the run of this job will read."""
    with session_scope(engine, read_only=True) as session:
        job = session.scalars(select(Job).where(Job.id == job_id)).one()
        return job.resolved["landscape"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", DEFAULT),
        ("false", False),
        ('{"surface": true, "windows": 32}', {**DEFAULT, "surface": True, "windows": 32}),
    ],
)
def test_a_form_asks_for_it(client: httpx.Client, engine: Engine, text: str, expected: Any) -> None:
    job = submit(client, prediction_length="6", landscape=text).raise_for_status().json()
    assert told(engine, job["id"]) == expected
    assert job["landscape"] is None, "nothing is measured yet"


def test_json_asks_for_it_and_a_wrong_option_is_named(client: httpx.Client, engine: Engine) -> None:
    file_id = upload(client).json()["id"]
    asked = {"training_file": file_id, "prediction_length": 6}
    job = client.post("/v1/jobs", json={**asked, "landscape": True}).raise_for_status().json()
    assert told(engine, job["id"]) == DEFAULT
    job = client.post("/v1/jobs", json={**asked, "landscape": {}}).raise_for_status().json()
    assert told(engine, job["id"]) == DEFAULT
    for wrong, code in (
        ({"landscape": {"surfaces": True}}, "unknown_landscape_option"),
        ({"landscape": {"probes": 2}}, "invalid_config"),
        ({"landscape": "much"}, "invalid_request"),
        ({"landscape": True, "method": "zero_shot"}, "invalid_config"),
    ):
        answer = client.post("/v1/jobs", json={**asked, **wrong})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)
        assert "landscape" in answer.json()["error"]["param"]


def test_the_catalogues_estimate_counts_it(client: httpx.Client) -> None:
    asked = {"training_file": upload(client).json()["id"], "prediction_length": 6, "dry_run": True}
    bare, with_it = (
        client.post("/v1/jobs", json={**asked, "landscape": wanted}).raise_for_status().json()["estimate"]
        for wanted in (False, True)
    )
    assert bare["basis"] == with_it["basis"] == "table"
    assert with_it["seconds"] > bare["seconds"]


def test_what_was_measured_is_shown(client: httpx.Client, engine: Engine) -> None:
    found = {"points": {"tuned": {"lambda_max": 3.5}}}
    with session_scope(engine) as session:
        tenant_id = tenant_named(session, "local").id
        file_id = add_file(session, tenant_id)
        result = {"resolved": RESOLVED, "landscape": found}
        job_id = add_job(session, file_id, JobStatus.SUCCEEDED, tenant_id=tenant_id, resolved=RESOLVED, result=result)
    assert client.get(f"/v1/jobs/{job_id}").json()["landscape"] == found
