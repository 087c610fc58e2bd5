"""The plan of `method: auto`: what is tried, on which rungs, within which budget."""

import pytest

from tsfm import catalog, halving
from tsfm.halving import MIN_RUNG_STEPS, SEARCH_SHARE, Candidate, Cost
from tsfm.request import FinetuneRequest, resolve

READING = {"freq": "h", "max_length": 5000}


def resolved(**asked: object) -> dict[str, object]:
    base = {"backbone": "temper-tiny", "method": "auto", "prediction_length": 24}
    return resolve(FinetuneRequest.from_mapping({**base, **asked}), READING)


def many(number: int, method: str = "full") -> list[Candidate]:
    return [Candidate(method=method, options={}, learning_rate=1e-3 * (i + 1)) for i in range(number)]


class TestCandidates:
    def test_the_catalogue_says_what_is_tried(self) -> None:
        tried = halving.candidates(resolved())
        spec = catalog.backbone("temper-tiny")
        wanted = {m.name for m in catalog.METHODS.values() if m.auto is not None and m.name in spec.methods}
        assert {candidate.method for candidate in tried} == wanted
        assert "zero_shot" not in wanted
        alphas = {c.options["alpha"] for c in tried if c.method == "sff"}
        assert alphas == set(catalog.method("sff").auto["alpha"])
        assert len({(c.method, c.learning_rate, *c.options.values()) for c in tried}) == len(tried)

    def test_every_default_comes_before_any_other_setting(self) -> None:
        tried = halving.candidates(resolved())
        first = tried[: len({candidate.method for candidate in tried})]
        assert len({candidate.method for candidate in first}) == len(first)
        for candidate in first:
            method = catalog.method(candidate.method)
            assert candidate.learning_rate == catalog.learning_rate(method, catalog.backbone("temper-tiny"))
            assert all(value == getattr(method.config(), name) for name, value in candidate.options.items())

    def test_the_caller_may_name_methods_and_rates(self) -> None:
        asked = resolved(
            method={"type": "auto", "methods": ["full", "sff"]}, hyperparameters={"learning_rate": [1e-4, 1e-3]}
        )
        tried = halving.candidates(asked)
        assert {(c.method, c.learning_rate) for c in tried} == {(m, r) for m in ("full", "sff") for r in (1e-4, 1e-3)}


class TestPlan:
    def test_rungs_grow_threefold_and_a_third_goes_on(self) -> None:
        plan = halving.plan(many(18), total_steps=1080, reduction=3)
        assert plan.rungs == ((18, 40), (6, 120), (2, 360))
        assert plan.total_steps == 1080
        assert plan.search_steps == 18 * 40 + 6 * 120 + 2 * 360

    def test_short_runs_have_fewer_rungs(self) -> None:
        assert halving.plan(many(9), total_steps=200, reduction=3).rungs == ((9, 22), (3, 66))
        assert halving.plan(many(9), total_steps=50, reduction=3).rungs == ((9, MIN_RUNG_STEPS),)
        assert halving.plan(many(9), total_steps=5, reduction=3).rungs == ((9, 5),)

    def test_one_candidate_needs_no_search(self) -> None:
        assert halving.plan(many(1), total_steps=1000, reduction=3).rungs == ()

    def test_schedules_of_every_kind_of_job(self) -> None:
        one_rate = {"learning_rate": 1e-3}
        assert halving.schedules(resolved(method="full", hyperparameters=one_rate), 800) == (800,)
        assert halving.schedules(resolved(method="full"), 800) == (100, 100, 100, 800)
        assert len(halving.schedules(resolved(method={"type": "sff", "alpha": "search"}), 800)) == 5 + 2 + 1
        auto = halving.schedules(resolved(), 800)
        assert auto[-1] == 800
        assert list(auto) == sorted(auto)
        assert len(auto) > len(halving.candidates(resolved()))


class TestBudget:
    COSTS = {"full": Cost(step_seconds=1.0, start_seconds=2.0), "linear_probe": Cost(step_seconds=0.2)}

    def within(self, seconds: float, number: int = 9) -> halving.Plan:
        pairs = zip(many(number, "linear_probe"), many(number), strict=True)
        tried = [candidate for pair in pairs for candidate in pair]
        return halving.plan_within(tried, self.COSTS, seconds=seconds, total_steps=540, reduction=3)

    def test_a_budget_that_does_not_bind_changes_nothing(self) -> None:
        plan = self.within(1e6)
        assert plan == halving.plan(plan.candidates, total_steps=540, reduction=3)
        assert len(plan.candidates) == 18

    @pytest.mark.parametrize("seconds", [50, 200, 600, 1500, 2500])
    def test_the_worst_case_fits(self, seconds: float) -> None:
        plan = self.within(seconds)
        costs = [self.COSTS[c.method] for c in plan.candidates]
        dearest = max(costs, key=lambda cost: cost.step_seconds)
        search = sum(sum(sorted(c.of(steps) for c in costs)[-number:]) for number, steps in plan.rungs)
        assert search <= SEARCH_SHARE * seconds
        assert search + dearest.of(plan.total_steps) <= seconds + 1e-9 or plan.total_steps == MIN_RUNG_STEPS

    def test_less_time_is_first_shorter_schedules_then_fewer_candidates(self) -> None:
        plans = [self.within(seconds) for seconds in (2500, 600, 60)]
        assert [plan.total_steps for plan in plans] == sorted((p.total_steps for p in plans), reverse=True)
        assert len(plans[0].candidates) == 18
        assert len(plans[2].candidates) < len(plans[1].candidates) <= 18
        for plan in plans:
            assert len(plan.candidates) + len(plan.left_out) == 18

    def test_what_was_not_measured_is_taken_to_be_dear(self) -> None:
        tried = [*many(3, "linear_probe"), *many(3)]
        known = {"linear_probe": Cost(step_seconds=1.0)}
        plan = halving.plan_within(tried, known, seconds=300.0, total_steps=1000, reduction=3)
        # Half of the time is the winner's, at three seconds a step.
        assert plan.total_steps == 50
