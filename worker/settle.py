"""How an outcome becomes the job's end: one conditional transaction, repeated while the database is away."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.db import session_scope
from app.files.results import add_results
from app.jobs import leases
from app.jobs.states import TERMINAL, JobStatus
from app.queue import RUN_JOB, enqueue
from app.registry.register import Registered, as_registered, register_version
from app.tables import Job
from worker.protocol import Order
from worker.supervise import Claimed, Dropped, Failed, Finished, Lost, Outcome, Stopped, Worker

log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0
Answer = TypeVar("Answer")


def settle(worker: Worker, claimed: Claimed, outcome: Outcome) -> JobStatus | None:
    """Writes what became of the run and answers the job's state; None: the job is no longer ours.

    A registration that fails for a reason of its own counts as a lost run, so that it is tried again, but not for ever.
    """
    try:
        return persist(worker, lambda session: _settle(session, worker, claimed, outcome))
    except OperationalError:
        raise
    except Exception as error:  # whatever the registry could not do; the row decides how often it is tried
        log.exception("settling_failed", job=claimed.job_id)
        lost = Lost(reason=f"its result could not be registered: {type(error).__name__}")
        return persist(worker, lambda session: _settle(session, worker, claimed, lost))


def persist(worker: Worker, action: Callable[[Session], Answer]) -> Answer:
    """Runs `action` in one transaction, again and again while the database is away, for as long as a lease lasts.

    Beyond that the sweeper has given the job to somebody else, who finds the run's saved state.
    """
    deadline = time.monotonic() + worker.settings.lease_seconds
    while True:
        try:
            with session_scope(worker.engine) as session:
                return action(session)
        except OperationalError as error:
            if time.monotonic() > deadline:
                raise
            log.warning("database_away", error=type(error).__name__)
            time.sleep(RETRY_SECONDS)


def _settle(session: Session, worker: Worker, claimed: Claimed, outcome: Outcome) -> JobStatus | None:
    job = _end(session, worker, claimed, outcome)
    if job is None and not isinstance(outcome, Dropped):
        # Only one thing may have come in between while the claim still stands: somebody asked to cancel.
        job = leases.cancelled(session, claimed.job_id, owner=claimed.owner)
    if job is None:
        return None
    status = JobStatus(job.status)
    if status is JobStatus.QUEUED:
        enqueue(session, worker.queue, RUN_JOB, job.id)
    if status in TERMINAL or status is JobStatus.PAUSED:
        waiting = leases.next_queued(session, tenant_id=job.tenant_id)
        if waiting is not None:
            enqueue(session, worker.queue, RUN_JOB, waiting)
    return status


def _end(session: Session, worker: Worker, claimed: Claimed, outcome: Outcome) -> Job | None:
    job_id, owner = claimed.job_id, claimed.owner
    match outcome:
        case Finished():
            return _register(session, worker, claimed, outcome)
        case Failed(code=code, message=message, param=param, details=details):
            return leases.fail(session, job_id, owner=owner, code=code, message=message, param=param, details=details)
        case Lost(reason=reason):
            return leases.lose(
                session,
                job_id,
                owner=owner,
                max_attempts=worker.settings.max_attempts,
                expired_only=False,
                reason=reason,
            )
        case Stopped(order=Order.TIMEOUT):
            return leases.fail(
                session,
                job_id,
                owner=owner,
                code="time_limit",
                message=f"The run took longer than the limit of {worker.settings.max_run_seconds:.0f} seconds.",
                param="budget.seconds",
            )
        case Stopped(order=Order.PAUSE):
            return leases.paused(session, job_id, owner=owner) or leases.give_back(session, job_id, owner=owner)
        case Stopped(order=Order.STOP):
            return leases.give_back(session, job_id, owner=owner)
        case Stopped() | Dropped():
            return None


def _register(session: Session, worker: Worker, claimed: Claimed, outcome: Finished) -> Job | None:
    """The version and the job's end stand or fall together; the blobs were stored before."""
    job = leases.hold(session, claimed.job_id, owner=claimed.owner, lease_seconds=worker.settings.lease_seconds)
    if job is None:
        return None
    incumbent = claimed.assignment.incumbent
    registered = register_version(
        session,
        tenant_id=claimed.tenant_id,
        job_row=job,
        result=outcome.result,
        files=outcome.files,
        incumbent=None if incumbent is None else incumbent["version"],
        refit=outcome.refit,
    )
    return leases.succeed(
        session,
        claimed.job_id,
        owner=claimed.owner,
        result=_result(session, claimed, outcome, registered),
        name=registered.name,
        version=registered.version,
        message=_verdict(outcome, registered),
    )


def _result(session: Session, claimed: Claimed, outcome: Finished, registered: Registered) -> dict[str, Any]:
    """What the job shows of its end."""
    result, refit, gate = outcome.result, outcome.refit, outcome.result.get("gate")
    verdict = as_registered(result["verdict"], "reason", registered.note)
    return {
        **result,
        "verdict": {**verdict, "promoted": registered.promoted},
        "gate": None if gate is None else as_registered(gate, "sentence", registered.note),
        "result_files": add_results(session, tenant_id=claimed.tenant_id, results=outcome.result_files),
        "refit": None if refit is None else {"version": registered.refit_version, "digest": refit.digest},
    }


def _verdict(outcome: Finished, registered: Registered) -> str:
    sentences = [f"Job succeeded: {registered.name} version {registered.version}.", outcome.result["verdict"]["reason"]]
    if registered.refit_version is not None:
        sentences.append(f"Trained on all history as version {registered.refit_version}, which nobody judged.")
    if registered.note:
        sentences.append(registered.note)
    return " ".join(sentences)
