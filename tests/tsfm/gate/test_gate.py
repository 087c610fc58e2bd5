"""The gate from errors alone: gains, bars, what is served instead, and what the sentence says."""

from typing import Any

import numpy as np
import pytest

from tests.tsfm.gate.windows import HORIZON, errors, noisy
from tsfm import gate_verdict
from tsfm.gate import Comparison, Gate, Reference, hardest, origin_clock, rows_sha256
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split
from tsfm.series.windows import cut


def gate(n: int = 120, **settings: Any) -> Gate:
    settings = {"metric": "mase", "prediction_length": HORIZON, "clock": np.arange(n), **settings}
    return Gate(**settings)


class TestComparison:
    def test_the_gain_is_the_share_of_error_saved(self) -> None:
        found = gate().compare(errors(noisy(0.9)), Reference(name="zero_shot", errors=errors(noisy(1.0, seed=1))))
        assert found.gain == pytest.approx(1 - noisy(0.9).mean() / noisy(1.0, seed=1).mean())
        assert found.interval is not None
        assert found.interval[0] < found.gain < found.interval[1]
        assert found.interval == found.ci95
        assert found.bootstrap_ci95 is not None
        assert (found.origins, found.windows, found.beaten) == (120, 120, True)
        assert found.horizon_blocks == pytest.approx((120 + HORIZON - 1) / HORIZON, abs=0.01)

    def test_a_minimum_gain_moves_the_bar_and_not_the_interval(self) -> None:
        reference = Reference(name="zero_shot", errors=errors(noisy(1.0, seed=1)))
        plain = gate().compare(errors(noisy(0.9)), reference)
        asked = gate(min_gain=0.2).compare(errors(noisy(0.9)), reference)
        assert plain.beaten
        assert not asked.beaten
        assert asked.gain == plain.gain
        assert asked.ci95 == pytest.approx(plain.ci95, abs=0.02)

    def test_every_series_weighs_the_same_however_many_windows_it_has(self) -> None:
        series = np.repeat([0, 1], [100, 20])
        clock = np.concatenate([np.arange(100), np.arange(80, 100)])
        tuned = errors(np.where(series == 0, 1.0, 0.5), series=series)
        found = gate(clock=clock).compare(
            tuned, Reference(name="zero_shot", errors=errors(np.ones(120), series=series))
        )
        assert found.gain == pytest.approx(0.25)
        assert found.origins == 100

    def test_many_series_at_the_same_origins_are_not_more_time(self) -> None:
        one = gate().compare(errors(noisy(0.98)), Reference(name="zero_shot", errors=errors(noisy(1.0, seed=1))))
        series = np.repeat(np.arange(8), 120)
        tuned, other = (errors(np.tile(values, 8), series=series) for values in (noisy(0.98), noisy(1.0, seed=1)))
        many = gate(clock=np.tile(np.arange(120), 8)).compare(tuned, Reference(name="zero_shot", errors=other))
        assert many.interval == pytest.approx(one.interval)
        assert many.windows == 8 * one.windows

    def test_a_rival_needs_a_gain_only(self) -> None:
        tuned, other = errors(noisy(0.999)), errors(noisy(1.0, seed=3))
        assert not gate().compare(tuned, Reference(name="zero_shot", errors=other)).beaten
        gain = gate().compare(tuned, Reference(name="naive", errors=other)).gain
        assert gain is not None
        assert gate().compare(tuned, Reference(name="naive", errors=other)).beaten == (gain > 0)

    def test_too_little_test_has_no_interval(self) -> None:
        n = 4 * HORIZON  # one origin fewer than five horizons of test
        found = gate(n).compare(errors(noisy(0.1, n)), Reference(name="zero_shot", errors=errors(noisy(1.0, n))))
        assert (found.interval, found.beaten) == (None, False)
        found = gate(n + 1).compare(
            errors(noisy(0.1, n + 1)), Reference(name="zero_shot", errors=errors(noisy(1.0, n + 1)))
        )
        assert found.beaten
        assert found.horizon_blocks == 5

    def test_strided_origins_count_in_their_own_unit(self) -> None:
        dense = gate(481).compare(errors(noisy(0.9, 481)), Reference(name="zero_shot", errors=errors(noisy(1.0, 481))))
        strided = gate(clock=np.arange(0, 481, 3)).compare(
            errors(noisy(0.9, 481)[::3]), Reference(name="zero_shot", errors=errors(noisy(1.0, 481)[::3]))
        )
        assert strided.horizon_blocks == dense.horizon_blocks
        assert strided.origins == 161
        assert strided.degrees_of_freedom <= dense.degrees_of_freedom

    @pytest.mark.parametrize(("tuned", "gain"), [(0.0, 0.0), (0.1, None)])
    def test_a_perfect_reference_is_not_beaten(self, tuned: float, gain: float | None) -> None:
        found = gate().compare(errors(np.full(120, tuned)), Reference(name="naive", errors=errors(np.zeros(120))))
        assert (found.gain, found.beaten) == (gain, False)

    def test_root_mean_squares_are_compared_as_such(self) -> None:
        tuned, other = errors(noisy(0.8)), errors(noisy(1.0, seed=1))
        found = gate(metric="rmsse").compare(tuned, Reference(name="zero_shot", errors=other))
        expected = 1 - np.sqrt((noisy(0.8) ** 2).mean()) / np.sqrt((noisy(1.0, seed=1) ** 2).mean())
        assert found.gain == pytest.approx(expected)

    def test_an_incumbent_is_compared_on_what_it_has_not_seen(self) -> None:
        unseen = np.arange(120) >= 80
        other = errors(np.where(unseen, 1.0, 0.1) * np.ones(120))
        found = gate().compare(errors(noisy(0.9)), Reference(name="incumbent", errors=other, allowed=unseen))
        assert (found.windows, found.beaten, found.for_information) == (40, True, False)
        late = np.arange(120) >= 100
        found = gate().compare(errors(noisy(0.9)), Reference(name="incumbent", errors=other, allowed=late))
        assert (found.beaten, found.for_information, found.interval) == (False, True, None)


