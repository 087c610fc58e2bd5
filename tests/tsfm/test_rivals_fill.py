"""Plain ways to fill gaps against the same said point by point: slow, obvious loops over one row."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm import rivals
from tsfm.errors import UnknownName
from tsfm.rivals import GUESS_SEASONS, SEASONS, completed, linear_fill, seasonal_fill, seasonal_line

NAN = np.nan
Row = dict[int, float]
"""What is observed of one row by its place; the gap begins at 0."""


def observed(context: np.ndarray, after: np.ndarray, gap: int) -> Row:
    left = {k - len(context): v for k, v in enumerate(context)}
    right = {gap + k: v for k, v in enumerate(after)}
    return {k: float(v) for k, v in {**left, **right}.items() if not np.isnan(v)}


def line_at(known: Row, at: int) -> float:
    below, above = max((k for k in known if k < at), default=None), min((k for k in known if k > at), default=None)
    if below is None or above is None:
        return next((known[k] for k in (below, above) if k is not None), 0.0)
    return known[below] + (known[above] - known[below]) * (at - below) / (above - below)


def phase_at(known: Row, at: int, *, period: int, seasons: int) -> float | None:
    """The mean of the nearest of the same phase on both sides; one side's alone; None."""
    sides = []
    for sign in (-1, 1):
        tried = (at + sign * k * period for k in range(1, seasons + 1))
        sides += [known[place] for place in tried if place in known][:1]
    return sum(sides) / len(sides) if sides else None


def cases(check: Callable[..., None]) -> Callable[[], None]:
    """Calls `check(context, after, gap, horizon, period)` with rows of random length and holes."""

    @settings(max_examples=40, deadline=None)
    @given(
        seed=st.integers(0, 10_000),
        sides=st.tuples(st.integers(0, 24), st.integers(0, 24)),
        horizon=st.integers(1, 7),
        period=st.integers(1, 6),
        missing=st.floats(0, 1),
    )
    def drawn(seed: int, sides: tuple[int, int], horizon: int, period: int, missing: float) -> None:
        rng = np.random.default_rng(seed)
        context, after = (rng.normal(size=(4, n)) for n in sides)
        for side in (context, after):
            side[rng.random(side.shape) < missing] = NAN
        check(context, after, rng.integers(1, horizon + 1, 4), horizon, period)

    return drawn


@cases
def test_linear_fill_is_the_line_between_neighbours(
    context: np.ndarray, after: np.ndarray, gap: np.ndarray, horizon: int, period: int
) -> None:
    filled = linear_fill(context, after, gap, horizon)
    for i in range(4):
        known = observed(context[i], after[i], int(gap[i]))
        assert filled[i, : gap[i]] == pytest.approx([line_at(known, at) for at in range(gap[i])])


