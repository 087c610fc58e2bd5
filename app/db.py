"""Engines, sessions and migrations. One request or task is one transaction; the commit comes before the answer.

SQLite: writers begin with `BEGIN IMMEDIATE` (deferred transactions lose updates: stack.md §5), readers with `BEGIN`.
What must follow the fate of a transaction (a queue message, the removal of an uploaded object) is registered with
`after_commit` or `on_rollback`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

log = structlog.get_logger(__name__)

BUSY_TIMEOUT_SECONDS = 30
_READ_ONLY = "temper_read_only"
_AFTER_COMMIT = "after_commit"
_ON_ROLLBACK = "on_rollback"


def make_engine(url: str) -> Engine:
    """An engine for `sqlite:///file` or `postgresql+psycopg://…`. Create it inside the process that uses it."""
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_size=10, max_overflow=5, pool_pre_ping=True, connect_args={"connect_timeout": 5})
    database = make_url(url).database
    assert database, "an in-memory database would be a different one for every connection"
    Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, pool_size=5, max_overflow=0, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # we begin transactions ourselves
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        f"busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@contextmanager
def session_scope(engine: Engine, *, read_only: bool = False) -> Iterator[Session]:
    """A session that commits at the end and rolls back on any exception. No connection is taken before the first query.

    `read_only` takes no write lock on SQLite; nothing may be written in it.
    """
    bind = engine.execution_options(**{_READ_ONLY: True}) if read_only else engine
    with Session(bind, expire_on_commit=False) as session:
        try:
            yield session
            session.commit()
        except BaseException:  # whatever ends the transaction, what hangs on it must be undone
            session.rollback()
            _run(session, _ON_ROLLBACK)
            raise
        _run(session, _AFTER_COMMIT)


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Runs `action` once the transaction is committed, never otherwise. A failure in it is only logged."""
    session.info.setdefault(_AFTER_COMMIT, []).append(action)


def on_rollback(session: Session, action: Callable[[], None]) -> None:
    """Runs `action` when the transaction did not commit. A failure in it is only logged."""
    session.info.setdefault(_ON_ROLLBACK, []).append(action)


def _run(session: Session, kind: str) -> None:
    for action in session.info.pop(kind, []):
        try:
            action()
        except Exception:  # the transaction is decided; the sweeper repairs what an action missed
            log.exception("action_failed", kind=kind)


def _write_session(request: Request) -> Iterator[Session]:
    with session_scope(request.app.state.services.engine) as session:
        yield session


def _read_session(request: Request) -> Iterator[Session]:
    with session_scope(request.app.state.services.engine, read_only=True) as session:
        yield session


# scope="function": the default scope commits after the answer has been sent (style.md §2.8)
SessionDep = Annotated[Session, Depends(_write_session, scope="function")]
ReadSessionDep = Annotated[Session, Depends(_read_session, scope="function")]


def upgrade(url: str, revision: str = "head") -> None:
    """Brings the schema to `revision`; several processes may do so at once (a lock lets one of them work)."""
    from alembic import command  # alembic is slow to import and the gateway's requests never need it

    command.upgrade(alembic_config(url), revision)


def alembic_config(url: str) -> Any:
    """Alembic's configuration for this database, without `alembic.ini` (an installed package has none)."""
    from alembic.config import Config

    import migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["url"] = url
    return config
