"""Files that arrive in parts. A part is kept as an object until the upload ends; then the parts are joined into a file
that is read, checked and stored like any other, or they are removed.

Completing is decided by one conditional UPDATE in the transaction that inserts the file: of two that race, one leaves a
file and the other finds it.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from fastapi.responses import JSONResponse
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.auth.keys import Principal
from app.db import after_commit, on_rollback, session_scope
from app.errors import ApiError, Conflict, NotFound
from app.files import repository as files_repository
from app.files import service as files
from app.files.fields import ROLE_FIELDS, FileSpec, display_name
from app.files.upload import PART_PREFIX, Upload
from app.idempotency import Once
from app.ids import PART, UPLOAD, new_id, unix_seconds, utc_now
from app.services import Services
from app.storage import MissingObject, Store, part_key
from app.tables import ChunkedUpload, File, UploadPart
from app.uploads import repository
from app.uploads.repository import CANCELLED, COMPLETED, EXPIRED, PENDING
from app.uploads.schemas import MAX_PARTS, PartObject, UploadComplete, UploadCreate, UploadObject
from tsfm.series.options import ReadOptions

LIFE = timedelta(hours=1)
"""As OpenAI's: after it nothing can be added or completed."""
KEPT = timedelta(days=1)
"""Of the row, beyond its life."""
PARTS_SHARE = 2
"""Parts may hold the announced bytes so many times: one whose answer got lost is sent again, and is another part."""


class _Overtaken(Exception):
    """The upload has ended while its parts were being joined."""


def create(session: Session, services: Services, principal: Principal, body: UploadCreate) -> UploadObject:
    limit = services.settings.max_upload_bytes
    if body.bytes > limit:
        message = f"A file may hold {limit:,} bytes; {body.bytes:,} are announced."
        raise ApiError(413, "too_large", message, param="bytes", details={"max_bytes": limit})
    roles = {name: value for name in sorted(ROLE_FIELDS) if (value := getattr(body, name)) is not None}
    now = utc_now()
    upload = ChunkedUpload(
        id=new_id(UPLOAD),
        tenant_id=principal.tenant_id,
        filename=display_name(body.filename),
        purpose=body.purpose,
        mime_type=body.mime_type,
        bytes=body.bytes,
        options=ReadOptions.from_mapping(roles).to_mapping(),
        file_expiry_seconds=body.expires_after.seconds if body.expires_after else None,
        status=PENDING,
        part_ids=None,
        file_id=None,
        created_at=now,
        expires_at=now + LIFE,
    )
    session.add(upload)
    session.flush()
    return show(upload, None)


def announced_bytes(services: Services, principal: Principal, upload_id: str) -> int:
    """Of a pending upload: what one part may hold at most."""
    with session_scope(services.engine, read_only=True) as session:
        return _pending(session, principal.tenant_id, upload_id).bytes


def add_part(
    session: Session, services: Services, principal: Principal, upload_id: str, received: Upload
) -> PartObject:
    """Stores what was received; blocking. The object is written before the row, as a file's."""
    if received.num_bytes == 0:
        raise ApiError(422, "empty_file", "The part is empty.", param="data")
    part_id = new_id(PART)
    on_rollback(session, partial(_discard_part, services.engine, services.store, upload_id, part_id))
    services.store.put_file(part_key(upload_id, part_id), received.path)
    upload = _pending(session, principal.tenant_id, upload_id, lock=True)
    num_parts, num_bytes = repository.totals(session, upload_id)
    limit = PARTS_SHARE * upload.bytes
    if num_parts >= MAX_PARTS or num_bytes + received.num_bytes > limit:
        message = (
            f"The parts of one upload may number {MAX_PARTS:,} and hold {limit:,} bytes, {PARTS_SHARE} times what was "
            f"announced; there are {num_parts:,} with {num_bytes:,} already."
        )
        raise ApiError(413, "too_large", message, param="data", details={"max_bytes": limit})
    part = UploadPart(id=part_id, upload_id=upload_id, bytes=received.num_bytes, created_at=utc_now())
    session.add(part)
    session.flush()
    return PartObject(
        id=part_id,
        object="upload.part",
        created_at=unix_seconds(part.created_at),
        upload_id=upload_id,
        bytes=part.bytes,
    )


