"""`temper anomalies` and `temper impute` against a running service: what they show, write and refuse."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.cli.command import Result, temper
from tests.app.forecasts.conftest import Gateway, gateway
from tests.app.tasks import Models, csv_of, models_for, wave

__all__ = ["gateway"]
LENGTH = 300
GAP = range(100, 105)


@pytest.fixture(scope="module")
def scored(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory, toy_weights: Path) -> Iterator[Models]:
    with models_for("anomaly_detection", gateway, tmp_path_factory.mktemp("scored"), toy_weights) as found:
        yield found


@pytest.fixture
def at(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Options that lead to the service."""
    client = gateway.clients["local"]
    monkeypatch.setenv("TEMPER_API_KEY", client.headers["authorization"].removeprefix("Bearer "))
    return ["--url", str(client.base_url), "--home", str(tmp_path)]


@pytest.fixture
def spiked(tmp_path: Path) -> Path:
    values = wave(LENGTH)
    values[280] = 60.0
    path = tmp_path / "spiked.csv"
    path.write_bytes(csv_of(values))
    return path


@pytest.fixture
def holed(tmp_path: Path) -> Path:
    values: list[float | None] = [*wave(LENGTH)]
    for i in GAP:
        values[i] = None
    path = tmp_path / "holed.csv"
    path.write_bytes(csv_of(values))
    return path


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.err
    return result


class TestAnomalies:
    def test_events_are_shown(self, at: list[str], spiked: Path) -> None:
        shown = done(
            temper("anomalies", "naive", "--file", str(spiked), "--detection-size", "48", "--level", "97", *at)
        )
        assert "of 48 points are anomalies at level 97" in shown.err
        assert "normal is the history that was given" in shown.err
        assert "2026-01-12T16:00:00" in shown.out

    def test_json_is_the_service_s_own(self, at: list[str], spiked: Path) -> None:
        words = ("--prediction-length", "12", "--scoring", "forecast", "--level", "95.5", "--json")
        answer = done(
            temper("anomalies", "temper-tiny", "--file", str(spiked), "--detection-size", "48", *words, *at)
        ).json
        assert (answer["object"], answer["level"], answer["prediction_length"]) == ("anomalies", 95.5, 12)
        assert len(answer["series"][0]["score"]) == 48

    def test_every_point_is_written(self, at: list[str], spiked: Path, tmp_path: Path) -> None:
        out = tmp_path / "anomalies.csv"
        words = ("--detection-size", "48", "-o", str(out))
        result = done(temper("anomalies", "seasonal_naive", "--file", str(spiked), *words, *at))
        assert (result.out, result.err) == ("", f"wrote {out}\n")
        with out.open() as source:
            rows = list(csv.DictReader(source))
        assert len(rows) == 48
        assert {row["timestamp"] for row in rows if row["is_anomaly"] == "true"} >= {"2026-01-12T16:00:00"}

    def test_a_system_of_chosen_series(self, at: list[str], tmp_path: Path) -> None:
        columns = [wave(LENGTH, seed=k) for k in range(3)]
        columns[1][280] = 60.0
        lines = ["timestamp,a,b,c"]
        for i, row in enumerate(zip(*columns, strict=True)):
            lines.append(f"2026-01-{1 + i // 24:02d}T{i % 24:02d}:00:00," + ",".join(map(str, row)))
        path = tmp_path / "wide.csv"
        path.write_text("\n".join(lines) + "\n")
        words = ("--multivariate", "--item-id", "a", "--item-id", "b", "--detection-size", "48")
        answer = done(temper("anomalies", "naive", "--file", str(path), *words, "--json", *at)).json
        assert set(answer["system"]["contributions"]) == {"a", "b"}
        shown = done(temper("anomalies", "naive", "--file", str(path), *words, *at))
        assert "(together)" in shown.out

    def test_a_tuned_model_says_so(self, at: list[str], spiked: Path, scored: Models) -> None:
        shown = done(temper("anomalies", scored.won.name, "--file", str(spiked), *at))
        assert "normal is the model's calibration block" in shown.err

    def test_refusals_are_read_out(self, gateway: Gateway, at: list[str], spiked: Path) -> None:
        wrong = temper("anomalies", gateway.won.name, "--file", str(spiked), *at)
        assert (wrong.exit_code, "is for forecast, not for anomaly_detection" in wrong.err) == (1, True)
        assert "from 50 to 99.99" in temper("anomalies", "naive", "--file", str(spiked), "--level", "30", *at).err
        assert "There is no file" in temper("anomalies", "naive", "--file", "nowhere.csv", *at).err


class TestImpute:
    def test_gaps_are_shown(self, at: list[str], holed: Path) -> None:
        shown = done(temper("impute", "seasonal_fill", "--file", str(holed), *at))
        assert "5 points filled in 1 gaps, 0 left" in shown.err
        assert "2026-01-05T04:00:00" in shown.out

    def test_json_is_the_service_s_own(self, at: list[str], holed: Path) -> None:
        words = ("--levels", "80", "--levels", "95", "--quantile-levels", "0.5", "--long-gaps", "leave", "--json")
        answer = done(temper("impute", "linear_fill", "--file", str(holed), *words, *at)).json
        (one,) = answer["series"]
        assert (answer["object"], set(one["intervals"]), set(one["quantiles"])) == (
            "imputations",
            {"80", "95"},
            {"0.5"},
        )

    def test_the_whole_series_is_written(self, at: list[str], holed: Path, tmp_path: Path) -> None:
        out = tmp_path / "filled.csv"
        result = done(temper("impute", "linear_fill", "--file", str(holed), "-o", str(out), *at))
        assert (result.out, result.err) == ("", f"wrote {out}\n")
        with out.open() as source:
            rows = list(csv.DictReader(source))
        assert [i for i, row in enumerate(rows) if row["imputed"] == "true"] == list(GAP)
        assert len(rows) == LENGTH
        assert all(float(rows[i]["lo-80"]) < float(rows[i]["hi-80"]) for i in GAP)

    def test_refusals_are_read_out(self, at: list[str], holed: Path) -> None:
        wrong = temper("impute", "naive", "--file", str(holed), *at)
        assert (wrong.exit_code, "not for imputation" in wrong.err) == (1, True)
        assert temper("impute", "linear_fill", "--file", str(holed), "--long-gaps", "cut", *at).exit_code == 1
