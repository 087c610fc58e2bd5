"""The synthetic prior: reproducible, in the promised shares, with the properties each family is there for."""

from collections import Counter

import numpy as np
import pytest

from tsfm.pretrain import prior, processes

ROWS, LENGTH = 512, 640


@pytest.fixture(scope="module")
def block() -> tuple[processes.Array, list[str]]:
    return prior.draw_block(7, 0, rows=ROWS, length=LENGTH)


class TestDrawBlock:
    def test_seed_and_block_decide_every_number(self, block: tuple[processes.Array, list[str]]) -> None:
        again, families = prior.draw_block(7, 0, rows=ROWS, length=LENGTH)
        assert np.array_equal(block[0], again, equal_nan=True)
        assert block[1] == families
        for other in (prior.draw_block(7, 1, rows=64, length=64), prior.draw_block(8, 0, rows=64, length=64)):
            assert not np.array_equal(other[0], prior.draw_block(7, 0, rows=64, length=64)[0], equal_nan=True)

    def test_the_global_generator_is_untouched(self) -> None:
        before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
        prior.draw_block(1, 0, rows=64, length=64)
        assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]

    def test_shares_that_the_protocol_demands(self, block: tuple[processes.Array, list[str]]) -> None:
        counts = Counter(block[1])
        assert counts["stochastic_trend"] >= 0.20 * ROWS
        assert counts["pure_noise"] >= 0.05 * ROWS
        assert counts["counts"] > 0
        assert sum(counts.values()) == ROWS
        assert sum(prior.SHARES.values()) == pytest.approx(1)

    def test_rows_are_finite_of_order_one_and_partly_missing(self, block: tuple[processes.Array, list[str]]) -> None:
        series, _ = block
        assert series.dtype == np.float32
        assert not np.isinf(series).any()
        lost = np.isnan(series)
        assert 0.05 < lost.any(1).mean() < 0.35
        assert lost.mean() < 0.05
        assert np.nanmedian(np.nanstd(series, axis=1)) == pytest.approx(1, abs=0.2)


class TestProcesses:
    @pytest.mark.parametrize("name", sorted(prior.SHARES))
    def test_each_family_is_finite_float32_and_seeded(self, name: str) -> None:
        draw = prior.DRAWS[name]
        one, two = (draw(np.random.default_rng(3), 40, 200) for _ in range(2))
        assert one.shape == (40, 200)
        assert one.dtype == np.float32
        assert np.isfinite(one).all()
        assert np.array_equal(one, two)

    def test_stochastic_trends_have_a_unit_root(self) -> None:
        """Their level wanders: the mean absolute step is small beside the spread, unlike in noise."""
        rng = np.random.default_rng(0)
        walk, noise = processes.stochastic_trend(rng, 200, LENGTH), processes.pure_noise(rng, 200, LENGTH)
        roughness = [np.abs(np.diff(x, axis=1)).mean(1) / (x.std(1) + 1e-9) for x in (walk, noise)]
        assert np.median(roughness[0]) < 0.25
        assert np.median(roughness[1]) > 0.5

    def test_noise_family_holds_constants(self) -> None:
        drawn = processes.pure_noise(np.random.default_rng(0), 200, LENGTH)
        assert 0.1 < (drawn.std(1) < 1e-6).mean() < 0.3

    def test_counts_are_whole_and_not_negative(self) -> None:
        drawn = processes.counts(np.random.default_rng(0), 60, LENGTH)
        assert (drawn >= 0).all()
        assert np.array_equal(drawn, np.round(drawn))

    def test_autoregression_reaches_its_stationary_variance(self) -> None:
        rng = np.random.default_rng(0)
        drawn = processes.autoregress_unit(rng, 400, 300, np.full((400, 1), 0.9, np.float32))
        assert drawn.std() == pytest.approx(1, abs=0.1)
        assert (drawn[:, 1:] * drawn[:, :-1]).mean() / drawn.var() == pytest.approx(0.9, abs=0.05)
