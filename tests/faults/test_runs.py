"""Runs that die of memory, of a signal, or of a full disk: each job ends with its reason, the worker lives
on and takes the next one."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.app.jobs.factories import events_of
from tests.faults.deployment import Deployment, kill, wait_until


@pytest.fixture(scope="module", autouse=True)
def worker(deployment: Deployment) -> Iterator[subprocess.Popen[bytes]]:
    process = deployment.start_worker()
    yield process
    kill(process)


def fails(deployment: Deployment, worker: subprocess.Popen[bytes], job_id: str, code: str) -> int:
    """The job fails with this code, and the same worker does the next one; answers the attempts it took."""
    job = deployment.wait_for_end(job_id)
    assert (job.status, (job.error or {}).get("code")) == ("failed", code), (job.error, deployment.log())
    deployment.succeeds(deployment.submit("steps 1"))
    assert worker.poll() is None
    return job.attempt


def test_a_run_out_of_memory_fails_at_once(deployment: Deployment, worker: subprocess.Popen[bytes]) -> None:
    assert fails(deployment, worker, deployment.submit("memory"), "out_of_memory") == 1


def test_a_run_on_a_full_disk_fails_at_once(deployment: Deployment, worker: subprocess.Popen[bytes]) -> None:
    assert fails(deployment, worker, deployment.submit("disk"), "storage_full") == 1


def test_a_run_that_is_killed_each_time_spends_its_attempts(
    deployment: Deployment, worker: subprocess.Popen[bytes]
) -> None:
    job = deployment.submit("die")
    assert fails(deployment, worker, job, "worker_lost") == 3
    reasons = [event.message for event in events_of(deployment.engine, job) if "killed by SIGKILL" in event.message]
    assert len(reasons) == 3


def test_a_storage_that_hangs_up_costs_attempts_not_the_job(deployment: Deployment) -> None:
    job = deployment.submit("steps 1", "flaky 2")
    deployment.succeeds(job)
    assert deployment.job(job).attempt == 3


def test_a_storage_that_never_answers_fails_the_job(deployment: Deployment, worker: subprocess.Popen[bytes]) -> None:
    job = deployment.submit("steps 1", "flaky 99")
    assert fails(deployment, worker, job, "worker_lost") == 3
    assert "storage" in (deployment.job(job).error or {})["message"]


def test_a_cancelled_run_that_hears_nothing_is_killed_with_its_group(deployment: Deployment) -> None:
    job = deployment.submit("sleep")
    run = deployment.wait_for_step(job)
    deployment.ask("cancel", job)
    assert deployment.wait_for_end(job).status == "cancelled"
    wait_until(lambda: run not in deployment.run_pids(job), "the run is gone")
    deployment.settled()
