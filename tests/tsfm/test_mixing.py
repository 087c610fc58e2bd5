"""The weights that gaps whose truth is known give a network and the plain fills."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tsfm.series.frames import frame_of
from tsfm.errors import Cancelled
from tsfm.mixing import LEAST_POINTS, NUM_CLASSES, Tally, best_guess, best_mixture
from tsfm.mixture import GRID, Mixture
from tsfm.series.frame import SeriesFrame
from tsfm.series.windows import Around, WindowBatch, Windows
from tsfm.tasks.forecast import Answer
from tsfm.tasks.sources import FillSource

Floats = NDArray[np.float64]
NETWORK, LINE, SEASON = (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)


class Saying(FillSource):
    """Says what a function makes of the truth, in the user's units; the plain fills are the real ones."""

    def __init__(self, frame: SeriesFrame, say: Callable[[Floats], Floats], *, mixture: Mixture | None = None) -> None:
        self.mixture, self.frame, self.say = mixture or Mixture(), frame, say
        self.levels, self.point_kind = (), "median"

    def alone(self, batch: WindowBatch, prediction_length: int) -> Answer:
        at = self.frame.offsets[batch.series] + batch.origin
        said = self.say(self.frame.values[at[:, None] + np.arange(prediction_length)])
        return Answer(point=said, quantiles=None, levels=(), point_kind="median")


def windows(frame: SeriesFrame, *, count: int = 200, horizon: int = 6, vary: bool = True) -> Windows:
    origin = np.linspace(30, int(frame.lengths[0]) - 40, count).astype(np.int64)
    return Windows(
        frame=frame,
        series=np.zeros(count, dtype=np.int64),
        origin=origin,
        context_length=20,
        prediction_length=horizon,
        stride=1,
        num_dropped=0,
        around=Around(length=20, limits=frame.lengths, vary=vary),
    )


def noise(truth: Floats) -> Floats:
    return 50 + 30 * np.random.default_rng(1).standard_normal(truth.shape)


def honest(truth: Floats) -> Floats:
    return truth


@pytest.fixture
def walk() -> SeriesFrame:
    return frame_of(50 + np.random.default_rng(0).standard_normal(400).cumsum())


@pytest.fixture
def seasons() -> SeriesFrame:
    """The same five values over and over."""
    return frame_of(np.tile([0.0, 9.0, -4.0, 2.0, 7.0], 80))


class TestBestMixture:
    def test_a_network_that_is_noise_is_replaced_by_the_better_plain_fill(
        self, walk: SeriesFrame, seasons: SeriesFrame
    ) -> None:
        assert best_mixture(Saying(walk, noise), windows(walk), period=1) == Mixture(weights=(LINE,) * 3)
        found = np.array(best_mixture(Saying(seasons, noise), windows(seasons), period=5).weights)
        assert found[:, 2:].sum(axis=1).tolist() == [1.0, 1.0, 1.0], "the season, with or without its (zero) line"

    def test_a_network_that_knows_the_truth_is_left_alone(self, walk: SeriesFrame) -> None:
        assert best_mixture(Saying(walk, honest), windows(walk), period=5).is_network_alone

    def test_errors_in_opposite_directions_are_halved(self, walk: SeriesFrame) -> None:
        """Where the plain fills are too low by as much as the network is too high, half of each is the truth."""

        class Opposite(Saying):
            def parts(self, answer: Answer, batch: WindowBatch, prediction_length: int) -> Floats:
                return np.stack([answer.point, *[answer.point - 4.0] * 3], axis=-1)

        found = best_mixture(Opposite(walk, lambda truth: truth + 2.0), windows(walk), period=1)
        assert found.weights == ((0.5, 0.5, 0.0, 0.0),) * 3

    def test_each_distance_from_the_edge_has_its_own(self, walk: SeriesFrame) -> None:
        """A network that is right in the middle of a gap alone answers there alone."""

        class Deep(Saying):
            def alone(self, batch: WindowBatch, prediction_length: int) -> Answer:
                answer = super().alone(batch, prediction_length)
                answer.point[:, [0, 1, -2, -1]] += 100.0
                return answer

        found = best_mixture(Deep(walk, honest), windows(walk, horizon=12, vary=False), period=1)
        assert found.weights == (LINE, LINE, NETWORK, NETWORK)

    def test_longer_gaps_speak_for_distances_that_the_others_do_not_reach(self, walk: SeriesFrame) -> None:
        class Short(Saying):
            """Knows the truth of short gaps, nothing of long ones."""

            def alone(self, batch: WindowBatch, prediction_length: int) -> Answer:
                answer = super().alone(batch, prediction_length)
                answer.point[:] += 100.0 * (prediction_length > 6)
                return answer

        short, longer = windows(walk), windows(walk, horizon=18)
        assert best_mixture(Short(walk, honest), short, period=1).weights == (NETWORK,) * 3
        assert best_mixture(Short(walk, honest), short, longer, period=1).weights == (NETWORK,) * 3 + (LINE,) * 2

    def test_of_equals_the_network_is_kept(self) -> None:
        straight = frame_of(np.arange(400.0))  # the line fills it without error, and so does the network

        class Same(Saying):
            def parts(self, answer: Answer, batch: WindowBatch, prediction_length: int) -> Floats:
                return np.stack([answer.point] * 4, axis=-1)

        assert best_mixture(Same(straight, honest), windows(straight), period=5).is_network_alone

    def test_without_a_season_only_the_line_is_mixed_in(self, walk: SeriesFrame) -> None:
        found = best_mixture(Saying(walk, lambda truth: truth + 3.0), windows(walk), period=1)
        assert np.array(found.weights)[:, 2:].sum() == 0

    def test_nothing_observed_changes_nothing(self, walk: SeriesFrame) -> None:
        walk.values[:] = np.nan
        assert best_mixture(Saying(walk, lambda truth: truth * 0.0), windows(walk), period=5).is_network_alone

    def test_windows_weigh_by_their_own_scale(self) -> None:
        """A loud stretch, where the plain fill is better, does not outvote a quiet one that is three times as long."""
        loud = np.where(np.arange(400) < 100, 1e4, 1.0)
        frame = frame_of(loud * np.random.default_rng(0).standard_normal(400))

        def say(truth: Floats) -> Floats:
            return np.where(np.abs(truth) > 50, truth + 3e4, truth)

        assert best_mixture(Saying(frame, say), windows(frame), period=1).weights[0] == NETWORK

    def test_how_the_asked_source_is_mixed_does_not_matter(self, walk: SeriesFrame) -> None:
        asked = Saying(walk, honest, mixture=Mixture(weights=(LINE,)))
        assert best_mixture(asked, windows(walk), period=1).is_network_alone
        assert asked.mixture.weights == (LINE,)

    def test_a_stop_is_seen(self, walk: SeriesFrame) -> None:
        with pytest.raises(Cancelled) as caught:
            best_mixture(Saying(walk, honest), windows(walk), period=1, should_stop=lambda: "cancelled")
        assert caught.value.code == "cancelled"


