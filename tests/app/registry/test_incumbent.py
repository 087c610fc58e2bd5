"""A name that goes on: what a new version must beat, when `production` moves, and what a bare name says meanwhile."""

import dataclasses
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from app.auth.repository import tenant_named
from app.db import session_scope
from app.errors import Conflict
from app.registry.aliases import remove_alias, set_alias
from app.registry.directory import find_target
from app.registry.register import Refit, check_register_as, incumbent_of
from app.registry.service import delete_model
from app.tables import File, ModelVersion
from tests.app.registry.conftest import Register
from tests.app.tuned import Tuned


def tenant(engine: Engine) -> str:
    with session_scope(engine) as session:
        return tenant_named(session, "local").id


def production(engine: Engine, name: str) -> int | None:
    with session_scope(engine, read_only=True) as session:
        standing = incumbent_of(session, tenant_id=tenant(engine), name=name)
        return standing.version if standing else None


def version(engine: Engine, number: int) -> ModelVersion:
    with session_scope(engine, read_only=True) as session:
        return session.execute(select(ModelVersion).where(ModelVersion.version == number)).scalar_one()


class TestPromotion:
    def test_only_the_first_of_two_that_beat_the_same_incumbent_moves_the_alias(
        self, engine: Engine, registered: Register
    ) -> None:
        name = registered().name
        second = registered(register_as=name, judged_against=1)
        third = registered(register_as=name, judged_against=1)
        assert (second.promoted, third.promoted) == (True, False)
        assert second.note is None
        assert third.note is not None
        assert "against version 1" in third.note
        assert "points at version 2" in third.note
        assert production(engine, name) == 2
        late = version(engine, 3)
        assert late.incumbent == 1
        assert late.verdict is not None
        assert (late.verdict["promoted"], late.verdict["reason"].endswith(third.note)) == (False, True)

    def test_one_judged_against_zero_shot_does_not_replace_what_came_meanwhile(
        self, engine: Engine, registered: Register
    ) -> None:
        name = registered(fallback="zero_shot").name
        assert production(engine, name) is None
        assert registered(register_as=name, judged_against=None).promoted
        late = registered(register_as=name, judged_against=None)
        assert not late.promoted
        assert late.note is not None
        assert "the zero-shot backbone" in late.note
        assert production(engine, name) == 2


class TestFallback:
    def test_a_bare_name_says_that_the_incumbent_answers(self, engine: Engine, registered: Register) -> None:
        name = registered().name
        registered(register_as=name, fallback="incumbent")
        target = find_target(engine, tenant(engine), name)
        assert (target.version, target.source.version, target.fallback) == (1, 1, "incumbent")
        own = find_target(engine, tenant(engine), f"{name}@2")
        assert (own.version, own.source.version, own.fallback) == (2, 2, None)

    def test_also_where_the_alias_was_taken_away(self, engine: Engine, registered: Register) -> None:
        name = registered().name
        registered(register_as=name, fallback="incumbent")
        with session_scope(engine) as session:
            remove_alias(session, tenant_id=tenant(engine), name=name, alias="production")
        target = find_target(engine, tenant(engine), name)
        assert (target.version, target.source.version, target.fallback) == (2, 1, "incumbent")

    def test_a_person_who_moves_the_alias_gets_the_version_itself(self, engine: Engine, registered: Register) -> None:
        name = registered().name
        registered(register_as=name, fallback="incumbent")
        with session_scope(engine) as session:
            set_alias(session, tenant_id=tenant(engine), name=name, alias="production", version=2)
        target = find_target(engine, tenant(engine), name)
        assert (target.version, target.source.version, target.fallback) == (2, 2, None)

    @pytest.mark.parametrize(
        ("versus", "serves"),
        [
            ({"incumbent": False, "zero_shot": True, "naive": False, "window_mean": False}, "naive"),
            ({"incumbent": False, "zero_shot": True, "naive": True}, None),
        ],
    )
    def test_an_incumbent_deleted_meanwhile_leaves_it_to_the_next_that_was_not_beaten(
        self, engine: Engine, registered: Register, tuned: Tuned, versus: dict[str, bool], serves: str | None
    ) -> None:
        name = registered().name
        with session_scope(engine) as session:
            delete_model(session, tenant_id=tenant(engine), name=name)
        gate = {
            "passed": False,
            "sentence": "Not promoted.",
            "versus": {rival: {"beaten": beaten} for rival, beaten in versus.items()},
        }
        lost = dataclasses.replace(tuned, result={**tuned.result, "gate": gate})
        fresh = registered(lost, register_as=name, judged_against=1, fallback="incumbent")
        assert fresh.name != name
        target = find_target(engine, tenant(engine), fresh.name)
        assert target.fallback == serves


