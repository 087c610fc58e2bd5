"""A really tuned artifact of the toy backbone, and its registration as a job's end would do it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, select

from app.auth.repository import tenant_named
from app.db import session_scope
from app.ids import FILE, JOB, new_id, utc_now
from app.registry.register import Refit, Registered, incumbent_of, register_version
from app.storage import ObjectStore, blob_key
from app.tables import File, Job
from tsfm.artifact import files_of
from tsfm.finetune import FinetuneRequest, run
from tsfm.series.frame import SeriesFrame

HORIZON = 8
STANDING = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    folder: Path
    digest: str
    files: dict[str, str]
    result: dict[str, Any]


def frame(num_series: int = 2, length: int = 240, *, seed: int = 0) -> SeriesFrame:
    """Hourly sines with noise; series i is named "s{i}"."""
    steps = np.arange(length)
    noise = np.random.default_rng(seed).normal(size=(num_series, length))
    values = 10.0 * (1 + np.arange(num_series))[:, None] + np.sin(2 * np.pi * steps / 24) + 0.1 * noise
    return SeriesFrame(
        item_ids=tuple(f"s{i}" for i in range(num_series)),
        values=values.ravel(),
        offsets=np.arange(num_series + 1, dtype=np.int64) * length,
        starts=np.zeros(num_series, dtype=np.int64),
        freq="h",
    )


def tune(
    work_dir: Path,
    weights_dir: Path,
    *,
    seed: int = 0,
    method: str = "full",
    series: SeriesFrame | None = None,
    **asked: Any,
) -> Tuned:
    """One short epoch on the toy; `asked` is more of the request."""
    out = work_dir / "artifact"
    result = run(
        FinetuneRequest(
            **{
                "backbone": "toy",
                "method": method,
                "prediction_length": HORIZON,
                "context_length": 32,
                "hyperparameters": {"max_epochs": 1, "learning_rate": 1e-3},
                "seed": seed,
                **asked,
            }
        ),
        frame(seed=seed) if series is None else series,
        weights_dir=weights_dir,
        state_dir=work_dir / "state",
        out_dir=out,
        report=lambda progress: None,
        should_stop=lambda: None,
    )
    return Tuned(folder=out, digest=result.digest, files=files_of(out), result=result.to_mapping())


def store_blobs(store: ObjectStore, tuned: Tuned) -> None:
    for path, sha256 in tuned.files.items():
        store.put_file(blob_key(sha256), tuned.folder / path)


def register(
    engine: Engine,
    store: ObjectStore,
    tuned: Tuned,
    *,
    fallback: str | None = None,
    tenant: str = "local",
    suffix: str | None = "load",
    register_as: str | None = None,
    training_file: str | None = None,
    judged_against: int | None = STANDING,
    refit: Refit | None = None,
) -> Registered:
    """A finished job of `tenant` and its version; it was promoted unless it has a `fallback`.

    `judged_against` is the incumbent that its run was given; by default what stands in production now.
    """
    store_blobs(store, tuned)
    verdict = {**tuned.result["verdict"], "promoted": fallback is None, "fallback": fallback}
    with session_scope(engine) as session:
        tenant_id = tenant_named(session, tenant).id
        job = add_job(session, tenant_id, tuned.result, training_file=training_file)
        job.suffix, job.register_as = suffix, register_as
        if judged_against == STANDING:
            standing = incumbent_of(session, tenant_id=tenant_id, name=register_as)
            judged_against = standing.version if standing else None
        return register_version(
            session,
            tenant_id=tenant_id,
            job_row=job,
            result={**tuned.result, "verdict": verdict},
            files=tuned.files,
            incumbent=judged_against,
            refit=refit,
        )


def add_job(session: Any, tenant_id: str, result: Mapping[str, Any], *, training_file: str | None) -> Job:
    if training_file is None:
        training_file = new_id(FILE)
        session.add(
            File(
                id=training_file,
                tenant_id=tenant_id,
                filename="load.csv",
                purpose="fine-tune",
                bytes=1,
                sha256="0" * 64,
                status="processed",
                options={},
                reading=None,
                error=None,
                created_at=utc_now(),
                expires_at=None,
                deleted_at=None,
            )
        )
        session.flush()
    job = Job(
        id=new_id(JOB),
        tenant_id=tenant_id,
        status="succeeded",
        training_file=training_file,
        request={},
        resolved=dict(result["resolved"]),
        attempt=1,
        created_at=utc_now(),
    )
    session.add(job)
    session.flush()
    return job


def job_of(engine: Engine, job_id: str) -> Job:
    with session_scope(engine, read_only=True) as session:
        return session.execute(select(Job).where(Job.id == job_id)).scalar_one()
