"""`/v2/anomaly_detection` and `/v2/online_anomaly_detection`: the native scores, at places in the sent `y`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.app.faces.nixtla import wire
from tests.app.forecasts.conftest import Gateway, gateway
from tests.app.tasks import Models, models_for

__all__ = ["gateway"]
PATH, ONLINE = "/v2/anomaly_detection", "/v2/online_anomaly_detection"
LENGTH, SPIKE = 400, 380


@pytest.fixture(scope="module", autouse=True)
def models(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory, toy_weights: Path) -> Iterator[Models]:
    with models_for("anomaly_detection", gateway, tmp_path_factory.mktemp("scored"), toy_weights) as found:
        yield found


def spiked(*, seed: int = 0) -> list[float]:
    found = wire.values(LENGTH, seed=seed)
    found[SPIKE] = 60.0
    return found


MANY = (spiked(), wire.values(300, seed=1))


def asked(*many: Any, **more: Any) -> dict[str, Any]:
    """A, as `NixtlaClient.detect_anomalies` of 0.7.2 sends it."""
    names = ("model", "freq", "finetuned_model_id", "clean_ex_first", "multivariate")
    sent = {name: value for name, value in wire.forecast().items() if name in names}
    return {**sent, "series": wire.wired(*(many or MANY)), "level": 99, **more}


def online(*many: Any, **more: Any) -> dict[str, Any]:
    """O, as `NixtlaClient.detect_anomalies_online` of 0.7.2 sends it."""
    own = {"h": 12, "detection_size": 48, "threshold_method": "univariate", "step_size": None, "refit": False}
    tuning = {"finetune_steps": 0, "finetune_depth": 1, "finetune_loss": "default", "hist_exog": None}
    body = {**asked(*many), **own, **tuning, **more}
    del body["finetuned_model_id"]
    return {**body, **more}


def native(gateway: Gateway, model: str, many: Any, **more: Any) -> dict[str, Any]:
    series = [
        {"item_id": f"s{i}", "start": "2026-01-01T00:00:00", "freq": "h", "target": list(one)}
        for i, one in enumerate(many)
    ]
    response = gateway.clients["local"].post("/v1/anomalies", json={"model": model, "series": series, **more})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


class TestHistorical:
    @pytest.mark.parametrize("model", ["toy", "temper-tiny", "seasonal_naive"])
    def test_the_numbers_are_the_native_ones(self, gateway: Gateway, model: str) -> None:
        answer = wire.ok(gateway, PATH, asked(model=model, level=95.5))
        same = native(gateway, model, MANY, level=95.5)["series"]
        assert answer["sizes"] == [len(one["value"]) for one in same]
        assert answer["anomaly"] == wire.flat(same, "is_anomaly")
        for got, field in ((answer["mean"], "expected"), (answer["intervals"]["lo-95.5"], "lower")):
            np.testing.assert_allclose(got, wire.flat(same, field), rtol=1e-5)
        np.testing.assert_allclose(answer["intervals"]["hi-95.5"], wire.flat(same, "upper"), rtol=1e-5)
        assert answer["weights_x"] is None
        assert answer["anomaly"][answer["sizes"][0] - (LENGTH - SPIKE)] is True

    def test_by_a_model_tuned_for_it(self, gateway: Gateway, models: Models) -> None:
        answer = wire.ok(gateway, PATH, asked(finetuned_model_id=models.won.version_id))
        assert (answer["model"], answer["calibrated"]) == (models.won.name, True)

    def test_a_series_too_short_has_no_rows(self, gateway: Gateway) -> None:
        answer = wire.ok(gateway, PATH, asked(MANY[0], [1.0] * 5, model="toy"))
        assert answer["sizes"][1] == 0

    def test_refusals(self, gateway: Gateway) -> None:
        assert wire.refused(gateway, PATH, asked([1.0] * 5, model="toy"))[:2] == (422, "series_too_short")
        assert wire.refused(gateway, PATH, asked(level=20)) == (422, "invalid_config", "level")
        assert wire.refused(gateway, PATH, asked(model=gateway.won.name)) == (422, "wrong_task", "model")
        assert wire.refused(gateway, PATH, asked(multivariate=True))[:2] == (422, "unsupported_parameter")
        features = {**asked(), "series": wire.wired(MANY[0], X=[[1.0] * LENGTH])}
        assert wire.refused(gateway, PATH, features) == (422, "covariates_unsupported", "series.X")


class TestOnline:
    def test_the_newest_points_are_scored(self, gateway: Gateway) -> None:
        answer = wire.ok(gateway, ONLINE, online(model="toy"))
        same = native(gateway, "toy", MANY, detection_size=48, prediction_length=12)["series"]
        assert answer["sizes"] == [48, 48]
        assert answer["idxs"] == [*range(352, 400), *range(652, 700)]
        assert answer["anomaly"] == wire.flat(same, "is_anomaly")
        assert answer["anomaly"][SPIKE - 352] is True
        np.testing.assert_allclose(answer["anomaly_score"], wire.flat(same, "score"), rtol=1e-5)
        np.testing.assert_allclose(answer["intervals"]["lo-99"], wire.flat(same, "lower"), rtol=1e-5)

    def test_series_as_one_system(self, gateway: Gateway) -> None:
        many = [spiked(seed=i) for i in range(3)]
        answer = wire.ok(gateway, ONLINE, online(*many, model="toy", threshold_method="multivariate"))
        same = native(gateway, "toy", many, detection_size=48, prediction_length=12, multivariate=True)
        assert answer["anomaly"] == same["system"]["is_anomaly"] * 3
        np.testing.assert_allclose(answer["accumulated_anomaly_score"], same["system"]["score"] * 3, rtol=1e-5)
        np.testing.assert_allclose(answer["anomaly_score"], wire.flat(same["series"], "score"), rtol=1e-5)

    def test_refusals(self, gateway: Gateway) -> None:
        wire.ok(gateway, ONLINE, online(step_size=12))
        assert wire.refused(gateway, ONLINE, online(step_size=1)) == (422, "unsupported_parameter", "step_size")
        assert wire.refused(gateway, ONLINE, online(finetune_steps=1))[1:] == (
            "unsupported_parameter",
            "finetune_steps",
        )
        apart = online(threshold_method="multivariate", model="toy")
        assert wire.refused(gateway, ONLINE, apart) == (422, "invalid_config", "multivariate")
        assert wire.refused(gateway, ONLINE, online(detection_size=1000))[:2] == (422, "series_too_short")
