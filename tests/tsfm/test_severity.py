"""What ranks points: distance from the expected value, and from the level a job remembers."""

import dataclasses

import numpy as np
import pytest

from tests.tsfm.series.frames import frame_of
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split
from tsfm.severity import level_of, remembered, severity

NAN = float("nan")


def ranked(values: list[float], *, room: float = 2.0, level: float | None = None) -> list[float]:
    expected = np.zeros(len(values))
    return severity(np.array(values), expected, expected - room, expected + room, level=level).tolist()


class TestSeverity:
    def test_it_is_one_at_the_usual_bound_on_either_side(self) -> None:
        assert ranked([2.0, -2.0, 0.0, 5.0]) == [1.0, 1.0, 0.0, 2.5]

    def test_a_block_that_goes_wrong_does_not_excuse_itself(self) -> None:
        """The bounds of the last two points are five times as wide; its score would be as low as a normal one's."""
        room = np.array([2.0] * 8 + [10.0] * 2)
        values = np.array([1.0] * 8 + [9.0] * 2)
        found = severity(values, np.zeros(10), -room, room, level=None)
        assert (found[8:] == 4.5).all()
        assert (found[:8] == 0.5).all()

    def test_half_of_the_distance_from_the_remembered_level_is_added(self) -> None:
        assert ranked([2.0, 0.0], level=-4.0) == [1.0 + 1.5, 1.0]

    def test_what_lasts_stays_severe_though_it_is_expected(self) -> None:
        values = np.full(5, 50.0)
        got_used = severity(values, values, values - 1.0, values + 1.0, level=None)
        remembers = severity(values, values, values - 1.0, values + 1.0, level=10.0)
        assert (got_used == 0.0).all()
        assert (remembers == 20.0).all()

    def test_missing_values_have_none(self) -> None:
        assert np.isnan(ranked([NAN, 1.0])).tolist() == [True, False]
        assert np.isnan(ranked([NAN, 1.0], room=0.0)).tolist() == [True, False]

    def test_points_without_bounds_have_none(self) -> None:
        nothing = np.full(2, NAN)
        assert np.isnan(severity(np.ones(2), nothing, nothing, nothing, level=1.0)).all()

    def test_where_bounds_leave_no_room_any_departure_is_infinite(self) -> None:
        assert ranked([0.0, 1.0, -1e-9], room=0.0) == [0.0, np.inf, np.inf]


def history() -> SeriesFrame:
    rng = np.random.default_rng(0)
    return frame_of(10 + rng.standard_normal(200), -5 + rng.standard_normal(200), freq="h")


class TestRemembered:
    def test_levels_are_medians_of_the_train_block_alone(self) -> None:
        frame = history()
        blocks = split(frame, context_length=24, prediction_length=6, patch_length=1)
        end = int(blocks.block(Block.TRAIN)[1][0])
        found = remembered(frame, blocks)
        assert found == {one: np.median(frame.series(i)[:end]) for i, one in enumerate(frame.item_ids)}
        later = frame.values.copy()
        later[end:200] += 1e6
        assert remembered(dataclasses.replace(frame, values=later), blocks) == found

    def test_series_without_a_value_in_train_are_left_out(self) -> None:
        frame = history()
        frame.values[:150] = np.nan
        blocks = split(frame, context_length=24, prediction_length=6, patch_length=1)
        assert list(remembered(frame, blocks)) == [frame.item_ids[1]]

    @pytest.mark.parametrize("facts", [None, {}, {"levels": None}, {"levels": {"a": 1.0}}])
    def test_an_unknown_series_has_no_level(self, facts: dict[str, dict[str, float]] | None) -> None:
        assert level_of(facts, "b") is None
        assert level_of({"levels": {"b": 2.0}}, "b") == 2.0