def test_what_a_version_is_stands_in_its_own_manifest(engine: Engine, registered: Register, tuned: Tuned) -> None:
    """Versions of one name may stem from different backbones, whatever the first of them was."""
    name = registered().name
    backbone = {**tuned.result["manifest"]["backbone"], "name": "temper-tiny"}
    manifest = {**tuned.result["manifest"], "backbone": backbone}
    other = dataclasses.replace(tuned, result={**tuned.result, "manifest": manifest})
    registered(other, register_as=name)
    assert find_target(engine, tenant(engine), name).source.name == "temper-tiny"
    assert find_target(engine, tenant(engine), f"{name}@1").source.name == "toy"
    registered(other, register_as=name, fallback="zero_shot")
    with session_scope(engine) as session:
        remove_alias(session, tenant_id=tenant(engine), name=name, alias="production")
    assert find_target(engine, tenant(engine), name).source.name == "temper-tiny"


class TestRefit:
    @pytest.fixture
    def refit(self, tuned_pair: tuple[Tuned, Tuned]) -> Refit:
        again = tuned_pair[1]
        return Refit(digest=again.digest, manifest=again.result["manifest"], files=again.files)

    def test_it_is_a_version_beside_the_judged_one(self, engine: Engine, registered: Register, refit: Refit) -> None:
        done = registered(refit=refit)
        assert (done.version, done.refit_version, production(engine, done.name)) == (1, 2, 1)
        again = version(engine, 2)
        assert (again.judged, again.refit, again.verdict, again.digest) == (False, True, None, refit.digest)
        assert registered(register_as=done.name).version == 3

    def test_a_bare_name_never_means_it(self, engine: Engine, registered: Register, refit: Refit) -> None:
        done = registered(fallback="naive", refit=refit)
        target = find_target(engine, tenant(engine), done.name)
        assert (target.version, target.fallback) == (1, "naive")
        assert find_target(engine, tenant(engine), f"{done.name}@2").digest == refit.digest


class TestCheck:
    def check(self, engine: Engine, name: str, **more: Any) -> None:
        with session_scope(engine, read_only=True) as session:
            check_register_as(
                session, tenant_id=tenant(engine), name=name, task="forecast", prediction_length=8, **more
            )

    def test_another_frequency_is_a_conflict(self, engine: Engine, registered: Register) -> None:
        name = registered().name
        self.check(engine, name, freq="h", columns={})
        with pytest.raises(Conflict, match="freq 'h'"):
            self.check(engine, name, freq="D", columns={})

    def test_other_covariates_are_a_conflict(self, engine: Engine, registered: Register) -> None:
        name = registered().name
        with session_scope(engine) as session:
            session.execute(update(File).values(reading={"columns": {"past_covariates": ["wind"], "targets": ["x"]}}))
        self.check(engine, name, freq="h", columns={"past_covariates": ["wind"], "targets": ["y"]})
        with pytest.raises(Conflict, match="past_covariates wind; this job has none"):
            self.check(engine, name, freq="h", columns={"past_covariates": []})
