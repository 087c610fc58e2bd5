"""All 49 pairs of job states, the allowed ones listed by hand."""

from itertools import product

import pytest

from app.jobs.states import ACTIVE, HELD, TERMINAL, TRANSITIONS, JobStatus, allowed, sources

ALLOWED = {
    ("queued", "running"),
    ("queued", "cancelled"),
    ("queued", "paused"),
    ("queued", "failed"),
    ("running", "running"),
    ("running", "queued"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelling"),
    ("running", "paused"),
    ("cancelling", "cancelled"),
    ("paused", "queued"),
    ("paused", "cancelled"),
}


@pytest.mark.parametrize(("source", "target"), list(product(JobStatus, JobStatus)))
def test_each_pair_is_allowed_exactly_when_listed(source: JobStatus, target: JobStatus) -> None:
    assert allowed(source, target) == ((source.value, target.value) in ALLOWED)
    assert (source in sources(target)) == allowed(source, target)


def test_there_are_seven_states_and_three_ends() -> None:
    assert len(JobStatus) == 7
    assert set(TRANSITIONS) == set(JobStatus)
    assert {"succeeded", "failed", "cancelled"} == TERMINAL


def test_every_state_that_is_not_an_end_leads_to_one() -> None:
    for start in set(JobStatus) - TERMINAL:
        reached = {start}
        while True:
            more = reached | {t for s in reached for t in TRANSITIONS[s]}
            if more == reached:
                break
            reached = more
        assert reached & TERMINAL, start


def test_held_and_active_states_are_not_ends() -> None:
    assert not HELD & TERMINAL
    assert not ACTIVE & TERMINAL
    assert HELD <= ACTIVE
