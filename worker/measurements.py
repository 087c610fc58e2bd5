"""A measurement, from message to answer: a few real steps in a process of their own, as a run is. No torch here.

It is worth nothing once nobody waits for it: when the row is gone, or the worker stops, the process is killed.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from app.db import session_scope
from app.tables import Measurement
from worker.process import RunProcess
from worker.protocol import Assignment
from worker.supervise import TICK_SECONDS, Worker, describe_exit, environment_of

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""How often it is asked whether anybody still waits."""
LIMIT_SECONDS = 60.0


def measure(worker: Worker, measurement_id: str) -> None:
    """Answers the measurement in its row, if it is still wanted."""
    with session_scope(worker.engine, read_only=True) as session:
        row = session.get(Measurement, measurement_id)
        if row is None or row.result is not None:
            return
        assignment = Assignment(
            job_id=row.id, file_id=row.file_id, request=row.resolved, reading=row.reading, measures=True
        )
    with tempfile.TemporaryDirectory(dir=worker.settings.tmp_dir, prefix="measure-") as folder:
        command = [*worker.command, measurement_id, "measure"]
        # The process works inside this folder: it is killed as soon as nobody waits, and then removes nothing itself.
        environment = {**environment_of(worker.settings), "TMPDIR": folder}
        process = RunProcess(command, assignment, env=environment, stderr=Path(folder) / "stderr.log")
        try:
            found = _until_answered(worker, process, measurement_id)
        finally:
            status = process.close()
        if found is None:
            log.info("measurement_dropped", measurement=measurement_id)
            return
        if not found:
            log.warning("measurement_lost", measurement=measurement_id, status=status, stderr=process.stderr_tail())
            found = {"error": f"the measuring process ended: {describe_exit(status)}."}
    _answer(worker, measurement_id, found)


def _until_answered(worker: Worker, process: RunProcess, measurement_id: str) -> dict[str, Any] | None:
    """What the process found; empty if it ended without a word, None if nobody wants to know any more."""
    began = looked = time.monotonic()
    while True:
        ended = process.ended
        message = process.next_message(TICK_SECONDS)
        match message:
            case {"type": "result", "result": dict(result)}:
                return result
            case {"type": "error", "message": str(text)}:
                return {"error": text}
            case None if ended:
                return {}
        now = time.monotonic()
        if worker.stopping.is_set() or now - began > LIMIT_SECONDS:
            return None
        if now - looked > LOOK_SECONDS:
            looked = now
            if not _is_wanted(worker, measurement_id):
                return None


def _is_wanted(worker: Worker, measurement_id: str) -> bool:
    try:
        with session_scope(worker.engine, read_only=True) as session:
            return session.scalar(select(Measurement.id).where(Measurement.id == measurement_id)) is not None
    except OperationalError:  # the database is away: whoever asked cannot be answered either
        return False


def _answer(worker: Worker, measurement_id: str, found: dict[str, Any]) -> None:
    with session_scope(worker.engine) as session:
        session.execute(update(Measurement).where(Measurement.id == measurement_id).values(result=found))