@cases
def test_seasonal_fill_is_the_mean_of_both_neighbouring_seasons(
    context: np.ndarray, after: np.ndarray, gap: np.ndarray, horizon: int, period: int
) -> None:
    filled, seasons = seasonal_fill(context, after, gap, horizon, period), SEASONS + -(-horizon // period)
    for i in range(4):
        known = observed(context[i], after[i], int(gap[i]))
        found = [phase_at(known, at, period=period, seasons=seasons) for at in range(gap[i])]
        want = [line_at(known, at) if one is None else one for at, one in enumerate(found)]
        assert filled[i, : gap[i]] == pytest.approx(want)


@cases
def test_seasonal_line_joins_the_season_to_both_edges(
    context: np.ndarray, after: np.ndarray, gap: np.ndarray, horizon: int, period: int
) -> None:
    """The season, and the line between what it misses of what is observed."""
    filled, seasons = seasonal_line(context, after, gap, horizon, period), SEASONS + -(-horizon // period)
    season = seasonal_fill(context, after, gap, horizon, period)
    for i in range(4):
        known = observed(context[i], after[i], int(gap[i]))
        phases = {at: phase_at(known, at, period=period, seasons=seasons) for at in known}
        missed = {at: known[at] - phase for at, phase in phases.items() if phase is not None}
        want = [season[i, at] + line_at(missed, at) for at in range(gap[i])]
        assert filled[i, : gap[i]] == pytest.approx(want)


@cases
def test_completed_guesses_between_what_is_observed(
    context: np.ndarray, after: np.ndarray, gap: np.ndarray, horizon: int, period: int
) -> None:
    before, behind = completed(context, after, gap, horizon, period=period)
    assert (before.shape, behind.shape) == (context.shape, after.shape)
    for i in range(4):
        known = observed(context[i], after[i], int(gap[i]))
        places = [*range(-context.shape[1], 0), *range(gap[i], gap[i] + after.shape[1])]
        for at, value in zip(places, [*before[i], *behind[i]], strict=True):
            if at in known:
                assert value == known[at]
            elif not known or not min(known) < at < max(known):
                assert np.isnan(value), "nothing is guessed before the first or behind the last"
            else:
                phase = phase_at(known, at, period=period, seasons=GUESS_SEASONS) if period > 1 else None
                assert value == pytest.approx(line_at(known, at) if phase is None else phase)


class TestLinearFill:
    def test_one_known_side_is_repeated_and_none_is_the_centre(self) -> None:
        context, after = np.array([[1.0, 2.0], [NAN, NAN], [NAN, NAN]]), np.array([[NAN], [5.0], [NAN]])
        assert linear_fill(context, after, np.array([2, 2, 2]), 2).tolist() == [[2, 2], [5, 5], [0, 0]]

    def test_it_keeps_the_dtype(self) -> None:
        context = np.zeros((1, 3), dtype=np.float32)
        assert linear_fill(context, context, np.array([2]), 2).dtype == np.float32
        assert seasonal_fill(context, context, np.array([2]), 2, 2).dtype == np.float32


class TestSeasonalLine:
    def test_a_day_on_another_level_is_followed(self) -> None:
        """Both neighbouring seasons stand ten lower than what stands beside the gap."""
        values = np.tile(np.random.default_rng(0).standard_normal(8), 6)[None]
        values[:, 18:25] += 10.0
        context, after, gap = values[:, :20], values[:, 23:], np.array([3])
        assert seasonal_fill(context, after, gap, 3, 8) == pytest.approx(values[:, 20:23] - 10.0)
        assert seasonal_line(context, after, gap, 3, 8) == pytest.approx(values[:, 20:23])

    def test_it_keeps_the_dtype(self) -> None:
        context = np.zeros((1, 3), dtype=np.float32)
        assert seasonal_line(context, context, np.array([2]), 2, 2).dtype == np.float32


class TestSeasonalFill:
    def test_a_season_that_repeats_is_filled_without_error(self) -> None:
        season = np.array([3.0, 1.0, 4.0, 1.5])
        whole = np.tile(season, 8)[None]
        filled = seasonal_fill(whole[:, :12], whole[:, 19:], np.array([7]), 7, 4)
        assert filled.tolist() == whole[:, 12:19].tolist()

    def test_period_one_is_the_mean_of_both_neighbours_next_to_the_gap(self) -> None:
        filled = seasonal_fill(np.array([[1.0, 2.0]]), np.array([[6.0, 9.0]]), np.array([1]), 1, 1)
        assert filled.tolist() == [[4.0]]

    def test_rows_do_not_touch_each_other(self) -> None:
        rng = np.random.default_rng(0)
        context, after, gap = rng.normal(size=(5, 9)), rng.normal(size=(5, 9)), np.array([1, 2, 3, 4, 4])
        for name in ("linear_fill", "seasonal_fill"):
            together = rivals.fill(name, context, after, gap, 4, period=3)
            for i in range(5):
                alone = rivals.fill(name, context[i : i + 1], after[i : i + 1], gap[i : i + 1], 4, period=3)
                assert np.array_equal(together[i, : gap[i]], alone[0, : gap[i]]), name


class TestCompleted:
    def test_nothing_missing_is_left_as_it_is(self) -> None:
        context, after = np.ones((1, 4)), np.ones((1, 3))
        before, behind = completed(context, after, np.array([2]), 5, period=3)
        assert before is context
        assert behind is after

    def test_a_row_without_any_value_stays_without(self) -> None:
        nothing = np.full((1, 4), NAN)
        before, behind = completed(nothing, nothing, np.array([2]), 2, period=3)
        assert np.isnan(before).all()
        assert np.isnan(behind).all()

    def test_a_gap_of_another_row_in_the_batch_changes_nothing(self) -> None:
        rng = np.random.default_rng(1)
        context, after, gap = rng.normal(size=(2, 9)), rng.normal(size=(2, 9)), np.array([1, 6])
        context[:, 3:5], after[:, 2:4] = NAN, NAN
        together = completed(context, after, gap, 6, period=4)
        alone = completed(context[:1], after[:1], gap[:1], 1, period=4)
        for whole, one in zip(together, alone, strict=True):
            assert np.array_equal(whole[:1], one)


def test_an_unknown_fill_lists_the_known() -> None:
    with pytest.raises(UnknownName, match="seasonal_fill"):
        rivals.fill("spline", np.ones((1, 2)), np.ones((1, 2)), np.array([1]), 1, period=1)


@pytest.mark.parametrize(("name", "needed"), [("seasonal_fill", 72), ("linear_fill", 50)])
def test_only_seasons_need_more_history_than_the_context(name: str, needed: int) -> None:
    assert rivals.history_needed(name, context_length=50, period=24) == needed
