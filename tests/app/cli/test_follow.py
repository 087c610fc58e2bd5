"""Watching a job where no terminal is: a line per phase, patience with a service that is away."""

from collections.abc import Iterator

import httpx
import pytest

from app.cli import follow as following
from app.cli.client import EXIT_JOB_FAILED, Client, CommandError, Refused
from app.cli.follow import follow, require_success


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.0)


def job(status: str, **progress: object) -> dict[str, object]:
    return {"id": "ftjob-1", "status": status, "progress": progress or None}


def client(answers: Iterator[object]) -> Client:
    def answer(_: httpx.Request) -> httpx.Response:
        given = next(answers)
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, httpx.Response) else httpx.Response(200, json=given)

    return Client("http://temper.test", None, transport=httpx.MockTransport(answer))


def test_a_line_for_each_phase_and_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    training = {"phase": "training", "total_steps": 100}
    answers = [
        job("queued"),
        job("running", **training, step=1, fraction=0.01, eta_seconds=75.0, train_loss=1.25),
        job("running", **training, step=2, fraction=0.02),
        job("running", **training, step=60, fraction=0.6, validation_loss=0.5),
        job("succeeded"),
    ]
    with client(iter(answers)) as api:
        assert follow(api, "ftjob-1")["status"] == "succeeded"
    assert capsys.readouterr().err.splitlines() == [
        "  0 %  queued",
        "  1 %  training  step 1/100  loss 1.25  about 1:15 left",
        " 60 %  training  step 60/100  validation 0.5",
        "100 %  succeeded",
    ]


def test_a_service_that_is_restarted_is_waited_for() -> None:
    away: list[object] = [httpx.ConnectError("refused"), httpx.Response(503, json={"error": {"message": "starting"}})]
    with client(iter([*away, job("succeeded")])) as api:
        assert follow(api, "ftjob-1")["status"] == "succeeded"


def test_a_job_that_is_not_there_is_not_waited_for() -> None:
    answer = httpx.Response(404, json={"error": {"message": "There is no job."}})
    with client(iter([answer])) as api, pytest.raises(Refused):
        follow(api, "ftjob-1")


def test_a_failed_job_gives_its_reason_and_its_own_exit_code() -> None:
    failed = {**job("failed"), "error": {"code": "non_finite", "message": "A loss was not finite."}}
    with pytest.raises(CommandError, match=r"ftjob-1 failed \[non_finite\]: A loss was not finite") as failure:
        require_success(failed)
    assert failure.value.exit_code == EXIT_JOB_FAILED


def test_a_cancelled_job_is_no_success() -> None:
    with pytest.raises(CommandError, match="cancelled"):
        require_success(job("cancelled"))
