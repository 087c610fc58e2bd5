"""A run fetches its backbone's weights: seen in the job's events, stopped between two chunks, failed in words."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import save

from app.queue import FakeQueue
from app.tables import Job
from tests import toy
from tests.app.jobs.factories import events_of
from tests.backend import Backend
from tests.hub import Hub, serving
from tests.worker.live import Live, live
from tsfm.backbones.places import read_lock
from tsfm.backbones.weights import tensors_of
from tsfm.errors import Cancelled
from tsfm.progress import Progress
from worker import fetching
from worker.protocol import Assignment
from worker.supervise import Worker
from worker.tasks import run_job


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    weights = save({k: v.contiguous() for k, v in tensors_of(toy.Toy.from_config(toy.CONFIG, seed=1)).items()})
    files = {"model.safetensors": weights, "config.json": json.dumps(toy.CONFIG).encode()}
    with serving(Hub(repo="toys/toy", files=files)) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


@pytest.fixture
def deployment(tmp_path: Path, backend: Backend) -> Iterator[Live]:
    with live(tmp_path / "home", backend, "redis+socket:///nowhere") as found:
        shutil.rmtree(found.settings.weights_path / "toy")
        yield found


def ran(deployment: Live) -> Job:
    """A job of "toy", run by a worker that may fetch weights."""
    worker = Worker(
        settings=deployment.settings.model_copy(update={"pull_weights": True}),
        engine=deployment.engine,
        store=deployment.store,
        queue=FakeQueue(),
        command=(sys.executable, "-m", "tests.worker.pull_run"),
    )
    job_id = deployment.submit(max_epochs=1, send=False)
    run_job(worker, job_id)
    return deployment.job(job_id)


def test_a_job_fetches_pins_and_says_so(deployment: Live, hub: Hub) -> None:
    hub.cut_at = 600
    job = ran(deployment)
    assert job.status == "succeeded", job.error
    said = [event.message for event in events_of(deployment.engine, job.id)]
    assert "Fetching the weights of toy (Apache-2.0) from toys/toy, revision main." in said
    lock = read_lock(deployment.settings.weights_path / "toy")
    assert f"The weights of toy are here: sha256:{lock['sha256']}." in said
    assert lock["added_by"] == job.id
    assert job.result is not None
    assert job.result["manifest"]["backbone"]["digest"] == f"sha256:{lock['sha256']}"


def test_what_is_not_as_named_fails_the_job(deployment: Live, hub: Hub) -> None:
    hub.lies = True
    job = ran(deployment)
    assert (job.status, (job.error or {})["code"]) == ("failed", "weights_digest_mismatch")
    assert not (deployment.settings.weights_path / "toy").exists()


def test_it_can_be_stopped_and_says_how_far_it_is(deployment: Live, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(*_: Any, watch: Any, **__: Any) -> SimpleNamespace:
        watch(fetching.Download(name="model.safetensors", done_bytes=5, total_bytes=10))
        return SimpleNamespace(digest="sha256:0")

    monkeypatch.setattr(fetching.shelf, "pull", half)
    monkeypatch.setattr(fetching, "MESSAGE_SECONDS", 0.0)
    monkeypatch.setattr(fetching, "may_be_pulled", lambda spec: True)
    assignment = Assignment(
        job_id="ftjob-1", file_id="f", request={"backbone": "toy", "initialisation": "pretrained"}, reading={}
    )
    seen: list[Progress] = []
    fetching.fetch_missing(assignment, deployment.settings, seen.append, lambda: None)
    assert {one.phase for one in seen} == {"loading"}
    assert [one.message for one in seen][1:] == [
        "model.safetensors: 5 of 10 bytes.",
        "The weights of toy are here: sha256:0.",
    ]
    with pytest.raises(Cancelled):
        fetching.fetch_missing(assignment, deployment.settings, seen.append, lambda: "cancel")
