"""One running gateway per test file, with a tuned model that won and one that lost."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from app.auth.keys import ALL_SCOPES, make_key
from app.auth.repository import add_key, tenant_named
from app.db import session_scope
from app.main import create_app
from app.queue import FakeQueue
from app.registry.register import Registered
from app.settings import Settings
from app.storage import ObjectStore
from tests import server as servers
from tests.app.tuned import Tuned, register
from tests.backend import Backend


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A running service; `clients` holds one per tenant."""

    app: FastAPI
    settings: Settings
    clients: dict[str, httpx.Client]
    won: Registered
    """Tuned for 8 steps and promoted."""
    lost: Registered
    """The same weights, beaten by seasonal_naive."""

    @property
    def engine(self) -> Engine:
        engine: Engine = self.app.state.services.engine
        return engine

    @property
    def store(self) -> ObjectStore:
        store: ObjectStore = self.app.state.services.store
        return store

    def post(self, body: dict[str, Any], *, tenant: str = "local") -> httpx.Response:
        return self.clients[tenant].post("/v1/forecast", json=body)

    def ok(self, body: dict[str, Any], *, tenant: str = "local") -> dict[str, Any]:
        response = self.post(body, tenant=tenant)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def refused(self, body: dict[str, Any], *, tenant: str = "local") -> tuple[int, dict[str, Any]]:
        response = self.post(body, tenant=tenant)
        assert response.status_code >= 400, response.text
        return response.status_code, response.json()["error"]


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    backend: Backend,
    toy_weights: Path,
    toy_backbone: str,
    tuned_pair: tuple[Tuned, Tuned],
) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    with contextlib.ExitStack() as stack:
        places = stack.enter_context(backend.migrated(home))
        settings = Settings(home=home, log_level="error", weights_dir=toy_weights, max_forecast_series=500, **places)
        app = create_app(settings, queue=FakeQueue())
        url = stack.enter_context(servers.serve(app))
        services = app.state.services
        clients = {tenant: client_of(services.engine, url, tenant) for tenant in ("local", "other")}
        yield Gateway(
            app=app,
            settings=settings,
            clients=clients,
            won=register(services.engine, services.store, tuned_pair[0], suffix="won"),
            lost=register(services.engine, services.store, tuned_pair[0], suffix="lost", fallback="seasonal_naive"),
        )
        for client in clients.values():
            client.close()


def client_of(engine: Engine, url: str, tenant: str) -> httpx.Client:
    key = make_key()
    with session_scope(engine) as session:
        owner = tenant_named(session, tenant).id
        add_key(
            session, key_id=key.id, tenant_id=owner, name="t", sha256=key.sha256, scopes=[str(s) for s in ALL_SCOPES]
        )
    headers = {"authorization": f"Bearer {key.secret}"}
    return httpx.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False)


def series(
    target: Sequence[float | None], *, item_id: str = "a", start: str = "2026-01-01T00:00:00", freq: str = "h"
) -> dict[str, Any]:
    return {"item_id": item_id, "start": start, "freq": freq, "target": list(target)}


def ramp(length: int = 120) -> list[float]:
    """A daily pattern on a slope."""
    return [100.0 + 0.1 * i + float(i % 24) for i in range(length)]
