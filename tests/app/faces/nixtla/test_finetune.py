"""`/v2/finetune` and `/v2/finetuned_models`: jobs and versions of the registry, by the client's names."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import select

from app.db import session_scope
from app.faces.nixtla import finetune
from app.faces.nixtla.schemas import FinetuneIn
from app.faces.nixtla.series import Clock, history_of
from app.jobs.repository import transition
from app.jobs.schemas import JobCreate
from app.jobs.states import JobStatus
from app.registry.register import register_version
from app.tables import File, Job, ModelVersion
from tests.app.faces.nixtla import wire
from tests.app.faces.nixtla.working import working
from tests.app.forecasts.conftest import Gateway, gateway
from tests.app.tasks import with_scopes
from tests.app.tuned import Tuned, register, store_blobs

__all__ = ["gateway"]
PATH, MODELS = "/v2/finetune", "/v2/finetuned_models"
WAIT_SECONDS = 60.0


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(finetune, "SPACE_SECONDS", 0.1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer begins before any job has ended."""
    monkeypatch.setattr(finetune, "QUIET_SECONDS", 0.1)


@pytest.fixture(autouse=True)
def no_job_is_left(gateway: Gateway) -> Iterator[None]:
    """A job under way is what a repeated call finds."""
    yield
    for job in jobs(gateway):
        if job.status not in ("succeeded", "failed", "cancelled"):
            gateway.clients["local"].post(f"/v1/jobs/{job.id}/cancel")


def asked(*many: Any, **more: Any) -> dict[str, Any]:
    """T, as `NixtlaClient.finetune` of 0.7.2 sends it."""
    series = wire.wired(*(many or (wire.values(300), wire.values(200, seed=1))))
    del series["X"]
    return {
        "series": series,
        "model": "timegpt-1",
        "freq": "h",
        "finetune_steps": 4,
        "finetune_depth": 1,
        "finetune_loss": "default",
        "output_model_id": None,
        "finetuned_model_id": None,
        **more,
    }


def jobs(gateway: Gateway) -> list[Job]:
    """Those that calls of this face became, newest first."""
    with session_scope(gateway.engine, read_only=True) as session:
        found = session.scalars(select(Job).order_by(Job.created_at.desc())).all()
        return [job for job in found if finetune.FINGERPRINT in (job.user_metadata or {})]


@contextlib.contextmanager
def calling(gateway: Gateway, body: dict[str, Any], **more: str) -> Iterator[tuple[Job, "Future[httpx.Response]"]]:
    """The call in a thread, and its job."""
    before = {job.id for job in jobs(gateway)}
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(wire.post, gateway, PATH, body, **more)
        try:
            yield new_job(gateway, before, future), future
        finally:
            no_job_waits(gateway)


def new_job(gateway: Gateway, before: set[str], future: "Future[httpx.Response]") -> Job:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        new = [job for job in jobs(gateway) if job.id not in before]
        if new:
            return new[0]
        assert not future.done(), future.result().text
        assert time.monotonic() < deadline, "no job was made"
        time.sleep(0.02)


def no_job_waits(gateway: Gateway) -> None:
    for job in jobs(gateway):
        if job.status not in ("succeeded", "failed", "cancelled"):
            gateway.clients["local"].post(f"/v1/jobs/{job.id}/cancel")


def succeed(gateway: Gateway, job: Job, tuned: Tuned, *, fallback: str | None = None) -> None:
    """As a worker's end would leave it, with another artifact's weights."""
    store_blobs(gateway.store, tuned)
    verdict = {**tuned.result["verdict"], "promoted": fallback is None, "fallback": fallback}
    result = {**tuned.result, "verdict": verdict}
    with session_scope(gateway.engine) as session:
        transition(session, job.id, JobStatus.RUNNING, message="Run started.")
        row = session.get_one(Job, job.id)
        register_version(session, tenant_id=row.tenant_id, job_row=row, result=result, files=tuned.files)
        transition(session, job.id, JobStatus.SUCCEEDED, message="Done.")


def fail(gateway: Gateway, job: Job) -> None:
    error = {"code": "non_finite", "message": "The loss left the numbers at step 3.", "param": None}
    with session_scope(gateway.engine) as session:
        transition(session, job.id, JobStatus.FAILED, message="Failed.", values={"error": error})


def spec_of(gateway: Gateway, body: dict[str, Any]) -> JobCreate:
    """The job that a call would become."""
    sent = FinetuneIn.model_validate_json(json.dumps(body))
    frame = history_of(sent.series, Clock(freq=sent.freq), max_series=500).frame
    return finetune.job_spec(gateway.app.state.services, sent, frame, fingerprint="f")


