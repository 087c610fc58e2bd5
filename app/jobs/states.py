"""The states of a job and every allowed change between them: pure data, no database, no clock.

    queued ──claim──▶ running ──▶ succeeded | failed
      │ ▲               │ │ └──cancel──▶ cancelling ──▶ cancelled
      │ └──lost lease───┘ └──pause──▶ paused ──resume──▶ queued
      └──cancel──▶ cancelled

`cancelling` exists because stopping is a conversation: the run sees the flag within a step, then exits. Pausing is a
flag on a running job (flag → checkpoint → exit → `paused`), so it needs no state of its own.
"""

from enum import StrEnum


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    CANCELLING = "cancelling"


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.PAUSED, JobStatus.FAILED}),
    # running → running is the takeover of an expired lease by another claim; running → queued gives the job back.
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.RUNNING,
            JobStatus.QUEUED,
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
            JobStatus.CANCELLING,
            JobStatus.PAUSED,
        }
    ),
    # Once asked for, a cancellation wins over whatever the run was about to report.
    JobStatus.CANCELLING: frozenset({JobStatus.CANCELLED}),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

TERMINAL: frozenset[JobStatus] = frozenset(status for status, targets in TRANSITIONS.items() if not targets)
"""A job here never changes again."""

HELD: frozenset[JobStatus] = frozenset({JobStatus.RUNNING, JobStatus.CANCELLING})
"""A worker holds the lease in these states."""

ACTIVE: frozenset[JobStatus] = frozenset(JobStatus) - TERMINAL - {JobStatus.PAUSED}
"""States that count against a tenant's limit of concurrent jobs."""


def allowed(source: JobStatus, target: JobStatus) -> bool:
    """Whether a job in `source` may become `target`."""
    return target in TRANSITIONS[source]


def sources(target: JobStatus) -> frozenset[JobStatus]:
    """Every state from which `target` may be entered."""
    return frozenset(source for source, targets in TRANSITIONS.items() if target in targets)
