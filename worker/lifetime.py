"""From fork to end of a pool process: what it holds, how it hears of a shutdown, and that it never outlives its parent.

The parent (Celery's consumer) holds no engine, no thread and no torch; it only forks. Parent and pool process share a
pipe: one byte on it means "shut down: give the job back", its end means that the parent was killed.

The pool process leaves its parent's process group: a SIGTERM to the whole group (from `temper serve`, or a terminal's
Ctrl-C) must not reach it, because Celery's pool resets every handler and would end it in the middle of a job.
"""

import os
import threading
from typing import Any

import structlog
from celery import signals

from app.db import make_engine
from app.queue import CeleryQueue
from app.settings import Settings
from app.storage import ObjectStore
from app.telemetry import configure_logging
from worker.supervise import RUN_COMMAND, Worker
from worker.sweep import start_sweeper

log = structlog.get_logger(__name__)

PARENT_GONE = 71
_pool_process: list[Worker] = []
"""What this pool process holds: filled once, after the fork."""


def current_worker() -> Worker:
    return _pool_process[0]


class Lifetime:
    """Made in the parent before it forks; its handlers run on either side of the fork."""

    def __init__(self, settings: Settings, *, command: tuple[str, ...] = RUN_COMMAND) -> None:
        self._settings = settings
        self._command = command
        self._read_end, self._write_end = os.pipe()
        # Strong references: Celery keeps weak ones, and a handler that is collected is silently never called.
        signals.worker_process_init.connect(self._enter_pool_process, weak=False)
        signals.worker_shutting_down.connect(self._tell_pool, weak=False)

    def _tell_pool(self, **_: Any) -> None:
        os.write(self._write_end, b"s")

    def _enter_pool_process(self, **_: Any) -> None:
        os.close(self._write_end)
        os.setpgid(0, 0)
        settings = self._settings
        configure_logging(settings.log_level)
        worker = Worker(
            settings=settings,
            engine=make_engine(settings.database_url),
            store=ObjectStore(settings.storage_url),
            queue=CeleryQueue(settings.broker_url),
            command=self._command,
        )
        _pool_process[:] = [worker]
        threading.Thread(target=self._follow_parent, args=(worker,), daemon=True).start()
        start_sweeper(worker)

    def _follow_parent(self, worker: Worker) -> None:
        if os.read(self._read_end, 1):
            worker.stopping.set()
            os.read(self._read_end, 1)  # a parent that is killed while it shuts down
        log.error("parent_gone")
        os._exit(PARENT_GONE)  # the run notices the end of its stdin and goes, too