class TestJob:
    @pytest.mark.parametrize(
        ("depth", "method"),
        [
            (1, "linear_probe"),
            (2, {"type": "trace", "keep_ratio": 0.25}),
            (3, {"type": "trace", "keep_ratio": 0.5}),
            (4, {"type": "trace", "keep_ratio": 0.75}),
            (5, "sff"),
        ],
    )
    def test_depth_is_the_method(self, gateway: Gateway, depth: int, method: Any) -> None:
        spec = spec_of(gateway, asked(finetune_depth=depth, model="timegpt-1"))
        assert (spec.model, spec.method) == ("temper-tiny", method)

    @pytest.mark.parametrize(
        ("steps", "schedule"),
        [
            (1, {"max_epochs": 1, "max_windows_per_epoch": 32}),
            (4, {"max_epochs": 1, "max_windows_per_epoch": 128}),
            (200, {"max_epochs": 40}),
        ],
    )
    def test_steps_are_the_schedule_s(self, gateway: Gateway, steps: int, schedule: dict[str, int]) -> None:
        """These series have 150 windows, five batches."""
        assert spec_of(gateway, asked(finetune_steps=steps)).hyperparameters == schedule

    @pytest.mark.parametrize(
        ("length", "freq", "prediction_length"),
        [(300, "h", 24), (120, "h", 14), (50, "MS", 3), (144, "MS", 12), (2000, "15min", 96), (60, "YS", 5)],
    )
    def test_the_horizon_is_a_season_or_what_fits(
        self, gateway: Gateway, length: int, freq: str, prediction_length: int
    ) -> None:
        assert spec_of(gateway, asked(wire.values(length), freq=freq)).prediction_length == prediction_length

    def test_its_file_holds_what_was_sent(self, gateway: Gateway) -> None:
        holes: list[float | None] = [*wire.values(200)]
        holes[50] = None
        with calling(gateway, asked(holes, wire.values(100, seed=1))) as (job, _):
            pass
        with session_scope(gateway.engine, read_only=True) as session:
            reading = session.get_one(File, job.training_file).reading
        assert reading is not None
        assert (reading["num_series"], reading["num_points"], reading["freq"]) == (2, 300, "h")
        text = gateway.clients["local"].get(f"/v1/files/{job.training_file}/content").text.splitlines()
        assert text[:2] == ["item_id,timestamp,target", f"0,2001-01-01T00:00:00,{holes[0]}"]
        assert text[51] == "0,2001-01-03T02:00:00,"

    def test_integer_times(self, gateway: Gateway) -> None:
        with calling(gateway, asked(freq="MS"), nixtla_client_version="0.9.0") as (job, _):
            assert job.resolved["freq"] == "1"


class TestAnswer:
    def test_a_job_that_ends_soon_is_answered_with_its_model(self, gateway: Gateway, tuned: Tuned) -> None:
        with calling(gateway, asked(finetune_steps=5)) as (job, future):
            succeed(gateway, job, tuned)
            answer = future.result()
        assert answer.status_code == 200, answer.text
        got = answer.json()
        assert got["finetuned_model_id"].startswith("mv-")
        assert (got["job_id"], got["promoted"]) == (job.id, True)
        forecast = wire.ok(gateway, "/v2/forecast", wire.forecast(finetuned_model_id=got["finetuned_model_id"]))
        assert (forecast["model"], forecast["version"]) == (got["served_model"], 1)

    def test_one_that_fails_soon_is_refused(self, gateway: Gateway) -> None:
        with calling(gateway, asked(finetune_steps=6)) as (job, future):
            fail(gateway, job)
            answer = future.result()
        assert wire.said(answer)[:2] == (422, "non_finite")
        assert job.id in answer.json()["detail"]

    def test_one_that_is_cancelled_is_refused(self, gateway: Gateway) -> None:
        with calling(gateway, asked(finetune_steps=7)) as (job, future):
            gateway.clients["local"].post(f"/v1/jobs/{job.id}/cancel")
            assert wire.said(future.result())[:2] == (422, "job_state")

    @pytest.mark.usefixtures("impatient")
    def test_a_long_one_keeps_the_connection_busy(self, gateway: Gateway, tuned: Tuned) -> None:
        with calling(gateway, asked(finetune_steps=8)) as (job, future):
            time.sleep(0.5)
            assert not future.done()
            succeed(gateway, job, tuned)
            answer = future.result()
        assert answer.text.startswith("  ")
        assert answer.json()["job_id"] == job.id

    @pytest.mark.usefixtures("impatient")
    def test_one_that_fails_late_names_no_model(self, gateway: Gateway) -> None:
        with calling(gateway, asked(finetune_steps=9)) as (job, future):
            time.sleep(0.3)
            fail(gateway, job)
            answer = future.result()
        assert answer.status_code == 200, "it was out already"
        assert (answer.json()["error"]["code"], "finetuned_model_id" in answer.json()) == ("non_finite", False)


