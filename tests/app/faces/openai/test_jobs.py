"""`client.fine_tuning.jobs`: every call of the official client, and the exceptions it raises."""

import time
from collections.abc import Callable
from typing import Any

import openai as library
import pytest
from openai import OpenAI
from sqlalchemy import Engine

from app.db import session_scope
from app.jobs import leases
from app.jobs.checkpoints import Checkpoint, add_checkpoint
from app.jobs.states import JobStatus
from app.queue import RUN_JOB, FakeQueue
from tests.app.conftest import Open
from tests.app.faces.openai.conftest import Make
from tests.app.jobs.factories import OWNER, RESOLVED

STEPS = {"prediction_length": 12}


def told(error: library.APIStatusError) -> tuple[int, str | None, str | None]:
    assert error.request_id
    return error.status_code, error.code, error.param


class TestCreate:
    def test_a_job_in_openai_s_words(self, openai: OpenAI, file_id: str, queue: FakeQueue) -> None:
        job = openai.fine_tuning.jobs.create(
            model="temper-tiny",
            training_file=file_id,
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 8}}},
            suffix="load",
            seed=7,
            metadata={"team": "grid"},
            extra_body={**STEPS, "context_length": 256},
        )
        assert (job.object, job.status, job.model, job.training_file) == (
            "fine_tuning.job",
            "queued",
            "temper-tiny",
            file_id,
        )
        assert (job.seed, job.metadata, job.organization_id[:7]) == (7, {"team": "grid"}, "tenant-")
        theirs = job.hyperparameters
        assert (theirs.n_epochs, theirs.batch_size, theirs.learning_rate_multiplier) == (3, 8, "auto")
        nothing_yet = (job.fine_tuned_model, job.finished_at, job.trained_tokens, job.error, job.validation_file)
        assert (nothing_yet, job.result_files) == ((None,) * 5, [])
        more: dict[str, Any] = job.model_extra or {}
        assert (more["prediction_length"], more["context_length"], more["suffix"]) == (12, 256, "load")
        assert queue.sent == [(RUN_JOB, job.id)]
        method = openai.get("/jobs/" + job.id, cast_to=object)["method"]  # type: ignore[index]  # JSON
        assert (method["type"], method["alpha"]) == ("sff", 0.9)

    def test_our_own_methods_and_their_options(self, openai: OpenAI, file_id: str) -> None:
        hyperparameters = {"learning_rate_multiplier": 2, "n_epochs": "auto", "patience": 3}
        method: Any = {"type": "sff", "sff": {"alpha": 0.5, "hyperparameters": hyperparameters}}
        job = openai.fine_tuning.jobs.create(
            model="temper-tiny", training_file=file_id, method=method, extra_body={**STEPS, "gate": None}
        )
        assert (job.hyperparameters.learning_rate_multiplier, job.hyperparameters.n_epochs) == (2.0, 10)
        native = openai.get("/jobs/" + job.id, cast_to=object)
        assert native["hyperparameters"]["learning_rate"] == 0.0006  # type: ignore[index]  # JSON
        assert native["hyperparameters"]["patience"] == 3  # type: ignore[index]  # JSON
        assert job.method is not None
        assert (job.method.type, job.method.model_extra["alpha"]) == ("sff", 0.5)  # type: ignore[index]
        assert job.method.model_extra["sff"] == {  # type: ignore[index]
            "hyperparameters": {"n_epochs": 10, "batch_size": 32, "learning_rate_multiplier": 2.0}
        }

    def test_hyperparameters_in_the_old_place(self, openai: OpenAI, file_id: str) -> None:
        job = openai.fine_tuning.jobs.create(
            model="temper-tiny", training_file=file_id, hyperparameters={"n_epochs": 2}, extra_body=STEPS
        )
        assert job.hyperparameters.n_epochs == 2

    def test_a_method_that_trains_nothing(self, openai: OpenAI, file_id: str) -> None:
        method: Any = {"type": "zero_shot"}
        job = openai.fine_tuning.jobs.create(
            model="temper-tiny", training_file=file_id, method=method, extra_body=STEPS
        )
        theirs = job.hyperparameters
        assert (theirs.n_epochs, theirs.batch_size, theirs.learning_rate_multiplier) == (None, None, None)

    def test_a_dry_run_creates_nothing(self, openai: OpenAI, file_id: str) -> None:
        estimate = openai.fine_tuning.jobs.create(
            model="temper-tiny", training_file=file_id, extra_body={**STEPS, "dry_run": True}
        )
        assert str(estimate.object) == "fine_tuning.job.estimate"
        assert list(openai.fine_tuning.jobs.list()) == []

    @pytest.mark.parametrize(
        ("fields", "code", "param"),
        [
            ({"extra_body": {}}, "missing_field", "prediction_length"),
            ({"validation_file": "file-2"}, "unsupported_parameter", "validation_file"),
            ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "unsupported_parameter", "integrations"),
            ({"method": {"type": "dpo"}}, "unsupported_method", "method"),
            ({"extra_body": {**STEPS, "colour": "red"}}, "unknown_field", "colour"),
            ({"model": "gpt-4o-mini"}, "unknown_backbone", "model"),
            ({"hyperparameters": {"n_epochs": 0}}, "invalid_config", "hyperparameters.n_epochs"),
            (
                {"method": {"type": "sff", "sff": {"hyperparameters": {"n_epochs": "many"}}}},
                "invalid_config",
                "method.sff.hyperparameters.n_epochs",
            ),
            (
                {"method": {"type": "sff", "sff": {"hyperparameters": {"lr": 1}}}},
                "unknown_hyperparameter",
                "method.sff.hyperparameters.lr",
            ),
            ({"method": {"type": "sff", "sff": {"alpha": 2}}}, "invalid_config", "method.sff.alpha"),
            ({"suffix": "x" * 65}, "invalid_request", "suffix"),
        ],
    )
    def test_refusals(
        self, openai: OpenAI, file_id: str, queue: FakeQueue, fields: dict[str, Any], code: str, param: str
    ) -> None:
        asked: dict[str, Any] = {"model": "temper-tiny", "training_file": file_id, "extra_body": STEPS, **fields}
        with pytest.raises(library.UnprocessableEntityError) as caught:
            openai.fine_tuning.jobs.create(**asked)
        assert told(caught.value) == (422, code, param)
        if code == "missing_field":
            assert "extra_body" in caught.value.message
        assert queue.sent == []

    def test_no_such_file_and_no_such_key(
        self, openai: OpenAI, stranger: OpenAI, open_client: Open, file_id: str
    ) -> None:
        for client, file in ((openai, "file-none"), (stranger, file_id)):
            with pytest.raises(library.NotFoundError) as missing:
                client.fine_tuning.jobs.create(model="temper-tiny", training_file=file, extra_body=STEPS)
            assert told(missing.value)[:2] == (404, "file_not_found")
        with pytest.raises(library.AuthenticationError) as unknown:
            open_client("sk-nobody").fine_tuning.jobs.list()
        assert told(unknown.value)[:2] == (401, "invalid_api_key")

    def test_a_key_without_the_scope(self, open_client: Open, new_key: Callable[..., str]) -> None:
        with pytest.raises(library.PermissionDeniedError) as caught:
            open_client(new_key("local", ["files"])).fine_tuning.jobs.list()
        assert told(caught.value)[:2] == (403, "missing_scope")

    def test_the_same_key_is_the_same_job(self, openai: OpenAI, file_id: str, queue: FakeQueue) -> None:
        def create(steps: int) -> Any:
            raw = openai.fine_tuning.jobs.with_raw_response.create(
                model="temper-tiny",
                training_file=file_id,
                extra_body={"prediction_length": steps},
                extra_headers={"Idempotency-Key": "k"},
            )
            return raw.headers.get("idempotent-replayed"), raw.parse()

        (first_replayed, first), (replayed, again) = create(12), create(12)
        assert (first_replayed, replayed) == (None, "true")
        assert first == again
        assert again.hyperparameters.n_epochs == 10
        assert len(queue.sent) == 1
        with pytest.raises(library.ConflictError) as caught:
            create(6)
        assert told(caught.value)[:2] == (409, "idempotency_key_reused")

    def test_only_json_and_nothing_in_the_address(self, openai: OpenAI, file_id: str) -> None:
        asked: Any = {"model": "temper-tiny", "training_file": file_id, "extra_body": STEPS}
        with pytest.raises(library.UnprocessableEntityError) as caught:
            openai.fine_tuning.jobs.create(**asked, extra_query={"dry_run": "true"})
        assert told(caught.value)[1] == "unknown_field"
        with pytest.raises(library.APIStatusError) as form:
            openai.fine_tuning.jobs.create(**asked, extra_headers={"Content-Type": "text/csv"})
        assert told(form.value)[:2] == (415, "unsupported_media_type")


