"""How many steps a job spends on which trials: of a plain search, and of `method: auto`. Pure arithmetic, torch-free.

The plan of `auto` is successive halving. Every rung is a complete short schedule from the start (evaluation.md §5):
rung by rung the best third goes on to a schedule three times as long, until the winner gets the whole one. Without a
budget the plan depends on the request and the number of windows alone; with one it is the same plan where that fits,
and a smaller one where it does not.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tsfm import catalog, configs

TRIAL_SHARE = 8
"""A trial of a plain search takes one step for every so many of the run's."""
MIN_TRIAL_STEPS = 20
MIN_RUNG_STEPS = MIN_TRIAL_STEPS
"""A shorter schedule says nothing: such a rung is left out, unless there is no longer one."""
NUM_RUNGS = 3
UNMEASURED_FACTOR = 3.0
"""A method that was not measured is taken to be so much dearer than the dearest that was: a step of `full` takes about
three forward passes, one of `linear_probe` one."""
SEARCH_SHARE = 0.5
"""Part of a budget that binds which the trials are planned to take; the rest is the winner's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One method with everything decided."""

    method: str
    options: dict[str, Any]
    """What `MethodSpec.auto` varies; every other option has its default."""
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What training takes on this machine."""

    step_seconds: float
    """One optimizer step, its share of the evaluations included."""
    start_seconds: float = 0.0
    """What every schedule takes beside its steps: its first and its last evaluation."""

    def of(self, steps: int) -> float:
        return self.start_seconds + steps * self.step_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    candidates: tuple[Candidate, ...]
    """In the order of trying: every method's default first."""
    rungs: tuple[tuple[int, int], ...]
    """(candidates, steps of each) of every rung, shortest schedule first; empty where there is nothing to compare."""
    total_steps: int
    """Most steps of the winner's own run."""
    left_out: tuple[Candidate, ...] = field(default=())
    """What the budget has no room for."""

    @property
    def search_steps(self) -> int:
        return sum(number * steps for number, steps in self.rungs)


