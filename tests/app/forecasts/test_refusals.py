"""Requests that cannot be answered: status, code and place."""

from typing import Any

import pytest

from tests.app.forecasts.conftest import Gateway, ramp, series

ONE = series(ramp())
GOOD: dict[str, Any] = {"model": "toy", "prediction_length": 2, "series": [ONE]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"modle": "toy"}, "modle"),
        ({"prediction_length": 0}, "prediction_length"),
        ({"prediction_length": "2"}, "prediction_length"),
        ({"prediction_length": True}, "prediction_length"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"series": []}, "series"),
        ({"series": [{**ONE, "target": []}]}, "series.0.target"),
        ({"series": [{**ONE, "target": ["1"]}]}, "series.0.target.0"),
        ({"series": [{**ONE, "target": [True]}]}, "series.0.target.0"),
        ({"series": [{**ONE, "targets": [1]}]}, "series.0.targets"),
        ({"series": [{**ONE, "target": [1e300]}]}, "series.0.target"),
        ({"series": [ONE, ONE]}, "series.1.item_id"),
        ({"series": [ONE, {**ONE, "item_id": "b", "freq": "D"}]}, "freq"),
        ({"series": [{**ONE, "freq": "fortnight"}]}, "freq"),
        ({"series": [{**ONE, "start": "yesterday"}]}, "series.0.start"),
        ({"series": [{**ONE, "start": 1.5}]}, "series.0.start"),
        ({"series": [{"item_id": "a", "start": "2026-01-01", "target": [1]}]}, "series.0.freq"),
        ({"series": [{**ONE, "past_covariates": {"temperature": [1.0]}}]}, "past_covariates"),
        ({"series": [{**ONE, "future_covariates": {"holiday": [1.0]}}]}, "past_covariates"),
        ({"series": [{"item_id": "a", "start": 2**63, "target": [1]}]}, "series.0.start"),
        ({"series": [{**ONE, "freq": "999999999h"}]}, "freq"),
        ({"series": [{**ONE, "freq": "99999YS"}]}, "freq"),
        ({"series": [{**ONE, "start": "9999-12-31T00:00:00", "freq": "us"}]}, "freq"),
        ({"file": "file-x"}, "file"),
        ({"item_ids": ["a"]}, "item_ids"),
        ({"quantile_levels": [0.95]}, "quantile_levels"),
        ({"quantile_levels": [2]}, "quantile_levels"),
        ({"levels": [100]}, "levels"),
        ({"timezone": "Atlantis/Centre"}, "timezone"),
    ],
)
def test_a_wrong_field_is_422_and_named(gateway: Gateway, change: dict[str, Any], param: str) -> None:
    status, error = gateway.refused({**GOOD, **change})
    assert (status, error["param"]) == (422, param), error
    assert error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": NaN', b"[" * 5000, b'{"model":"toy"} x', b"\xff\xfe"])
def test_what_is_not_json_is_400(gateway: Gateway, body: bytes) -> None:
    response = gateway.clients["local"].post("/v1/forecast", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "malformed_json")


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_none_are_422(gateway: Gateway, number: bytes) -> None:
    body = b'{"model":"toy","prediction_length":1,"series":[{"target":[1,' + number + b"]}]}"
    response = gateway.clients["local"].post("/v1/forecast", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["param"]) == (422, "series.0.target.1")


def test_another_media_type_is_415_and_says_which_are_read(gateway: Gateway) -> None:
    for content_type in ("application/x-www-form-urlencoded", "text/plain", ""):
        response = gateway.clients["local"].post("/v1/forecast", content=b"{}", headers={"content-type": content_type})
        assert response.status_code == 415
        assert "text/csv" in response.json()["error"]["message"]


def test_a_packed_json_body_is_415(gateway: Gateway) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert gateway.clients["local"].post("/v1/forecast", content=b"x", headers=headers).status_code == 415


def test_fields_in_the_address_of_a_json_request_are_refused(gateway: Gateway) -> None:
    response = gateway.clients["local"].post("/v1/forecast?prediction_length=3", json=GOOD)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "unknown_field")


def test_no_key_is_401(gateway: Gateway) -> None:
    client = gateway.clients["local"]
    response = client.post("/v1/forecast", json=GOOD, headers={"authorization": "Bearer nobody"})
    assert response.status_code == 401


def test_a_backbone_without_history_says_what_to_send(gateway: Gateway) -> None:
    status, error = gateway.refused({"model": "toy", "prediction_length": 2})
    assert (status, error["code"]) == (422, "missing_history")


def test_an_answer_beyond_the_limit_is_refused_before_it_is_computed(gateway: Gateway) -> None:
    many = [{"target": [1.0]} for _ in range(500)]
    levels = [k / 1000 for k in range(100, 200)]
    status, error = gateway.refused(
        {"model": "naive", "prediction_length": 1000, "series": many, "quantile_levels": levels}
    )
    assert (status, error["code"]) == (422, "forecast_too_large")


def test_more_series_than_the_limit_are_refused(gateway: Gateway) -> None:
    many = [{"target": [1]} for _ in range(gateway.settings.max_forecast_series + 1)]
    status, error = gateway.refused({"model": "naive", "prediction_length": 1, "series": many})
    assert (status, error["code"]) == (422, "too_many_series")


def test_quantiles_of_a_rival_need_enough_history(gateway: Gateway) -> None:
    body = {"model": "naive", "prediction_length": 2, "series": [series(ramp(15))]}
    status, error = gateway.refused({**body, "levels": [95]})
    assert (status, error["code"]) == (422, "quantiles_unavailable")
    assert "22 points; it has 15" in error["message"]
    short = gateway.ok({**body, "series": [series([1.0, 2.0, 3.0])]})
    assert short["forecasts"][0]["quantiles"] == {}
    assert "too short" in short["notes"][-1]
