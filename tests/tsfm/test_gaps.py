"""Steps of gaps by their distance from the nearer edge, and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm.gaps import by_edge, from_edge

NAN = np.nan


@pytest.mark.parametrize(
    ("gap", "left", "right"),
    [
        (1, [0, NAN, NAN], [NAN, NAN, NAN]),
        (2, [0, NAN, NAN], [1, NAN, NAN]),
        (3, [0, 1, NAN], [2, NAN, NAN]),
        (4, [0, 1, NAN], [3, 2, NAN]),
        (5, [0, 1, 2], [4, 3, NAN]),
    ],
)
def test_the_middle_of_an_odd_gap_belongs_to_the_left(gap: int, left: list[float], right: list[float]) -> None:
    x = np.arange(5.0)[None]
    np.testing.assert_array_equal(by_edge(x, np.array([gap])), [left, right])


def test_what_does_not_exist_stays_missing() -> None:
    x = np.array([[1.0, NAN, 3.0]])
    found = by_edge(x, np.array([3]))
    np.testing.assert_array_equal(found, [[1, NAN], [3, NAN]])
    np.testing.assert_array_equal(from_edge(found, np.array([3]), 3), x)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1_000), horizon=st.integers(1, 12), middle=st.integers(0, 2), count=st.integers(0, 5))
def test_there_and_back_is_the_same_inside_and_missing_behind(seed: int, horizon: int, middle: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    gap = rng.integers(1, horizon + 1, count)
    x = rng.normal(size=(count, *[3] * middle, horizon))
    edges = by_edge(x, gap)
    assert edges.shape == (2 * count, *[3] * middle, -(-horizon // 2))
    inside = np.broadcast_to(np.expand_dims(np.arange(horizon) < gap[:, None], tuple(range(1, middle + 1))), x.shape)
    np.testing.assert_array_equal(from_edge(edges, gap, horizon), np.where(inside, x, NAN))
    assert (~np.isnan(edges)).sum() == inside.sum(), "every step of every gap stands in one place"
