"""`client.uploads`: parts become the file that they would have been as one, or nothing."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import openai as library
import pytest
from openai import OpenAI
from sqlalchemy import Engine, func, select, update

from app.db import session_scope
from app.files.fields import ROLE_FIELDS
from app.ids import utc_now
from app.main import create_app
from app.queue import READ_FILE, FakeQueue
from app.services import Services
from app.settings import Settings
from app.storage import ObjectStore, file_key, part_key
from app.tables import ChunkedUpload, File, UploadPart
from app.uploads import service
from app.uploads.schemas import UploadCreate
from tests.app.conftest import Open
from tests.app.uploads.conftest import DATA, Announce, Send, thirds
from tests.server import serve

MD5 = hashlib.md5(DATA).hexdigest()


def told(error: library.APIStatusError) -> tuple[int, str | None, str | None]:
    return error.status_code, error.code, error.param


def refused(call: Callable[..., object], *given: Any, **named: Any) -> tuple[int, str | None, str | None]:
    """Status, code and param of the exception."""
    with pytest.raises(library.APIStatusError) as caught:
        call(*given, **named)
    return told(caught.value)


def num_rows(engine: Engine, table: type[File] | type[ChunkedUpload] | type[UploadPart]) -> int:
    with session_scope(engine, read_only=True) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def expire(engine: Engine, *, ago: timedelta = timedelta(seconds=1)) -> None:
    with session_scope(engine) as session:
        session.execute(update(ChunkedUpload).values(expires_at=utc_now() - ago))


class TestComplete:
    def test_a_chunked_upload_is_the_file_that_a_single_one_would_be(
        self, openai: OpenAI, store: ObjectStore, settings: Settings, tmp_path: Path
    ) -> None:
        path = tmp_path / "load.csv"
        path.write_bytes(DATA)
        size = len(DATA) // 3 + 1
        upload = openai.uploads.upload_file_chunked(
            file=path, mime_type="text/csv", purpose="fine-tune", part_size=size, md5=MD5
        )
        assert (upload.object, upload.status, upload.bytes, upload.filename, upload.purpose) == (
            "upload",
            "completed",
            len(DATA),
            "load.csv",
            "fine-tune",
        )
        assert upload.expires_at == upload.created_at + 3600
        assert upload.file is not None
        single = openai.files.create(file=path, purpose="fine-tune")
        theirs, whole = openai.files.retrieve(upload.file.id).to_dict(), single.to_dict()
        assert upload.file.to_dict() == theirs
        for name in ("id", "created_at", "next"):  # its id stands in `next` too
            theirs.pop(name), whole.pop(name)
        assert theirs == whole
        assert openai.files.content(upload.file.id).read() == DATA
        assert store.list("uploads") == []
        assert list(settings.tmp_dir.iterdir()) == []

    def test_the_order_is_that_of_the_ids(self, openai: OpenAI, announce: Announce, send: Send) -> None:
        upload_id = announce()
        first, second, third = thirds()
        last, one, two = send(upload_id, third), send(upload_id, first), send(upload_id, second)
        wrong = refused(openai.uploads.complete, upload_id, part_ids=[last, one, two], md5=MD5)
        assert wrong == (400, "digest_mismatch", "md5")
        done = openai.uploads.complete(upload_id, part_ids=[one, two, last], md5=MD5.upper())
        assert done.file is not None
        assert openai.files.content(done.file.id).read() == DATA

    def test_a_part_that_was_sent_twice_may_be_left_out(self, openai: OpenAI, announce: Announce, send: Send) -> None:
        upload_id = announce()
        lost = send(upload_id, DATA)
        kept = send(upload_id, DATA)
        assert openai.uploads.complete(upload_id, part_ids=[kept]).status == "completed"
        assert lost != kept

    def test_asked_again_it_is_the_same_file(
        self, openai: OpenAI, announce: Announce, send: Send, engine: Engine
    ) -> None:
        upload_id = announce()
        part_ids = [send(upload_id, part) for part in thirds()]
        first = openai.uploads.complete(upload_id, part_ids=part_ids)
        assert openai.uploads.complete(upload_id, part_ids=part_ids) == first
        assert num_rows(engine, File) == 1
        other = refused(openai.uploads.complete, upload_id, part_ids=part_ids[::-1])
        assert other == (409, "upload_state", "part_ids")
        assert first.file is not None
        openai.files.delete(first.file.id)
        assert openai.uploads.complete(upload_id, part_ids=part_ids).file is None

    def test_two_that_race_leave_one_file(
        self, openai: OpenAI, announce: Announce, send: Send, engine: Engine, store: ObjectStore
    ) -> None:
        upload_id = announce()
        part_ids = [send(upload_id, part) for part in thirds()]
        found: list[str] = []

        def complete() -> None:
            done = openai.uploads.complete(upload_id, part_ids=part_ids)
            assert done.file is not None
            found.append(done.file.id)

        threads = [threading.Thread(target=complete) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len(set(found)) == 1
        assert num_rows(engine, File) == 1
        assert {key.split("/")[1] for key in store.list("files")} == set(found)

    def test_the_same_key_is_the_same_upload_part_and_file(
        self, openai: OpenAI, announce: Announce, engine: Engine
    ) -> None:
        first, again = (announce(extra_headers={"Idempotency-Key": "u"}) for _ in range(2))
        assert first == again
        parts = [
            openai.uploads.parts.create(first, data=DATA, extra_headers={"Idempotency-Key": "p"}).id for _ in range(2)
        ]
        assert parts[0] == parts[1]
        assert num_rows(engine, UploadPart) == 1
        done = [
            openai.uploads.complete(first, part_ids=parts[:1], extra_headers={"Idempotency-Key": "c"}) for _ in range(2)
        ]
        assert done[0] == done[1]

    def test_roles_and_expiry_are_the_file_s(self, openai: OpenAI, announce: Announce, send: Send) -> None:
        data = DATA.replace(b"item_id,timestamp,target", b"meter,when,kwh")
        upload_id = announce(
            bytes=len(data),
            expires_after={"anchor": "created_at", "seconds": 7200},
            extra_body={"id_column": "meter", "timestamp_column": "when", "target_columns": ["kwh"]},
        )
        file = openai.uploads.complete(upload_id, part_ids=[send(upload_id, data)]).file
        assert file is not None
        assert file.expires_at == file.created_at + 7200
        assert (file.model_extra or {})["options"]["id_column"] == "meter"
        assert UploadCreate.model_fields.keys() >= ROLE_FIELDS

    def test_a_large_one_is_read_by_a_worker(
        self, settings: Settings, queue: FakeQueue, new_key: Callable[..., str]
    ) -> None:
        small = settings.model_copy(update={"inline_parse_bytes": 1_000})
        with serve(create_app(small, queue=queue)) as url, OpenAI(api_key=new_key("local"), base_url=f"{url}/v1") as it:
            done = it.uploads.upload_file_chunked(
                file=DATA, filename="a.csv", bytes=len(DATA), mime_type="text/csv", purpose="eval", part_size=3_000
            )
        assert done.file is not None
        assert str(done.file.status) == "processing"
        assert queue.sent == [(READ_FILE, done.file.id)]

    def test_bad_data_are_refused_as_in_a_single_upload_and_the_upload_stays(
        self, openai: OpenAI, announce: Announce, send: Send, engine: Engine, store: ObjectStore
    ) -> None:
        data = DATA.replace(b"10.5", b"some")
        upload_id = announce(bytes=len(data))
        part_id = send(upload_id, data)
        with pytest.raises(library.UnprocessableEntityError) as parts:
            openai.uploads.complete(upload_id, part_ids=[part_id])
        with pytest.raises(library.UnprocessableEntityError) as whole:
            openai.files.create(file=("load.csv", data), purpose="fine-tune")
        assert parts.value.body == whole.value.body
        assert (num_rows(engine, File), store.list("files")) == (0, [])
        assert openai.uploads.cancel(upload_id).status == "cancelled"


class TestRefusals:
    def test_bytes_that_do_not_add_up(self, openai: OpenAI, announce: Announce, send: Send) -> None:
        upload_id = announce(bytes=len(DATA) + 1)
        part_ids = [send(upload_id, part) for part in thirds()]
        complete = openai.uploads.complete
        assert refused(complete, upload_id, part_ids=part_ids) == (400, "size_mismatch", "part_ids")
        assert refused(complete, upload_id, part_ids=part_ids[:2]) == (400, "size_mismatch", "part_ids")

    def test_parts_that_are_not_its_own_or_named_twice(self, openai: OpenAI, announce: Announce, send: Send) -> None:
        upload_id, other = announce(), announce()
        own, foreign = send(upload_id, DATA), send(other, DATA)
        complete = openai.uploads.complete
        for part_id in (foreign, "part_none"):
            assert refused(complete, upload_id, part_ids=[part_id]) == (
                404,
                "part_not_found",
                "part_ids",
            )
        assert refused(complete, upload_id, part_ids=[own, own]) == (422, "invalid_request", "part_ids")
        assert refused(complete, upload_id, part_ids=[]) == (422, "invalid_request", "part_ids")
        wrong = refused(complete, upload_id, part_ids=[own], md5="abc")
        assert wrong == (422, "invalid_request", "md5")

    @pytest.mark.parametrize(
        ("fields", "status", "code", "param"),
        [
            ({"bytes": 0}, 422, "invalid_request", "bytes"),
            ({"bytes": 1 << 62}, 413, "too_large", "bytes"),
            ({"purpose": "a b"}, 422, "invalid_request", "purpose"),
            (
                {"expires_after": {"anchor": "created_at", "seconds": 1}},
                422,
                "invalid_request",
                "expires_after.seconds",
            ),
            ({"extra_body": {"colour": "red"}}, 422, "unknown_field", "colour"),
            ({"extra_body": {"duplicates": "maybe"}}, 422, "invalid_option", "duplicates"),
        ],
    )
    def test_what_cannot_be_announced(
        self, announce: Announce, fields: dict[str, Any], status: int, code: str, param: str
    ) -> None:
        assert refused(announce, **fields) == (status, code, param)

    def test_parts_that_are_none(
        self, client: httpx.Client, openai: OpenAI, announce: Announce, store: ObjectStore, settings: Settings
    ) -> None:
        upload_id = announce()
        where = f"/v1/uploads/{upload_id}/parts"
        for request, code in (
            ({"content": b"x"}, (415, "unsupported_media_type")),
            ({"files": {"file": b"x"}}, (422, "unknown_field")),
            ({"files": {"data": b"x"}, "data": {"more": "y"}}, (422, "unknown_field")),
            ({"files": {"more": (None, "y")}}, (422, "missing_file")),
            ({"files": {"data": b""}}, (422, "empty_file")),
            ({"files": {"data": b"x" * (len(DATA) + 1)}}, (413, "too_large")),
        ):
            answer = client.post(where, **request)  # type: ignore[arg-type]
            assert (answer.status_code, answer.json()["error"]["code"]) == code
        assert store.list("uploads") == []
        assert list(settings.tmp_dir.iterdir()) == []

    def test_parts_hold_twice_the_bytes_at_most(
        self, openai: OpenAI, announce: Announce, send: Send, store: ObjectStore
    ) -> None:
        upload_id = announce()
        for _ in range(2):
            send(upload_id, DATA)
        assert refused(send, upload_id, b"x") == (413, "too_large", "data")
        assert len(store.list("uploads")) == 2

    def test_a_part_whose_bytes_are_gone_is_named(
        self, openai: OpenAI, announce: Announce, send: Send, store: ObjectStore
    ) -> None:
        upload_id = announce()
        part_id = send(upload_id, DATA)
        store.delete(f"uploads/{upload_id}/{part_id}")
        with pytest.raises(library.ConflictError, match=part_id) as caught:
            openai.uploads.complete(upload_id, part_ids=[part_id])
        assert told(caught.value) == (409, "content_missing", "part_ids")

    def test_another_tenant_and_a_key_without_the_scope(
        self, open_client: Open, new_key: Callable[..., str], openai: OpenAI, announce: Announce, send: Send
    ) -> None:
        upload_id = announce()
        part_id = send(upload_id, DATA)
        for client, found in (
            (open_client(new_key("other")), (404, "upload_not_found", None)),
            (open_client(new_key("local", ["jobs"])), (403, "missing_scope", None)),
        ):
            uploads = client.uploads
            assert refused(uploads.parts.create, upload_id, data=b"x") == found
            assert refused(uploads.complete, upload_id, part_ids=[part_id]) == found
            assert refused(uploads.cancel, upload_id) == found
        assert openai.uploads.complete(upload_id, part_ids=[part_id]).status == "completed"

    def test_a_full_disk_leaves_it_pending(
        self, openai: OpenAI, announce: Announce, send: Send, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload_id = announce()
        part_ids = [send(upload_id, part) for part in thirds()]

        def full(*_: object) -> Iterator[bytes]:
            yield b"t"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(service, "_stream", full)
            assert refused(openai.uploads.complete, upload_id, part_ids=part_ids) == (507, "storage_full", None)
        assert list(settings.tmp_dir.iterdir()) == []
        assert list(openai.files.list()) == []
        assert openai.uploads.complete(upload_id, part_ids=part_ids, md5=MD5).status == "completed"


class TestEnds:
    def all_refused(self, openai: OpenAI, upload_id: str, part_id: str) -> set[tuple[int, str | None, str | None]]:
        return {
            refused(openai.uploads.parts.create, upload_id, data=b"x"),
            refused(openai.uploads.complete, upload_id, part_ids=[part_id, part_id]),
        }

    def test_cancelled(self, openai: OpenAI, announce: Announce, send: Send, store: ObjectStore) -> None:
        upload_id = announce()
        part_id = send(upload_id, DATA)
        for _ in range(2):
            cancelled = openai.uploads.cancel(upload_id)
            assert (cancelled.status, cancelled.file) == ("cancelled", None)
        assert store.list("uploads") == []
        assert self.all_refused(openai, upload_id, part_id) == {(409, "upload_state", None)}

    def test_completed(self, openai: OpenAI, announce: Announce, send: Send) -> None:
        upload_id = announce()
        openai.uploads.complete(upload_id, part_ids=[send(upload_id, DATA)])
        assert refused(send, upload_id, b"x") == (409, "upload_state", None)
        assert refused(openai.uploads.cancel, upload_id) == (409, "upload_state", None)

    def test_expired_before_and_after_the_sweep(
        self, openai: OpenAI, announce: Announce, send: Send, engine: Engine, store: ObjectStore
    ) -> None:
        upload_id = announce()
        part_id = send(upload_id, DATA)
        expire(engine)
        assert self.all_refused(openai, upload_id, part_id) == {(409, "upload_state", None)}
        for _ in range(2):
            service.remove_ended(engine=engine, store=store)
            assert self.all_refused(openai, upload_id, part_id) == {(409, "upload_state", None)}
            assert refused(openai.uploads.cancel, upload_id) == (409, "upload_state", None)
        assert store.list("uploads") == []
        assert num_rows(engine, ChunkedUpload) == 1

    def test_a_sweep_leaves_what_is_under_way_and_forgets_what_is_long_over(
        self, openai: OpenAI, announce: Announce, send: Send, engine: Engine, store: ObjectStore
    ) -> None:
        done = announce()
        part_id = send(done, DATA)
        file = openai.uploads.complete(done, part_ids=[part_id]).file
        expire(engine, ago=timedelta(days=2))
        upload_id = announce()
        kept = send(upload_id, DATA)
        service.remove_ended(engine=engine, store=store)
        assert (num_rows(engine, ChunkedUpload), num_rows(engine, UploadPart)) == (1, 1)
        assert refused(openai.uploads.complete, done, part_ids=[part_id])[:2] == (404, "upload_not_found")
        assert file is not None
        assert store.exists(file_key(file.id))
        assert openai.uploads.complete(upload_id, part_ids=[kept]).status == "completed"

    def test_objects_that_a_crash_left_go_after_a_day(
        self, engine: Engine, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.put_bytes(part_key("upload_gone", "part_0"), b"x")
        service.remove_ended(engine=engine, store=store)
        assert len(store.list("uploads")) == 1, "its row may be about to come"
        later = utc_now() + timedelta(days=2)
        monkeypatch.setattr(service, "utc_now", lambda: later)
        service.remove_ended(engine=engine, store=store)
        assert store.list("uploads") == []

    def test_what_ends_while_parts_are_joined_is_found_as_it_ended(
        self,
        openai: OpenAI,
        announce: Announce,
        send: Send,
        services: Services,
        engine: Engine,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        upload_id = announce()
        part_id = send(upload_id, DATA)
        read = service.files.create_from_upload

        def and_cancel(*args: Any, **kwargs: Any) -> File:
            with session_scope(engine) as session:
                session.execute(update(ChunkedUpload).values(status="cancelled"))
            return read(*args, **kwargs)

        monkeypatch.setattr(service.files, "create_from_upload", and_cancel)
        assert refused(openai.uploads.complete, upload_id, part_ids=[part_id]) == (409, "upload_state", None)
        assert (num_rows(engine, File), services.store.list("files")) == (0, [])

    def test_a_restart_loses_nothing(self, settings: Settings, queue: FakeQueue, new_key: Callable[..., str]) -> None:
        key = new_key("local")
        part_ids: list[str] = []
        upload_id = ""
        for part in thirds():
            with serve(create_app(settings, queue=queue)) as url, OpenAI(api_key=key, base_url=f"{url}/v1") as it:
                asked: Any = {"bytes": len(DATA), "filename": "a.csv", "mime_type": "text/csv", "purpose": "fine-tune"}
                upload_id = upload_id or it.uploads.create(**asked).id
                part_ids.append(it.uploads.parts.create(upload_id, data=part).id)
        with serve(create_app(settings, queue=queue)) as url, OpenAI(api_key=key, base_url=f"{url}/v1") as it:
            assert it.uploads.complete(upload_id, part_ids=part_ids, md5=MD5).status == "completed"
