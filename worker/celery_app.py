"""The Celery application of a worker. Settings are those measured in stack.md §1.2; nothing here loads torch.

Celery only delivers ids. A message may come twice or never: the claim in the database decides (`app/jobs/leases.py`).
"""

import contextlib
from collections.abc import Iterator

import structlog
from celery import Celery

from app.queue import MEASURE, QUEUES, READ_FILE, RUN_JOB, VISIBILITY_TIMEOUT_SECONDS
from app.settings import Settings
from worker import tasks
from worker.lifetime import current_worker

log = structlog.get_logger(__name__)

TRAIN, DEFAULT, MEASURING = QUEUES[RUN_JOB], QUEUES[READ_FILE], QUEUES[MEASURE]
TIME_LIMIT_MARGIN_SECONDS = 600.0


def make_celery(settings: Settings) -> Celery:
    """An application with all tasks registered, for `worker/__main__.py` and for tests."""
    celery = Celery("temper", broker=settings.broker_url, set_as_current=False)
    celery.conf.update(
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        # The sweeper starts a lost job again, with an attempt cap; a broker that did so would loop on a poison job.
        task_reject_on_worker_lost=False,
        task_acks_on_failure_or_timeout=True,
        task_ignore_result=True,
        task_track_started=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_time_limit=settings.max_run_seconds + settings.stop_grace_seconds + TIME_LIMIT_MARGIN_SECONDS,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
            "socket_keepalive": not settings.broker_url.startswith("redis+socket"),
            "socket_timeout": 30,
            "health_check_interval": 25,
        },
        visibility_timeout=VISIBILITY_TIMEOUT_SECONDS,
        task_default_queue=DEFAULT,
    )

    @celery.task(name=RUN_JOB)  # type: ignore[untyped-decorator]  # Celery ships no types
    def run_job(job_id: str) -> None:
        with surviving_memory_errors():
            tasks.run_job(current_worker(), job_id)

    @celery.task(name=READ_FILE)  # type: ignore[untyped-decorator]
    def read_file(file_id: str) -> None:
        with surviving_memory_errors():
            tasks.read_file(current_worker(), file_id)

    @celery.task(name=MEASURE)  # type: ignore[untyped-decorator]
    def measure(measurement_id: str) -> None:
        with surviving_memory_errors():
            tasks.measure(current_worker(), measurement_id)

    return celery


@contextlib.contextmanager
def surviving_memory_errors() -> Iterator[None]:
    """Celery ends the whole worker on a MemoryError and puts the message back, for the next worker to die of
    (stack.md §1.4). Here the message is spent; the lease runs out, and the row counts the attempts."""
    try:
        yield
    except MemoryError:
        log.exception("task_out_of_memory")
