"""The broker dies under a running and a waiting job, and comes back with its log or empty."""

import pytest

from tests.faults.deployment import Deployment


@pytest.mark.parametrize("empty", [False, True], ids=["with its log", "empty"])
def test_the_broker_is_killed_and_comes_back(deployment: Deployment, empty: bool) -> None:
    with deployment.worker() as worker:
        running = deployment.submit("steps 60")
        deployment.wait_for_step(running)
        waiting = deployment.submit("steps 1")
        deployment.kill_broker()
        unsent = deployment.submit("steps 1")
        parked = deployment.submit("steps 1", num_messages=0)
        deployment.ask("pause", parked)
        deployment.ask("resume", parked)
        deployment.restart_broker(empty=empty)
        deployment.succeeds(running, waiting, unsent, parked)
        assert deployment.job(running).attempt == 1, "the run did not notice"
        assert worker.poll() is None
