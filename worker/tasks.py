"""What arrives by message. Like a web view, a task takes an id, looks at the row and leaves the work to others."""

import structlog

from app.files.service import read_pending
from app.jobs.states import TERMINAL, JobStatus
from worker import measurements
from worker.runs import run_folder
from worker.settle import settle
from worker.state import drop_remote_state
from worker.supervise import Worker, claim, supervise

log = structlog.get_logger(__name__)


def run_job(worker: Worker, job_id: str) -> JobStatus | None:
    """Runs the job once if it is to be had; answers what became of it, None where this worker had no say."""
    claimed = claim(worker, job_id)
    if claimed is None:
        log.info("job_not_to_be_had", job=job_id)
        return None
    log.info("job_claimed", job=job_id, attempt=claimed.attempt)
    folder = run_folder(worker.settings.home, job_id)
    outcome = supervise(worker, claimed, folder)
    status = settle(worker, claimed, outcome)
    log.info("job_settled", job=job_id, outcome=type(outcome).__name__, status=status)
    if status in TERMINAL:
        folder.remove()
        drop_remote_state(worker.store, worker.settings, job_id)
    elif status is not None:
        folder.remove_work()
    return status


def read_file(worker: Worker, file_id: str) -> None:
    """Parses an uploaded file that was too large to be read while its sender waited."""
    read_pending(file_id, engine=worker.engine, store=worker.store, settings=worker.settings)


def measure(worker: Worker, measurement_id: str) -> None:
    """Measures what a dry run would take, if somebody still waits for it."""
    measurements.measure(worker, measurement_id)
