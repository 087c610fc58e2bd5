"""Keys, bodies and errors as the client sends and reads them; what the face lists."""

import json
from collections.abc import Iterator

import httpx
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.faces.nixtla import transport
from tests.app.faces.nixtla import wire
from tests.app.forecasts.conftest import Gateway, gateway
from tests.app.tasks import with_scopes

__all__ = ["gateway"]
ROUTES = [
    "/v2/forecast",
    "/v2/historic_forecast",
    "/v2/cross_validation",
    "/v2/anomaly_detection",
    "/v2/online_anomaly_detection",
    "/v2/finetune",
    "/v2/finetune/async",
]
READS = [
    "/validate_api_key",
    "/usage",
    "/model_params?model=timegpt-1&freq=h",
    "/v2/models",
    "/v2/finetuned_models",
    "/v2/finetuned_models/mine",
    "/v2/finetune/jobs/ftjob-a",
]
EVERY_FIELD = {**wire.forecast(wire.values(60), model="toy"), "n_windows": 2, "step_size": 6, "detection_size": 6}
"""With the level of a forecast, or of scores where that is what is changed."""


@pytest.fixture
def nobody(gateway: Gateway) -> Iterator[httpx.Client]:
    """A caller whose key is of no tenant."""
    headers = {"authorization": "Bearer nonsense"}
    with httpx.Client(base_url=gateway.clients["local"].base_url, headers=headers, trust_env=False) as client:
        yield client


def packed(body: object) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(json.dumps(body).encode())


def send_packed(gateway: Gateway, content: bytes, encoding: str = "zstd") -> httpx.Response:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    return gateway.clients["local"].post("/v2/forecast", content=content, headers=headers)


class TestKeys:
    def test_a_valid_one_is_said_to_be(self, gateway: Gateway) -> None:
        answer = gateway.clients["local"].get("/validate_api_key")
        assert (answer.status_code, "valid" in answer.json()["detail"]) == (200, True)
        old = gateway.clients["local"].post("/validate_token", json={}).json()
        assert old["message"] == "success"
        assert "Forecasting! :)" in old["detail"]

    @pytest.mark.parametrize("path", READS)
    def test_an_unknown_one_is_401_in_json(self, nobody: httpx.Client, path: str) -> None:
        answer = nobody.get(path)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"

    @pytest.mark.parametrize("path", ["/validate_token", *ROUTES])
    def test_it_is_for_posts_too(self, nobody: httpx.Client, path: str) -> None:
        assert wire.said(nobody.post(path, json=wire.forecast())) == (401, "invalid_api_key", None)
        answer = nobody.get("/validate_api_key")
        assert answer.json()["detail"] == "This API key is unknown or revoked."

    def test_a_key_without_the_scope_is_403(self, gateway: Gateway) -> None:
        assert wire.said(with_scopes(gateway, "/v2/forecast", wire.forecast(), ["jobs"]))[:2] == (403, "missing_scope")


