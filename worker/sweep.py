"""The repairs every worker makes every few seconds. Each is idempotent and safe under any number of sweepers.

expired lease        → the job is queued again, paused, cancelled or failed, as its row wants (`leases.lose`)
queued, message lost → sent again
file never read      → sent again
never fetched        → measurements of dry runs whose gateway died
left on this disk    → folders of runs that have ended, old temporary files
left in storage      → blobs that no version or checkpoint names and nobody wrote for a day
never completed      → uploads in parts whose hour is over
"""

import shutil
import socket
import threading
import time
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import session_scope
from app.files import repository as files_repository
from app.files.service import delete_expired, remove_orphans
from app.files.upload import remove_leftovers
from app.ids import utc_now
from app.jobs import leases, measurements
from app.jobs.states import TERMINAL, JobStatus
from app.queue import READ_FILE, RUN_JOB, enqueue, send_hint
from app.registry.service import free_deleted_blobs
from app.tables import Job, JobCheckpoint, ModelVersion
from app.tables import Worker as WorkerRow
from app.uploads.service import remove_ended
from worker.supervise import Worker

log = structlog.get_logger(__name__)

RUN_FOLDER_SECONDS = 600.0
BLOB_SECONDS = 24 * 3600.0
CLEAN_SECONDS = 600.0
"""How often disk and storage are looked through."""
WORKER_ROW_SECONDS = 3600.0


def start_sweeper(worker: Worker) -> threading.Thread:
    """Sweeps until the worker stops, in a daemon thread of the process that holds `worker`."""
    name = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    thread = threading.Thread(target=_loop, args=(worker, name), daemon=True)
    thread.start()
    return thread


def _loop(worker: Worker, name: str) -> None:
    started_at = time.monotonic()
    rounds = {"files": 0, "clean": 0}
    while not worker.stopping.is_set():
        try:
            sweep(worker, name)
            age = time.monotonic() - started_at
            if _is_due(rounds, "files", age, worker.settings.resend_seconds):
                resend_files(worker)
            if _is_due(rounds, "clean", age, CLEAN_SECONDS):
                clean(worker)
        except Exception:  # a database or broker that is away for now: the next round tries again
            log.exception("sweep_failed")
        worker.stopping.wait(worker.settings.sweep_seconds)


def _is_due(rounds: dict[str, int], what: str, age_seconds: float, every_seconds: float) -> bool:
    """True once in each span of `every_seconds`, the first one included."""
    span = int(age_seconds // every_seconds) + 1
    due = span > rounds[what]
    rounds[what] = span
    return due


def sweep(worker: Worker, name: str) -> None:
    """One round of what cannot wait."""
    with session_scope(worker.engine) as session:
        _sign(session, name)
    reclaim(worker)
    resend_jobs(worker)


def reclaim(worker: Worker) -> list[str]:
    """Takes jobs from runs whose lease ran out; answers them."""
    with session_scope(worker.engine, read_only=True) as session:
        found = leases.expired(session)
    taken = []
    for job_id, owner in found:
        with session_scope(worker.engine) as session:
            job = leases.lose(
                session,
                job_id,
                owner=owner,
                max_attempts=worker.settings.max_attempts,
                expired_only=True,
                reason="its worker stopped answering",
            )
            if job is None:  # another sweeper, or a heartbeat, was faster
                continue
            if job.status == JobStatus.QUEUED.value:
                enqueue(session, worker.queue, RUN_JOB, job_id)
        taken.append(job_id)
        log.warning("lease_expired", job=job_id, status=job.status)
    return taken


def resend_jobs(worker: Worker) -> list[str]:
    """Sends queued jobs again whose message seems lost; answers them."""
    seconds = worker.settings.resend_seconds
    with session_scope(worker.engine, read_only=True) as session:
        found = leases.stale(session, resend_seconds=seconds)
    sent = []
    for job_id in found:
        with session_scope(worker.engine) as session:
            if leases.mark_sent(session, job_id, seconds_ago=seconds):
                enqueue(session, worker.queue, RUN_JOB, job_id)
                sent.append(job_id)
    return sent


def resend_files(worker: Worker) -> list[str]:
    """Sends files again that nobody has read yet; reading one twice is harmless."""
    old = utc_now() - timedelta(seconds=worker.settings.resend_seconds)
    with session_scope(worker.engine, read_only=True) as session:
        found = files_repository.pending_ids(session, older_than=old)
    for file_id in found:
        send_hint(worker.queue, READ_FILE, file_id)
    return found


def clean(worker: Worker) -> None:
    """One round of what is left behind by processes that died."""
    _clean_run_folders(worker)
    remove_leftovers(worker.settings.tmp_dir)
    _clean_blobs(worker)
    delete_expired(engine=worker.engine, store=worker.store)
    remove_orphans(engine=worker.engine, store=worker.store)
    remove_ended(engine=worker.engine, store=worker.store)
    free_deleted_blobs(worker.engine, worker.store)
    with session_scope(worker.engine) as session:
        _forget_workers(session)
        measurements.remove_leftovers(session, worker.store)


def _clean_run_folders(worker: Worker) -> None:
    runs = worker.settings.home / "runs"
    if not runs.is_dir():
        return
    ended = sorted(status.value for status in TERMINAL)
    for folder in runs.iterdir():
        if _age_seconds(folder) < RUN_FOLDER_SECONDS:
            continue
        with session_scope(worker.engine, read_only=True) as session:
            status = session.scalar(select(Job.status).where(Job.id == folder.name))
        if status is None or status in ended:
            log.info("run_folder_removed", job=folder.name)
            shutil.rmtree(folder, ignore_errors=True)


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:  # another sweeper took it
        return 0.0


def _clean_blobs(worker: Worker) -> None:
    """A run writes its blobs before its version, and always anew: what is old and unnamed is wanted by nobody."""
    old = worker.store.list("blobs/", modified_before=utc_now() - timedelta(seconds=BLOB_SECONDS))
    if not old:
        return
    with session_scope(worker.engine, read_only=True) as session:
        kept = (*session.scalars(select(ModelVersion.files)), *session.scalars(select(JobCheckpoint.files)))
    named = {sha256 for files in kept for sha256 in files.values()}
    for key in old:
        if key.removeprefix("blobs/sha256/").replace("/", "") not in named:
            log.info("blob_removed", key=key)
            worker.store.delete(key)


def _sign(session: Session, name: str) -> None:
    """This worker lives: readiness and operators read the row."""
    now = utc_now()
    row = session.get(WorkerRow, name)
    if row is None:
        session.add(WorkerRow(id=name, hostname=socket.gethostname(), device=_device(), seen_at=now))
    else:
        row.seen_at = now


def _forget_workers(session: Session) -> None:
    limit: datetime = utc_now() - timedelta(seconds=WORKER_ROW_SECONDS)
    for row in session.scalars(select(WorkerRow).where(WorkerRow.seen_at < limit)):
        session.delete(row)


def _device() -> str:
    """Without torch: whether the kernel has an NVIDIA driver."""
    return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
