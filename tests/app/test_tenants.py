"""Every route of the OpenAPI schema, walked with another tenant's ids of every kind: only 404, nothing moves."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import select

from app.auth.keys import Scope
from app.auth.repository import tenant_named
from app.db import session_scope
from app.ids import EVENT, new_id, utc_now
from app.jobs.checkpoints import Checkpoint, add_checkpoint
from app.jobs.states import JobStatus
from app.services import Services
from app.settings import Settings
from app.storage import file_key, series_key
from app.tables import JobCheckpoint, JobEvent, ModelVersion
from tests.app.files.conftest import hourly_csv
from tests.app.jobs import factories
from tests.app.tuned import Tuned, register

SERIES = [{"target": [1.0, 2.0, 3.0]}]
CSV = {"content": b"target\n1\n2\n3\n", "headers": {"content-type": "text/csv"}}
LISTS = {"/v1/files", "/v1/jobs", "/v1/models", "/v1/keys", "/v1/fine_tuning/jobs"}
WITHOUT_IDS = {
    *(("get", path) for path in ("/healthz", "/readyz", "/metrics", "/v1/usage", "/v1/backbones")),
    ("post", "/v1/files"),
    ("post", "/v1/uploads"),
    ("post", "/v1/keys"),
}
"""They take no id. A new route is walked, or a reason for leaving it out stands here."""
IN_THE_BODY: Mapping[tuple[str, str], Callable[[str], list[dict[str, Any]]]] = {
    **{
        ("post", path): lambda foreign: [
            {"json": {"training_file": foreign, "prediction_length": 8}},
            {"json": {"training_file": foreign, "prediction_length": 8, "dry_run": True}},
        ]
        for path in ("/v1/jobs", "/v1/fine_tuning/jobs")
    },
    ("post", "/v1/forecast"): lambda foreign: [
        {"json": {"model": foreign, "series": SERIES}},
        {"json": {"model": foreign}},
        {"json": {"model": "naive", "prediction_length": 2, "file": foreign[:64]}},
        {"params": {"model": foreign}, **CSV},
    ],
    ("post", "/v1/backtests"): lambda foreign: [
        {"json": {"model": foreign, "prediction_length": 1, "series": SERIES}},
        {"json": {"model": "naive", "prediction_length": 1, "file": foreign[:64]}},
        {"params": {"model": foreign, "prediction_length": "1"}, **CSV},
    ],
    ("post", "/v1/anomalies"): lambda foreign: [
        {"json": {"model": foreign, "series": SERIES}},
        {"json": {"model": foreign}},
        {"json": {"model": "naive", "file": foreign[:64]}},
        {"params": {"model": foreign}, **CSV},
    ],
    ("post", "/v1/imputations"): lambda foreign: [
        {"json": {"model": foreign, "series": SERIES}},
        {"json": {"model": foreign}},
        {"json": {"model": "linear_fill", "file": foreign[:64]}},
        {"params": {"model": foreign}, **CSV},
    ],
}


BESIDE_THE_PATH: Mapping[tuple[str, str], dict[str, Any]] = {
    ("put", "/v1/models/{name}/aliases/{alias}"): {"json": {"version": 1}},
    ("post", "/v1/uploads/{upload_id}/complete"): {"json": {"part_ids": ["part_0"]}},
}
"""Bodies without which a route would not look at its path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """One of each kind."""

    file: str
    upload: str
    part: str
    job: str
    event: str
    checkpoint: str
    model: str
    version: str
    key: str

    def spellings(self) -> list[str]:
        """All of them, and the other ways to name a model."""
        return [*asdict(self).values(), f"{self.model}@1", f"{self.model}@production"]


NOBODYS = Ids(
    file="file-0",
    upload="upload_0",
    part="part_0",
    job="ftjob-0",
    event="ftevent-0",
    checkpoint="ftckpt_0",
    model="ft:toy:other:load:00000000",
    version="mv-0",
    key="key-0",
)


@pytest.fixture
def settings(settings: Settings, toy_weights: Path) -> Settings:
    return settings.model_copy(update={"weights_dir": toy_weights})


@pytest.fixture
def stranger(connect: Callable[[str | None], httpx.Client], new_key: Callable[..., str]) -> httpx.Client:
    """Tenant `local` with every scope but `admin`, which is for the whole service."""
    return connect(new_key("local", [scope.value for scope in Scope if scope is not Scope.ADMIN]))


@pytest.fixture
def theirs(services: Services, other_client: httpx.Client, tuned: Tuned, toy_backbone: str) -> Ids:
    """Tenant `other` has a stored file, another in parts, a running job with an event, a promoted model, and a key."""
    model = register(services.engine, services.store, tuned, tenant="other")
    upload = other_client.post("/v1/uploads", json={"bytes": 2, "filename": "a.csv"}).json()["id"]
    part = other_client.post(f"/v1/uploads/{upload}/parts", files={"data": b"1"}).json()["id"]
    with session_scope(services.engine) as session:
        tenant = tenant_named(session, "other").id
        file = factories.add_file(session, tenant)
        job = factories.add_job(
            session, file, JobStatus.RUNNING, tenant_id=tenant, resolved=factories.RESOLVED, lease_seconds=3600
        )
        event = JobEvent(
            id=new_id(EVENT), job_id=job, created_at=utc_now(), level="info", type="message", message="m", data=None
        )
        session.add(event)
        version = session.scalars(select(ModelVersion.id)).one()
        session.flush()
        add_checkpoint(session, job, Checkpoint(metrics={"step": 1}, digest=tuned.digest, files=tuned.files))
        checkpoint = session.scalars(select(JobCheckpoint.id)).one()
        key = other_client.get("/v1/keys").json()["data"][0]["id"]
        ids = Ids(
            file=file,
            upload=upload,
            part=part,
            job=job,
            event=event.id,
            checkpoint=checkpoint,
            model=model.name,
            version=version,
            key=key,
        )
    for key_of in (file_key, series_key):
        services.store.put_bytes(key_of(ids.file), b"x")
    return ids


