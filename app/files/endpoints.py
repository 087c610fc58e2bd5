"""`/v1/files`: upload, list, read, delete."""

from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy.orm import Session

from app.auth.dependencies import require
from app.auth.keys import Principal
from app.db import ReadSessionDep, SessionDep
from app.errors import Conflict, responses
from app.files import service
from app.files.fields import LIST_FIELDS, PURPOSE_PATTERN, ROLE_FIELDS, file_spec
from app.files.schemas import DeletedFile, FileObject
from app.files.upload import Upload, receive
from app.idempotency import OnceDep
from app.paging import Page, PageDep
from app.services import ServicesDep
from app.storage import MissingObject, file_key

router = APIRouter(prefix="/files", tags=["files"])
FilesDep = Annotated[Principal, require("files")]

_TEXT = {"type": "string"}
FIELD_SCHEMAS: dict[str, Any] = {
    "filename": {"type": "string", "maxLength": 255},
    "purpose": {"type": "string", "default": "fine-tune", "pattern": PURPOSE_PATTERN},
    **{name: {"type": "array", "items": _TEXT} if name in LIST_FIELDS else _TEXT for name in sorted(ROLE_FIELDS)},
}
_RAW_TYPES = ("text/csv", "application/octet-stream", "application/gzip", "application/vnd.apache.parquet")
UPLOAD_OPENAPI: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in FIELD_SCHEMAS.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}, **FIELD_SCHEMAS},
                }
            },
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in _RAW_TYPES},
        },
    },
}


@router.post(
    "",
    response_model=FileObject,
    responses=responses(409, 413, 415, 429, 507),
    openapi_extra=UPLOAD_OPENAPI,
    summary="Upload a CSV or Parquet file and learn what was understood",
)
async def create_file(request: Request, principal: FilesDep, services: ServicesDep, once: OnceDep) -> JSONResponse:
    async with receive(request, services.settings) as upload:
        return await service.in_parse_slot(services, _creation(upload, principal, services, once))


def _creation(upload: Upload, principal: Principal, services: ServicesDep, once: OnceDep) -> Callable[[], JSONResponse]:
    spec = file_spec(upload.fields, filename=upload.filename)

    def create(session: Session) -> FileObject:
        row = service.create_from_upload(session, services, tenant_id=principal.tenant_id, upload=upload, spec=spec)
        return service.show(row)

    content = {"sha256": upload.sha256, "filename": spec.filename, "fields": upload.fields}
    return lambda: once.run(content, create)


@router.get("", responses=responses(), summary="Your files, newest first")
def list_files(
    principal: FilesDep,
    session: ReadSessionDep,
    page: PageDep,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Page[FileObject]:
    return service.list_files(session, principal.tenant_id, page, purpose=purpose, ascending=order == "asc")


@router.get("/{file_id}", responses=responses(404), summary="One file and its reading")
def get_file(file_id: str, principal: FilesDep, session: ReadSessionDep) -> FileObject:
    return service.show(service.get_file(session, principal.tenant_id, file_id))


@router.get(
    "/{file_id}/content",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}}, **responses(404, 409)},
    summary="The file as it was sent",
)
def get_content(file_id: str, principal: FilesDep, session: ReadSessionDep, services: ServicesDep) -> StreamingResponse:
    row = service.get_file(session, principal.tenant_id, file_id)
    try:
        chunks = services.store.stream(file_key(row.id))
    except MissingObject as error:
        raise Conflict("content_missing", f"The stored bytes of {row.id} are gone. Upload the file again.") from error
    headers = {
        "content-length": str(row.bytes),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(row.filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)


@router.delete("/{file_id}", responses=responses(404, 409), summary="Delete a file")
def delete_file(file_id: str, principal: FilesDep, session: SessionDep, services: ServicesDep) -> DeletedFile:
    return service.delete(session, services, principal.tenant_id, file_id)