def _discard_part(engine: Engine, store: Store, upload_id: str, part_id: str) -> None:
    """Removes the object of a part that did not come to be; a commit that failed may still have been one."""
    with session_scope(engine, read_only=True) as session:
        if repository.part_exists(session, part_id):
            return
    store.delete(part_key(upload_id, part_id))


def complete(
    services: Services, principal: Principal, once: Once, upload_id: str, body: UploadComplete
) -> JSONResponse:
    """Joins the parts into a file, once however often it is asked. Blocking: run it `in_parse_slot`."""

    def join(session: Session) -> UploadObject:
        return _complete(session, services, principal.tenant_id, upload_id, body)

    content = body.model_dump(mode="json")
    try:
        return once.run(content, join)
    except _Overtaken:
        return once.run(content, join)  # which finds how it ended


def _complete(
    session: Session, services: Services, tenant_id: str, upload_id: str, body: UploadComplete
) -> UploadObject:
    """No query of `session` is made before the file is read, so that nothing is locked meanwhile."""
    with session_scope(services.engine, read_only=True) as looking:
        upload = _get(looking, tenant_id, upload_id)
        if upload.status == COMPLETED:
            return _completed_before(looking, upload, body)
        _require_pending(upload)
        chosen = _chosen(upload, repository.parts(looking, upload_id), body.part_ids)
    with _joined(services, upload, chosen, md5=body.md5) as joined:
        file = files.create_from_upload(session, services, tenant_id=tenant_id, upload=joined, spec=_spec_of(upload))
        done = repository.end(session, upload_id, COMPLETED, file_id=file.id, part_ids=body.part_ids)
        if done is None:
            raise _Overtaken
    after_commit(session, partial(_remove_parts, services.store, upload_id))
    return show(done, file)


def _completed_before(session: Session, upload: ChunkedUpload, body: UploadComplete) -> UploadObject:
    if upload.part_ids != body.part_ids:
        raise Conflict("upload_state", f"The upload {upload.id} was completed with other parts.", param="part_ids")
    assert upload.file_id is not None, "it is written with the status"
    return show(upload, files_repository.get(session, upload.tenant_id, upload.file_id, now=utc_now()))


def _chosen(upload: ChunkedUpload, known: dict[str, UploadPart], part_ids: Sequence[str]) -> list[UploadPart]:
    """The parts in the order asked for: all of this upload, each once, of the bytes announced together."""
    for part_id in part_ids:
        if part_id not in known:
            raise NotFound("part", part_id, param="part_ids")
    if len(set(part_ids)) < len(part_ids):
        twice = next(part_id for part_id in part_ids if part_ids.count(part_id) > 1)
        raise ApiError(422, "invalid_request", f"part_ids: {twice} is there twice.", param="part_ids")
    chosen = [known[part_id] for part_id in part_ids]
    num_bytes = sum(part.bytes for part in chosen)
    if num_bytes != upload.bytes:
        message = f"The parts hold {num_bytes:,} bytes together; {upload.bytes:,} were announced. Is one missing?"
        raise ApiError(400, "size_mismatch", message, param="part_ids", details={"num_bytes": num_bytes})
    return chosen


@contextmanager
def _joined(
    services: Services, upload: ChunkedUpload, parts: Sequence[UploadPart], *, md5: str | None
) -> Iterator[Upload]:
    """The parts end to end in a temporary file, copied and hashed chunk by chunk."""
    hashers = {"sha256": hashlib.sha256()}
    if md5 is not None:
        hashers["md5"] = hashlib.md5(usedforsecurity=False)
    directory = services.settings.tmp_dir
    with tempfile.NamedTemporaryFile(dir=directory, prefix=PART_PREFIX, suffix=".part") as out:
        for part in parts:
            for chunk in _stream(services, upload, part):
                for hasher in hashers.values():
                    hasher.update(chunk)
                out.write(chunk)
        out.flush()
        if md5 is not None and hashers["md5"].hexdigest() != md5.lower():
            message = "The md5 of the joined parts differs from the one announced. Is their order right?"
            raise ApiError(400, "digest_mismatch", message, param="md5")
        yield Upload(
            path=Path(out.name),
            filename=upload.filename,
            num_bytes=upload.bytes,
            sha256=hashers["sha256"].hexdigest(),
            fields={},
        )


