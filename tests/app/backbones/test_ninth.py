"""A backbone added by one class and one entry is listed, takes jobs, and says how its weights get here."""

from collections.abc import Iterator

import httpx
import pytest

from tests import ninth
from tests.app.jobs.test_create import submit


@pytest.fixture(autouse=True)
def _listed() -> Iterator[None]:
    with ninth.listed():
        yield


def test_it_is_listed_with_its_limits_and_methods(client: httpx.Client) -> None:
    assert client.get("/v1/backbones").json()["data"][-1]["id"] == "ninth"
    shown = client.get("/v1/backbones/ninth").json()
    assert (shown["family"], shown["licence"], shown["weights_available"]) == ("ninth", "Apache-2.0", False)
    assert shown["limits"]["context_length"] == ninth.SPEC.context_length
    assert all(method["supported"] for method in shown["methods"])


def test_a_job_without_its_weights_is_told_how_they_get_here(client: httpx.Client) -> None:
    asked = {"model": "ninth", "method": "full", "prediction_length": "12"}
    error = submit(client, **asked).json()["error"]
    assert error["code"] == "weights_unavailable"
    assert "temper backbones pull ninth" in error["message"]
    job = submit(client, **asked, initialisation="random").raise_for_status().json()
    assert job["model"] == "ninth"
