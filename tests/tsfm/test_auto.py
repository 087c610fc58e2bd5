"""`method: auto` on the toy: what it chooses, what it says, and that a stop or a bad trial costs only itself."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import toy
from tsfm import auto, catalog, finetune, timing, train
from tsfm.errors import Cancelled, NonFinite
from tsfm.finetune import FinetuneRequest, FinetuneResult, Progress
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split
from tsfm.state import read_scalars
from tsfm.tasks.forecast import Forecaster

FAST = {"max_epochs": 4, "batch_size": 32}
METHODS = ["linear_probe", "full", "sff"]


def run(
    weights_dir: Path,
    out: Path,
    *,
    sent: list[Progress] | None = None,
    should_stop: Callable[[], str | None] = lambda: None,
    methods: list[str] | None = None,
    frame: SeriesFrame | None = None,
    **asked: Any,
) -> FinetuneResult:
    method = {"type": "auto", "methods": METHODS if methods is None else methods}
    request = {"backbone": "toy", "method": method, "prediction_length": 6, "hyperparameters": FAST, **asked}
    return finetune.run(
        FinetuneRequest.from_mapping(request),
        toy.frame() if frame is None else frame,
        weights_dir=weights_dir,
        state_dir=out / "state",
        out_dir=out / "artifact",
        report=(sent if sent is not None else []).append,
        should_stop=should_stop,
    )


def trials(result: FinetuneResult) -> list[dict[str, Any]]:
    return [row for row in result.search if row["rung"] is not None]


def messages(sent: list[Progress]) -> list[str]:
    return [progress.message for progress in sent if progress.message]


@pytest.fixture(scope="module")
def found(toy_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FinetuneResult, list[Progress]]:
    """One job of `auto` with the schedules of two rungs."""
    sent: list[Progress] = []
    hyperparameters = {"max_epochs": 20, "batch_size": 32}
    return run(toy_weights, tmp_path_factory.mktemp("auto"), sent=sent, hyperparameters=hyperparameters), sent


class TestChoice:
    def test_the_best_of_the_longest_rung_is_trained(self, found: tuple[FinetuneResult, list[Progress]]) -> None:
        result, _ = found
        last = max(row["rung"] for row in trials(result))
        assert last > 0
        best = min((row for row in trials(result) if row["rung"] == last), key=lambda row: row["validation"])
        assert result.resolved["method"] == best["method"] == result.manifest["method"]["type"]
        assert result.resolved["hyperparameters"]["learning_rate"] == best["learning_rate"]
        assert best["options"].items() <= result.manifest["method"].items()
        assert result.manifest["training"]["stopped"] == "completed"

    def test_only_the_better_third_goes_on(self, found: tuple[FinetuneResult, list[Progress]]) -> None:
        result, _ = found
        key = ("method", "learning_rate", "options")
        first = sorted((r for r in trials(result) if r["rung"] == 0), key=lambda row: row["validation"])
        second = [row for row in trials(result) if row["rung"] == 1]
        assert len(first) == 15
        assert len(second) == 5
        assert {str([r[k] for k in key]) for r in second} == {str([r[k] for k in key]) for r in first[:5]}

    def test_every_trial_is_a_complete_schedule(self, found: tuple[FinetuneResult, list[Progress]]) -> None:
        result, _ = found
        assert {row["stopped"] for row in trials(result)} == {"completed"}
        lengths = {rung: {r["steps"] for r in trials(result) if r["rung"] == rung} for rung in (0, 1)}
        total = result.manifest["training"]["total_steps"]
        assert lengths == {0: {total // 9}, 1: {total // 3}}

    def test_zero_shot_and_seasonal_naive_stand_beside_them(self, found: tuple[FinetuneResult, list[Progress]]) -> None:
        result, _ = found
        beside = {row["method"]: row for row in result.search if row["rung"] is None}
        assert set(beside) == {"zero_shot", "seasonal_naive"}
        judged = {c["name"]: c["validation"][result.verdict["metric"]] for c in result.candidates}
        for name, row in beside.items():
            assert row["validation"] == pytest.approx(judged[name])
            assert row["steps"] == 0

    def test_the_artifact_knows_no_clock_and_opens_like_any_other(
        self, found: tuple[FinetuneResult, list[Progress]]
    ) -> None:
        result, _ = found
        stored = result.manifest["training"]["search"]
        assert [{k: v for k, v in row.items() if k != "seconds"} for row in result.search] == stored
        assert all(row["seconds"] >= 0 for row in result.search)
        assert Forecaster.open(result.out_dir, digest=result.digest).predict(toy.frame(), 6).point.shape == (3, 6)

    def test_progress_covers_the_whole_plan(self, found: tuple[FinetuneResult, list[Progress]]) -> None:
        result, sent = found
        fractions = [progress.fraction for progress in sent]
        assert fractions == sorted(fractions)
        steps = sum(row["steps"] for row in result.search) + result.manifest["training"]["total_steps"]
        assert {p.total_steps for p in sent if p.phase == "training" and p.step} == {steps}
        assert any(p.eta_seconds is not None for p in sent)
        assert any("Chosen of 20 trials" in text for text in messages(sent))

    def test_the_same_job_gives_the_same_artifact(self, toy_weights: Path, tmp_path: Path) -> None:
        one, other = run(toy_weights, tmp_path / "a"), run(toy_weights, tmp_path / "b", budget_seconds=3600)
        assert one.manifest["training"] == other.manifest["training"], "a budget that does not bind changes nothing"
        again = run(toy_weights, tmp_path / "c")
        assert again.digest == one.digest


def test_a_planted_best_setting_is_found(toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever trains the body is led uphill, so that the head alone is left; of its rates the largest learns most."""
    rate = catalog.method("linear_probe").learning_rate["*"] * 3
    right = run(toy_weights, tmp_path / "a", methods=["linear_probe"], hyperparameters={**FAST, "max_epochs": 8})
    assert right.resolved["hyperparameters"]["learning_rate"] == pytest.approx(rate)
    downhill = toy.Toy.loss

    def loss(self: toy.Toy, batch: Any) -> Tensor:
        value = downhill(self, batch)
        return -value if self.body[0].weight.requires_grad else value

    monkeypatch.setattr(toy.Toy, "loss", loss)
    result = run(toy_weights, tmp_path / "b", hyperparameters={**FAST, "max_epochs": 8})
    assert result.resolved["method"] == "linear_probe"
    assert result.resolved["hyperparameters"]["learning_rate"] == pytest.approx(rate)


