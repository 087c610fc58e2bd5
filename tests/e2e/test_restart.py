"""Stopping a service in mid-job loses nothing: the next start goes on with the job and registers one version."""

import json
import time
from pathlib import Path
from typing import Any

from tests.e2e.live import Live, serving
from tests.e2e.test_road import PASSENGERS

WAIT_SECONDS = 120.0
LONG = ("--set", "max_epochs=30", "--set", "learning_rate=0.0005", "--set", "max_windows_per_epoch=64")


def job_of(live: Live, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(live.temper("jobs", "show", job_id, "--json").stdout)
    return found


def wait_for_a_step(live: Live, job_id: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while ((job_of(live, job_id)["progress"] or {}).get("step") or 0) < 1:
        assert time.monotonic() < deadline, "the job never took a step"
        time.sleep(0.2)


def test_a_job_outlives_the_service_that_started_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving(home) as live:
        started = live.temper("finetune", str(PASSENGERS), "--prediction-length", "12", *LONG, "--no-follow")
        job_id = started.stdout.strip()
        assert job_id.startswith("ftjob-"), started.stderr
        wait_for_a_step(live, job_id)
    with serving(home) as live:
        followed = live.temper("jobs", "follow", job_id, "--json")
        assert followed.returncode == 0, followed.stderr
        job = json.loads(followed.stdout)
        assert job["model_version"] == 1
        shown = json.loads(live.temper("models", "show", job["fine_tuned_model"], "--json").stdout)
        assert [version["version"] for version in shown["versions"]] == [1]
