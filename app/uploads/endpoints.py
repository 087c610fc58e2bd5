"""`/v1/uploads`: a file in parts, as the `openai` client sends large ones (`uploads.upload_file_chunked`)."""

from functools import partial
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from app.auth.dependencies import require
from app.auth.keys import Principal
from app.db import SessionDep
from app.errors import ApiError, responses
from app.files.service import in_parse_slot
from app.files.upload import receive
from app.idempotency import OnceDep
from app.services import ServicesDep
from app.uploads import service
from app.uploads.schemas import PartObject, UploadComplete, UploadCreate, UploadObject

router = APIRouter(prefix="/uploads", tags=["uploads in parts"])
FilesDep = Annotated[Principal, require("files")]

PART = "data"
PART_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [PART],
                    "properties": {PART: {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


@router.post("", response_model=UploadObject, responses=responses(409, 413), summary="Announce a file in parts")
def create_upload(body: UploadCreate, principal: FilesDep, services: ServicesDep, once: OnceDep) -> JSONResponse:
    """It waits an hour for its parts. Column roles are given here, as with any file."""
    content = body.model_dump(mode="json", exclude_unset=True)
    return once.run(content, lambda session: service.create(session, services, principal, body))


@router.post(
    "/{upload_id}/parts",
    response_model=PartObject,
    responses=responses(404, 409, 413, 415, 507),
    openapi_extra=PART_OPENAPI,
    summary="Send one part",
)
async def add_part(
    upload_id: str, request: Request, principal: FilesDep, services: ServicesDep, once: OnceDep
) -> JSONResponse:
    """Parts may be sent at once and in any order; `complete` says the order. One that is sent again is another part."""
    limit = await anyio.to_thread.run_sync(service.announced_bytes, services, principal, upload_id)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        raise ApiError(415, "unsupported_media_type", f"A part is sent as multipart/form-data, in the field `{PART}`.")
    async with receive(request, services.settings, file_part=PART, max_bytes=limit) as received:
        for name in received.fields:
            raise ApiError(422, "unknown_field", f"Unknown field {name!r}. Known: {PART}.", param=name)
        add = partial(service.add_part, services=services, principal=principal, upload_id=upload_id, received=received)
        return await anyio.to_thread.run_sync(once.run, {"sha256": received.sha256}, add)


@router.post(
    "/{upload_id}/complete",
    response_model=UploadObject,
    responses=responses(404, 409, 413, 415, 429, 507),
    summary="Join the parts into a file",
)
async def complete_upload(
    upload_id: str, body: UploadComplete, principal: FilesDep, services: ServicesDep, once: OnceDep
) -> JSONResponse:
    """The file is read as one that is sent whole, and what is wrong with it is answered alike; the upload then stays
    pending. Asking again with the same parts gets the same file."""
    return await in_parse_slot(services, partial(service.complete, services, principal, once, upload_id, body))


@router.post("/{upload_id}/cancel", responses=responses(404, 409), summary="Give up an upload and its parts")
def cancel_upload(upload_id: str, principal: FilesDep, session: SessionDep, services: ServicesDep) -> UploadObject:
    return service.cancel(session, services, principal, upload_id)
