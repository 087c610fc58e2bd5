"""Plans and errors of backtests, counted by hand."""

import dataclasses

import numpy as np
import pytest

from tsfm.backtest import WINDOW_METRICS, Plan, Scored, plan_of
from tsfm.errors import SeriesTooShort
from tsfm.rivals import naive
from tsfm.series.frame import SeriesFrame


def frame(*lengths: int, freq: str = "h") -> SeriesFrame:
    """Every series counts from 0."""
    return SeriesFrame(
        item_ids=tuple(f"s{i}" for i in range(len(lengths))),
        values=np.concatenate([np.arange(n, dtype=np.float64) for n in lengths]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        starts=np.zeros(len(lengths), dtype=np.int64),
        freq=freq,
    )


def cuts(plan: Plan) -> list[tuple[int, int]]:
    return list(zip(plan.series.tolist(), plan.end.tolist(), strict=True))


class TestPlan:
    def test_the_last_window_ends_with_the_series_and_the_oldest_comes_first(self) -> None:
        plan = plan_of(frame(50, 30), prediction_length=4, num_windows=3, stride=5)
        assert cuts(plan) == [(0, 36), (0, 41), (0, 46), (1, 16), (1, 21), (1, 26)]
        assert (plan.skipped, plan.num_missing) == ((), 0)

    def test_a_short_series_gives_as_many_as_fit(self) -> None:
        plan = plan_of(frame(50, 11, 6, 5), prediction_length=4, num_windows=3, stride=4)
        assert cuts(plan)[3:] == [(1, 3), (1, 7), (2, 2)]
        assert (plan.skipped, plan.num_missing) == ((3,), 1 + 2 + 3)

    def test_none_at_all_says_have_and_need(self) -> None:
        with pytest.raises(SeriesTooShort) as caught:
            plan_of(frame(5, 4), prediction_length=4, num_windows=3, stride=4)
        assert caught.value.details == {"have": 5, "need": 6}

    def test_histories_end_at_the_cutoff_and_targets_begin_there(self) -> None:
        plan = plan_of(frame(50, 30), prediction_length=3, num_windows=2, stride=7)
        histories = plan.histories(1, 4, keep=5)
        assert [histories.series(i).tolist() for i in range(3)] == [
            [42, 43, 44, 45, 46],
            [15, 16, 17, 18, 19],
            [22, 23, 24, 25, 26],
        ]
        assert histories.item_ids == ("s0", "s1", "s1")
        assert plan.targets(1, 4).tolist() == [[47, 48, 49], [20, 21, 22], [27, 28, 29]]

    def test_the_cutoff_is_the_last_known_time(self) -> None:
        plan = plan_of(frame(50), prediction_length=2, num_windows=1, stride=2)
        assert plan.cutoff(0) == "1970-01-02T23:00:00"

    def test_scales_know_nothing_of_any_target(self) -> None:
        one = frame(80)
        plan = plan_of(one, prediction_length=4, num_windows=3, stride=4)
        values = one.values.copy()
        values[plan.end[0] :] = 1e6
        other = plan_of(dataclasses.replace(one, values=values), prediction_length=4, num_windows=3, stride=4)
        assert plan.scales.mase.tolist() == other.scales.mase.tolist() == [24.0]


class TestErrors:
    def scored(self, *, missing: bool = False) -> tuple[Plan, Scored]:
        one = frame(60, 40, freq="1")
        if missing:
            values = one.values.copy()
            values[58], values[90:] = np.nan, np.nan
            one = dataclasses.replace(one, values=values)
        plan = plan_of(one, prediction_length=2, num_windows=2, stride=2)
        scored = Scored(plan, levels=(0.1, 0.5, 0.9), intervals=[("80", 0.1, 0.9)])
        for begin in (0, 2):
            end = begin + 2
            histories = plan.histories(begin, end, keep=3)
            context = np.stack([histories.series(i) for i in range(2)])
            point = naive(context, 2)
            quantiles = np.stack([point - 1.0, point, point + 1.5], axis=1)
            scored.add(begin, end, point, quantiles, (0.1, 0.5, 0.9))
        return plan, scored

    def test_of_a_line_under_the_last_value(self) -> None:
        """One and two steps off, scaled by differences of one."""
        result = self.scored()[1].result(WINDOW_METRICS, with_coverage=True)
        window = result.by_window()[0]
        assert (window["mase"], window["mae"], window["mse"]) == (1.5, 1.5, 2.5)
        assert window["rmsse"] == pytest.approx(2.5**0.5)
        assert window["coverage"] == {"80": 0.5}, "one step off is inside, two are not"
        pinball = np.mean([0.1 * 2, 0.5 * 1, 0.1 * 0.5]) + np.mean([0.1 * 3, 0.5 * 2, 0.9 * 0.5])
        assert window["wql"] == pytest.approx(2 * pinball / (56 + 57))
        assert result.by_series()[0]["mase"] == 1.5
        whole = result.whole()
        assert (whole["mase"], whole["coverage"]) == (1.5, {"80": 0.5})

    def test_only_what_was_asked_is_answered(self) -> None:
        result = self.scored()[1].result(("mae",), with_coverage=True)
        assert result.whole() == {"mae": 1.5}
        assert result.by_window() == [{"mae": 1.5}] * 4
        only = self.scored()[1].result(("coverage",), with_coverage=True)
        assert only.by_series() == [{"coverage": {"80": 0.5}}] * 2

    def test_what_was_not_observed_counts_nowhere(self) -> None:
        result = self.scored(missing=True)[1].result(WINDOW_METRICS, with_coverage=True)
        windows = result.by_window()
        assert windows[1]["mae"] == 2.0
        assert set(windows[3].values()) == {None}
        assert set(result.by_series()[1].values()) == {None}
        assert result.whole()["mae"] == pytest.approx((1.5 * 2 + 2) / 3)

    def test_a_points_wql_is_its_absolute_error(self) -> None:
        plan = plan_of(frame(60, freq="1"), prediction_length=2, num_windows=1, stride=2)
        scored = Scored(plan, levels=(0.1, 0.9), intervals=[("80", 0.1, 0.9)])
        scored.add(0, 1, np.array([[57.0, 57.0]]), None, ())
        found = scored.result(WINDOW_METRICS, with_coverage=False).whole()
        assert found["wql"] == pytest.approx((1 + 2) / (58 + 59))
        assert found["coverage"] is None
