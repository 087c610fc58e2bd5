import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from app.forecasts import answering, endpoints
from tests.app.forecasts.conftest import Gateway, ramp, series
from tests.app.tuned import Tuned
from tsfm.series.load import InlineSeries, frame_from_inline
from tsfm.tasks.forecast import Forecaster


def test_the_answer_has_the_documented_shape(gateway: Gateway) -> None:
    answer = gateway.ok(
        {
            "model": gateway.won.name,
            "prediction_length": 4,
            "quantile_levels": [0.1, 0.5, 0.9],
            "levels": [80],
            "series": [series(ramp())],
        }
    )
    one = answer["forecasts"][0]
    assert list(answer) == [
        "object", "model", "version", "digest", "calibrated", "uncalibrated_levels", "point", "forecasts", "notes",
        "timing_ms",
    ]  # fmt: skip
    assert list(one) == [
        "item_id", "timestamps", "mean", "quantiles", "intervals", "version", "digest", "fallback",
    ]  # fmt: skip
    assert (answer["object"], answer["model"], answer["version"]) == ("forecast", gateway.won.name, 1)
    assert (answer["calibrated"], answer["uncalibrated_levels"], answer["point"]) == (True, [], "median")
    assert one["timestamps"] == [f"2026-01-06T0{hour}:00:00" for hour in range(4)]
    assert one["intervals"]["80"] == {"lo": one["quantiles"]["0.1"], "hi": one["quantiles"]["0.9"]}
    assert one["mean"] == one["quantiles"]["0.5"]
    assert set(answer["timing_ms"]) == {"queue", "load", "compute"}
    assert one["digest"] == answer["digest"]
    assert one["fallback"] is None


def test_the_numbers_are_the_forecasters_own(gateway: Gateway, tuned: Tuned) -> None:
    answer = gateway.ok({"model": gateway.won.name, "levels": [80], "series": [series(ramp())]})
    item = InlineSeries(item_id="a", target=ramp(), start="2026-01-01T00:00:00", freq="h")
    expected = Forecaster.open(tuned.folder, digest=tuned.digest).predict(frame_from_inline([item]), 8, (0.1, 0.9))
    assert expected.quantiles is not None
    one = answer["forecasts"][0]
    assert answer["digest"] == tuned.digest
    np.testing.assert_allclose(one["mean"], expected.point[0], rtol=1e-6)
    np.testing.assert_allclose(one["intervals"]["80"]["lo"], expected.quantiles[0, 0], rtol=1e-6)
    np.testing.assert_allclose(one["intervals"]["80"]["hi"], expected.quantiles[0, 1], rtol=1e-6)


def test_quantiles_never_cross(gateway: Gateway) -> None:
    levels = [0.9, 0.1, 0.57, 0.5, 0.33]
    answer = gateway.ok(
        {"model": "toy", "prediction_length": 30, "quantile_levels": levels, "series": [series(ramp())]}
    )
    quantiles = answer["forecasts"][0]["quantiles"]
    assert list(quantiles) == ["0.9", "0.1", "0.57", "0.5", "0.33"]
    ordered = np.array([quantiles[str(level)] for level in sorted(levels)])
    assert np.all(np.diff(ordered, axis=0) >= 0)


def test_series_come_back_in_order_with_their_own_numbers(gateway: Gateway) -> None:
    many = [series([float(k + i % 7) for i in range(60)], item_id=f"item {k}") for k in range(150)]
    together = gateway.ok({"model": "toy", "prediction_length": 5, "series": many})["forecasts"]
    assert [one["item_id"] for one in together] == [f"item {k}" for k in range(150)]
    for k in (0, 77, 149):
        alone = gateway.ok({"model": "toy", "prediction_length": 5, "series": [many[k]]})["forecasts"][0]
        np.testing.assert_allclose(alone["mean"], together[k]["mean"], rtol=1e-5)


