"""The plain forecasters, on contexts with holes."""

import numpy as np
import pytest

from tsfm import rivals
from tsfm.errors import UnknownName

NAN = np.nan
CONTEXT = np.array(
    [[NAN, 1, 2, 3, 4, 5, 6], [NAN, NAN, 7, 8, 9, NAN, NAN], [NAN] * 7],
    dtype=np.float32,
)


def test_naive_repeats_the_last_observed_value() -> None:
    assert rivals.naive(CONTEXT, 2).tolist() == [[6, 6], [9, 9], [0, 0]]


def test_window_mean_averages_what_is_observed() -> None:
    assert rivals.window_mean(CONTEXT, 2).tolist() == [[3.5, 3.5], [8, 8], [0, 0]]


def test_seasonal_naive_repeats_the_last_season() -> None:
    assert rivals.seasonal_naive(CONTEXT[:1], 5, 3).tolist() == [[4, 5, 6, 4, 5]]


def test_seasonal_naive_looks_further_back_for_a_missing_phase() -> None:
    assert rivals.seasonal_naive(CONTEXT[1:2], 3, 3).tolist() == [[9, 7, 8]]


def test_seasonal_naive_beyond_the_history_is_the_last_value() -> None:
    assert rivals.seasonal_naive(CONTEXT[:1], 3, 9).tolist() == [[6, 6, 6]]
    assert rivals.seasonal_naive(CONTEXT[:1], 9, 9).tolist() == [[6, 6, 6, 1, 2, 3, 4, 5, 6]]
    assert rivals.seasonal_naive(CONTEXT[2:], 3, 3).tolist() == [[0, 0, 0]]


def test_rows_do_not_touch_each_other() -> None:
    together = rivals.forecast("seasonal_naive", CONTEXT, 4, period=3)
    alone = [rivals.forecast("seasonal_naive", CONTEXT[i : i + 1], 4, period=3)[0] for i in range(3)]
    assert np.array_equal(together, np.stack(alone))


def test_an_unknown_rival_lists_the_known() -> None:
    with pytest.raises(UnknownName, match="window_mean"):
        rivals.forecast("drift", CONTEXT, 2, period=1)
