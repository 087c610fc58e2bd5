"""From comparisons to the gate's answer: passed or not, what is served instead, and one plain sentence."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tsfm import catalog
from tsfm.gate import INCUMBENT, MIN_HORIZON_BLOCKS, ZERO_SHOT, Comparison, Gate
from tsfm.metrics import PINBALL

PASSED, INSUFFICIENT, UNBEATEN = "passed", "insufficient_evidence", "not_beaten"
ALARMS = "false_alarms"
RIVALS = (*catalog.RIVALS, *catalog.FILL_RIVALS)
WORDS = {PINBALL: "pinball loss"}
ALARM_TOLERANCE = 0.5
"""Share of the nominal rate that the measured one may be off (evaluation.md §3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAlarms:
    """How often points of the test block, taken to be normal, were called anomalies."""

    level: float
    """Per cent."""
    rate: float
    """Share of points."""

    @property
    def nominal(self) -> float:
        return 1.0 - self.level / 100.0

    @property
    def is_near(self) -> bool:
        return abs(self.rate - self.nominal) <= ALARM_TOLERANCE * self.nominal


def answer(
    gate: Gate,
    comparisons: Sequence[Comparison],
    *,
    winner: str,
    test_sha256: str,
    names: Mapping[str, str] | None = None,
    unserved: frozenset[str] = frozenset(),
    false_alarms: FalseAlarms | None = None,
) -> dict[str, Any]:
    """The job's `gate` object, JSON-ready.

    `comparisons` hold zero-shot, every rival (once, the hardest period) and the incumbent where there is one. `winner`
    is the candidate that validation chose to be judged; `names` are words for the sentence ("incumbent" → "ft:…@3").
    Promotion needs every one of them beaten. `fallback` is the first that is not: incumbent, zero-shot, then the rival
    that the candidate is furthest behind; an incumbent compared for information only stays when the rest is not beaten.
    What is `unserved` is a bar like the others and never the fallback: then a rival is, beaten or not. `false_alarms`
    that are not near their nominal rate are a bar, too: then what came first answers (incumbent, else zero-shot).
    """
    by_name = {c.name: c for c in comparisons}
    bars = [c for c in comparisons if not c.for_information]
    first = by_name.get(INCUMBENT)
    main = first if first is not None and not first.for_information else by_name[ZERO_SHOT]
    beaten = all(c.beaten for c in bars)
    passed = beaten and (false_alarms is None or false_alarms.is_near)
    enough = main.horizon_blocks >= MIN_HORIZON_BLOCKS and by_name[ZERO_SHOT].horizon_blocks >= MIN_HORIZON_BLOCKS
    reason = PASSED if passed else ALARMS if beaten else UNBEATEN if enough else INSUFFICIENT
    bar = None if passed else main.name if beaten else _first_unbeaten(by_name)
    fallback = _hardest_rival(by_name, beaten=True) if bar in unserved else bar
    untrained = "the untrained network" if ZERO_SHOT in unserved else "zero-shot"
    words = {ZERO_SHOT: untrained, **{rival: rival.replace("_", " ") for rival in RIVALS}, **(names or {})}
    text = _Sentence(gate=gate, by_name=by_name, main=main, words=words, false_alarms=false_alarms)
    return {
        "passed": passed,
        "winner": winner,
        "reason": reason,
        "sentence": text.of(reason, bar, fallback),
        "fallback": fallback,
        "fallback_period": None if fallback is None else by_name[fallback].period,
        "metric": gate.metric,
        "min_gain": gate.min_gain,
        "against": main.name,
        "gain": main.gain,
        "interval": None if main.interval is None else list(main.interval),
        "ci95": None if main.ci95 is None else list(main.ci95),
        "bootstrap_ci95": None if main.bootstrap_ci95 is None else list(main.bootstrap_ci95),
        "level": gate.level,
        "verdict_number": gate.verdict_number,
        "test_sha256": test_sha256,
        "windows": main.windows,
        "origins": main.origins,
        "horizon_blocks": main.horizon_blocks,
        "versus": {c.name: c.to_mapping() for c in comparisons},
        **({} if false_alarms is None else {"false_alarms": dataclasses.asdict(false_alarms)}),
    }


def _first_unbeaten(by_name: Mapping[str, Comparison]) -> str:
    for name in (INCUMBENT, ZERO_SHOT):
        if name in by_name and not by_name[name].beaten:
            return name
    return _hardest_rival(by_name, beaten=False)


def _hardest_rival(by_name: Mapping[str, Comparison], *, beaten: bool) -> str:
    """The rival that the candidate is furthest behind, or ahead of least; of the unbeaten ones, unless `beaten`."""
    rivals = [by_name[name] for name in RIVALS if name in by_name and (beaten or not by_name[name].beaten)]
    return min(rivals, key=lambda c: float("-inf") if c.gain is None else c.gain).name


class _Sentence:
    def __init__(
        self,
        *,
        gate: Gate,
        by_name: Mapping[str, Comparison],
        main: Comparison,
        words: Mapping[str, str],
        false_alarms: FalseAlarms | None,
    ) -> None:
        self._gate, self._by_name, self._main, self._words = gate, by_name, main, words
        self._false_alarms = false_alarms

    def of(self, reason: str, bar: str | None, fallback: str | None) -> str:
        """`bar` is the first that was not beaten; `fallback` answers in its place."""
        if bar is None or fallback is None:
            text = f"Promoted: {self._promoted()}"
        else:
            why = self._insufficient() if reason == INSUFFICIENT else self._unbeaten(bar)
            why = self._alarms() if reason == ALARMS else why
            text = f"Not promoted: {why}; {self._served(fallback)}."
        first = self._by_name.get(INCUMBENT)
        if first is not None and first.for_information:
            blocks = f"{first.horizon_blocks:g} of the {MIN_HORIZON_BLOCKS:g} horizons needed"
            text += f" {self._words[INCUMBENT]} was compared for information only: it has not seen {blocks}."
        if self._gate.verdict_number > 1:
            text += (
                f" This is verdict {self._gate.verdict_number} on the same test rows, so that the interval is one of "
                f"{100 * self._gate.level:.4g} %."
            )
        return text

    def _served(self, fallback: str) -> str:
        """Nothing but a passed gate moves `production`: a beaten incumbent stays while anything else was not beaten."""
        if INCUMBENT in self._by_name and fallback != INCUMBENT:
            return f"{self._words[INCUMBENT]} stays in production"
        return f"{self._words[fallback]} is served"

    def _alarms(self) -> str:
        alarms = self._false_alarms
        assert alarms is not None, "what was counted"
        return (
            f"{100 * alarms.rate:.3g} % of the test points were called anomalies at level {alarms.level:g}, where "
            f"{100 * alarms.nominal:.3g} % are expected of normal history (what is normal has drifted, or test holds "
            "anomalies)"
        )

    def _promoted(self) -> str:
        bars = [self._main] if self._main.name == ZERO_SHOT else [self._main, self._by_name[ZERO_SHOT]]
        beaten = " and ".join(f"{self._against(bar)} ({self._evidence(bar)})" for bar in bars)
        return f"{beaten}, and lower than every plain rival."

    def _insufficient(self) -> str:
        blocks = min(self._main.horizon_blocks, self._by_name[ZERO_SHOT].horizon_blocks)
        text = f"{blocks:g} horizons of test, and {MIN_HORIZON_BLOCKS:g} are needed to tell a gain from chance"
        return f"{text} (so far {self._against(self._main)})" if self._main.gain is not None else text

    def _unbeaten(self, bar: str) -> str:
        found = self._by_name[bar]
        if found.interval is None or bar in RIVALS:
            return self._against(found)
        return f"{self._against(found)} ({self._evidence(found)}, not above {100 * self._gate.min_gain:g} %)"

    def _evidence(self, found: Comparison) -> str:
        assert found.interval is not None, "what is beaten or nearly so has an interval"
        low, high = (round(100 * end, 1) + 0.0 for end in found.interval)  # + 0.0: no "-0.0" is shown
        return f"{100 * self._gate.level:.4g} % interval of the gain {low:.1f} to {high:.1f} %"

    def _against(self, found: Comparison) -> str:
        name, metric = self._words[found.name], WORDS.get(self._gate.metric, self._gate.metric.upper())
        if found.period is not None and found.periods:
            name = f"{name} at period {found.period}"
        if found.gain is None:
            return f"{metric} is above that of {name}, which makes no error at all"
        if found.gain == 0:
            return f"{metric} is the same as that of {name}"
        share = 100 * abs(found.gain)
        much = f"{share:.1f} %" if share >= 0.05 else "less than 0.1 %"
        return f"{much} {'lower' if found.gain > 0 else 'higher'} {metric} than {name}"