def test_many_callers_at_once_get_what_each_would_get_alone(gateway: Gateway) -> None:
    def body(k: int) -> dict[str, Any]:
        model = gateway.won.name if k % 2 else "toy"
        return {"model": model, "prediction_length": 3 + k % 3, "series": [series(ramp(40 + 5 * k), item_id=str(k))]}

    alone = [gateway.ok(body(k))["forecasts"] for k in range(32)]
    with ThreadPoolExecutor(32) as pool:
        together = [answer["forecasts"] for answer in pool.map(lambda k: gateway.ok(body(k)), range(32))]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one[0]["mean"], other[0]["mean"], rtol=1e-5)
        assert (one[0]["item_id"], one[0]["timestamps"]) == (other[0]["item_id"], other[0]["timestamps"])


def test_a_large_level_with_small_noise_keeps_its_digits(gateway: Gateway) -> None:
    target = [1e12 + float(i % 5) for i in range(80)]
    mean = gateway.ok({"model": "naive", "prediction_length": 2, "series": [series(target)]})["forecasts"][0]["mean"]
    assert mean == [1e12 + 4, 1e12 + 4]


@pytest.mark.parametrize("target", [[5.0], [5.0] * 50, [None, None, 3.0], [None] * 40])
@pytest.mark.parametrize("model", ["toy", "naive", "seasonal_naive", "window_mean"])
def test_poor_histories_still_give_numbers(gateway: Gateway, model: str, target: list[float | None]) -> None:
    answer = gateway.ok({"model": model, "prediction_length": 3, "series": [series(target)]})
    mean = answer["forecasts"][0]["mean"]
    assert len(mean) == 3
    assert all(isinstance(value, float) for value in mean)


def test_a_forecast_from_nothing_says_so(gateway: Gateway) -> None:
    known, unknown = series([1.0, None, 3.0], item_id="known"), series([None, None], item_id="unknown")
    notes = gateway.ok({"model": "naive", "prediction_length": 3, "series": [known, unknown]})["notes"]
    (note,) = [note for note in notes if note.startswith("No value of the history is known: unknown.")]
    assert note


def test_a_missing_item_id_is_the_place_in_the_list(gateway: Gateway) -> None:
    body = {"model": "naive", "prediction_length": 1, "series": [{"target": [1, 2]}, {"target": [3]}]}
    answer = gateway.ok(body)
    assert [(one["item_id"], one["timestamps"], one["mean"]) for one in answer["forecasts"]] == [
        ("0", [2], [2.0]),
        ("1", [1], [3.0]),
    ]


def test_inline_requests_make_no_query(gateway: Gateway) -> None:
    """Within a second of the last lookup; a slow machine may meet the end of that second now and then."""
    body = {"model": gateway.won.name, "series": [series(ramp())]}
    gateway.ok(body)
    queries: list[str] = []

    def note(*args: Any) -> None:
        queries.append(str(args[2]))

    event.listen(gateway.engine, "before_cursor_execute", note)
    try:
        for _ in range(40):
            gateway.ok(body)
    finally:
        event.remove(gateway.engine, "before_cursor_execute", note)
    assert len(queries) < 40


def test_the_unprefixed_route_is_the_same(gateway: Gateway) -> None:
    response = gateway.clients["local"].post(
        "/forecast", json={"model": "naive", "prediction_length": 1, "series": [{"target": [1]}]}
    )
    assert response.status_code == 200


def test_large_bodies_and_answers_hold_up_nobody(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read and written off the event loop, to the same answer."""
    threads: set[str] = set()

    def noting(work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **more: Any) -> Any:
            threads.add(threading.current_thread().name)
            return work(*args, **more)

        return noted

    for name in ("parse_request", "to_json"):
        monkeypatch.setattr(endpoints, name, noting(getattr(endpoints, name)))
    body = {"model": gateway.won.name, "series": [series(ramp(), item_id=f"s{i}") for i in range(3)]}
    small = gateway.ok(body)
    (loop,) = threads
    threads.clear()
    monkeypatch.setattr(answering, "SMALL_BODY_BYTES", 0)
    monkeypatch.setattr(answering, "SMALL_ANSWER_VALUES", 0)
    large = gateway.ok(body)
    assert loop not in threads
    assert large["forecasts"] == small["forecasts"]