class TestRepeats:
    def test_the_same_call_finds_the_job_of_the_first(self, gateway: Gateway, tuned: Tuned) -> None:
        body = asked(finetune_steps=10, output_model_id="twice")
        with calling(gateway, body) as (job, future), ThreadPoolExecutor(1) as pool:
            again = pool.submit(wire.post, gateway, PATH, body)
            time.sleep(0.5)
            succeed(gateway, job, tuned)
            assert again.result().json() == future.result().json()
            assert future.result().json()["finetuned_model_id"] == "twice"
        assert wire.ok(gateway, PATH, body)["job_id"] == job.id, (
            "it has just ended: the first answer may have been lost"
        )

    def test_ten_at_once_are_one_job(self, gateway: Gateway, tuned: Tuned) -> None:
        body = asked(finetune_steps=11)
        before = {job.id for job in jobs(gateway)}
        with ThreadPoolExecutor(10) as pool:
            futures = [pool.submit(wire.post, gateway, PATH, body) for _ in range(10)]
            job = new_job(gateway, before, futures[0])
            time.sleep(2.0)
            succeed(gateway, job, tuned)
            answers = [future.result() for future in futures]
        assert {answer.json()["job_id"] for answer in answers} == {job.id}
        assert [one.id for one in jobs(gateway) if one.id not in before] == [job.id]

    def test_a_failed_one_is_tried_anew(self, gateway: Gateway) -> None:
        for _ in range(2):
            with calling(gateway, asked(finetune_steps=12)) as (job, future):
                fail(gateway, job)
                assert future.result().status_code == 422

    def test_another_s_is_not_found(self, gateway: Gateway) -> None:
        body = asked(finetune_steps=13)
        with calling(gateway, body) as (mine, _), calling(gateway, body, tenant="other") as (theirs, future):
            assert mine.id != theirs.id
            gateway.clients["other"].post(f"/v1/jobs/{theirs.id}/cancel")
            future.result()

    def test_a_taken_id_is_422(self, gateway: Gateway, tuned: Tuned) -> None:
        with calling(gateway, asked(output_model_id="load_1")) as (job, future):
            other = asked(wire.values(250), output_model_id="load_1")
            assert wire.refused(gateway, PATH, other) == (422, "model_id_taken", "output_model_id")
            succeed(gateway, job, tuned)
            assert future.result().json()["finetuned_model_id"] == "load_1"
        assert wire.refused(gateway, PATH, other)[:2] == (422, "model_id_taken")
        assert gateway.clients["local"].delete(f"{MODELS}/load_1").status_code == 204
        with calling(gateway, other) as (again, _):
            assert again.suffix == "load_1", "it is free again"


