"""For tests of the routes that score points and fill gaps: a toy of every task, and models tuned for one."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.auth.keys import make_key
from app.auth.repository import add_key, tenant_named
from app.db import session_scope
from app.registry.register import Registered
from tests import toy
from tests.app.forecasts.conftest import Gateway
from tests.app.tuned import Tuned, register, tune
from tests.tsfm.jobs import toy_of_every_task

LENGTH = 400


@dataclass(frozen=True)
class Route:
    """Where a question is posted."""

    path: str

    def post(
        self, gateway: Gateway, body: dict[str, Any], *, route: str | None = None, tenant: str = "local"
    ) -> httpx.Response:
        return gateway.clients[tenant].post(route or self.path, json=body)

    def ok(self, gateway: Gateway, body: dict[str, Any]) -> dict[str, Any]:
        response = self.post(gateway, body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def refused(self, gateway: Gateway, body: dict[str, Any], **more: str) -> tuple[int, str, str | None]:
        """Status, code and param."""
        return said(self.post(gateway, body, **more))

    def as_csv(self, gateway: Gateway, body: dict[str, Any]) -> httpx.Response:
        return gateway.clients["local"].post(self.path, json=body, headers={"accept": "text/csv"})

    def send_csv(self, gateway: Gateway, data: bytes, **query: str) -> httpx.Response:
        return gateway.clients["local"].post(
            self.path, params=query, content=data, headers={"content-type": "text/csv"}
        )


def said(response: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and param of a refusal."""
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


@dataclass(frozen=True, kw_only=True)
class Models:
    """Versions of the same weights, tuned for one task."""

    tuned: Tuned
    gateway: Gateway
    won: Registered
    """Promoted."""
    lost: Registered
    """Beaten by zero-shot."""

    def not_succeeded(self) -> str:
        """The name of a promoted version, whose second version did not beat it."""
        engine, store = self.gateway.engine, self.gateway.store
        first = register(engine, store, self.tuned, suffix="stays")
        register(engine, store, self.tuned, register_as=first.name, fallback="incumbent")
        return first.name

    def beaten_by(self, fallback: str) -> Registered:
        return register(
            self.gateway.engine, self.gateway.store, self.tuned, suffix=fallback.replace("_", ""), fallback=fallback
        )


@contextlib.contextmanager
def models_for(task: str, gateway: Gateway, folder: Path, weights_dir: Path, **asked: Any) -> Iterator[Models]:
    """The toy does every task for as long as the block lasts; `asked` is more of the job's request."""
    with toy.registered(weights_dir), toy_of_every_task():
        tuned = tune(folder, weights_dir, task=task, **asked)
        yield Models(
            tuned=tuned,
            gateway=gateway,
            won=register(gateway.engine, gateway.store, tuned, suffix=f"{task[:3]}won"),
            lost=register(gateway.engine, gateway.store, tuned, suffix=f"{task[:3]}lost", fallback="zero_shot"),
        )


def wave(length: int = LENGTH, *, seed: int = 0) -> list[float]:
    """Hourly, a daily sine around 10 with noise."""
    noise = np.random.default_rng(seed).normal(size=length)
    wave = 10 + np.sin(np.arange(length) * 2 * np.pi / 24) + 0.1 * noise
    return [float(value) for value in wave.round(6)]


def csv_of(values: Sequence[float | None]) -> bytes:
    """Hours from 2026 on; a time whose value is None is left out."""
    times = np.datetime64("2026-01-01T00:00:00") + np.arange(len(values)) * np.timedelta64(1, "h")
    rows = [f"{time},{value}" for time, value in zip(times, values, strict=True) if value is not None]
    return ("timestamp,target\n" + "\n".join(rows) + "\n").encode()


def with_scopes(gateway: Gateway, route: str, body: dict[str, Any], scopes: Sequence[str]) -> httpx.Response:
    """The answer to a key that has these scopes alone."""
    key = make_key()
    with session_scope(gateway.engine) as session:
        owner = tenant_named(session, "local").id
        add_key(session, key_id=key.id, tenant_id=owner, name="t", sha256=key.sha256, scopes=list(scopes))
    url = gateway.clients["local"].base_url.join(route)
    return httpx.post(url, json=body, headers={"authorization": f"Bearer {key.secret}"}, trust_env=False)


def upload(gateway: Gateway, data: bytes) -> str:
    """The id of a file of the tenant "local"."""
    sent = gateway.clients["local"].post("/v1/files", files={"file": ("a.csv", data)})
    assert sent.status_code in (200, 201), sent.text
    return str(sent.json()["id"])


def few_points(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Until the test ends the gateway takes so many points in one request."""
    monkeypatch.setitem(gateway.settings.__dict__, "max_scored_points", most)
