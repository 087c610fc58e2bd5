"""Overload, damage and closing: what the engine does when things go wrong."""

import queue
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from app.main import create_app
from app.queue import FakeQueue
from app.settings import Settings
from app.storage import ObjectStore, blob_key
from tests.app.forecasts.conftest import client_of, series
from tests.app.tuned import Tuned, register, tune
from tsfm.tasks.forecast import Forecast, Forecaster

PATIENCE_SECONDS = 20


class SlowForecaster:
    """Holds every forecast at the door until `open` is set."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        predict = Forecaster.predict

        def held(forecaster: Forecaster, *args: Any, **named: Any) -> Forecast:
            self.entered.set()
            self.open.wait(PATIENCE_SECONDS)
            return predict(forecaster, *args, **named)

        patch.setattr(Forecaster, "predict", held)


@pytest.fixture
def settings(settings: Settings, toy_weights: Any) -> Settings:
    return settings.model_copy(update={"weights_dir": toy_weights, "max_pending_series": 3})


@pytest.fixture
def app(settings: Settings, toy_backbone: str) -> FastAPI:
    return create_app(settings, queue=FakeQueue())


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowForecaster]:
    slow = SlowForecaster(monkeypatch)
    yield slow
    slow.open.set()


def body(model: str = "naive", num_series: int = 1) -> dict[str, Any]:
    many = [series([1.0, 2.0], item_id=str(i)) for i in range(num_series)]
    return {"model": model, "prediction_length": 2, "quantile_levels": [], "series": many}


def test_a_full_queue_answers_429_with_a_time_and_recovers(server: str, engine: Engine, slow: SlowForecaster) -> None:
    """One request is in the forward pass; of five that would fill the queue one waits and four are refused."""
    answers: queue.SimpleQueue[httpx.Response] = queue.SimpleQueue()
    with client_of(engine, server, "local") as client:
        threads = [
            threading.Thread(target=lambda n=n: answers.put(client.post("/v1/forecast", json=body("naive", n))))
            for n in (1, 3, 3, 3, 3, 3)
        ]
        threads[0].start()
        assert slow.entered.wait(PATIENCE_SECONDS)
        for thread in threads[1:]:
            thread.start()
        for refused in [answers.get(timeout=PATIENCE_SECONDS) for _ in range(4)]:
            error = refused.json()["error"]
            assert (refused.status_code, error["code"], error["type"]) == (429, "overloaded", "rate_limit_error")
            assert 1 <= int(refused.headers["retry-after"]) <= 120
            assert int(refused.headers["retry-after-ms"]) > 0
        slow.open.set()
        assert [answers.get(timeout=PATIENCE_SECONDS).status_code for _ in range(2)] == [200, 200]
        for thread in threads:
            thread.join()
        assert client.post("/v1/forecast", json=body()).status_code == 200


def test_other_routes_answer_while_the_engine_is_busy(server: str, engine: Engine, slow: SlowForecaster) -> None:
    with client_of(engine, server, "local") as client:
        busy = threading.Thread(target=client.post, args=("/v1/forecast",), kwargs={"json": body()})
        busy.start()
        assert slow.entered.wait(PATIENCE_SECONDS)
        assert client.get("/v1/backbones").status_code == 200
        slow.open.set()
        busy.join(PATIENCE_SECONDS)


class TestDamage:
    def test_a_damaged_blob_is_503_and_other_models_go_on(
        self, server: str, engine: Engine, store: ObjectStore, tuned_pair: tuple[Tuned, Tuned]
    ) -> None:
        bad, good = (register(engine, store, tuned) for tuned in tuned_pair)
        key = blob_key(tuned_pair[0].files["model.safetensors"])
        data = bytearray(store.get_bytes(key))
        data[-1] ^= 1
        store.put_bytes(key, bytes(data))
        with client_of(engine, server, "local") as client:
            for _ in range(2):
                answer = client.post("/v1/forecast", json=body(bad.name))
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "artifact_damaged")
            assert client.post("/v1/forecast", json=body(good.name)).status_code == 200
            data[-1] ^= 1
            store.put_bytes(key, bytes(data))
            assert client.post("/v1/forecast", json=body(bad.name)).status_code == 200

    def test_a_missing_blob_is_503(self, server: str, engine: Engine, store: ObjectStore, tuned: Tuned) -> None:
        model = register(engine, store, tuned)
        store.delete(blob_key(tuned.files["manifest.json"]))
        with client_of(engine, server, "local") as client:
            answer = client.post("/v1/forecast", json=body(model.name))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "artifact_damaged")

    def test_a_damaged_local_copy_is_fetched_anew(
        self, server: str, engine: Engine, store: ObjectStore, settings: Settings, tuned: Tuned
    ) -> None:
        model = register(engine, store, tuned)
        copy = settings.home / "cache" / "artifacts" / tuned.digest.replace(":", "-")
        shutil.copytree(tuned.folder, copy)
        (copy / "model.safetensors").write_bytes(b"not weights")
        with client_of(engine, server, "local") as client:
            assert client.post("/v1/forecast", json=body(model.name)).status_code == 200
        assert (copy / "model.safetensors").read_bytes() == (tuned.folder / "model.safetensors").read_bytes()


def test_an_adapter_is_served_on_its_backbone_and_needs_its_weights(
    server: str, engine: Engine, store: ObjectStore, toy_weights: Path, toy_backbone: str, tmp_path: Path
) -> None:
    adapter = tune(tmp_path, toy_weights, method="lora")
    assert {"adapter_config.json", "adapter_model.safetensors"} < set(adapter.files)
    model = register(engine, store, adapter)
    weights = toy_weights / "toy" / "model.safetensors"
    with client_of(engine, server, "local") as client:
        weights.rename(tmp_path / "aside")
        try:
            refused = client.post("/v1/forecast", json=body(model.name))
        finally:
            (tmp_path / "aside").rename(weights)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "weights_unavailable")
        served = client.post("/v1/forecast", json=body(model.name))
        zero_shot = client.post("/v1/forecast", json=body("toy"))
    assert served.status_code == zero_shot.status_code == 200, served.text
    assert served.json()["forecasts"][0]["mean"] != zero_shot.json()["forecasts"][0]["mean"]


def test_missing_backbone_weights_are_503_with_the_place_to_put_them(
    server: str, engine: Engine, toy_weights: Any, tmp_path: Any
) -> None:
    weights = toy_weights / "toy" / "model.safetensors"
    weights.rename(tmp_path / "aside")
    try:
        with client_of(engine, server, "local") as client:
            answer = client.post("/v1/forecast", json=body("toy"))
    finally:
        (tmp_path / "aside").rename(weights)
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("weights_unavailable", "model")
