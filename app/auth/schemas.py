"""Keys as the API shows them."""

from typing import Annotated, Literal

from pydantic import Field

from app.auth.keys import ALL_SCOPES, Scope
from app.schemas import RequestModel, ResponseModel

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]
TenantName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_-]*$")]
ScopeName = Annotated[Scope, Field(strict=False)]


class KeyCreate(RequestModel):
    name: Name = "key"
    tenant: TenantName | None = None
    """Made when absent; by default the caller's own."""
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=len(ALL_SCOPES))] = [
        Scope.FILES,
        Scope.JOBS,
        Scope.MODELS,
        Scope.FORECAST,
    ]


class KeyObject(ResponseModel):
    id: str
    object: Literal["api_key"]
    name: str
    tenant: str
    scopes: list[str]
    created_at: int
    revoked_at: int | None


class CreatedKey(KeyObject):
    key: str | None
    """The key itself: shown once. Null when this answer is a replay, since only its hash is stored."""
