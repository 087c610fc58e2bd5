"""What a model name is answered by."""

import time

import pytest

from app.auth.repository import tenant_named
from app.db import session_scope
from app.registry.aliases import set_alias
from tests.app.forecasts.conftest import Gateway, ramp, series
from tests.app.tuned import Tuned, register

BODY = {"series": [series(ramp())], "quantile_levels": [0.1, 0.5, 0.9]}


def ask(gateway: Gateway, model: str, **more: object) -> dict[str, object]:
    answer = gateway.ok({"model": model, **BODY, **more})
    one = answer["forecasts"][0]
    return {
        "model": answer["model"],
        "version": answer["version"],
        "digest": answer["digest"],
        "served": (one["version"], one["digest"], one["fallback"]),
        "mean": one["mean"],
    }


def test_a_promoted_model_answers_by_name_alias_version_and_short_id(gateway: Gateway, tuned: Tuned) -> None:
    name = gateway.won.name
    asked = [name, f"{name}@production", f"{name}@1", gateway.won.version_id]
    answers = [ask(gateway, model) for model in asked]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["served"] == (1, tuned.digest, None)
    assert answers[0]["model"] == name


def test_a_model_that_lost_is_answered_by_what_beat_it(gateway: Gateway, tuned: Tuned) -> None:
    lost = ask(gateway, gateway.lost.name)
    rival = ask(gateway, "seasonal_naive", prediction_length=8)
    assert (lost["version"], lost["digest"]) == (1, tuned.digest)
    assert lost["served"] == (None, None, "seasonal_naive")
    assert lost["mean"] == rival["mean"]


def test_its_own_weights_answer_when_the_version_is_named(gateway: Gateway, tuned: Tuned) -> None:
    for model in (f"{gateway.lost.name}@1", gateway.lost.version_id):
        assert ask(gateway, model)["served"] == (1, tuned.digest, None)
        assert ask(gateway, model)["mean"] == ask(gateway, gateway.won.name)["mean"]


def test_zero_shot_as_fallback_names_the_backbones_digest(gateway: Gateway, tuned_pair: tuple[Tuned, Tuned]) -> None:
    lost = register(gateway.engine, gateway.store, tuned_pair[1], fallback="zero_shot")
    backbone = ask(gateway, "toy", prediction_length=8)
    answer = ask(gateway, lost.name)
    assert answer["served"] == (None, backbone["digest"], "zero_shot")
    assert answer["digest"] == tuned_pair[1].digest
    assert answer["mean"] == backbone["mean"]


def test_a_person_may_put_a_losing_version_into_production(gateway: Gateway, tuned: Tuned) -> None:
    lost = register(gateway.engine, gateway.store, tuned, fallback="naive")
    assert ask(gateway, lost.name)["served"] == (None, None, "naive")
    client = gateway.clients["local"]
    moved = client.put(f"/v1/models/{lost.name}/aliases/production", json={"version": 1})
    assert moved.status_code == 200
    assert ask(gateway, lost.name)["served"] == (1, tuned.digest, None)
    assert client.delete(f"/v1/models/{lost.name}/aliases/production").status_code == 200
    assert ask(gateway, lost.name)["served"] == (None, None, "naive")


def test_promotion_and_roll_back_show_at_once(gateway: Gateway, tuned_pair: tuple[Tuned, Tuned]) -> None:
    first = register(gateway.engine, gateway.store, tuned_pair[0])
    assert ask(gateway, first.name)["version"] == 1
    second = register(gateway.engine, gateway.store, tuned_pair[1], register_as=first.name, fallback="zero_shot")
    assert (second.name, second.version) == (first.name, 2)
    url = f"/v1/models/{first.name}/aliases/production"
    for version in (2, 1, 2):
        assert gateway.clients["local"].put(url, json={"version": version}).status_code == 200
        answer = ask(gateway, first.name)
        assert answer["version"] == version
        assert answer["digest"] == tuned_pair[version - 1].digest


def test_a_move_made_by_another_process_shows_within_a_second(
    gateway: Gateway, tuned_pair: tuple[Tuned, Tuned]
) -> None:
    model = register(gateway.engine, gateway.store, tuned_pair[0])
    register(gateway.engine, gateway.store, tuned_pair[1], register_as=model.name, fallback="zero_shot")
    assert ask(gateway, model.name)["version"] == 1
    with session_scope(gateway.engine) as session:
        tenant_id = tenant_named(session, "local").id
        set_alias(session, tenant_id=tenant_id, name=model.name, alias="production", version=2)
    time.sleep(1.0)
    assert ask(gateway, model.name)["version"] == 2


@pytest.mark.parametrize(
    "model", ["nothing", "toy@production", "ft:toy:local:x:00000000", "{won}@2", "{won}@nobody", "{won}@", "a" * 512]
)
def test_an_unknown_name_is_404_and_lists_nothing(gateway: Gateway, model: str) -> None:
    status, error = gateway.refused({"model": model.format(won=gateway.won.name), **BODY})
    assert (status, error["param"]) == (404, "model")
    assert error["code"].endswith("_not_found")
    assert gateway.lost.name not in str(error)


@pytest.mark.parametrize("form", ["{name}", "{name}@1", "{name}@production", "{short}"])
def test_another_tenants_model_does_not_exist(gateway: Gateway, form: str) -> None:
    model = form.format(name=gateway.won.name, short=gateway.won.version_id)
    status, error = gateway.refused({"model": model, **BODY}, tenant="other")
    assert (status, error["type"]) == (404, "not_found_error")


def test_a_deleted_model_stops_answering(gateway: Gateway, tuned: Tuned) -> None:
    model = register(gateway.engine, gateway.store, tuned)
    ask(gateway, model.name)
    assert gateway.clients["local"].delete(f"/v1/models/{model.name}").json()["deleted"] is True
    for name in (model.name, f"{model.name}@1", model.version_id):
        assert gateway.refused({"model": name, **BODY})[0] == 404
    assert ask(gateway, gateway.won.name)["digest"] == tuned.digest, "the same blobs serve another model"
