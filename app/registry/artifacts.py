"""Local, verified copies of stored artifacts, one folder per digest, bounded in bytes."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import structlog

from app.errors import ApiError
from app.storage import MissingObject, Store, blob_key
from tsfm.artifact import file_sha256

log = structlog.get_logger(__name__)


def artifact_damaged(digest: str) -> ApiError:
    """A stored blob is missing or is not what its digest says. 503: an operator can restore the blob."""
    return ApiError(
        503,
        "artifact_damaged",
        f"The stored artifact {digest} is damaged and is not served. Restore its blobs from a backup, or point the "
        "alias at another version.",
        param="model",
    )


class LocalArtifacts:
    """Fetches by digest from the store; what lies here was verified blob by blob and renamed into place whole."""

    def __init__(self, store: Store, folder: Path, *, budget_bytes: int) -> None:
        self._store = store
        self._folder = folder
        self._budget_bytes = budget_bytes

    def fetch(self, digest: str, files: Mapping[str, str]) -> Path:
        """The artifact's folder, fetched if absent. `files` maps path → sha256. Raises `artifact_damaged`."""
        place = self._place(digest)
        if place.is_dir():
            os.utime(place)
            return place
        self._folder.mkdir(parents=True, exist_ok=True)
        aside = self._folder / f".{uuid.uuid4().hex}"
        try:
            for path, sha256 in files.items():
                self._fetch_blob(digest, sha256, aside / _relative(path))
            self._publish(aside, place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._prune(keep=place)
        return place

    def fetch_verified(self, digest: str, files: Mapping[str, str]) -> Path:
        """As `fetch`, with every byte of the local copy checked again; a bad copy is fetched anew."""
        place = self.fetch(digest, files)
        if all(_matches(place / _relative(path), sha256) for path, sha256 in files.items()):
            return place
        self.discard(digest)
        return self.fetch(digest, files)

    def read(self, digest: str, sha256: str) -> bytes:
        """One small file of an artifact, without fetching the rest; verified. Raises `artifact_damaged`."""
        try:
            data = self._store.get_bytes(blob_key(sha256))
        except MissingObject as error:
            log.error("artifact_blob_missing", digest=digest, sha256=sha256)
            raise artifact_damaged(digest) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            log.error("artifact_blob_damaged", digest=digest, sha256=sha256)
            raise artifact_damaged(digest)
        return data

    def discard(self, digest: str) -> None:
        """Drops the local copy (the store keeps its own)."""
        shutil.rmtree(self._place(digest), ignore_errors=True)

    def _place(self, digest: str) -> Path:
        return self._folder / digest.replace(":", "-")

    def _fetch_blob(self, digest: str, sha256: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._store.get_to(blob_key(sha256), path)
        except MissingObject as error:
            log.error("artifact_blob_missing", digest=digest, sha256=sha256)
            raise artifact_damaged(digest) from error
        if not _matches(path, sha256):
            log.error("artifact_blob_damaged", digest=digest, sha256=sha256)
            raise artifact_damaged(digest)

    def _publish(self, aside: Path, place: Path) -> None:
        try:
            aside.rename(place)
        except OSError:
            if not place.is_dir():  # another thread or process published the same digest first: theirs is as good
                raise

    def _prune(self, *, keep: Path) -> None:
        """Removes the copies unused for longest until the rest fits; a reader of a removed one fetches again."""
        copies = [(path.stat().st_mtime, path) for path in self._folder.iterdir() if not path.name.startswith(".")]
        sizes = {path: sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) for _, path in copies}
        total = sum(sizes.values())
        for _, path in sorted(copies):
            if total <= self._budget_bytes:
                return
            if path != keep:
                shutil.rmtree(path, ignore_errors=True)
                total -= sizes[path]


def _relative(path: str) -> PurePosixPath:
    relative = PurePosixPath(path)
    ours = not relative.is_absolute() and ".." not in relative.parts
    assert ours, "artifact paths are written by us"
    return relative


def _matches(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256
