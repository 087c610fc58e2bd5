"""`/v2/forecast`: the native forecast's numbers, by the client's names."""

from typing import Any

import numpy as np
import pytest

from tests.app.faces.nixtla import wire
from tests.app.forecasts.conftest import Gateway, gateway

__all__ = ["gateway"]
PATH = "/v2/forecast"
MANY = (wire.values(), wire.values(90, seed=1), wire.values(200, seed=2))


def version_id(gateway: Gateway, model: str) -> str:
    versions = gateway.clients["local"].get(f"/v1/models/{model}/versions").json()["data"]
    return str(versions[0]["id"])


class TestNumbers:
    @pytest.mark.parametrize("model", ["toy", "temper-tiny", "naive", "seasonal_naive"])
    def test_they_are_the_native_forecasts(self, gateway: Gateway, model: str) -> None:
        answer = wire.ok(gateway, PATH, wire.forecast(*MANY, model=model, level=[80, 55.5]))
        same = wire.native(gateway, model, MANY, prediction_length=6, levels=[80, 55.5])
        np.testing.assert_allclose(answer["mean"], wire.flat(same, "mean"), rtol=1e-6)
        assert list(answer["intervals"]) == ["lo-80", "hi-80", "lo-55.5", "hi-55.5"]
        for level in ("80", "55.5"):
            for end in ("lo", "hi"):
                expected = wire.flat(same, "intervals", level, end)
                np.testing.assert_allclose(answer["intervals"][f"{end}-{level}"], expected, rtol=1e-6)

    def test_a_tuned_model_answers_by_name_and_by_its_short_id(self, gateway: Gateway) -> None:
        same = wire.native(gateway, gateway.won.name, MANY, prediction_length=6)
        named = wire.ok(gateway, PATH, wire.forecast(*MANY, model=gateway.won.name))
        by_id = wire.ok(gateway, PATH, wire.forecast(*MANY, finetuned_model_id=version_id(gateway, gateway.won.name)))
        np.testing.assert_allclose(named["mean"], wire.flat(same, "mean"), rtol=1e-6)
        assert by_id["mean"] == named["mean"]
        assert (by_id["model"], by_id["version"]) == (gateway.won.name, 1)

    def test_what_was_not_beaten_answers_for_a_name_and_its_weights_for_an_id(self, gateway: Gateway) -> None:
        named = wire.ok(gateway, PATH, wire.forecast(*MANY, model=gateway.lost.name))
        by_id = wire.ok(gateway, PATH, wire.forecast(*MANY, finetuned_model_id=version_id(gateway, gateway.lost.name)))
        assert (named["fallback"], by_id["fallback"]) == ("seasonal_naive", None)
        assert named["mean"] != by_id["mean"]

    @pytest.mark.parametrize("model", ["timegpt-1", "timegpt-1-long-horizon", "timegpt-2.1", "timegpt-temper-tiny"])
    def test_the_client_s_names_mean_the_default_backbone(self, gateway: Gateway, model: str) -> None:
        ours = wire.ok(gateway, PATH, wire.forecast(*MANY, model="temper-tiny"))
        theirs = wire.ok(gateway, PATH, wire.forecast(*MANY, model=model))
        np.testing.assert_allclose(theirs["mean"], ours["mean"], rtol=1e-5)
        assert theirs["model"] == "temper-tiny"

    def test_an_answer_of_everything_the_client_reads(self, gateway: Gateway) -> None:
        answer = wire.ok(gateway, PATH, wire.forecast(*MANY))
        assert len(answer["mean"]) == 18
        assert (answer["intervals"], answer["weights_x"], answer["feature_contributions"]) == (None, None, None)


class TestLevels:
    def test_duplicates_and_zero_are_levels(self, gateway: Gateway) -> None:
        """The client makes [0.1, 0.5, 0.9] of quantiles into these."""
        answer = wire.ok(gateway, PATH, wire.forecast(*MANY, model="toy", level=[80, 0, 80]))
        assert list(answer["intervals"]) == ["lo-80", "hi-80", "lo-0", "hi-0"]
        assert answer["intervals"]["lo-0"] == answer["intervals"]["hi-0"]

    def test_a_level_is_repeated_as_it_was_sent(self, gateway: Gateway) -> None:
        answer = wire.ok(gateway, PATH, wire.forecast(*MANY, model="toy", level=[80.0, 80]))
        assert list(answer["intervals"]) == ["lo-80.0", "hi-80.0", "lo-80", "hi-80"]
        assert answer["intervals"]["lo-80.0"] == answer["intervals"]["lo-80"]

    @pytest.mark.parametrize("level", [[100], [-5], [1e400], ["80"], [True]])
    def test_others_are_refused(self, gateway: Gateway, level: list[Any]) -> None:
        status, _, param = wire.refused(gateway, PATH, wire.forecast(*MANY, model="toy", level=level))
        assert status in (400, 422)
        assert param is None or param.startswith("level")

    def test_beyond_what_a_backbone_knows_is_refused(self, gateway: Gateway) -> None:
        refusal = wire.refused(gateway, PATH, wire.forecast(*MANY, model="toy", level=[95]))
        assert refusal == (422, "invalid_config", "level")
        wire.ok(gateway, PATH, wire.forecast(*MANY, model=gateway.won.name, level=[95]))

    def test_a_history_too_short_for_any_is_refused(self, gateway: Gateway) -> None:
        refusal = wire.refused(gateway, PATH, wire.forecast([1.0, 2.0, 3.0], model="naive", level=[80]))
        assert refusal[:2] == (422, "quantiles_unavailable")


