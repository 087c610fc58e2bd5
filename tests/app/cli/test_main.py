"""The command as a whole: help, usage, exit codes, short forms."""

import re
import socket
from pathlib import Path

import pytest

from app.cli import follow as following
from app.cli.main import with_list
from tests.app.cli.command import temper


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_help_lists_every_command_and_the_exit_codes() -> None:
    shown = temper("--help").out
    for name in ("serve", "demo", "finetune", "forecast", "jobs", "models", "backbones", "files", "keys"):
        assert re.search(rf"\b{name}\b", shown)
    assert "3 no service answers" in re.sub(r"\s+", " ", shown)


def test_a_noun_alone_means_its_list() -> None:
    assert with_list(["jobs"]) == ["jobs", "list"]
    assert with_list(["models", "--json"]) == ["models", "list", "--json"]
    assert with_list(["jobs", "show", "x"]) == ["jobs", "show", "x"]
    assert with_list(["jobs", "--help"]) == ["jobs", "--help"]
    assert with_list(["backbones", "--json"]) == ["backbones", "list", "--json"]
    assert with_list([]) == []


def test_wrong_usage_is_2() -> None:
    assert temper("finetune", "a.csv").exit_code == 2
    assert temper("conjure").exit_code == 2


def test_nobody_there_is_3_and_readable(closed: str, tmp_path: Path) -> None:
    result = temper("jobs", "--url", closed, "--home", str(tmp_path))
    assert result.exit_code == 3
    assert result.out == ""
    assert result.err.startswith("error: No Temper service answers at")
    assert '"mend"' in temper("jobs", "--url", closed, "--home", str(tmp_path), "--json").err


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    result = temper(
        "files", "download", "file-1", "-o", str(tmp_path / "no" / "where.csv"), "--url", "http://127.0.0.1:1"
    )
    assert result.exit_code == 1
    assert "No such file or directory" in result.err


def test_the_bar_shows_phase_loss_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following.err, "_force_terminal", True)
    progress = {
        "phase": "training",
        "step": 3,
        "total_steps": 4,
        "fraction": 0.75,
        "eta_seconds": 62,
        "train_loss": 0.5,
    }
    bar = following._Bar()
    with bar:
        bar.show({"status": "running", "progress": progress})
    shown = capsys.readouterr().err
    for text in ("75 %", "training", "step 3/4", "loss 0.5", "about 1:02 left"):
        assert text in shown