class TestBodies:
    def test_a_zstd_frame_is_read(self, gateway: Gateway) -> None:
        plain = wire.ok(gateway, "/v2/forecast", wire.forecast())
        sent = send_packed(gateway, packed(wire.forecast()))
        assert sent.status_code == 200, sent.text
        assert sent.json()["mean"] == plain["mean"]

    def test_a_small_frame_that_holds_a_large_body_holds_up_nobody(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is unpacked up to the cap, and answered 413."""
        monkeypatch.setattr(transport, "MAX_DECODED_BYTES", 8 << 20)
        bomb = zstandard.ZstdCompressor().compress(b" " * (9 << 20))
        assert len(bomb) < 10_000
        answer = send_packed(gateway, bomb)
        assert wire.said(answer)[:2] == (413, "too_large")
        assert "num_partitions" in answer.json()["detail"]

    def test_one_of_too_many_numbers_is_not_read(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "MAX_DECODED_VALUES", 400)
        wire.ok(gateway, "/v2/forecast", wire.forecast(wire.values(), wire.values(200)))
        answer = send_packed(gateway, packed(wire.forecast(wire.values(), wire.values(300))))
        assert wire.said(answer)[:2] == (413, "too_large")
        assert answer.json()["error"]["details"] == {"max_values": 400}

    def test_the_cap_is_what_the_client_keeps_to(self) -> None:
        assert transport.MAX_DECODED_BYTES == 200 * 2**20

    @pytest.mark.parametrize(
        ("content", "code"),
        [(b"not zstd", "malformed_zstd"), (packed({"a": 1})[:-4], "malformed_json"), (b"", "malformed_json")],
    )
    def test_what_is_no_frame_is_400(self, gateway: Gateway, content: bytes, code: str) -> None:
        assert wire.said(send_packed(gateway, content))[:2] == (400, code)

    def test_another_encoding_is_415(self, gateway: Gateway) -> None:
        assert wire.said(send_packed(gateway, b"x", "br"))[:2] == (415, "unsupported_encoding")

    def test_what_is_no_json_is_400(self, gateway: Gateway) -> None:
        answer = gateway.clients["local"].post("/v2/forecast", content=b"{")
        assert wire.said(answer)[:2] == (400, "malformed_json")

    def test_a_wrong_field_is_named(self, gateway: Gateway) -> None:
        assert wire.refused(gateway, "/v2/forecast", wire.forecast(h="six")) == (422, "invalid_request", "h")
        assert wire.refused(gateway, "/v2/forecast", {}) == (422, "invalid_request", "series")

    def test_an_unknown_field_counts_where_it_asks_for_something(self, gateway: Gateway) -> None:
        wire.ok(gateway, "/v2/forecast", wire.forecast(next_year=None, or_so=False, also=[]))
        refusal = wire.refused(gateway, "/v2/forecast", wire.forecast(next_year="all of it"))
        assert refusal == (422, "unknown_field", "next_year")

    @given(
        body=st.recursive(
            st.none()
            | st.booleans()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.integers()
            | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from([*wire.forecast(), "y", "sizes"]), inner, max_size=8)
            ),
            max_leaves=20,
        ),
        changed=st.sampled_from(sorted(EVERY_FIELD)),
    )
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_nothing_that_can_be_sent_breaks_it(self, gateway: Gateway, body: object, changed: str) -> None:
        gateway.settings.__dict__["max_queued_jobs"] = 0  # a call that fits would wait for its job
        for path in ROUTES:
            for sent in (body, {**EVERY_FIELD, changed: body}):
                answer = gateway.clients["local"].post(path, json=sent)
                assert answer.status_code < 500, (path, sent, answer.text)
                assert "data" not in answer.json()


class TestLists:
    def test_models_are_named(self, gateway: Gateway) -> None:
        names = [one["name"] for one in gateway.clients["local"].get("/v2/models").json()["models"]]
        assert names[:3] == ["timegpt-1", "timegpt-1-long-horizon", "timegpt-2.1"]
        assert {"toy", "naive", gateway.won.name} <= set(names)
        assert "linear_fill" not in names, "it forecasts nothing"
        theirs = [one["name"] for one in gateway.clients["other"].get("/v2/models").json()["models"]]
        assert gateway.won.name not in theirs

    def test_usage_is_the_tenants(self, gateway: Gateway) -> None:
        answer = gateway.clients["local"].get("/usage").json()
        assert (answer["tenant"], "data" in answer) == ("local", False)

    @pytest.mark.parametrize("freq", ["h", "D", "15min", "MS", "W-MON", "QS-OCT", "1d"])
    def test_model_params_say_what_to_send(self, gateway: Gateway, freq: str) -> None:
        client = gateway.clients["local"]
        got = client.get("/model_params", params={"model": "timegpt-1", "freq": freq}).json()
        assert got["detail"]["input_size"] >= 512
        assert 12 <= got["detail"]["horizon"] <= 96
        assert client.post("/model_params", json={"model": "timegpt-1", "freq": freq}).json() == got

    def test_a_tuned_model_s_horizon_is_its_own(self, gateway: Gateway) -> None:
        client = gateway.clients["local"]
        got = client.get("/model_params", params={"model": gateway.won.name, "freq": "h"}).json()
        assert got["detail"]["horizon"] == 8

    def test_model_params_of_nothing_are_refused(self, gateway: Gateway) -> None:
        client = gateway.clients["local"]
        unknown = client.get("/model_params", params={"model": "timegpt-7", "freq": "h"})
        assert wire.said(unknown) == (404, "model_not_found", "model")
        assert wire.said(client.get("/model_params", params={"model": "toy", "freq": "fortnight"})) == (
            422, "unknown_freq", "freq",
        )  # fmt: skip
        assert wire.said(client.get("/model_params", params={"model": "toy"})) == (422, "invalid_request", "freq")

    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", "/v2/forecast/async"), ("GET", "/v2/forecast/jobs/a"), ("POST", "/v2/simulate/async")],
    )
    def test_what_is_left_out_says_so(self, gateway: Gateway, method: str, path: str) -> None:
        answer = gateway.clients["local"].request(method, path)
        assert wire.said(answer)[:2] == (404, "not_found")
        assert "Not offered here: simulate" in answer.json()["detail"]
