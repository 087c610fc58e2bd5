"""Files: kept whole or not at all. Objects are written before the row and removed when the row does not come to be."""

import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
import structlog
from sqlalchemy import Engine, Row
from sqlalchemy.orm import Session

from app.db import after_commit, on_rollback, session_scope
from app.errors import Conflict, NotFound
from app.files import repository
from app.files.advice import backbones_for, next_requests
from app.files.fields import FileSpec
from app.files.parse import ReaderFailed, parsed
from app.files.repository import FAILED, PROCESSED, UPLOADED
from app.files.schemas import DeletedFile, FileError, FileObject
from app.files.upload import Upload
from app.ids import FILE, new_id, unix_seconds, utc_now
from app.paging import Page, PageQuery, list_rows, to_page
from app.queue import READ_FILE, enqueue
from app.services import Services
from app.settings import Settings
from app.storage import MissingObject, Store, file_key, series_key
from app.tables import File
from tsfm.errors import DataError
from tsfm.series.options import ReadOptions

log = structlog.get_logger(__name__)

Result = TypeVar("Result")
ORPHAN_AGE = timedelta(days=1)
"""Longer than any upload takes from its first object to its commit."""


async def in_parse_slot(services: Services, work: Callable[[], Result]) -> Result:
    """Runs blocking `work` in a thread, at most `max_concurrent_parses` at once; waiting takes no thread."""
    return await anyio.to_thread.run_sync(work, limiter=services.parse_slots)


def create_from_upload(session: Session, services: Services, *, tenant_id: str, upload: Upload, spec: FileSpec) -> File:
    """Reads, stores and inserts an uploaded file; the caller's session commits it. Blocking: run it `in_parse_slot`.

    Up to `inline_parse_bytes` the file is parsed here and the row is `processed`: `DataError` names all problems and
    nothing is kept. Above, the row is `uploaded` and a worker is asked to read it (`reading` is None until then).
    No query is made before the parse, so a session that has made none holds no connection meanwhile. When the
    transaction does not commit, the stored objects are removed.
    """
    file_id = new_id(FILE)
    settings = services.settings
    on_rollback(session, partial(_discard, services.engine, services.store, file_id))
    row = File(
        id=file_id,
        tenant_id=tenant_id,
        filename=spec.filename,
        purpose=spec.purpose,
        bytes=upload.num_bytes,
        sha256=upload.sha256,
        status=UPLOADED,
        options=spec.options.to_mapping(),
        reading=None,
        error=None,
        created_at=utc_now(),
        expires_at=spec.expires_at,
        deleted_at=None,
    )
    if upload.num_bytes <= settings.inline_parse_bytes:
        with parsed(
            upload.path,
            settings=settings,
            filename=spec.filename,
            options=spec.options,
            timeout_seconds=settings.parse_seconds,
        ) as result:
            services.store.put_file(series_key(file_id), result.series)
            row.reading, row.status = result.reading, PROCESSED
    services.store.put_file(file_key(file_id), upload.path)
    session.add(row)
    session.flush()
    if row.status == UPLOADED:
        enqueue(session, services.queue, READ_FILE, file_id)
    return row


def _discard(engine: Engine, store: Store, file_id: str) -> None:
    """Removes the objects of a file that did not come to be; a commit that failed may still have been one."""
    with session_scope(engine, read_only=True) as session:
        if repository.exists(session, file_id):
            return
    remove_objects(store, file_id)


def remove_objects(store: Store, file_id: str) -> None:
    """Idempotent. Of a file that no row names any more."""
    for key in (file_key(file_id), series_key(file_id)):
        store.delete(key)


def read_pending(file_id: str, *, engine: Engine, store: Store, settings: Settings) -> None:
    """For the worker: reads a large upload and records the reading, or what is wrong with the file.

    Idempotent, and safe when delivered twice at once: both write the same objects, one writes the row.
    """
    with session_scope(engine, read_only=True) as session:
        row = repository.pending(session, file_id)
    if row is None:
        return
    with tempfile.TemporaryDirectory(dir=settings.tmp_dir, prefix="read-") as work:
        raw = Path(work) / "raw"
        try:
            store.get_to(file_key(file_id), raw)
            values = _read(row, raw, store=store, settings=settings)
        except MissingObject:
            values = _failure("content_missing", "The stored bytes are gone. Upload the file again.")
    with session_scope(engine) as session:
        written = repository.finish_reading(session, file_id, values)
    if not written:
        _discard_deleted(engine, store, file_id)


def _read(row: File, raw: Path, *, store: Store, settings: Settings) -> dict[str, Any]:
    """The columns that change: a reading, or an error."""
    try:
        with parsed(
            raw,
            settings=settings,
            filename=row.filename,
            options=ReadOptions.from_mapping(row.options),
            timeout_seconds=settings.parse_background_seconds,
        ) as result:
            store.put_file(series_key(row.id), result.series)
            return {"status": PROCESSED, "reading": result.reading, "error": None}
    except DataError as error:
        return _failure(error.code, error.message, param=error.param, details=error.details)
    except ReaderFailed:  # the same bytes would fail the same way, again and again
        return _failure("internal_error", "The file could not be read, for a reason of ours. Report it with its id.")


