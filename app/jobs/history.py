"""What a job has left behind so far: its events, live or in pages, and its checkpoints."""

from collections.abc import AsyncIterator

import orjson
from sqlalchemy import Row
from sqlalchemy.orm import Session
from sse_starlette.event import ServerSentEvent

from app.auth.keys import Principal
from app.jobs.repository import Jobs
from app.jobs.schemas import CheckpointObject, JobEventObject
from app.jobs.service import get
from app.jobs.show import show_checkpoint, show_event
from app.jobs.states import TERMINAL
from app.jobs.stream import EventHub
from app.paging import Page, PageQuery, list_rows, to_page
from app.tables import JobCheckpoint, JobEvent


def list_events(session: Session, principal: Principal, job_id: str, query: PageQuery) -> Page[JobEventObject]:
    """Newest first."""
    get(session, principal, job_id)
    events = Jobs(session=session, tenant_id=principal.tenant_id).events(job_id)
    found = list_rows(session, events, query, keys=(JobEvent.sequence,), id_column=JobEvent.id)
    return to_page(found, _show_row, id_of=lambda event: event.id)


def _show_row(row: Row[JobEvent]) -> JobEventObject:
    return show_event(row[0])


def list_checkpoints(session: Session, principal: Principal, job_id: str, query: PageQuery) -> Page[CheckpointObject]:
    """The best weights so far, each time they were exported, newest first."""
    get(session, principal, job_id)
    checkpoints = Jobs(session=session, tenant_id=principal.tenant_id).checkpoints(job_id)
    found = list_rows(session, checkpoints, query, keys=(JobCheckpoint.step,), id_column=JobCheckpoint.id)

    def show_row(row: Row[JobCheckpoint]) -> CheckpointObject:
        return show_checkpoint(row[0])

    return to_page(found, show_row, id_of=lambda checkpoint: checkpoint.id)


def all_seen(session: Session, principal: Principal, job_id: str, *, after: int) -> bool:
    """Whether the job has ended and `after` is its last event."""
    job = get(session, principal, job_id)
    jobs = Jobs(session=session, tenant_id=principal.tenant_id)
    return job.status in TERMINAL and jobs.num_events_behind(job_id, after) == 0


async def live(hub: EventHub, job_id: str, *, after: int) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: the history with its ids, the progress in between without, `done` at the end."""
    shown = None
    async for news in hub.follow(job_id, after=after):
        for event in news.events:
            yield _sent(event.type, show_event(event).model_dump(mode="json"), number=event.sequence)
        if news.progress is not None and news.progress != shown:
            shown = news.progress
            yield _sent("progress", {"status": news.status, **shown})
        if news.is_last:
            yield _sent("done", {"status": news.status})


def _sent(kind: str, data: object, *, number: int | None = None) -> ServerSentEvent:
    return ServerSentEvent(data=orjson.dumps(data).decode(), event=kind, id=None if number is None else str(number))
