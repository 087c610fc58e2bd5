"""Random kills of gateway, worker, run, broker and database under uploads and jobs: what is lost or doubled?

    ./run bench chaos [--kills 200] [--database postgresql] [--tasks anomaly_detection,imputation] [--train]

The processes are real and so is everything in them but the training, which is a stand-in of a second or so
(`tests/faults/quick_run.py`), so that many jobs meet many kills; with `--train` it is real, too, and brief. Clients
repeat a request with its `Idempotency-Key` until it is answered; what was answered is *accepted*. When the kills are
over and all is drained, each accepted job must have succeeded once, with one version, each accepted file be read, and
nothing else may be there: no row, object, folder or process that nobody asked for.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests are no installed package

from sqlalchemy import select

from app.db import session_scope, upgrade
from app.files.results import PURPOSE as RESULTS
from app.jobs.states import TERMINAL
from app.tables import File, Job, ModelVersion
from benchmarks import common
from tests import server as servers
from tests.faults.deployment import CSV, HOURS, Deployment, deployment, kill
from tsfm import catalog

NUM_WORKERS = 2
NUM_CLIENTS = 2
MAX_ACTIVE = 6
DRAIN_SECONDS = 300.0
RETRY_SECONDS = 0.2
WEIGHTS = {"run": 6, "worker": 4, "worker's pool": 2, "worker (SIGTERM)": 1, "gateway": 4, "broker": 2}
VARIABLES = {
    "TEMPER_MAX_ATTEMPTS": "1000",  # a job must not fail only because it was hit often
    "TEMPER_MAX_CONCURRENT_JOBS": "100",
    "TEMPER_INLINE_PARSE_BYTES": str(len(CSV) + 1000),  # longer files are read by a worker
    "TEMPER_IDEMPOTENCY_RELEASE_SECONDS": "10",
    "TEMPER_LOG_LEVEL": "warning",
}
LONG_CSV = CSV + "".join(f"2026-01-{1 + i // 24:02d}T{i % 24:02d}:00:00,{i % 24}.5\n" for i in range(HOURS, 31 * 24))
SPEC = {"prediction_length": 8, "context_length": 64, "method": "full"}
FEW = dict.fromkeys(
    ("max_windows_per_epoch", "max_validation_windows", "max_calibration_windows", "max_test_windows"), 64
)
BRIEF = {"max_epochs": 2, **FEW}
"""Hyperparameters of a training that takes seconds."""


@dataclass(slots=True, kw_only=True)
class Accepted:
    """What the service has answered with success."""

    jobs: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    requests: int = 0
    """Sent, repetitions included."""


class Client(threading.Thread):
    """Uploads and submits until it is told to stop; a request under way is repeated until it is answered."""

    def __init__(
        self, one: Deployment, accepted: Accepted, stop: threading.Event, seed: int, tasks: Sequence[str]
    ) -> None:
        super().__init__(daemon=True)
        self._one, self._accepted, self._stop_event, self._tasks = one, accepted, stop, tasks
        self._random = random.Random(seed)

    def run(self) -> None:
        with self._one.client() as client:
            while not self._stop_event.is_set():
                spec = {**SPEC, "task": self._random.choice(self._tasks), "hyperparameters": BRIEF}
                if self._num_active() >= MAX_ACTIVE:
                    time.sleep(RETRY_SECONDS)
                elif self._random.random() < 0.7:
                    job = self._post(client, "/v1/jobs", files={"file": ("load.csv", CSV)}, data=_form(spec))
                    self._accepted.files.add(job["training_file"])
                    self._accepted.jobs.add(job["id"])
                else:
                    file = self._post(client, "/v1/files", files={"file": ("long.csv", LONG_CSV)})
                    self._accepted.files.add(file["id"])
                    job = self._post(client, "/v1/jobs", json={"training_file": file["id"], **spec})
                    self._accepted.jobs.add(job["id"])

    def _num_active(self) -> int:
        try:
            with session_scope(self._one.engine, read_only=True) as session:
                statuses = session.scalars(select(Job.status)).all()
        except Exception:  # the database was just killed: ask again
            return MAX_ACTIVE
        return sum(status not in TERMINAL for status in statuses)

    def _post(self, client: httpx.Client, path: str, **request: Any) -> dict[str, Any]:
        headers = {"idempotency-key": uuid.uuid4().hex}
        while True:
            self._accepted.requests += 1
            try:
                answer = client.post(path, headers=headers, timeout=30.0, **request)
            except httpx.TransportError:
                time.sleep(RETRY_SECONDS)
                continue
            if answer.status_code == 200:
                created: dict[str, Any] = answer.json()
                return created
            # In use, still being read, or a part of the service is away: all of them pass.
            assert answer.status_code in (409, 429, 500, 503), answer.text
            time.sleep(RETRY_SECONDS)


def _form(spec: dict[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in spec.items()}


@dataclass(slots=True, kw_only=True)
class Chaos:
    """The processes, who dies next, and their resurrection."""

    one: Deployment
    postgres: servers.Postgres | None
    random: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    gateway: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.gateway = self.one.start_gateway(**VARIABLES)
        self.workers = [self.one.start_worker(**VARIABLES) for _ in range(NUM_WORKERS)]

    def strike(self) -> bool:
        """Kills one of what is alive; False when there was none of the kind drawn."""
        weights = WEIGHTS | ({"database": 2} if self.postgres is not None else {})
        kind = self.random.choices(list(weights), weights=list(weights.values()))[0]
        struck = self._actions()[kind]()
        self.kills[kind] += struck
        return struck

    def _actions(self) -> dict[str, Callable[[], bool]]:
        return {
            "run": self._kill_run,
            "worker": lambda: self._end_worker(signal.SIGKILL),
            "worker (SIGTERM)": lambda: self._end_worker(signal.SIGTERM),
            "worker's pool": self._kill_pool,
            "gateway": self._kill_gateway,
            "broker": self._kill_broker,
            "database": self._kill_database,
        }

    def _kill_run(self) -> bool:
        found = self.one.run_pids()
        return bool(found) and _kill_pid(self.random.choice(found))

    def _end_worker(self, number: signal.Signals) -> bool:
        index = self.random.randrange(NUM_WORKERS)
        kill(self.workers[index], number)
        self._pause()
        self.workers[index] = self.one.start_worker(**VARIABLES)
        return True

    def _kill_pool(self) -> bool:
        leaders = {worker.pid for worker in self.workers}
        pool = [pid for pid in self.one.pids(f"-m {self.one.worker_module} ") if pid not in leaders]
        return bool(pool) and _kill_pid(self.random.choice(pool))

    def _kill_gateway(self) -> bool:
        assert self.gateway is not None
        kill(self.gateway)
        self._pause()
        self.gateway = self.one.begin_gateway(**VARIABLES)
        return True

    def _kill_broker(self) -> bool:
        self.one.kill_broker()
        self._pause()
        self.one.restart_broker(empty=self.random.random() < 0.5)
        return True

    def _kill_database(self) -> bool:
        assert self.postgres is not None
        self.postgres.stop(immediately=True)
        self._pause()
        self.postgres.start()
        return True

    def _pause(self) -> None:
        time.sleep(self.random.random())


def _kill_pid(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself in this instant
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def drain(one: Deployment, accepted: Accepted) -> None:
    """Until every job has ended and every file is read, or the time is over."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        with session_scope(one.engine, read_only=True) as session:
            active = [status for status in session.scalars(select(Job.status)) if status not in TERMINAL]
            unread = session.scalars(select(File.id).where(File.status == "uploaded")).all()
        if not active and not unread:
            return
        time.sleep(0.2)


