"""A worker beside the gateway of a test, so that a call waits for a real run."""

import contextlib
import threading
import time
from collections.abc import Iterator

from app.queue import RUN_JOB
from tests.app.forecasts.conftest import Gateway
from worker.supervise import Worker
from worker.tasks import run_job


@contextlib.contextmanager
def working(gateway: Gateway) -> Iterator[None]:
    """A worker that runs what is sent, for as long as the block lasts."""
    services = gateway.app.state.services
    worker = Worker(settings=gateway.settings, engine=gateway.engine, store=gateway.store, queue=services.queue)
    done = threading.Event()
    seen = len(services.queue.sent)

    def work() -> None:
        nonlocal seen
        while not done.is_set():
            for kind, job_id in services.queue.sent[seen:]:
                seen += 1
                if kind == RUN_JOB:
                    run_job(worker, job_id)
            time.sleep(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