class TestFewPoints:
    def tally(self, *count: int, best: tuple[tuple[float, ...], ...]) -> Tally:
        """Classes of `count` points, each a whole error a point off but with its best weights."""
        found = Tally.empty()
        for k, (points, row) in enumerate(zip(count, best, strict=True)):
            found.count[k] = points
            found.errors[k] = points * (np.array(row) != GRID).any(axis=1)
        return found

    def test_a_class_with_enough_decides_alone(self) -> None:
        found = self.tally(LEAST_POINTS, LEAST_POINTS, best=(LINE, SEASON)).mixture(5)
        assert found.weights == (LINE, SEASON)

    def test_one_with_few_joins_its_neighbours_nearer_the_edge(self) -> None:
        found = self.tally(5 * LEAST_POINTS, LEAST_POINTS, 20, best=(LINE, NETWORK, SEASON)).mixture(5)
        assert found.weights == (LINE, NETWORK, NETWORK)

    def test_the_one_at_the_edge_joins_deeper_ones(self) -> None:
        assert self.tally(20, LEAST_POINTS, best=(LINE, SEASON)).mixture(5).weights == (SEASON, SEASON)

    def test_a_class_without_any_has_its_neighbour_s(self) -> None:
        found = self.tally(LEAST_POINTS, 0, LEAST_POINTS, best=(LINE, SEASON, SEASON)).mixture(5)
        assert found.weights == (LINE, LINE, SEASON)

    def test_the_first_of_longer_gaps_do_not_count_twice(self) -> None:
        short = self.tally(LEAST_POINTS, LEAST_POINTS, best=(LINE, LINE))
        deep = self.tally(*[LEAST_POINTS] * 4, best=(SEASON,) * 4)
        assert short.deepened(deep).count[:5].tolist() == [LEAST_POINTS] * 4 + [0]
        assert short.deepened(deep).mixture(5).weights == (LINE, LINE, SEASON, SEASON)
        assert Tally.empty().deepened(deep).count.sum() == 4 * LEAST_POINTS
        assert len(short.count) == NUM_CLASSES


class TestBestGuess:
    def test_it_is_the_season_where_that_misses_less(self, walk: SeriesFrame, seasons: SeriesFrame) -> None:
        assert best_guess(windows(seasons), 5) == 5
        assert best_guess(windows(walk), 5) == 1

    def test_without_a_season_it_is_the_line(self, seasons: SeriesFrame) -> None:
        assert best_guess(windows(seasons), 1) == 1

    def test_nothing_to_compare_keeps_the_season(self, walk: SeriesFrame) -> None:
        walk.values[:] = np.nan
        assert best_guess(windows(walk), 5) == 5
