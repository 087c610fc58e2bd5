"""Runs that hang: a frozen one is killed after a while without a sign of life, an endless one at its limit."""

import os
import signal

from tests.app.jobs.factories import events_of
from tests.faults.deployment import LONG, SHORT, Deployment


def test_a_frozen_run_is_killed_and_tried_again(deployment: Deployment) -> None:
    """Of the attempts, that many because a busy machine may take longer than this to start a run."""
    job = deployment.submit(LONG)
    with deployment.worker(TEMPER_STALL_SECONDS="8", TEMPER_MAX_ATTEMPTS="30"):
        os.kill(deployment.wait_for_step(job), signal.SIGSTOP)
        deployment.script(job, SHORT)
        deployment.succeeds(job)
    assert deployment.job(job).attempt >= 2
    assert any("no sign of life" in event.message for event in events_of(deployment.engine, job))


def test_an_endless_run_is_stopped_at_its_limit(deployment: Deployment) -> None:
    job = deployment.submit(LONG)
    with deployment.worker(TEMPER_MAX_RUN_SECONDS="3"):
        ended = deployment.wait_for_end(job)
        assert (ended.status, ended.attempt, (ended.error or {}).get("code")) == ("failed", 1, "time_limit")
        deployment.settled()
