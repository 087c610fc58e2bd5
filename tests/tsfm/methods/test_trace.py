"""TRACE: what is selected when, what rests, what is exported; and that without a choice it is plain LoRA."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.toy import CONFIG, Toy
from tests.tsfm import test_train as loop
from tests.tsfm.methods.test_adapters import batch, measured, pretrained
from tests.tsfm.test_train import SETTINGS, same, stage
from tsfm.backbones.base import Backbone, Batch
from tsfm.configs import LoRAConfig, TraceConfig
from tsfm.errors import Cancelled, ConfigError, DataError, NonFinite
from tsfm.methods import dsic
from tsfm.methods.lora import LoRA
from tsfm.methods.trace import Trace
from tsfm.state import load_state

SELECTION = [batch()]


class Bound(Trace):
    """TRACE that measures on the test's windows: the search, which hands them over, is not part of these tests."""

    def prepare(self, backbone: Backbone) -> Backbone:
        model = super().prepare(backbone)
        self.bind(model, SELECTION, SELECTION)
        return model


class Told(Bound):
    """TRACE that is told the scores of each round."""

    told: Sequence[Sequence[float]]

    def _scores(self, model: Backbone, *, num_masked: int) -> dsic.Scores:
        return np.array(self.told[len(self._rounds)])


def trained(path: Path, method: Trace, **changes: Any) -> tuple[Toy, dict[str, torch.Tensor]]:
    model = pretrained()
    loop.run(stage(path, **changes), model=model, method=method, validate=measured)
    return model, dict(model.named_parameters())