class TestLook:
    def test_a_finished_job(self, openai: OpenAI, make: Make) -> None:
        result = {
            "resolved": RESOLVED | {"hyperparameters": {"learning_rate": 0.0009, "max_epochs": 5, "batch_size": 16}},
            "verdict": {"promoted": True, "reason": "It won."},
            "result_files": ["file-r"],
            "digest": "sha256:d",
        }
        job = openai.fine_tuning.jobs.retrieve(make(JobStatus.SUCCEEDED, result=result, fine_tuned_model="ft:x"))
        assert (job.status, job.fine_tuned_model, job.result_files) == ("succeeded", "ft:x", ["file-r"])
        theirs = job.hyperparameters
        assert (theirs.n_epochs, theirs.batch_size, theirs.learning_rate_multiplier) == (5, 16, 3.0)
        assert (job.model_extra or {})["verdict"]["reason"] == "It won."

    def test_a_failed_job_says_why(self, openai: OpenAI, make: Make) -> None:
        error = {"code": "non_finite", "message": "step 3", "param": None}
        job = openai.fine_tuning.jobs.retrieve(make(JobStatus.FAILED, error=error))
        assert job.error is not None
        assert (job.error.code, job.error.message, job.error.param) == ("non_finite", "step 3", None)

    def test_unknown_jobs_and_another_tenant_s(self, openai: OpenAI, stranger: OpenAI, make: Make) -> None:
        for client, job_id in ((openai, "ftjob-none"), (stranger, make())):
            jobs = client.fine_tuning.jobs
            calls: list[Callable[[str], object]] = [jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume]
            for call in [*calls, jobs.list_events, jobs.checkpoints.list]:
                with pytest.raises(library.NotFoundError) as caught:
                    call(job_id)
                assert told(caught.value)[:2] == (404, "job_not_found")

    def test_lists_are_newest_first_and_paged_by_the_client(self, openai: OpenAI, stranger: OpenAI, make: Make) -> None:
        made = [make() for _ in range(5)]
        page = openai.fine_tuning.jobs.list(limit=2)
        assert ([job.id for job in page.data], page.has_more) == ([made[4], made[3]], True)
        assert [job.id for job in page] == made[::-1]
        assert [job.id for job in openai.fine_tuning.jobs.list(after=made[1])] == [made[0]]
        assert list(stranger.fine_tuning.jobs.list()) == []
        with pytest.raises(library.UnprocessableEntityError) as caught:
            openai.fine_tuning.jobs.list(after="ftjob-none")
        assert told(caught.value)[1:] == ("invalid_cursor", "after")

    def test_lists_by_metadata(self, openai: OpenAI, make: Make) -> None:
        odd = {'a"b': "ü'", "$c": "", "ключ": "1"}
        first, second, none, empty = (
            make(user_metadata={"team": "grid", "run": "1"}),
            make(user_metadata={"team": "grid", **odd}),
            make(),
            make(user_metadata={}),
        )

        def found(**query: Any) -> list[str]:
            return [job.id for job in openai.fine_tuning.jobs.list(**query, limit=1)]

        assert found(metadata={"team": "grid"}) == [second, first]
        assert found(metadata={"team": "grid", "run": "1"}) == [first]
        assert found(metadata={"team": "sales"}) == []
        assert found(metadata={"run": ""}) == []
        assert found(metadata=odd) == [second]
        assert found(metadata={}) == [empty, none, second, first]
        assert found(extra_query={"metadata": "null"}) == [empty, none]
        for wrong in ({"metadata": "all"}, {"metadata": "null", "metadata[a]": "b"}):
            with pytest.raises(library.UnprocessableEntityError):
                found(extra_query=wrong)

    def test_events_page_newest_first(self, openai: OpenAI, make: Make, engine: Engine) -> None:
        job_id = make(JobStatus.RUNNING)
        events = [
            leases.Event(message="evaluated", kind="metrics", data={"step": step, "validation_loss": 0.5})
            for step in range(3)
        ]
        with session_scope(engine) as session:
            assert leases.heartbeat(session, job_id, owner=OWNER, lease_seconds=30, events=events)
        openai.fine_tuning.jobs.cancel(job_id)
        seen = list(openai.fine_tuning.jobs.list_events(job_id, limit=2))
        assert [event.type for event in seen] == ["message", "metrics", "metrics", "metrics"]
        assert seen[0].data == {"status": "cancelling"}
        assert [event.data["step"] for event in seen[1:]] == [2, 1, 0]  # type: ignore[index]
        assert {event.object for event in seen} == {"fine_tuning.job.event"}
        after = openai.fine_tuning.jobs.list_events(job_id, after=seen[2].id)
        assert [event.id for event in after] == [seen[3].id]

    def test_checkpoints(self, openai: OpenAI, make: Make, engine: Engine) -> None:
        job_id = make(JobStatus.RUNNING)
        with session_scope(engine) as session:
            for step in range(1, 13):
                metrics = {"step": step, "train_loss": 0.5, "validation_loss": 1 / step}
                add_checkpoint(session, job_id, Checkpoint(metrics=metrics, digest="sha256:d", files={"m": "s"}))
        page = openai.fine_tuning.jobs.checkpoints.list(job_id)
        assert (len(page.data), page.has_more) == (10, True)
        newest = page.data[0]
        assert (newest.object, newest.step_number) == ("fine_tuning.job.checkpoint", 12)
        assert (newest.fine_tuned_model_checkpoint, newest.fine_tuning_job_id) == (newest.id, job_id)
        metrics_of = newest.metrics
        assert (metrics_of.step, metrics_of.train_loss, metrics_of.valid_loss, metrics_of.full_valid_loss) == (
            12,
            0.5,
            1 / 12,
            1 / 12,
        )
        assert [checkpoint.step_number for checkpoint in page] == list(range(12, 0, -1))


