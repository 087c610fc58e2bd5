"""Cancel, pause and resume while processes die around them."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.faults.deployment import LONG, SHORT, Deployment, kill


@pytest.fixture(scope="module", autouse=True)
def later_worker(deployment: Deployment) -> Iterator[None]:
    yield
    deployment.settled()


def test_a_cancel_whose_worker_dies_before_it_obeys_still_ends_cancelled(deployment: Deployment) -> None:
    job = deployment.submit("sleep")
    with deployment.worker() as worker:
        deployment.wait_for_step(job)
        deployment.ask("cancel", job)
        assert deployment.job(job).status == "cancelling"
        kill(worker)
    with deployment.worker():
        assert deployment.wait_for_end(job).status == "cancelled"


def test_a_pause_outlives_its_run_and_the_resume_its_worker(deployment: Deployment) -> None:
    """Attempts: one paused by the death of its run; after the resume, one lost with its worker; one that ends."""
    job = deployment.submit(LONG)
    with deployment.worker() as worker:
        run = deployment.wait_for_step(job)
        os.kill(run, signal.SIGSTOP)
        deployment.ask("pause", job)
        os.kill(run, signal.SIGKILL)
        assert deployment.wait_for_status(job, "paused", "queued").status == "paused"
        paused_at = (deployment.job(job).progress or {})["step"]
        deployment.forget_progress(job)
        deployment.ask("resume", job)
        deployment.wait_for_step(job)
        kill(worker)
    deployment.script(job, SHORT)
    assert (deployment.job(job).progress or {})["step"] >= paused_at, "it went on where it stopped"
    with deployment.worker():
        deployment.succeeds(job)