class TestInTheBackground:
    """From 0.9.0 on."""

    def submit(self, gateway: Gateway, **more: Any) -> Job:
        answer = wire.post(gateway, f"{PATH}/async", asked(**more))
        assert answer.status_code == 202, answer.text
        return next(job for job in jobs(gateway) if job.id == answer.json()["job_id"])

    def look(self, gateway: Gateway, job: Job) -> dict[str, Any]:
        answer = gateway.clients["local"].get(f"{PATH}/jobs/{job.id}")
        assert answer.status_code == 200, "the client takes nothing else"
        found: dict[str, Any] = answer.json()
        return found

    def test_states_are_the_client_s(self, gateway: Gateway, tuned: Tuned) -> None:
        job = self.submit(gateway, finetune_steps=20)
        assert self.look(gateway, job) == {"status": "pending", "result": None, "error": None}
        with session_scope(gateway.engine) as session:
            transition(session, job.id, JobStatus.RUNNING, message="Run started.")
        assert self.look(gateway, job)["status"] == "running"
        succeed(gateway, job, tuned)
        done = self.look(gateway, job)
        assert done["status"] == "succeeded"
        model_id = done["result"]["finetuned_model_id"]
        wire.ok(gateway, "/v2/forecast", wire.forecast(finetuned_model_id=model_id))
        gateway.clients["local"].delete(f"{MODELS}/{model_id}")
        assert self.look(gateway, job)["status"] == "failed", "there is nothing to hand out any more"

    def test_a_failure_says_why(self, gateway: Gateway) -> None:
        job = self.submit(gateway, finetune_steps=21)
        fail(gateway, job)
        failed = self.look(gateway, job)
        assert (failed["status"], failed["result"], failed["error"]["code"]) == ("failed", None, "non_finite")

    def test_one_is_cancelled_once(self, gateway: Gateway) -> None:
        job = self.submit(gateway, finetune_steps=22)
        path = f"/v2/async/jobs/{job.id}/cancel"
        assert gateway.clients["other"].post(path).status_code == 404
        assert gateway.clients["local"].post(path).status_code == 202
        assert self.look(gateway, job)["status"] == "cancelled"
        assert gateway.clients["local"].post(path).status_code == 409

    def test_its_time_is_the_job_s_budget(self, gateway: Gateway) -> None:
        job = self.submit(gateway, finetune_steps=23, job_options={"timeout_seconds": 60})
        assert job.resolved["budget_seconds"] == 60

    def test_another_s_is_not_there(self, gateway: Gateway) -> None:
        job = self.submit(gateway, finetune_steps=24)
        assert gateway.clients["other"].get(f"{PATH}/jobs/{job.id}").status_code == 404


