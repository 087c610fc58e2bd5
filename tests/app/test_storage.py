"""Stored objects, where the profile keeps them and in memory alike."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import ApiError
from app.settings import Settings
from app.storage import MissingObject, ObjectStore, blob_key


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


def test_blobs_are_spread_over_folders() -> None:
    assert blob_key("abcd") == "blobs/sha256/ab/cd"
