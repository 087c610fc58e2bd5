"""One run of one job, from claim to end, without torch: the lease is kept, orders are passed on, the end is written.

    claim ─▶ start the subprocess ─▶ watch: heartbeat, progress, orders ─▶ outcome ─▶ settle (one transaction)

Nothing here counts on being the only one: every write carries the claim's token, and whoever lost it writes nothing.
"""

import errno
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app import allocator
from app.db import session_scope
from app.files.results import ResultFile
from app.jobs import leases
from app.jobs.checkpoints import Checkpoint, add_checkpoint
from app.jobs.leases import Event, Flags
from app.queue import Queue
from app.registry.register import Refit, incumbent_of
from app.registry.verdicts import verdict_number
from app.settings import Settings
from app.storage import Store
from app.tables import File, Job
from worker.process import RunProcess
from worker.protocol import VERDICT_NUMBER, Assignment, Order
from worker.runs import RunFolder

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.1
FLUSH_SECONDS = 0.5
"""Progress is written at most twice a second."""
KILL_SECONDS = 3.0
"""Between SIGTERM and SIGKILL of a run that did not obey an order."""
RUN_COMMAND = (sys.executable, "-m", "worker.run_job")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What a worker process holds; made inside the process that uses it."""

    settings: Settings
    engine: Engine
    store: Store
    queue: Queue
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when this worker shuts down."""
    command: tuple[str, ...] = RUN_COMMAND


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    result: dict[str, Any]
    files: dict[str, str]
    result_files: list[ResultFile]
    refit: Refit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    order: Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    code: str
    message: str
    param: str | None
    details: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """No verdict: killed, crashed, or a fault that another attempt may not meet."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """The lease went to somebody else; nothing may be written."""


Outcome = Finished | Stopped | Failed | Lost | Dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A job this worker holds."""

    job_id: str
    tenant_id: str
    owner: str
    attempt: int
    assignment: Assignment


def claim(worker: Worker, job_id: str) -> Claimed | None:
    """Takes the job, or None: done, held by another, cancelled, or over the tenant's limit."""
    owner = uuid.uuid4().hex
    with session_scope(worker.engine) as session:
        job = leases.claim(
            session,
            job_id,
            owner=owner,
            lease_seconds=worker.settings.lease_seconds,
            max_attempts=worker.settings.max_attempts,
            max_running=worker.settings.max_concurrent_jobs,
        )
        if job is None:
            return None
        file = session.get_one(File, job.training_file)
        return Claimed(
            job_id=job.id,
            tenant_id=job.tenant_id,
            owner=owner,
            attempt=job.attempt,
            assignment=_assignment(session, job, file),
        )


def _assignment(session: Session, job: Job, file: File) -> Assignment:
    assert file.reading is not None, "a job is created on a processed file only"
    incumbent = incumbent_of(session, tenant_id=job.tenant_id, name=job.register_as)
    return Assignment(
        job_id=job.id,
        file_id=file.id,
        request=job.resolved,
        reading=file.reading,
        incumbent=None if incumbent is None else asdict(incumbent),
    )


def supervise(worker: Worker, claimed: Claimed, folder: RunFolder) -> Outcome:
    """Runs the subprocess to its end. It never outlives this call."""
    environment = environment_of(worker.settings)
    command = [*worker.command, claimed.job_id, claimed.owner]
    try:
        folder.make()
        process = RunProcess(command, claimed.assignment, env=environment, stderr=folder.stderr)
    except OSError as error:
        return not_started(error)
    watch = Watch(worker=worker, claimed=claimed, process=process)
    try:
        outcome = watch.until_ended()
    finally:
        status = process.close()
    if isinstance(outcome, Lost):
        log.warning("run_lost", job=claimed.job_id, status=status, stderr=process.stderr_tail())
        return Lost(reason=describe_exit(status) if outcome.reason == "" else outcome.reason)
    if isinstance(outcome, Failed):
        log.warning("run_failed", job=claimed.job_id, code=outcome.code, stderr=process.stderr_tail())
    return outcome


