"""Files over HTTP: what goes in comes out, what is wrong leaves nothing behind."""

import base64
import gzip
import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from openai import OpenAI
from sqlalchemy import Engine, func, select

from app.db import session_scope
from app.queue import READ_FILE, FakeQueue
from app.services import Services
from app.settings import Settings
from app.storage import ObjectStore
from app.tables import File
from tests.app.files.conftest import Keep, Upload, hourly_csv

NewKey = Callable[..., str]


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture
def nothing_kept(engine: Engine, store: ObjectStore, settings: Settings) -> Callable[[], None]:
    """Fails when a refused upload left a row, an object or a temporary file."""

    def check() -> None:
        with session_scope(engine, read_only=True) as session:
            assert session.scalar(select(func.count()).select_from(File)) == 0
        assert store.list("files") == []
        assert list(settings.tmp_dir.iterdir()) == []

    return check


class TestCreate:
    def test_multipart_upload_says_what_was_understood(self, upload: Upload) -> None:
        data = hourly_csv()
        answer = upload(data)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["object"] == "file"
        assert body["id"].startswith("file-")
        assert (body["filename"], body["purpose"], body["status"]) == ("load.csv", "fine-tune", "processed")
        assert (body["bytes"], body["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert (body["reading"]["freq"], body["reading"]["max_length"]) == ("h", 400)
        fit = body["backbones"][0]
        assert fit["model"] == "temper-tiny"
        assert fit["fits"]
        job = body["next"]["job"]
        assert (job["path"], job["body"]["training_file"]) == ("/v1/jobs", body["id"])
        assert job["body"]["prediction_length"] == 24

    def test_raw_upload_by_the_query(self, client: httpx.Client) -> None:
        answer = client.post("/v1/files?filename=../../x/load.csv&purpose=eval", content=hourly_csv())
        assert answer.status_code == 200, answer.text
        assert (answer.json()["filename"], answer.json()["purpose"]) == ("load.csv", "eval")

    def test_roles_are_given_and_echoed(self, client: httpx.Client) -> None:
        data = hourly_csv().replace(b"item_id,timestamp,target", b"meter,when,kwh")
        query = {"id_column": "meter", "timestamp_column": "when", "target_columns": ["kwh"]}
        answer = client.post("/v1/files", content=data, params=query)
        assert answer.status_code == 200, answer.text
        columns = answer.json()["reading"]["columns"]
        assert (columns["id"], columns["targets"]) == ("meter", ["kwh"])
        assert answer.json()["options"]["target_columns"] == ["kwh"]

    def test_both_prefixes_are_one_route(self, client: httpx.Client) -> None:
        assert client.post("/files", content=hourly_csv()).status_code == 200

    def test_digests_are_checked(self, client: httpx.Client, nothing_kept: Callable[[], None]) -> None:
        data = hourly_csv()
        good = base64.b64encode(hashlib.sha256(data).digest()).decode()
        bad = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
        for header, value, expected in (
            ("content-digest", f"sha-256=:{bad}:", "digest_mismatch"),
            ("repr-digest", f"sha-256=:{bad}:", "digest_mismatch"),
            ("content-digest", "md5=:abc:", "invalid_digest"),
            ("content-digest", "sha-256=:%:", "invalid_digest"),
        ):
            answer = client.post("/v1/files", content=data, headers={header: value})
            assert code_of(answer) == (400, expected)
        nothing_kept()
        answer = client.post("/v1/files", content=data, headers={"content-digest": f"sha-256=:{good}:"})
        assert answer.status_code == 200

    def test_a_large_file_is_read_by_a_worker(self, connect_small: httpx.Client, queue: FakeQueue) -> None:
        answer = connect_small.post("/v1/files", content=hourly_csv(4_000))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["status"], body["reading"], body["next"]) == ("processing", None, None)
        assert queue.sent == [(READ_FILE, body["id"])]


class TestRefusals:
    def test_wrong_fields(self, client: httpx.Client, upload: Upload, nothing_kept: Callable[[], None]) -> None:
        data = hourly_csv()
        assert code_of(upload(data, colour="red")) == (422, "unknown_field")
        assert code_of(client.post("/v1/files?colour=red", content=data)) == (422, "unknown_field")
        assert code_of(upload(data, purpose="a b")) == (422, "invalid_request")
        assert code_of(upload(data, duplicates="maybe")) == (422, "invalid_option")
        twice = client.post("/v1/files?id_column=a&id_column=b", content=data)
        assert code_of(twice) == (422, "invalid_request")
        assert code_of(client.post("/v1/files", data={"purpose": "x"}, files={"other": b"x"})) == (422, "unknown_field")
        no_file = client.post("/v1/files", files={"purpose": (None, "x")})
        assert code_of(no_file) == (422, "missing_file")
        assert code_of(client.post("/v1/files", json={"file": "x"})) == (415, "unsupported_media_type")
        nothing_kept()

    def test_malformed_multipart(self, client: httpx.Client, nothing_kept: Callable[[], None]) -> None:
        part = b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n1,2'
        for content_type, body in (
            ("multipart/form-data", part),
            ("multipart/form-data; boundary=b", part),
            ("multipart/form-data; boundary=b", b"nothing like it"),
            ("multipart/form-data; boundary=b", b"--b\r\n\r\nno name\r\n--b--\r\n"),
        ):
            answer = client.post("/v1/files", content=body, headers={"content-type": content_type})
            assert code_of(answer) == (400, "malformed_multipart"), body
        nothing_kept()

    def test_bad_data_lists_all_problems(self, upload: Upload, nothing_kept: Callable[[], None]) -> None:
        lines = hourly_csv().decode().splitlines()
        for row in (5, 9, 30):
            lines[row] = lines[row].rpartition(",")[0] + ",broken"
        answer = upload("\n".join(lines).encode())
        assert answer.status_code == 422, answer.text
        details = answer.json()["error"]["details"]
        assert details["num_problems"] == 3
        assert [problem["value"] for problem in details["problems"]] == ["broken"] * 3
        nothing_kept()

    @pytest.mark.parametrize("data", [b"", b"item_id,timestamp,target\n", bytes(range(256)) * 20])
    def test_files_that_are_none(self, upload: Upload, nothing_kept: Callable[[], None], data: bytes) -> None:
        answer = upload(data)
        assert answer.status_code in (415, 422), answer.text
        nothing_kept()

    def test_over_the_limit_by_header_and_by_count(
        self, connect_small: httpx.Client, nothing_kept: Callable[[], None]
    ) -> None:
        assert code_of(connect_small.post("/v1/files", content=b"x" * 300_000)) == (413, "too_large")
        files = {"file": ("x.csv", b"x" * 300_000)}
        assert code_of(connect_small.post("/v1/files", files=files)) == (413, "too_large")

        def chunks() -> Iterator[bytes]:
            for _ in range(30):
                yield b"x" * 10_000

        assert code_of(connect_small.post("/v1/files", content=chunks())) == (413, "too_large")
        nothing_kept()

    def test_a_gzip_bomb(self, connect_small: httpx.Client, nothing_kept: Callable[[], None]) -> None:
        bomb = gzip.compress(b"item_id,timestamp,target\n" + b"0" * (20 << 20))
        assert len(bomb) < 50_000
        assert code_of(connect_small.post("/v1/files", content=bomb)) == (413, "too_large")
        nothing_kept()

    def test_a_gzip_that_ends_early(self, client: httpx.Client, nothing_kept: Callable[[], None]) -> None:
        answer = client.post("/v1/files", content=gzip.compress(hourly_csv())[:-20])
        assert code_of(answer) == (422, "truncated")
        nothing_kept()

    def test_a_truncated_upload_leaves_nothing(
        self, server: str, new_key: NewKey, nothing_kept: Callable[[], None]
    ) -> None:
        key, address = new_key("local"), urlsplit(server)
        for content_type, body in (
            ("text/csv", hourly_csv()),
            ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\n1,2'),
        ):
            head = (
                f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
                f"content-type: {content_type}\r\ncontent-length: {len(body) + 1000}\r\n\r\n"
            )
            with socket.create_connection((address.hostname, address.port)) as connection:
                connection.sendall(head.encode() + body)
                time.sleep(0.2)  # the server has begun to read
        deadline = time.monotonic() + 10
        while True:
            try:
                nothing_kept()
                break
            except AssertionError:
                assert time.monotonic() < deadline, "a truncated upload left something behind"
                time.sleep(0.05)

    def test_scopes(self, connect: Callable[[str | None], httpx.Client], new_key: NewKey) -> None:
        answer = connect(new_key("local", ["jobs"])).post("/v1/files", content=hourly_csv())
        assert code_of(answer) == (403, "missing_scope")


class TestReadAndDelete:
    def test_another_tenant_sees_nothing(self, keep: Keep, other_client: httpx.Client) -> None:
        file_id = keep()
        assert other_client.get("/v1/files").json()["data"] == []
        for answer in (
            other_client.get(f"/v1/files/{file_id}"),
            other_client.get(f"/v1/files/{file_id}/content"),
            other_client.delete(f"/v1/files/{file_id}"),
        ):
            assert code_of(answer) == (404, "file_not_found")
        assert code_of(other_client.get(f"/v1/files?after={file_id}")) == (422, "invalid_cursor")

    def test_content_comes_back_as_sent(self, keep: Keep, client: httpx.Client) -> None:
        data = hourly_csv()
        file_id = keep(data, name="lóad.csv")
        answer = client.get(f"/v1/files/{file_id}/content")
        assert answer.content == data
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''l%C3%B3ad.csv"

    def test_delete_removes_objects_and_is_idempotent(
        self, keep: Keep, client: httpx.Client, store: ObjectStore
    ) -> None:
        file_id = keep()
        assert len(store.list("files")) == 2
        for _ in range(2):
            gone = client.delete(f"/v1/files/{file_id}")
            assert gone.json() == {"id": file_id, "object": "file", "deleted": True}
        assert store.list("files") == []
        assert code_of(client.get(f"/v1/files/{file_id}")) == (404, "file_not_found")

    def test_content_that_was_lost_is_a_conflict(self, keep: Keep, client: httpx.Client, services: Services) -> None:
        file_id = keep()
        services.store.delete(f"files/{file_id}/raw")
        assert code_of(client.get(f"/v1/files/{file_id}/content")) == (409, "content_missing")


class TestPaging:
    def test_newest_first_page_by_page(self, keep: Keep, client: httpx.Client) -> None:
        made = [keep(name=f"{i}.csv") for i in range(5)]
        seen: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = client.get("/v1/files", params={"limit": "2", **after}).json()
            seen += [item["id"] for item in page["data"]]
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        assert seen == made[::-1]
        rising = client.get("/v1/files?order=asc&limit=3").json()
        assert [item["id"] for item in rising["data"]] == made[:3]

    @pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "after=file-absent", "order=up"])
    def test_bad_queries(self, client: httpx.Client, query: str) -> None:
        assert client.get(f"/v1/files?{query}").status_code == 422


def test_the_openai_client_works_unchanged(server: str, new_key: NewKey) -> None:
    with OpenAI(api_key=new_key("local"), base_url=f"{server}/v1", max_retries=0) as openai:
        data = hourly_csv()
        made = openai.files.create(
            file=("load.csv", data), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        assert made.expires_at == made.created_at + 3600
        assert openai.files.wait_for_processing(made.id).status == "processed"
        assert openai.files.retrieve(made.id).sha256 == hashlib.sha256(data).hexdigest()
        assert openai.files.content(made.id).read() == data
        openai.files.create(file=data, purpose="fine-tune")
        for item in openai.files.list(limit=1):  # deletes while it pages
            assert openai.files.delete(item.id).deleted
        assert list(openai.files.list()) == []
