"""Who is asking, as a FastAPI dependency: `principal: Annotated[Principal, require("jobs")]`.

A known key costs no query and no thread hop. A route that reads its own body may call `authenticate` itself.
"""

from typing import Annotated, Any

import anyio.to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from app.auth.keys import Principal, Scope, digest
from app.auth.repository import principal_of
from app.db import session_scope
from app.errors import ApiError
from app.services import Services, get_services

_bearer = HTTPBearer(auto_error=False, description="`Authorization: Bearer tmpr_…`")


async def authenticate(request: Request, scope: str | None = None) -> Principal:
    """The owner of the request's key. 401 without a valid one, 403 when it lacks `scope`."""
    secret = _bearer_token(request)
    services = get_services(request)
    sha256 = digest(secret)
    principal = services.keys.get(sha256)
    if principal is None:
        principal = await anyio.to_thread.run_sync(_look_up, services, sha256)
    if principal is None:
        raise _unauthorized("invalid_api_key", "This API key is unknown or revoked.")
    if scope is not None and scope not in principal.scopes:
        raise ApiError(403, "missing_scope", f"This API key lacks the scope {scope!r}.")
    return principal


def _bearer_token(request: Request) -> str:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise _unauthorized("missing_api_key", "Send a key: `Authorization: Bearer <key>`.")
    return secret.strip()


def _look_up(services: Services, sha256: str) -> Principal | None:
    with session_scope(services.engine, read_only=True) as session:
        principal = principal_of(session, sha256)
    if principal is not None:
        services.keys.put(sha256, principal)
    return principal


def _unauthorized(code: str, message: str) -> ApiError:
    return ApiError(401, code, message, headers={"www-authenticate": "Bearer"})


def require(scope: str | None) -> Any:
    """A dependency that yields the `Principal` of a key with `scope` (None: any valid key)."""

    async def check(request: Request, _: Annotated[object, Depends(_bearer)]) -> Principal:
        return await authenticate(request, scope)

    assert scope is None or scope in set(Scope), scope
    return Depends(check)


PrincipalDep = Annotated[Principal, require(None)]
