"""Progress: throttled, but never where something must not be missed."""

import pytest

from tsfm.progress import Progress, Reporter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_steps_are_sent_at_most_twice_a_second() -> None:
    sent: list[Progress] = []
    clock = Clock()
    reporter = Reporter(sent.append, clock=clock)
    reporter.plan(1000)
    for step in range(1, 1001):
        clock.now += 0.01
        reporter.stepped(step, 1.0)
    assert 18 <= len(sent) <= 21


def test_phases_messages_and_evaluations_always_go_through() -> None:
    sent: list[Progress] = []
    reporter = Reporter(sent.append, clock=Clock())
    reporter.phase("training")
    reporter.stage(0, "Trying.")
    reporter.message("Out of memory.")
    reporter.evaluated(0.5, {"mase": 0.5})
    reporter.phase("saving", share=0.5)
    assert [p.phase for p in sent] == ["training"] * 4 + ["saving"]
    assert [p.message for p in sent] == [None, "Trying.", "Out of memory.", None, None]
    assert sent[3].validation_loss == 0.5
    assert sent[3].metrics == {"mase": 0.5}
    assert sent[4].metrics == {}
    assert sent[4].fraction == 0.95


def test_eta_comes_from_the_measured_pace_of_this_process() -> None:
    sent: list[Progress] = []
    clock = Clock()
    reporter = Reporter(sent.append, clock=clock)
    reporter.plan(200)
    reporter.stage(100, None)  # a resumed run: nothing is known yet
    assert sent[-1].eta_seconds is None
    for step in range(1, 11):
        clock.now += 2.0
        reporter.stepped(step, 1.0)
    assert (sent[-1].step, sent[-1].total_steps) == (110, 200)
    assert sent[-1].eta_seconds == 2.0 * 90
    assert sent[-1].fraction == pytest.approx(0.9 * 110 / 200)
