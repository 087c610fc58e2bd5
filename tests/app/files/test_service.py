"""Files below HTTP: read by the worker, swept when their time is over, whole or not at all."""

import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import httpx
import pytest
from sqlalchemy import Connection, event, func, select, update

from app.db import session_scope
from app.files import service
from app.files.repository import UPLOADED, pending_ids
from app.ids import utc_now
from app.services import Services
from app.storage import series_key
from app.tables import File, Job
from tests.app.files.conftest import Keep, Upload, hourly_csv


@pytest.fixture
def make_pending(services: Services, keep: Keep) -> Callable[[bytes], str]:
    """A file as a large upload leaves it: stored, not read."""

    def make(data: bytes) -> str:
        file_id = keep(data, status=UPLOADED, reading=None)
        services.store.delete(series_key(file_id))
        return file_id

    return make


def read(services: Services, file_id: str) -> None:
    service.read_pending(file_id, engine=services.engine, store=services.store, settings=services.settings)


class TestReadPending:
    def test_it_becomes_processed(
        self, services: Services, client: httpx.Client, make_pending: Callable[[bytes], str]
    ) -> None:
        file_id = make_pending(hourly_csv(num_series=2))
        assert client.get(f"/v1/files/{file_id}").json()["status"] == "processing"
        for _ in range(2):  # a second delivery changes nothing
            read(services, file_id)
        body = client.get(f"/v1/files/{file_id}").json()
        assert (body["status"], body["reading"]["num_series"]) == ("processed", 2)
        assert services.store.exists(series_key(file_id))

    def test_what_is_wrong_is_recorded(
        self, services: Services, client: httpx.Client, make_pending: Callable[[bytes], str]
    ) -> None:
        file_id = make_pending(b"")
        read(services, file_id)
        body = client.get(f"/v1/files/{file_id}").json()
        assert (body["status"], body["reading"]) == ("error", None)
        assert body["status_details"] == body["error"]["message"]

    def test_a_file_deleted_meanwhile_leaves_nothing(
        self, services: Services, client: httpx.Client, make_pending: Callable[[bytes], str]
    ) -> None:
        file_id = make_pending(hourly_csv())
        client.delete(f"/v1/files/{file_id}")
        read(services, file_id)
        assert services.store.list("files") == []

    def test_a_reader_that_crashes_and_bytes_that_are_gone_are_recorded_once(
        self, services: Services, make_pending: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone, poison = make_pending(hourly_csv()), make_pending(hourly_csv())
        services.store.delete(f"files/{gone}/raw")
        read(services, gone)
        crash = (sys.executable, "-c", "raise SystemExit(3)")
        monkeypatch.setattr(service, "parsed", partial(service.parsed, command=crash))
        read(services, poison)
        with session_scope(services.engine, read_only=True) as session:
            errors = {row.id: (row.status, (row.error or {})["code"]) for row in session.scalars(select(File))}
            assert errors == {gone: ("error", "content_missing"), poison: ("error", "internal_error")}
            assert pending_ids(session, older_than=utc_now() + timedelta(seconds=1)) == []

    def test_the_sweeper_finds_it(self, services: Services, make_pending: Callable[[bytes], str]) -> None:
        file_id = make_pending(hourly_csv())
        with session_scope(services.engine, read_only=True) as session:
            assert pending_ids(session, older_than=utc_now() + timedelta(seconds=1)) == [file_id]
            assert pending_ids(session, older_than=utc_now() - timedelta(minutes=1)) == []


def add_job(services: Services, file_id: str, *, status: str) -> None:
    with session_scope(services.engine) as session:
        tenant_id = session.scalars(select(File.tenant_id).where(File.id == file_id)).one()
        now = utc_now()
        job = Job(id=f"ftjob-{status}", tenant_id=tenant_id, status=status, training_file=file_id, created_at=now)
        job.request = job.resolved = {}
        session.add(job)


class TestDelete:
    @pytest.mark.parametrize("status", ["queued", "running", "paused", "cancelling"])
    def test_a_file_that_a_job_needs_stays(
        self, services: Services, client: httpx.Client, keep: Keep, status: str
    ) -> None:
        file_id = keep()
        add_job(services, file_id, status=status)
        answer = client.delete(f"/v1/files/{file_id}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "file_in_use")
        assert f"ftjob-{status}" in answer.json()["error"]["message"]
        assert client.get(f"/v1/files/{file_id}/content").status_code == 200

    def test_a_file_of_a_finished_job_goes(self, services: Services, client: httpx.Client, keep: Keep) -> None:
        file_id = keep()
        add_job(services, file_id, status="succeeded")
        assert client.delete(f"/v1/files/{file_id}").status_code == 200


class TestSweeps:
    def test_expired_files_are_gone_at_once_and_swept_later(
        self, services: Services, client: httpx.Client, keep: Keep
    ) -> None:
        expiring, kept, needed = (keep() for _ in range(3))
        add_job(services, needed, status="running")
        with session_scope(services.engine) as session:
            past = utc_now() - timedelta(seconds=1)
            session.execute(update(File).where(File.id.in_((expiring, needed))).values(expires_at=past))
        assert client.get(f"/v1/files/{expiring}").status_code == 404
        assert service.delete_expired(engine=services.engine, store=services.store) == 1
        assert {key.split("/")[1] for key in services.store.list("files")} == {kept, needed}

    def test_old_objects_without_a_file_are_removed(
        self, services: Services, keep: Keep, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = keep()
        services.store.put_bytes("files/file-orphan/raw", b"x")
        assert service.remove_orphans(engine=services.engine, store=services.store) == 0
        monkeypatch.setattr(service, "ORPHAN_AGE", timedelta(seconds=-60))
        assert service.remove_orphans(engine=services.engine, store=services.store) == 1
        assert {key.split("/")[1] for key in services.store.list("files")} == {kept}


def test_a_commit_that_fails_removes_the_objects(services: Services, client: httpx.Client, upload: Upload) -> None:
    def refuse(connection: Connection) -> None:
        if connection.scalar(select(func.count()).select_from(File)):
            raise RuntimeError("no")

    event.listen(services.engine, "commit", refuse)
    answer = upload(hourly_csv())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert services.store.list("files") == []
    assert list(services.settings.tmp_dir.iterdir()) == []


def test_one_upload_per_idempotency_key(client: httpx.Client, services: Services) -> None:
    headers = {"idempotency-key": "upload-1"}
    first = client.post("/v1/files", files={"file": ("a.csv", hourly_csv())}, headers=headers)
    again = client.post("/v1/files", files={"file": ("a.csv", hourly_csv())}, headers=headers)
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    for other in (("a.csv", hourly_csv(300)), ("b.csv", hourly_csv())):
        answer = client.post("/v1/files", files={"file": other}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert len(services.store.list("files")) == 2
