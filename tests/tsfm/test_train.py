"""The loop: schedule, order, selection, stopping, memory, and the state that a kill must not lose."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.toy import CONFIG, Toy, frame
from tsfm.backbones.base import Backbone, Batch
from tsfm.backbones.weights import tensors_of
from tsfm.configs import FullConfig, LPFullConfig, TrainConfig
from tsfm.errors import Cancelled, NonFinite, OutOfMemory
from tsfm.evaluate import never_stop
from tsfm.methods.base import Method
from tsfm.methods.full import Full
from tsfm.methods.lp_full import LPFull
from tsfm.progress import Progress, Reporter
from tsfm.series.split import Block, split
from tsfm.series.windows import Windows, cut
from tsfm.train import Position, Stage, Validation, indices_of, learning_rate_at, steps_per_epoch, train

CPU = torch.device("cpu")
SETTINGS = TrainConfig(batch_size=16, max_epochs=2, learning_rate=1e-3, seed=3, patience=100)


def windows() -> Windows:
    data = frame()
    blocks = split(data, context_length=32, prediction_length=6, patch_length=4)
    return cut(data, blocks, Block.TRAIN, context_length=32, prediction_length=6, max_windows=100)


WINDOWS = windows()


def drift(model: Backbone) -> Validation:
    """A validation error that training changes: distance of one weight from a far point."""
    error = abs(float(tensors_of(model)["output.bias"][0]) - 10.0)
    return Validation(error=error, metrics={"mase": error})


def stage(path: Path, config: TrainConfig = SETTINGS, **changes: Any) -> Stage:
    total = steps_per_epoch(len(WINDOWS), config) * config.max_epochs
    base = Stage(name="run", config=config, total_steps=total, state_path=path / "run.safetensors", identity="i")
    return dataclasses.replace(base, **changes)


def run(
    the_stage: Stage,
    *,
    model: Backbone | None = None,
    method: Method | None = None,
    validate: Callable[[Backbone], Validation] = drift,
    should_stop: Callable[[], str | None] = never_stop,
    sent: list[Progress] | None = None,
) -> tuple[Position, dict[str, torch.Tensor]]:
    method = method or Full(FullConfig())
    ready = method.prepare(model or Toy.from_config(CONFIG, seed=1))
    reporter = Reporter((sent if sent is not None else []).append)
    at = train(
        ready,
        method,
        WINDOWS,
        validate,
        stage=the_stage,
        device=CPU,
        reporter=reporter,
        should_stop=should_stop,
    )
    return at, {name: t.clone() for name, t in tensors_of(ready).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(t, other[name]) for name, t in one.items())


class TestSchedule:
    def test_warms_up_and_falls_to_zero(self) -> None:
        rates = [learning_rate_at(s, config=SETTINGS, total_steps=100) for s in range(100)]
        assert rates[:10] == pytest.approx([1e-4 * (s + 1) for s in range(10)])
        assert rates[10] == 1e-3
        assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
        assert 0 < rates[-1] < 1e-5

    def test_every_epoch_visits_every_window_once_in_another_order(self) -> None:
        steps = steps_per_epoch(len(WINDOWS), SETTINGS)
        epochs = [
            np.concatenate([indices_of(e * steps + s, num_windows=len(WINDOWS), config=SETTINGS) for s in range(steps)])
            for e in range(2)
        ]
        assert all(sorted(e.tolist()) == list(range(len(WINDOWS))) for e in epochs)
        assert epochs[0].tolist() != epochs[1].tolist()


class TestSelection:
    def test_step_zero_is_logged_but_never_eligible(self, tmp_path: Path) -> None:
        errors = iter([0.0] + [float(k) for k in range(1, 100)])
        at, weights = run(stage(tmp_path), validate=lambda _: Validation(error=next(errors), metrics={}), model=None)
        assert at.history[0] == {"step": 0, "train_loss": None, "validation": 0.0}
        assert at.best_step == at.history[1]["step"] > 0
        assert not same(weights, tensors_of(Toy.from_config(CONFIG, seed=1)))

    def test_the_best_weights_are_kept_not_the_last(self, tmp_path: Path) -> None:
        seen: list[dict[str, torch.Tensor]] = []

        def validate(model: Backbone) -> Validation:
            seen.append({name: t.clone() for name, t in tensors_of(model).items()})
            return Validation(error=abs(len(seen) - 3.0), metrics={})

        at, weights = run(stage(tmp_path), validate=validate)
        assert at.stopped == "completed"
        assert at.best_step == at.history[2]["step"]
        assert same(weights, seen[2])

    def test_a_report_says_whether_the_weights_were_kept(self, tmp_path: Path) -> None:
        errors = iter([0.0, 5.0, 6.0, 4.0] + [9.0] * 100)
        sent: list[Progress] = []
        run(stage(tmp_path), validate=lambda _: Validation(error=next(errors), metrics={"mase": 1.0}), sent=sent)
        kept = [progress.metrics["kept"] for progress in sent if progress.metrics]
        assert kept[:5] == [False, True, False, True, False]
        assert not any(kept[5:])

    def test_patience_stops_after_warm_up_only(self, tmp_path: Path) -> None:
        config = dataclasses.replace(SETTINGS, patience=2, max_epochs=20, warmup_fraction=0.5)
        errors = iter([1.0, 0.5] + [2.0] * 500)
        at, _ = run(stage(tmp_path, config), validate=lambda _: Validation(error=next(errors), metrics={}))
        interval = max(1, steps_per_epoch(len(WINDOWS), config) // 4)
        assert at.stopped == "early_stopping"
        assert at.step == math.ceil(0.5 * 20 * steps_per_epoch(len(WINDOWS), config)) + 2 * interval

    def test_patience_waits_for_the_warm_up_of_a_second_phase_too(self, tmp_path: Path) -> None:
        config = dataclasses.replace(SETTINGS, patience=2, max_epochs=6, warmup_fraction=0.3)
        errors = itertools.count(1)
        method = LPFull(LPFullConfig())
        the_stage = stage(tmp_path, config)
        at, _ = run(the_stage, method=method, validate=lambda _: Validation(error=float(next(errors)), metrics={}))
        assert at.stopped == "early_stopping"
        second = the_stage.total_steps - method.probe_steps(the_stage.total_steps)
        assert at.step == the_stage.total_steps - second + math.ceil(0.3 * second) + 2

    def test_without_early_stopping_the_last_weights_stay(self, tmp_path: Path) -> None:
        config = dataclasses.replace(SETTINGS, early_stopping=False, patience=1)
        rising = iter(range(100))
        at, weights = run(stage(tmp_path, config), validate=lambda _: Validation(error=next(rising), metrics={}))
        again, same_weights = run(stage(tmp_path / "b", config), validate=drift)
        assert at.stopped == again.stopped == "completed"
        assert at.best_step == at.step
        assert same(weights, same_weights)

    def test_nothing_to_validate_on_keeps_the_last(self, tmp_path: Path) -> None:
        at, _ = run(stage(tmp_path), validate=lambda _: Validation(error=None, metrics={}))
        assert (at.best_error, at.best_step) == (None, at.step)

    def test_evaluates_at_least_four_times_an_epoch(self, tmp_path: Path) -> None:
        at, _ = run(stage(tmp_path))
        assert len(at.history) >= 1 + 4 * SETTINGS.max_epochs


class Late(Full):
    """Lets nothing be kept before its last third."""

    def eligible(self, step: int, total_steps: int) -> bool:
        return 3 * step > 2 * total_steps


class TestEligible:
    def test_what_a_method_rules_out_is_neither_kept_nor_counted(self, tmp_path: Path) -> None:
        validate = iter(range(100))
        config = dataclasses.replace(SETTINGS, patience=2)
        at, _ = run(
            stage(tmp_path, config),
            method=Late(FullConfig()),
            validate=lambda model: Validation(error=float(next(validate)), metrics={}),  # the first is the best
        )
        total = stage(tmp_path, config).total_steps
        assert next(row["step"] for row in at.history if row["step"] * 3 > 2 * total) == at.best_step
        assert at.stopped == "early_stopping"
        assert at.worse_evaluations == 2
        assert 3 * at.best_step > 2 * total

    def test_a_run_cut_short_before_ends_with_its_last_weights_and_says_so(self, tmp_path: Path) -> None:
        sent: list[Progress] = []
        at, found = run(stage(tmp_path, budget_seconds=0.0), method=Late(FullConfig()), sent=sent)
        assert (at.stopped, at.step, at.best_step, at.best_error) == ("budget", 1, 1, at.history[-1]["validation"])
        assert any(p.message and "last weights" in p.message for p in sent)
        _, again = run(stage(tmp_path, budget_seconds=0.0), method=Late(FullConfig()))
        assert same(found, again)


class TestDeterminism:
    def test_a_seed_decides_everything(self, tmp_path: Path) -> None:
        _, one = run(stage(tmp_path / "a"))
        torch.manual_seed(99)  # whatever the caller did before
        _, again = run(stage(tmp_path / "b"))
        _, other = run(stage(tmp_path / "c", dataclasses.replace(SETTINGS, seed=4)))
        assert same(one, again)
        assert not same(one, other)

    def test_the_callers_generator_is_put_back(self, tmp_path: Path) -> None:
        before = torch.get_rng_state()
        run(stage(tmp_path))
        assert torch.equal(torch.get_rng_state(), before)

    def test_accumulating_halves_is_the_whole_batch(self, tmp_path: Path) -> None:
        plain = dict(CONFIG, dropout=0.0)
        halved = dataclasses.replace(SETTINGS, batch_size=8, gradient_accumulation=2, early_stopping=False)
        whole = dataclasses.replace(SETTINGS, early_stopping=False)
        _, one = run(stage(tmp_path / "a", whole), model=Toy.from_config(plain, seed=1))
        _, two = run(stage(tmp_path / "b", halved), model=Toy.from_config(plain, seed=1))
        for name, t in one.items():
            # A missing target makes the halves' means weigh a little differently than the whole's.
            torch.testing.assert_close(t, two[name], rtol=0.05, atol=5e-3)


class TestStopping:
    def test_a_stop_is_seen_within_one_step_and_continues_to_the_same_weights(self, tmp_path: Path) -> None:
        _, unbroken = run(stage(tmp_path / "a"))
        for at_call in (1, 4, 9):
            calls = iter(range(10_000))
            sent: list[Progress] = []
            with pytest.raises(Cancelled) as caught:
                run(
                    stage(tmp_path / str(at_call)),
                    should_stop=lambda calls=calls, n=at_call: "paused" if next(calls) >= n else None,
                    sent=sent,
                )
            assert caught.value.code == "paused"
            assert max((p.step for p in sent), default=0) <= at_call
            _, continued = run(stage(tmp_path / str(at_call)))
            assert same(unbroken, continued)

    def test_a_stop_inside_an_evaluation_repeats_that_evaluation(self, tmp_path: Path) -> None:
        calls: list[int] = []

        def validate(model: Backbone) -> Validation:
            calls.append(1)
            if len(calls) == 4:
                raise Cancelled("stop", code="cancelled")
            return drift(model)

        expected, unbroken = run(stage(tmp_path / "a"))
        with pytest.raises(Cancelled):
            run(stage(tmp_path / "b"), validate=validate)
        found, continued = run(stage(tmp_path / "b"))
        assert found.history == expected.history
        assert same(unbroken, continued)

    def test_the_budget_keeps_the_best_so_far(self, tmp_path: Path) -> None:
        at, _ = run(stage(tmp_path, budget_seconds=0.0))
        assert (at.stopped, at.step, at.best_step) == ("budget", 1, 1)

    def test_a_state_of_another_job_is_not_continued(self, tmp_path: Path) -> None:
        calls = iter(range(100))
        with pytest.raises(Cancelled):
            run(stage(tmp_path, identity="other"), should_stop=lambda: "paused" if next(calls) > 5 else None)
        sent: list[Progress] = []
        _, found = run(stage(tmp_path), sent=sent)
        _, fresh = run(stage(tmp_path / "fresh"))
        assert same(found, fresh)
        assert any(p.message and "another configuration" in p.message for p in sent)

    def test_a_finished_state_is_not_trained_again(self, tmp_path: Path) -> None:
        _, first = run(stage(tmp_path))

        def never(model: Backbone) -> Validation:
            raise AssertionError("a finished stage was evaluated again")

        _, again = run(stage(tmp_path), validate=never)
        assert same(first, again)


class Greedy(Toy):
    """Has memory for `fits` windows."""

    fits = 4

    def loss(self, batch: Batch) -> torch.Tensor:
        if len(batch.context) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory (as a test)")
        return super().loss(batch)


class Broken(Toy):
    """Its loss is not finite from the third step on."""

    calls = 0

    def loss(self, batch: Batch) -> torch.Tensor:
        self.calls += 1
        return super().loss(batch) * (float("nan") if self.calls > 2 else 1.0)


class Noting(Full):
    """Keeps the last gradient, as one vector."""

    gradient: torch.Tensor

    def after_step(self, model: Backbone, *, step: int, total_steps: int) -> None:
        self.gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


class TestTrouble:
    def test_out_of_memory_halves_the_batch_and_says_so(self, tmp_path: Path) -> None:
        sent: list[Progress] = []
        at, _ = run(stage(tmp_path), model=Greedy.from_config(CONFIG, seed=1), sent=sent)
        assert at.stopped == "completed"
        assert at.micro_batch == 4
        assert [p.message for p in sent if p.message and "memory" in p.message] == [
            f"Out of memory: gradients are now accumulated over batches of {n} windows." for n in (8, 4)
        ]

    def test_halving_changes_nothing_where_targets_are_missing(self, tmp_path: Path) -> None:
        assert np.isnan(WINDOWS.batch(indices_of(0, num_windows=len(WINDOWS), config=SETTINGS)).target).any()
        found = []
        for kind in (Toy, Greedy):
            method = Noting(FullConfig())
            model = kind.from_config({**CONFIG, "dropout": 0.0}, seed=1)
            run(stage(tmp_path / kind.__name__, last_step=1), model=model, method=method)
            found.append(method.gradient)
        torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)

    def test_when_nothing_fits_the_run_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Greedy, "fits", 0)
        with pytest.raises(OutOfMemory):
            run(stage(tmp_path), model=Greedy.from_config(CONFIG, seed=1))

    def test_a_loss_that_is_not_finite_stops_before_the_weights_move(self, tmp_path: Path) -> None:
        model = Broken.from_config(CONFIG, seed=1)
        with pytest.raises(NonFinite) as caught:
            run(stage(tmp_path), model=model)
        assert caught.value.details == {"step": 3}
        assert all(bool(torch.isfinite(t).all()) for t in tensors_of(model).values())
