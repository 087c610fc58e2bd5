"""Where a command finds its service and its key."""

from pathlib import Path

import pytest

from app.cli.options import ADDRESS_FILE, KEY_FILE, connect


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPER_API_KEY", raising=False)


def authorization(home: Path, url: str | None = None) -> tuple[str, str | None]:
    with connect(url, home) as api:
        return api.url, api._http.headers.get("authorization")


def test_a_home_knows_the_address_and_the_key(tmp_path: Path) -> None:
    (tmp_path / ADDRESS_FILE).write_text("http://127.0.0.1:4711\n")
    (tmp_path / KEY_FILE).write_text("tmpr_secret\n")
    assert authorization(tmp_path) == ("http://127.0.0.1:4711", "Bearer tmpr_secret")


def test_an_address_that_is_given_wins(tmp_path: Path) -> None:
    (tmp_path / ADDRESS_FILE).write_text("http://127.0.0.1:4711\n")
    assert authorization(tmp_path, "http://elsewhere:1/")[0] == "http://elsewhere:1"


def test_the_environment_s_key_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / KEY_FILE).write_text("tmpr_secret\n")
    monkeypatch.setenv("TEMPER_API_KEY", "tmpr_other")
    assert authorization(tmp_path)[1] == "Bearer tmpr_other"


def test_without_a_home_the_default_is_asked_without_a_key(tmp_path: Path) -> None:
    assert authorization(tmp_path / "none") == ("http://127.0.0.1:8000", None)
