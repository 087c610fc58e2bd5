"""Sources that see more than what came before: patches in one pass, gaps from both sides."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Self, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.tsfm.series.frames import frame_of
from tsfm import catalog, rivals
from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.start import base_of
from tsfm.errors import ConfigError
from tsfm.mixture import Mixture
from tsfm.series.frame import SeriesFrame
from tsfm.series.windows import Around, WindowBatch, gaps_at, gather
from tsfm.setting import Setting
from tsfm.spec import Scoring, Task
from tsfm.tasks.forecast import BackboneSource, Forecaster, RivalSource
from tsfm.tasks.sources import (
    FillRivalSource,
    FillSource,
    PatchSource,
    away_of,
    network_source,
    rival_source,
    source_of,
)

TINY = {"type": "random", "size": "tiny"}
NAN = np.nan


class Last(Backbone):
    """Says that the last value goes on, one unit more or less on its outer quantiles."""

    def __init__(self) -> None:
        super().__init__()
        self.none = nn.Parameter(torch.zeros(1))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        return cls()

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        last = torch.from_numpy(rivals.naive(context.numpy(), prediction_length))
        quantiles = torch.stack([last - 1, last, last + 1], dim=1)
        return Prediction(point=last, point_kind="median", quantiles=quantiles, levels=(0.1, 0.5, 0.9))

    def loss(self, batch: Batch) -> Tensor:
        return self.none.sum()


def by_forecasts(**settings: Any) -> FillSource:
    return FillSource(Last(), block_length=4, context_length=8, **settings)


def gaps(*gap: int, frame: SeriesFrame | None = None, first: int = 10, side: int = 6) -> WindowBatch:
    frame = frame_of(np.where(np.arange(40) < 12, 3.0, 9.0)) if frame is None else frame
    where = (np.zeros(len(gap), dtype=np.int64), np.full(len(gap), first), np.array(gap))
    return gaps_at(frame, *where, context_length=side, prediction_length=max(gap), after_length=side, period=4)


class TestFillByForecasts:
    def test_each_edge_counts_by_how_near_it_is(self) -> None:
        """Threes before the gap, nines behind it: step k of g takes (g − k) ÷ (g + 1) of the three."""
        found = by_forecasts()(gaps(5), 5)
        share = (5 - np.arange(5)) / 6
        assert found.point[0] == pytest.approx(3 * share + 9 * (1 - share), rel=1e-5)

    def test_gaps_of_other_lengths_in_the_batch_change_nothing(self) -> None:
        together, alone = by_forecasts()(gaps(3, 5), 5), by_forecasts()(gaps(3), 3)
        assert together.point[0, :3] == pytest.approx(alone.point[0], rel=1e-6)
        assert together.quantiles is not None
        assert alone.quantiles is not None
        assert together.quantiles[0, :, :3] == pytest.approx(alone.quantiles[0], rel=1e-6)

    def test_levels_are_mixed_level_by_level(self) -> None:
        batch = gaps(4)
        found = by_forecasts()(batch, 4)
        assert found.quantiles is not None
        assert found.levels == (0.1, 0.5, 0.9)
        away = found.quantiles[0] - found.point[0]
        assert away[0] == pytest.approx(-batch.scale[0], rel=1e-5)
        assert away[1] == pytest.approx(0.0, abs=1e-5)
        assert away[2] == pytest.approx(batch.scale[0], rel=1e-5)

    @pytest.mark.parametrize(("known", "value"), [("left", 3.0), ("right", 9.0)])
    def test_one_missing_side_leaves_the_other_alone(self, known: str, value: float) -> None:
        values = np.where(np.arange(40) < 12, 3.0, 9.0)
        values[(values != value)] = NAN
        found = by_forecasts()(gaps(5, frame=frame_of(values)), 5)
        assert found.point[0] == pytest.approx(value, rel=1e-5)

    def test_what_is_beyond_one_pass_continues_on_itself(self) -> None:
        assert by_forecasts()(gaps(9), 9).point.shape == (1, 9)

    def test_the_side_behind_is_read_backwards(self) -> None:
        """After the gap come 20, 21, 22: seen from behind the last value before the gap's end is 20."""
        values = np.concatenate([np.zeros(12), np.arange(20.0, 48.0)])
        values[:10] = NAN
        found = by_forecasts()(gaps(2, frame=frame_of(values)), 2)
        assert found.point[0] == pytest.approx(20.0, rel=1e-4)


