"""Real workers on a real Valkey, and jobs of the backbone "toy" on a stored series: for tests of whole processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from sqlalchemy import Engine, func, select, update

from app.db import make_engine, session_scope
from app.jobs.states import TERMINAL
from app.queue import RUN_JOB, CeleryQueue
from app.settings import Settings
from app.storage import ObjectStore, Store, series_key
from app.tables import File, Job, ModelVersion
from tests import toy
from tests.app.jobs.factories import add_job, add_tenant, job_of
from tests.backend import Backend, variables_of
from tsfm.request import FinetuneRequest, resolve

TIMES = {"lease_seconds": 2.0, "heartbeat_seconds": 0.3, "sweep_seconds": 0.3, "stop_grace_seconds": 5.0}
NUM_POINTS = 600
WAIT_SECONDS = 90.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first truthy answer of `condition`."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """One deployment in a temporary home; workers come and go."""

    settings: Settings
    engine: Engine
    store: Store
    queue: CeleryQueue
    file_id: str

    def start_worker(self) -> subprocess.Popen[bytes]:
        """In a process group of its own; its log is `HOME/worker.log`."""
        environment = {**os.environ, **{f"TEMPER_{k.upper()}": str(v) for k, v in TIMES.items()}}
        environment |= {
            **variables_of(self.settings),
            "TEMPER_RESEND_SECONDS": str(self.settings.resend_seconds),
            "OMP_NUM_THREADS": "1",
        }
        with (self.settings.home / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.worker.toy_worker"],
                env=environment,
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def submit(
        self, *, max_epochs: int, send: bool = True, refit: bool = False, landscape: Any = False, **values: Any
    ) -> str:
        """A queued job of that many epochs, its message sent."""
        hyperparameters = {
            "max_epochs": max_epochs,
            "batch_size": 8,
            "evaluations_per_epoch": 1,
            "learning_rate": 1e-4,
            "early_stopping": False,
        }
        request = FinetuneRequest.from_mapping(
            {
                "backbone": "toy",
                "method": "full",
                "prediction_length": 8,
                "hyperparameters": hyperparameters,
                "refit": refit,
                "landscape": landscape,
            }
        )
        with session_scope(self.engine) as session:
            resolved = resolve(request, {"freq": "h", "max_length": NUM_POINTS})
            job_id = add_job(session, self.file_id, resolved=resolved, **values)
        if send:
            self.queue.send(RUN_JOB, job_id)
        return job_id

    def job(self, job_id: str) -> Job:
        return job_of(self.engine, job_id)

    def wait_for_step(self, job_id: str, *, attempt: int = 1) -> None:
        """Until the run of this attempt has reported a training step."""

        def stepping() -> bool:
            job = self.job(job_id)
            assert job.status not in set(TERMINAL), f"it ended first: {job.status} {job.error}"
            return job.attempt == attempt and job.status == "running" and bool((job.progress or {}).get("step"))

        wait_until(stepping, f"a reported step of attempt {attempt}; {self.log()}")

    def wait_for_end(self, job_id: str) -> Job:
        wait_until(lambda: self.job(job_id).status in set(TERMINAL), f"the end of the job; {self.log()}")
        return self.job(job_id)

    def forget_progress(self, job_id: str) -> None:
        """So that the next reported step is one of the next run."""
        with session_scope(self.engine) as session:
            session.execute(update(Job).where(Job.id == job_id).values(progress=None))

    def num_versions(self, job_id: str) -> int:
        with session_scope(self.engine, read_only=True) as session:
            query = select(func.count()).select_from(ModelVersion).where(ModelVersion.job_id == job_id)
            return session.scalar(query) or 0

    def run_pids(self, job_id: str) -> list[int]:
        """Processes that run this job now."""
        listed = subprocess.run(["pgrep", "-f", f"toy_run {job_id}"], capture_output=True, text=True, check=False)
        return [int(pid) for pid in listed.stdout.split()]

    def log(self) -> str:
        path = self.settings.home / "worker.log"
        return path.read_text()[-3000:] if path.exists() else ""


def kill_group(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.wait(timeout=30)


@contextlib.contextmanager
def live(home: Path, backend: Backend, broker_url: str) -> Iterator[Live]:
    """A deployment in `home`, with one stored file and "toy" in this process's catalogue."""
    with backend.migrated(home) as places:
        yield from _live(Settings(home=home, broker_url=broker_url, resend_seconds=1.0, **TIMES, **places))


def _live(settings: Settings) -> Iterator[Live]:
    settings.make_directories()
    engine, store = make_engine(settings.database_url), ObjectStore(settings.storage_url)
    queue = CeleryQueue(settings.broker_url)
    with session_scope(engine) as session:
        file_id = add_tenant(session)
        file = session.get_one(File, file_id)
        file.reading = {
            "freq": "h",
            "timezone": None,
            "max_length": NUM_POINTS,
            "num_points": NUM_POINTS,
            "num_series": 1,
        }
    _store_series(store, file_id, settings.tmp_dir)
    try:
        with toy.registered(settings.weights_path):
            yield Live(settings=settings, engine=engine, store=store, queue=queue, file_id=file_id)
    finally:
        queue.close()
        engine.dispose()


def _store_series(store: Store, file_id: str, folder: Path) -> None:
    """A daily rhythm with noise, hourly, as the reader would have written it."""
    steps = np.arange(NUM_POINTS)
    values = np.sin(steps * 2 * np.pi / 24) + 0.1 * np.random.default_rng(0).standard_normal(NUM_POINTS)
    path = folder / "series.parquet"
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE s (item_id VARCHAR, timestamp TIMESTAMP, target DOUBLE)")
        connection.execute(
            "INSERT INTO s SELECT 'a', TIMESTAMP '2026-01-01' + to_hours(CAST(t AS BIGINT)), y "
            "FROM (SELECT unnest(?) AS t, unnest(?) AS y)",
            [steps.tolist(), values.tolist()],
        )
        connection.execute(f"COPY (SELECT * FROM s ORDER BY item_id, timestamp) TO '{path}' (FORMAT parquet)")
    store.put_file(series_key(file_id), path)
    path.unlink()
