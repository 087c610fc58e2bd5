"""Measured estimates: a row asks, a worker answers in it, and whoever asked takes the row away again.

    ask ─▶ row, message ─▶ worker: a few real steps in a process of their own ─▶ row.result ─▶ answer, row deleted

The row is the truth here, too: a worker that finds none measures nothing, and one whose row is gone stops. Waiting
takes no thread; reading the row does for a moment, two at a time. What a gateway that dies leaves the sweeper removes.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import orjson
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.db import on_rollback, session_scope
from app.ids import MEASUREMENT, new_id, utc_now
from app.jobs.schemas import Estimate, JobEstimate
from app.queue import MEASURE, enqueue
from app.storage import Store, series_key
from app.tables import Measurement, Worker

if TYPE_CHECKING:
    from app.services import Services

ALIVE_SECONDS = 60.0
"""A worker that has not been seen for so long is not waited for."""
MAX_WAITING = 4
"""Measurements of one tenant that may wait at once; a further one is answered from the table."""
POLL_SECONDS = 0.2
LEFTOVER_SECONDS = 300.0
KEPT_ESTIMATES = 256
KEPT_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The series a job would train on."""

    sha256: str
    """Of the bytes as uploaded."""
    options: Mapping[str, Any]
    reading: Mapping[str, Any]
    file_id: str | None = None
    """Where they are stored; else `series` is where they lie for now."""
    series: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """A dry run half answered."""

    shown: JobEstimate
    """With the catalogue's figures."""
    key: str
    """What the measured figures are remembered by."""
    measurement_id: str | None
    """None: nobody was asked, `shown` says why."""
    is_stored: bool = False
    """Whether its series were stored for it alone."""


class EstimateCache:
    """Measured figures of dry runs, so that the job that follows shows them; of this process, for an hour."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Estimate]] = OrderedDict()

    def put(self, key: str, estimate: Estimate) -> None:
        with self._lock:
            self._kept[key] = (time.monotonic(), estimate)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_ESTIMATES:
                self._kept.popitem(last=False)

    def get(self, key: str) -> Estimate | None:
        with self._lock:
            at, estimate = self._kept.get(key, (float("-inf"), None))
        return estimate if time.monotonic() - at < KEPT_SECONDS else None


@dataclass(frozen=True, slots=True)
class Measuring:
    """What the gateway keeps for measurements."""

    polls: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(2))
    cache: EstimateCache = field(default_factory=EstimateCache)


def key_of(resolved: Mapping[str, Any], data: Data) -> str:
    """Digest of everything a measurement depends on, but the machine."""
    facts = [resolved, data.sha256, data.options]
    return hashlib.sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def ask(session: Session, services: "Services", tenant_id: str, shown: JobEstimate, request: Any, data: Data) -> DryRun:
    """Asks the workers, unless there is nobody to ask; `request` is the resolved one. The message follows a commit."""
    key, measurement_id = key_of(request, data), new_id(MEASUREMENT)
    file_id = data.file_id or measurement_id
    if data.series is not None:  # before the first query, which may lock the database
        on_rollback(session, partial(services.store.delete, series_key(file_id)))
        services.store.put_file(series_key(file_id), data.series)
    if note := _not_asked(session, tenant_id):
        if data.series is not None:
            services.store.delete(series_key(file_id))
        return DryRun(shown=_noted(shown, note), key=key, measurement_id=None)
    session.add(
        Measurement(
            id=measurement_id,
            tenant_id=tenant_id,
            file_id=file_id,
            resolved=dict(request),
            reading=dict(data.reading),
            created_at=utc_now(),
        )
    )
    session.flush()
    enqueue(session, services.queue, MEASURE, measurement_id)
    return DryRun(shown=shown, key=key, measurement_id=measurement_id, is_stored=data.series is not None)


def _not_asked(session: Session, tenant_id: str) -> str | None:
    now = utc_now()
    alive = select(Worker.id).where(Worker.seen_at > now - timedelta(seconds=ALIVE_SECONDS)).limit(1)
    if session.scalar(alive) is None:
        return "Not measured: no worker is up."
    recent = Measurement.created_at > now - timedelta(seconds=LEFTOVER_SECONDS)
    waiting = select(func.count()).select_from(Measurement).where(Measurement.tenant_id == tenant_id, recent)
    if (session.scalar(waiting) or 0) >= MAX_WAITING:
        return f"Not measured: {MAX_WAITING} dry runs wait already."
    return None


def _noted(shown: JobEstimate, note: str) -> JobEstimate:
    return shown.model_copy(update={"estimate": shown.estimate.model_copy(update={"note": note})})


async def answer(services: "Services", dry_run: DryRun) -> JobEstimate:
    """The measured figures if a worker has them in time, else those of the catalogue and why."""
    if dry_run.measurement_id is None:
        return dry_run.shown
    limiter, seconds = services.measuring.polls, services.settings.measure_seconds
    result: dict[str, Any] | None = None
    try:
        with anyio.move_on_after(seconds):
            while result is None:
                await anyio.sleep(POLL_SECONDS)
                result = await anyio.to_thread.run_sync(_read, services, dry_run.measurement_id, limiter=limiter)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_remove, services, dry_run, limiter=limiter)
    if result is None:
        return _noted(dry_run.shown, f"Not measured: no worker answered within {seconds:g} s.")
    if "error" in result:
        return _noted(dry_run.shown, f"Not measured: {result['error']}")
    estimate = Estimate(**result, basis="measured")
    services.measuring.cache.put(dry_run.key, estimate)
    return dry_run.shown.model_copy(update={"estimate": estimate})


def _read(services: "Services", measurement_id: str) -> dict[str, Any] | None:
    with session_scope(services.engine, read_only=True) as session:
        return session.scalar(select(Measurement.result).where(Measurement.id == measurement_id))


def _remove(services: "Services", dry_run: DryRun) -> None:
    with session_scope(services.engine) as session:
        session.execute(delete(Measurement).where(Measurement.id == dry_run.measurement_id))
    if dry_run.is_stored:
        services.store.delete(series_key(str(dry_run.measurement_id)))


def remove_leftovers(session: Session, store: Store) -> None:
    """For the sweeper: what gateways that died left waiting."""
    old = Measurement.created_at < utc_now() - timedelta(seconds=LEFTOVER_SECONDS)
    for measurement_id, file_id in session.execute(select(Measurement.id, Measurement.file_id).where(old)).all():
        session.execute(delete(Measurement).where(Measurement.id == measurement_id))
        if file_id == measurement_id:
            store.delete(series_key(file_id))
