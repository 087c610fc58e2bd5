"""The application as a whole: imports, health, errors of the edge, metrics."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import pytest

from app.queue import FakeQueue

Connect = Callable[[str | None], httpx.Client]


def test_importing_the_gateway_loads_no_torch() -> None:
    code = (
        "import sys; from app.main import create_app; from app.settings import Settings; "
        "create_app(Settings(home='/nonexistent/temper', log_level='error')); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"


class TestHealth:
    def test_alive_and_ready(self, connect: Connect) -> None:
        anyone = connect(None)
        assert anyone.get("/healthz").json() == {"status": "ok"}
        ready = anyone.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]) == (200, {"broker": "ok", "database": "ok"})

    def test_not_ready_without_a_broker(self, connect: Connect, queue: FakeQueue) -> None:
        queue.broken = True
        answer = connect(None).get("/readyz")
        assert (answer.status_code, answer.json()["checks"]["broker"]) == (503, "unreachable")

    def test_metrics_count_by_route_template(self, client: httpx.Client) -> None:
        client.get("/v1/files/file-absent")
        client.get("/no/such/route")
        text = client.get("/metrics").text
        assert 'temper_http_requests_total{method="GET",route="/files/{file_id}",status="404"} 1.0' in text
        assert 'route="unmatched"' in text
        assert "file-absent" not in text


class TestErrors:
    def check(self, answer: httpx.Response, status: int, code: str, param: str | None = None) -> None:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
        assert answer.headers["x-request-id"]

    def test_unknown_route_and_method(self, client: httpx.Client) -> None:
        self.check(client.get("/v1/nothing"), 404, "not_found")
        answer = client.put("/v1/keys", json={})
        self.check(answer, 405, "method_not_allowed")
        assert answer.headers["allow"]

    def test_malformed_and_wrong_bodies(self, client: httpx.Client) -> None:
        self.check(client.post("/v1/keys", content=b'{"name":'), 400, "malformed_json")
        self.check(client.post("/v1/keys", content=b'{"name":', headers={"content-type": "text/csv"}), 415,
                   "unsupported_media_type")  # fmt: skip
        self.check(client.post("/v1/keys", json={"nam": "x"}), 422, "unknown_field", "nam")
        self.check(client.post("/v1/keys", json={"name": 5}), 422, "invalid_request", "name")
        self.check(client.post("/v1/keys", json={"scopes": ["root"]}), 422, "invalid_request", "scopes.0")

    def test_deeply_nested_json_is_malformed(self, client: httpx.Client) -> None:
        body = b'{"name":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        answer = client.post("/v1/keys", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422)

    def test_all_problems_are_listed(self, client: httpx.Client) -> None:
        answer = client.post("/v1/keys", json={"name": "", "tenant": "?", "x": 1})
        details = answer.json()["error"]["details"]
        assert details["num_problems"] == 3
        assert {problem["param"] for problem in details["problems"]} == {"name", "tenant", "x"}

    def test_a_body_over_the_limit_is_refused_by_header_and_by_count(self, client: httpx.Client) -> None:
        big = b"x" * (33 << 20)
        self.check(client.post("/v1/keys", content=big), 413, "too_large")
        sent = 0

        def endless() -> Iterator[bytes]:
            nonlocal sent
            for _ in range(200):
                sent += 1 << 20
                yield b"x" * (1 << 20)

        with contextlib.suppress(httpx.WriteError):  # the server may close on us in mid-body
            self.check(client.post("/v1/keys", content=endless()), 413, "too_large")
        assert sent < 100 << 20

    def test_a_request_id_is_kept_when_it_is_sane(self, client: httpx.Client) -> None:
        assert client.get("/healthz", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
        assert client.get("/healthz", headers={"x-request-id": "a b"}).headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_native_routes_are_mounted_twice(client: httpx.Client, prefix: str) -> None:
    assert client.get(f"{prefix}/keys").status_code == 200


def test_only_the_versioned_routes_are_in_the_schema(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v1/files" in paths
    assert "/files" not in paths