def schedules(resolved: Mapping[str, Any], total_steps: int) -> tuple[int, ...]:
    """Most steps of every schedule of a resolved job whose own run has `total_steps`: its trials, then the run."""
    if resolved["method"] == catalog.AUTO:
        reduction = int(resolved["method_config"]["reduction"])
        made = plan(candidates(resolved), total_steps=total_steps, reduction=reduction)
        return (*(steps for number, steps in made.rungs for _ in range(number)), made.total_steps)
    short = min(total_steps, max(MIN_TRIAL_STEPS, total_steps // TRIAL_SHARE))
    return (short,) * _num_trials(resolved) + (total_steps,)


def _num_trials(resolved: Mapping[str, Any]) -> int:
    """α first, then the learning rate at the chosen α, which has been tried at the default rate already."""
    rates = resolved["hyperparameters"]["learning_rate"]
    num_rates = len(rates) if isinstance(rates, list | tuple) and len(rates) > 1 else 0
    num_alphas = len(configs.ALPHA_SEARCH) if resolved["method_config"].get("alpha") == "search" else 0
    return num_alphas + num_rates - (1 if num_alphas and num_rates else 0)


def candidates(resolved: Mapping[str, Any]) -> tuple[Candidate, ...]:
    """Everything a resolved request of `auto` may try on its backbone: methods in the catalogue's order (cheap ones
    first), each one's default before any other setting."""
    spec = catalog.backbone(resolved["backbone"])
    asked = resolved["method_config"]["methods"]
    ordered: list[tuple[int, Candidate]] = []
    for method in eligible(spec):
        if asked and method.name not in asked:
            continue
        assert method.auto is not None
        values = [[(name, value) for value in tried] for name, tried in method.auto.items()]
        settings = itertools.product(itertools.product(*values), _rates(resolved, method, spec))
        ordered += [
            (place, Candidate(method=method.name, options=dict(options), learning_rate=rate))
            for place, (options, rate) in enumerate(settings)
        ]
    return tuple(candidate for _, candidate in sorted(ordered, key=lambda pair: pair[0]))


def eligible(spec: catalog.BackboneSpec) -> list[catalog.MethodSpec]:
    """The methods `auto` may choose from on this backbone, in the catalogue's order."""
    return [method for method in catalog.METHODS.values() if method.auto is not None and method.name in spec.methods]


def _rates(resolved: Mapping[str, Any], method: catalog.MethodSpec, spec: catalog.BackboneSpec) -> list[float]:
    """The method's default before its multiples; the caller's own rates, for every method, where there are any."""
    asked = resolved["hyperparameters"]["learning_rate"]
    if asked != "auto":
        return [float(rate) for rate in asked] if isinstance(asked, list | tuple) else [float(asked)]
    default = catalog.learning_rate(method, spec)
    factors = sorted(configs.LEARNING_RATE_SEARCH, key=lambda factor: (factor != 1.0, factor))
    return [float(f"{default * factor:.3g}") for factor in factors]


def plan(tried: Sequence[Candidate], *, total_steps: int, reduction: int) -> Plan:
    """The plan without a budget: about four times the steps of one run."""
    lengths = [total_steps // reduction**k for k in range(NUM_RUNGS, 0, -1)]
    long_enough = [steps for steps in lengths if steps >= MIN_RUNG_STEPS]
    rungs, number = [], len(tried)
    for steps in long_enough or [min(MIN_RUNG_STEPS, total_steps)]:
        if number < 2:
            break
        rungs.append((number, steps))
        number = math.ceil(number / reduction)
    return Plan(candidates=tuple(tried), rungs=tuple(rungs), total_steps=total_steps)


def plan_within(
    tried: Sequence[Candidate],
    costs: Mapping[str, Cost],
    *,
    seconds: float,
    total_steps: int,
    reduction: int,
) -> Plan:
    """The plan for a budget: the whole one where it fits, else shorter schedules, then fewer candidates.

    `costs` are by method, of at least one; for a method without one see `UNMEASURED_FACTOR`.
    """
    costs = _completed(costs, tried)
    whole = plan(tried, total_steps=total_steps, reduction=reduction)
    if _search_seconds(whole, costs) + _dearest(tried, costs).of(total_steps) <= seconds:
        return whole
    number = len(tried)
    while True:
        kept = tried[:number]
        share = (1.0 - SEARCH_SHARE) * seconds if number > 1 else seconds
        dearest = _dearest(kept, costs)
        affordable = int((share - dearest.start_seconds) / dearest.step_seconds)
        made = plan(kept, total_steps=min(total_steps, max(affordable, MIN_RUNG_STEPS)), reduction=reduction)
        if number == 1 or _search_seconds(made, costs) <= SEARCH_SHARE * seconds:
            return dataclasses.replace(made, left_out=tuple(tried[number:]))
        number -= 1


def _completed(costs: Mapping[str, Cost], tried: Sequence[Candidate]) -> dict[str, Cost]:
    most = max(costs.values(), key=lambda cost: cost.step_seconds)
    unknown = dataclasses.replace(most, step_seconds=UNMEASURED_FACTOR * most.step_seconds)
    return {candidate.method: costs.get(candidate.method, unknown) for candidate in tried}


def _search_seconds(made: Plan, costs: Mapping[str, Cost]) -> float:
    """Seconds of all trials, if on every rung the dearest go on."""
    total, standing = 0.0, sorted((costs[c.method] for c in made.candidates), key=lambda cost: -cost.step_seconds)
    for number, steps in made.rungs:
        total += sum(cost.of(steps) for cost in standing[:number])
    return total


def _dearest(tried: Sequence[Candidate], costs: Mapping[str, Cost]) -> Cost:
    return max((costs[candidate.method] for candidate in tried), key=lambda cost: cost.step_seconds)
