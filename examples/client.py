"""From a CSV to a forecast over HTTP: python examples/client.py URL KEY_FILE CSV PREDICTION_LENGTH."""

import sys
import time
from pathlib import Path
from typing import Any

import httpx


def main(url: str, key_file: str, csv: str, prediction_length: str) -> None:
    key = Path(key_file).read_text().strip()
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60.0) as api:
        job = start(api, Path(csv), prediction_length)
        while job["status"] not in {"succeeded", "failed", "cancelled"}:
            time.sleep(1.0)
            job = checked(api.get(f"/v1/jobs/{job['id']}"))
            progress = job["progress"] or {}
            sys.stderr.write(f"{job['status']} {progress.get('phase', '')} {100 * progress.get('fraction', 0):.0f} %\n")
        if job["status"] != "succeeded":
            sys.exit(f"{job['id']} {job['status']}: {job['error']}")
        sys.stderr.write(job["verdict"]["reason"] + "\n")
        answer = checked(api.post("/v1/forecast", json={"model": job["fine_tuned_model"], "levels": [80]}))
    for forecast in answer["forecasts"]:
        interval = forecast["intervals"]["80"]
        columns = zip(forecast["timestamps"], forecast["mean"], interval["lo"], interval["hi"], strict=True)
        for timestamp, mean, low, high in columns:
            sys.stdout.write(f"{forecast['item_id']},{timestamp},{mean:.1f},{low:.1f},{high:.1f}\n")


def start(api: httpx.Client, csv: Path, prediction_length: str) -> dict[str, Any]:
    """One multipart POST: the file, and what to do with it. An idempotency key would make it safe to repeat."""
    with csv.open("rb") as file:
        fields = {
            "prediction_length": prediction_length,
            "hyperparameters": '{"max_epochs": 3, "learning_rate": 0.001}',  # short, for an example
        }
        return checked(api.post("/v1/jobs", data=fields, files={"file": (csv.name, file)}))


def checked(response: httpx.Response) -> dict[str, Any]:
    """The answer, or the service's own words for what is wrong."""
    if response.is_error:
        sys.exit(response.json()["error"]["message"])
    answer: dict[str, Any] = response.json()
    return answer


if __name__ == "__main__":
    main(*sys.argv[1:])
