"""Stopping a service in mid-job loses nothing: the next start goes on with the job and registers one version."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.live import Live, serving
from tests.e2e.test_road import PASSENGERS

WAIT_SECONDS = 120.0
_SETTINGS = ("max_epochs=200", "early_stopping=false", "learning_rate=0.0005", "max_windows_per_epoch=64")
LONG = tuple(word for setting in _SETTINGS for word in ("--set", setting))
"""Some hundred steps: far from done when the first one is seen, whatever the machine."""


def job_of(live: Live, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(live.temper("jobs", "show", job_id, "--json").stdout)
    return found


def wait_for_a_step(live: Live, job_id: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while ((job_of(live, job_id)["progress"] or {}).get("step") or 0) < 1:
        assert time.monotonic() < deadline, "the job never took a step"
        time.sleep(0.2)


@contextlib.contextmanager
def stopped(job_id: str) -> Iterator[None]:
    """The job's run stands still, and so runs for as long as the block lasts."""
    listed = subprocess.run(["pgrep", "-f", f"worker.run_job {job_id}"], capture_output=True, text=True, check=True)
    run = int(listed.stdout)
    os.kill(run, signal.SIGSTOP)
    yield
    os.kill(run, signal.SIGCONT)


def read_by_a_worker(live: Live, path: Path) -> str:
    """What becomes of a file that is too large to be read while its sender waits."""
    start = datetime(2020, 1, 1)
    path.write_text("timestamp,load\n" + "".join(f"{start + timedelta(hours=i)},{i % 24}\n" for i in range(2_000)))
    headers = {"authorization": f"Bearer {(live.home / 'api_key').read_text().strip()}", "content-type": "text/csv"}
    with httpx.Client(base_url=live.url, headers=headers, trust_env=False) as client:
        file = client.post("/v1/files", content=path.read_bytes()).json()
        assert file["status"] == "processing"
        deadline = time.monotonic() + WAIT_SECONDS
        while file["status"] == "processing":
            assert time.monotonic() < deadline, "the file was never read"
            time.sleep(0.1)
            file = client.get(f"/v1/files/{file['id']}").json()
    return str(file["status"])


def test_a_job_outlives_the_service_that_started_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving(home, extra={"TEMPER_INLINE_PARSE_BYTES": "20000"}) as live:
        started = live.temper("finetune", str(PASSENGERS), "--prediction-length", "12", *LONG, "--no-follow")
        job_id = started.stdout.strip()
        assert job_id.startswith("ftjob-"), started.stderr
        wait_for_a_step(live, job_id)
        with stopped(job_id):
            assert read_by_a_worker(live, tmp_path / "large.csv") == "processed", "it does not wait for the job"
    with serving(home) as live:
        followed = live.temper("jobs", "follow", job_id, "--json")
        assert followed.returncode == 0, followed.stderr
        job = json.loads(followed.stdout)
        assert job["model_version"] == 1
        shown = json.loads(live.temper("models", "show", job["fine_tuned_model"], "--json").stdout)
        assert [version["version"] for version in shown["versions"]] == [1]