class TestModels:
    @pytest.fixture
    def named(self, gateway: Gateway, tuned: Tuned) -> Iterator[Callable[..., dict[str, Any]]]:
        def make(name: str, **more: Any) -> dict[str, Any]:
            with calling(gateway, asked(output_model_id=name, **more)) as (job, future):
                succeed(gateway, job, tuned, fallback="zero_shot")
                answer: dict[str, Any] = future.result().json()
            made.append(name)
            return answer

        made: list[str] = []
        yield make
        for name in made:
            gateway.clients["local"].delete(f"{MODELS}/{name}")

    def test_one_by_the_id_that_was_chosen(self, gateway: Gateway, named: Callable[..., dict[str, Any]]) -> None:
        named("shown", finetune_depth=5, finetune_steps=14)
        got = gateway.clients["local"].get(f"{MODELS}/shown").json()
        assert {"id", "created_at", "created_by", "base_model_id", "steps", "depth", "loss", "model", "freq"} <= set(
            got
        )
        assert (got["id"], got["created_by"], got["steps"], got["depth"]) == ("shown", "local", 14, 5)
        assert (got["loss"], got["freq"], got["promoted"]) == ("default", "h", False)
        by_version = gateway.clients["local"].get(f"{MODELS}/{got['version_id']}").json()
        assert by_version == got

    def test_old_clients_are_told_a_name_they_know(
        self, gateway: Gateway, named: Callable[..., dict[str, Any]]
    ) -> None:
        named("old")
        client = gateway.clients["local"]
        assert client.get(f"{MODELS}/old").json()["model"] == "timegpt-1"
        got = client.get(f"{MODELS}/old", headers={"nixtla-client-version": "0.9.0"}).json()
        assert (got["model"], got["base_model_id"]) == ("toy", "toy")
        assert got["served_model"].startswith("ft:temper-tiny:local:old:")

    def test_it_forecasts_what_it_was_tuned_to(self, gateway: Gateway, named: Callable[..., dict[str, Any]]) -> None:
        """Also where zero-shot was not beaten: an id asks for these weights, a name for what was not beaten."""
        made = named("mine")
        by_id = wire.ok(gateway, "/v2/forecast", wire.forecast(finetuned_model_id="mine"))
        by_name = wire.ok(gateway, "/v2/forecast", wire.forecast(model=made["served_model"]))
        assert (by_id["fallback"], by_name["fallback"]) == (None, "zero_shot")
        version = gateway.clients["local"].get(f"{MODELS}/mine").json()["version_id"]
        same = wire.native(gateway, version, [wire.values()], prediction_length=6)
        alone = wire.ok(gateway, "/v2/forecast", wire.forecast(wire.values(), finetuned_model_id="mine"))
        np.testing.assert_allclose(alone["mean"], same[0]["mean"], rtol=1e-6)

    def test_the_list_has_those_of_native_jobs_too(
        self, gateway: Gateway, named: Callable[..., dict[str, Any]]
    ) -> None:
        named("listed")
        got = gateway.clients["local"].get(MODELS).json()["finetuned_models"]
        ids = [one["id"] for one in got]
        assert ids[0] == "listed"
        assert {gateway.won.version_id, gateway.lost.version_id} <= set(ids)
        assert gateway.clients["other"].get(MODELS).json() == {"finetuned_models": []}

    def test_a_deleted_one_is_gone(self, gateway: Gateway, named: Callable[..., dict[str, Any]]) -> None:
        made = named("gone")
        client = gateway.clients["local"]
        assert gateway.clients["other"].delete(f"{MODELS}/gone").status_code == 404
        answer = client.delete(f"{MODELS}/gone")
        assert (answer.status_code, answer.content) == (204, b"")
        assert wire.said(client.get(f"{MODELS}/gone"))[:2] == (404, "model_not_found")
        assert wire.said(client.delete(f"{MODELS}/gone"))[:2] == (404, "model_not_found")
        assert wire.refused(gateway, "/v2/forecast", wire.forecast(finetuned_model_id="gone"))[0] == 404
        assert client.get(f"/v1/models/{made['served_model']}").status_code == 404

    def test_versions_of_other_jobs_are_not_deleted_with_it(self, gateway: Gateway, tuned: Tuned) -> None:
        first = register(gateway.engine, gateway.store, tuned, suffix="many")
        register(gateway.engine, gateway.store, tuned, register_as=first.name)
        answer = gateway.clients["local"].delete(f"{MODELS}/{first.version_id}")
        assert wire.said(answer)[:2] == (422, "model_has_versions")
        assert gateway.clients["local"].delete(f"/v1/models/{first.name}").status_code == 200


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "status", "code", "param"),
        [
            ({"finetune_steps": 0}, 422, "invalid_request", "finetune_steps"),
            ({"finetune_steps": 10**9}, 422, "invalid_config", "finetune_steps"),
            ({"finetune_depth": 6}, 422, "invalid_request", "finetune_depth"),
            ({"finetune_loss": "mae"}, 422, "unsupported_parameter", "finetune_loss"),
            ({"finetuned_model_id": "mine"}, 422, "unsupported_parameter", "finetuned_model_id"),
            ({"output_model_id": "a/b"}, 422, "invalid_request", "output_model_id"),
            ({"output_model_id": "mv-own"}, 422, "invalid_request", "output_model_id"),
            ({"output_model_id": "a" * 37}, 422, "invalid_request", "output_model_id"),
            ({"model": "timegpt-7"}, 422, "unknown_backbone", "model"),
            ({"series": wire.wired([1.0] * 20)}, 422, "series_too_short", None),
            ({"series": wire.wired([1.0] * 300, X=[[1.0] * 300])}, 422, "covariates_unsupported", "series.X"),
        ],
    )
    def test_what_cannot_be_is_said_why(
        self, gateway: Gateway, more: dict[str, Any], status: int, code: str, param: str | None
    ) -> None:
        before = len(jobs(gateway))
        refusal = wire.refused(gateway, PATH, asked(**more))
        assert refusal[:2] == (status, code)
        assert param is None or refusal[2] == param
        assert len(jobs(gateway)) == before

    def test_it_takes_a_key_for_jobs(self, gateway: Gateway) -> None:
        assert wire.said(with_scopes(gateway, PATH, asked(), ["forecast"]))[:2] == (403, "missing_scope")

    def test_a_full_house_is_429(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(gateway.settings.__dict__, "max_queued_jobs", 0)
        answer = wire.post(gateway, PATH, asked(finetune_steps=15))
        assert wire.said(answer)[:2] == (429, "too_many_jobs")
        assert answer.headers["retry-after"]


@pytest.mark.parametrize("depth", [3, 5])
def test_a_real_job_of_few_steps(gateway: Gateway, depth: int) -> None:
    with working(gateway):
        answer = wire.ok(gateway, PATH, asked(finetune_depth=depth, finetune_steps=3, output_model_id=f"real-{depth}"))
    assert answer["finetuned_model_id"] == f"real-{depth}"
    assert answer["reason"]
    forecast = wire.ok(gateway, "/v2/forecast", wire.forecast(finetuned_model_id=f"real-{depth}", h=24, level=[95]))
    assert forecast["model"] == answer["served_model"]
    assert len(forecast["intervals"]["lo-95"]) == 72
    with session_scope(gateway.engine, read_only=True) as session:
        version = session.scalars(select(ModelVersion).where(ModelVersion.job_id == answer["job_id"])).one()
    assert forecast["digest"] == version.digest