def not_started(error: OSError) -> Failed | Lost:
    """No process, no memory or no disk to start a run with: only a full disk is worth no other attempt."""
    log.error("run_not_started", error=type(error).__name__, errno=error.errno)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = "The disk of the worker is full. Free some of it, then submit the job again."
        return Failed(code="storage_full", message=text, param=None, details=None)
    return Lost(reason=f"it could not be started: {type(error).__name__}")


def environment_of(settings: Settings) -> dict[str, str]:
    """The run reads the same settings; it gets no address of database or broker and no key: it needs none."""
    kept = {
        k: v for k, v in os.environ.items() if k not in ("TEMPER_DATABASE_URL", "TEMPER_BROKER_URL", "TEMPER_API_KEY")
    }
    return kept | {
        "TEMPER_HOME": str(settings.home),
        "TEMPER_STORAGE_URL": settings.storage_url,
        "TEMPER_WEIGHTS_DIR": str(settings.weights_path),
        "TEMPER_PULL_WEIGHTS": str(settings.pull_weights),
        # OpenMP's threads wait by spinning: with another process on one of two cores a step of temper-tiny took
        # 0.8 to 1.6 s so, and 0.16 s with threads that sleep.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")])),
        **allocator.RUN,
    }


_ROOT = Path(__file__).resolve().parent.parent


