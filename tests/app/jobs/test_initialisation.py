"""Jobs that start from random weights: asked for in words, echoed, refused where they make no sense."""

import json
from typing import Any

import httpx
import pytest

from tests.app.jobs.test_create import submit

TINY = {"type": "random", "seed": 1, "size": "tiny"}


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("random", {"type": "random", "seed": 0, "size": "published"}),
        (json.dumps(TINY), TINY),
        ("pretrained", "pretrained"),
    ],
)
def test_a_form_takes_a_name_or_an_object_and_the_job_says_which(client: httpx.Client, sent: str, shown: Any) -> None:
    job = submit(client, prediction_length="12", initialisation=sent).raise_for_status().json()
    assert job["initialisation"] == shown
    assert client.get(f"/v1/jobs/{job['id']}").json()["initialisation"] == shown


def test_no_published_weights_are_needed(client: httpx.Client) -> None:
    asked = {"prediction_length": "12", "model": "ttm-r2", "method": "full"}
    assert submit(client, **asked).json()["error"]["code"] == "weights_unavailable"
    assert submit(client, **asked, initialisation="random").status_code == 200


@pytest.mark.parametrize("sent", ['{"type": "random", "depth": 2}', "noise", '{"type": "random", "size": 3}'])
def test_what_is_neither_is_refused_by_name(client: httpx.Client, sent: str) -> None:
    answer = submit(client, prediction_length="12", initialisation=sent)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"].startswith("initialisation")
