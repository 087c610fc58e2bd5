"""The main road, by real processes: serve, fine-tune, forecast; and `serve` under bad circumstances."""

import csv
import io
import json
import os
import signal
import socket
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.architecture.repo import ROOT
from tests.data import data_path, data_root
from tests.e2e.live import Live, environment, run, serving, stop
from tsfm.series.load import InlineSeries, frame_from_inline
from tsfm.tasks.forecast import Forecaster

WAIT_SECONDS = 60.0
QUICK = ("--set", "max_epochs=2", "--set", "learning_rate=0.001", "--set", "max_windows_per_epoch=64")
METHODS = ["lora", "adalora", "lp_full", "trace"]
"""Methods that no other test makes a job of."""
PASSENGERS = ROOT / "examples" / "air_passengers.csv"
DEMAND = ROOT / "examples" / "hourly_demand.csv"
PUBLISHED = data_root() / "ttm_r2_512_96"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """With the weights of `ttm-r2` where this machine has them, as an operator would put them."""
    home = tmp_path_factory.mktemp("e2e") / "home"
    if PUBLISHED.exists():
        (home / "weights").mkdir(parents=True)
        (home / "weights" / "ttm-r2").symlink_to(PUBLISHED)
    with serving(home) as service:
        yield service


@pytest.fixture(scope="module")
def job(live: Live) -> dict[str, object]:
    done = live.temper("finetune", str(PASSENGERS), "--prediction-length", "12", *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def api(live: Live) -> httpx.Client:
    key = (live.home / "api_key").read_text().strip()
    return httpx.Client(base_url=live.url, headers={"authorization": f"Bearer {key}"}, timeout=60.0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def test_the_job_is_judged(job: dict[str, object]) -> None:
    assert job["status"] == "succeeded"
    names = {candidate["name"] for candidate in job["candidates"]}  # type: ignore[attr-defined]  # JSON
    assert names == {"tuned", "zero_shot", "naive", "seasonal_naive", "window_mean"}
    assert job["verdict"]["reason"]  # type: ignore[index]  # JSON
    assert job["gate"]["reason"] == "insufficient_evidence"  # type: ignore[index]  # JSON
    assert job["calibration"]["method"] == "cqr"  # type: ignore[index]  # JSON


def test_the_tuned_model_forecasts_the_next_year(live: Live, job: dict[str, object], tmp_path: Path) -> None:
    output = tmp_path / "forecast.csv"
    done = live.temper("forecast", f"{job['fine_tuned_model']}@1", "--levels", "80", "-o", str(output))
    assert done.returncode == 0, done.stderr
    with output.open() as source:
        rows = list(csv.DictReader(source))
    assert [row["timestamp"][:10] for row in rows[:2]] == ["1961-01-01", "1961-02-01"]
    assert len(rows) == 12
    assert all(float(row["lo-80"]) <= float(row["mean"]) <= float(row["hi-80"]) for row in rows)


def test_our_csv_is_the_service_s_csv(live: Live, job: dict[str, object], tmp_path: Path) -> None:
    output = tmp_path / "forecast.csv"
    model = f"{job['fine_tuned_model']}@1"
    live.temper("forecast", model, "--levels", "80", "--quantile-levels", "0.1", "-o", str(output))
    key = (live.home / "api_key").read_text().strip()
    answer = httpx.post(
        f"{live.url}/v1/forecast",
        headers={"authorization": f"Bearer {key}", "accept": "text/csv"},
        json={"model": model, "levels": [80], "quantile_levels": [0.1]},
        timeout=60.0,
    )
    assert output.read_text().splitlines()[0] == answer.text.splitlines()[0]
    assert len(output.read_text().splitlines()) == len(answer.text.splitlines())


def test_a_published_backbone_is_tuned_and_forecasts(live: Live, tmp_path: Path) -> None:
    """`ttm-r2` through the same road: points from the network, intervals from the history of the request."""
    data_path("ttm_r2_512_96/model.safetensors")
    caps = ("--set", "max_validation_windows=32", "--set", "max_test_windows=64")
    words = ("--prediction-length", "24", "--model", "ttm-r2", "--method", "full", *QUICK, *caps, "--json")
    done = live.temper("finetune", str(DEMAND), *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["status"], found["model"]) == ("succeeded", "ttm-r2")
    assert found["fine_tuned_model"].startswith("ft:ttm-r2:")
    assert {c["name"] for c in found["candidates"]} == {"tuned", "zero_shot", "naive", "seasonal_naive", "window_mean"}
    output = tmp_path / "forecast.csv"
    said = live.temper(
        "forecast", f"{found['fine_tuned_model']}@1", "--prediction-length", "30", "--levels", "80", "-o", str(output)
    )
    assert said.returncode == 0, said.stderr
    with output.open() as source:
        rows = list(csv.DictReader(source))
    assert len({row["timestamp"] for row in rows}) == 30
    assert all(float(row["lo-80"]) <= float(row["mean"]) <= float(row["hi-80"]) for row in rows)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("jobs", "list"), "succeeded"),
        (("models", "list"), "ft:temper-tiny:local:"),
        (("models", "list", "--all"), "seasonal_naive"),
        (("backbones",), "temper-tiny"),
        (("files", "list"), "air_passengers.csv"),
        (("keys", "list"), "first key"),
        (("forecast", "naive", "--file", str(PASSENGERS), "--prediction-length", "2"), "432"),
    ],
)
def test_lists_show_what_is_there(live: Live, job: dict[str, object], command: tuple[str, ...], shown: str) -> None:
    done = live.temper(*command)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    as_json = live.temper(*command, "--json")
    assert shown in json.dumps(json.loads(as_json.stdout))


