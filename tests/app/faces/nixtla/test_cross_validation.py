"""`/v2/cross_validation` and `/v2/historic_forecast`: the native backtest's forecasts, at places in the sent `y`."""

from typing import Any

import numpy as np
import pytest

from tests.app.faces.nixtla import wire
from tests.app.forecasts.conftest import Gateway, gateway

__all__ = ["gateway"]
PATH = "/v2/cross_validation"
MANY = (wire.values(120), wire.values(90, seed=1))


def asked(*many: Any, **more: Any) -> dict[str, Any]:
    """C, as `NixtlaClient.cross_validation` of 0.7.2 sends it."""
    body = wire.forecast(**{"n_windows": 2, "step_size": 6, "hist_exog": None, "refit": True, **more})
    del body["feature_contributions"]
    return {**body, "series": wire.wired(*(many or MANY))}


def history(*many: Any, **more: Any) -> dict[str, Any]:
    """F without `h` and the fields of tuning, as clients up to 0.7.1 send it for `add_history`."""
    body = wire.forecast(*many, **more)
    return {name: value for name, value in body.items() if name not in ("h", "finetune_steps", "finetune_loss")}


def rows_of(answer: dict[str, Any], series: int, h: int) -> tuple[list[list[int]], list[list[float]]]:
    """Places and forecasts of one series, window by window."""
    begin, size = sum(answer["sizes"][:series]), answer["sizes"][series]
    cut = range(begin, begin + size, h)
    return [answer["idxs"][i : i + h] for i in cut], [answer["mean"][i : i + h] for i in cut]


class TestNumbers:
    @pytest.mark.parametrize("model", ["toy", "temper-tiny", "seasonal_naive"])
    def test_each_window_is_the_native_forecast_from_its_cutoff(self, gateway: Gateway, model: str) -> None:
        answer = wire.ok(gateway, PATH, asked(model=model, n_windows=3, step_size=4, level=[80]))
        assert answer["sizes"] == [18, 18]
        for i, (one, offset) in enumerate(zip(MANY, (0, 120), strict=True)):
            places, means = rows_of(answer, i, 6)
            for k, (place, mean) in enumerate(zip(places, means, strict=True)):
                end = len(one) - 6 - (2 - k) * 4
                assert place == list(range(offset + end, offset + end + 6))
                (same,) = wire.native(gateway, model, [one[:end]], prediction_length=6, levels=[80])
                np.testing.assert_allclose(mean, same["mean"], rtol=1e-4)
                begin = 18 * i + 6 * k
                for bound in ("lo", "hi"):
                    got = answer["intervals"][f"{bound}-80"][begin : begin + 6]
                    np.testing.assert_allclose(got, same["intervals"]["80"][bound], rtol=1e-4)

    def test_its_errors_are_the_native_backtest_s(self, gateway: Gateway) -> None:
        answer = wire.ok(gateway, PATH, asked(model=gateway.won.name))
        series = [
            {"item_id": f"s{i}", "start": "2026-01-01T00:00:00", "freq": "h", "target": one}
            for i, one in enumerate(MANY)
        ]
        body = {"model": gateway.won.name, "prediction_length": 6, "num_windows": 2, "series": series, "rivals": []}
        native = gateway.clients["local"].post("/v1/backtests", json=body).json()["results"][0]["series"]
        y = np.array([*MANY[0], *MANY[1]])
        for i, one in enumerate(native):
            for place, mean, window in zip(*rows_of(answer, i, 6), one["windows"], strict=True):
                assert np.abs(np.array(mean) - y[place]).mean() == pytest.approx(window["mae"], rel=1e-4)

    def test_without_levels_there_are_no_intervals(self, gateway: Gateway) -> None:
        assert wire.ok(gateway, PATH, asked(model="naive"))["intervals"] is None


class TestHistory:
    def test_rows_are_the_end_of_each_series(self, gateway: Gateway) -> None:
        """From 0.8.0 on; `h` and `n_windows` are placeholders."""
        answer = wire.ok(gateway, PATH, asked(model="seasonal_naive", h=1, n_windows=1, full_history=True))
        assert answer["sizes"] == [96, 72], "as many days as fit behind two points"
        assert answer["idxs"] == [*range(24, 120), *range(120 + 18, 210)]

    def test_older_clients_have_a_route_of_their_own(self, gateway: Gateway) -> None:
        new = wire.ok(gateway, PATH, asked(model="toy", full_history=True, level=[80]))
        old = wire.ok(gateway, "/v2/historic_forecast", history(*MANY, model="toy", level=[80]))
        for field in ("mean", "sizes", "intervals", "weights_x", "feature_contributions"):
            assert old[field] == new[field]

    def test_a_series_without_room_has_no_rows(self, gateway: Gateway) -> None:
        answer = wire.ok(gateway, "/v2/historic_forecast", history(MANY[0], [1.0, 2.0], model="naive"))
        assert answer["sizes"] == [96, 0]

    def test_short_ones_alone_have_short_windows(self, gateway: Gateway) -> None:
        answer = wire.ok(gateway, "/v2/historic_forecast", history([1.0, 2.0, 3.0, 4.0], model="naive"))
        assert (answer["sizes"], answer["mean"]) == ([2], [2.0, 2.0])


class TestRefusals:
    def test_a_series_too_short_for_all_windows_says_have_and_need(self, gateway: Gateway) -> None:
        answer = wire.post(gateway, PATH, asked(MANY[0], [1.0] * 13, model="naive"))
        assert wire.said(answer) == (422, "series_too_short", "n_windows")
        assert answer.json()["error"]["details"] == {"have": 13, "need": 14}
        wire.ok(gateway, PATH, asked(MANY[0], [1.0] * 14, model="naive"))

    @pytest.mark.parametrize(
        ("more", "code", "param"),
        [
            ({"finetune_steps": 3}, "unsupported_parameter", "finetune_steps"),
            ({"multivariate": True}, "unsupported_parameter", "multivariate"),
            ({"model_parameters": {"a": 1}}, "unsupported_parameter", "model_parameters"),
            ({"n_windows": 10**15, "step_size": 1}, "series_too_short", "n_windows"),
            ({"step_size": 0}, "invalid_request", "step_size"),
            ({"h": 2000, "series": wire.wired([1.0] * 5000)}, "prediction_length_too_long", "h"),
            ({"n_windows": 501, "step_size": 1, "series": wire.wired([1.0] * 600)}, "backtest_too_large", "n_windows"),
            ({"series": wire.wired(MANY[0], X=[[1.0] * 120]), "hist_exog": [0]}, "covariates_unsupported", "series.X"),
        ],
    )
    def test_what_cannot_be_is_said_why(self, gateway: Gateway, more: dict[str, Any], code: str, param: str) -> None:
        assert wire.refused(gateway, PATH, {**asked(model="naive"), **more}) == (422, code, param)
