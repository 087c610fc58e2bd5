import dataclasses
import re
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from app.auth.repository import tenant_named
from app.db import session_scope
from app.errors import Conflict, NotFound
from app.registry.directory import catalogue_target, find_target
from app.registry.register import check_register_as, register_version
from app.registry.service import delete_model
from app.tables import Job, JobEvent, Model, ModelAlias, ModelVersion
from tests.app.registry.conftest import Register
from tests.app.tuned import Tuned, add_job


def rows(engine: Engine, table: type) -> list[object]:
    with session_scope(engine, read_only=True) as session:
        return list(session.execute(select(table)).scalars())


def tenant(engine: Engine) -> str:
    with session_scope(engine) as session:
        return tenant_named(session, "local").id


class TestRegisterVersion:
    def test_a_promoted_version_becomes_production(self, engine: Engine, registered: Register, tuned: Tuned) -> None:
        done = registered(suffix="load")
        assert re.fullmatch(r"ft:toy:local:load:[a-z0-9]{8}", done.name)
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,36}", done.version_id)
        assert (done.version, done.promoted, done.note) == (1, True, None)
        (version,) = rows(engine, ModelVersion)
        assert isinstance(version, ModelVersion)
        assert (version.digest, version.files, version.fallback) == (tuned.digest, tuned.files, None)
        (alias,) = rows(engine, ModelAlias)
        assert isinstance(alias, ModelAlias)
        assert (alias.alias, alias.version) == ("production", 1)
        (event,) = rows(engine, JobEvent)
        assert isinstance(event, JobEvent)
        assert "production now points at version 1" in event.message

    def test_a_version_that_lost_gets_no_alias(self, engine: Engine, registered: Register) -> None:
        done = registered(fallback="zero_shot")
        assert not done.promoted
        assert rows(engine, ModelAlias) == []
        assert rows(engine, JobEvent) == []

    def test_zero_shot_serves_in_place_of_a_loser_as_it_was_judged(
        self, engine: Engine, registered: Register, tuned: Tuned, toy_weights: Path, toy_backbone: str
    ) -> None:
        """It was judged with all the context it can take; the job's own shorter one must not reach it."""
        manifest = {**tuned.result["manifest"], "context_length": 16}
        short = dataclasses.replace(tuned, result={**tuned.result, "manifest": manifest})
        lost = registered(short, fallback="zero_shot")
        served = find_target(engine, tenant(engine), lost.name).source
        backbone = catalogue_target("toy", weights_dir=toy_weights)
        assert backbone is not None
        assert dataclasses.replace(served, calibration=None) == backbone.source
        assert served.calibration is not None, "with the quantiles that the job measured for it"
        lost = registered(short, fallback="naive")
        assert find_target(engine, tenant(engine), lost.name).source.context_length == 16

    @pytest.mark.parametrize(
        ("suffix", "shown"), [("a:b/c@d e", "a-b-c-d-e"), ("x" * 80, "x" * 64), ("::", "model"), (None, "load")]
    )
    def test_a_suffix_cannot_be_mistaken_for_another_part(
        self, registered: Register, suffix: str | None, shown: str
    ) -> None:
        assert registered(suffix=suffix).name.split(":")[3] == shown

    def test_register_as_adds_the_next_version_and_a_loser_leaves_production(
        self, engine: Engine, registered: Register
    ) -> None:
        first = registered()
        second = registered(register_as=first.name, fallback="zero_shot")
        third = registered(register_as=first.name)
        assert [second.name, third.name] == [first.name, first.name]
        assert (second.version, third.version) == (2, 3)
        (alias,) = rows(engine, ModelAlias)
        assert isinstance(alias, ModelAlias)
        assert alias.version == 3

    def test_a_job_registers_once(self, engine: Engine, registered: Register, tuned: Tuned) -> None:
        registered()
        tenant_id = tenant(engine)
        with session_scope(engine, read_only=True) as session:
            job = session.execute(select(Job)).scalar_one()
        with pytest.raises(IntegrityError), session_scope(engine) as session:
            register_version(session, tenant_id=tenant_id, job_row=job, result=tuned.result, files=tuned.files)
        assert len(rows(engine, ModelVersion)) == 1
        assert len(rows(engine, Model)) == 1

    def test_nothing_is_registered_when_the_transaction_fails(
        self, engine: Engine, registered: Register, tuned: Tuned
    ) -> None:
        tenant_id = tenant(engine)

        def fail_after_registration() -> None:
            with session_scope(engine) as session:
                job = add_job(session, tenant_id, tuned.result, training_file=None)
                register_version(session, tenant_id=tenant_id, job_row=job, result=tuned.result, files=tuned.files)
                raise RuntimeError("the lease was lost")

        with pytest.raises(RuntimeError, match="lease"):
            fail_after_registration()
        assert rows(engine, Model) == rows(engine, ModelVersion) == rows(engine, Job) == []

    def test_a_name_deleted_during_the_job_is_replaced_and_said(self, engine: Engine, registered: Register) -> None:
        first = registered()
        with session_scope(engine) as session:
            delete_model(session, tenant_id=tenant(engine), name=first.name)
        second = registered(register_as=first.name)
        assert second.name != first.name
        assert second.version == 1
        assert second.note is not None
        assert first.name in second.note


class TestCheckRegisterAs:
    def test_the_same_task_and_horizon_may_join(self, engine: Engine, registered: Register) -> None:
        name = registered().name
        with session_scope(engine, read_only=True) as session:
            check_register_as(session, tenant_id=tenant(engine), name=name, task="forecast", prediction_length=8)

    @pytest.mark.parametrize(("task", "prediction_length"), [("forecast", 9), ("imputation", 8)])
    def test_another_task_or_horizon_is_a_conflict(
        self, engine: Engine, registered: Register, task: str, prediction_length: int
    ) -> None:
        name = registered().name
        with session_scope(engine, read_only=True) as session, pytest.raises(Conflict) as caught:
            check_register_as(
                session, tenant_id=tenant(engine), name=name, task=task, prediction_length=prediction_length
            )
        assert (caught.value.status_code, caught.value.param) == (409, "register_as")

    def test_an_unknown_name_is_404(self, engine: Engine) -> None:
        with session_scope(engine, read_only=True) as session, pytest.raises(NotFound):
            check_register_as(session, tenant_id="t", name="ft:x", task="forecast", prediction_length=8)
