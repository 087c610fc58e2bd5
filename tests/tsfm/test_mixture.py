"""Weights by the distance from the nearer edge, and what a manifest holds of them."""

import json

import numpy as np
import pytest

from tsfm.mixture import GRID, PARTS, Mixture, classes, distance, guess_of

BOTH = np.array([True])
NONE = np.array([False])


def test_distances_begin_at_one_on_either_edge_and_stay_there_behind_the_gap() -> None:
    found = distance(np.array([5, 4, 1]), 6, before=BOTH.repeat(3), behind=BOTH.repeat(3))
    assert found.tolist() == [[1, 2, 3, 2, 1, 1], [1, 2, 2, 1, 1, 1], [1, 1, 1, 1, 1, 1]]


def test_a_side_where_nothing_is_observed_has_no_edge() -> None:
    gap = np.array([4])
    assert distance(gap, 4, before=BOTH, behind=NONE).tolist() == [[1, 2, 3, 4]]
    assert distance(gap, 4, before=NONE, behind=BOTH).tolist() == [[4, 3, 2, 1]]
    assert distance(gap, 4, before=NONE, behind=NONE).tolist() == [[1, 2, 2, 1]]


def test_classes_are_powers_of_two() -> None:
    assert classes(np.array([1, 2, 3, 4, 5, 8, 9, 16, 17])).tolist() == [0, 1, 2, 2, 3, 3, 4, 4, 5]


def test_the_grid_holds_every_convex_combination_in_quarters_once() -> None:
    assert GRID.shape == (35, len(PARTS))
    assert (GRID >= 0).all()
    assert (GRID.sum(axis=1) == 1).all()
    assert len(np.unique(GRID, axis=0)) == 35
    assert GRID[0].tolist() == [1, 0, 0, 0], "of equals the first is taken: the network alone"


def test_each_distance_has_the_weights_of_its_class_and_the_last_class_goes_on() -> None:
    mixture = Mixture(weights=((0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.5, 0.0, 0.5, 0.0)))
    parts = np.broadcast_to(np.array([1.0, 10.0, 100.0, 1000.0]), (1, 5, 4))
    assert mixture.of(parts, np.array([[1, 2, 3, 4, 90]])).tolist() == [[10.0, 1.0, 50.5, 50.5, 50.5]]


def test_only_the_network_s_own_weights_are_the_network_alone() -> None:
    assert Mixture().is_network_alone
    assert not Mixture(weights=((1.0, 0.0, 0.0, 0.0), (0.75, 0.25, 0.0, 0.0))).is_network_alone


class TestStored:
    def test_a_manifest_gives_each_network_its_weights(self) -> None:
        weights = {"tuned": [[0.5, 0.25, 0.0, 0.25]], "zero_shot": [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]}
        fill = json.loads(json.dumps({"period": 24, "guess": 1, "weights": weights}))
        assert Mixture.stored(fill, "tuned") == Mixture(period=24, weights=((0.5, 0.25, 0.0, 0.25),))
        assert len(Mixture.stored(fill, "zero_shot").weights) == 2

    def test_a_checkpoint_fills_by_its_network_alone(self) -> None:
        assert Mixture.stored({"period": 24, "guess": 24, "weights": {}}, "tuned").is_network_alone

    @pytest.mark.parametrize(("period", "row"), [(24, (0.75, 0.0, 0.25, 0.0)), (1, (0.75, 0.25, 0.0, 0.0))])
    def test_the_one_share_of_an_older_artifact_is_one_class(self, period: int, row: tuple[float, ...]) -> None:
        old = {"period": period, "shares": {"tuned": 0.25, "zero_shot": 1.0}}
        assert Mixture.stored(old, "tuned") == Mixture(period=period, weights=(row,))

    def test_the_first_guess_is_what_the_job_showed(self) -> None:
        assert guess_of({"fill": {"period": 24, "guess": 1, "weights": {}}}, 24) == 1
        assert guess_of({"fill": {"period": 24, "shares": {}}}, 168) == 24, "older jobs showed the season"
        assert guess_of({}, 24) == 24
