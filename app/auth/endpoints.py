"""`/v1/keys`: for administrators (`temper keys`)."""

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from app.auth import service
from app.auth.dependencies import require
from app.auth.keys import Principal
from app.auth.schemas import CreatedKey, KeyCreate, KeyObject
from app.db import ReadSessionDep, SessionDep
from app.errors import responses
from app.idempotency import OnceDep
from app.paging import Page, PageDep
from app.services import ServicesDep

router = APIRouter(prefix="/keys", tags=["keys"])
AdminDep = Annotated[Principal, require("admin")]


@router.post("", response_model=CreatedKey, responses=responses(409, 413, 429), summary="Make a key")
def create_key(body: KeyCreate, principal: AdminDep, once: OnceDep) -> JSONResponse:
    return once.run(
        body.model_dump(mode="json"),
        lambda session: service.create(session, once.services, principal, body),
        secret="key",
    )


@router.get("", responses=responses(), summary="Keys of every tenant")
def list_keys(_: AdminDep, session: ReadSessionDep, page: PageDep) -> Page[KeyObject]:
    return service.list_keys(session, page)


@router.post("/{key_id}/revoke", responses=responses(404), summary="Revoke a key")
def revoke_key(key_id: str, _: AdminDep, session: SessionDep, services: ServicesDep) -> KeyObject:
    services.keys.forget()
    return service.revoke(session, services, key_id)