def compared(name: str, gain: float | None = 0.1, **settings: Any) -> Comparison:
    interval = None if gain is None else (gain - 0.02, gain + 0.02)
    bar = (
        interval is not None and interval[0] > 0
        if name in ("zero_shot", "incumbent")
        else gain is not None and gain > 0
    )
    fields = {
        "gain": gain,
        "interval": interval,
        "ci95": interval,
        "bootstrap_ci95": interval,
        "degrees_of_freedom": 9,
        "windows": 100,
        "origins": 100,
        "horizon_blocks": 17.5,
        "beaten": bar,
    }
    return Comparison(name=name, **{**fields, **settings})


def answer(*comparisons: Comparison, **settings: Any) -> dict[str, Any]:
    rest = [compared(name) for name in ("zero_shot", "naive", "seasonal_naive", "window_mean")]
    names = {c.name for c in comparisons}
    shown = [*comparisons, *(c for c in rest if c.name not in names)]
    words = {"incumbent": "ft:x@3"}
    return gate_verdict.answer(gate(**settings), shown, winner="tuned", test_sha256="0" * 64, names=words)


class TestAnswer:
    def test_everything_beaten_is_promoted(self) -> None:
        found = answer(compared("zero_shot", 0.071))
        assert (found["passed"], found["reason"], found["fallback"]) == (True, "passed", None)
        assert found["sentence"] == (
            "Promoted: 7.1 % lower MASE than zero-shot (95 % interval of the gain 5.1 to 9.1 %), and lower than every "
            "plain rival."
        )

    def test_zero_shot_within_the_interval_is_served(self) -> None:
        found = answer(compared("zero_shot", 0.01), compared("naive", -0.5))
        assert (found["passed"], found["reason"], found["fallback"]) == (False, "not_beaten", "zero_shot")
        assert "1.0 % lower MASE than zero-shot" in found["sentence"]
        assert "zero-shot is served" in found["sentence"]

    def test_the_worst_rival_is_served_when_only_rivals_stand(self) -> None:
        found = answer(compared("naive", -0.1), compared("window_mean", -0.2))
        assert (found["passed"], found["fallback"]) == (False, "window_mean")
        assert found["sentence"] == "Not promoted: 20.0 % higher MASE than window mean; window mean is served."

    def test_the_incumbent_comes_first(self) -> None:
        found = answer(compared("incumbent", 0.01), compared("zero_shot", -0.1))
        assert (found["fallback"], found["against"]) == ("incumbent", "incumbent")
        assert "ft:x@3 is served" in found["sentence"]
        assert answer(compared("incumbent", 0.1))["passed"]

    def test_a_beaten_incumbent_stays_while_something_else_was_not_beaten(self) -> None:
        found = answer(compared("incumbent", 0.1), compared("zero_shot", 0.01))
        assert (found["passed"], found["fallback"]) == (False, "zero_shot")
        assert found["sentence"].endswith("not above 0 %); ft:x@3 stays in production.")

    @pytest.mark.parametrize(("gain", "word"), [(0.0004, "lower"), (-0.0004, "higher")])
    def test_a_tiny_gain_is_not_called_zero(self, gain: float, word: str) -> None:
        said = answer(compared("zero_shot", gain, interval=(gain - 1e-5, gain + 1e-5)))["sentence"]
        assert f"less than 0.1 % {word} MASE than zero-shot" in said
        assert "-0.0" not in said

    def test_an_incumbent_for_information_is_no_bar(self) -> None:
        barely = compared("incumbent", None, for_information=True, beaten=False, horizon_blocks=2.5)
        found = answer(barely)
        assert (found["passed"], found["against"]) == (True, "zero_shot")
        assert "for information only" in found["sentence"]
        assert answer(barely, compared("zero_shot", 0.0))["fallback"] == "incumbent"

    def test_too_little_evidence_is_said_with_what_is_missing(self) -> None:
        found = answer(compared("zero_shot", 0.3, interval=None, beaten=False, horizon_blocks=3.2))
        assert (found["passed"], found["reason"], found["fallback"]) == (False, "insufficient_evidence", "zero_shot")
        assert "3.2 horizons of test, and 5 are needed" in found["sentence"]

    def test_the_kth_look_says_its_level(self) -> None:
        found = answer(verdict_number=2)
        assert found["level"] == 0.975
        assert "verdict 2 on the same test rows" in found["sentence"]
        assert "97.5 %" in found["sentence"]

    def test_the_hardest_period_stands_for_seasonal_naive(self) -> None:
        by_period = [compared("seasonal_naive", gain, period=p) for p, gain in ((24, 0.2), (168, -0.1))]
        found = answer(hardest(by_period))
        entry = found["versus"]["seasonal_naive"]
        assert (entry["period"], entry["periods"]) == (168, {"24": 0.2, "168": -0.1})
        assert (found["fallback"], found["fallback_period"]) == ("seasonal_naive", 168)
        assert "seasonal naive at period 168" in found["sentence"]


