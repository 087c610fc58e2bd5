"""Alembic's entry: one engine, one transaction, one migrating process at a time."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, text

from app.db import make_engine
from app.settings import Settings
from app.tables import Base, UtcDateTime

ADVISORY_LOCK = 7_306_152_011  # any number of our own


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        transactional_ddl=True,  # SQLite too: its begin is ours (app/db.py), so one process migrates and the rest wait
        render_item=render_item,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        context.run_migrations()


def render_item(kind: str, item: Any, autogen: Any) -> str | Literal[False]:
    """Writes our own column type as the plain one it is made of."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def main() -> None:
    url = context.config.attributes.get("url") or Settings().database_url
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            run(connection)
            connection.commit()
    finally:
        engine.dispose()


main()
