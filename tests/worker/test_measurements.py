"""Dry runs: measured through a live worker, and a job of `auto` that shows what it was expected to cost and did."""

import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, func, select

from app.db import session_scope
from app.ids import utc_now
from app.jobs.measurements import LEFTOVER_SECONDS
from app.main import create_app
from app.storage import series_key
from app.tables import File, IdempotencyKey, Job, Measurement
from app.tables import Worker as WorkerRow
from tests import server as servers
from tests.app.jobs.factories import TENANT
from tests.backend import Backend
from tests.worker.live import Live, kill_group, live, wait_until
from tsfm import halving
from worker import measurements
from worker.supervise import Worker
from worker.sweep import clean

CSV = "timestamp,load\n" + "".join(
    f"2026-01-{1 + i // 24:02d}T{i % 24:02d}:00:00,{(i % 24) + 0.1 * (i % 7)}\n" for i in range(300)
)
ASKED = {
    "model": "toy",
    "prediction_length": "6",
    "method": '{"type": "auto", "methods": ["linear_probe", "full"]}',
    "hyperparameters": '{"max_epochs": 1, "learning_rate": [0.001, 0.01]}',
}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, backend: Backend, valkey: str) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("home"), backend, valkey) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def toy_worker(deployment: Live) -> Iterator[subprocess.Popen[bytes]]:
    process = deployment.start_worker()
    yield process
    kill_group(process)


@pytest.fixture(scope="module")
def api(deployment: Live) -> Iterator[httpx.Client]:
    patient = deployment.settings.model_copy(update={"measure_seconds": 60.0})
    with servers.serve(create_app(patient)) as url:
        key = (deployment.settings.home / "api_key").read_text().strip()
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=url, headers=headers, timeout=90.0, trust_env=False) as client:
            yield client


def number(engine: Engine, table: type[Any]) -> int:
    with session_scope(engine, read_only=True) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def post(api: httpx.Client, **fields: str) -> httpx.Response:
    return api.post("/v1/jobs", files={"file": ("load.csv", CSV)}, data={**ASKED, **fields})


@pytest.fixture(scope="module")
def measured(deployment: Live, toy_worker: object, api: httpx.Client) -> dict[str, Any]:
    """The estimate of one dry run; nothing is left of it."""
    wait_until(lambda: number(deployment.engine, WorkerRow), f"a worker; {deployment.log()}")
    before = set(deployment.store.list("files"))
    rows = [number(deployment.engine, table) for table in (File, Job, IdempotencyKey)]
    estimate: dict[str, Any] = post(api, dry_run="true").raise_for_status().json()["estimate"]
    assert number(deployment.engine, Measurement) == 0
    assert [number(deployment.engine, table) for table in (File, Job, IdempotencyKey)] == rows
    assert set(deployment.store.list("files")) == before
    return estimate


def test_a_dry_run_is_measured_and_leaves_nothing_behind(deployment: Live, measured: dict[str, Any]) -> None:
    assert (measured["basis"], measured["note"]) == ("measured", None), (measured, deployment.log())
    assert measured["seconds"] > 0
    assert measured["memory_bytes"] > 50 << 20
    assert measured["device"] in {"cpu", "cuda"}
    assert measured["windows"] > 0
    assert measured["trainable_parameters"] is None, "it depends on what is chosen"
    wait_until(lambda: not list(deployment.settings.tmp_dir.glob("measure-*")), "the work folders are removed")


