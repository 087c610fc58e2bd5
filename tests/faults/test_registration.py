"""Killed between the artifact's last byte and its registration: the next attempt registers the same bytes, once."""

import os
import signal
from pathlib import Path

from tests.faults.deployment import Deployment, kill, wait_until


def stored(deployment: Deployment, before: set[str], *, artifacts: int = 1) -> bool:
    """Whether all three files of each artifact have come."""
    return len(set(deployment.store.list("blobs/")) - before) == 3 * artifacts


def test_the_worker_dies_with_the_result_in_its_hands(deployment: Deployment) -> None:
    """Two artifacts: the judged one and its refit are registered together, once, and the result file with them."""
    before = set(deployment.store.list("blobs/"))
    job = deployment.submit("steps 1", "hold", "refit")
    with deployment.worker() as worker:
        deployment.wait_for_step(job)
        with deployment.frozen_writes():
            deployment.script(job, "steps 1", "refit")
            (deployment.settings.home / "script" / job).unlink()  # the run may end; its supervisor cannot write
            wait_until(lambda: stored(deployment, before, artifacts=2), "the blobs are stored")
            kill(worker)
            wait_until(lambda: not deployment.pids(), "worker and run are gone")
    assert deployment.job(job).status == "running"
    deployment.script(job, "steps 1", "refit")
    with deployment.worker():
        deployment.succeeds(job)
    ended = deployment.job(job)
    assert ended.attempt == 2
    assert ended.result is not None
    assert ended.result["refit"]["version"] == 2
    assert len(ended.result["result_files"]) == 1


def test_the_pool_process_alone_dies_there(deployment: Deployment) -> None:
    before = set(deployment.store.list("blobs/"))
    job = deployment.submit("steps 1", "hold")
    with deployment.worker():
        run = deployment.wait_for_step(job)
        pool = _parent(run)
        with deployment.frozen_writes():
            (deployment.settings.home / "script" / job).unlink()
            wait_until(lambda: stored(deployment, before), "the blobs are stored")
            os.kill(pool, signal.SIGKILL)
            wait_until(lambda: pool not in deployment.pids(), "it is gone")
        deployment.succeeds(job)
    assert deployment.job(job).attempt == 2


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
