"""A job's history as it happens, for any number of listeners: one poller per API process asks the database for all.

Polling works the same on SQLite and PostgreSQL, and between processes. A listener's place is the sequence number of
the last event it has seen (`Last-Event-ID`), so a connection that broke goes on where it stopped.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import structlog
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from app.db import session_scope
from app.jobs.states import TERMINAL, JobStatus
from app.tables import Job, JobEvent

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
MAX_EVENTS = 200
"""Per listener and poll; what is left comes with the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a poll found for one job."""

    events: tuple[JobEvent, ...]
    status: JobStatus
    progress: Mapping[str, Any] | None

    @property
    def is_last(self) -> bool:
        """The job has ended and everything it left is here."""
        return self.status in TERMINAL and len(self.events) < MAX_EVENTS


@dataclass(slots=True, kw_only=True, eq=False)
class _Listener:
    job_id: str
    after: int
    inbox: News | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class EventHub:
    """Made once per application; polls only while somebody listens. Belongs to one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listeners: set[_Listener] = set()
        self._poller: asyncio.Task[None] | None = None

    async def follow(self, job_id: str, *, after: int) -> AsyncIterator[News]:
        """Every event behind `after`, in order, each once, until the job has ended."""
        listener = _Listener(job_id=job_id, after=after)
        self._listeners.add(listener)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            while True:
                await listener.arrived.wait()
                listener.arrived.clear()
                news, listener.inbox = listener.inbox, None
                assert news is not None
                yield news
                if news.is_last:
                    return
        finally:
            self._listeners.discard(listener)

    async def close(self) -> None:
        """Stops the poller, whoever listens."""
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller

    async def _poll(self) -> None:
        while self._listeners:
            # A listener that has not taken its last news waits for more: memory stays bounded by slow readers.
            ready = [listener for listener in self._listeners if listener.inbox is None]
            try:
                found = await anyio.to_thread.run_sync(self._read, {(one.job_id, one.after) for one in ready})
            except SQLAlchemyError as error:  # away for now; listeners wait
                log.warning("event_poll_failed", error=type(error).__name__)
                found = {}
            for listener in ready:
                news = found.get((listener.job_id, listener.after))
                if news is not None:
                    listener.inbox = news
                    if news.events:
                        listener.after = news.events[-1].sequence
                    listener.arrived.set()
            await asyncio.sleep(POLL_SECONDS)

    def _read(self, places: set[tuple[str, int]]) -> dict[tuple[str, int], News]:
        """The state is read before the events: an end that is seen has all its events seen as well."""
        found = {}
        with session_scope(self._engine, read_only=True) as session:
            columns = select(Job.id, Job.status, Job.progress).where(Job.id.in_(sorted({job for job, _ in places})))
            states = {job_id: (JobStatus(status), progress) for job_id, status, progress in session.execute(columns)}
            for job_id, after in places:
                if job_id not in states:
                    continue
                behind = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.sequence > after)
                events = tuple(session.scalars(behind.order_by(JobEvent.sequence).limit(MAX_EVENTS)))
                status, progress = states[job_id]
                found[job_id, after] = News(events=events, status=status, progress=progress)
        return found
