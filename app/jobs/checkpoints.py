"""What a running job has come to so far: its best weights, kept as artifacts that nobody judged.

The newest `KEEP` of a job keep their weights, also after its end; of older ones the row stays and says what there was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.ids import CHECKPOINT, new_id, utc_now
from app.tables import JobCheckpoint

KEEP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """As a run reports it, its blobs stored: `metrics` holds `step`, `files` maps artifact path → sha256."""

    metrics: Mapping[str, Any]
    digest: str
    files: Mapping[str, str]


def add_checkpoint(session: Session, job_id: str, checkpoint: Checkpoint) -> None:
    """Adds it, or renews that of the same step (a run that continues passes there again), and lets old weights go.

    Call it in the transaction of a heartbeat: the lock on the job's row keeps two from doing so at once.
    """
    step = int(checkpoint.metrics["step"])
    rows = list(session.scalars(select(JobCheckpoint).where(JobCheckpoint.job_id == job_id)))
    row = next((row for row in rows if row.step == step), None)
    if row is None:
        row = JobCheckpoint(id=new_id(CHECKPOINT), job_id=job_id, step=step, created_at=utc_now())
        rows.append(row)
        session.add(row)
    row.metrics, row.digest, row.files = dict(checkpoint.metrics), checkpoint.digest, dict(checkpoint.files)
    for old in sorted(rows, key=lambda each: each.step)[:-KEEP]:
        old.files = {}
    session.flush()


def drop_checkpoints(session: Session, job_ids: list[str]) -> None:
    """Lets the weights of all checkpoints of these jobs go."""
    for row in session.scalars(select(JobCheckpoint).where(JobCheckpoint.job_id.in_(job_ids))):
        row.files = {}
