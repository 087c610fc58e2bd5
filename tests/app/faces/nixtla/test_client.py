"""The official `nixtla` client, unchanged, on frames, against a live gateway."""

from typing import Any

import numpy as np
import pytest

from app.faces.nixtla import finetune
from tests.app.faces.nixtla import wire
from tests.app.faces.nixtla.working import working
from tests.app.forecasts.conftest import Gateway, gateway

pd = pytest.importorskip("pandas", reason="the nixtla client reads frames of pandas")
nixtla = pytest.importorskip("nixtla", reason="the nixtla client is not installed")

__all__ = ["gateway"]
MANY = (wire.values(300), wire.values(150, seed=1), wire.values(200, seed=2))


@pytest.fixture
def client(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Any:
    return client_of(gateway, monkeypatch, gateway.clients["local"].headers["authorization"].removeprefix("Bearer "))


def client_of(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, key: str) -> Any:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    return nixtla.NixtlaClient(api_key=key, base_url=str(gateway.clients["local"].base_url), max_retries=1)


def frame(*many: Any, freq: str = "h") -> Any:
    """Long, as the client wants it; series are named "b0", "b1", …"""
    parts = [
        pd.DataFrame({"unique_id": f"b{i}", "ds": pd.date_range("2026-01-01", periods=len(one), freq=freq), "y": one})
        for i, one in enumerate(many or MANY)
    ]
    return pd.concat(parts, ignore_index=True)


def spiked() -> list[float]:
    found = wire.values(400)
    found[380] = 60.0
    return found


class TestTransport:
    def test_a_key_is_known_or_not(self, gateway: Gateway, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        assert client.validate_api_key() is True
        stranger = client_of(gateway, monkeypatch, "nonsense")
        assert stranger.validate_api_key() is False
        with pytest.raises(Exception, match="API Key not valid"):
            stranger.forecast(frame(), h=3, freq="h", validate_api_key=True)
        with pytest.raises(nixtla.nixtla_client.ApiError) as caught:
            stranger.usage()
        assert caught.value.status_code == 401

    def test_usage_is_an_object(self, client: Any) -> None:
        assert client.usage()["tenant"] == "local"

    def test_large_calls_are_packed_or_split(self, client: Any) -> None:
        """Above 1 MiB of JSON the client sends zstd."""
        long = frame(*[wire.values(120_000, seed=i) for i in range(2)])
        with pytest.raises(nixtla.nixtla_client.ApiError) as caught:  # steps of tuning keep the client from cutting
            client.forecast(long, h=4, freq="h", model="timegpt-naive", finetune_steps=1)
        assert caught.value.body["error"]["param"] == "finetune_steps", "it was read"
        split = client.forecast(frame(*MANY), h=4, freq="h", model="timegpt-naive", num_partitions=3)
        assert len(split) == 12
        assert split["TimeGPT"].tolist()[::4] == pytest.approx([one[-1] for one in MANY])


class TestForecast:
    def test_the_frame_holds_the_native_forecast(self, gateway: Gateway, client: Any) -> None:
        found = client.forecast(frame(), h=6, freq="h", level=[80], model="timegpt-toy")
        same = wire.native(gateway, "toy", MANY, prediction_length=6, levels=[80])
        assert list(found) == ["unique_id", "ds", "TimeGPT", "TimeGPT-hi-80", "TimeGPT-lo-80"]
        np.testing.assert_allclose(found["TimeGPT"], wire.flat(same, "mean"), rtol=1e-5)
        np.testing.assert_allclose(found["TimeGPT-lo-80"], wire.flat(same, "intervals", "80", "lo"), rtol=1e-5)
        assert found["ds"].iloc[0] == pd.Timestamp("2026-01-13T12:00:00")

    def test_by_the_client_s_own_name(self, gateway: Gateway, client: Any) -> None:
        found = client.forecast(frame(), h=6, freq="h")
        same = wire.native(gateway, "temper-tiny", MANY, prediction_length=6)
        np.testing.assert_allclose(found["TimeGPT"], wire.flat(same, "mean"), rtol=1e-5)

    def test_quantiles_go_as_levels(self, gateway: Gateway, client: Any) -> None:
        found = client.forecast(frame(), h=6, freq="h", quantiles=[0.1, 0.5, 0.9], model="timegpt-toy")
        same = wire.native(gateway, "toy", MANY, prediction_length=6, quantile_levels=[0.1, 0.5, 0.9])
        for percent, label in ((10, "0.1"), (50, "0.5"), (90, "0.9")):
            np.testing.assert_allclose(found[f"TimeGPT-q-{percent}"], wire.flat(same, "quantiles", label), rtol=1e-5)

    def test_a_tuned_model_by_its_id(self, gateway: Gateway, client: Any) -> None:
        versions = gateway.clients["local"].get(f"/v1/models/{gateway.won.name}/versions").json()["data"]
        found = client.forecast(frame(), h=6, freq="h", finetuned_model_id=versions[0]["id"], level=[95])
        same = wire.native(gateway, gateway.won.name, MANY, prediction_length=6, levels=[95])
        np.testing.assert_allclose(found["TimeGPT"], wire.flat(same, "mean"), rtol=1e-5)
        np.testing.assert_allclose(found["TimeGPT-hi-95"], wire.flat(same, "intervals", "95", "hi"), rtol=1e-5)

    @pytest.mark.parametrize("freq", ["D", "W-MON", "MS", "ME", "QS-OCT", "YS-JAN", "15min", "B"])
    def test_frequencies(self, client: Any, freq: str) -> None:
        found = client.forecast(frame(wire.values(60), freq=freq), h=3, freq=freq, model="timegpt-seasonal_naive")
        assert len(found) == 3

    def test_an_inferred_frequency_and_a_single_series(self, client: Any) -> None:
        alone = frame(wire.values(60)).drop(columns="unique_id")
        assert list(client.forecast(alone, h=2, model="timegpt-naive")) == ["ds", "TimeGPT"]

    def test_integer_times(self, client: Any) -> None:
        numbered = pd.DataFrame({"unique_id": "a", "ds": np.arange(60), "y": wire.values(60)})
        assert client.forecast(numbered, h=2, freq=1, model="timegpt-naive")["ds"].tolist() == [60, 61]

    def test_features_are_refused_with_the_reason(self, client: Any) -> None:
        with_feature = frame().assign(price=1.0)
        with pytest.raises(nixtla.nixtla_client.ApiError) as caught:
            client.forecast(with_feature, h=3, freq="h", hist_exog_list=["price"])
        assert caught.value.status_code == 422
        assert "looks at the target alone" in caught.value.body["detail"]

    def test_an_unknown_model_is_said_at_once(self, client: Any) -> None:
        with pytest.raises(nixtla.nixtla_client.ApiError) as caught:
            client.forecast(frame(), h=3, freq="h", model="timegpt-7")
        assert (caught.value.status_code, caught.value.body["error"]["code"]) == (404, "model_not_found")

    def test_steps_of_tuning_name_the_mend(self, client: Any) -> None:
        with pytest.raises(nixtla.nixtla_client.ApiError, match=r"call finetune\(\) first"):
            client.forecast(frame(), h=3, freq="h", finetune_steps=5)


class TestCrossValidation:
    def test_cutoffs_and_forecasts(self, gateway: Gateway, client: Any) -> None:
        found = client.cross_validation(
            frame(), h=6, freq="h", n_windows=3, step_size=4, level=[80], model="timegpt-toy"
        )
        assert len(found) == 3 * 3 * 6
        last = found[(found["unique_id"] == "b1") & (found["ds"] == pd.Timestamp("2026-01-07T05:00:00"))].iloc[-1]
        assert last["cutoff"] == pd.Timestamp("2026-01-06T23:00:00")
        assert last["y"] == pytest.approx(MANY[1][149])
        newest = found[(found["unique_id"] == "b1") & (found["cutoff"] == last["cutoff"])]
        (same,) = wire.native(gateway, "toy", [MANY[1][:144]], prediction_length=6, levels=[80])
        np.testing.assert_allclose(newest["TimeGPT"], same["mean"], rtol=1e-4)
        np.testing.assert_allclose(newest["TimeGPT-hi-80"], same["intervals"]["80"]["hi"], rtol=1e-4)

    def test_quantiles_and_partitions(self, client: Any) -> None:
        """Two: of three or more the client of 0.7.2 itself lays out the rows wrongly (its offsets do not add up)."""
        whole = client.cross_validation(frame(), h=6, freq="h", n_windows=2, quantiles=[0.1, 0.9], model="timegpt-toy")
        split = client.cross_validation(
            frame(), h=6, freq="h", n_windows=2, quantiles=[0.1, 0.9], model="timegpt-toy", num_partitions=2
        )
        pd.testing.assert_frame_equal(whole, split, rtol=1e-5)
        assert {"TimeGPT-q-10", "TimeGPT-q-90"} <= set(whole)

    def test_history_comes_before_the_forecast(self, client: Any) -> None:
        found = client.forecast(frame(), h=6, freq="h", add_history=True, model="timegpt-toy")
        assert (found.groupby("unique_id").size() > 6 + 12).all()
        assert not found["TimeGPT"].isna().any()
        assert found[found["unique_id"] == "b0"]["ds"].is_monotonic_increasing

    def test_a_series_too_short_says_have_and_need(self, client: Any) -> None:
        with pytest.raises(nixtla.nixtla_client.ApiError, match="The shortest series has 10 points"):
            client.cross_validation(frame(MANY[0], [1.0] * 10), h=6, freq="h", n_windows=3)


class TestAnomalies:
    def test_a_spike_in_history(self, client: Any) -> None:
        found = client.detect_anomalies(frame(spiked(), MANY[0]), freq="h", level=99)
        spike = found[found["y"] > 50]
        assert len(spike) == 1
        assert bool(spike["anomaly"].iloc[0]) is True
        assert spike["TimeGPT-hi-99"].iloc[0] < 50
        assert found["anomaly"].mean() < 0.05

    def test_the_newest_points(self, client: Any) -> None:
        found = client.detect_anomalies_online(
            frame(spiked(), MANY[0]), freq="h", h=12, detection_size=48, level=99, threshold_method="univariate"
        )
        assert len(found) == 96
        assert found.loc[found["y"] > 50, "anomaly"].tolist() == [True]
        assert found.loc[found["y"] > 50, "anomaly_score"].item() > 1.0

    def test_series_as_one_system(self, client: Any) -> None:
        together = frame(spiked(), wire.values(400, seed=1), wire.values(400, seed=2))
        found = client.detect_anomalies_online(
            together, freq="h", h=12, detection_size=48, level=99, threshold_method="multivariate"
        )
        moment = found[found["ds"] == pd.Timestamp("2026-01-16T20:00:00")]
        assert moment["anomaly"].tolist() == [True] * 3
        assert moment["accumulated_anomaly_score"].nunique() == 1


class TestFinetune:
    def test_the_whole_road(self, gateway: Gateway, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tune (its answer begins long before the job has ended), look, ask, delete."""
        monkeypatch.setattr(finetune, "QUIET_SECONDS", 0.5)
        monkeypatch.setattr(finetune, "SPACE_SECONDS", 0.2)
        with working(gateway):
            model_id = client.finetune(
                frame(), freq="h", finetune_steps=3, output_model_id="my_load", model="timegpt-1"
            )
        assert model_id == "my_load"
        (listed,) = [one for one in client.finetuned_models() if one.id == model_id]
        assert (listed.steps, listed.depth, listed.freq, listed.created_by) == (3, 1, "h", "local")
        assert client.finetuned_model(model_id).model_dump() == listed.model_dump()
        assert client.finetuned_models(as_df=True)["id"].iloc[0] == model_id
        found = client.forecast(frame(), h=6, freq="h", finetuned_model_id=model_id, level=[95])
        same = wire.native(gateway, listed.version_id, MANY, prediction_length=6, levels=[95])
        np.testing.assert_allclose(found["TimeGPT"], wire.flat(same, "mean"), rtol=1e-5)
        np.testing.assert_allclose(found["TimeGPT-lo-95"], wire.flat(same, "intervals", "95", "lo"), rtol=1e-5)
        windows = client.cross_validation(frame(), h=6, freq="h", n_windows=2, finetuned_model_id=model_id)
        assert len(windows) == 36
        with pytest.raises(nixtla.nixtla_client.ApiError) as caught:
            client.finetune(frame(MANY[0]), freq="h", output_model_id=model_id)
        assert (caught.value.status_code, caught.value.body["error"]["code"]) == (422, "model_id_taken")
        assert client.delete_finetuned_model(model_id) is True
        assert client.delete_finetuned_model(model_id) is False
        with pytest.raises(nixtla.nixtla_client.ApiError) as caught:
            client.finetuned_model(model_id)
        assert caught.value.status_code == 404

    def test_a_series_too_short_says_have_and_need(self, client: Any) -> None:
        with pytest.raises(nixtla.nixtla_client.ApiError, match="The longest series has 30 points"):
            client.finetune(frame(wire.values(30)), freq="h")

    def test_in_the_background(self, gateway: Gateway, client: Any) -> None:
        if not hasattr(client, "jobs"):
            pytest.skip("clients have jobs from 0.9.0 on")
        with working(gateway):
            model_id = client.jobs.finetune(frame(), freq="h", finetune_steps=2).wait(poll_timeout=120)
        assert model_id in {one.id for one in client.finetuned_models()}
        assert model_id not in client.list_models()
        assert "timegpt-1" in client.list_models()
        other = client.jobs.finetune(frame(), freq="h", finetune_steps=3)
        assert other.status == "pending"
        other.cancel()
        assert other.status == "cancelled"
