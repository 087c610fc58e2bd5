"""Making, listing and revoking keys, for administrators."""

from sqlalchemy import Row
from sqlalchemy.orm import Session

from app.auth import repository
from app.auth.keys import Principal, make_key
from app.auth.schemas import CreatedKey, KeyCreate, KeyObject
from app.errors import ApiError, NotFound
from app.ids import unix_seconds, utc_now
from app.paging import Page, PageQuery, list_rows, to_page
from app.services import Services
from app.tables import ApiKey


def create(session: Session, services: Services, principal: Principal, request: KeyCreate) -> CreatedKey:
    """A new key of the named tenant, which is made when absent."""
    limit = services.settings.max_keys
    if repository.num_keys(session) >= limit:
        raise ApiError(429, "too_many_keys", f"This service keeps at most {limit} keys.", headers={"retry-after": "60"})
    name = request.tenant or principal.tenant
    tenant = repository.tenant_named(session, name)
    key = make_key()
    scopes = sorted({str(scope) for scope in request.scopes})
    repository.add_key(session, key_id=key.id, tenant_id=tenant.id, name=request.name, sha256=key.sha256, scopes=scopes)
    row = session.execute(repository.all_keys().where(ApiKey.id == key.id)).one()
    return CreatedKey(**_show(row).model_dump(), key=key.secret)


def list_keys(session: Session, query: PageQuery) -> Page[KeyObject]:
    found = list_rows(session, repository.all_keys(), query, keys=(ApiKey.created_at, ApiKey.id), id_column=ApiKey.id)
    return to_page(found, _show, id_of=lambda item: item.id)


def revoke(session: Session, services: Services, key_id: str) -> KeyObject:
    repository.revoke(session, key_id, utc_now())
    found = session.execute(repository.all_keys().where(ApiKey.id == key_id)).one_or_none()
    if found is None:
        raise NotFound("key", key_id)
    return _show(found)


def _show(row: Row[ApiKey, str]) -> KeyObject:
    key, tenant = row
    return KeyObject(
        id=key.id,
        object="api_key",
        name=key.name,
        tenant=tenant,
        scopes=list(key.scopes),
        created_at=unix_seconds(key.created_at),
        revoked_at=unix_seconds(key.revoked_at) if key.revoked_at else None,
    )