def test_a_job_can_be_looked_at(live: Live, job: dict[str, object]) -> None:
    shown = live.temper("jobs", "show", str(job["id"]))
    assert "vs zero-shot" in shown.stdout
    events = live.temper("jobs", "events", str(job["id"]))
    followed = live.temper("jobs", "events", str(job["id"]), "--follow")
    last = events.stdout.strip().splitlines()[-1].split("  ")[-1]
    assert last in followed.stdout


def test_promoting_is_one_command(live: Live, job: dict[str, object]) -> None:
    name = str(job["fine_tuned_model"])
    assert live.temper("models", "promote", name, "1", "--alias", "champion").returncode == 0
    assert "champion" in live.temper("models", "show", name).stdout
    refused = live.temper("models", "promote", name, "7")
    assert refused.returncode == 1
    assert "error:" in refused.stderr


def test_a_download_is_a_whole_archive(live: Live, job: dict[str, object], tmp_path: Path) -> None:
    archive = tmp_path / "model.zip"
    done = live.temper("models", "download", str(job["fine_tuned_model"]), "1", "-o", str(archive))
    assert done.returncode == 0, done.stderr
    assert archive.read_bytes().startswith(b"PK")


def test_keys_are_made_and_revoked(live: Live) -> None:
    made = json.loads(live.temper("keys", "create", "ci", "--scope", "forecast", "--json").stdout)
    headers = {"authorization": f"Bearer {made['key']}"}
    assert httpx.get(f"{live.url}/v1/jobs", headers=headers).status_code == 403
    assert live.temper("keys", "revoke", made["id"]).returncode == 0
    assert httpx.get(f"{live.url}/v1/jobs", headers=headers).status_code == 401


def test_a_refusal_is_readable_and_has_its_exit_code(live: Live, tmp_path: Path) -> None:
    broken = tmp_path / "broken.csv"
    broken.write_text("timestamp,target\n2024-01-01,1\n2024-01-02,two\n2024-01-03,3\n")
    done = live.temper("files", "upload", str(broken))
    assert done.returncode == 1
    assert "two" in done.stderr
    as_json = live.temper("files", "upload", str(broken), "--json")
    assert json.loads(as_json.stderr)["error"]["details"]["num_problems"] == 1
    assert as_json.stdout == ""


def test_unknown_names_are_answered_with_the_known_ones(live: Live) -> None:
    done = live.temper("finetune", str(PASSENGERS), "--prediction-length", "12", "--method", "magic")
    assert done.returncode == 1
    assert "sff" in done.stderr


def test_the_home_is_private(live: Live) -> None:
    assert stat.S_IMODE(live.home.stat().st_mode) == 0o700
    assert stat.S_IMODE((live.home / "api_key").stat().st_mode) == 0o600


def test_a_second_service_in_the_same_home_is_refused(live: Live) -> None:
    done = run("serve", "--home", str(live.home), "--port", "0", environment=live.environment)
    assert done.returncode == 1
    assert f"(process {live.process.pid})" in done.stderr
    assert httpx.get(f"{live.url}/healthz").status_code == 200


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        home = tmp_path / "home"
        done = run("serve", "--home", str(home), "--port", port, environment=environment(home))
    assert done.returncode == 1
    assert f"127.0.0.1:{port} cannot be listened on" in done.stderr
    assert "--port" in done.stderr


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    env = environment(tmp_path, {"TEMPER_LEASE_SECONDS": "soon"})
    done = run("serve", "--home", str(tmp_path / "home"), "--port", "0", environment=env)
    assert done.returncode == 1
    assert "TEMPER_LEASE_SECONDS" in done.stderr


def test_without_a_service_the_exit_code_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    done = run("jobs", "list", "--url", url, environment=environment(tmp_path))
    assert done.returncode == 3
    assert "temper serve" in done.stderr