def _failure(
    code: str, message: str, *, param: str | None = None, details: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    failure = {"code": code, "message": message, "param": param, "details": dict(details or {})}
    return {"status": FAILED, "error": failure}


def _discard_deleted(engine: Engine, store: Store, file_id: str) -> None:
    """The file was deleted while it was read: what was just written must go too."""
    with session_scope(engine, read_only=True) as session:
        row = session.get(File, file_id)
    if row is None or row.deleted_at is not None:
        remove_objects(store, file_id)


def get_file(session: Session, tenant_id: str, file_id: str, *, lock: bool = False) -> File:
    """The tenant's file, or 404. `lock` it in the transaction that makes a job of it."""
    row = repository.get(session, tenant_id, file_id, now=utc_now(), lock=lock)
    if row is None:
        raise NotFound("file", file_id)
    return row


def require_processed(row: File, *, param: str = "training_file") -> dict[str, Any]:
    """The reading of a usable file; 409 while it is being read, 422 when it could not be."""
    if row.status == UPLOADED:
        message = f"The file {row.id} is still being read; ask again when its status is `processed`."
        raise Conflict("file_processing", message, param=param, retry_after=2)
    if row.status == PROCESSED and row.reading is None:
        raise no_series(row, param=param)
    if row.reading is None:
        failure = row.error or {}
        raise DataError(
            str(failure.get("message", "The file could not be read.")),
            code=str(failure.get("code", "invalid_data")),
            param=param,
            details=failure.get("details"),
        )
    return row.reading


def no_series(row: File, *, param: str) -> DataError:
    """A job's result is not something to train on or to continue."""
    return DataError(f"{row.id} ({row.purpose}) is a job's result and holds no series.", code="no_series", param=param)


def list_files(
    session: Session, tenant_id: str, query: PageQuery, *, purpose: str | None, ascending: bool
) -> Page[FileObject]:
    statement = repository.visible(tenant_id, now=utc_now())
    if purpose is not None:
        statement = statement.where(File.purpose == purpose)
    found = list_rows(
        session,
        statement,
        query,
        keys=(File.created_at, File.id),
        id_column=File.id,
        cursors=repository.owned(tenant_id),  # clients delete while they page
        ascending=ascending,
    )

    def show_row(row: Row[File]) -> FileObject:
        return show(row[0])

    return to_page(found, show_row, id_of=lambda item: item.id)


def delete(session: Session, services: Services, tenant_id: str, file_id: str) -> DeletedFile:
    """Idempotent. 409 while a job still needs the file; the objects go after the commit."""
    row = repository.get_owned(session, tenant_id, file_id)
    if row is None:
        raise NotFound("file", file_id)
    if row.deleted_at is None:
        job_id = repository.live_job_of(session, file_id)
        if job_id is not None:
            raise Conflict("file_in_use", f"The job {job_id} still needs this file. Cancel it or wait for its end.")
        _mark_deleted(session, services.store, row, utc_now())
    return DeletedFile(id=file_id, object="file", deleted=True)


def delete_expired(*, engine: Engine, store: Store) -> int:
    """For the sweeper: deletes the files whose time is over, but for those a job needs; returns how many."""
    now = utc_now()
    with session_scope(engine) as session:
        rows = [row for row in repository.expired(session, now=now) if not repository.live_job_of(session, row.id)]
        for row in rows:
            _mark_deleted(session, store, row, now)
    return len(rows)


def remove_orphans(*, engine: Engine, store: Store) -> int:
    """For the sweeper: removes objects that a process killed between put and commit left; returns how many files."""
    old = store.list("files", modified_before=utc_now() - ORPHAN_AGE)
    found = {key.split("/")[1] for key in old}
    with session_scope(engine, read_only=True) as session:
        orphans = sorted(file_id for file_id in found if not repository.is_kept(session, file_id))
    for file_id in orphans:
        remove_objects(store, file_id)
    return len(orphans)


def _mark_deleted(session: Session, store: Store, row: File, at: datetime) -> None:
    row.deleted_at = at
    after_commit(session, partial(remove_objects, store, row.id))


def show(row: File) -> FileObject:
    fits = backbones_for(row.reading) if row.reading is not None else None
    return FileObject(
        id=row.id,
        object="file",
        bytes=row.bytes,
        created_at=unix_seconds(row.created_at),
        expires_at=unix_seconds(row.expires_at) if row.expires_at else None,
        filename=row.filename,
        purpose=row.purpose,
        status="processing" if row.status == UPLOADED else "processed" if row.status == PROCESSED else "error",
        status_details=row.error["message"] if row.error else None,
        sha256=row.sha256,
        options=row.options,
        reading=row.reading,
        error=FileError(**row.error) if row.error else None,
        backbones=fits,
        next=next_requests(row.id, row.reading, fits) if row.reading is not None and fits is not None else None,
    )
