"""Who competes in a job, what validation chooses, and what the test block says about it.

    contest = judge.contest(…)          sources: tuned, zero-shot, the rivals at every period
    choice = judge.choose(contest, …)   validation: routes, and whether the tuned or the routed forecaster is judged
    judged = judge.judge(choice, …)     test: candidates, gate, verdict; nothing reads that block before

Between the last two, sources are calibrated. docs/gate.md tells users how a verdict is made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsfm import catalog, gate_verdict
from tsfm.backbones.weights import Base
from tsfm.calibration import Calibration, source_name
from tsfm.evaluate import ROUTED, TUNED, ZERO_SHOT, Asked, measure, measure_routed, rival
from tsfm.gate import INCUMBENT, Gate, Reference, hardest, horizon_origins, origin_clock, rows_sha256
from tsfm.incumbent import Incumbent, first_unseen
from tsfm.metrics import PINBALL, Scales, WindowErrors
from tsfm.mixture import guess_of
from tsfm.routes import Routes, combine, decide
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, Split
from tsfm.series.windows import Windows
from tsfm.setting import Setting
from tsfm.tasks.forecast import Forecaster, Source
from tsfm.tasks.routed import open_routed
from tsfm.tasks.sources import source_of

NO_TEST = "There are no test windows, so nothing was judged"


UNJUDGED: dict[str, Any] = {"candidates": [], "verdict": None, "gate": None, "routes": None, "rivals": {}}
"""`facts` of what nobody judged: a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """What candidates are measured on, and how."""

    setting: Setting
    frame: SeriesFrame
    split: Split
    validation: Windows
    test: Windows | None
    scales: Scales
    metric: str
    min_gain: float
    periods: tuple[int, ...]
    """Of the seasonal rival: every one listed for the frequency."""

    @property
    def test_metric(self) -> str:
        """What the gate judges by; anomaly detection knows no labels, and is judged by its distributions."""
        return PINBALL if self.setting.task == "anomaly_detection" else self.metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """The sources by name; the seasonal rival once for every period."""

    blocks: Blocks
    networks: Mapping[str, Asked]
    """tuned, zero_shot"""
    seasonal: Mapping[int, Asked]
    """`seasonal_naive`, or `seasonal_fill`, by period."""
    plain: Mapping[str, Asked]
    """The rivals without a period."""
    unserved: frozenset[str] = frozenset()
    """Sources that are measured and may answer for nothing: random weights as they are."""

    @property
    def seasonal_name(self) -> str:
        return self.blocks.setting.seasonal_rival

    @property
    def sources(self) -> dict[str, Asked]:
        """Everything that may answer for a series, by the name its calibration is kept under; tuned first."""
        seasonal = {source_name(self.seasonal_name, period): asked for period, asked in self.seasonal.items()}
        return {**self.networks, **self.plain, **seasonal}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What validation decided; nothing here knows of later blocks."""

    contest: Contest
    validation: Mapping[str, WindowErrors]
    """Errors of every source, seasonal naive at the chosen period, and of `routed` where it is a candidate."""
    period: int
    """The listed period at which the seasonal rival is best."""
    routes: Routes | None
    """None where no series leaves the pooled winner, and of other tasks than forecasting: there is nothing to route."""
    winner: str
    """ "tuned" or "routed": the candidate that the gate judges, and that is served if it passes."""

    @property
    def served_routes(self) -> Routes | None:
        """The routes that belong to the version: those of the candidate that is judged."""
        return self.routes if self.winner == ROUTED else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a job says of its candidates; plain JSON."""

    candidates: list[dict[str, Any]]
    verdict: dict[str, Any]
    gate: dict[str, Any] | None
    """None where the test block was given up."""


