"""The deployment of docker-compose.yml by its own commands: migrate, two gateways, a worker, one PostgreSQL and S3."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from app.settings import Settings
from tests.architecture.repo import ROOT
from tests.backend import Backend, only_scale_out, variables_of
from tests.deploy.test_files import OURS, command_of
from tests.server import free_port

pytestmark = only_scale_out
KEY = "tmpr_deployed_" + "k" * 32
WAIT_SECONDS = 120.0
QUICK = '{"max_epochs": 1, "learning_rate": 0.001, "max_windows_per_epoch": 64}'


def environment(home: Path, places: dict[str, str], broker_url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TEMPER_")}
    settings = Settings(home=home, broker_url=broker_url, **places)
    return {**kept, **variables_of(settings), "TEMPER_API_KEY": KEY, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def running(service: str, home: Path, variables: dict[str, str], *, port: int = 0) -> Iterator[None]:
    """A container of this service, without the container: its own home, and nothing shared but the settings."""
    words = command_of(OURS[service])
    if "--port" in words:
        words[words.index("--port") + 1] = str(port)
        words[words.index("--host") + 1] = "127.0.0.1"
    command = [sys.executable, *words[1:]] if words[0] == "python" else [sys.executable, "-m", *words]
    home.mkdir()
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(
            command, cwd=home, env={**variables, "TEMPER_HOME": str(home)}, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            finally:
                process.kill()


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.2)
    return found


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_what_one_gateway_takes_another_serves(tmp_path: Path, backend: Backend, valkey: str) -> None:
    with backend.empty_database(tmp_path) as database_url, contextlib.ExitStack() as stack:
        places = {"database_url": database_url, "storage_url": f"s3://temper/{tmp_path.name}"}
        variables = environment(tmp_path / "home", places, valkey)
        migrate = [sys.executable, *command_of(OURS["migrate"])[1:]]
        assert subprocess.run(migrate, cwd=tmp_path, env=variables, check=False).returncode == 0
        clients = []
        for number in range(2):
            port = free_port()
            stack.enter_context(running("gateway", tmp_path / f"gateway{number}", variables, port=port))
            client = httpx.Client(
                base_url=f"http://127.0.0.1:{port}",
                headers={"authorization": f"Bearer {KEY}"},
                timeout=60.0,
                trust_env=False,
            )
            clients.append(stack.enter_context(client))
        stack.enter_context(running("worker", tmp_path / "worker", variables))
        first, second = clients
        for client in clients:
            wait_for(lambda client=client: is_ready(client), "a gateway that is ready")

        csv = (ROOT / "examples" / "air_passengers.csv").read_bytes()
        form = {"prediction_length": "12", "hyperparameters": QUICK}
        job = first.post("/v1/jobs", files={"file": ("air.csv", csv)}, data=form).json()
        assert job["status"] == "queued", job
        done = wait_for(lambda: ended(second, job["id"]), "the end of the job")
        assert done["status"] == "succeeded", done["error"]
        name = f"{done['fine_tuned_model']}@1"
        answers = [client.post("/v1/forecast", json={"model": name}).json() for client in clients]
        assert answers[0]["forecasts"] == answers[1]["forecasts"]
        assert answers[0]["digest"] == done["digest"]
        assert len(answers[0]["forecasts"][0]["mean"]) == 12
        assert second.get(f"/v1/files/{job['training_file']}/content").content == csv


def ended(client: httpx.Client, job_id: str) -> dict[str, Any] | None:
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return job if job["status"] in ("succeeded", "failed", "cancelled") else None
