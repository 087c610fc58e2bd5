"""Forecasters: horizons, quantiles, units, and what they refuse."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests import toy
from tsfm import finetune
from tsfm.errors import ArtifactError, ConfigError, UnknownName, WeightsError
from tsfm.finetune import FinetuneRequest, FinetuneResult
from tsfm.series.windows import tail
from tsfm.tasks.forecast import Forecaster, interpolate


@pytest.fixture(scope="module")
def tuned(toy_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    folder = tmp_path_factory.mktemp("tuned")
    asked = {"learning_rate": 1e-2, "max_epochs": 1}
    return finetune.run(
        FinetuneRequest.from_mapping(
            {"backbone": "toy", "method": "full", "prediction_length": 6, "hyperparameters": asked}
        ),
        toy.frame(),
        weights_dir=toy_weights,
        state_dir=folder / "state",
        out_dir=folder / "artifact",
        report=lambda _: None,
        should_stop=lambda: None,
    )


@pytest.fixture(scope="module")
def forecaster(tuned: FinetuneResult) -> Forecaster:
    return Forecaster.open(tuned.out_dir, digest=tuned.digest)


@pytest.fixture(scope="module")
def native(toy_weights: Path) -> Forecaster:
    """Nothing was calibrated for it."""
    return Forecaster.zero_shot("toy", weights_dir=toy_weights)


class TestHorizons:
    def test_shorter_is_the_beginning_of_the_tuned_forecast(self, forecaster: Forecaster) -> None:
        whole, short = (forecaster.predict(toy.frame(), h, (0.5,)) for h in (6, 2))
        assert np.array_equal(short.point, whole.point[:, :2])
        assert short.notes == ()

    def test_longer_continues_on_itself_and_says_so(self, forecaster: Forecaster) -> None:
        whole, longer = (forecaster.predict(toy.frame(), h, (0.1, 0.9)) for h in (6, 40))
        assert np.array_equal(longer.point[:, :6], whole.point)
        assert longer.quantiles is not None
        assert longer.quantiles.shape == (3, 2, 40)
        assert np.isfinite(longer.quantiles).all()
        assert "Tuned for 6 steps" in longer.notes[0]

    @pytest.mark.parametrize("steps", [0, -1, 41])
    def test_outside_the_limits_is_refused(self, forecaster: Forecaster, steps: int) -> None:
        with pytest.raises(ConfigError) as caught:
            forecaster.predict(toy.frame(), steps)
        assert caught.value.param == "prediction_length"

    def test_zero_shot_recurses_beyond_one_pass(self, toy_weights: Path) -> None:
        zero_shot = Forecaster.zero_shot("toy", weights_dir=toy_weights)
        assert zero_shot.predict(toy.frame(), 16).notes == ()
        assert "Beyond 16 steps" in zero_shot.predict(toy.frame(), 17).notes[0]


class TestQuantiles:
    def test_come_in_the_order_asked(self, forecaster: Forecaster) -> None:
        found = forecaster.predict(toy.frame(), 6, (0.9, 0.1))
        assert found.quantiles is not None
        assert (found.quantiles[:, 0] >= found.quantiles[:, 1]).all()
        assert found.quantile_levels == (0.9, 0.1)
        assert found.calibrated

    def test_the_median_is_the_point(self, forecaster: Forecaster) -> None:
        found = forecaster.predict(toy.frame(), 6, (0.5,))
        assert found.quantiles is not None
        assert np.array_equal(found.quantiles[:, 0], found.point)
        assert found.point_kind == "median"

    def test_between_native_levels_is_linear_and_noted(self, native: Forecaster) -> None:
        found = native.predict(toy.frame(), 6, (0.1, 0.3, 0.5))
        assert not found.calibrated
        assert found.uncalibrated_levels == (0.1, 0.3, 0.5)
        assert found.quantiles is not None
        low, middle, high = found.quantiles.transpose(1, 0, 2)
        np.testing.assert_allclose(middle, (low + high) / 2)
        assert found.notes == ("Interpolated between native quantiles: 0.3.",)

    @pytest.mark.parametrize("level", [0.05, 0.95, 0.0, 1.0])
    def test_outside_the_native_range_is_refused(self, native: Forecaster, level: float) -> None:
        with pytest.raises(ConfigError) as caught:
            native.predict(toy.frame(), 6, (0.5, level))
        assert caught.value.param == "quantile_levels"

    @pytest.mark.parametrize("level", [0.0, 1.0, -0.1])
    def test_what_is_no_level_is_refused_of_a_calibrated_one_too(self, forecaster: Forecaster, level: float) -> None:
        with pytest.raises(ConfigError) as caught:
            forecaster.predict(toy.frame(), 6, (0.5, level))
        assert caught.value.param == "quantile_levels"

    def test_none_asked_none_given(self, forecaster: Forecaster) -> None:
        assert forecaster.predict(toy.frame(), 6).quantiles is None

    def test_point_forecasters_have_none(self) -> None:
        with pytest.raises(ConfigError, match="point forecasts only"):
            Forecaster.rival("naive").predict(toy.frame(), 6, (0.5,))

    def test_interpolation_at_native_levels_is_exact(self) -> None:
        native = np.random.default_rng(0).normal(size=(2, 9, 3))
        levels = tuple(k / 10 for k in range(1, 10))
        assert np.array_equal(interpolate(native, levels, levels), native)


class TestUnits:
    def test_a_shifted_and_scaled_series_gives_a_shifted_and_scaled_forecast(self, forecaster: Forecaster) -> None:
        frame = toy.frame()
        moved = dataclasses.replace(frame, values=frame.values * 1e6 - 4e8)
        one, other = (forecaster.predict(f, 6).point for f in (frame, moved))
        np.testing.assert_allclose(other, one * 1e6 - 4e8, rtol=1e-5)

    def test_a_level_of_a_million_millions_survives(self, forecaster: Forecaster) -> None:
        frame = toy.frame()
        moved = dataclasses.replace(frame, values=frame.values + 1e12)
        difference = forecaster.predict(moved, 6).point - 1e12 - forecaster.predict(frame, 6).point
        assert np.abs(difference).max() < 1e-2

    def test_a_batch_is_its_series_one_by_one(self, forecaster: Forecaster) -> None:
        frame = toy.frame(num_series=5)
        together = forecaster.predict(frame, 6).point
        alone = [forecaster.predict(frame.take([i]), 6).point[0] for i in range(5)]
        np.testing.assert_allclose(together, np.stack(alone), rtol=1e-5)

    def test_series_without_any_value_give_finite_numbers(self, forecaster: Forecaster) -> None:
        frame = toy.frame(num_series=1)
        empty = dataclasses.replace(frame, values=np.full_like(frame.values, np.nan))
        for source in (forecaster, Forecaster.rival("window_mean")):
            assert np.isfinite(source.predict(empty, 6).point).all()

    def test_threads_may_share_one(self, forecaster: Forecaster) -> None:
        expected = forecaster.predict(toy.frame(), 6, (0.1,)).point
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: forecaster.predict(toy.frame(), 6, (0.1,)).point, range(16)))
        assert all(np.array_equal(f, expected) for f in found)


class TestRivals:
    def test_seasonal_naive_repeats_the_season_of_the_frequency(self) -> None:
        frame = toy.frame(num_series=1)
        season = frame.series(0)[-24:]
        found = Forecaster.rival("seasonal_naive").predict(frame, 48).point[0]
        known = ~np.isnan(season)
        np.testing.assert_allclose(found[:24][known], season[known], rtol=1e-6)
        assert np.array_equal(found[:24], found[24:])

    def test_a_period_may_be_given(self) -> None:
        found = Forecaster.rival("seasonal_naive", period=5).predict(toy.frame(), 10).point
        assert np.array_equal(found[:, :5], found[:, 5:])

    def test_window_mean_averages_its_context(self) -> None:
        frame = toy.frame(num_series=1)
        found = Forecaster.rival("window_mean", context_length=50).predict(frame, 2).point
        np.testing.assert_allclose(found, np.nanmean(frame.series(0)[-50:]), rtol=1e-6)
        assert Forecaster.rival("window_mean").predict(frame, 2).point_kind == "mean"

    def test_an_unknown_rival_lists_the_known(self) -> None:
        with pytest.raises(UnknownName, match="seasonal_naive"):
            Forecaster.rival("theta")

    def test_a_fallback_is_set_up_as_it_was_judged(self, tuned: FinetuneResult, toy_weights: Path) -> None:
        for name in ("zero_shot", "naive", "seasonal_naive", "window_mean"):
            source = Forecaster.fallback(tuned.manifest, name, weights_dir=toy_weights)
            assert source.predict(toy.frame(), 6).point.shape == (3, 6)
        period = tuned.manifest["rivals"]["seasonal_naive"]["period"]
        found = Forecaster.fallback(tuned.manifest, "seasonal_naive").predict(toy.frame(), period + 1).point
        assert np.array_equal(found[:, 0], found[:, period])


class TestOpening:
    def test_facts_are_at_hand(self, forecaster: Forecaster, tuned: FinetuneResult) -> None:
        assert (forecaster.name, forecaster.digest) == ("toy", tuned.digest)
        assert (forecaster.prediction_length, forecaster.max_prediction_length) == (6, 40)
        assert forecaster.manifest is not None
        assert forecaster.manifest["method"] == {"type": "full"}

    def test_another_digest_is_refused(self, tuned: FinetuneResult) -> None:
        with pytest.raises(ArtifactError, match="damaged"):
            Forecaster.open(tuned.out_dir, digest="sha256:" + "0" * 64)

    def test_weights_of_another_shape_are_refused(self, tuned: FinetuneResult, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save

        from tsfm.artifact import write_artifact

        tensors = load_file(tuned.out_dir / "model.safetensors")
        tensors["output.bias"] = tensors["output.bias"][:3].clone()
        write_artifact(tmp_path / "bad", {"model.safetensors": save(tensors)}, tuned.manifest, "")
        with pytest.raises(ArtifactError, match=r"output\.bias"):
            Forecaster.open(tmp_path / "bad")

    def test_missing_pretrained_weights_are_said(self, toy_weights: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="toy"):
            Forecaster.zero_shot("toy", weights_dir=tmp_path)

    def test_the_context_is_the_tail_of_each_series(self) -> None:
        window = tail(toy.frame(num_series=2), context_length=32)
        assert window.context.shape == (2, 32)
        assert window.target.shape == (2, 0)