def processes_of(home: Path) -> list[int]:
    """Everything alive whose environment or command line names this home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            named = str(home).encode() in (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if named and alive and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_second_home_is_undisturbed_and_nothing_is_left_behind(live: Live, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise RuntimeError('not this package: it only lies here')")
    home = tmp_path / "second home"
    with serving(home, cwd=tmp_path) as other:
        assert (other.home / "api_key").read_text() != (live.home / "api_key").read_text()
        gateway = _pid_of(home, "app.cli.gateway")
        os.kill(gateway, signal.SIGKILL)
        wait_for(lambda: _pid_of(home, "app.cli.gateway") not in (0, gateway))
        wait_for(lambda: _ready(other.url))
        assert json.loads(other.temper("jobs", "list", "--json").stdout) == []
        assert httpx.get(f"{live.url}/readyz").status_code == 200
        assert stop(other.process) == 0
    assert processes_of(home) == []
    assert not (home / "address").exists()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving(home) as service:
        service.process.kill()
        service.process.wait()
        wait_for(lambda: processes_of(home) == [])
    with serving(home) as again:
        assert _ready(again.url)


def _pid_of(home: Path, module: str) -> int:
    for pid in processes_of(home):
        try:
            words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if module.encode() in words and b"app.cli.attach" not in words:
            return pid
    return 0


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5.0).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_job_whose_download_forecasts_like_the_service(
    live: Live, method: str, tmp_path: Path
) -> None:
    with PASSENGERS.open() as source:
        values = [float(row["target"]) for row in csv.DictReader(source)]
    history = {"item_id": "a", "start": "1949-01-01", "freq": "MS", "target": values}
    short = {"max_epochs": 1, "learning_rate": 0.001, "max_windows_per_epoch": 32, "max_validation_windows": 8}
    with api(live) as client, PASSENGERS.open("rb") as upload:
        fields = {"method": method, "prediction_length": "12", "hyperparameters": json.dumps(short)}
        made = client.post("/v1/jobs", data=fields, files={"file": ("passengers.csv", upload)}).json()
        url = f"/v1/jobs/{made['id']}"
        wait_for(lambda: client.get(url).json()["status"] in ("succeeded", "failed"))
        found = client.get(url).json()
        assert found["status"] == "succeeded", found["error"]
        assert (found["method"]["type"], found["progress"]["fraction"] >= 0.9) == (method, True)
        assert {"tuned", "zero_shot"} < {candidate["name"] for candidate in found["candidates"]}
        assert found["verdict"]["reason"], found["gate"]
        version = f"/v1/models/{found['fine_tuned_model']}/versions/1"
        asked = {"model": f"{found['fine_tuned_model']}@1", "prediction_length": 12}
        answer = client.post("/v1/forecast", json={**asked, "series": [history]}).json()
        served = client.get(version).json()
        with zipfile.ZipFile(io.BytesIO(client.get(f"{version}/download").content)) as archive:
            archive.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == sorted(served["files"])
    assert ("adapter_config.json" in served["files"]) == (method != "lp_full")
    frame = frame_from_inline([InlineSeries(**history)])
    forecast = Forecaster.open(folder, digest=served["digest"]).predict(frame, 12)
    assert forecast.point[0].tolist() == pytest.approx(answer["forecasts"][0]["mean"], rel=1e-5)
    assert 0 < found["num_trainable_parameters"] == served["manifest"]["num_trainable_parameters"]


def test_the_openai_client_walks_the_same_road(live: Live) -> None:
    """A file in parts, a job in OpenAI's words, run by the real worker; its events, its files, a forecast."""
    key = (live.home / "api_key").read_text().strip()
    settings = {"n_epochs": 2, "learning_rate_multiplier": 3, "max_windows_per_epoch": 64}
    with OpenAI(api_key=key, base_url=f"{live.url}/v1") as client:
        upload = client.uploads.upload_file_chunked(
            file=PASSENGERS, mime_type="text/csv", purpose="fine-tune", part_size=1_000
        )
        assert upload.file is not None
        jobs = client.fine_tuning.jobs
        job_id = jobs.create(
            model="temper-tiny",
            training_file=upload.file.id,
            method={"type": "supervised", "supervised": {"hyperparameters": settings}},  # type: ignore[typeddict-item]
            extra_body={"prediction_length": 12},
        ).id
        wait_for(lambda: jobs.retrieve(job_id).status in ("succeeded", "failed"))
        found = jobs.retrieve(job_id)
        assert found.status == "succeeded", found.error
        shown = found.hyperparameters
        assert (shown.n_epochs, shown.learning_rate_multiplier) == (2, 3.0)
        events = list(jobs.list_events(job_id, limit=2))
        assert events[0].data["status"] == "succeeded"  # type: ignore[index]  # JSON
        assert (events[0].type, events[-1].message) == ("message", "Job created and queued.")
        assert all(client.files.content(file_id).read() for file_id in found.result_files)
        assert found.fine_tuned_model in {model.id for model in client.models.list()}
        answer: Any = client.post("/forecast", cast_to=object, body={"model": f"{found.fine_tuned_model}@1"})
    assert len(answer["forecasts"][0]["mean"]) == 12
