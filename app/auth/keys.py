"""What an API key is: `tmpr_{id}_{secret}`, shown once, stored as the sha256 of the whole string.

The secret holds 256 random bits, so a slow password hash would add nothing (stack.md §7).
"""

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum

from app.ids import KEY, new_id


class Scope(StrEnum):
    FILES = "files"
    JOBS = "jobs"
    MODELS = "models"
    FORECAST = "forecast"
    ADMIN = "admin"


ALL_SCOPES = tuple(Scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who is asking. Every repository method takes `tenant_id` and looks nowhere else."""

    tenant_id: str
    tenant: str
    key_id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    id: str
    secret: str
    """The whole key; this is the only time it can be seen."""

    @property
    def sha256(self) -> str:
        return digest(self.secret)


def make_key() -> NewKey:
    key_id = new_id(KEY, length=12)
    return NewKey(id=key_id, secret=f"tmpr_{key_id.removeprefix(KEY)}_{secrets.token_urlsafe(32)}")


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
