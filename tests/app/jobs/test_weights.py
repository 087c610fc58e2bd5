"""What a job needs of its backbone before it is taken: weights that are here or may be fetched, and their licence."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.backbones.service import require_weights
from app.errors import ApiError
from app.settings import Settings
from tests import toy
from tests.app.jobs.test_create import submit
from tsfm import catalog
from tsfm.backbones import shelf
from tsfm.backbones.shelf import Consent
from tsfm.errors import WeightsError

ASKED = {"prediction_length": "8", "model": "toy", "method": "full"}


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[catalog.BackboneSpec]:
    """A published backbone under a licence that forbids commerce, its files in `tmp_path/given/toy`."""
    with toy.registered(tmp_path / "given") as found:
        catalog.BACKBONES["toy"] = dataclasses.replace(
            found, sha256=None, repo="toys/toy", revision="main", licence="CC-BY-NC-4.0", non_commercial=True
        )
        yield catalog.BACKBONES["toy"]


def test_a_licence_is_shown_then_the_missing_weights_then_the_job_echoes_both(
    client: httpx.Client, spec: catalog.BackboneSpec, settings: Settings, tmp_path: Path
) -> None:
    answer = submit(client, **ASKED)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "license_not_accepted", "accept_license")
    assert error["details"] == {"licence": "CC-BY-NC-4.0"}
    asked = {**ASKED, "accept_license": "true"}
    answer = submit(client, **asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "weights_unavailable")
    for part in ("temper backbones pull toy --accept-license", "model.safetensors", str(settings.weights_path / "toy")):
        assert part in error["message"]
    forecast = {"model": "toy", "prediction_length": 4, "series": [{"target": [1.0] * 40}]}
    for route in ("forecast", "backtests"):
        answer = client.post(f"/v1/{route}", json=forecast)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "weights_unavailable")
    assert client.get("/v1/backbones/toy").json()["digest"] is None

    consent = Consent(by="operator", accept_license=True)
    placed = shelf.add(spec, settings.weights_path, tmp_path / "given" / "toy", consent)
    job = submit(client, **asked).raise_for_status().json()
    assert job["accept_license"] is True
    shown = client.get("/v1/backbones/toy").json()
    assert (shown["digest"], shown["weights_available"]) == (placed.digest, True)
    assert submit(client, prediction_length="8").json()["accept_license"] is False


class TestFetchedByTheRun:
    """`TEMPER_PULL_WEIGHTS`."""

    def ask(self, spec: catalog.BackboneSpec, settings: Settings, *, pull: bool = True) -> None:
        allowed = settings.model_copy(update={"pull_weights": pull})
        require_weights(spec, allowed, accept_license=True, param="model")

    def test_absent_weights_are_no_reason_to_refuse(self, spec: catalog.BackboneSpec, settings: Settings) -> None:
        free = dataclasses.replace(spec, non_commercial=False)
        self.ask(free, settings)
        with pytest.raises(WeightsError):
            self.ask(free, settings, pull=False)

    @pytest.mark.parametrize("change", [{"repo": None}, {"pickled": True}, {"non_commercial": True}])
    def test_but_for_those_that_need_a_hand(
        self, spec: catalog.BackboneSpec, settings: Settings, change: dict[str, object]
    ) -> None:
        with pytest.raises(WeightsError, match="not on this machine"):
            self.ask(dataclasses.replace(spec, **{"non_commercial": False, **change}), settings)

    def test_nor_does_it_replace_consent(self, spec: catalog.BackboneSpec, settings: Settings) -> None:
        with pytest.raises(ApiError, match="not for commercial use"):
            require_weights(spec, settings, accept_license=False, param="model")
