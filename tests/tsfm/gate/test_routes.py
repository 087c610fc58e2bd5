"""Routes from errors alone: who leaves the pooled winner, and when nobody does."""

import numpy as np
import pytest

from tests.tsfm.gate.windows import HORIZON, errors, noisy
from tsfm.metrics import WindowErrors
from tsfm.routes import Routes, combine, decide, shrink

NUM_SERIES, NUM_WINDOWS = 10, 60
ITEMS = [f"s{i}" for i in range(NUM_SERIES)]
SERIES = np.repeat(np.arange(NUM_SERIES), NUM_WINDOWS)


def panel(means: list[float], *, seed: int = 0) -> WindowErrors:
    return errors(
        np.concatenate([noisy(mean, NUM_WINDOWS, seed=seed + i) for i, mean in enumerate(means)]), series=SERIES
    )


def routes(**sources: WindowErrors) -> Routes:
    return decide(sources, metric="mase", horizon_origins=float(HORIZON), item_ids=ITEMS)


class TestDecide:
    def test_series_go_where_they_are_clearly_better_off(self) -> None:
        half = [0.5] * 5 + [1.5] * 5
        found = routes(tuned=panel(half), zero_shot=panel([1.1] * 10, seed=50))
        assert found.default == "tuned"
        assert found.items == {f"s{i}": "zero_shot" for i in range(5, 10)}

    def test_a_spread_that_chance_explains_moves_nobody(self) -> None:
        moved = []
        for seed in range(0, 2_000, 100):
            found = routes(tuned=panel([1.0] * 10, seed=seed), zero_shot=panel([1.02] * 10, seed=seed + 50))
            moved.append(len(found.items))
        assert np.mean(moved) < 0.5

    def test_one_series_alone_stays(self) -> None:
        sources = {"tuned": errors(noisy(1.0)), "zero_shot": errors(noisy(0.5, seed=1))}
        found = decide(sources, metric="mase", horizon_origins=float(HORIZON), item_ids=["only"])
        assert found == Routes(default="zero_shot")

    def test_a_single_window_each_is_no_evidence(self) -> None:
        series = np.arange(NUM_SERIES)
        sources = {
            "tuned": errors(np.linspace(0.1, 2.0, NUM_SERIES), series=series),
            "zero_shot": errors(np.ones(NUM_SERIES), series=series),
        }
        assert decide(sources, metric="mase", horizon_origins=1.0, item_ids=ITEMS).items == {}

    def test_of_several_better_sources_the_best_is_taken(self) -> None:
        found = routes(
            tuned=panel([0.5] * 6 + [2.0] * 4),
            zero_shot=panel([1.0] * 8 + [1.5] * 2, seed=50),
            naive=panel([1.5] * 8 + [0.2] * 2, seed=90),
        )
        assert found.default == "tuned"
        assert {found.of(f"s{i}") for i in (6, 7)} == {"zero_shot"}
        assert {found.of(f"s{i}") for i in (8, 9)} == {"naive"}

    def test_a_tie_keeps_the_first(self) -> None:
        same = panel([1.0] * 10)
        assert routes(tuned=same, zero_shot=same) == Routes(default="tuned")


class TestShrink:
    def test_no_spread_beyond_chance_is_the_mean(self) -> None:
        d = np.array([0.1, -0.1, 0.05, -0.05])
        assert shrink(d, np.full(4, 1.0)) == pytest.approx(np.zeros(4))

    def test_certain_differences_stay(self) -> None:
        d = np.array([0.5, -0.5, 0.2, -0.4])
        assert shrink(d, np.zeros(4)) == pytest.approx(d)

    def test_between_them_by_moments(self) -> None:
        d, variance = np.array([1.0, -1.0, 1.0, -1.0]), np.array([0.2, 0.2, 0.6, 0.6])
        spread = d.var(ddof=1) - variance.mean()
        assert shrink(d, variance) == pytest.approx(d * spread / (spread + variance))

    def test_chance_that_cannot_be_estimated_is_the_mean(self) -> None:
        assert shrink(np.array([1.0, 3.0]), np.array([np.nan, np.nan])).tolist() == [2.0, 2.0]


class TestRoutes:
    MADE = Routes(default="tuned", items={"b": "naive"}, period=24)

    def test_there_and_back(self) -> None:
        assert Routes.from_mapping(self.MADE.to_mapping()) == self.MADE

    def test_the_unknown_goes_to_the_default(self) -> None:
        assert [self.MADE.of(item) for item in ("a", "b")] == ["tuned", "naive"]
        assert self.MADE.counts(["a", "b", "c"]) == {"tuned": 2, "naive": 1}

    def test_combined_errors_are_each_series_own_source(self) -> None:
        tuned, zero_shot = panel([1.0] * 10), panel([2.0] * 10, seed=50)
        found = combine(
            {"tuned": tuned, "zero_shot": zero_shot}, Routes(default="tuned", items={"s3": "zero_shot"}), ITEMS
        )
        expected = tuned.by_series("mase")
        expected[3] = zero_shot.by_series("mase")[3]
        assert found.by_series("mase") == pytest.approx(expected)
