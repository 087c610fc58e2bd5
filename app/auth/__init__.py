"""Keys, tenants and scopes."""

from app.auth.keys import Principal, Scope

__all__ = ["Principal", "Scope"]
