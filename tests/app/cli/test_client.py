"""The client alone, over httpx's own mock transport: what it sends, and what it makes of the answers."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.cli.client import EXIT_UNREACHABLE, Client, CommandError, Refused, Unreachable

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> Client:
    return Client("http://temper.test/", "tmpr_key", transport=httpx.MockTransport(handler))


def test_the_key_goes_along() -> None:
    with client(lambda request: httpx.Response(200, json={"key": request.headers["authorization"]})) as api:
        assert api.get("/v1/models") == {"key": "Bearer tmpr_key"}


def test_without_a_key_none_is_sent() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"sent": "authorization" in request.headers})

    with Client("http://temper.test", None, transport=httpx.MockTransport(answer)) as api:
        assert api.get("/") == {"sent": False}


def test_an_error_keeps_its_body_and_the_id_to_quote() -> None:
    error = {"message": "No.", "type": "invalid_request_error", "param": "freq", "code": "bad_freq"}
    answer = httpx.Response(422, json={"error": error}, headers={"x-request-id": "req-1"})
    with client(lambda _: answer) as api, pytest.raises(Refused) as refused:
        api.get("/v1/jobs")
    assert refused.value.to_mapping() == {"error": {**error, "status": 422, "request_id": "req-1"}}


def test_a_missing_key_is_mended() -> None:
    answer = httpx.Response(401, json={"error": {"message": "No key."}})
    with client(lambda _: answer) as api, pytest.raises(Refused) as refused:
        api.get("/v1/jobs")
    assert "TEMPER_API_KEY" in (refused.value.mend or "")


def test_a_proxy_s_error_page_is_no_crash() -> None:
    answer = httpx.Response(502, text="<html>bad gateway</html>")
    with client(lambda _: answer) as api, pytest.raises(Refused, match="HTTP 502: <html>bad gateway"):
        api.get("/v1/jobs")


def test_something_that_is_no_temper_is_said_to_be_none() -> None:
    with (
        client(lambda _: httpx.Response(200, text="hello")) as api,
        pytest.raises(CommandError, match="Is it a Temper"),
    ):
        api.get("/v1/jobs")


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:1", None) as api, pytest.raises(Unreachable) as failure:
        api.get("/v1/jobs")
    assert failure.value.exit_code == EXIT_UNREACHABLE
    assert "temper serve" in (failure.value.mend or "")


def test_a_wrong_address_is_a_readable_error() -> None:
    with Client("127.0.0.1:8000", None) as api, pytest.raises(CommandError):
        api.get("/v1/jobs")


def test_pages_are_joined_up_to_the_limit() -> None:
    everything = [{"id": f"job-{i}"} for i in range(250)]
    asked: list[dict[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        first = 0
        if "after" in request.url.params:
            first = 1 + next(i for i, one in enumerate(everything) if one["id"] == request.url.params["after"])
        data = everything[first : first + int(request.url.params["limit"])]
        more = first + len(data) < len(everything)
        return httpx.Response(200, json={"data": data, "has_more": more, "last_id": data[-1]["id"]})

    with client(answer) as api:
        assert api.pages("/v1/jobs", limit=120) == everything[:120]
        assert [page["limit"] for page in asked] == ["100", "20"]
        assert api.pages("/v1/jobs", limit=1000) == everything


def test_an_upload_is_streamed_with_its_roles(tmp_path: Path) -> None:
    path = tmp_path / "my data.csv"
    path.write_bytes(b"x" * (3 << 20))
    seen: dict[str, object] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        body = request.read()
        seen.update(params=request.url.params.multi_items(), size=len(body), length=request.headers["content-length"])
        return httpx.Response(200, json={"id": "file-1"})

    with client(answer) as api:
        assert api.upload(path, {"target_columns": ["a", "b"], "freq": None}) == {"id": "file-1"}
    assert seen["params"] == [("filename", "my data.csv"), ("target_columns", "a"), ("target_columns", "b")]
    assert (seen["size"], seen["length"]) == (3 << 20, str(3 << 20))


def test_events_are_parsed_as_they_come() -> None:
    lines = 'event: message\nid: 7\ndata: {"message": "one"}\n\n: keep-alive\n\ndata: {"message": "two"}\n\n'

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept"] == "text/event-stream"
        assert request.headers["last-event-id"] == "6"
        return httpx.Response(200, text=lines)

    with client(answer) as api:
        assert [event["message"] for event in api.events("/v1/jobs/j/events", after="6")] == ["one", "two"]


def test_posted_json_is_what_was_given() -> None:
    with client(lambda request: httpx.Response(200, json=json.loads(request.content))) as api:
        assert api.post("/v1/jobs", {"prediction_length": 3}) == {"prediction_length": 3}
