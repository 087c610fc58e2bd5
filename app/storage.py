"""The port to stored bytes, and its one implementation over local disk, S3 and memory (obstore).

Keys: `files/{file_id}/raw`, `files/{file_id}/series.parquet`, `uploads/{upload_id}/{part_id}`,
`blobs/sha256/ab/cdef…`. A key is made by us, never by a caller. A local put returns after fsync, so that a committed
row never points at bytes a power cut took.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from app.errors import ApiError, StorageUnavailable

CHUNK_BYTES = 1 << 20
_NO_SPACE = os.strerror(errno.ENOSPC)
"""obstore keeps the system's words and drops its number."""
PARTS_IN_FLIGHT = 2
"""Of an object being written, 5 MiB each. The library's own 12 cost an upload 60 MB of memory and made it no faster."""


class MissingObject(LookupError):
    """No object lies under this key."""


class Store(Protocol):
    """Flat, immutable objects by key. Reads may raise `MissingObject`, writes `ApiError` 507, and all of them
    `StorageUnavailable`."""

    def put_file(self, key: str, path: Path) -> None: ...

    def put_bytes(self, key: str, data: bytes) -> None: ...

    def get_to(self, key: str, path: Path) -> None:
        """Writes the object to `path` (a new file in an existing folder)."""

    def get_bytes(self, key: str) -> bytes: ...

    def stream(self, key: str) -> Iterator[bytes]:
        """The object in chunks; `MissingObject` is raised here, not at the first chunk."""

    def size(self, key: str) -> int: ...

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Idempotent: a missing object is no error."""

    def list(self, prefix: str, *, modified_before: datetime | None = None) -> list[str]:
        """Sorted keys below a folder, all of them or those not touched since."""


def file_key(file_id: str) -> str:
    return f"files/{file_id}/raw"


def series_key(file_id: str) -> str:
    return f"files/{file_id}/series.parquet"


def part_key(upload_id: str, part_id: str) -> str:
    return f"uploads/{upload_id}/{part_id}"


def blob_key(sha256: str) -> str:
    """Where a blob of this hex digest lies."""
    return f"blobs/sha256/{sha256[:2]}/{sha256[2:]}"


class ObjectStore:
    """`file:///folder`, `s3://bucket/prefix` (credentials from the usual AWS_* variables) or `memory:///`."""

    def __init__(self, url: str) -> None:
        import obstore.store as stores

        self._local: Path | None = None
        parts = urlsplit(url)
        if parts.scheme == "file":
            self._local = Path(unquote(parts.path))
            self._local.mkdir(parents=True, exist_ok=True)
            self._store: Any = stores.LocalStore(prefix=str(self._local))
        elif parts.scheme == "memory":
            self._store = stores.MemoryStore()
        else:
            self._store = stores.from_url(url, client_options=_client_options(), retry_config=_RETRIES)

    def put_file(self, key: str, path: Path) -> None:
        self._put(key, path)

    def put_bytes(self, key: str, data: bytes) -> None:
        self._put(key, data)

    def _put(self, key: str, body: Path | bytes) -> None:
        """A failed put leaves what lay under the key before: a blob may be another version's too."""
        import obstore

        try:
            with _told():
                obstore.put(self._store, key, body, max_concurrency=PARTS_IN_FLIGHT)
                self._sync(key)
        except FileNotFoundError as error:
            raise StorageUnavailable(f"{key} cannot be put: is there such a bucket?") from error

    def _sync(self, key: str) -> None:
        """fsync of the object and its folder; obstore leaves that to us."""
        if self._local is None:
            return
        path = self._local / key
        for target in (path, path.parent):
            descriptor = os.open(target, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def get_to(self, key: str, path: Path) -> None:
        with path.open("wb") as out:
            for chunk in self.stream(key):
                out.write(chunk)

    def get_bytes(self, key: str) -> bytes:
        import obstore

        with _missing(key), _told():
            return bytes(obstore.get(self._store, key).bytes())

    def stream(self, key: str) -> Iterator[bytes]:
        import obstore

        with _missing(key), _told():
            chunks = iter(obstore.get(self._store, key).stream(min_chunk_size=CHUNK_BYTES))

        def read() -> Iterator[bytes]:
            with _told():
                for chunk in chunks:
                    yield bytes(chunk)

        return read()

    def size(self, key: str) -> int:
        import obstore

        with _missing(key), _told():
            return int(obstore.head(self._store, key)["size"])

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except MissingObject:
            return False
        return True

    def delete(self, key: str) -> None:
        import obstore

        with contextlib.suppress(FileNotFoundError), _told():
            obstore.delete(self._store, key)

    def list(self, prefix: str, *, modified_before: datetime | None = None) -> list[str]:
        import obstore

        with _told():
            items = [item for batch in obstore.list(self._store, prefix=prefix) for item in batch]
        return sorted(
            str(item["path"]) for item in items if modified_before is None or item["last_modified"] < modified_before
        )


_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
"""A store that is away for longer is an answer of 503, not a request that hangs."""


def _client_options() -> Any:
    """Given options replace those of the environment, so that `http://` endpoints are allowed here."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=30),
        "timeout": timedelta(hours=1),  # of a whole object; the default of 30 s cuts large ones off
    }


@contextlib.contextmanager
def _missing(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise MissingObject(key) from error


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turns the library's errors into ours; `FileNotFoundError` stays."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        if _NO_SPACE in str(error):
            raise ApiError(507, "storage_full", "The storage of this service is full.") from error
        raise StorageUnavailable(str(error).partition("\n")[0]) from error
