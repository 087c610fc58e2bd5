"""A job through the API on each family of backbones, at a tiny size with random weights: train, register, forecast."""

import math
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.live import Live, serving
from tests.e2e.test_road import api
from tsfm import catalog

WAIT_SECONDS = 240.0
"""For one job, on a machine whose cores have other things to do."""
HOURS = 480
CSV = "timestamp,load\n" + "".join(
    f"2026-01-{1 + i // 24:02d}T{i % 24:02d}:00:00,{10 + 3 * math.sin(i * math.pi / 12) + 0.1 * (i % 7):.3f}\n"
    for i in range(HOURS)
)
FAMILIES = {spec.family: spec for spec in reversed(catalog.BACKBONES.values()) if spec.family != "tiny"}
"""The first of each in the catalogue."""
METHODS = ("sff", "trace", "lora", "full")
"""In turn: what they do on every backbone is tested by the contract suite."""
SMALL = {
    "max_epochs": 1,
    "learning_rate": 1e-3,
    "batch_size": 8,
    "max_windows_per_epoch": 24,
    "max_validation_windows": 8,
    "max_calibration_windows": 8,
    "max_test_windows": 16,
    "evaluations_per_epoch": 1,
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("backbones") / "home") as service:
        yield service


@pytest.fixture(scope="module")
def jobs(live: Live) -> dict[str, dict[str, Any]]:
    """One by family, all submitted at once."""
    with api(live) as client:
        file = client.post("/v1/files", files={"file": ("load.csv", CSV)}).raise_for_status().json()
        return {
            family: client.post(
                "/v1/jobs",
                json={
                    "training_file": file["id"],
                    "prediction_length": 12,
                    "model": FAMILIES[family].name,
                    "method": METHODS[i % len(METHODS)],
                    "initialisation": {"type": "random", "size": "tiny"},
                    "hyperparameters": SMALL,
                },
            )
            .raise_for_status()
            .json()
            for i, family in enumerate(sorted(FAMILIES))
        }


def test_all_eight_are_there() -> None:
    assert set(FAMILIES) == {"timer", "timesfm", "moment", "units", "moirai", "chronos", "ttm", "sundial"}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_it_trains_is_registered_and_forecasts(live: Live, jobs: dict[str, dict[str, Any]], family: str) -> None:
    with api(live) as client:
        job = ended(client, jobs[family]["id"])
        assert (job["status"], job["error"]) == ("succeeded", None)
        assert job["initialisation"] == {"type": "random", "seed": 0, "size": "tiny"}
        assert {c["name"] for c in job["candidates"]} >= {"tuned", "zero_shot", *catalog.RIVALS}
        assert job["calibration"] is not None
        assert job["num_trainable_parameters"] > 0
        registered = client.get(f"/v1/models/{job['fine_tuned_model']}").raise_for_status().json()
        assert registered["id"] == job["fine_tuned_model"]
        (version,) = client.get(f"/v1/models/{job['fine_tuned_model']}/versions").raise_for_status().json()["data"]
        assert version["initialisation"] == job["initialisation"]
        asked = {"model": f"{job['fine_tuned_model']}@1", "prediction_length": 12, "levels": [80]}
        said = client.post("/v1/forecast", json=asked).raise_for_status().json()
    (forecast,) = said["forecasts"]
    assert forecast["digest"] == job["digest"]
    assert len(forecast["mean"]) == 12
    assert all(math.isfinite(value) for value in forecast["mean"])
    between = zip(forecast["intervals"]["80"]["lo"], forecast["intervals"]["80"]["hi"], strict=True)
    assert all(low <= high for low, high in between)


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job once it is over; all were submitted at once, so the first waits for one and the last for all."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        if found["status"] in {"succeeded", "failed", "cancelled"}:
            return found
        assert time.monotonic() < deadline, f"still {found['status']}"
        time.sleep(0.2)
