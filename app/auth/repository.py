"""Every query about tenants and keys."""

from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.auth.keys import Principal
from app.ids import TENANT, new_id, utc_now
from app.tables import ApiKey, Base, Tenant


def insert_if_absent(session: Session, table: type[Base], values: dict[str, Any]) -> None:
    """INSERT … ON CONFLICT DO NOTHING: two gateways that start at once both succeed."""
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    session.execute(insert(table).values(values).on_conflict_do_nothing())


def tenant_named(session: Session, name: str) -> Tenant:
    """The tenant of this name, made when absent."""
    insert_if_absent(session, Tenant, {"id": new_id(TENANT, length=12), "name": name, "created_at": utc_now()})
    return session.scalars(select(Tenant).where(Tenant.name == name)).one()


def add_key(session: Session, *, key_id: str, tenant_id: str, name: str, sha256: str, scopes: list[str]) -> None:
    values = {
        "id": key_id,
        "tenant_id": tenant_id,
        "name": name,
        "secret_sha256": sha256,
        "scopes": scopes,
        "created_at": utc_now(),
        "revoked_at": None,
    }
    insert_if_absent(session, ApiKey, values)


def principal_of(session: Session, sha256: str) -> Principal | None:
    """The owner of a key that is not revoked."""
    row = session.execute(
        select(ApiKey, Tenant.name)
        .join(Tenant, Tenant.id == ApiKey.tenant_id)
        .where(ApiKey.secret_sha256 == sha256, ApiKey.revoked_at.is_(None))
    ).one_or_none()
    if row is None:
        return None
    key, tenant = row
    return Principal(tenant_id=key.tenant_id, tenant=tenant, key_id=key.id, scopes=frozenset(key.scopes))


def all_keys() -> Select[ApiKey, str]:
    """Keys of every tenant with the tenant's name; for administrators only."""
    return select(ApiKey, Tenant.name).join(Tenant, Tenant.id == ApiKey.tenant_id)


def num_keys(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(ApiKey)) or 0


def revoke(session: Session, key_id: str, at: datetime) -> None:
    """Idempotent: the first moment of revocation stays."""
    session.execute(update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)).values(revoked_at=at))
