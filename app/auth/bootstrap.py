"""The first key: every request needs one in every mode, so that a fresh home gets one by itself."""

import os
import secrets
from pathlib import Path

from sqlalchemy import Engine

from app.auth.keys import ALL_SCOPES, digest, make_key
from app.auth.repository import add_key, tenant_named
from app.db import session_scope
from app.settings import Settings

FIRST_TENANT = "local"
KEY_FILE = "api_key"


def bootstrap(engine: Engine, settings: Settings) -> None:
    """Makes the tenant `local` and its first key, valid for every scope. Safe to repeat and to run twice at once.

    The key is `TEMPER_API_KEY`, else the content of HOME/api_key, made when absent (mode 600). A revoked key stays
    revoked.
    """
    secret = settings.api_key.get_secret_value() if settings.api_key else _key_of_home(settings.home)
    sha256 = digest(secret)
    with session_scope(engine) as session:
        tenant = tenant_named(session, FIRST_TENANT)
        add_key(
            session,
            key_id=f"key-{sha256[:12]}",
            tenant_id=tenant.id,
            name="first key",
            sha256=sha256,
            scopes=[str(scope) for scope in ALL_SCOPES],
        )


def _key_of_home(home: Path) -> str:
    """Reads HOME/api_key, or makes it whole in one step: the link fails for all but the first of two writers."""
    path = home / KEY_FILE
    if not path.exists():
        draft = home / f".{KEY_FILE}.{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(make_key().secret + "\n")
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # the other gateway was first: its key is the one
        finally:
            draft.unlink()
    return path.read_text().strip()