class TestMixed:
    def test_the_mixture_moves_points_and_quantiles_alike(self) -> None:
        batch = gaps(5, frame=frame_of(noise()), first=40)
        alone = by_forecasts().alone(batch, 5)
        for row in ((0.5, 0.0, 0.5, 0.0), (0.0, 0.25, 0.25, 0.5)):
            source = by_forecasts(mixture=Mixture(period=4, weights=(row,)))
            mixed, parts = source(batch, 5), source.parts(alone, batch, 5)
            assert mixed.point == pytest.approx(parts @ np.array(row))
            change = mixed.point - alone.point
            assert np.abs(change).min() > 1e-3
            assert mixed.quantiles == pytest.approx(alone.quantiles + change[:, None])

    def test_its_parts_are_the_network_and_the_plain_fills_in_the_units_of_the_user(self) -> None:
        batch = gaps(5, 3, frame=frame_of(noise()), first=40, side=12)
        source = by_forecasts(mixture=Mixture(period=4))
        parts = source.parts(source.alone(batch, 5), batch, 5)
        assert np.array_equal(parts[..., 0], source(batch, 5).point)
        for i, name in ((1, "linear_fill"), (2, "seasonal_fill")):
            assert np.array_equal(parts[..., i], FillRivalSource(name, period=4)(batch, 5).point)
        assert batch.after is not None
        assert batch.gap is not None
        lifted = rivals.seasonal_line(batch.context, batch.after, batch.gap, 5, 4)
        assert parts[..., 3] == pytest.approx(lifted * batch.scale[:, None] + batch.loc[:, None])

    def test_without_a_season_all_plain_fills_are_the_line(self) -> None:
        batch, source = gaps(5), by_forecasts()
        parts = source.parts(source.alone(batch, 5), batch, 5)
        want = FillRivalSource("linear_fill", period=1)(batch, 5).point
        assert np.array_equal(parts[..., 1:], np.stack([want] * 3, axis=-1))

    def test_a_mixture_is_another_source_with_the_same_network(self) -> None:
        source, mixture = by_forecasts(), Mixture(period=7, weights=((0.5, 0.5, 0.0, 0.0),))
        mixed = source.mixed(mixture)
        assert (mixed.mixture, source.mixture) == (mixture, Mixture())
        assert mixed.model is source.model

    def test_distances_are_from_the_side_that_is_observed(self) -> None:
        values = noise()
        values[:40] = NAN
        at_the_beginning = gaps(4, frame=frame_of(values), first=40)
        assert away_of(at_the_beginning, 4).tolist() == [[4, 3, 2, 1]]
        assert away_of(gaps(4, frame=frame_of(noise()), first=40), 4).tolist() == [[1, 2, 2, 1]]


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return base_of(catalog.backbone("temper-tiny"), TINY, weights_dir=None).fresh().requires_grad_(False)


def noise(length: int = 120, seed: int = 0) -> np.ndarray:
    return 40 + 5 * np.random.default_rng(seed).standard_normal(length)


class TestFillNatively:
    def source(self, tiny: Backbone, **settings: Any) -> FillSource:
        return FillSource(tiny, block_length=128, context_length=512, **settings)

    def test_it_is_the_reconstruction_in_the_units_of_the_user(self, tiny: Backbone) -> None:
        batch = gaps(6, 4, frame=frame_of(noise()), first=40, side=32)
        found = self.source(tiny)(batch, 6)
        said = tiny.reconstruct(*Batch.of(batch, torch.device("cpu")).whole())
        want = said.point[:, 32:38].numpy() * batch.scale[:, None] + batch.loc[:, None]
        assert found.point == pytest.approx(want, rel=1e-6)
        assert found.quantiles is not None
        assert found.quantiles.shape == (2, 9, 6)
        assert found.levels == tiny.predict(torch.zeros(1, 32), 1).levels

    def test_what_the_gap_hides_is_not_looked_at(self, tiny: Backbone) -> None:
        values = noise()
        other = values.copy()
        other[40:46] = -1e6
        one, two = (self.source(tiny)(gaps(6, frame=frame_of(v), first=40, side=32), 6) for v in (values, other))
        assert np.array_equal(one.point, two.point)

    def test_both_sides_count(self, tiny: Backbone) -> None:
        values = noise()
        said = self.source(tiny)(gaps(6, frame=frame_of(values), first=40, side=32), 6).point
        for changed in (slice(30, 40), slice(46, 56)):
            other = values.copy()
            other[changed] += np.linspace(0, 30, 10)
            assert not np.allclose(
                self.source(tiny)(gaps(6, frame=frame_of(other), first=40, side=32), 6).point, said, atol=0.01
            )


@pytest.fixture(scope="module", params=["moirai-2-small", "timesfm-2.5"])
def source(request: pytest.FixtureRequest) -> PatchSource:
    spec = catalog.backbone(request.param)
    model = base_of(spec, TINY, weights_dir=None).fresh().requires_grad_(False)
    return PatchSource(model, patch_length=spec.patch_length)


