"""Fixtures that several packages of tests share. Everything is real but the queue, unless a test asks for Valkey.

backend    databases and stores of the profile (`tests/backend.py`): SQLite and disk, or PostgreSQL and S3
settings   Settings with a home in tmp_path            engine    a migrated database
store      the object store                            queue     FakeQueue (what was sent: `queue.sent`)
app        the gateway on settings and queue           server    its address while it runs under uvicorn
services   its Services while it runs                  new_key   makes a key: new_key("tenant", scopes)
client     httpx with a key of the tenant `local`      other_client  the same for the tenant `other`
valkey     broker address of a real Valkey, one per session
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from app.auth.bootstrap import bootstrap
from app.auth.keys import ALL_SCOPES, make_key
from app.auth.repository import add_key, tenant_named
from app.db import make_engine, session_scope
from app.main import create_app
from app.queue import FakeQueue
from app.services import Services
from app.settings import Settings
from app.storage import ObjectStore
from tests import backend as backends
from tests import server as servers
from tests.backend import SCALE_OUT, Backend

NewKey = Callable[..., str]


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with backends.backend(tmp_path_factory.mktemp("backend")) as backend:
        yield backend


@pytest.fixture
def settings(tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TEMPER_{name.upper()}", raising=False)
    home = tmp_path / "home"
    with backend.migrated(home) as places:
        settings = Settings(home=home, log_level="error", **places)
        settings.make_directories()
        yield settings


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings.database_url)
    bootstrap(engine, settings)
    yield engine
    engine.dispose()


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    return ObjectStore(settings.storage_url)


@pytest.fixture
def queue() -> FakeQueue:
    return FakeQueue()


@pytest.fixture
def new_key(engine: Engine) -> NewKey:
    """`new_key("tenant", ["files"])` → a key of that tenant, which is made when absent; all scopes by default."""

    def make(tenant: str, scopes: list[str] | None = None) -> str:
        key = make_key()
        with session_scope(engine) as session:
            owner = tenant_named(session, tenant)
            add_key(
                session,
                key_id=key.id,
                tenant_id=owner.id,
                name="test",
                sha256=key.sha256,
                scopes=[str(scope) for scope in ALL_SCOPES] if scopes is None else scopes,
            )
        return key.secret

    return make


@pytest.fixture
def app(settings: Settings, queue: FakeQueue) -> FastAPI:
    return create_app(settings, queue=queue)


@pytest.fixture
def server(app: FastAPI) -> Iterator[str]:
    with servers.serve(app) as url:
        yield url


@pytest.fixture
def services(server: str, app: FastAPI) -> Services:
    """What the running gateway holds."""
    services: Services = app.state.services
    return services


@pytest.fixture
def connect(server: str) -> Iterator[Callable[[str | None], httpx.Client]]:
    """`connect(key)` → a client of the running gateway that sends this key (None: no key)."""
    clients: list[httpx.Client] = []

    def open_client(key: str | None) -> httpx.Client:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        clients.append(httpx.Client(base_url=server, headers=headers, timeout=60.0, trust_env=False))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[[str | None], httpx.Client], new_key: NewKey) -> httpx.Client:
    return connect(new_key("local"))


@pytest.fixture
def other_client(connect: Callable[[str | None], httpx.Client], new_key: NewKey) -> httpx.Client:
    return connect(new_key("other"))


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    with servers.valkey(tcp=SCALE_OUT) as url:
        yield url
