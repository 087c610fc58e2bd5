"""What a worker may do with a job: claim it, keep it, end it, give it back. Each is one conditional UPDATE.

The owner is a fencing token, fresh for every claim. Whoever finds another token in the row has lost the job and
writes nothing: the number of deliveries of a message never matters (stack.md §1.3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session, aliased

from app.ids import utc_now
from app.jobs.repository import add_event, database_in, database_now, transition, update_row
from app.jobs.states import HELD, JobStatus
from app.tables import Job

_HELD = sorted(HELD)
WORKER_LOST = "worker_lost"
MAX_PATIENCE = timedelta(minutes=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the row wants from the run that holds it."""

    cancel: bool
    pause: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a job's history, as a run reports it."""

    message: str
    kind: str = "message"
    level: str = "info"
    data: Mapping[str, Any] | None = None


def claim(
    session: Session, job_id: str, *, owner: str, lease_seconds: float, max_attempts: int, max_running: int
) -> Job | None:
    """Takes a queued job, or one whose lease has run out; None: it is not to be had, so the message is dropped.

    `max_running` is the tenant's limit: above it the job stays queued, and the end of another one sends it again.
    """
    now = database_now(session)
    other = aliased(Job)
    running_beside = (
        select(func.count())
        .select_from(other)
        .where(other.tenant_id == Job.tenant_id, other.id != Job.id, other.status.in_(_HELD))
        .correlate(Job)
        .scalar_subquery()
    )
    return transition(
        session,
        job_id,
        JobStatus.RUNNING,
        message="Run started.",
        data={"owner": owner[:8]},
        where=(
            or_(
                Job.status == JobStatus.QUEUED.value,
                and_(Job.status == JobStatus.RUNNING.value, Job.lease_until < now),
            ),
            Job.cancel_requested.is_(False),
            Job.pause_requested.is_(False),
            Job.attempt < max_attempts,
            running_beside < max_running,
        ),
        values={
            "owner": owner,
            "lease_until": database_in(session, lease_seconds),
            "attempt": Job.attempt + 1,
            "started_at": func.coalesce(Job.started_at, now),
        },
    )


def heartbeat(
    session: Session,
    job_id: str,
    *,
    owner: str,
    lease_seconds: float,
    progress: Mapping[str, Any] | None = None,
    events: Sequence[Event] = (),
) -> Flags | None:
    """Renews the lease and writes what the run reported; None: the lease is lost, stop and write nothing."""
    values: dict[str, Any] = {"lease_until": database_in(session, lease_seconds)}
    if progress is not None:
        values["progress"] = dict(progress)
    job = update_row(session, job_id, values=values, where=(Job.owner == owner, Job.status.in_(_HELD)))
    if job is None:
        return None
    for event in events:
        add_event(session, job_id, event.message, level=event.level, kind=event.kind, data=event.data)
    return Flags(cancel=job.cancel_requested, pause=job.pause_requested)


def hold(session: Session, job_id: str, *, owner: str, lease_seconds: float) -> Job | None:
    """The row, locked for this transaction, if the job is still ours and still to be ended by a success."""
    return update_row(
        session,
        job_id,
        values={"lease_until": database_in(session, lease_seconds)},
        where=(Job.owner == owner, Job.status == JobStatus.RUNNING.value),
    )


def succeed(
    session: Session, job_id: str, *, owner: str, result: Mapping[str, Any], name: str, version: int, message: str
) -> Job | None:
    """`running → succeeded`, in the transaction that registered version `version` of `name`. None: not ours to end."""
    return transition(
        session,
        job_id,
        JobStatus.SUCCEEDED,
        message=message,
        data={"fine_tuned_model": name, "model_version": version},
        where=(Job.owner == owner,),
        values={"result": dict(result), "error": None, "fine_tuned_model": name, "model_version": version},
    )


def fail(
    session: Session, job_id: str, *, owner: str, code: str, message: str, param: str | None, details: Any = None
) -> Job | None:
    """`running → failed` for a reason that another attempt would meet again."""
    error = {"code": code, "message": message, "param": param}
    return transition(
        session,
        job_id,
        JobStatus.FAILED,
        message=message,
        level="error",
        data={"code": code, **({"details": details} if details else {})},
        where=(Job.owner == owner,),
        values={"error": error},
    )


def cancelled(session: Session, job_id: str, *, owner: str) -> Job | None:
    """`cancelling → cancelled` once the run has stopped."""
    return transition(
        session,
        job_id,
        JobStatus.CANCELLED,
        message="Job cancelled.",
        only_from={JobStatus.CANCELLING},
        where=(Job.owner == owner,),
    )


