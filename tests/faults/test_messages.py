"""Messages that come twice, six times or never, and workers that race for one job: each job runs and registers once."""

from collections.abc import Iterator

import pytest

from app.queue import RUN_JOB
from tests.app.jobs.factories import events_of
from tests.faults.deployment import Deployment, kill


@pytest.fixture(scope="module", autouse=True)
def workers(deployment: Deployment) -> Iterator[None]:
    """Two, of this deployment."""
    pair = [deployment.start_worker() for _ in range(2)]
    yield
    for worker in pair:
        kill(worker)


def starts(deployment: Deployment, job_id: str) -> int:
    return [event.message for event in events_of(deployment.engine, job_id)].count("Run started.")


def test_six_messages_and_two_workers_start_each_job_once(deployment: Deployment) -> None:
    jobs = [deployment.submit("steps 5", num_messages=6) for _ in range(2)]
    deployment.succeeds(*jobs)
    assert [starts(deployment, job) for job in jobs] == [1, 1]
    assert [deployment.job(job).attempt for job in jobs] == [1, 1]


def test_a_message_that_was_never_sent_is_sent_by_the_sweeper(deployment: Deployment) -> None:
    job = deployment.submit("steps 2", num_messages=0)
    deployment.succeeds(job)
    assert starts(deployment, job) == 1


def test_a_message_for_a_job_that_has_ended_or_never_was_changes_nothing(deployment: Deployment) -> None:
    ended = deployment.submit("steps 1")
    deployment.succeeds(ended)
    for job in (ended, "ftjob-unknown"):
        for _ in range(6):
            deployment.queue.send(RUN_JOB, job)
    after = deployment.submit("steps 1")
    deployment.succeeds(after)
    assert starts(deployment, ended) == 1