class TestSeries:
    def test_null_is_a_missing_value(self, gateway: Gateway) -> None:
        holes: list[float | None] = [*wire.values()]
        holes[40] = holes[-1] = None
        answer = wire.ok(gateway, PATH, wire.forecast(holes, model="toy"))
        np.testing.assert_allclose(
            answer["mean"], wire.flat(wire.native(gateway, "toy", [holes], prediction_length=6), "mean"), rtol=1e-6
        )

    @pytest.mark.parametrize(
        "freq",
        ["D", "h", "W-MON", "MS", "ME", "QS-OCT", "YS-JAN", "15min", "B", "C", "BMS", "2QE-DEC", "1d", "1h", "1w", "1q",
         "1MS", "1m", "1y", "BQE-DEC", "cbh", "WOM-2MON"],
    )  # fmt: skip
    def test_frequencies_of_pandas_and_polars(self, gateway: Gateway, freq: str) -> None:
        answer = wire.ok(gateway, PATH, wire.forecast(*MANY, model="seasonal_naive", freq=freq))
        assert len(answer["mean"]) == 18

    def test_a_season_comes_from_the_frequency(self, gateway: Gateway) -> None:
        y = [float(i % 12) for i in range(60)]
        for freq in ("MS", "ME", "BMS", "1MS"):
            answer = wire.ok(gateway, PATH, wire.forecast(y, model="seasonal_naive", freq=freq))
            assert np.round(answer["mean"]).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]

    def test_without_a_known_season_it_says_so(self, gateway: Gateway) -> None:
        answer = wire.ok(gateway, PATH, wire.forecast(*MANY, model="naive", freq="bh"))
        assert any("No season is known of freq 'bh'" in note for note in answer["notes"])

    def test_integer_times_are_not_months(self, gateway: Gateway) -> None:
        """The client says "MS" of them; from 0.9.0 on months come with their times."""
        y = [float(i % 12) for i in range(60)]
        body = wire.forecast(y, model="seasonal_naive", freq="MS")
        integer = wire.ok(gateway, PATH, body, nixtla_client_version="0.9.0")
        assert np.round(integer["mean"]).tolist() == [11.0] * 6, "a season of one"
        months = {**body, "series": {**body["series"], "start_datetime": ["2020-01-01T00:00:00"]}}
        for sent, version in ((months, "0.9.0"), (body, "0.8.0")):
            answer = wire.ok(gateway, PATH, sent, nixtla_client_version=version)
            assert np.round(answer["mean"]).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]

    def test_days_of_an_own_calendar_may_begin_on_any(self, gateway: Gateway) -> None:
        sunday = {"start_datetime": ["2024-02-04T00:00:00"]}
        for freq, status in (("C", 200), ("B", 422)):
            body = wire.forecast(model="naive", freq=freq, series=wire.wired(wire.values(60), **sunday))
            assert wire.post(gateway, PATH, body).status_code == status

    def test_start_times_change_no_number(self, gateway: Gateway) -> None:
        body = wire.forecast(*MANY, model="toy")
        timed = {**body, "series": {**body["series"], "start_datetime": ["2024-02-03T05:00:00"] * 3}}
        assert wire.ok(gateway, PATH, timed)["mean"] == wire.ok(gateway, PATH, body)["mean"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "status", "code", "param"),
        [
            ({"model": "timegpt-7"}, 404, "model_not_found", "model"),
            ({"finetuned_model_id": "mine"}, 404, "model_not_found", "finetuned_model_id"),
            ({"finetuned_model_id": "mv-nothing"}, 404, "model_not_found", None),
            ({"finetuned_model_id": "a b"}, 422, "invalid_request", "finetuned_model_id"),
            ({"finetune_steps": 10}, 422, "unsupported_parameter", "finetune_steps"),
            ({"multivariate": True}, 422, "unsupported_parameter", "multivariate"),
            ({"feature_contributions": True}, 422, "unsupported_parameter", "feature_contributions"),
            ({"model_parameters": {"a": 1}}, 422, "unsupported_parameter", "model_parameters"),
            ({"h": 100_000}, 422, "prediction_length_too_long", "h"),
            ({"h": 0}, 422, "invalid_request", "h"),
            ({"freq": "fortnight"}, 422, "unknown_freq", "freq"),
            ({"series": wire.wired([1.0, 2.0], sizes=[3])}, 422, "invalid_request", "series.sizes"),
            ({"series": wire.wired([], sizes=[])}, 422, "invalid_request", "series.y"),
            ({"series": wire.wired([1.0], start_datetime=["2024-01-01"] * 2)}, 422, "invalid_request",
             "series.start_datetime"),
            ({"series": wire.wired([1.0], start_datetime=["soon"])}, 422, "invalid_timestamp", "series.0.start"),
            ({"series": wire.wired([1.0], [2.0], sizes=[1, 1], X=[[1.0, 2.0]])}, 422, "covariates_unsupported",
             "series.X"),
            ({"series": wire.wired(*([[1.0]] * 501))}, 422, "too_many_series", "series"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_said_why(
        self, gateway: Gateway, more: dict[str, Any], status: int, code: str, param: str | None
    ) -> None:
        refusal = wire.refused(gateway, PATH, wire.forecast(**more))
        assert refusal[:2] == (status, code)
        assert param is None or refusal[2] == param

    def test_steps_of_tuning_name_the_mend(self, gateway: Gateway) -> None:
        answer = wire.post(gateway, PATH, wire.forecast(finetune_steps=10))
        assert "call finetune() first" in answer.json()["detail"]

    def test_another_tenant_s_model_is_not_there(self, gateway: Gateway) -> None:
        for more in ({"model": gateway.won.name}, {"finetuned_model_id": version_id(gateway, gateway.won.name)}):
            answer = wire.post(gateway, PATH, wire.forecast(**more), tenant="other")
            assert wire.said(answer)[:2] == (404, "model_not_found")
