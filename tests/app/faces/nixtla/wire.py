"""Requests of exactly the shapes that the client sends, for tests that run where it is not installed."""

import json
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from tests.app.forecasts.conftest import Gateway

FREQ = "h"


def values(length: int = 120, *, seed: int = 0) -> list[float]:
    """Hourly, a daily sine around 10 with noise, in 32 bits as the client sends it."""
    noise = np.random.default_rng(seed).normal(size=length)
    wave = 10 + np.sin(np.arange(length) * 2 * np.pi / 24) + 0.1 * noise
    return [float(str(value)) for value in wave.astype(np.float32)]


def wired(*many: Sequence[float | None], **more: Any) -> dict[str, Any]:
    """`series` of the wire."""
    return {"y": [value for one in many for value in one], "sizes": [len(one) for one in many], "X": None, **more}


def forecast(*many: Sequence[float | None], **more: Any) -> dict[str, Any]:
    """F, as `NixtlaClient.forecast` of 0.7.2 sends it; three series by default."""
    series = wired(*(many or (values(), values(90, seed=1), values(200, seed=2))), X_future=None)
    return {
        "series": series,
        "model": "timegpt-1",
        "h": 6,
        "freq": FREQ,
        "clean_ex_first": True,
        "level": None,
        "finetune_steps": 0,
        "finetune_depth": 1,
        "finetune_loss": "default",
        "finetuned_model_id": None,
        "feature_contributions": False,
        "multivariate": False,
        **more,
    }


def post(gateway: Gateway, path: str, body: dict[str, Any], *, tenant: str = "local", **headers: str) -> httpx.Response:
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return gateway.clients[tenant].post(path, content=json.dumps(body), headers=sent)


def ok(gateway: Gateway, path: str, body: dict[str, Any], **more: str) -> dict[str, Any]:
    response = post(gateway, path, body, **more)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert "data" not in answer, "the client would take that for the whole answer"
    return answer


def refused(gateway: Gateway, path: str, body: dict[str, Any], **more: str) -> tuple[int, str, str | None]:
    """Status, code and param; the reason stands under `detail`, too."""
    return said(post(gateway, path, body, **more))


def said(response: httpx.Response) -> tuple[int, str, str | None]:
    body = response.json()
    assert response.status_code >= 400, body
    assert body["detail"] == body["error"]["message"]
    assert "data" not in body
    return response.status_code, body["error"]["code"], body["error"]["param"]


def native(gateway: Gateway, model: str, many: Sequence[Sequence[float | None]], **more: Any) -> list[dict[str, Any]]:
    """What `/v1/forecast` answers for the same series."""
    series = [
        {"item_id": f"s{i}", "start": "2026-01-01T00:00:00", "freq": FREQ, "target": list(one)}
        for i, one in enumerate(many)
    ]
    forecasts: list[dict[str, Any]] = gateway.ok({"model": model, "series": series, **more})["forecasts"]
    return forecasts


def flat(forecasts: Sequence[dict[str, Any]], *keys: str) -> list[float]:
    """One field of every forecast, series after series."""
    found: list[float] = []
    for one in forecasts:
        inner: Any = one
        for key in keys:
            inner = inner[key]
        found += inner
    return found
