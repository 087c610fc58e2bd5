"""`POST /v1/jobs`: what becomes a job, what is refused, and that a refusal leaves nothing."""

import dataclasses
import json
import threading
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, func, select, update

from app.db import session_scope
from app.ids import utc_now
from app.jobs.measurements import MAX_WAITING
from app.queue import MEASURE, RUN_JOB, FakeQueue
from app.services import Services
from app.settings import Settings
from app.storage import ObjectStore, file_key
from app.tables import File, Job, Measurement, Worker
from tests.app.jobs.factories import add_job
from tsfm import catalog

HOURS = 400
HUGE = "huge"
"""Stands where a long number is put into a JSON text."""
CSV = "timestamp,load\n" + "".join(
    f"2026-01-{1 + i // 24:02d}T{i % 24:02d}:00:00,{(i % 24) + 0.1 * (i % 7)}\n" for i in range(HOURS)
)


def upload(client: httpx.Client, csv: str = CSV, **fields: str) -> httpx.Response:
    return client.post("/v1/files", files={"file": ("load.csv", csv)}, data=fields)


def submit(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/jobs", files={"file": ("load.csv", fields.pop("csv", CSV))}, data=fields)


def counts(engine: Engine) -> tuple[int, int]:
    with session_scope(engine, read_only=True) as session:
        return tuple(session.scalar(select(func.count()).select_from(table)) or 0 for table in (File, Job))  # type: ignore[return-value]


def stored(settings: Settings) -> list[str]:
    return ObjectStore(settings.storage_url).list("")


def leftovers(settings: Settings) -> list[str]:
    return [str(path) for path in settings.tmp_dir.rglob("*")]


class TestForm:
    def test_one_post_of_a_csv_is_a_queued_job_with_every_default_echoed(
        self, client: httpx.Client, queue: FakeQueue
    ) -> None:
        job = submit(client, prediction_length="12").raise_for_status().json()
        assert (job["object"], job["status"], job["model"]) == ("fine_tuning.job", "queued", "temper-tiny")
        assert (job["prediction_length"], job["freq"], job["task"], job["seed"]) == (12, "h", "forecast", 0)
        assert job["method"] == {"type": "sff", "chosen": None, **job["method"]}
        assert job["method"]["alpha"] == 0.9
        assert job["hyperparameters"]["batch_size"] == 32
        assert job["context_length"] > 0
        assert job["estimate"]["basis"] == "table"
        assert {job[name] for name in ("gate", "calibration", "landscape", "fine_tuned_model", "error")} == {None}
        assert queue.sent == [(RUN_JOB, job["id"])]
        assert client.get(f"/v1/files/{job['training_file']}").json()["status"] == "processed"
        assert client.get(f"/jobs/{job['id']}").json() == job

    def test_nested_fields_come_as_json_text(self, client: httpx.Client) -> None:
        job = submit(
            client,
            prediction_length="6",
            method='{"type": "sff", "alpha": 0.7}',
            hyperparameters='{"max_epochs": 2, "learning_rate": "auto"}',
            budget='{"seconds": 60}',
            metadata='{"team": "grid"}',
            gate="null",
            seed="7",
            suffix="load",
        ).json()
        assert (job["method"]["alpha"], job["hyperparameters"]["max_epochs"]) == (0.7, 2)
        assert (job["budget"], job["metadata"], job["seed"]) == ({"seconds": 60.0}, {"team": "grid"}, 7)

    @pytest.mark.parametrize(
        ("fields", "status", "code", "param"),
        [
            ({}, 422, "invalid_request", "prediction_length"),
            ({"prediction_length": "0"}, 422, "invalid_request", "prediction_length"),
            ({"prediction_length": "many"}, 422, "invalid_request", "prediction_length"),
            ({"prediction_length": "100000"}, 422, "invalid_config", "prediction_length"),
            ({"prediction_length": "500"}, 422, "series_too_short", "prediction_length"),
            ({"prediction_length": "12", "model": "gpt"}, 422, "unknown_backbone", "model"),
            ({"prediction_length": "12", "method": "magic"}, 422, "unknown_method", "method"),
            ({"prediction_length": "12", "method": '{"type":"sff","alpha":2}'}, 422, "invalid_config", "method.alpha"),
            ({"prediction_length": "12", "method": '{"type":"sff"'}, 422, "invalid_request", "method"),
            ({"prediction_length": "12", "colour": "red"}, 422, "unknown_field", "colour"),
            ({"prediction_length": "12", "task": "naming"}, 422, "unknown_task", "task"),
            ({"prediction_length": "12", "hyperparameters": '{"lr": 1}'}, 422, "unknown_hyperparameter", None),
            ({"prediction_length": "12", "method": "zero_shot", "refit": "true"}, 422, "invalid_config", "refit"),
            ({"prediction_length": "12", "register_as": "ft:nobody"}, 404, "model_not_found", "register_as"),
            ({"prediction_length": "12", "csv": "timestamp,load\n2026-01-01,ten\n"}, 422, None, None),
            ({"prediction_length": "12", "csv": ""}, 422, None, None),
        ],
    )
    def test_a_refusal_names_the_place_and_leaves_nothing(
        self,
        client: httpx.Client,
        engine: Engine,
        settings: Settings,
        queue: FakeQueue,
        fields: dict[str, str],
        status: int,
        code: str | None,
        param: str | None,
    ) -> None:
        answer = submit(client, **fields)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert code in (None, error["code"]), error
        assert param in (None, error["param"]), error
        assert error["message"]
        assert (counts(engine), stored(settings), leftovers(settings), queue.sent) == ((0, 0), [], [], [])

    @pytest.mark.parametrize("field", ["method", "landscape"])
    def test_a_field_of_several_types_is_named_without_them(self, client: httpx.Client, field: str) -> None:
        answer = client.post("/v1/jobs", json={"training_file": "file-1", "prediction_length": 12, field: [1]})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["details"]["num_problems"]) == (422, field, 1)

    def test_a_series_too_short_says_have_and_need(self, client: httpx.Client) -> None:
        error = submit(client, prediction_length="100").json()["error"]
        assert error["code"] == "series_too_short"
        assert error["details"]["have"] == HOURS
        assert error["details"]["need"] > HOURS

    def test_covariates_the_backbone_cannot_use_are_refused(self, client: httpx.Client) -> None:
        rows = "".join(f"{line},{i % 5}\n" for i, line in enumerate(CSV.splitlines()[1:]))
        answer = submit(
            client,
            csv="timestamp,load,temperature\n" + rows,
            prediction_length="12",
            past_covariate_columns="temperature",
        )
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "covariates_unsupported"
        assert answer.json()["error"]["param"] == "past_covariate_columns"