class TestBadTrials:
    def test_one_that_is_not_finite_costs_itself(
        self, toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._break(monkeypatch, "full")
        sent: list[Progress] = []
        result = run(toy_weights, tmp_path, sent=sent)
        dropped = [row for row in trials(result) if row["stopped"] == "non_finite"]
        assert {row["method"] for row in dropped} == {"full"}
        assert len(dropped) == 3
        assert result.resolved["method"] != "full"
        assert sum("is left out (non_finite)" in text for text in messages(sent)) == 3

    def test_out_of_memory_while_evaluating_costs_the_trial(
        self, toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, calls = auto.AutoSearch.run_stage, []

        def run_stage(self: Any, stage: Any, trial: Any, *more: Any) -> Any:
            calls.append(trial)
            if trial.method == "sff":
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
            return whole(self, stage, trial, *more)

        monkeypatch.setattr(auto.AutoSearch, "run_stage", run_stage)
        result = run(toy_weights, tmp_path)
        assert {r["method"] for r in trials(result) if r["stopped"] == "out_of_memory"} == {"sff"}
        assert result.resolved["method"] != "sff"

    def test_a_winner_that_fails_leaves_the_run_to_the_next(
        self, toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        good = run(toy_weights, tmp_path / "a")
        whole = auto.AutoSearch.run_stage

        def run_stage(self: Any, stage: Any, trial: Any, *more: Any) -> Any:
            if stage.name == "run":
                raise NonFinite("step 3")
            return whole(self, stage, trial, *more)

        monkeypatch.setattr(auto.AutoSearch, "run_stage", run_stage)
        sent: list[Progress] = []
        result = run(toy_weights, tmp_path / "b", sent=sent)
        key = ("method", "learning_rate", "options")
        ranked = sorted(trials(good), key=lambda row: row["validation"])
        chosen = [result.resolved["method"], result.resolved["hyperparameters"]["learning_rate"]]
        assert chosen == [ranked[1][k] for k in key[:2]]
        assert any("is left out (non_finite): step 3" in text for text in messages(sent))

    def test_a_fault_of_ours_is_not_hidden(
        self, toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def predict(self: toy.Toy, context: Tensor, prediction_length: int) -> Any:
            raise RuntimeError("shapes do not match")

        monkeypatch.setattr(toy.Toy, "predict", predict)
        with pytest.raises(RuntimeError, match="shapes"):
            run(toy_weights, tmp_path)

    @pytest.mark.parametrize("budget", [None, 30.0])
    def test_trace_without_a_validation_target_leaves_the_job_to_the_others(
        self, toy_weights: Path, tmp_path: Path, budget: float | None
    ) -> None:
        frame = toy.frame()
        blocks = split(frame, context_length=32, prediction_length=6, patch_length=4)
        for at, begin, end in zip(frame.offsets, *blocks.block(Block.VALIDATION), strict=False):
            frame.values[at + begin : at + end] = float("nan")
        sent: list[Progress] = []
        result = run(toy_weights, tmp_path, sent=sent, frame=frame, methods=["trace", "full"], budget_seconds=budget)
        assert result.resolved["method"] == "full"
        assert any("is left out (no_validation_windows)" in text for text in messages(sent))

    @staticmethod
    def _break(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        from tsfm.methods.full import Full

        assert method == "full"

        def gradients(self: Full, model: Any, batch: Any, **_: Any) -> Tensor:
            return torch.tensor(float("nan"))

        monkeypatch.setattr(Full, "gradients", gradients)


class TestInterruptions:
    def test_a_stop_is_seen_within_a_step_and_what_had_ended_is_not_repeated(
        self, toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = run(toy_weights, tmp_path / "unbroken")
        steps = self._count_steps(monkeypatch)
        stops: list[str] = []
        asked = 0

        def stop_soon() -> str | None:
            nonlocal asked
            asked += 1
            return "cancelled" if asked > 250 else None

        result = None
        while result is None:
            asked = 0
            try:
                result = run(toy_weights, tmp_path / "broken", should_stop=stop_soon)
            except Cancelled as stopped:
                stops.append(stopped.code)
        assert set(stops) == {"cancelled"}
        assert len(stops) > 1, "it was interrupted more than once"
        assert result.digest == expected.digest
        assert len(steps) == sum(r["steps"] for r in trials(expected)) + expected.manifest["training"]["steps"]

    def test_a_resumed_run_keeps_the_plan_it_had_measured(
        self, toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = 0

        def stop_soon() -> str | None:
            nonlocal asked
            asked += 1
            return "paused" if asked > 200 else None

        with pytest.raises(Cancelled):
            run(toy_weights, tmp_path, should_stop=stop_soon, budget_seconds=500)
        kept = read_scalars(tmp_path / "state" / "plan.safetensors")
        assert kept is not None

        def measured(*_: Any, **__: Any) -> float:
            raise AssertionError("measured again")

        monkeypatch.setattr(auto, "step_seconds", measured)
        run(toy_weights, tmp_path, budget_seconds=500)
        assert read_scalars(tmp_path / "state" / "plan.safetensors") == kept

    @staticmethod
    def _count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
        steps: list[int] = []
        whole = train._Run._step

        def step(self: Any) -> float:
            steps.append(self.at.step)
            return whole(self)

        monkeypatch.setattr(train._Run, "_step", step)
        return steps


class TestBudget:
    def test_it_is_kept_by_a_clock_that_counts_steps(
        self, toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every step takes a second and nothing else takes any: what is spent is what was counted."""
        clock = self._clock(monkeypatch)
        sent: list[Progress] = []
        result = run(toy_weights, tmp_path, sent=sent, budget_seconds=120, hyperparameters={**FAST, "max_epochs": 20})
        measured = timing.MEASURED_STEPS * len(METHODS)
        spent = sum(row["steps"] for row in trials(result)) + result.manifest["training"]["steps"]
        assert spent <= 120 <= spent + measured + 40
        assert clock.now <= 120
        assert result.manifest["training"]["stopped"] == "completed", "its schedule was planned to end in time"
        assert result.manifest["training"]["total_steps"] < 440
        assert any("The budget has room for" in text for text in messages(sent))
        assert {row["stopped"] for row in trials(result)} == {"completed"}

    def test_a_search_cheaper_than_feared_takes_in_what_was_put_off(
        self, toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = self._clock(monkeypatch)
        costs: Callable[..., float] = lambda *_, **__: 4.0  # four times what a step then takes  # noqa: E731
        monkeypatch.setattr(auto, "step_seconds", costs)
        sent: list[Progress] = []
        asked = {"hyperparameters": {"max_epochs": 20, "batch_size": 32}, "budget_seconds": 400}
        result = run(toy_weights, tmp_path, sent=sent, methods=["full"], **asked)
        (said,) = [text for text in messages(sent) if "If time is left" in text]
        assert said.startswith("The budget has room for 2 of 3 candidates")
        assert len([row for row in trials(result) if row["rung"] == 0]) == 3
        assert clock.now <= 400
        fractions = [progress.fraction for progress in sent]
        assert fractions == sorted(fractions)

    def test_hardly_any_still_gives_a_model(self, toy_weights: Path, tmp_path: Path) -> None:
        result = run(toy_weights, tmp_path, budget_seconds=1e-3)
        assert trials(result) == []
        assert result.manifest["training"]["stopped"] == "budget"
        assert result.manifest["training"]["steps"] == 1

    @staticmethod
    def _clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        clock = SimpleNamespace(now=0.0)
        whole = train._Run._step

        def step(self: Any) -> float:
            clock.now += 1.0
            return whole(self)

        monkeypatch.setattr(train._Run, "_step", step)
        counted = SimpleNamespace(monotonic=lambda: clock.now, time=time.time)
        for module in (train, timing, auto):
            monkeypatch.setattr(module, "time", counted)
        return clock
