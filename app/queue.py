"""The port through which work leaves the gateway. A message is a hint; the row is the truth.

Messages are buffered with the session and leave after its commit, so that no worker meets a row that is not there
yet, and none at all after a rollback. A message that could not be sent is only logged: the sweeper sends it again.
"""

from dataclasses import dataclass, field
from typing import Protocol

import structlog
from sqlalchemy.orm import Session

from app.db import after_commit

log = structlog.get_logger(__name__)

RUN_JOB = "temper.run_job"
READ_FILE = "temper.read_file"
MEASURE = "temper.measure"
QUEUES = {RUN_JOB: "train", READ_FILE: "default", MEASURE: "measure"}
"""Task name → Celery queue."""
EXPIRES_SECONDS = {MEASURE: 60.0}
"""After so long a message is thrown away unread; whoever sent it no longer waits. Others wait for ever."""
VISIBILITY_TIMEOUT_SECONDS = 7 * 24 * 3600
"""Above any run: the shortest value among producers and workers wins, and a redelivery is only ever a no-op."""


class Queue(Protocol):
    def send(self, task_name: str, object_id: str) -> None:
        """Sends now. Raises when the broker cannot be reached."""

    def ping(self) -> None:
        """Raises when the broker does not answer within a second."""

    def close(self) -> None: ...


def enqueue(session: Session, queue: Queue, task_name: str, object_id: str) -> None:
    """Sends `task_name(object_id)` after the session's commit; dropped when it rolls back."""
    after_commit(session, lambda: send_hint(queue, task_name, object_id))


def send_hint(queue: Queue, task_name: str, object_id: str) -> None:
    """Sends now; a broker that cannot be reached is logged, not raised."""
    try:
        queue.send(task_name, object_id)
    except Exception as error:  # any transport error: the row stands, the sweeper re-sends
        log.warning("message_not_sent", task=task_name, id=object_id, error=type(error).__name__)


def redis_url(broker_url: str) -> str:
    """The address as the redis client spells it: Celery says `redis+socket://`, redis says `unix://`."""
    return broker_url.replace("redis+socket://", "unix://", 1)


class CeleryQueue:
    """Sends by task name, so that the gateway never imports the worker."""

    def __init__(self, broker_url: str) -> None:
        from celery import Celery
        from redis import Redis

        self._celery = Celery("temper", broker=broker_url)
        self._celery.conf.update(
            task_ignore_result=True,
            broker_transport_options={
                "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
                "socket_timeout": 2,
                "socket_connect_timeout": 1,
                "max_retries": 1,  # a dead broker must not hold a request: the sweeper re-sends
                "interval_start": 0,
                "interval_step": 0.1,
                "interval_max": 0.1,
            },
        )
        self._redis = Redis.from_url(redis_url(broker_url), socket_timeout=1, socket_connect_timeout=1)

    def send(self, task_name: str, object_id: str) -> None:
        self._celery.send_task(
            task_name,
            args=[object_id],
            queue=QUEUES[task_name],
            expires=EXPIRES_SECONDS.get(task_name),
            retry=False,
            ignore_result=True,
        )

    def ping(self) -> None:
        self._redis.ping()

    def close(self) -> None:
        self._redis.close()
        self._celery.close()


@dataclass(slots=True)
class FakeQueue:
    """Remembers what was sent; for tests."""

    sent: list[tuple[str, str]] = field(default_factory=list)
    broken: bool = False

    def send(self, task_name: str, object_id: str) -> None:
        self.ping()
        self.sent.append((task_name, object_id))

    def ping(self) -> None:
        if self.broken:
            raise ConnectionError("the fake broker is broken")

    def close(self) -> None:
        pass