def contest(blocks: Blocks, networks: Mapping[str, Source], base: Base) -> Contest:
    """The tuned source against zero-shot, each as its task's route asks it, and the rivals."""
    setting, context = blocks.setting, blocks.validation.context_length
    seasonal = setting.seasonal_rival
    shown = base.spec.context_length if setting.task == "forecast" else context
    return Contest(
        blocks=blocks,
        networks={
            TUNED: Asked(source=networks[TUNED], context_length=context),
            ZERO_SHOT: Asked(source=networks[ZERO_SHOT], context_length=shown),
        },
        seasonal={p: rival(seasonal, context_length=context, period=p) for p in blocks.periods},
        plain={name: rival(name, context_length=context) for name in setting.rivals if name != seasonal},
        unserved=frozenset() if base.is_pretrained else frozenset({ZERO_SHOT}),
    )


def choose(contest: Contest, *, should_stop: Callable[[], str | None]) -> Choice:
    """Measures every source on validation, sends each series to one, and picks what is judged.

    The routed forecaster is judged where it is strictly better than the tuned one on validation, else the tuned one.
    """
    blocks = contest.blocks
    windows, metric = blocks.validation, blocks.metric

    def ask(asked: Asked) -> WindowErrors:
        return measure(asked, windows, blocks.scales, should_stop=should_stop)

    seasonal = {p: ask(asked) for p, asked in contest.seasonal.items()}
    period = min(seasonal, key=lambda p: _error(seasonal[p], metric))
    found = {name: ask(asked) for name, asked in {**contest.networks, **contest.plain}.items()}
    found[contest.seasonal_name] = seasonal[period]
    if blocks.setting.task != "forecast":
        return Choice(contest=contest, validation=found, period=period, routes=None, winner=TUNED)
    clock = origin_clock(windows, blocks.split, Block.VALIDATION)
    routes = decide(
        {name: errors for name, errors in found.items() if name not in contest.unserved},
        metric=metric,
        horizon_origins=horizon_origins(clock, windows.prediction_length),
        item_ids=blocks.frame.item_ids,
        period=period,
    )
    if not routes.items:
        return Choice(contest=contest, validation=found, period=period, routes=None, winner=TUNED)
    found[ROUTED] = combine(found, routes, blocks.frame.item_ids)
    better = _error(found[ROUTED], metric) < _error(found[TUNED], metric)
    winner = ROUTED if better else TUNED
    return Choice(contest=contest, validation=found, period=period, routes=routes, winner=winner)


def _error(errors: WindowErrors, metric: str) -> float:
    by_series = errors.by_series(metric)
    known = by_series[~np.isnan(by_series)]
    return float(known.mean()) if len(known) else float("inf")


def judge(
    choice: Choice,
    *,
    calibrations: Mapping[str, Calibration],
    incumbent: Incumbent | None,
    prior_verdicts: Mapping[str, int],
    weights_dir: Path | None,
    device: torch.device,
    should_stop: Callable[[], str | None],
    progress: Callable[[float], None],
    false_alarms: gate_verdict.FalseAlarms | None = None,
) -> Judged:
    """Reads the test block. `prior_verdicts` counts earlier verdicts by the digest of the rows they read.

    `calibrations` by source are what pinball losses are measured with; `false_alarms` are those of the tuned weights.
    """
    contest = choice.contest
    blocks, windows = contest.blocks, contest.blocks.test
    if windows is None:
        candidates = _candidates(choice, {}, {})
        return Judged(candidates=candidates, verdict=_unjudged(candidates, blocks.metric), gate=None)
    known = calibrations if blocks.test_metric == PINBALL else {}
    tested: dict[str, WindowErrors] = {}
    for i, (name, asked) in enumerate(contest.sources.items()):
        tested[name] = measure(asked, windows, blocks.scales, calibration=known.get(name), should_stop=should_stop)
        progress((i + 1) / len(contest.sources))
    seasonal = {period: tested.pop(source_name(contest.seasonal_name, period)) for period in contest.seasonal}
    tested[contest.seasonal_name] = seasonal[choice.period]
    if choice.routes is not None:
        tested[ROUTED] = combine(tested, choice.routes, blocks.frame.item_ids)
    references = [Reference(name=ZERO_SHOT, errors=tested[ZERO_SHOT])]
    extra: dict[str, dict[str, Any]] = {}
    if incumbent is not None:
        reference = _incumbent(incumbent, blocks, windows, weights_dir, device, should_stop)
        references.append(reference)
        tested[INCUMBENT] = reference.errors if reference.allowed is None else reference.errors.where(reference.allowed)
        extra[INCUMBENT] = {"model": incumbent.name, "version": incumbent.version, "digest": incumbent.digest}
    references += [Reference(name=name, errors=tested[name]) for name in contest.plain]
    references += [Reference(name=contest.seasonal_name, errors=e, period=p) for p, e in seasonal.items()]
    candidates = _candidates(choice, tested, extra)
    gate = _gate(choice, windows, tested[choice.winner], references, prior_verdicts, incumbent, false_alarms)
    return Judged(candidates=candidates, verdict=_verdict(candidates, gate), gate=gate)


