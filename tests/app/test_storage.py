"""Stored objects, on the local disk and in memory alike."""

from pathlib import Path

import pytest

from app.storage import MissingObject, ObjectStore, blob_key


@pytest.fixture(params=["file", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return ObjectStore((tmp_path / "objects").as_uri() if request.param == "file" else "memory:///")


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


def test_blobs_are_spread_over_folders() -> None:
    assert blob_key("abcd") == "blobs/sha256/ab/cd"
