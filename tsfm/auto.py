"""`method: auto`: successive halving over methods and their few settings, then the winner's own run.

The plan is `tsfm.halving`'s. With a budget it is made from measured steps and kept in the state, so that a run which is
killed goes on by the same plan and repeats no trial that had ended. A trial that cannot be trained
(`tsfm.search.DROPPED`) is left out with a message. Step 0 is no candidate (evaluation.md §5): where zero-shot is better
on validation than everything tried, the best candidate is trained all the same, and the verdict says no.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

from tsfm import catalog, evaluate, halving
from tsfm.errors import DataError
from tsfm.halving import MIN_TRIAL_STEPS, Candidate, Cost, Plan
from tsfm.provenance import identity_of
from tsfm.request import method_config, train_config
from tsfm.search import DROPPED, Outcome, Search, Trial, dropped_for
from tsfm.series import freq as frequencies
from tsfm.setting import Setting
from tsfm.state import read_scalars, save_state
from tsfm.tasks.sources import network_source
from tsfm.timing import step_seconds
from tsfm.train import steps_per_epoch

MEASURING_SHARE = 0.1
"""Part of the budget after which no further method is measured."""
SEARCH_LIMIT = 0.7
"""Part of the budget at which the search ends, whatever the plan had expected."""
FINAL_MARGIN = 0.9
"""The winner's schedule is planned to fill so much of the time that is left, and so to end by itself."""