class TestJson:
    def test_a_job_on_an_uploaded_file(self, client: httpx.Client, queue: FakeQueue) -> None:
        file_id = upload(client).json()["id"]
        body = {
            "training_file": file_id,
            "prediction_length": 12,
            "method": {"type": "full"},
            "gate": {"metric": "mase"},
        }
        job = client.post("/v1/jobs", json=body).raise_for_status().json()
        assert (job["training_file"], job["method"]["type"]) == (file_id, "full")
        assert queue.sent == [(RUN_JOB, job["id"])]

    def test_the_suggested_next_request_works_as_it_stands(self, client: httpx.Client) -> None:
        suggested = upload(client).json()["next"]["job"]
        assert client.post(suggested["path"], json=suggested["body"]).status_code == 200

    def test_roles_given_with_the_job_make_a_file_read_that_way(self, client: httpx.Client) -> None:
        rows = "".join(f"{line},{i % 5}\n" for i, line in enumerate(CSV.splitlines()[1:]))
        file_id = upload(client, "timestamp,load,other\n" + rows).json()["id"]
        body = {"training_file": file_id, "prediction_length": 12, "target_columns": ["load"]}
        job = client.post("/v1/jobs", json=body).raise_for_status().json()
        assert job["training_file"] != file_id
        assert client.get(f"/v1/files/{job['training_file']}").json()["reading"]["columns"]["targets"] == ["load"]

    def test_roles_given_with_the_job_are_laid_over_those_of_the_file(self, client: httpx.Client) -> None:
        rows = "".join(f"{1 + i % 12:02d}/{1 + i // 12:02d}/2026,{i % 7},{i % 5}\n" for i in range(144))
        sent = (
            upload(client, "day,load,other\n" + rows, timestamp_format="%d/%m/%Y", freq="D").raise_for_status().json()
        )
        body = {"training_file": sent["id"], "prediction_length": 2, "target_columns": ["load"]}
        job = client.post("/v1/jobs", json=body).raise_for_status().json()
        options = client.get(f"/v1/files/{job['training_file']}").json()["options"]
        assert (options["timestamp_format"], options["freq"], options["target_columns"]) == ("%d/%m/%Y", "D", ["load"])
        same = client.post("/v1/jobs", json={**body, "target_columns": None, "freq": "D"}).raise_for_status().json()
        assert same["training_file"] == sent["id"]

    def test_other_roles_for_a_large_file_are_refused_with_the_mend(
        self, client: httpx.Client, settings: Settings, services: Services
    ) -> None:
        file_id = upload(client).json()["id"]
        with session_scope(services.engine) as session:
            session.get_one(File, file_id).bytes = settings.inline_parse_bytes + 1
        body = {"training_file": file_id, "prediction_length": 2, "freq": "h"}
        error = client.post("/v1/jobs", json=body).json()["error"]
        assert (error["code"], error["param"]) == ("too_large", "training_file")
        assert "Upload it again with these roles" in error["message"]

    def test_other_roles_for_a_file_whose_bytes_are_gone(self, client: httpx.Client, services: Services) -> None:
        file_id = upload(client).json()["id"]
        services.store.delete(file_key(file_id))
        answer = client.post("/v1/jobs", json={"training_file": file_id, "prediction_length": 2, "freq": "h"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "content_missing")

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"prediction_length": 12}, 422, "missing_field"),
            ({"training_file": "file-none", "prediction_length": 12}, 404, "file_not_found"),
            ({"training_file": "file-none", "prediction_length": 12, "colour": 1}, 422, "unknown_field"),
            ({"training_file": "file-none", "prediction_length": "12"}, 422, "invalid_request"),
            (
                {"training_file": "file-none", "prediction_length": 12, "gate": {"min_gain": 1.5}},
                422,
                "invalid_request",
            ),
        ],
    )
    def test_refusals(self, client: httpx.Client, body: dict[str, Any], status: int, code: str) -> None:
        answer = client.post("/v1/jobs", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)

    @pytest.mark.parametrize(
        "asked",
        [
            {"hyperparameters": {"learning_rate": HUGE}},
            {"hyperparameters": {"batch_size": HUGE}},
            {"hyperparameters": {"max_windows_per_epoch": HUGE}},
            {"method": {"type": "sff", "alpha": HUGE}},
            {"method": {"type": "lora", "rank": HUGE}},
            {"seed": HUGE},
            {"context_length": HUGE},
            {"prediction_length": HUGE},
            {"budget": {"seconds": HUGE}},
            {"gate": {"min_gain": HUGE}},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("digits", [400, 4_000, 5_000])
    def test_a_number_beyond_any_float_is_refused(
        self, client: httpx.Client, asked: dict[str, Any], digits: int
    ) -> None:
        """Python prints whole numbers of 4,300 digits at most, and reads no more."""
        body = json.dumps({"training_file": upload(client).json()["id"], "prediction_length": 12, **asked})
        text = body.replace(f'"{HUGE}"', "9" * digits)
        answer = client.post("/v1/jobs", content=text, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422), answer.text
        assert len(answer.json()["error"]["message"]) < 1_000

    def test_malformed_json_is_400_and_another_type_415(self, client: httpx.Client) -> None:
        headers = {"content-type": "application/json"}
        assert client.post("/v1/jobs", content=b'{"training_file":', headers=headers).status_code == 400
        assert client.post("/v1/jobs", content=CSV, headers={"content-type": "text/csv"}).status_code == 415

    def test_fields_in_the_address_are_not_overheard(self, client: httpx.Client, queue: FakeQueue) -> None:
        body = {"training_file": upload(client).json()["id"], "prediction_length": 12}
        answer = client.post("/v1/jobs?dry_run=true", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_field")
        assert queue.sent == []

    def test_another_tenants_file_is_not_there(self, client: httpx.Client, other_client: httpx.Client) -> None:
        file_id = upload(client).json()["id"]
        answer = other_client.post("/v1/jobs", json={"training_file": file_id, "prediction_length": 12})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")


def test_a_backbone_without_its_weights_is_refused_at_once(
    client: httpx.Client, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = dataclasses.replace(catalog.backbone("temper-tiny"), name="absent", repo="org/absent", revision="r1")
    monkeypatch.setitem(catalog.BACKBONES, "absent", absent)
    answer = submit(client, prediction_length="12", model="absent")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "weights_unavailable")
    assert str(settings.weights_path / "absent") in answer.json()["error"]["message"]
    assert (counts(engine), stored(settings)) == ((0, 0), [])
    published = submit(client, prediction_length="12", model="ttm-r2")
    assert published.json()["error"]["code"] == "weights_unavailable"
    for word in ("model.safetensors", str(settings.weights_path / "ttm-r2"), "ibm-granite/granite-timeseries-ttm-r2"):
        assert word in published.json()["error"]["message"]


class TestDryRun:
    @pytest.mark.parametrize("by_form", [True, False])
    def test_it_answers_the_estimate_and_creates_nothing(
        self, client: httpx.Client, engine: Engine, settings: Settings, queue: FakeQueue, by_form: bool
    ) -> None:
        if by_form:
            answer = submit(client, prediction_length="12", dry_run="true")
        else:
            body = {"training_file": upload(client).json()["id"], "prediction_length": 12, "dry_run": True}
            answer = client.post("/v1/jobs", json=body)
        shown = answer.raise_for_status().json()
        assert shown["object"] == "fine_tuning.job.estimate"
        assert shown["estimate"]["windows"] > 0
        assert shown["estimate"]["trainable_parameters"] > 0
        assert counts(engine) == ((0, 0) if by_form else (1, 0))
        assert queue.sent == []
        if by_form:
            assert stored(settings) == []


class TestLimitsAndKeys:
    def test_too_many_waiting_jobs_are_429_with_retry_after(
        self, client: httpx.Client, engine: Engine, settings: Settings
    ) -> None:
        file_id = upload(client).json()["id"]
        body = {"training_file": file_id, "prediction_length": 12}
        with session_scope(engine) as session:
            tenant_id = session.get_one(File, file_id).tenant_id
            for _ in range(settings.max_queued_jobs - 1):
                add_job(session, file_id, tenant_id=tenant_id)
        answers = [client.post("/v1/jobs", json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert answers[-1].headers["retry-after"] == "30"
        assert answers[-1].json()["error"]["code"] == "too_many_jobs"

    def test_the_same_idempotency_key_gives_the_same_job(self, client: httpx.Client, engine: Engine) -> None:
        headers = {"idempotency-key": "k1"}

        def post(horizon: str) -> httpx.Response:
            files = {"file": ("load.csv", CSV)}
            return client.post("/v1/jobs", files=files, data={"prediction_length": horizon}, headers=headers)

        first, again, other = post("12"), post("12"), post("6")
        assert first.json() == again.json()
        assert again.headers["idempotent-replayed"] == "true"
        assert other.status_code == 409
        assert counts(engine) == (1, 1)

    def test_a_key_without_the_scope_may_not_ask(self, connect: Any, new_key: Any) -> None:
        client = connect(new_key("local", ["files"]))
        answer = client.post("/v1/jobs", json={"training_file": "file-x", "prediction_length": 1})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")


def test_both_forms_stand_in_the_schema(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    content = schema["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    assert "hyperparameters" in content["multipart/form-data"]["schema"]["properties"]
    assert "$defs" not in json.dumps(content), "nested schemas are resolvable"


@pytest.fixture
def worker_is_up(engine: Engine) -> None:
    """The gateway's half of a measurement; in `tests/worker/test_measurements.py` a worker answers."""
    with session_scope(engine) as session:
        session.add(Worker(id="w", hostname="h", device="cpu", seen_at=utc_now()))


@pytest.mark.usefixtures("worker_is_up")
class TestUnansweredDryRun:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"measure_seconds": 0.5})

    @pytest.mark.parametrize("by_form", [True, False])
    def test_without_an_answer_the_table_is_shown_and_nothing_stays(
        self, client: httpx.Client, engine: Engine, settings: Settings, queue: FakeQueue, by_form: bool
    ) -> None:
        if by_form:
            answer = submit(client, prediction_length="12", dry_run="true")
        else:
            body = {"training_file": upload(client).json()["id"], "prediction_length": 12, "dry_run": True}
            answer = client.post("/v1/jobs", json=body)
        estimate = answer.raise_for_status().json()["estimate"]
        assert estimate["basis"] == "table"
        assert estimate["note"] == "Not measured: no worker answered within 0.5 s."
        assert [name for name, _ in queue.sent] == [MEASURE]
        assert measurements_of(engine) == []
        assert counts(engine) == ((0, 0) if by_form else (1, 0))
        assert len(stored(settings)) == (0 if by_form else 2)

    def test_a_dry_run_leaves_an_idempotency_key_unused(self, client: httpx.Client, engine: Engine) -> None:
        files, headers = {"file": ("load.csv", CSV)}, {"idempotency-key": "k"}
        dry = client.post("/v1/jobs", files=files, data={"prediction_length": "12", "dry_run": "true"}, headers=headers)
        assert dry.json()["object"] == "fine_tuning.job.estimate"
        job = client.post("/v1/jobs", files=files, data={"prediction_length": "12"}, headers=headers)
        assert job.json()["object"] == "fine_tuning.job"
        assert counts(engine) == (1, 1)

    def test_too_many_waiting_are_answered_from_the_table_at_once(
        self, client: httpx.Client, engine: Engine, queue: FakeQueue
    ) -> None:
        file_id = upload(client).json()["id"]
        with session_scope(engine) as session:
            tenant_id = session.get_one(File, file_id).tenant_id
            for i in range(MAX_WAITING):
                values = {"id": f"m{i}", "tenant_id": tenant_id, "file_id": file_id, "created_at": utc_now()}
                session.add(Measurement(**values, resolved={}, reading={}))
        answer = client.post("/v1/jobs", json={"training_file": file_id, "prediction_length": 12, "dry_run": True})
        assert "wait already" in answer.json()["estimate"]["note"]
        assert queue.sent == []


@pytest.mark.usefixtures("worker_is_up")
class TestMeasuredDryRun:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"measure_seconds": 60.0})

    def test_a_failed_measurement_says_why(self, client: httpx.Client, engine: Engine) -> None:
        answering = threading.Thread(target=answer_with, args=(engine, {"error": "Not even one window fits."}))
        answering.start()
        estimate = submit(client, prediction_length="12", dry_run="true").json()["estimate"]
        answering.join()
        assert (estimate["basis"], estimate["note"]) == ("table", "Not measured: Not even one window fits.")

    def test_the_job_that_follows_shows_what_was_measured(self, client: httpx.Client, engine: Engine) -> None:
        found = {
            "seconds": 7.5,
            "memory_bytes": 1,
            "windows": 2,
            "steps": 3,
            "trainable_parameters": 4,
            "device": "cpu",
        }
        answering = threading.Thread(target=answer_with, args=(engine, found))
        answering.start()
        dry = submit(client, prediction_length="12", dry_run="true").json()
        answering.join()
        assert dry["estimate"] == {**found, "basis": "measured", "note": None}
        assert submit(client, prediction_length="12").json()["estimate"] == dry["estimate"]
        body = {"training_file": upload(client).json()["id"], "prediction_length": 12}
        assert client.post("/v1/jobs", json=body).json()["estimate"] == dry["estimate"], "the same bytes, stored"
        assert submit(client, prediction_length="6").json()["estimate"]["basis"] == "table"


def measurements_of(engine: Engine) -> list[str]:
    with session_scope(engine, read_only=True) as session:
        return list(session.scalars(select(Measurement.id)))


def answer_with(engine: Engine, result: dict[str, Any]) -> None:
    """What a worker would write, as soon as somebody asks."""
    deadline = time.monotonic() + 30
    while not (asked := measurements_of(engine)):
        assert time.monotonic() < deadline, "nobody asked"
        time.sleep(0.01)
    with session_scope(engine) as session:
        session.execute(update(Measurement).where(Measurement.id == asked[0]).values(result=result))