def paused(session: Session, job_id: str, *, owner: str) -> Job | None:
    """`running → paused` once the run has saved its state; None when the pause was taken back in the meantime."""
    return transition(
        session,
        job_id,
        JobStatus.PAUSED,
        message="Job paused; its state is saved.",
        only_from={JobStatus.RUNNING},
        where=(Job.owner == owner, Job.pause_requested.is_(True)),
        values={"pause_requested": False, "owner": None, "lease_until": None, "attempt": 0},
    )


def give_back(session: Session, job_id: str, *, owner: str) -> Job | None:
    """A worker that shuts down returns its job to the queue; the attempt does not count. Send a message afterwards."""
    return transition(
        session,
        job_id,
        JobStatus.QUEUED,
        message="The worker shut down; the job goes back to the queue and continues from its saved state.",
        only_from={JobStatus.RUNNING},
        where=(Job.owner == owner,),
        values=_FREE | {"attempt": Job.attempt - 1, "sent_at": utc_now()},
    )


def lose(
    session: Session, job_id: str, *, owner: str, max_attempts: int, expired_only: bool, reason: str
) -> Job | None:
    """The run is gone without a verdict: what the row asks for decides what becomes of the job.

    A cancelled one is cancelled, a job to be paused is paused, any other is queued again until its attempts are spent,
    then failed as `worker_lost`. `expired_only` is the sweeper's condition. Send a message when it comes back queued.
    """
    mine = [Job.owner == owner]
    if expired_only:
        mine.append(Job.lease_until < database_now(session))
    spent = {
        "code": WORKER_LOST,
        "message": f"The run was lost {max_attempts} times ({reason}); no further attempt is made.",
        "param": None,
    }
    cancelling = transition(
        session, job_id, JobStatus.CANCELLED, message="Job cancelled.", only_from={JobStatus.CANCELLING}, where=mine
    )
    if cancelling is not None:
        return cancelling
    return (
        transition(
            session,
            job_id,
            JobStatus.PAUSED,
            message=f"Job paused after its run was lost ({reason}).",
            where=[*mine, Job.pause_requested.is_(True)],
            only_from={JobStatus.RUNNING},
            values=_FREE | {"pause_requested": False, "attempt": 0},
        )
        or transition(
            session,
            job_id,
            JobStatus.QUEUED,
            message=f"The run was lost ({reason}); the job is queued again and continues from its saved state.",
            level="warn",
            where=[*mine, Job.attempt < max_attempts],
            only_from={JobStatus.RUNNING},
            values=_FREE | {"sent_at": utc_now()},
        )
        or transition(
            session,
            job_id,
            JobStatus.FAILED,
            message=str(spent["message"]),
            level="error",
            data={"code": WORKER_LOST},
            where=[*mine, Job.attempt >= max_attempts],
            only_from={JobStatus.RUNNING},
            values={"error": spent},
        )
    )


def expired(session: Session, *, limit: int = 100) -> list[tuple[str, str]]:
    """(job, owner) of every lease that has run out."""
    query = (
        select(Job.id, Job.owner)
        .where(Job.status.in_(_HELD), Job.lease_until < database_now(session), Job.owner.is_not(None))
        .order_by(Job.lease_until)
        .limit(limit)
    )
    return [(job_id, owner) for job_id, owner in session.execute(query) if owner is not None]


def stale(session: Session, *, resend_seconds: float, limit: int = 100) -> list[str]:
    """Queued jobs whose message may be lost: none was sent for a while. The while doubles with each message, up to two
    minutes, so that a long queue is not flooded with copies."""
    query = (
        select(Job)
        .where(
            Job.status == JobStatus.QUEUED.value,
            or_(Job.sent_at.is_(None), Job.sent_at < database_in(session, -resend_seconds)),
        )
        .order_by(Job.created_at)
        .limit(limit)
    )
    now = utc_now()
    return [job.id for job in session.scalars(query) if job.sent_at is None or now - job.sent_at > _patience(job)]


def _patience(job: Job) -> timedelta:
    assert job.sent_at is not None
    return min(MAX_PATIENCE, job.sent_at - job.created_at)


def mark_sent(session: Session, job_id: str, *, seconds_ago: float) -> bool:
    """Notes that a message goes out now, unless somebody else just did: of many sweepers one sends."""
    old_enough = or_(Job.sent_at.is_(None), Job.sent_at < database_in(session, -seconds_ago))
    where = (Job.status == JobStatus.QUEUED.value, old_enough)
    return update_row(session, job_id, values={"sent_at": utc_now()}, where=where) is not None


def next_queued(session: Session, *, tenant_id: str) -> str | None:
    """The tenant's oldest waiting job, which may have been held back by the limit of running ones."""
    query = (
        select(Job.id)
        .where(Job.tenant_id == tenant_id, Job.status == JobStatus.QUEUED.value)
        .order_by(Job.created_at)
        .limit(1)
    )
    return session.scalar(query)


_FREE: dict[str, Any] = {"owner": None, "lease_until": None}
