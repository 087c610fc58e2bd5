"""An upload on its way in: streamed to a private temporary file, counted and hashed, never held in memory.

`async with receive(request, settings) as upload:` serves multipart and raw bodies alike; the temporary file is gone
when the block ends, however it ends.
"""

import base64
import contextlib
import errno
import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import anyio.to_thread
from fastapi import Request

from app.errors import ApiError
from app.files.fields import Fields
from app.files.multipart import FILE_PART, MultipartReader
from app.settings import Settings
from app.telemetry import body_too_large

FLUSH_BYTES = 1 << 20
PART_PREFIX = "upload-"
LEFTOVER_SECONDS = 24 * 3600
_DIGESTS = {"sha-256": "sha256", "sha-512": "sha512"}
_DIGEST = re.compile(r"^([a-z0-9*_.-]+)=:([A-Za-z0-9+/=]*):(?:;.*)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A received file, whole and hashed."""

    path: Path
    """Ours to read until the `receive` block ends."""
    filename: str | None
    """As the caller named it: shown, never opened."""
    num_bytes: int
    sha256: str
    fields: Fields
    """Every other form field and query parameter."""


@dataclass(slots=True)
class Sink:
    """Where the bytes of one file go: buffered here, hashed and written off the event loop."""

    out: IO[bytes]
    max_bytes: int
    hashers: dict[str, Any]
    num_bytes: int = 0
    _buffer: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> None:
        self.num_bytes += len(data)
        if self.num_bytes > self.max_bytes:
            raise body_too_large(self.max_bytes, None)
        self._buffer += data

    async def flush(self, *, at_least: int = 1) -> None:
        if len(self._buffer) >= at_least:
            buffer, self._buffer = self._buffer, bytearray()
            await anyio.to_thread.run_sync(self._write, buffer)

    def _write(self, buffer: bytearray) -> None:
        for hasher in self.hashers.values():
            hasher.update(buffer)
        self.out.write(buffer)


@contextlib.asynccontextmanager
async def receive(
    request: Request, settings: Settings, *, file_part: str = FILE_PART, max_bytes: int | None = None
) -> AsyncIterator[Upload]:
    """Reads the body to its end. 400 for a broken one, 413 over the limit, 415 for JSON, 507 when the disk is full.

    `max_bytes` of the file may lower the limit of the settings; `file_part` is its name in a form.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type.endswith(("/json", "+json")):
        message = "A file is sent as multipart/form-data, or raw (text/csv, application/gzip, …); this is JSON."
        raise ApiError(415, "unsupported_media_type", message)
    wanted = wanted_digests(request.headers)
    with tempfile.NamedTemporaryFile(dir=settings.tmp_dir, prefix=PART_PREFIX, suffix=".part") as out:
        hashers = {name: hashlib.new(name) for name in {"sha256", *wanted}}
        limit = settings.max_upload_bytes if max_bytes is None else min(max_bytes, settings.max_upload_bytes)
        sink = Sink(out=out.file, max_bytes=limit, hashers=hashers)
        query = {name: request.query_params.getlist(name) for name in request.query_params}
        try:
            if media_type == "multipart/form-data":
                upload = await _receive_multipart(request, sink, wanted, query, Path(out.name), file_part)
            else:
                upload = await _receive_raw(request, sink, wanted, query, Path(out.name))
            await anyio.to_thread.run_sync(out.flush)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise ApiError(507, "storage_full", "The disk for uploads is full.") from error
        yield upload


async def _receive_raw(request: Request, sink: Sink, wanted: Mapping[str, bytes], query: Fields, path: Path) -> Upload:
    async for chunk in request.stream():
        sink.add(chunk)
        await sink.flush(at_least=FLUSH_BYTES)
    await sink.flush()
    _verify(wanted, sink.hashers)
    return Upload(
        path=path, filename=None, num_bytes=sink.num_bytes, sha256=sink.hashers["sha256"].hexdigest(), fields=query
    )


async def _receive_multipart(
    request: Request, sink: Sink, wanted: Mapping[str, bytes], query: Fields, path: Path, file_part: str
) -> Upload:
    """The part named `file_part` goes to the sink. A digest in the request's header is one of the whole body."""
    whole = {name: hashlib.new(name) for name in wanted}
    reader = MultipartReader(request.headers["content-type"], on_file_data=sink.add, file_part=file_part)
    async for chunk in request.stream():
        for hasher in whole.values():
            hasher.update(chunk)
        reader.feed(chunk)
        await sink.flush(at_least=FLUSH_BYTES)
    reader.finish()
    await sink.flush()
    _verify(wanted, whole)
    return Upload(
        path=path,
        filename=reader.filename,
        num_bytes=sink.num_bytes,
        sha256=sink.hashers["sha256"].hexdigest(),
        fields=_merged(query, reader.fields),
    )


def remove_leftovers(tmp_dir: Path) -> None:
    """Deletes what a killed process left here a day ago or longer; another gateway may be using the rest."""
    for path in tmp_dir.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another gateway is cleaning too
            if time.time() - path.lstat().st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _merged(query: Fields, form: Fields) -> Fields:
    return {name: [*query.get(name, ()), *form.get(name, ())] for name in {*query, *form}}


def wanted_digests(headers: Mapping[str, str]) -> dict[str, bytes]:
    """hashlib name → digest from `Content-Digest` and `Repr-Digest` (RFC 9530); 400 when they cannot be checked."""
    wanted: dict[str, bytes] = {}
    for header in ("content-digest", "repr-digest"):
        entries = [entry.strip() for entry in headers.get(header, "").split(",") if entry.strip()]
        known = 0
        for entry in entries:
            match = _DIGEST.match(entry)
            name = _DIGESTS.get(match.group(1)) if match else None
            if match and name:
                known += 1
                value = _decoded(header, match.group(2))
                if wanted.setdefault(name, value) != value:
                    raise _bad_digest(header, "two different values of one algorithm")
        if entries and not known:
            raise _bad_digest(header, f"no entry of a known algorithm ({', '.join(_DIGESTS)}) as `name=:base64:`")
    return wanted


def _decoded(header: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _bad_digest(header, "not base64") from error


def _bad_digest(header: str, reason: str) -> ApiError:
    return ApiError(400, "invalid_digest", f"{header}: {reason}.", param=header)


def _verify(wanted: Mapping[str, bytes], hashers: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if hashers[name].digest() != value:
            message = f"The {name} of what arrived differs from the one announced: send the file again."
            raise ApiError(400, "digest_mismatch", message, param="content-digest")
