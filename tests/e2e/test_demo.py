"""`temper demo` from end to end, with fewer steps than a person gets to see."""

from pathlib import Path
from typing import Any

import pytest

from app.cli import demo
from tests.app.cli.command import temper
from tests.e2e.test_road import processes_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    few: dict[str, Any] = {"max_epochs": 1, "max_windows_per_epoch": 64, "max_validation_windows": 16}
    few |= {"max_calibration_windows": 32, "max_test_windows": 32}
    monkeypatch.setattr(demo, "HYPERPARAMETERS", {**demo.HYPERPARAMETERS, **few})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("TEMPER_API_KEY", raising=False)


def test_the_demo_leaves_a_forecast_a_picture_and_no_process(tmp_path: Path) -> None:
    home = tmp_path / "a home"
    result = temper("demo", "--home", str(home), "--output", str(tmp_path))
    assert result.exit_code == 0, result.err
    for text in ("air_passengers.csv: 1 series", "hourly_demand.csv: 5 series", "100 %", "Done in"):
        assert text in result.err
    for text in ("Verdict", "zero-shot temper-tiny", "seasonal naive", "tuned (sff)"):
        assert text in result.out
    lines = (tmp_path / "forecast.csv").read_text().splitlines()
    assert lines[0] == "item_id,timestamp,mean,lo-80,hi-80"
    assert len(lines) == 1 + 5 * demo.PREDICTION_LENGTH
    assert (tmp_path / "forecast.png").read_bytes().startswith(b"\x89PNG")
    assert processes_of(home) == []
