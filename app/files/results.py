"""Files that a job leaves behind: step metrics, plots. Downloadable like any file, listed by their purpose.

A run stores them before it reports its end and the rows come in the transaction that ends the job. Ids follow from job,
name and content: a run that is repeated stores the same objects again, and what no row came to name is removed by the
sweeper like any other orphan.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.files.repository import PROCESSED
from app.ids import FILE, utc_now
from app.storage import Store, file_key
from app.tables import File, Job
from tsfm.artifact import file_sha256

PURPOSE = "fine-tune-results"
_ID_CHARACTERS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """As a run reports it, its object stored."""

    id: str
    filename: str
    bytes: int
    sha256: str

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)


def store_results(store: Store, job_id: str, paths: Mapping[str, Path]) -> list[ResultFile]:
    """Puts each file (name → where it lies); answers what the rows need, in the same order."""
    found = []
    for name, path in paths.items():
        sha256 = file_sha256(path)
        digest = hashlib.sha256(f"{job_id}\n{name}\n{sha256}".encode()).hexdigest()
        one = ResultFile(id=FILE + digest[:_ID_CHARACTERS], filename=name, bytes=path.stat().st_size, sha256=sha256)
        store.put_file(file_key(one.id), path)
        found.append(one)
    return found


def add_results(session: Session, *, tenant_id: str, results: Iterable[ResultFile]) -> list[str]:
    """Rows of stored result files; answers their ids. Call it in the transaction that ends the job."""
    ids = []
    for one in results:
        session.add(
            File(
                id=one.id,
                tenant_id=tenant_id,
                filename=one.filename,
                purpose=PURPOSE,
                bytes=one.bytes,
                sha256=one.sha256,
                status=PROCESSED,
                options={},
                reading=None,
                error=None,
                created_at=utc_now(),
                expires_at=None,
                deleted_at=None,
            )
        )
        ids.append(one.id)
    session.flush()
    return ids


def drop_results(session: Session, job_ids: Sequence[str]) -> list[str]:
    """Deletes the result files of these jobs; answers the ids whose objects may go after the commit."""
    results = session.scalars(select(Job.result).where(Job.id.in_(job_ids)))
    ids = [file_id for result in results if result for file_id in result.get("result_files", ())]
    gone = []
    for row in session.scalars(select(File).where(File.id.in_(ids), File.deleted_at.is_(None))):
        row.deleted_at = utc_now()
        gone.append(row.id)
    return gone
