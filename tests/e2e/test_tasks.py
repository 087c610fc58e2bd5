"""Jobs that tune for anomaly scores and for gaps, by real processes: submitted, trained, judged, and asked."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.live import Live, serving
from tests.e2e.test_backbones import SMALL, ended
from tests.e2e.test_road import api

HOURS = 480
HORIZON = 12
VALUES = [10 + 3 * math.sin(i * math.pi / 12) + 0.1 * (i % 7) for i in range(HOURS)]
TASKS = ("anomaly_detection", "imputation")
GAP = range(300, 306)
BUDGET = {**SMALL, "max_calibration_windows": 64}
"""Enough of them to resolve 80 per cent."""


def csv_of(values: list[float | None]) -> str:
    """A time without a value is left out."""
    rows = [f"2026-01-{1 + i // 24:02d}T{i % 24:02d}:00:00,{v:.3f}\n" for i, v in enumerate(values) if v is not None]
    return "timestamp,load\n" + "".join(rows)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("tasks") / "home") as service:
        yield service


@pytest.fixture(scope="module")
def jobs(live: Live) -> dict[str, dict[str, Any]]:
    """One by task, both submitted at once, when they are over."""
    values: list[float | None] = [*VALUES]
    with api(live) as client:
        file = client.post("/v1/files", files={"file": ("load.csv", csv_of(values))}).raise_for_status().json()
        asked = {"training_file": file["id"], "prediction_length": HORIZON, "method": "full", "hyperparameters": BUDGET}
        sent = [client.post("/v1/jobs", json={**asked, "task": task}).raise_for_status().json() for task in TASKS]
        return {task: ended(client, job["id"]) for task, job in zip(TASKS, sent, strict=True)}


def test_anomalies_of_a_tuned_model(live: Live, jobs: dict[str, dict[str, Any]]) -> None:
    job = jobs["anomaly_detection"]
    assert (job["status"], job["error"]) == ("succeeded", None)
    assert (job["task"], job["scoring"], job["verdict"]["metric"]) == ("anomaly_detection", "forecast", "pinball")
    assert job["calibration"]["detection"]["tuned"]["num_scores"] > 0
    name = job["fine_tuned_model"]
    with api(live) as client:
        model = client.get(f"/v1/models/{name}").raise_for_status().json()
        assert (model["tasks"], model["prediction_length"]) == (["anomaly_detection"], HORIZON)
        own = client.post("/v1/anomalies", json={"model": f"{name}@1"}).raise_for_status().json()
        (one,) = own["series"]
        assert (own["calibrated"], own["digest"], one["fallback"]) == (True, job["digest"], None)
        assert (one["in_sample"][0], one["in_sample"][-1]) == (True, False)
        assert one["in_sample"] == sorted(one["in_sample"], reverse=True)
        target = [*VALUES[:-1], 99.0]
        series = [{"item_id": "load", "start": "2026-01-01T00:00:00", "freq": "h", "target": target}]
        for asked in (name, f"{name}@1"):
            body = {"model": asked, "series": series, "detection_size": 24}
            said = client.post("/v1/anomalies", json=body).raise_for_status().json()
            assert said["calibrated"] is True, asked
            assert said["series"][0]["is_anomaly"][-1] is True, asked
        refused = client.post("/v1/forecast", json={"model": name, "prediction_length": HORIZON})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "wrong_task")


def test_gaps_filled_by_a_tuned_model(live: Live, jobs: dict[str, dict[str, Any]]) -> None:
    job = jobs["imputation"]
    assert (job["status"], job["error"]) == ("succeeded", None)
    assert (job["task"], job["scoring"]) == ("imputation", None)
    assert {one["name"] for one in job["candidates"]} == {"tuned", "zero_shot", "linear_fill", "seasonal_fill"}
    name = job["fine_tuned_model"]
    target = [None if i in GAP else value for i, value in enumerate(VALUES)]
    series = [{"item_id": "load", "start": "2026-01-01T00:00:00", "freq": "h", "target": target}]
    with api(live) as client:
        for asked in (name, f"{name}@1"):
            said = client.post("/v1/imputations", json={"model": asked, "series": series}).raise_for_status().json()
            (one,) = said["series"]
            assert (said["num_imputed"], said["calibrated"]) == (len(GAP), True), asked
            assert [value for i, value in enumerate(one["values"]) if i not in GAP] == [
                value for i, value in enumerate(VALUES) if i not in GAP
            ]
            assert all(abs(one["values"][i] - VALUES[i]) < 1.0 for i in GAP), asked
            band = one["intervals"]["80"]
            assert all(band["lo"][i] <= band["hi"][i] for i in GAP), asked
        assert (said["digest"], one["fallback"]) == (job["digest"], None)


def test_the_commands_ask_the_same_models(live: Live, jobs: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    holed: list[float | None] = [None if i in GAP else value for i, value in enumerate(VALUES)]
    path, out = tmp_path / "holed.csv", tmp_path / "filled.csv"
    path.write_text(csv_of(holed))
    done = live.temper("impute", jobs["imputation"]["fine_tuned_model"], "--file", str(path), "-o", str(out))
    assert done.returncode == 0, done.stderr
    with out.open() as source:
        assert [i for i, row in enumerate(csv.DictReader(source)) if row["imputed"] == "true"] == list(GAP)
    done = live.temper("anomalies", jobs["anomaly_detection"]["fine_tuned_model"], "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["null"]["source"] == "calibration"
