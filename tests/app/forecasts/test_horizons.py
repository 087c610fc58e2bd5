"""Horizons and the clock of the answer."""

from typing import Any

import numpy as np
import pytest

from tests.app.forecasts.conftest import Gateway, ramp, series


def forecast(gateway: Gateway, model: str, steps: int | None, one: dict[str, Any] | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "series": [one or series(ramp())]}
    return gateway.ok(body if steps is None else {**body, "prediction_length": steps})


def test_the_tuned_horizon_is_the_default(gateway: Gateway) -> None:
    assert len(forecast(gateway, gateway.won.name, None)["forecasts"][0]["mean"]) == 8


def test_a_shorter_horizon_is_the_beginning_of_the_tuned_one(gateway: Gateway) -> None:
    whole = forecast(gateway, gateway.won.name, 8)["forecasts"][0]
    short = forecast(gateway, gateway.won.name, 3)["forecasts"][0]
    assert short["mean"] == whole["mean"][:3]
    assert short["quantiles"]["0.9"] == whole["quantiles"]["0.9"][:3]


def test_a_longer_horizon_recurses_and_says_so(gateway: Gateway) -> None:
    tuned, longer = forecast(gateway, gateway.won.name, 8), forecast(gateway, gateway.won.name, 20)
    np.testing.assert_allclose(longer["forecasts"][0]["mean"][:8], tuned["forecasts"][0]["mean"], rtol=1e-6)
    assert len(longer["forecasts"][0]["timestamps"]) == 20
    assert longer["calibrated"] is False
    assert tuned["notes"] == []
    assert "8 steps" in longer["notes"][0]


@pytest.mark.parametrize(("model", "steps", "limit"), [("{won}", 41, 40), ("toy", 41, 40), ("naive", 1025, 1024)])
def test_beyond_the_limit_is_refused_with_the_limit(gateway: Gateway, model: str, steps: int, limit: int) -> None:
    body = {"model": model.format(won=gateway.won.name), "prediction_length": steps, "series": [series(ramp())]}
    status, error = gateway.refused(body)
    assert (status, error["code"], error["param"]) == (422, "prediction_length_too_long", "prediction_length")
    assert error["details"]["max_prediction_length"] == limit
    assert gateway.post({**body, "prediction_length": limit}).status_code == 200


def test_what_was_not_tuned_needs_a_horizon(gateway: Gateway) -> None:
    status, error = gateway.refused({"model": "toy", "series": [series(ramp())]})
    assert (status, error["code"], error["param"]) == (422, "missing_field", "prediction_length")


@pytest.mark.parametrize(
    ("start", "freq", "length", "expected"),
    [
        ("2026-01-31", "ME", 1, ["2026-02-28T00:00:00", "2026-03-31T00:00:00", "2026-04-30T00:00:00"]),
        ("2023-12-01", "MS", 2, ["2024-02-01T00:00:00", "2024-03-01T00:00:00", "2024-04-01T00:00:00"]),
        ("2024-02-28", "D", 1, ["2024-02-29T00:00:00", "2024-03-01T00:00:00", "2024-03-02T00:00:00"]),
        ("2026-01-01T23:30:00", "15min", 2, ["2026-01-02T00:00:00", "2026-01-02T00:15:00", "2026-01-02T00:30:00"]),
        ("2026-01-09", "B", 1, ["2026-01-12T00:00:00", "2026-01-13T00:00:00", "2026-01-14T00:00:00"]),
        ("2025-12-29", "W-MON", 1, ["2026-01-05T00:00:00", "2026-01-12T00:00:00", "2026-01-19T00:00:00"]),
    ],
)
def test_times_follow_the_calendar(gateway: Gateway, start: str, freq: str, length: int, expected: list[str]) -> None:
    one = series([1.0] * length, start=start, freq=freq)
    assert forecast(gateway, "naive", 3, one)["forecasts"][0]["timestamps"] == expected


def test_hours_go_through_the_change_of_clocks(gateway: Gateway) -> None:
    """Berlin, 2026-03-29: 02:00 does not exist; physical hours go on, the offset changes."""
    body = {
        "model": "naive",
        "prediction_length": 3,
        "timezone": "Europe/Berlin",
        "series": [series([1.0, 2.0], start="2026-03-29T00:00:00")],
    }
    assert gateway.ok(body)["forecasts"][0]["timestamps"] == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-29T04:00:00+02:00",
        "2026-03-29T05:00:00+02:00",
    ]


def test_days_keep_their_wall_clock_over_the_change(gateway: Gateway) -> None:
    body = {
        "model": "naive",
        "prediction_length": 2,
        "timezone": "Europe/Berlin",
        "series": [series([1.0], start="2026-10-24T00:00:00", freq="D")],
    }
    assert gateway.ok(body)["forecasts"][0]["timestamps"] == ["2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"]


def test_an_integer_index_goes_on_counting(gateway: Gateway) -> None:
    body = {"model": "toy", "prediction_length": 3, "series": [{"item_id": "a", "start": 10, "target": [1, 2, 3, 4]}]}
    assert gateway.ok(body)["forecasts"][0]["timestamps"] == [14, 15, 16]


def test_another_frequency_than_the_tuned_one_is_answered_with_a_note(gateway: Gateway) -> None:
    answer = forecast(gateway, gateway.won.name, 2, series(ramp(), freq="D"))
    assert "'h'" in answer["notes"][0]
    assert "'D'" in answer["notes"][0]