class TestStop:
    def test_cancel(self, openai: OpenAI, make: Make) -> None:
        assert openai.fine_tuning.jobs.cancel(make()).status == "cancelled"
        assert str(openai.fine_tuning.jobs.cancel(make(JobStatus.RUNNING)).status) == "cancelling"

    def test_cancelling_an_ended_job_answers_it_as_it_is(self, openai: OpenAI, make: Make) -> None:
        for status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED):
            assert openai.fine_tuning.jobs.cancel(make(status)).status == status.value

    def test_pause_and_resume(self, openai: OpenAI, make: Make, queue: FakeQueue) -> None:
        job_id = make()
        paused = openai.fine_tuning.jobs.pause(job_id)
        assert (str(paused.status), paused.hyperparameters.learning_rate_multiplier) == ("paused", "auto")
        assert openai.fine_tuning.jobs.resume(job_id).status == "queued"
        assert queue.sent == [(RUN_JOB, job_id)]

    def test_what_cannot_be_asked_any_more_fails_at_once(
        self, open_client: Open, new_key: Callable[..., str], make: Make
    ) -> None:
        """The client repeats conflicts by itself, with growing pauses, unless it is told that this is no use."""
        patient = open_client(new_key("local"), max_retries=5)
        job_id = make(JobStatus.SUCCEEDED)
        started = time.monotonic()
        for call in (patient.fine_tuning.jobs.pause, patient.fine_tuning.jobs.resume):
            with pytest.raises(library.ConflictError) as caught:
                call(job_id)
            assert told(caught.value)[:2] == (409, "job_state")
        assert time.monotonic() - started < 4.0, "five pauses take at least six seconds"