def facts(choice: Choice, judged: Judged) -> dict[str, Any]:
    """The manifest's part: what was found, the routes that serving applies, and how the rivals were set up."""
    routes, gate = choice.served_routes, judged.gate or {}
    seasonal = choice.contest.seasonal_name
    period = choice.period if gate.get("fallback") != seasonal else gate["fallback_period"]
    return {
        "candidates": judged.candidates,
        "verdict": judged.verdict,
        "gate": judged.gate,
        "routes": None if routes is None else routes.to_mapping(),
        "rivals": {seasonal: {"period": period}},
    }


def _incumbent(
    incumbent: Incumbent,
    blocks: Blocks,
    windows: Windows,
    weights_dir: Path | None,
    device: torch.device,
    should_stop: Callable[[], str | None],
) -> Reference:
    """The incumbent as it serves, its own routes included, and the test windows whose targets it has not seen."""
    opened = open_routed(incumbent.folder, digest=incumbent.digest, weights_dir=weights_dir, device=device)
    if blocks.setting.task == "forecast":
        sources = {
            name: Asked(source=source, context_length=context)
            for name, (source, context) in opened.sources_for(blocks.frame).items()
        }
        errors = measure_routed(sources, opened.routes, windows, blocks.scales, should_stop=should_stop)
    else:
        errors = _as_it_serves(opened.forecasters[TUNED], blocks, windows, should_stop)
    facts = opened.manifest.get("judged_until")
    if facts is None:  # made before versions said what they have seen: nothing is known to be unseen
        return Reference(name=INCUMBENT, errors=errors, allowed=np.zeros(len(windows), dtype=np.bool_))
    allowed = windows.origin >= first_unseen(facts, blocks.frame)[windows.series]
    return Reference(name=INCUMBENT, errors=errors, allowed=allowed)


def _as_it_serves(
    forecaster: Forecaster, blocks: Blocks, windows: Windows, should_stop: Callable[[], str | None]
) -> WindowErrors:
    """An incumbent of another task, asked in its own setting over the same targets."""
    assert forecaster.manifest is not None, "artifacts have one"
    setting = Setting.of(forecaster.manifest)
    source = source_of(forecaster, catalog.backbone(forecaster.name), setting)
    around = setting.around(guess_of(forecaster.manifest, blocks.scales.season))
    limits = blocks.split.block(Block.TEST)[1]
    windows = replace(windows, around=None if around is None else around(limits))
    asked = Asked(source=source, context_length=setting.context_length)
    calibration = forecaster.calibration if blocks.test_metric == PINBALL else None
    return measure(asked, windows, blocks.scales, calibration=calibration, should_stop=should_stop)