def step_by_step(method: Trace, *, total: int, weight_decay: float = 0.1) -> list[dict[str, torch.Tensor]]:
    """Parameters before the first of `total` steps and after each, AdamW with decay on everything trained."""
    model = method.prepare(pretrained()).train()
    optimizer = torch.optim.AdamW(
        [p for _, p in method.trainable_parameters(model)], lr=1e-2, weight_decay=weight_decay
    )
    seen = [{name: p.detach().clone() for name, p in model.named_parameters()}]
    torch.manual_seed(0)
    for step in range(1, total + 1):
        method.gradients(model, batch(), weight=1.0, precision=nullcontext())
        optimizer.step()
        method.after_step(model, step=step, total_steps=total)
        optimizer.zero_grad(set_to_none=True)
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
    return seen


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Modules whose adapter or gate changed."""
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    return {name.partition(".lora_")[0].removesuffix(".gate.value") for name in changed}


class TestSelection:
    @pytest.mark.parametrize("keep_ratio", [0.1, 0.34, 0.67, 1.0])
    @pytest.mark.parametrize("selection", ["dsic", "random", "magnitude"])
    def test_the_budget_is_met_exactly(self, tmp_path: Path, keep_ratio: float, selection: Any) -> None:
        method = Bound(TraceConfig(keep_ratio=keep_ratio, selection=selection))
        model, _ = trained(tmp_path, method)
        assert int(method.gates.kept.sum()) == max(1, round(3 * keep_ratio))
        kept = [module for module, _ in method.gates.survivors()]
        assert method.num_trainable_parameters(model) == sum(m.num_parameters for m in kept)
        facts = method.facts(model)
        assert set(facts["kept"]) == {m.name for m in kept}
        assert facts["peak_trainable_parameters"] == sum(m.num_parameters for m in method.gates.modules) + 3
        rounds = len(facts["selection"]["rounds"])
        assert facts["selection"]["num_backward_passes"] == (8 * rounds if selection == "dsic" else 0)

    def test_importance_and_weights_repeat_under_a_seed(self, tmp_path: Path) -> None:
        methods = [Bound(TraceConfig(init_seed=seed)) for seed in (1, 1, 2)]
        found = [trained(tmp_path / str(i), method) for i, method in enumerate(methods)]
        importance = [m.facts(model)["selection"]["importance"] for m, (model, _) in zip(methods, found, strict=True)]
        assert importance[0] == importance[1] != importance[2]
        assert same(found[0][1], found[1][1])
        assert all(value > 0 for value in importance[0].values())

    def test_a_masked_module_rests_and_can_return(self) -> None:
        method = Told(TraceConfig(keep_ratio=0.34, rounds=2, first_round=0.3, last_round=0.6))
        # After step 3 the first module is masked; after step 6 it is the only one left.
        method.told = [(1.0, 3.0, 2.0), (3.0, 2.0, 1.0)]
        seen = step_by_step(method, total=10)
        assert moved(seen[0], seen[3]) == {"body.0", "body.3", "output"}
        assert moved(seen[3], seen[6]) == {"body.3", "output"}
        assert moved(seen[6], seen[10]) == {"body.0"}
        facts = method.facts(method.gates.modules[0].layer)
        assert [(r["step"], r["num_kept"], r["returned"]) for r in facts["selection"]["rounds"]] == [
            (3, 2, []),
            (6, 1, ["body.0"]),
        ]

    def test_nothing_is_chosen_before_b_has_trained(self) -> None:
        method = Bound(TraceConfig(keep_ratio=0.34, first_round=0.01, last_round=0.01))
        step_by_step(method, total=4)
        facts = method.facts(method.gates.modules[0].layer)["selection"]
        assert [r["step"] for r in facts["rounds"]] == [1]
        assert all(value > 0 for value in facts["importance"].values())

    def test_an_importance_that_is_not_finite_is_an_error(self, tmp_path: Path) -> None:
        method = Told(TraceConfig(keep_ratio=0.34))
        method.told = [(1.0, float("nan"), 2.0)]
        with pytest.raises(NonFinite, match="lower learning_rate"):
            trained(tmp_path, method)

    def test_the_best_step_and_patience_begin_at_the_final_freeze(self, tmp_path: Path) -> None:
        method = Bound(TraceConfig())
        model = pretrained()
        errors = iter(range(1, 100))

        def worse_and_worse(_: Backbone) -> Any:
            error = float(next(errors))
            return loop.Validation(error=error, metrics={"mase": error})

        the_stage = stage(tmp_path, loop.dataclasses.replace(SETTINGS, max_epochs=4, patience=2))
        at, _ = loop.run(the_stage, model=model, method=method, validate=worse_and_worse)
        freeze = method.facts(model)["selection"]["rounds"][-1]["step"]
        assert freeze == the_stage.total_steps // 2
        interval = at.history[2]["step"] - at.history[1]["step"]
        assert freeze <= at.best_step < freeze + interval
        assert (at.step, at.stopped) == (at.best_step + 2 * interval, "early_stopping")


def test_without_a_choice_it_is_lora_bit_for_bit(tmp_path: Path) -> None:
    shared = {"rank": 2, "lora_alpha": 4.0, "dropout": 0.3, "init_seed": 5}
    method = Bound(TraceConfig(train_gates=False, keep_ratio=1.0, **shared))
    _, gated = trained(tmp_path / "trace", method)
    model = pretrained()
    loop.run(stage(tmp_path / "lora"), model=model, method=LoRA(LoRAConfig(**shared)), validate=measured)
    plain = dict(model.named_parameters())
    gates = {f"{name}.gate.value" for name in method.gates.names}
    assert gated.keys() == plain.keys() | gates
    assert same({name: gated[name] for name in plain}, plain)
    assert all(float(gated[name].detach()) == 1.0 for name in gates)


@pytest.mark.parametrize("stop_at", [5, 9])
def test_a_killed_run_ends_with_the_same_numbers(tmp_path: Path, stop_at: int) -> None:
    """Killed between two rounds, and after the final freeze; gates, masks, importance and weights alike."""
    config = TraceConfig(keep_ratio=0.34)
    expected = Bound(config)
    model, weights = trained(tmp_path / "unbroken", expected)

    def killed() -> str | None:
        saved = load_state(tmp_path / "broken" / "run.safetensors")
        return "killed" if saved and saved.scalars["position"]["step"] >= stop_at else None

    often = loop.dataclasses.replace(SETTINGS, checkpoint_every_steps=1)
    with pytest.raises(Cancelled):
        loop.run(
            stage(tmp_path / "broken", often),
            model=pretrained(),
            method=Bound(config),
            validate=measured,
            should_stop=killed,
        )
    continued = Bound(config)
    other, found = trained(tmp_path / "broken", continued)
    assert same(found, weights)
    facts, others = expected.facts(model), continued.facts(other)
    assert facts == others
    assert continued.laps()["selection_seconds"] > 0


def test_an_empty_seat_for_the_head_is_filled_where_the_checkpoint_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "head_is_random", True)
    monkeypatch.setattr(Toy, "head_linear", "output")
    monkeypatch.setattr(Toy, "head_shape", lambda self: (4, 4))
    method = Trace(TraceConfig())
    model = method.prepare(pretrained())
    assert method.head == "H4"
    assert method.num_start_windows == 0, "there is no pretrained head to start from"
    assert {"output.small.depthwise.weight", "body.0.gate.value"} < {n for n, _ in method.trainable_parameters(model)}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"rank": 0}, "rank"),
        ({"keep_ratio": 0.0}, "keep_ratio"),
        ({"first_round": 0.6}, "last_round"),
        ({"rounds": 0}, "rounds"),
        ({"head": "H9"}, "head"),
        ({"draws": 0}, "draws"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], param: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TraceConfig(**options)
    assert caught.value.param == param


@pytest.mark.parametrize("selection", [[], [Batch(context=torch.zeros(2, 32), target=torch.full((2, 6), torch.nan))]])
def test_without_a_validation_target_there_is_nothing_to_measure(selection: list[Batch]) -> None:
    method = Trace(TraceConfig())
    model = method.prepare(pretrained())
    with pytest.raises(DataError) as caught:
        method.bind(model, selection, [])
    assert caught.value.code == "no_validation_windows"
    by_lot = Trace(TraceConfig(selection="random"))
    by_lot.bind(by_lot.prepare(pretrained()), selection, [])


def test_a_window_without_a_target_is_no_window() -> None:
    model = pretrained()
    method = Trace(TraceConfig(keep_ratio=0.34))
    method.prepare(model)
    with torch.no_grad():
        for module in method.gates.modules:
            module.lora_B.weight.fill_(0.1)
    nothing = Batch(context=batch().context, target=torch.full_like(batch().target, torch.nan))
    masks = np.zeros((1, 3), dtype=np.bool_)
    with_it = method.gates.measure(model, [batch(), nothing], masks, form="taylor")
    assert (with_it == method.gates.measure(model, [batch()], masks, form="taylor")).all()
    assert CONFIG["dropout"] > 0, "measured in eval mode, or this could not be equal"
