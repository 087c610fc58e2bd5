"""`Idempotency-Key` on creating POSTs: one helper for JSON and multipart routes.

    return once.run({"file": sha256, "fields": fields}, lambda session: service.create(session, …))

1. *Claim*, in a transaction of its own: a row (tenant, key) with the hash of what is asked (method, path, content) and
   no answer yet. Found instead: another hash → 409; an answer → that answer again with `idempotent-replayed: true`;
   no answer → 409 with `retry-after`, unless the claim is older than `idempotency_release_seconds` (a crash), then
   it is taken over.
2. *Create*, in a second transaction, which also writes the answer into the claim's row: the object and the remembered
   answer are committed together or not at all. The claim's `created_at` is the fencing token: a request that was
   overtaken finds its claim gone and rolls back.
3. A failure releases the claim, so that the caller may mend and try again with the same key.

The content is what the request means (the parsed body; for uploads the sha256 of the file and the other fields), so it
is claimed when the last byte has arrived: two equal uploads at once may both be received, only one is kept. Without
the header only step 2 happens.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.auth.dependencies import PrincipalDep
from app.auth.keys import Principal
from app.auth.repository import insert_if_absent
from app.db import session_scope
from app.errors import Conflict
from app.ids import utc_now
from app.services import Services, ServicesDep
from app.tables import IdempotencyKey

RETRY_AFTER_SECONDS = 2
Created = TypeVar("Created", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """Runs the creation of this request at most once per key."""

    services: Services
    principal: Principal
    route: str
    key: str | None

    def run(
        self,
        content: Mapping[str, Any],
        create: Callable[[Session], Created],
        *,
        status_code: int = 200,
        secret: str | None = None,
    ) -> JSONResponse:
        """The answer to send: of `create(session)`, committed, or of the first request with this key.

        `create` does not commit. It may take long before its first query: no connection is held until then. The field
        named `secret` is answered but not remembered: a replay shows null.
        """
        if self.key is None:
            with session_scope(self.services.engine) as session:
                body = create(session).model_dump(mode="json")
            return JSONResponse(body, status_code)
        claim = self._claim(self.key, _fingerprint(self.route, content))
        if isinstance(claim, JSONResponse):
            return claim
        try:
            with session_scope(self.services.engine) as session:
                body = create(session).model_dump(mode="json")
                remembered = body if secret is None else {**body, secret: None}
                self._remember(session, claim, status_code, remembered)
        except BaseException:  # whatever went wrong, the key must be free for another try
            self._release(claim)
            raise
        return JSONResponse(body, status_code)

    def _claim(self, key: str, fingerprint: str) -> "_Claim | JSONResponse":
        now = utc_now()
        claim = _Claim(tenant_id=self.principal.tenant_id, key=key, at=now)
        keep = timedelta(seconds=self.services.settings.idempotency_keep_seconds)
        with session_scope(self.services.engine) as session:
            stale = (IdempotencyKey.tenant_id == claim.tenant_id, IdempotencyKey.created_at < now - keep)
            session.execute(delete(IdempotencyKey).where(*stale))
            values = {"request_sha256": fingerprint, "status_code": None, "response": None, "created_at": now}
            insert_if_absent(session, IdempotencyKey, {"tenant_id": claim.tenant_id, "key": key, **values})
            row = session.scalars(select(IdempotencyKey).where(*claim.mine).with_for_update()).one()
            if row.created_at == now:
                return claim
            if row.request_sha256 != fingerprint:
                raise Conflict(
                    "idempotency_key_reused",
                    "This Idempotency-Key was used with another request. Use a new key for a new request.",
                )
            if row.status_code is not None:
                return JSONResponse(row.response, row.status_code, headers={"idempotent-replayed": "true"})
            age_seconds = (now - row.created_at).total_seconds()
            if age_seconds < self.services.settings.idempotency_release_seconds:
                raise Conflict(
                    "idempotency_key_in_use",
                    "The first request with this Idempotency-Key is still running.",
                    retry_after=RETRY_AFTER_SECONDS,
                )
            row.created_at = now
            return claim

    def _remember(self, session: Session, claim: "_Claim", status_code: int, body: dict[str, Any]) -> None:
        session.flush()
        done = session.execute(
            update(IdempotencyKey)
            .where(*claim.mine, IdempotencyKey.created_at == claim.at, IdempotencyKey.status_code.is_(None))
            .values(status_code=status_code, response=body)
            .returning(IdempotencyKey.key)
        ).one_or_none()
        if done is None:
            raise Conflict(
                "idempotency_key_in_use",
                "Another request with this Idempotency-Key took over; ask again for its answer.",
                retry_after=RETRY_AFTER_SECONDS,
            )

    def _release(self, claim: "_Claim") -> None:
        with session_scope(self.services.engine) as session:
            session.execute(
                delete(IdempotencyKey).where(
                    *claim.mine, IdempotencyKey.created_at == claim.at, IdempotencyKey.status_code.is_(None)
                )
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    tenant_id: str
    key: str
    at: datetime
    """When it was claimed: the fencing token."""

    @property
    def mine(self) -> tuple[Any, ...]:
        return (IdempotencyKey.tenant_id == self.tenant_id, IdempotencyKey.key == self.key)


def _fingerprint(route: str, content: Mapping[str, Any]) -> str:
    canonical = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(route.encode() + b"\0" + canonical).hexdigest()


async def _once(
    request: Request,
    services: ServicesDep,
    principal: PrincipalDep,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="The same key and body get the first answer again."),
    ] = None,
) -> Once:
    path = request.url.path
    route = f"{request.method} {path.removeprefix('/v1')}"
    return Once(services=services, principal=principal, route=route, key=idempotency_key)


OnceDep = Annotated[Once, Depends(_once)]
"""Authenticates, but asks for no scope: the route's own `require(...)` does."""
