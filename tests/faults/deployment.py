"""A deployment to break: its own broker, any number of workers, a gateway behind a socket that outlives it.

After each fault `settled` holds it against the invariants: every accepted job has ended once, a version each for those
that succeeded, no process and no file that nobody wants.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from sqlalchemy import Engine, func, select, text, update

from app.auth.bootstrap import FIRST_TENANT, bootstrap
from app.broker import Broker, start_broker
from app.db import make_engine, session_scope
from app.files import service as files_service
from app.files import upload as files_upload
from app.files.fields import FileSpec
from app.files.results import PURPOSE
from app.files.upload import Upload
from app.ids import JOB, new_id
from app.jobs.repository import Jobs
from app.jobs.states import TERMINAL, JobStatus
from app.queue import RUN_JOB, CeleryQueue, send_hint
from app.settings import Settings
from app.storage import ObjectStore, blob_key, file_key, series_key
from app.tables import File, Job, JobCheckpoint, JobEvent, ModelVersion, Tenant
from tests.app.jobs.factories import add_job, job_of
from tests.backend import Backend, variables_of
from tests.faults.quick_run import SCRIPTS
from tsfm.request import FinetuneRequest, resolve
from tsfm.series.options import ReadOptions
from worker import sweep
from worker.supervise import Worker

SYSTEM_TMP = "system-tmp"
ROOT = Path(__file__).parents[2]
KEY = "tmpr_faults_" + "k" * 32
TIMES = {
    "lease_seconds": 3.0,
    "heartbeat_seconds": 0.3,
    "sweep_seconds": 0.2,
    "stop_grace_seconds": 1.0,
    "resend_seconds": 0.5,
    "idempotency_release_seconds": 0.5,
}
WAIT_SECONDS = 120.0
STAND_IN = "tests.faults.quick_worker"
LONG, SHORT = "steps 100000", "steps 1"
"""Scripts of a run that is there for as long as it is needed, and of its next attempt, which then ends at once."""
HOURS = 600
CSV = "timestamp,load\n" + "".join(
    f"2026-01-{1 + i // 24:02d}T{i % 24:02d}:00:00,{(i % 24) + 0.1 * (i % 7)}\n" for i in range(HOURS)
)


def wait_until(condition: Callable[[], Any], what: str, *, every_seconds: float = 0.02) -> Any:
    """The first truthy answer of `condition`."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(every_seconds)
    return found