def describe_exit(status: int) -> str:
    """An exit status in words for the job's history."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exit status {status} without a result"


@dataclass(slots=True, kw_only=True)
class Watch:
    """The supervisor's loop; all times are of the monotonic clock."""

    worker: Worker
    claimed: Claimed
    process: RunProcess
    progress: dict[str, Any] | None = None
    events: list[Event] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    judging: str | None = None
    """Digest of the test rows that the run is about to judge: it waits for its number."""
    order: Order | None = None
    ordered_at: float = 0.0
    terminated: bool = False
    beaten_at: float = field(default_factory=time.monotonic)
    """When the lease was last renewed for certain."""
    started_at: float = field(default_factory=time.monotonic)
    heard_at: float = field(default_factory=time.monotonic)
    """When the run last said anything."""
    stalled: bool = False

    def until_ended(self) -> Outcome:
        final: dict[str, Any] | None = None
        while True:
            ended = self.process.ended
            message = self.process.next_message(TICK_SECONDS)
            if message is not None:
                self.heard_at = time.monotonic()
                if message["type"] == "progress":
                    self._note(message)
                elif message["type"] == "checkpoint":
                    self._note_checkpoint(message)
                elif message["type"] == "judging":
                    self.judging = message["test_sha256"]
                elif message["type"] != "alive":
                    final = message
            elif ended:
                break
            if not self._beat():
                return Dropped()
            self._enforce()
        if not self._beat(every_seconds=0.0):
            return Dropped()
        return self._outcome(final or {})

    def _outcome(self, final: Mapping[str, Any]) -> Outcome:
        """What the last line means; no line means that the run was killed or crashed."""
        match final:
            case {"type": "result", "result": dict(result), "files": dict(files)}:
                refit = final["refit"]
                return Finished(
                    result=result,
                    files=files,
                    result_files=[ResultFile(**one) for one in final["result_files"]],
                    refit=None if refit is None else Refit(**refit),
                )
            case {"type": "error", "retry": False, "code": str(code), "message": str(text)}:
                return Failed(code=code, message=text, param=final.get("param"), details=final.get("details"))
            case {"type": "error", "message": str(reason)} if self.order is None:
                return Lost(reason=reason)
            case _ if self.order is not None:  # it stopped as ordered, or was made to
                return Stopped(order=self.order)
            case _ if self.stalled:
                return Lost(reason=f"no sign of life for {self.worker.settings.stall_seconds:g} s")
            case _:
                return Lost(reason="")

    def _note(self, message: Mapping[str, Any]) -> None:
        progress = {k: v for k, v in message.items() if k not in ("type", "message", "metrics")}
        self.progress = progress
        if message.get("message"):
            self.events.append(Event(message=message["message"], data={"phase": progress.get("phase")}))
        if message.get("metrics"):
            self.events.append(metrics_event(progress, message["metrics"]))

    def _note_checkpoint(self, message: Mapping[str, Any]) -> None:
        metrics, files = message["metrics"], message["files"]
        if files is None:
            text = f"The checkpoint of step {metrics['step']} could not be stored; training goes on."
            self.events.append(Event(message=text, level="warn", data={"step": metrics["step"]}))
        else:
            self.checkpoints.append(Checkpoint(metrics=metrics, digest=message["digest"], files=files))

    def _beat(self, every_seconds: float | None = None) -> bool:
        """Renews the lease when it is time, or when there is something to write; False when the lease is lost."""
        settings, now = self.worker.settings, time.monotonic()
        if every_seconds is None:
            news = self.progress is not None or self.events or self.checkpoints
            every_seconds = FLUSH_SECONDS if news else settings.heartbeat_seconds
            if self.judging is not None:  # the run waits
                every_seconds = TICK_SECONDS
        if now - self.beaten_at < every_seconds:
            return True
        try:
            flags, number = self._write()
        except OperationalError as error:  # the database is away: hold on while the lease surely stands
            log.warning("heartbeat_failed", job=self.claimed.job_id, error=type(error).__name__)
            return now - self.beaten_at < settings.lease_seconds
        if flags is None:
            log.warning("lease_lost", job=self.claimed.job_id)
            return False
        self.beaten_at, self.progress, self.events, self.checkpoints = now, None, [], []
        if number is not None:
            self.judging = None
            self.process.answer(VERDICT_NUMBER, number)
        self._obey(flags)
        return True

    def _write(self) -> tuple[Flags | None, int | None]:
        """What the row wants, and the number of the verdict that the run is about to reach, if it asked."""
        job_id, number = self.claimed.job_id, None
        with session_scope(self.worker.engine) as session:
            flags = leases.heartbeat(
                session,
                job_id,
                owner=self.claimed.owner,
                lease_seconds=self.worker.settings.lease_seconds,
                progress=self.progress,
                events=self.events,
            )
            if flags is not None:
                for checkpoint in self.checkpoints:
                    add_checkpoint(session, job_id, checkpoint)
                if self.judging is not None:
                    number = verdict_number(
                        session, tenant_id=self.claimed.tenant_id, job_id=job_id, test_sha256=self.judging
                    )
        return flags, number

    def _obey(self, flags: Flags) -> None:
        if flags.cancel and self.order is not Order.CANCEL:
            self._give(Order.CANCEL)
        elif flags.pause and self.order is None:
            self._give(Order.PAUSE)

    def _enforce(self) -> None:
        """Shutdown and the time limit become orders; an order that is not obeyed, and long silence, become a kill."""
        now = time.monotonic()
        if self.order is None and self.worker.stopping.is_set():
            self._give(Order.STOP)
        if self.order is None and now - self.started_at > self.worker.settings.max_run_seconds:
            self._give(Order.TIMEOUT)
        if now - self.heard_at > self.worker.settings.stall_seconds and not self.stalled:
            log.error("run_stalled", job=self.claimed.job_id)
            self.stalled = True
            self.process.signal(signal.SIGKILL)
        if self.order is None:
            return
        overdue = now - self.ordered_at - self.worker.settings.stop_grace_seconds
        if overdue > KILL_SECONDS:
            self.process.signal(signal.SIGKILL)
        elif overdue > 0 and not self.terminated:
            self.terminated = True
            self.process.signal(signal.SIGTERM)

    def _give(self, order: Order) -> None:
        log.info("order", job=self.claimed.job_id, order=order.value)
        if self.order is None:
            self.ordered_at = time.monotonic()
        self.order = order
        self.process.order(order)


def metrics_event(progress: Mapping[str, Any], metrics: Mapping[str, Any]) -> Event:
    """An evaluation as OpenAI's clients expect it: type `metrics`, numbers in `data`."""
    shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, float))
    data = {k: progress.get(k) for k in ("step", "total_steps", "train_loss", "validation_loss")} | dict(metrics)
    return Event(message=f"Step {progress.get('step')}: {shown}" if shown else "Evaluated.", kind="metrics", data=data)