class AutoSearch(Search):
    """The same stages as any search, over methods too."""

    def run(self) -> Outcome:
        tried = halving.candidates(self.resolved)
        config = train_config(self.resolved, learning_rate=tried[0].learning_rate)
        total = steps_per_epoch(len(self.train), config) * config.max_epochs
        plan = self._plan(tried, total)
        self.reporter.plan(plan.search_steps + total)
        ranking = self._halve(plan)
        self.planned_steps = max(self.planned_steps, plan.search_steps)
        self._say_choice(ranking[0])
        return self._train_best(ranking, total)

    # --- planning

    def _plan(self, tried: tuple[Candidate, ...], total: int) -> Plan:
        """The kept plan of an earlier attempt of this job, else a new one. Adds the references' rows to `trials`."""
        path = self.state_dir / "plan.safetensors"
        identity = identity_of({**self.identity, "request": self.resolved, "total": total})
        scalars = read_scalars(path)
        if scalars is None or scalars["identity"] != identity:
            scalars = {"identity": identity, **self._new_plan(tried, total)}
            save_state(path, {}, scalars)
        self.spent_seconds += scalars["seconds"]
        self.trials += scalars["references"]
        plan = _plan_from(scalars["plan"])
        if plan.left_out:
            self.reporter.message(
                f"The budget has room for {len(plan.candidates)} of {len(tried)} candidates. If time is left, these "
                f"follow: {'; '.join(str(self._trial_of(candidate)) for candidate in plan.left_out)}."
            )
        return plan

    def _new_plan(self, tried: tuple[Candidate, ...], total: int) -> dict[str, Any]:
        began = time.monotonic()
        references = self._references()
        reduction = int(self.resolved["method_config"]["reduction"])
        plan = halving.plan(tried, total_steps=total, reduction=reduction)
        if self.resolved["budget_seconds"] is not None:
            budget = float(self.resolved["budget_seconds"])
            evaluation = next(row["seconds"] for row in references if row["method"] == "zero_shot")
            until = began + MEASURING_SHARE * budget
            costs, trainable = self._costs(tried, total, evaluation_seconds=evaluation, until=until)
            left = max(budget - (time.monotonic() - began), 0.0)
            if costs:
                plan = halving.plan_within(trainable, costs, seconds=left, total_steps=total, reduction=reduction)
            else:  # whether anything can be trained at all shows in the run itself
                plan = Plan(candidates=tried[:1], rungs=(), total_steps=total, left_out=tried[1:])
        return {
            "plan": dataclasses.asdict(plan),
            "references": references,
            "seconds": time.monotonic() - began,
        }

    def _costs(
        self, tried: tuple[Candidate, ...], total: int, *, evaluation_seconds: float, until: float
    ) -> tuple[dict[str, Cost], list[Candidate]]:
        """By method, from a few real steps of its first setting, while there is time; and the candidates without those
        of methods that cannot be trained."""
        interval = max(1, steps_per_epoch(len(self.train), self._config(tried[0])) // self._evaluations_per_epoch)
        costs: dict[str, Cost] = {}
        failed: set[str] = set()
        firsts = {candidate.method: candidate for candidate in reversed(tried)}
        for candidate in sorted(firsts.values(), key=tried.index):
            if costs and time.monotonic() > until:
                break
            try:
                seconds = step_seconds(self, self._trial_of(candidate), total_steps=total)
            except (RuntimeError, DataError) as error:
                self.say_dropped(self._trial_of(candidate), dropped_for(error), str(error))
                failed.add(candidate.method)
                continue
            costs[candidate.method] = Cost(
                step_seconds=seconds + evaluation_seconds / interval, start_seconds=2 * evaluation_seconds
            )
        return costs, [candidate for candidate in tried if candidate.method not in failed]

    @property
    def _evaluations_per_epoch(self) -> int:
        return int(self.resolved["hyperparameters"]["evaluations_per_epoch"])

    def _references(self) -> list[dict[str, Any]]:
        """Zero-shot (as the task's route asks it) and the seasonal rival on validation."""
        spec, setting = catalog.backbone(self.resolved["backbone"]), Setting.of(self.resolved)
        began = time.monotonic()
        whole = network_source(self.fresh().to(self.device), spec, setting, tuned=False)
        context = spec.context_length if setting.task == "forecast" else setting.context_length
        shown = dataclasses.replace(self.validation, context_length=context)
        zero_shot = evaluate.score(whole, shown, self.scales, should_stop=self.should_stop)
        seconds = time.monotonic() - began
        began = time.monotonic()
        periods = frequencies.parse(self.resolved["freq"]).periods
        rival = setting.seasonal_rival
        naive = [evaluate.score_rival(rival, self.validation, self.scales, period=p) for p in periods]
        errors = [error for scores in naive if (error := scores.get(self.metric)) is not None]
        found = (zero_shot.get(self.metric), seconds), (min(errors, default=None), time.monotonic() - began)
        return [
            _row(name, validation=error, seconds=taken)
            for name, (error, taken) in zip(("zero_shot", rival), found, strict=True)
        ]

    # --- trying

    def _halve(self, plan: Plan) -> list[Trial]:
        """All candidates, the best first: by their error on the last rung they completed, dropped ones at the end."""
        ranking = [self._trial_of(candidate) for candidate in plan.candidates]
        dropped: list[Trial] = []
        for rung, (number, steps) in enumerate(plan.rungs):
            standing = [dataclasses.replace(trial, rung=rung) for trial in ranking[:number]]
            errors: dict[int, float] = {}
            more = self._more(plan) if rung == 0 else iter(())
            for place, trial in enumerate(itertools.chain(tuple(standing), more)):
                if place == len(standing):
                    standing.append(trial)
                at = self._trial(trial, steps, self._search_left())
                if at.stopped == "completed" and at.best_error is not None:
                    errors[place] = at.best_error
                elif at.stopped == "budget":
                    break
                elif at.stopped in DROPPED:
                    dropped.append(trial)
            broken = len(errors) + sum(trial.rung == rung for trial in dropped) < len(standing)
            if broken:
                self.reporter.message(f"The search ended before all candidates of rung {rung + 1} could be compared.")
            if not broken or rung == 0:  # what was compared on shorter schedules stands, unless there is nothing else
                order = sorted(errors, key=lambda place: (errors[place], place))
                kept = [standing[place] for place in order]
                ranking = [*kept, *(t for t in ranking if not _among(t, kept) and not _among(t, dropped))]
            else:
                ranking = [t for t in ranking if not _among(t, dropped)]
            if broken or len(ranking) < 2:
                break
        return ranking or dropped[:1]

    def _more(self, plan: Plan) -> Iterator[Trial]:
        """Candidates that the plan left out, while the first rung turns out to be cheaper than it was feared."""
        budget, (_, steps), *later = self.resolved["budget_seconds"], *plan.rungs
        for candidate in plan.left_out:
            tried = [row for row in self.trials if row["rung"] == 0 and row["steps"] == steps]
            pace = max((row["seconds"] / row["steps"] for row in tried), default=math.inf)
            coming = steps + sum(number * length for number, length in later)
            if self.spent_seconds + pace * coming > halving.SEARCH_SHARE * float(budget):
                return
            self.reporter.plan(self.reporter.now.total_steps + steps)
            yield self._trial_of(candidate)

    def _search_left(self) -> float | None:
        if self.resolved["budget_seconds"] is None:
            return None
        return max(SEARCH_LIMIT * float(self.resolved["budget_seconds"]) - self.spent_seconds, 0.0)

    def _say_choice(self, trial: Trial) -> None:
        known = {row["method"]: row["validation"] for row in self.trials if row["rung"] is None}
        found = [row for row in self.trials if row["rung"] is not None and row["validation"] is not None]
        words = ", ".join(f"{name} {error:.4g}" for name, error in known.items() if error is not None)
        if not found:
            self.reporter.message(f"Nothing was compared: {trial} is trained. On validation: {words}.")
            return
        best = min(row["validation"] for row in found)
        text = f"Chosen of {len(found)} trials: {trial}. {self.metric} on validation: best trial {best:.4g}, {words}."
        zero_shot = known["zero_shot"]
        if zero_shot is not None and zero_shot <= best:
            text += " Zero-shot is not beaten so far; the best candidate is trained all the same."
        self.reporter.message(text)

    # --- the winner

    def _train_best(self, ranking: list[Trial], total: int) -> Outcome:
        """The whole run of the best; where it cannot be trained after all, of the next best."""
        for place, trial in enumerate(ranking):
            steps, left = self._final_steps(trial, total)
            config = self._config(trial)
            stage = self.stage("run" if place == 0 else f"run-{place}", trial, config, steps, left)
            ended = self.finished(stage)
            if ended is not None and ended.stopped in DROPPED:
                self.spent_seconds += ended.elapsed_seconds
                continue
            self.reporter.plan(self.planned_steps + steps)
            self.reporter.stage(self.planned_steps, f"Training {trial} for at most {steps} steps.")
            began = time.monotonic()
            try:
                return self.outcome(*self.run_stage(stage, trial, self.on_kept), trial, steps)
            except (RuntimeError, DataError) as error:
                code = dropped_for(error)
                if place == len(ranking) - 1:
                    raise
                self.say_dropped(trial, code, str(error))
                at = self.dropped(stage, code, seconds=time.monotonic() - began)
                self.remember(stage, at)
                self.spent_seconds += at.elapsed_seconds
        raise AssertionError("the last of the ranking is trained, or raises")

    def _final_steps(self, trial: Trial, total: int) -> tuple[int, float | None]:
        """(most steps, seconds left): a schedule that ends within what is left, by the pace of the winner's trials."""
        if self.resolved["budget_seconds"] is None:
            return total, None
        left = max(float(self.resolved["budget_seconds"]) - self.spent_seconds, 0.0)
        pace = next((row["seconds"] / row["steps"] for row in reversed(self.trials) if _is_of(row, trial)), None)
        if not pace:
            return total, left
        return min(total, max(int(FINAL_MARGIN * left / pace), MIN_TRIAL_STEPS)), left

    def _trial_of(self, candidate: Candidate) -> Trial:
        config = method_config(candidate.method, candidate.options)
        return Trial(
            method=candidate.method,
            method_config=dataclasses.asdict(config),
            learning_rate=candidate.learning_rate,
            tried=candidate.options,
        )

    def _config(self, trial: Trial | Candidate) -> Any:
        return train_config(self.resolved, learning_rate=trial.learning_rate)


def _among(trial: Trial, others: list[Trial]) -> bool:
    return any(_same(trial, other) for other in others)


def _same(one: Trial, other: Trial) -> bool:
    return dataclasses.replace(one, rung=other.rung) == other


def _is_of(row: dict[str, Any], trial: Trial) -> bool:
    return row["steps"] > 0 and (row["method"], row["learning_rate"], row["options"]) == (
        trial.method,
        trial.learning_rate,
        trial.tried,
    )


def _row(name: str, *, validation: float | None, seconds: float) -> dict[str, Any]:
    """A reference beside the trials: nothing is trained for it."""
    return {
        "method": name,
        "options": {},
        "learning_rate": None,
        "rung": None,
        "steps": 0,
        "validation": validation,
        "stopped": None,
        "seconds": round(seconds, 3),
    }


def _plan_from(stored: dict[str, Any]) -> Plan:
    def read(listed: list[dict[str, Any]]) -> Iterator[Candidate]:
        return (Candidate(**values) for values in listed)

    return Plan(
        candidates=tuple(read(stored["candidates"])),
        rungs=tuple((number, steps) for number, steps in stored["rungs"]),
        total_steps=stored["total_steps"],
        left_out=tuple(read(stored["left_out"])),
    )