def frame(freq: str, lengths: tuple[int, ...] = (120, 120)) -> SeriesFrame:
    rng = np.random.default_rng(0)
    return SeriesFrame(
        item_ids=tuple(f"s{i}" for i in range(len(lengths))),
        values=rng.normal(size=sum(lengths)),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        starts=np.zeros(len(lengths), dtype=np.int64),
        freq=freq,
    )


class TestClock:
    def origins(self, made: SeriesFrame) -> tuple[np.ndarray, np.ndarray]:
        blocks = split(made, context_length=16, prediction_length=HORIZON, patch_length=4)
        windows = cut(made, blocks, Block.TEST, context_length=16, prediction_length=HORIZON)
        return origin_clock(windows, blocks, Block.TEST), windows.series

    def test_series_with_timestamps_lie_on_time(self) -> None:
        clock, series = self.origins(frame("h"))
        assert np.array_equal(clock[series == 0], clock[series == 1])

    def test_series_of_an_integer_index_meet_at_their_ends(self) -> None:
        clock, series = self.origins(frame("1", (120, 160)))
        assert clock[series == 0].max() == clock[series == 1].max() == -HORIZON
        assert len(np.unique(clock)) == max((series == 0).sum(), (series == 1).sum())


def test_the_digest_is_of_the_test_rows_alone() -> None:
    made = frame("h")
    blocks = split(made, context_length=16, prediction_length=HORIZON, patch_length=4)
    before = rows_sha256(made, blocks)
    first = blocks.block(Block.TEST)[0]
    made.values[first[0] - 1] += 1.0
    assert rows_sha256(made, blocks) == before
    made.values[first[0]] += 1.0
    assert rows_sha256(made, blocks) != before