class TestPatchSource:
    def batch(self, source: PatchSource, values: np.ndarray) -> WindowBatch:
        frame, patch = frame_of(values), 32
        where = (np.array([0, 0]), np.array([128, 150]))
        return gather(frame, *where, context_length=96, prediction_length=2 * patch)

    def test_it_is_the_network_in_the_units_of_the_user(self, source: PatchSource) -> None:
        batch = self.batch(source, noise(220))
        found = source(batch, 64)
        said = source.model.predict_patches(torch.from_numpy(batch.context), torch.from_numpy(batch.target))
        want = said.point.numpy() * batch.scale[:, None] + batch.loc[:, None]
        assert found.point == pytest.approx(want, rel=1e-6)
        assert (found.levels, found.point_kind) == (source.levels, source.point_kind)
        assert found.quantiles is not None
        assert found.quantiles.shape == (2, len(source.levels), 64)

    def test_a_patch_sees_the_ones_before_it_and_not_itself(self, source: PatchSource) -> None:
        values = noise(220)
        second = values.copy()
        second[160:192] += 100.0  # the second half of the target of the first window
        one, two = (source(self.batch(source, v), 64).point[0] for v in (values, second))
        assert np.array_equal(one[:32], two[:32])
        first = values.copy()
        first[128:160] += 100.0
        assert not np.allclose(source(self.batch(source, first), 64).point[0, 32:], one[32:], atol=0.1)

    def test_only_the_asked_steps_are_answered(self, source: PatchSource) -> None:
        batch = self.batch(source, noise(220))
        assert source(batch, 32).point == pytest.approx(source(batch, 64).point[:, :32], rel=1e-5)


class TestFillRivalSource:
    @pytest.mark.parametrize("name", catalog.FILL_RIVALS)
    def test_it_fills_in_the_units_of_the_user(self, name: str) -> None:
        values = 1e6 + np.tile([0.0, 5.0, 9.0, 2.0], 12)
        batch = gaps(5, 3, frame=frame_of(values), first=16)
        found = FillRivalSource(name, period=4)(batch, 5)
        context, after = values[10:16], values[21:27]
        want = rivals.fill(name, context[None], after[None], np.array([5]), 5, period=4)
        assert found.point[0] == pytest.approx(want[0], abs=0.1)
        assert (found.quantiles, found.levels, found.point_kind) == (None, (), "median")

    def test_names_are_told_apart(self) -> None:
        assert isinstance(rival_source("linear_fill", period=1), FillRivalSource)
        assert isinstance(rival_source("naive", period=1), RivalSource)


class TestNetworkSource:
    @pytest.mark.parametrize(
        ("task", "scoring", "kind"),
        [
            ("imputation", None, FillSource),
            ("anomaly_detection", "reconstruction", FillSource),
            ("anomaly_detection", "forecast", BackboneSource),
            ("forecast", None, BackboneSource),
        ],
    )
    def test_the_setting_says_how_it_is_asked(
        self, tiny: Backbone, task: Task, scoring: Scoring | None, kind: type
    ) -> None:
        setting = Setting(task=task, scoring=scoring, prediction_length=6, context_length=32)
        assert type(network_source(tiny, catalog.backbone("temper-tiny"), setting, tuned=True)) is kind

    def test_a_tuned_fill_is_mixed_as_its_manifest_says(self, tiny: Backbone) -> None:
        setting = Setting(task="imputation", scoring=None, prediction_length=6, context_length=32)
        fill = {"period": 24, "guess": 1, "weights": {"tuned": [[0.25, 0.0, 0.75, 0.0]], "zero_shot": []}}
        opened = SimpleNamespace(network=tiny, manifest={"fill": fill}, name="temper-tiny")
        source = source_of(cast(Forecaster, opened), catalog.backbone("temper-tiny"), setting)
        assert isinstance(source, FillSource)
        assert source.mixture == Mixture(period=24, weights=((0.25, 0.0, 0.75, 0.0),))

    def test_a_rival_has_no_network(self) -> None:
        setting = Setting(task="imputation", scoring=None, prediction_length=6, context_length=32)
        with pytest.raises(ConfigError, match="no network"):
            source_of(Forecaster.rival("naive"), catalog.backbone("temper-tiny"), setting)


def test_a_gap_needs_both_of_its_sides() -> None:
    batch = gather(frame_of(noise()), np.array([0]), np.array([40]), context_length=8, prediction_length=4)
    with pytest.raises(AssertionError, match="two sides"):
        by_forecasts()(batch, 4)
    around = Around(length=8, limits=np.array([120]))
    both = gather(
        frame_of(noise()), np.array([0]), np.array([40]), context_length=8, prediction_length=4, around=around
    )
    assert by_forecasts()(both, 4).point.shape == (1, 4)