def count(one: Deployment, accepted: Accepted) -> dict[str, Any]:
    """What is wrong, in numbers; all zero is the bar."""
    with session_scope(one.engine, read_only=True) as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        rows = [(file.id, file.status, file.purpose) for file in session.scalars(select(File))]
        versions = Counter(session.scalars(select(ModelVersion.job_id)))
    files = {file_id: status for file_id, status, purpose in rows if purpose != RESULTS and file_id != one.file_id}
    reported = [file_id for job in jobs.values() for file_id in (job.result or {}).get("result_files", [])]
    lost_jobs = [
        job for job in accepted.jobs if job not in jobs or jobs[job].status != "succeeded" or not versions[job]
    ]
    lost_files = [file for file in accepted.files if files.get(file) != "processed"]
    results = {file_id for file_id, _, purpose in rows if purpose == RESULTS}
    lost_files += sorted(set(reported) - results)
    doubled = [job for job, number in versions.items() if number > 1] + sorted(set(jobs) - accepted.jobs)
    try:
        one.settled()
        untidy = ""
    except AssertionError as error:
        untidy = str(error)[:2000]
    return {
        "jobs_accepted": len(accepted.jobs),
        "files_accepted": len(accepted.files),
        "requests": accepted.requests,
        "attempts": sum(job.attempt for job in jobs.values()),
        "lost": len(lost_jobs) + len(lost_files),
        "doubled": len(doubled) + len(set(files) - accepted.files) + len(results - set(reported)),
        "left_behind": untidy,
        "jobs_by_task": dict(Counter(str((job.resolved or {}).get("task")) for job in jobs.values())),
        "lost_jobs": [(job, jobs[job].status if job in jobs else None) for job in lost_jobs][:20],
    }