def test_the_job_that_follows_shows_estimate_and_cost(
    deployment: Live, measured: dict[str, Any], api: httpx.Client
) -> None:
    """End to end: the same job by `auto`, from the POST to the registered version."""
    created = post(api).raise_for_status().json()
    assert created["estimate"] == measured
    assert created["estimate"]["basis"] == "measured"
    assert created["method"]["type"] == "auto"
    assert created["method"]["chosen"] is None
    deployment.wait_for_end(created["id"])
    job = api.get(f"/v1/jobs/{created['id']}").raise_for_status().json()
    assert job["status"] == "succeeded", (job["error"], deployment.log())
    tried = [row for row in job["search"] if row["rung"] is not None]
    assert {(row["method"], row["learning_rate"]) for row in tried} == {
        (method, rate) for method in ("linear_probe", "full") for rate in (0.001, 0.01)
    }
    assert job["method"]["type"] == "auto"
    assert job["method"]["chosen"] in {"linear_probe", "full"}
    best = min(tried, key=lambda row: (row["rung"] < max(r["rung"] for r in tried), row["validation"]))
    assert (job["method"]["chosen"], job["hyperparameters"]["learning_rate"]) == (best["method"], best["learning_rate"])
    assert job["estimate"] == measured
    assert job["timing"]["seconds"] > 0
    assert job["timing"]["peak_memory_bytes"] > 50 << 20
    own = job["progress"]["total_steps"] - sum(row["steps"] for row in tried)
    assert measured["steps"] == sum(halving.schedules(deployment.job(job["id"]).resolved, own))
    events = [event["message"] for event in api.get(f"/v1/jobs/{job['id']}/events").json()["data"]]
    assert any(text.startswith("Chosen of") for text in events)
    assert job["manifest"]["method"]["type"] == job["method"]["chosen"]
    forecast = api.post(
        "/v1/forecast",
        json={"model": f"{job['fine_tuned_model']}@1", "prediction_length": 6, "series": [{"target": [1.0] * 40}]},
    )
    assert len(forecast.raise_for_status().json()["forecasts"][0]["mean"]) == 6


class TestSupervision:
    """The worker's half alone, with a stand-in for the measuring process."""

    @pytest.fixture
    def ask(self, engine: Engine, file_id: str) -> Any:
        def make(behaviour: str) -> str:
            measurement_id = f"measure-{behaviour}"
            with session_scope(engine) as session:
                session.add(
                    Measurement(
                        id=measurement_id,
                        tenant_id=TENANT,
                        file_id=file_id,
                        resolved={"behaviour": behaviour},
                        reading={},
                        created_at=utc_now(),
                    )
                )
            return measurement_id

        return make

    def result(self, engine: Engine, measurement_id: str) -> dict[str, Any] | None:
        with session_scope(engine, read_only=True) as session:
            return session.scalar(select(Measurement.result).where(Measurement.id == measurement_id))

    @pytest.mark.parametrize(
        ("behaviour", "wanted"),
        [("succeed", "digest"), ("error", "step 3"), ("crash", "SIGKILL"), ("garbage", "exit status 3")],
    )
    def test_whatever_becomes_of_it_is_answered(
        self, worker: Worker, engine: Engine, ask: Any, behaviour: str, wanted: str
    ) -> None:
        measurement_id = ask(behaviour)
        measurements.measure(worker, measurement_id)
        assert wanted in str(self.result(engine, measurement_id))

    def test_one_that_nobody_waits_for_is_not_begun(self, worker: Worker, engine: Engine) -> None:
        measurements.measure(worker, "measure-gone")
        assert number(engine, Measurement) == 0

    def test_it_stops_when_nobody_waits_any_more(self, worker: Worker, engine: Engine, ask: Any) -> None:
        measurement_id = ask("obey")
        running = threading.Thread(target=measurements.measure, args=(worker, measurement_id), daemon=True)
        running.start()
        time.sleep(0.2)
        with session_scope(engine) as session:
            session.delete(session.get_one(Measurement, measurement_id))
        running.join(timeout=30)
        assert not running.is_alive()
        assert list(Path(worker.settings.tmp_dir).glob("measure-*")) == []

    def test_what_a_killed_one_had_in_hand_goes_too(self, worker: Worker, engine: Engine, ask: Any) -> None:
        measurement_id = ask("litter")
        measurements.measure(worker, measurement_id)
        folder = Path((self.result(engine, measurement_id) or {})["digest"])
        assert folder.is_relative_to(worker.settings.tmp_dir)
        assert not folder.exists()

    def test_a_worker_that_stops_drops_it(self, worker: Worker, engine: Engine, ask: Any) -> None:
        measurement_id = ask("obey")
        worker.stopping.set()
        measurements.measure(worker, measurement_id)
        assert self.result(engine, measurement_id) is None

    def test_the_sweeper_takes_what_a_dead_gateway_left(self, worker: Worker, engine: Engine, ask: Any) -> None:
        fresh, old = ask("fresh"), ask("old")
        worker.store.put_bytes(series_key(old), b"x")
        with session_scope(engine) as session:
            row = session.get_one(Measurement, old)
            row.file_id, row.created_at = old, utc_now() - timedelta(seconds=LEFTOVER_SECONDS + 1)
        clean(worker)
        with session_scope(engine, read_only=True) as session:
            assert list(session.scalars(select(Measurement.id))) == [fresh]
        assert not worker.store.exists(series_key(old))