def _stream(services: Services, upload: ChunkedUpload, part: UploadPart) -> Iterator[bytes]:
    try:
        yield from services.store.stream(part_key(upload.id, part.id))
    except MissingObject as error:
        with session_scope(services.engine, read_only=True) as session:
            if _get(session, upload.tenant_id, upload.id).status != PENDING:
                raise _Overtaken from error
        message = f"The stored bytes of {part.id} are gone. Send that part again and complete with the new one."
        raise Conflict("content_missing", message, param="part_ids") from error


def _spec_of(upload: ChunkedUpload) -> FileSpec:
    lasts = upload.file_expiry_seconds
    return FileSpec(
        filename=upload.filename,
        purpose=upload.purpose,
        options=ReadOptions.from_mapping(upload.options),
        expires_at=None if lasts is None else utc_now() + timedelta(seconds=lasts),
    )


def cancel(session: Session, services: Services, principal: Principal, upload_id: str) -> UploadObject:
    """Idempotent; 409 once it has ended in another way."""
    upload = _get(session, principal.tenant_id, upload_id, lock=True)
    if upload.status != CANCELLED:
        _require_pending(upload)
        upload.status = CANCELLED
        after_commit(session, partial(_remove_parts, services.store, upload_id))
    return show(upload, None)


def remove_ended(*, engine: Engine, store: Store) -> None:
    """For the sweeper: ends uploads whose time is over, forgets old ones, removes objects that nobody can want."""
    now = utc_now()
    with session_scope(engine) as session:
        for upload_id in repository.overdue(session, now=now):
            if repository.end(session, upload_id, EXPIRED) is not None:
                after_commit(session, partial(_remove_parts, store, upload_id))
        repository.forget(session, before=now - KEPT)
    for key in store.list("uploads", modified_before=now - files.ORPHAN_AGE):  # no upload lives so long
        store.delete(key)


def _remove_parts(store: Store, upload_id: str) -> None:
    """Of an upload that has ended; also of parts that were added while it did."""
    for key in store.list(f"uploads/{upload_id}"):
        store.delete(key)


def _pending(session: Session, tenant_id: str, upload_id: str, *, lock: bool = False) -> ChunkedUpload:
    upload = _get(session, tenant_id, upload_id, lock=lock)
    _require_pending(upload)
    return upload


def _get(session: Session, tenant_id: str, upload_id: str, *, lock: bool = False) -> ChunkedUpload:
    """The tenant's upload, or 404."""
    upload = repository.get(session, tenant_id, upload_id, lock=lock)
    if upload is None:
        raise NotFound("upload", upload_id)
    return upload


def _require_pending(upload: ChunkedUpload) -> None:
    status = _status_of(upload)
    if status != PENDING:
        raise Conflict("upload_state", f"The upload {upload.id} is {status}: begin a new one.")


def _status_of(upload: ChunkedUpload) -> str:
    """As stored, but that its time may be over before the sweeper comes by."""
    return EXPIRED if upload.status == PENDING and upload.expires_at <= utc_now() else upload.status


def show(upload: ChunkedUpload, file: File | None) -> UploadObject:
    return UploadObject.model_validate(
        {
            "id": upload.id,
            "object": "upload",
            "bytes": upload.bytes,
            "created_at": unix_seconds(upload.created_at),
            "expires_at": unix_seconds(upload.expires_at),
            "filename": upload.filename,
            "purpose": upload.purpose,
            "mime_type": upload.mime_type,
            "options": upload.options,
            "status": _status_of(upload),
            "file": None if file is None else files.show(file),
        }
    )
