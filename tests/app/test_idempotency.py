"""One key, one object: whatever is repeated, raced or cut off."""

import threading
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.auth.keys import Principal
from app.db import session_scope
from app.errors import Conflict
from app.idempotency import Once
from app.ids import utc_now
from app.schemas import ResponseModel
from app.services import Services
from app.tables import ApiKey, IdempotencyKey, Tenant


class Made(ResponseModel):
    id: str


def make_tenant(name: str) -> Callable[[Session], Made]:
    def create(session: Session) -> Made:
        session.add(Tenant(id=name, name=name, created_at=utc_now()))
        return Made(id=name)

    return create


@pytest.fixture
def once(services: Services, client: httpx.Client) -> Once:
    with session_scope(services.engine, read_only=True) as session:
        tenant = session.scalars(select(Tenant).where(Tenant.name == "local")).one()
    principal = Principal(tenant_id=tenant.id, tenant="local", key_id="key-x", scopes=frozenset())
    return Once(services=services, principal=principal, route="POST /things", key="k1")


def post(client: httpx.Client, key: str, **body: str) -> httpx.Response:
    return client.post("/v1/keys", json=body, headers={"idempotency-key": key})


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def num_tenants(services: Services) -> int:
    with session_scope(services.engine, read_only=True) as session:
        return session.scalar(select(func.count()).select_from(Tenant)) or 0


class TestOverHttp:
    def test_the_same_request_gets_the_first_answer(self, client: httpx.Client, services: Services) -> None:
        first, second = post(client, "k", name="a"), post(client, "k", name="a")
        assert (first.status_code, second.status_code) == (200, 200)
        assert second.json() == {**first.json(), "key": None}
        assert "idempotent-replayed" not in first.headers
        assert second.headers["idempotent-replayed"] == "true"
        with session_scope(services.engine, read_only=True) as session:
            stored = session.scalars(select(IdempotencyKey.response)).one()
            assert session.scalar(select(func.count()).where(ApiKey.name == "a").select_from(ApiKey)) == 1
        assert first.json()["key"] not in str(stored)

    def test_another_body_is_refused(self, client: httpx.Client) -> None:
        post(client, "k", name="a")
        assert code_of(post(client, "k", name="b")) == (409, "idempotency_key_reused")

    def test_keys_of_two_tenants_do_not_meet(self, client: httpx.Client, other_client: httpx.Client) -> None:
        assert post(client, "k", name="a").json()["id"] != post(other_client, "k", name="a").json()["id"]

    def test_a_refused_request_frees_the_key(self, client: httpx.Client) -> None:
        assert post(client, "k", name="").status_code == 422
        assert post(client, "k", name="a").status_code == 200

    def test_a_bad_key(self, client: httpx.Client) -> None:
        assert code_of(post(client, "x" * 256, name="a")) == (422, "invalid_request")


class TestOnce:
    def test_a_failure_frees_the_key_and_keeps_nothing(self, once: Once, services: Services) -> None:
        def fail(session: Session) -> Made:
            make_tenant("half")(session)
            session.flush()
            raise KeyError("no")

        before = num_tenants(services)
        with pytest.raises(KeyError):
            once.run({}, fail)
        assert num_tenants(services) == before
        assert once.run({"other": 1}, make_tenant("whole")).status_code == 200

    def test_while_the_first_runs_the_second_is_told_to_wait(self, once: Once) -> None:
        def create(session: Session) -> Made:
            with pytest.raises(Conflict) as refused:
                once.run({}, make_tenant("second"))
            assert refused.value.code == "idempotency_key_in_use"
            assert refused.value.headers == {"retry-after": "2"}
            return make_tenant("first")(session)

        assert once.run({}, create).status_code == 200

    def test_a_claim_that_crashed_is_taken_over(self, once: Once, services: Services) -> None:
        def crash(session: Session) -> Made:
            with session_scope(services.engine) as elsewhere:
                past = utc_now() - timedelta(seconds=services.settings.idempotency_release_seconds + 1)
                elsewhere.execute(update(IdempotencyKey).values(created_at=past))
            raise KeyError("the process is gone: nothing of the claim is released")

        with pytest.raises(KeyError):
            once.run({}, crash)
        with session_scope(services.engine, read_only=True) as session:
            assert session.scalars(select(IdempotencyKey.status_code)).all() == [None]
        with pytest.raises(Conflict, match="another request"):
            once.run({"other": 1}, make_tenant("different"))
        assert once.run({}, make_tenant("heir")).status_code == 200

    def test_a_request_that_was_overtaken_keeps_nothing(self, once: Once, services: Services) -> None:
        def create(session: Session) -> Made:
            with session_scope(services.engine) as elsewhere:
                elsewhere.execute(update(IdempotencyKey).values(created_at=utc_now() - timedelta(hours=1)))
            assert once.run({}, make_tenant("heir")).status_code == 200
            return make_tenant("late")(session)

        before = num_tenants(services)
        with pytest.raises(Conflict, match="took over"):
            once.run({}, create)
        assert num_tenants(services) == before + 1
        replay = once.run({}, make_tenant("never"))
        assert replay.headers["idempotent-replayed"] == "true"
        assert b"heir" in replay.body

    def test_answers_are_forgotten_after_a_while(self, once: Once, services: Services) -> None:
        once.run({}, make_tenant("first"))
        with session_scope(services.engine) as session:
            past = utc_now() - timedelta(seconds=services.settings.idempotency_keep_seconds + 1)
            session.execute(update(IdempotencyKey).values(created_at=past))
        assert b"second" in once.run({}, make_tenant("second")).body

    def test_of_many_at_once_one_creates(self, once: Once, services: Services) -> None:
        before, outcomes = num_tenants(services), []

        def work(name: str) -> None:
            try:
                answer = once.run({}, make_tenant(name))
                outcomes.append("replayed" if "idempotent-replayed" in answer.headers else "created")
            except Conflict:
                outcomes.append("conflict")

        threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("created") == 1, outcomes
        assert len(outcomes) == 8
        assert num_tenants(services) == before + 1