def _gate(
    choice: Choice,
    windows: Windows,
    candidate: WindowErrors,
    references: Sequence[Reference],
    prior_verdicts: Mapping[str, int],
    incumbent: Incumbent | None,
    false_alarms: gate_verdict.FalseAlarms | None,
) -> dict[str, Any]:
    blocks, seasonal = choice.contest.blocks, choice.contest.seasonal_name
    digest = rows_sha256(blocks.frame, blocks.split)
    gate = Gate(
        metric=blocks.test_metric,
        prediction_length=windows.prediction_length,
        clock=origin_clock(windows, blocks.split, Block.TEST),
        min_gain=blocks.min_gain,
        verdict_number=prior_verdicts.get(digest, 0) + 1,
    )
    compared = [gate.compare(candidate, reference) for reference in references]
    single = [c for c in compared if c.name != seasonal]
    comparisons = [*single, hardest([c for c in compared if c.name == seasonal])]
    names = {} if incumbent is None else {INCUMBENT: f"{incumbent.name}@{incumbent.version}"}
    answer = gate_verdict.answer(
        gate,
        comparisons,
        winner=choice.winner,
        test_sha256=digest,
        names=names,
        unserved=choice.contest.unserved,
        false_alarms=false_alarms,
    )
    return {**answer, "routes": _routes(choice)}


def _routes(choice: Choice) -> dict[str, Any] | None:
    if choice.routes is None:
        return None
    return {
        "default": choice.routes.default,
        "sources": choice.routes.counts(choice.contest.blocks.frame.item_ids),
        "served": choice.winner == ROUTED,
    }


def _candidates(
    choice: Choice, tested: Mapping[str, WindowErrors], extra: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Every candidate's metrics: networks, the routed one, the incumbent, then the rivals.

    The incumbent has no validation error (it may have been trained there), and on test one over unseen windows only.
    """
    seasonal = choice.contest.seasonal_name
    order = (TUNED, ZERO_SHOT, ROUTED, INCUMBENT, *choice.contest.blocks.setting.rivals)
    found = []
    for name in order:
        if name not in choice.validation and name not in tested:
            continue
        candidate: dict[str, Any] = {"name": name}
        for block, errors in (("validation", choice.validation), ("test", tested)):
            candidate[block] = errors[name].result() if name in errors else None
        if name == seasonal:
            candidate["period"] = choice.period
        found.append({**candidate, **extra.get(name, {})})
    return found


def _verdict(candidates: Sequence[Mapping[str, Any]], gate: Mapping[str, Any]) -> dict[str, Any]:
    """The short form: `winner` has the lowest test error, `reason` is the gate's sentence with all errors."""
    metric = gate["metric"]
    num_windows = next(c["test"]["num_windows"] for c in candidates if c["name"] == TUNED)
    errors = _listed(candidates, "test", metric, num_windows)
    reason = gate["sentence"]
    if errors:
        reason += f" {metric} on {num_windows} test windows: {_text(errors)}."
    return {
        "metric": metric,
        "winner": _lowest(errors) if errors else None,
        "promoted": gate["passed"],
        "fallback": gate["fallback"],
        "reason": reason,
        "test_windows": num_windows,
    }


def _unjudged(candidates: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    errors = _listed(candidates, "validation", metric, None)
    return {
        "metric": metric,
        "winner": _lowest(errors) if errors else None,
        "promoted": False,
        "fallback": None,
        "reason": f"{NO_TEST}; {metric} on validation: {_text(errors)}.",
        "test_windows": 0,
    }


def _listed(
    candidates: Sequence[Mapping[str, Any]], block: str, metric: str, num_windows: int | None
) -> dict[str, float]:
    """Error by name, of those that were scored on all windows."""
    scored = {c["name"]: c[block] for c in candidates if c[block] and c[block].get(metric) is not None}
    return {n: float(s[metric]) for n, s in scored.items() if num_windows in (None, s["num_windows"])}


def _lowest(errors: Mapping[str, float]) -> str:
    """A tie is not a win for what was trained."""
    return min(errors, key=lambda name: (errors[name], name in (TUNED, ROUTED)))


def _text(errors: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in errors.items())
