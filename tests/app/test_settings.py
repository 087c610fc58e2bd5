"""Settings: complete from a home alone, overridden one by one, and all of them documented."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = {f"TEMPER_{name.upper()}" for name in Settings.model_fields}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_home_is_enough(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    home = tmp_path / "home"
    assert settings.database_url == f"sqlite:///{home}/temper.db"
    assert settings.storage_url == f"file://{home}/storage"
    assert settings.broker_url.startswith("redis+socket:///")
    assert settings.weights_path == home / "weights"
    assert not home.exists()


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(home=Path("x")).home == tmp_path / "x"


def test_each_part_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_DATABASE_URL", "postgresql+psycopg://u@h/d")
    monkeypatch.setenv("TEMPER_MAX_ROWS", "7")
    settings = Settings()
    assert (settings.database_url, settings.max_rows) == ("postgresql+psycopg://u@h/d", 7)


@pytest.mark.parametrize("variable", ["TEMPER_MAX_ROWS", "TEMPER_LEASE_SECONDS"])
def test_a_limit_is_positive(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "0")
    with pytest.raises(ValidationError):
        Settings()


def test_backbones_to_preload_are_named_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_PRELOAD", "temper-tiny, temper-tiny")
    assert Settings().preload == ("temper-tiny", "temper-tiny")
    monkeypatch.setenv("TEMPER_PRELOAD", "temper-huge")
    with pytest.raises(ValidationError, match="temper-tiny"):
        Settings()


def test_a_key_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_API_KEY", "a-very-secret-value")
    assert "a-very-secret-value" not in repr(Settings())


class TestDocumentation:
    def test_every_setting_is_documented_and_no_other(self) -> None:
        text = (ROOT / "docs" / "operations.md").read_text()
        assert set(re.findall(r"^\| `(TEMPER_[A-Z_]+)` \|", text, flags=re.MULTILINE)) == VARIABLES

    def test_the_example_names_only_real_ones(self) -> None:
        text = (ROOT / ".env.example").read_text()
        assert set(re.findall(r"TEMPER_[A-Z_]+(?==)", text)) <= VARIABLES
