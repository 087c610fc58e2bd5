"""kill -9 in mid-job, after at least one reported step: the job finishes once, and one version is registered."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.jobs.factories import events_of
from tests.backend import Backend
from tests.worker.live import Live, kill_group, live, wait_until

EPOCHS = 4
"""Of 41 steps: some four seconds."""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, backend: Backend, valkey: str) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("home"), backend, valkey) as deployment:
        yield deployment


def finished_once(deployment: Live, job_id: str, *, attempts: int) -> None:
    job = deployment.wait_for_end(job_id)
    assert (job.status, job.attempt) == ("succeeded", attempts), (job.error, deployment.log())
    assert deployment.num_versions(job_id) == 1
    ends = [e for e in events_of(deployment.engine, job_id) if (e.data or {}).get("status") == "succeeded"]
    assert len(ends) == 1
    wait_until(lambda: not deployment.run_pids(job_id), "no process of the job is left")


def test_the_job_outlives_its_worker_and_then_its_run(deployment: Live) -> None:
    """Attempt 1 loses its worker, attempt 2 its subprocess; attempt 3 ends the job."""
    job_id = deployment.submit(max_epochs=EPOCHS)
    first = deployment.start_worker()
    deployment.wait_for_step(job_id)
    (orphan,) = deployment.run_pids(job_id)
    kill_group(first)
    wait_until(lambda: not _alive(orphan), "the run dies with its supervisor")
    deployment.forget_progress(job_id)

    second = deployment.start_worker()
    try:
        deployment.wait_for_step(job_id, attempt=2)
        for pid in deployment.run_pids(job_id):
            os.kill(pid, signal.SIGKILL)
        finished_once(deployment, job_id, attempts=3)
    finally:
        kill_group(second)


def test_the_job_outlives_the_process_that_supervises_it(deployment: Live) -> None:
    """Only the pool process is killed: its run dies with it, Celery forks another one, and that one goes on."""
    job_id = deployment.submit(max_epochs=EPOCHS)
    worker = deployment.start_worker()
    try:
        deployment.wait_for_step(job_id)
        (run,) = deployment.run_pids(job_id)
        os.kill(_parent(run), signal.SIGKILL)
        wait_until(lambda: not _alive(run), "the run dies with its supervisor")
        finished_once(deployment, job_id, attempts=2)
    finally:
        kill_group(worker)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def _alive(pid: int) -> bool:
    """A zombie whose parent was killed is collected by init; here it counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
