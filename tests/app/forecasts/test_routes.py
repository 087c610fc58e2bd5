"""A version that sends its series to several sources, and a name whose newest version lost to its incumbent."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from app.registry.register import Registered
from tests.app.forecasts.conftest import Gateway, ramp, series
from tests.app.tuned import Tuned, register
from tsfm.artifact import MANIFEST, digest_of, files_of

HORIZON = 8
LEVELS = [0.1, 0.5, 0.9]
ROUTES = {"default": "tuned", "items": {"z": "zero_shot", "s": "seasonal_naive", "n": "naive"}, "period": 12}


def with_routes(tuned: Tuned, folder: Path, routes: dict[str, Any]) -> Tuned:
    """The same artifact with these routes in its manifest."""
    for name in tuned.files:
        (folder / name).write_bytes((tuned.folder / name).read_bytes())
    manifest = {**json.loads((folder / MANIFEST).read_bytes()), "routes": routes}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    digest = digest_of(folder)
    result = {**tuned.result, "digest": digest, "manifest": manifest}
    return dataclasses.replace(tuned, folder=folder, digest=digest, files=files_of(folder), result=result)


@pytest.fixture(scope="module")
def routed(gateway: Gateway, tuned_pair: tuple[Tuned, Tuned], tmp_path_factory: pytest.TempPathFactory) -> Registered:
    tuned = with_routes(tuned_pair[0], tmp_path_factory.mktemp("routed"), ROUTES)
    return register(gateway.engine, gateway.store, tuned, suffix="routed")


def ask(gateway: Gateway, model: str, *item_ids: str, **more: Any) -> list[dict[str, Any]]:
    body = {"model": model, "prediction_length": HORIZON, "series": [series(ramp(), item_id=one) for one in item_ids]}
    answer = gateway.ok({**body, "quantile_levels": LEVELS, **more})
    forecasts: list[dict[str, Any]] = answer["forecasts"]
    return forecasts


def test_every_series_is_answered_by_its_own_source(gateway: Gateway, routed: Registered) -> None:
    """In the order asked; an item that nobody has seen goes to the default."""
    found = ask(gateway, routed.name, "n", "z", "a", "s", "unknown")
    assert [one["item_id"] for one in found] == ["n", "z", "a", "s", "unknown"]
    assert [one["fallback"] for one in found] == ["naive", "zero_shot", None, "seasonal_naive", None]
    assert [one["version"] for one in found] == [None, None, 1, None, 1]
    (alone,) = ask(gateway, "toy", "z")
    (tuned,) = ask(gateway, gateway.won.name, "a")
    assert (found[1]["mean"], found[1]["digest"]) == (alone["mean"], alone["digest"])
    assert found[2]["mean"] == found[4]["mean"] == tuned["mean"]
    assert found[0]["mean"] == [ramp()[-1]] * HORIZON
    assert found[3]["mean"] == ramp()[-12 : -12 + HORIZON]
    for one in found:
        assert one["quantiles"]["0.1"] <= one["quantiles"]["0.9"]


def test_what_one_series_gets_does_not_depend_on_the_others(gateway: Gateway, routed: Registered) -> None:
    together = ask(gateway, routed.name, "a", "z", "n")
    for one, item_id in zip(together, ("a", "z", "n"), strict=True):
        assert one == ask(gateway, routed.name, item_id)[0]


def test_more_series_than_one_pass_takes_keep_their_order(gateway: Gateway, routed: Registered) -> None:
    ids = [f"a{i}" for i in range(150)]
    ids[70] = "n"
    found = ask(gateway, routed.name, *ids)
    assert [one["item_id"] for one in found] == ids
    assert [i for i, one in enumerate(found) if one["fallback"]] == [70]


def test_a_version_by_number_is_served_as_it_was_judged(gateway: Gateway, routed: Registered) -> None:
    assert ask(gateway, f"{routed.name}@1", "z")[0]["fallback"] == "zero_shot"


def test_the_incumbent_answers_for_a_name_whose_newest_version_lost(
    gateway: Gateway, tuned_pair: tuple[Tuned, Tuned]
) -> None:
    first = register(gateway.engine, gateway.store, tuned_pair[0])
    register(gateway.engine, gateway.store, tuned_pair[1], register_as=first.name, fallback="incumbent")
    answer = gateway.ok({"model": first.name, "series": [series(ramp())]})
    one = answer["forecasts"][0]
    assert (one["version"], one["digest"], one["fallback"]) == (1, tuned_pair[0].digest, "incumbent")
    assert "Version 2 did not beat version 1." in answer["notes"]
    url = f"/v1/models/{first.name}/versions"
    listed = gateway.clients["local"].get(url).json()["data"]
    assert [(one["version"], one["fallback"], one["incumbent"]) for one in listed] == [
        (2, "incumbent", 1),
        (1, None, None),
    ]