def kill(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> None:
    """The whole process group; waits for its leader."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.wait(timeout=60)


@dataclass(slots=True, kw_only=True)
class Deployment:
    settings: Settings
    engine: Engine
    store: ObjectStore
    queue: CeleryQueue
    broker: Broker
    listener: socket.socket
    file_id: str = ""
    worker_module: str = STAND_IN
    """What a worker is; `worker` itself trains."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    # Processes --------------------------------------------------------------------------------------------------------

    def start_worker(self, **variables: str) -> subprocess.Popen[bytes]:
        return self._start("worker", ["-m", self.worker_module], variables)

    def start_gateway(self, **variables: str) -> subprocess.Popen[bytes]:
        """It answers before it is returned."""
        process = self.begin_gateway(**variables)
        with self.client() as client:
            wait_until(lambda: _answers(client), f"an answer of the gateway; {self.log('gateway')}")
        return process

    def begin_gateway(self, **variables: str) -> subprocess.Popen[bytes]:
        """Requests wait in the socket until it answers."""
        number = self.listener.fileno()
        return self._start("gateway", ["-m", "app.cli.gateway", str(number)], variables, descriptors=(number,))

    def _start(
        self, name: str, arguments: list[str], variables: dict[str, str], *, descriptors: tuple[int, ...] = ()
    ) -> subprocess.Popen[bytes]:
        """In a process group of its own; its log is `HOME/NAME.log`."""
        with (self.settings.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                # Ended with us, should somebody kill the tests.
                [sys.executable, "-m", "app.cli.attach", str(os.getpid()), sys.executable, "-W", "ignore", *arguments],
                env={**environment_of(self.settings), **variables},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    @contextlib.contextmanager
    def worker(self, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        process = self.start_worker(**variables)
        try:
            yield process
        finally:
            kill(process)

    @contextlib.contextmanager
    def gateway(self, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        process = self.start_gateway(**variables)
        try:
            yield process
        finally:
            kill(process)

    def pids(self, word: str = "") -> list[int]:
        """Living processes of this home, found by the marker in their environment, whose command line holds `word`."""
        home = self.settings.home
        markers = {f"TEMPER_HOME={home}".encode(), f"TMPDIR={home / SYSTEM_TMP}".encode()}
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # it ended while we looked
                variables = set((entry / "environ").read_bytes().split(b"\0"))
                if markers & variables and word.encode() in (entry / "cmdline").read_bytes().replace(b"\0", b" "):
                    found.append(int(entry.name))
        return found

    @property
    def run_word(self) -> str:
        """In the command line of every run."""
        return "quick_run" if self.worker_module == STAND_IN else "worker.run_job"

    def run_pids(self, job_id: str = "") -> list[int]:
        return self.pids(f"{self.run_word} {job_id}")

    def log(self, name: str = "worker") -> str:
        path = self.settings.home / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def client(self) -> httpx.Client:
        address, port = self.listener.getsockname()
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.Client(base_url=f"http://{address}:{port}", headers=headers, timeout=60.0, trust_env=False)

    # Jobs -------------------------------------------------------------------------------------------------------------

    def script(self, job_id: str, *lines: str) -> None:
        """What the stand-in does in this job's run."""
        folder = self.settings.home / SCRIPTS
        folder.mkdir(exist_ok=True)
        (folder / job_id).write_text("\n".join(lines))

    def submit(self, *lines: str, num_messages: int = 1) -> str:
        """A queued job whose runs follow `lines`, its messages sent."""
        job_id = new_id(JOB)
        self.script(job_id, *lines)
        request = FinetuneRequest.from_mapping(
            {"backbone": "temper-tiny", "method": "full", "prediction_length": 8, "context_length": 64}
        )
        resolved = resolve(request, {"freq": "h", "max_length": HOURS})
        with session_scope(self.engine) as session:
            tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == FIRST_TENANT)).one()
            add_job(session, self.file_id, id=job_id, tenant_id=tenant_id, resolved=resolved)
        for _ in range(num_messages):
            send_hint(self.queue, RUN_JOB, job_id)
        return job_id

    def ask(self, order: str, job_id: str) -> None:
        """cancel, pause or resume, as the gateway would."""
        with session_scope(self.engine) as session:
            job = session.scalars(select(Job).where(Job.id == job_id)).one()
            jobs = Jobs(session=session, tenant_id=job.tenant_id)
            change = {"cancel": jobs.request_cancel, "pause": jobs.request_pause, "resume": jobs.resume}[order]
            assert change(job_id) is not None, f"{order} of a job that is {job.status}"

    def forget_progress(self, job_id: str) -> None:
        """So that the next reported step is one of the next run."""
        with session_scope(self.engine) as session:
            session.execute(update(Job).where(Job.id == job_id).values(progress=None))

    def job(self, job_id: str) -> Job:
        return job_of(self.engine, job_id)

    def wait_for_step(self, job_id: str, *, attempt: int = 1) -> int:
        """Until the run of this attempt has reported; answers the run's process."""

        def stepping() -> int | None:
            job = self.job(job_id)
            assert job.status not in set(TERMINAL), f"it ended first: {job.status} {job.error}; {self.log()}"
            if job.attempt < attempt or job.status != "running" or not (job.progress or {}).get("step"):
                return None
            return next(iter(self.run_pids(job_id)), None)

        return int(wait_until(stepping, f"a step of attempt {attempt} of {job_id}; {self.log()}"))

    def wait_for_status(self, job_id: str, *statuses: str) -> Job:
        wait_until(lambda: self.job(job_id).status in statuses, f"{statuses} of {job_id}; {self.log()}")
        return self.job(job_id)

    def wait_for_end(self, job_id: str) -> Job:
        return self.wait_for_status(job_id, *TERMINAL)

    def succeeds(self, *job_ids: str) -> None:
        """They end well, and everything is in order afterwards."""
        for job_id in job_ids:
            job = self.wait_for_end(job_id)
            assert job.status == "succeeded", (job.error, self.log())
        self.settled()

    # Invariants -------------------------------------------------------------------------------------------------------

    def settled(self) -> None:
        """Call it when no job is active: what the module's docstring promises, after a round of the sweeper."""
        wait_until(lambda: not self.run_pids(), f"the runs are gone: {self.run_pids()}")
        wait_until(lambda: not self.pids("tsfm.series.parse"), "the readers are gone")
        with session_scope(self.engine, read_only=True) as session:
            jobs = list(session.scalars(select(Job)))
            files = list(session.scalars(select(File).where(File.deleted_at.is_(None))))
            versions = list(session.scalars(select(ModelVersion)))
            checkpoints = list(session.scalars(select(JobCheckpoint)))
            starts = dict(session.execute(_num_events("running")).all())
            successes = dict(session.execute(_num_events("succeeded")).all())
        parked = {*TERMINAL, JobStatus.PAUSED}
        assert [job.id for job in jobs if job.status not in parked] == [], "a job never ended"
        succeeded = [job.id for job in jobs if job.status == "succeeded"]
        judged = [version.job_id for version in versions if not version.refit]
        refits = [version.job_id for version in versions if version.refit]
        assert sorted(judged) == sorted(succeeded), "one version per success"
        assert len(refits) == len(set(refits)), "at most one refit"
        assert set(refits) <= set(judged), "a refit lies beside a judged version"
        assert successes == dict.fromkeys(succeeded, 1)
        for job in jobs:
            assert starts.get(job.id, 0) >= (job.status == "succeeded")
        self.sweep()
        named = {blob_key(sha256) for one in (*versions, *checkpoints) for sha256 in one.files.values()}
        assert set(self.store.list("blobs/")) == named, "each blob belongs to a version or checkpoint, and is there"
        whole = {file_key(file.id) for file in files} | {series_key(file.id) for file in files if file.reading}
        assert set(self.store.list("files/")) == whole, "each object belongs to a file, and is there"
        results = [file_id for job in jobs for file_id in (job.result or {}).get("result_files", ())]
        assert sorted(results) == sorted(file.id for file in files if file.purpose == PURPOSE), "each once"
        paused = {job.id for job in jobs if job.status == "paused"}
        folders = {path.parent.name for path in (self.settings.home / "runs").glob("*/state")}
        assert folders <= paused, "what is kept of a run belongs to a job that may go on"
        assert list(self.settings.tmp_dir.iterdir()) == []

    def sweep(self) -> None:
        """A round of the sweeper to which everything is old."""
        aged = [
            (sweep, "RUN_FOLDER_SECONDS"),
            (sweep, "BLOB_SECONDS"),
            (files_upload, "LEFTOVER_SECONDS"),
        ]
        before = [(module, name, getattr(module, name)) for module, name in aged]
        orphan_age = files_service.ORPHAN_AGE
        try:
            for module, name in aged:
                setattr(module, name, -60.0)
            files_service.ORPHAN_AGE *= -1
            sweep.clean(Worker(settings=self.settings, engine=self.engine, store=self.store, queue=self.queue))
        finally:
            files_service.ORPHAN_AGE = orphan_age
            for module, name, value in before:
                setattr(module, name, value)

    # Faults -----------------------------------------------------------------------------------------------------------

    def kill_broker(self) -> None:
        assert self.broker.process is not None
        self.broker.process.kill()
        self.broker.process.wait()

    def restart_broker(self, *, empty: bool) -> None:
        if empty:
            shutil.rmtree(self.settings.home / "broker")
        self.broker = start_broker(self.settings.home)

    @contextlib.contextmanager
    def frozen_writes(self) -> Iterator[None]:
        """Nobody else can change a file or a job until the block ends; reading goes on."""
        with self.engine.connect() as connection:  # on SQLite this begins with the write lock
            connection.execute(text("SELECT 1"))
            if connection.dialect.name == "postgresql":
                connection.execute(text("LOCK TABLE files, jobs IN EXCLUSIVE MODE"))
            yield
            connection.rollback()


def _num_events(status: str) -> Any:
    """(job, number of events that say it came to `status`)."""
    said = JobEvent.data["status"].as_string() == status
    return select(JobEvent.job_id, func.count()).where(JobEvent.type == "status", said).group_by(JobEvent.job_id)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz", timeout=5.0).status_code == 200
    except httpx.TransportError:
        return False


def environment_of(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        **variables_of(settings),
        **{f"TEMPER_{name.upper()}": str(getattr(settings, name)) for name in TIMES},
        "TEMPER_API_KEY": KEY,
        "TEMPER_LOG_LEVEL": "info",
        "OMP_NUM_THREADS": "1",
        # The reader inherits nothing of ours but this: its marker.
        "TMPDIR": str(settings.home / SYSTEM_TMP),
    }


@contextlib.contextmanager
def deployment(home: Path, places: dict[str, str]) -> Iterator[Deployment]:
    """Everything but gateway and workers; one stored file. `places` are the settings that say where state lies."""
    settings = Settings(home=home, api_key=KEY, **TIMES, **places)
    settings.make_directories()
    (home / SYSTEM_TMP).mkdir()
    engine = make_engine(settings.database_url)
    bootstrap(engine, settings)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        one = Deployment(
            settings=settings,
            engine=engine,
            store=ObjectStore(settings.storage_url),
            queue=CeleryQueue(settings.broker_url),
            broker=start_broker(home),
            listener=listener,
        )
        try:
            _add_file(one)
            yield one
        finally:
            for process in one.started:
                kill(process)
            one.queue.close()
            one.broker.close()
            engine.dispose()


@contextlib.contextmanager
def fresh(home: Path, backend: Backend) -> Iterator[Deployment]:
    with backend.migrated(home) as places, deployment(home, places) as one:
        yield one


def _add_file(one: Deployment) -> None:
    """By the code of the gateway, in this process."""
    path = one.settings.tmp_dir / "first.csv"
    path.write_text(CSV)
    sha256 = hashlib.sha256(CSV.encode()).hexdigest()
    upload = Upload(path=path, filename="load.csv", num_bytes=len(CSV), sha256=sha256, fields={})
    services: Any = SimpleNamespace(settings=one.settings, store=one.store, engine=one.engine, queue=one.queue)
    spec = FileSpec(filename="load.csv", purpose="fine-tune", options=ReadOptions(), expires_at=None)
    with session_scope(one.engine) as session:
        tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == FIRST_TENANT)).one()
        one.file_id = files_service.create_from_upload(
            session, services, tenant_id=tenant_id, upload=upload, spec=spec
        ).id
    path.unlink()
