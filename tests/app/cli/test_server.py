"""How `temper serve` announces the key."""

import sys
from pathlib import Path

import pytest

from app.cli.server import announced_key


def test_the_key_itself_is_shown_on_a_terminal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_file = tmp_path / "api_key"
    key_file.write_text("tmpr_id_secret\n", encoding="utf-8")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert announced_key(key_file).startswith("tmpr_id_secret ")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert announced_key(key_file) == f"in {key_file}"


def test_a_key_of_the_environment_is_not_repeated() -> None:
    assert announced_key(None) == "the one in TEMPER_API_KEY."
