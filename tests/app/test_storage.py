"""Stored objects, where the profile keeps them and in memory alike."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app.errors import ApiError, StorageUnavailable
from app.main import create_app
from app.queue import FakeQueue
from app.settings import Settings
from app.storage import MissingObject, ObjectStore, blob_key
from tests.app.files.conftest import hourly_csv
from tests.server import free_port, serve


@pytest.fixture(params=["profile", "memory"])
def any_store(request: pytest.FixtureRequest, settings: Settings) -> ObjectStore:
    return ObjectStore(settings.storage_url if request.param == "profile" else "memory:///")


class TestObjectStore:
    def test_what_is_put_comes_back(self, any_store: ObjectStore, tmp_path: Path) -> None:
        data = bytes(range(256)) * 10_000
        (tmp_path / "in").write_bytes(data)
        any_store.put_file("files/a/raw", tmp_path / "in")
        any_store.put_bytes("files/a/small", b"x")
        any_store.get_to("files/a/raw", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data
        assert b"".join(any_store.stream("files/a/raw")) == data
        assert any_store.get_bytes("files/a/small") == b"x"
        assert any_store.size("files/a/raw") == len(data)
        assert any_store.list("files/a") == ["files/a/raw", "files/a/small"]

    def test_a_missing_object_says_so(self, any_store: ObjectStore, tmp_path: Path) -> None:
        for read in (any_store.get_bytes, any_store.stream, any_store.size):
            with pytest.raises(MissingObject):
                read("files/absent")
        with pytest.raises(MissingObject):
            any_store.get_to("files/absent", tmp_path / "out")
        assert not any_store.exists("files/absent")

    def test_delete_is_idempotent(self, any_store: ObjectStore) -> None:
        any_store.put_bytes("files/a/raw", b"x")
        any_store.delete("files/a/raw")
        any_store.delete("files/a/raw")
        assert any_store.list("files") == []

    def test_a_key_cannot_leave_the_folder(self, tmp_path: Path) -> None:
        store = ObjectStore((tmp_path / "objects").as_uri())
        with pytest.raises(Exception, match=r"(?i)path|invalid|segment"):
            store.put_bytes("../outside", b"x")
        assert not (tmp_path / "outside").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_507_and_spares_what_lay_there(small_disk: Path) -> None:
    store = ObjectStore(small_disk.as_uri())
    store.put_bytes("blobs/sha256/ab/cd", b"another version's")
    with pytest.raises(ApiError) as full:
        store.put_bytes("blobs/sha256/ab/cd", bytes(2 << 20))
    assert (full.value.status_code, full.value.code) == (507, "storage_full")
    assert store.get_bytes("blobs/sha256/ab/cd") == b"another version's"
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["cd"]


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a store on a port where nobody listens."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    return "s3://temper/objects"


def test_a_store_that_is_away_says_so(nobody: str, tmp_path: Path) -> None:
    store = ObjectStore(nobody)
    (tmp_path / "in").write_bytes(bytes(10 << 20))
    for action in (
        lambda: store.put_file("files/a/raw", tmp_path / "in"),
        lambda: store.get_bytes("files/a/raw"),
        lambda: store.stream("files/a/raw"),
        lambda: store.size("files/a/raw"),
        lambda: store.delete("files/a/raw"),
        lambda: store.list("files"),
    ):
        with pytest.raises(StorageUnavailable):
            action()


def test_an_upload_to_a_store_that_is_away_is_503_and_keeps_nothing(
    nobody: str, settings: Settings, new_key: Callable[..., str]
) -> None:
    app = create_app(settings.model_copy(update={"storage_url": nobody}), queue=FakeQueue())
    headers = {"authorization": f"Bearer {new_key('local')}"}
    with serve(app) as url, httpx.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False) as client:
        answer = client.post("/v1/files", files={"file": ("load.csv", hourly_csv())})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"
        assert client.get("/v1/files").json()["data"] == []


def test_blobs_are_spread_over_folders() -> None:
    assert blob_key("abcd") == "blobs/sha256/ab/cd"
