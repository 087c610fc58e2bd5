"""The share of the plain fill that validation gives a network."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tsfm.series.frames import frame_of
from tsfm.errors import Cancelled
from tsfm.mixing import SHARES, best_share
from tsfm.series.frame import SeriesFrame
from tsfm.series.windows import Around, WindowBatch, Windows
from tsfm.tasks.forecast import Answer
from tsfm.tasks.sources import FillSource

Floats = NDArray[np.float64]


class Saying(FillSource):
    """Says what a function makes of the truth, in the user's units; the plain fill is the real one."""

    def __init__(self, frame: SeriesFrame, say: Callable[[Floats], Floats]) -> None:
        self.share, self.period, self.frame, self.say, self.asked = 0.0, 1, frame, say, 0
        self.levels, self.point_kind = (), "median"

    def __call__(self, batch: WindowBatch, prediction_length: int) -> Answer:
        at = self.frame.offsets[batch.series] + batch.origin
        said = self.say(self.frame.values[at[:, None] + np.arange(prediction_length)])
        if self.share:
            said = said + self.share * (self.plain(batch, prediction_length) - said)
        return Answer(point=said, quantiles=None, levels=(), point_kind="median")


def windows(frame: SeriesFrame, *, count: int = 200) -> Windows:
    origin = np.linspace(30, 360, count).astype(np.int64)
    return Windows(
        frame=frame,
        series=np.zeros(count, dtype=np.int64),
        origin=origin,
        context_length=20,
        prediction_length=6,
        stride=1,
        num_dropped=0,
        around=Around(length=20, limits=frame.lengths, vary=True),
    )


@pytest.fixture
def walk() -> SeriesFrame:
    return frame_of(50 + np.random.default_rng(0).standard_normal(400).cumsum())


def test_a_network_that_is_noise_is_replaced(walk: SeriesFrame) -> None:
    noise = np.random.default_rng(1)
    assert best_share(Saying(walk, lambda truth: 50 + 30 * noise.standard_normal(truth.shape)), windows(walk)) == 1.0


def test_a_network_that_knows_the_truth_is_left_alone(walk: SeriesFrame) -> None:
    assert best_share(Saying(walk, lambda truth: truth), windows(walk)) == 0.0


def test_errors_in_opposite_directions_are_halved(walk: SeriesFrame) -> None:
    """Where the plain fill is too low by as much as the network is too high, half of each is the truth."""

    class Opposite(Saying):
        def plain(self, batch: WindowBatch, prediction_length: int) -> Floats:
            return Saying(self.frame, lambda truth: truth - 2.0)(batch, prediction_length).point

    assert best_share(Opposite(walk, lambda truth: truth + 2.0), windows(walk)) == 0.5


def test_of_equals_the_smallest_share_is_taken() -> None:
    straight = frame_of(np.arange(400.0))  # the line fills it without error, and so does the network

    class Same(Saying):
        def plain(self, batch: WindowBatch, prediction_length: int) -> Floats:
            return self(batch, prediction_length).point

    assert best_share(Same(straight, lambda truth: truth + 1.0), windows(straight)) == SHARES[0] == 0.0


def test_nothing_observed_changes_nothing(walk: SeriesFrame) -> None:
    walk.values[:] = np.nan
    assert best_share(Saying(walk, lambda truth: truth * 0.0), windows(walk)) == 0.0


def test_windows_weigh_by_their_own_scale() -> None:
    """A loud stretch, where the plain fill is better, does not outvote a quiet one that is three times as long."""
    loud = np.where(np.arange(400) < 100, 1e4, 1.0)
    frame = frame_of(loud * np.random.default_rng(0).standard_normal(400))

    def say(truth: Floats) -> Floats:
        return np.where(np.abs(truth) > 50, truth + 3e4, truth)

    assert best_share(Saying(frame, say), windows(frame)) == 0.0


def test_the_share_of_the_source_that_is_asked_does_not_matter(walk: SeriesFrame) -> None:
    asked = Saying(walk, lambda truth: 0.0 * truth)
    asked.share = 1.0
    assert best_share(asked, windows(walk)) == 1.0
    assert asked.share == 1.0


def test_a_stop_is_seen(walk: SeriesFrame) -> None:
    with pytest.raises(Cancelled) as caught:
        best_share(Saying(walk, lambda truth: truth), windows(walk), should_stop=lambda: "cancelled")
    assert caught.value.code == "cancelled"