@pytest.fixture
def operations(server: str) -> list[tuple[str, str]]:
    """(method, path) of the whole schema."""
    paths = httpx.get(f"{server}/openapi.json", trust_env=False).json()["paths"]
    return [(method, path) for path, methods in paths.items() for method in methods]


def ask(client: httpx.Client, method: str, path: str, foreign: str, **request: Any) -> tuple[int, str]:
    """Status and text of the answer, without the id that was asked for."""
    where = re.sub(r"\{(version|alias|[a-z_]+)\}", lambda found: filled(found.group(1), foreign), path)
    answer = client.request(method, where, **request)
    return answer.status_code, answer.text.replace(foreign, "ID").replace(foreign.partition("@")[0], "ID")


def filled(parameter: str, foreign: str) -> str:
    return {"version": "1", "alias": "production"}.get(parameter) or quote(foreign, safe="")


def is_admin(path: str) -> bool:
    return path.startswith("/v1/keys")


def test_every_operation_is_walked(operations: list[tuple[str, str]]) -> None:
    walked = {(method, path) for method, path in operations if "{" in path}
    lists = {("get", path) for path in LISTS}
    assert set(operations) == walked | lists | set(IN_THE_BODY) | WITHOUT_IDS


def test_no_path_leads_to_another_tenant(
    operations: list[tuple[str, str]], stranger: httpx.Client, other_client: httpx.Client, theirs: Ids
) -> None:
    expected, found = {}, {}
    for method, path in operations:
        if "{" not in path:
            continue
        body = BESIDE_THE_PATH.get((method, path), {})
        for route in (path, path.removeprefix("/v1")):
            for foreign, unknown in zip(theirs.spellings(), NOBODYS.spellings(), strict=True):
                status, text = ask(stranger, method, route, foreign, **body)
                found[method, route, unknown] = status
                expected[method, route, unknown] = 403 if is_admin(path) else 404
                assert (status, text) == ask(stranger, method, route, unknown, **body), (method, route, foreign)
    assert found == expected
    assert_untouched(other_client, theirs)


def assert_untouched(owner: httpx.Client, ids: Ids) -> None:
    """The owner finds everything as it was: the same requests would have gone through with the right key."""
    assert owner.get(f"/v1/files/{ids.file}").status_code == 200
    assert owner.get(f"/v1/files/{ids.file}/content").content == b"x"
    incomplete = owner.post(f"/v1/uploads/{ids.upload}/complete", json={"part_ids": [ids.part]})
    assert incomplete.json()["error"]["code"] == "size_mismatch"
    job = owner.get(f"/v1/jobs/{ids.job}").json()
    assert (job["status"], job["pause_requested"]) == ("running", False)
    assert owner.get(f"/v1/jobs/{ids.job}/events").json()["data"][0]["id"] == ids.event
    assert owner.get(f"/v1/models/{ids.model}").json()["aliases"]["production"] == 1
    for model in (ids.version, ids.checkpoint):
        assert owner.post("/v1/forecast", json={"model": model, "series": SERIES}).status_code == 200
    assert owner.post(f"/v1/jobs/{ids.job}/cancel").json()["status"] == "cancelling"


def test_no_body_names_an_object_of_another_tenant(stranger: httpx.Client, theirs: Ids) -> None:
    for (method, path), requests in IN_THE_BODY.items():
        for foreign, unknown in zip(theirs.spellings(), NOBODYS.spellings(), strict=True):
            for request, same in zip(requests(foreign), requests(unknown), strict=True):
                answer = ask(stranger, method, path, foreign, **request)
                assert answer[0] == 404, (path, request, answer)
                assert answer == ask(stranger, method, path, unknown, **same)


def test_a_job_is_not_registered_under_the_name_of_another_tenant(stranger: httpx.Client, theirs: Ids) -> None:
    own = stranger.post("/v1/files", files={"file": ("load.csv", hourly_csv())}).json()["id"]
    body = {"training_file": own, "prediction_length": 8, "register_as": theirs.model}
    assert stranger.post("/v1/jobs", json=body).status_code == 404
    del body["register_as"]
    assert stranger.post("/v1/jobs", json=body).status_code == 200


def test_lists_neither_show_nor_continue_from_what_is_another_tenants(
    stranger: httpx.Client, theirs: Ids, operations: list[tuple[str, str]]
) -> None:
    ids = set(theirs.spellings())
    for path in sorted(LISTS):
        if is_admin(path):
            assert stranger.get(path).status_code == 403
            continue
        listed = stranger.get(path)
        assert listed.status_code == 200
        assert not {item["id"] for item in listed.json()["data"]} & ids
        for foreign, unknown in zip(theirs.spellings(), NOBODYS.spellings(), strict=True):
            answer = ask(stranger, "get", path, foreign, params={"after": foreign})
            assert answer == ask(stranger, "get", path, unknown, params={"after": unknown})
            assert answer[0] == 422
    assert stranger.get("/v1/jobs", params={"training_file": theirs.file}).json()["data"] == []
