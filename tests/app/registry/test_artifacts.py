import hashlib
import os
from pathlib import Path

import pytest

from app.errors import ApiError
from app.registry.artifacts import LocalArtifacts
from app.storage import ObjectStore, blob_key
from tsfm.artifact import digest_of_files


def stored(store: ObjectStore, content: bytes) -> tuple[str, dict[str, str]]:
    """Puts one artifact of two equal-sized files into the store; its digest and files."""
    files: dict[str, str] = {}
    for path in ("model.safetensors", "manifest.json"):
        data = path.encode() + content
        sha256 = hashlib.sha256(data).hexdigest()
        store.put_bytes(blob_key(sha256), data)
        files[path] = sha256
    return digest_of_files(files), files


@pytest.fixture
def store() -> ObjectStore:
    return ObjectStore("memory:///")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


def test_a_fetched_artifact_is_whole_and_fetched_once(store: ObjectStore, folder: Path) -> None:
    digest, files = stored(store, b"one")
    artifacts = LocalArtifacts(store, folder, budget_bytes=1_000)
    place = artifacts.fetch(digest, files)
    assert sorted(path.name for path in place.iterdir()) == sorted(files)
    for sha256 in files.values():
        store.delete(blob_key(sha256))
    assert artifacts.fetch(digest, files) == place
    assert [path.name for path in folder.iterdir()] == [place.name]


def test_beyond_the_budget_the_longest_unused_goes(store: ObjectStore, folder: Path) -> None:
    artifacts = LocalArtifacts(store, folder, budget_bytes=150)
    places = []
    for i, content in enumerate((b"a" * 20, b"b" * 20, b"c" * 20)):
        digest, files = stored(store, content)
        places.append(artifacts.fetch(digest, files))
        os.utime(places[-1], (i, i))
    assert [place.exists() for place in places] == [False, True, True]


def test_one_larger_than_the_budget_is_still_served(store: ObjectStore, folder: Path) -> None:
    digest, files = stored(store, b"x" * 500)
    assert LocalArtifacts(store, folder, budget_bytes=10).fetch(digest, files).is_dir()


def test_a_bad_blob_leaves_nothing_behind(store: ObjectStore, folder: Path) -> None:
    digest, files = stored(store, b"one")
    store.put_bytes(blob_key(files["manifest.json"]), b"something else")
    with pytest.raises(ApiError) as caught:
        LocalArtifacts(store, folder, budget_bytes=1_000).fetch(digest, files)
    assert (caught.value.status_code, caught.value.code) == (503, "artifact_damaged")
    assert list(folder.iterdir()) == []


def test_verification_mends_a_bad_copy_from_the_store(store: ObjectStore, folder: Path) -> None:
    digest, files = stored(store, b"one")
    artifacts = LocalArtifacts(store, folder, budget_bytes=1_000)
    (artifacts.fetch(digest, files) / "manifest.json").unlink()
    place = artifacts.fetch_verified(digest, files)
    assert (place / "manifest.json").read_bytes() == b"manifest.jsonone"