@contextlib.contextmanager
def places(name: str, folder: Path) -> Iterator[tuple[dict[str, str], servers.Postgres | None]]:
    """Settings that say where state lies, and the database server to kill."""
    if name == "sqlite":
        upgrade(f"sqlite:///{folder / 'home' / 'temper.db'}")
        yield {}, None
        return
    with servers.postgres() as postgres:
        postgres.run("CREATE DATABASE temper")
        postgres.run("ALTER DATABASE temper SET synchronous_commit = on")  # the server of the tests is set up to forget
        upgrade(postgres.url("temper"))
        yield {"database_url": postgres.url("temper")}, postgres


def measure(options: argparse.Namespace) -> dict[str, Any]:
    accepted, stop = Accepted(), threading.Event()
    with tempfile.TemporaryDirectory(prefix="tc", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "home"
        home.mkdir()
        with places(options.database, Path(folder)) as (where, postgres), deployment(home, where) as one:
            if options.train:
                one.worker_module = "worker"
            chaos = Chaos(one=one, postgres=postgres, random=random.Random(options.seed))
            chaos.start()
            clients = [Client(one, accepted, stop, options.seed + i, options.tasks) for i in range(NUM_CLIENTS)]
            for client in clients:
                client.start()
            deadline = time.monotonic() + options.seconds
            while chaos.kills.total() < options.kills and time.monotonic() < deadline:
                time.sleep(chaos.random.expovariate(1 / options.pause_seconds))
                chaos.strike()
            stop.set()
            for client in clients:
                client.join(DRAIN_SECONDS)
                assert not client.is_alive(), "a client was never answered"
            drain(one, accepted)
            found = count(one, accepted)
    return {"num_kills": chaos.kills.total(), "kills": dict(chaos.kills), **found}


def _tasks(text: str) -> list[str]:
    tasks = text.split(",")
    if unknown := sorted(set(tasks) - set(catalog.TASKS)):
        raise argparse.ArgumentTypeError(f"no task: {', '.join(unknown)}; known: {', '.join(catalog.TASKS)}")
    return tasks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop killing after this long (%(default)s)")
    parser.add_argument("--pause-seconds", type=float, default=2.0, help="between kills, on average (%(default)s)")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--tasks", type=_tasks, default=["forecast"], help="comma-separated (forecast)")
    parser.add_argument("--train", action="store_true", help="train in earnest, briefly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=common.RESULTS, help="folder of the JSON lines")
    options = parser.parse_args()
    common.needs_proc()
    machine, started = common.facts(), time.monotonic()
    found = measure(options)
    settings = {k: v for k, v in vars(options).items() if k != "results"}
    seconds = round(time.monotonic() - started, 1)
    line = {"benchmark": "chaos", "machine": machine, "settings": settings, "seconds": seconds, **found}
    common.append(options.results / "chaos.jsonl", line)
    print(json.dumps(line))
    return int(bool(found["lost"] or found["doubled"] or found["left_behind"]))


if __name__ == "__main__":
    sys.exit(main())
