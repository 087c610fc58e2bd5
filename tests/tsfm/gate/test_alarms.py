"""False alarms as a bar of the gate, and the words of the tasks that are no forecasts."""

from typing import Any

import pytest

from tests.tsfm.gate.test_gate import compared, gate
from tsfm import gate_verdict
from tsfm.gate import Comparison
from tsfm.gate_verdict import FalseAlarms
from tsfm.metrics import PINBALL

FILLS = ("zero_shot", "linear_fill", "seasonal_fill")
FORECASTS = ("zero_shot", "naive", "seasonal_naive", "window_mean")


def answer(
    *comparisons: Comparison, rate: float | None, rest: tuple[str, ...] = FORECASTS, **more: Any
) -> dict[str, Any]:
    names = {c.name for c in comparisons}
    shown = [*comparisons, *(compared(name) for name in rest if name not in names)]
    alarms = None if rate is None else FalseAlarms(level=99.0, rate=rate)
    words = {"incumbent": "ft:x@3"}
    settings = {"winner": "tuned", "test_sha256": "0" * 64, "names": words, "false_alarms": alarms, **more}
    return gate_verdict.answer(gate(metric=PINBALL), shown, **settings)


class TestFalseAlarms:
    @pytest.mark.parametrize(
        ("rate", "near"),
        [(0.01, True), (0.0051, True), (0.0149, True), (0.0049, False), (0.0151, False), (0.0, False), (0.5, False)],
    )
    def test_half_the_nominal_rate_is_the_tolerance(self, rate: float, near: bool) -> None:
        assert FalseAlarms(level=99.0, rate=rate).is_near is near

    def test_the_nominal_rate_is_that_of_the_level(self) -> None:
        assert FalseAlarms(level=90.0, rate=0.1).nominal == pytest.approx(0.1)


class TestAnswer:
    def test_a_calm_detector_that_beats_everything_is_promoted(self) -> None:
        found = answer(rate=0.012)
        assert (found["passed"], found["reason"], found["fallback"]) == (True, "passed", None)
        assert found["false_alarms"] == {"level": 99.0, "rate": 0.012}
        assert "lower pinball loss than zero-shot" in found["sentence"]

    @pytest.mark.parametrize(("rate", "said"), [(0.04, "4 %"), (0.0, "0 %"), (1.0, "100 %")])
    def test_too_many_or_too_few_are_refused_with_both_rates(self, rate: float, said: str) -> None:
        found = answer(rate=rate)
        assert (found["passed"], found["reason"], found["fallback"]) == (False, "false_alarms", "zero_shot")
        assert found["sentence"] == (
            f"Not promoted: {said} of the test points were called anomalies at level 99, where 1 % are expected of "
            "normal history (what is normal has drifted, or test holds anomalies); zero-shot is served."
        )

    def test_the_incumbent_stays(self) -> None:
        found = answer(compared("incumbent", 0.2), rate=0.04)
        assert (found["passed"], found["fallback"]) == (False, "incumbent")
        assert found["sentence"].endswith("; ft:x@3 is served.")

    def test_random_weights_answer_for_nothing(self) -> None:
        found = answer(compared("naive", 0.02), rate=0.04, unserved=frozenset({"zero_shot"}))
        assert (found["passed"], found["fallback"]) == (False, "naive")
        assert found["sentence"].endswith("; naive is served.")

    def test_what_is_not_beaten_comes_first(self) -> None:
        found = answer(compared("naive", -0.1), rate=0.04)
        assert (found["reason"], found["fallback"]) == ("not_beaten", "naive")
        assert "10.0 % higher pinball loss than naive" in found["sentence"]

    def test_where_nothing_was_counted_nothing_is_said(self) -> None:
        found = answer(rate=None)
        assert found["passed"]
        assert "false_alarms" not in found


class TestFills:
    def test_plain_fills_are_bars(self) -> None:
        found = answer(compared("linear_fill", -0.2), compared("seasonal_fill", -0.1, period=24), rate=None, rest=FILLS)
        assert (found["passed"], found["fallback"], found["fallback_period"]) == (False, "linear_fill", None)
        assert "20.0 % higher pinball loss than linear fill; linear fill is served." in found["sentence"]

    def test_the_period_of_the_seasonal_fill_is_kept(self) -> None:
        found = answer(compared("seasonal_fill", -0.1, period=24), rate=None, rest=FILLS)
        assert (found["fallback"], found["fallback_period"]) == ("seasonal_fill", 24)

    def test_all_of_them_beaten_is_promoted(self) -> None:
        assert answer(rate=None, rest=FILLS)["passed"]
