"""Transactions: what was answered is committed, what did not commit leaves nothing behind."""

import threading
from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from app.db import SessionDep, after_commit, make_engine, on_rollback, session_scope
from app.ids import utc_now
from app.tables import ApiKey, Tenant

FILL_WITHOUT_TENANT = {"name": "x", "scopes": [], "revoked_at": None}


def break_at_commit(session: Session) -> None:
    """A row whose tenant is missing, checked only by the commit."""
    reference = "REFERENCES tenants (id) DEFERRABLE INITIALLY DEFERRED"
    session.execute(text(f"CREATE TABLE checked_late (tenant_id VARCHAR(64) {reference})"))
    session.execute(text("INSERT INTO checked_late VALUES ('absent')"))


def test_a_commit_that_fails_is_answered_with_500(
    app: FastAPI, server: str, connect: Callable[[str | None], httpx.Client]
) -> None:
    @app.post("/test/broken")
    def broken(session: SessionDep) -> dict[str, str]:
        break_at_commit(session)
        return {"status": "fine"}

    answer = connect(None).post("/test/broken")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "absent" not in answer.text


class TestSessionScope:
    def test_actions_follow_the_fate_of_the_transaction(self, engine: Engine) -> None:
        seen: list[str] = []
        with session_scope(engine) as session:
            after_commit(session, lambda: seen.append("sent"))
            on_rollback(session, lambda: seen.append("undone"))
            assert seen == []
        assert seen == ["sent"]

        def fail() -> None:
            with session_scope(engine) as session:
                after_commit(session, lambda: seen.append("sent"))
                on_rollback(session, lambda: seen.append("undone"))
                break_at_commit(session)

        with pytest.raises(IntegrityError):
            fail()
        assert seen == ["sent", "undone"]

    def test_a_failing_action_does_not_undo_the_commit(self, engine: Engine) -> None:
        def fail() -> None:
            raise RuntimeError("the broker is away")

        with session_scope(engine) as session:
            session.add(Tenant(id="t", name="t", created_at=utc_now()))
            after_commit(session, fail)
        with session_scope(engine, read_only=True) as session:
            assert session.get(Tenant, "t") is not None

    def test_no_connection_is_held_before_the_first_query(self, engine: Engine) -> None:
        with session_scope(engine):
            assert engine.pool.checkedout() == 0

    def test_a_reader_does_not_wait_for_a_writer(self, engine: Engine) -> None:
        with session_scope(engine) as writer:
            writer.add(Tenant(id="t", name="t", created_at=utc_now()))
            writer.flush()
            with session_scope(engine, read_only=True) as reader:
                assert reader.get(Tenant, "t") is None


def test_read_modify_write_from_several_threads_loses_nothing(engine: Engine) -> None:
    with session_scope(engine) as session:
        session.add(Tenant(id="counter", name="0", created_at=utc_now()))

    def count() -> None:
        own = make_engine(engine.url.render_as_string(hide_password=False))
        for _ in range(25):
            with session_scope(own) as session:
                query = select(Tenant.name).where(Tenant.id == "counter").with_for_update()  # a no-op on SQLite
                value = int(session.scalars(query).one())
                session.execute(update(Tenant).where(Tenant.id == "counter").values(name=str(value + 1)))
        own.dispose()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with session_scope(engine, read_only=True) as session:
        assert session.get_one(Tenant, "counter").name == "100"


def test_foreign_keys_are_enforced(engine: Engine) -> None:
    with pytest.raises(IntegrityError), session_scope(engine) as session:
        session.add(ApiKey(id="k", tenant_id="absent", secret_sha256="0", created_at=utc_now(), **FILL_WITHOUT_TENANT))


def test_a_missing_table_is_an_error_not_a_new_database(tmp_path: object) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(OperationalError), session_scope(engine, read_only=True) as session:
        session.get(Tenant, "t")
    engine.dispose()
