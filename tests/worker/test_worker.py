"""The whole worker: Celery on a real Valkey, a real run of a small backbone, orders in mid-job."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from app.db import session_scope
from app.jobs.repository import Jobs
from app.registry.aliases import set_alias
from app.registry.repository import Registry
from app.storage import blob_key, file_key
from tests.app.jobs.factories import TENANT, events_of
from tests.backend import Backend
from tests.worker.live import Live, kill_group, live, wait_until

LONG = 10
"""Epochs of 41 steps: some ten seconds."""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, backend: Backend, valkey: str) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("home"), backend, valkey) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def worker(deployment: Live) -> Iterator[subprocess.Popen[bytes]]:
    process = deployment.start_worker()
    yield process
    kill_group(process)


def test_a_job_runs_from_message_to_registered_version(deployment: Live, worker: object) -> None:
    job_id = deployment.submit(max_epochs=1, landscape={"windows": 2})
    job = deployment.wait_for_end(job_id)
    assert (job.status, job.attempt, job.model_version) == ("succeeded", 1, 1), (job.error, deployment.log())
    assert job.result is not None
    assert {c["name"] for c in job.result["candidates"]} >= {"tuned", "zero_shot", "naive", "seasonal_naive"}
    assert job.progress is not None
    kinds = [event.type for event in events_of(deployment.engine, job_id)]
    assert kinds.count("metrics") >= 1
    with session_scope(deployment.engine, read_only=True) as session:
        registry = Registry(session=session, tenant_id=TENANT)
        model = registry.model(str(job.fine_tuned_model))
        assert model is not None
        version = registry.newest(model)
        left = [registry.file(file_id) for file_id in job.result["result_files"]]
    assert list(job.result["landscape"]["points"]) == ["pretrained", "tuned"]
    own, pictures = ["step_metrics.csv", "metrics.json", "model_card.md"], ["landscape.json", "landscape.png"]
    assert [file and file.filename for file in left] == own + pictures
    assert version is not None
    assert version.digest == job.result["digest"]
    assert all(deployment.store.exists(blob_key(sha256)) for sha256 in version.files.values())
    wait_until(lambda: not any((deployment.settings.home / "runs").iterdir()), "the folder of the run is removed")


def test_the_next_version_of_a_name_meets_its_incumbent_and_is_fitted_again(deployment: Live, worker: object) -> None:
    first = deployment.wait_for_end(deployment.submit(max_epochs=1))
    name = str(first.fine_tuned_model)
    with session_scope(deployment.engine) as session:
        set_alias(session, tenant_id=TENANT, name=name, alias="production", version=1)
    job_id = deployment.submit(max_epochs=1, register_as=name, refit=True)
    job = deployment.wait_for_end(job_id)
    assert job.result is not None, (job.error, deployment.log())
    gate = job.result["gate"]
    assert gate["versus"]["incumbent"]["for_information"] is False
    # The same test rows as the jobs before it, and the same recipe and seed: nobody gains on itself.
    earlier = (first.result or {})["gate"]["verdict_number"]
    assert (gate["verdict_number"], gate["versus"]["incumbent"]["gain"]) == (earlier + 1, 0.0)
    assert (gate["passed"], gate["fallback"]) == (False, "incumbent")
    assert (job.fine_tuned_model, job.model_version, job.result["refit"]["version"]) == (name, 2, 3)
    with session_scope(deployment.engine, read_only=True) as session:
        registry = Registry(session=session, tenant_id=TENANT)
        model = registry.model(name)
        assert model is not None
        two, three = (registry.version(model, number) for number in (2, 3))
        alias = registry.alias(model, "production")
        metrics, *others = (registry.file(file_id) for file_id in job.result["result_files"])
    assert two is not None
    assert three is not None
    assert alias is not None
    assert (two.incumbent, two.fallback, two.judged, three.judged, alias.version) == (1, "incumbent", True, False, 1)
    assert two.digest != three.digest
    assert metrics is not None
    assert [other and other.filename for other in others] == ["metrics.json", "model_card.md"]
    assert (metrics.filename, metrics.purpose) == ("step_metrics.csv", "fine-tune-results")
    assert deployment.store.get_bytes(file_key(metrics.id)).startswith(b"step,train_loss,valid_loss\n")


def test_orders_reach_a_run_in_mid_job(deployment: Live, worker: object) -> None:
    """One job, whose message is lost, through pause, resume and cancel."""
    job_id = deployment.submit(max_epochs=LONG, send=False)
    deployment.wait_for_step(job_id)
    with session_scope(deployment.engine) as session:
        Jobs(session=session, tenant_id=TENANT).request_pause(job_id)
    wait_until(lambda: deployment.job(job_id).status == "paused", "the pause")
    paused_at = (deployment.job(job_id).progress or {})["step"]
    assert list((deployment.settings.home / "runs" / job_id / "state").iterdir())
    deployment.forget_progress(job_id)
    with session_scope(deployment.engine) as session:
        Jobs(session=session, tenant_id=TENANT).resume(job_id)
    deployment.wait_for_step(job_id)
    assert (deployment.job(job_id).progress or {})["step"] >= paused_at, "it goes on where it stopped"
    with session_scope(deployment.engine) as session:
        Jobs(session=session, tenant_id=TENANT).request_cancel(job_id)
    assert deployment.wait_for_end(job_id).status == "cancelled"
    assert deployment.run_pids(job_id) == []
    assert deployment.num_versions(job_id) == 0


def test_sigterm_gives_the_job_back_and_ends_the_worker(deployment: Live, worker: subprocess.Popen[bytes]) -> None:
    """The last test of this module: it ends the worker that the others share."""
    job_id = deployment.submit(max_epochs=LONG)
    deployment.wait_for_step(job_id)
    os.killpg(worker.pid, signal.SIGTERM)  # the whole group, as `temper serve` does
    assert worker.wait(timeout=30) == 0, deployment.log()
    job = deployment.job(job_id)
    assert (job.status, job.attempt, job.owner) == ("queued", 0, None)
    assert deployment.run_pids(job_id) == []
