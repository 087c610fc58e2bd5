"""DSIC's pure part: when to select, what to mask while measuring, how to rank."""

import itertools

import numpy as np
import pytest

from tsfm.methods.dsic import Round, importance, num_kept, schedule, simulated_masks, strongest


def rounds(
    total_steps: int = 100, *, num_modules: int = 10, keep_ratio: float = 0.5, num_rounds: int = 4
) -> tuple[Round, ...]:
    return schedule(total_steps, num_modules=num_modules, keep_ratio=keep_ratio, rounds=num_rounds, first=0.2, last=0.5)


class TestSchedule:
    def test_is_linear_between_its_ends_and_meets_the_budget(self) -> None:
        assert [(r.step, r.num_kept) for r in rounds(num_modules=8)] == [(20, 7), (30, 6), (40, 5), (50, 4)]

    @pytest.mark.parametrize("num_modules", [2, 3, 7, 49, 84])
    @pytest.mark.parametrize("keep_ratio", [0.01, 0.3, 0.5, 0.9])
    def test_the_last_round_keeps_exactly_the_budget(self, num_modules: int, keep_ratio: float) -> None:
        expected = max(1, round(keep_ratio * num_modules))
        for total in (3, 20, 1_000):
            found = rounds(total, num_modules=num_modules, keep_ratio=keep_ratio)
            if expected == num_modules:
                assert found == ()
            else:
                assert found[-1].num_kept == expected == num_kept(num_modules, keep_ratio)
                assert all(a.num_kept >= b.num_kept for a, b in itertools.pairwise(found))

    def test_a_run_too_short_for_all_rounds_keeps_the_last_of_a_step(self) -> None:
        assert rounds(2, num_modules=8) == (Round(step=1, num_kept=4),)
        assert rounds(1, num_modules=8) == (Round(step=1, num_kept=4),)

    def test_nothing_to_mask_is_no_round(self) -> None:
        assert rounds(keep_ratio=1.0) == ()

    def test_one_round_is_the_final_freeze(self) -> None:
        assert rounds(num_rounds=1) == (Round(step=50, num_kept=5),)


class TestSimulatedMasks:
    @pytest.mark.parametrize(("num_modules", "num_masked"), [(10, 5), (10, 3), (7, 4), (49, 25), (5, 4), (49, 6)])
    def test_blocks_are_full_and_counts_differ_by_one_at_most(self, num_modules: int, num_masked: int) -> None:
        for seed in range(20):
            masks = simulated_masks(num_modules, num_masked, num_draws=8, rng=np.random.default_rng(seed))
            assert masks.shape == (8, num_modules)
            assert (masks.sum(1) == num_masked).all(), "a module stood twice in one block"
            for upto in range(1, 9):
                counts = masks[:upto].sum(0)
                assert counts.max() - counts.min() <= 1

    def test_repeats_under_a_seed(self) -> None:
        one, two, other = (simulated_masks(9, 4, num_draws=8, rng=np.random.default_rng(s)) for s in (1, 1, 2))
        assert (one == two).all()
        assert not (one == other).all()

    def test_no_module_is_preferred(self) -> None:
        counts = sum(
            simulated_masks(5, 2, num_draws=1, rng=np.random.default_rng(s))[0].astype(int) for s in range(2_000)
        )
        assert abs(counts / 2_000 - 0.4).max() < 0.04

    def test_pairs_occur_alike_across_the_seam_of_two_permutations(self) -> None:
        together = np.zeros((3, 3))
        for seed in range(3_000):
            row = simulated_masks(3, 2, num_draws=2, rng=np.random.default_rng(seed))[1]
            together += np.outer(row, row)
        assert abs(together[np.triu_indices(3, 1)] / 3_000 - 1 / 3).max() < 0.04


class TestImportance:
    MASKS = np.array([[True, False, True], [False, True, True]])
    MEASURED = np.array([[9.0, 2.0, 4.0], [3.0, 9.0, 6.0]])

    def test_averages_the_draws_in_which_a_module_is_on(self) -> None:
        assert importance(self.MEASURED, self.MASKS).tolist() == [3.0, 2.0, 5.0]

    def test_or_all_of_them(self) -> None:
        assert importance(self.MEASURED, self.MASKS, all_draws=True).tolist() == [6.0, 5.5, 5.0]

    def test_follows_a_permutation_of_the_modules(self) -> None:
        rng = np.random.default_rng(0)
        measured, order = rng.random((8, 6)), rng.permutation(6)
        masks = simulated_masks(6, 3, num_draws=8, rng=rng)
        assert importance(measured[:, order], masks[:, order]) == pytest.approx(importance(measured, masks)[order])


class TestStrongest:
    def test_takes_the_highest_and_among_equals_the_first(self) -> None:
        assert strongest([1.0, 3.0, 3.0, 3.0, 2.0], 2).tolist() == [False, True, True, False, False]
        assert strongest([0.0, 0.0, 0.0], 2).tolist() == [True, True, False]
