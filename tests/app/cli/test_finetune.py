"""What `temper finetune` asks for, given its options."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cli.client import Client, CommandError
from app.cli.finetune import assignments, dry_run, method_of, next_command, start


def test_values_are_json_where_they_read_as_json() -> None:
    given = ["max_epochs=3", "learning_rate=auto", "rates=[0.1, 0.2]", "flag=true", "name=a=b"]
    wanted = {"max_epochs": 3, "learning_rate": "auto", "rates": [0.1, 0.2], "flag": True, "name": "a=b"}
    assert assignments("--set", given) == wanted


@pytest.mark.parametrize("pair", ["max_epochs", "=3"])
def test_a_pair_without_a_name_is_refused(pair: str) -> None:
    with pytest.raises(CommandError, match="not NAME=VALUE"):
        assignments("--set", [pair])


def test_alpha_alone_means_sff() -> None:
    assert method_of(None, "0.7", None) == {"type": "sff", "alpha": 0.7}
    assert method_of("sff", "search", None) == {"type": "sff", "alpha": "search"}
    assert method_of("full", None, None) == "full"
    assert method_of(None, None, None) is None
    assert method_of("scratch", None, ["twin_seed=3"]) == {"type": "scratch", "twin_seed": 3}


def test_alpha_belongs_to_sff() -> None:
    with pytest.raises(CommandError, match="option of sff"):
        method_of("full", "0.7", None)


def test_options_need_a_method() -> None:
    with pytest.raises(CommandError, match="needs --method"):
        method_of(None, None, ["a=1"])


@pytest.mark.parametrize(
    ("task", "command"), [("forecast", "forecast"), ("anomaly_detection", "anomalies"), ("imputation", "impute")]
)
def test_what_comes_next_is_of_the_job_s_task(task: str, command: str) -> None:
    assert next_command({"task": task, "fine_tuned_model": "ft:x"}).startswith(f"temper {command} ft:x -o ")


class Service:
    """Answers an upload and a job; keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        if request.url.path == "/v1/files":
            self.sent.append(("file", dict(request.url.params)))
            return httpx.Response(200, json={"id": "file-1", "status": "processed", "filename": "a.csv"})
        self.sent.append(("job", json.loads(body)))
        return httpx.Response(200, json={"id": "ftjob-1"})


def api(service: Service) -> Client:
    return Client("http://temper.test", None, transport=httpx.MockTransport(service))


def test_a_file_is_uploaded_and_only_what_was_asked_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x")
    service = Service()
    with api(service) as client:
        body = {"prediction_length": 12, "model": None, "hyperparameters": {}, "seed": 0}
        start(client, str(path), body, options={"freq": "h"}, test=False, quiet=True)
    assert service.sent == [
        ("file", {"filename": "a.csv", "freq": "h"}),
        ("job", {"training_file": "file-1", "prediction_length": 12, "seed": 0, "gate": None}),
    ]


def test_a_dry_run_sends_the_file_along_and_uploads_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("ds,y\n")
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        sent.append(request)
        return httpx.Response(200, json={"object": "fine_tuning.job.estimate"})

    with Client("http://temper.test", None, transport=httpx.MockTransport(answer)) as client:
        body = {"prediction_length": 12, "method": {"type": "sff", "alpha": 0.7}, "seed": None}
        dry_run(client, str(path), body, options={"freq": "h", "target_columns": ["y", "z"]}, test=False)
    assert [request.url.path for request in sent] == ["/v1/jobs"]
    form = sent[0].content.decode()
    for name, value in (("dry_run", "true"), ("prediction_length", "12"), ("gate", "null"), ("freq", "h")):
        assert f'name="{name}"\r\n\r\n{value}\r\n' in form
    assert 'name="method"\r\n\r\n{"type": "sff", "alpha": 0.7}' in form
    assert form.count('name="target_columns"') == 2
    assert 'filename="a.csv"' in form


def test_a_dry_run_of_an_uploaded_file_names_it() -> None:
    service = Service()
    with api(service) as client:
        dry_run(client, "file-9", {"prediction_length": 12}, options={}, test=True)
    assert service.sent == [("job", {"training_file": "file-9", "prediction_length": 12, "dry_run": True})]


def test_an_uploaded_file_is_used_as_it_is() -> None:
    service = Service()
    with api(service) as client:
        start(client, "file-9", {"prediction_length": 12}, options={}, test=True, quiet=True)
    assert service.sent == [("job", {"training_file": "file-9", "prediction_length": 12})]


def test_roles_of_an_uploaded_file_are_refused() -> None:
    with api(Service()) as client, pytest.raises(CommandError, match="belong to the upload"):
        start(client, "file-9", {"prediction_length": 12}, options={"freq": "h"}, test=True, quiet=True)


def test_a_missing_file_is_named() -> None:
    with api(Service()) as client, pytest.raises(CommandError, match="There is no file nothing\\.csv"):
        start(client, "nothing.csv", {"prediction_length": 12}, options={}, test=True, quiet=True)
