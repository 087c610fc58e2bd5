"""What a person reads."""

import httpx
import pytest

from app.cli.client import Refused
from app.cli.output import print_estimate, print_failure, print_verdict


def refused(status: int, **error: object) -> Refused:
    return Refused(httpx.Response(status, json={"error": error}, headers={"x-request-id": "req-9"}))


def test_problems_are_listed_with_their_place_and_their_mend(capsys: pytest.CaptureFixture[str]) -> None:
    problem = {"row": 17, "column": "load", "value": "n.a.", "reason": "not a number", "fix": "leave the cell empty"}
    details = {"problems": [problem], "num_problems": 31}
    print_failure(refused(422, message="31 cells are not numbers.", param="file", code="bad_cells", details=details))
    shown = capsys.readouterr().err
    for text in ("31 cells are not numbers.", "17", "load", "n.a.", "leave the cell empty", "and 30 more", "bad_cells"):
        assert text in shown
    assert "req-9" not in shown, "a request id helps only with our own errors"


def test_have_and_need_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_failure(refused(422, message="Too short.", code="series_too_short", details={"have": 10, "need": 40}))
    shown = capsys.readouterr().err
    assert "have  10" in shown
    assert "need  40" in shown


def test_our_own_errors_say_what_to_quote(capsys: pytest.CaptureFixture[str]) -> None:
    print_failure(refused(500, message="Something went wrong here.", code="internal_error"))
    assert "req-9" in capsys.readouterr().err


def test_markup_in_a_message_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_failure(refused(422, message="There is no [bold]column[/].", code="x"))
    assert "[bold]column[/]" in capsys.readouterr().err


def candidate(name: str, error: float) -> dict[str, object]:
    return {"name": name, "validation": {"mase": error + 0.1}, "test": {"mase": error, "mae": 10 * error}}


def job(verdict: dict[str, object], **candidates: float) -> dict[str, object]:
    return {
        "model": "temper-tiny",
        "method": {"type": "sff", "alpha": 0.9},
        "fine_tuned_model": "ft:temper-tiny:local:x:1",
        "model_version": 1,
        "candidates": [candidate(name, error) for name, error in candidates.items()],
        "verdict": verdict,
    }


def test_the_comparison_is_ordered_by_test_error(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = {"winner": "tuned", "promoted": True, "fallback": None, "reason": "It won on 40 test windows."}
    print_verdict(job(verdict, seasonal_naive=1.5, zero_shot=1.0, tuned=0.5))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["tuned (sff)", "zero-shot temper-tiny", "seasonal naive"]
    assert "-50.0 %" in lines[1]
    assert "It won on 40 test windows." in "\n".join(lines)


def test_what_the_intervals_held_is_said_where_it_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = {"winner": "tuned", "promoted": True, "fallback": None, "reason": "It won."}
    made = job(verdict, tuned=0.5)
    print_verdict({**made, "calibration": {"coverage": {"80": 0.785, "95": None}}})
    assert "held 78.5 % inside its 80 % interval." in capsys.readouterr().out
    print_verdict({**made, "calibration": {"coverage": None}})
    assert "inside its" not in capsys.readouterr().out


def test_a_lost_verdict_says_what_is_served_instead(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = {"winner": "zero_shot", "promoted": False, "fallback": "zero_shot", "reason": "It did not win."}
    print_verdict(job(verdict, zero_shot=1.0, tuned=1.5))
    shown = capsys.readouterr().out
    assert "answers with zero-shot temper-tiny" in shown
    assert "ft:temper-tiny:local:x:1@1 always serves the tuned weights" in shown


def test_a_beaten_incumbent_stays_where_zero_shot_was_not_beaten(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = {"winner": "tuned", "promoted": False, "fallback": "zero_shot", "reason": "It did not win."}
    made = {**job(verdict, zero_shot=1.0, tuned=0.99), "gate": {"versus": {"incumbent": {"beaten": True}}}}
    print_verdict({**made, "register_as": made["fine_tuned_model"]})
    assert "answers with incumbent;" in capsys.readouterr().out
    print_verdict({**made, "register_as": "ft:deleted"})
    assert "answers with zero-shot temper-tiny;" in capsys.readouterr().out


def test_without_a_test_block_validation_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    made = job({"winner": "tuned", "promoted": False, "fallback": None, "reason": "No test."}, tuned=0.5, zero_shot=1.0)
    for one in made["candidates"]:  # type: ignore[attr-defined]  # a list, as built above
        one["test"] = None
    print_verdict(made)
    assert "test MASE" not in capsys.readouterr().out


ESTIMATE = {
    "seconds": 3723.4,
    "memory_bytes": 480_000_000,
    "windows": 3441,
    "steps": 1485,
    "trainable_parameters": 973_440,
    "basis": "measured",
    "device": "cpu",
    "note": None,
}


def test_a_dry_run_shows_every_figure_and_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"model": "temper-tiny", "context_length": 512, "prediction_length": 24, "freq": "h"}
    print_estimate({**asked, "method": {"type": "sff", "chosen": None, "alpha": 0.9}, "estimate": ESTIMATE})
    shown = capsys.readouterr().out
    for text in (
        "temper-tiny, sff (alpha 0.9)",
        "512 → 24",
        "1 h 02 min",
        "480 MB",
        "1,485",
        "973,440",
        "measured on cpu",
    ):
        assert text in shown


def test_an_estimate_of_the_catalogue_says_why_it_is_no_measured_one(capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"model": "temper-tiny", "context_length": 512, "prediction_length": 24, "freq": "h"}
    estimate = {**ESTIMATE, "basis": "table", "device": None, "note": "Not measured: no worker is up."}
    print_estimate({**asked, "method": {"type": "auto", "chosen": None}, "estimate": estimate})
    shown = capsys.readouterr()
    assert "from the catalogue" in shown.out
    assert "no worker is up" in shown.err


def test_a_job_says_what_it_took_and_what_it_was_expected_to(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = {"winner": "tuned", "promoted": True, "fallback": None, "reason": "It won."}
    made = job(verdict, zero_shot=1.0, tuned=0.5)
    made["method"] = {"type": "auto", "chosen": "lora"}
    made["timing"] = {"training_seconds": 80.0, "seconds": 95.2, "peak_memory_bytes": 512_000_000}
    made["estimate"] = {**ESTIMATE, "seconds": 8.25, "basis": "table"}
    print_verdict(made)
    shown = capsys.readouterr().out
    assert "tuned (auto: lora)" in shown
    assert "Took 1 min 35 s and 512 MB; expected were 8.2 s and 480 MB (from the catalogue)." in shown
