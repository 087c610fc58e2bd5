"""Every method on every backbone of the catalogue: what moves is what the method trains, and nothing else."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from tests.tsfm.backbones.contract import NAN, Case, every_network
from tsfm import catalog, methods
from tsfm.adapter_files import fold
from tsfm.artifact import open_artifact, write_artifact
from tsfm.backbones.base import Backbone, Batch
from tsfm.methods.adapters import head_targets
from tsfm.methods.base import Method
from tsfm.methods.sff import smooth, twin_of

STEPS = 2
"""Adapters start with B at zero, so that A and gates move from the second on; AdaLoRA prunes no run so short."""


def created(name: str, **options: Any) -> Method:
    return methods.create(name, catalog.method(name).config(**options))


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def batch_of(case: Case) -> Batch:
    """Two rows, one of them with a whole patch missing: mask tokens and mask channels get something to do."""
    batch = case.batch(2)
    context = batch.context.clone()
    length = context.shape[1]
    patch = min(case.spec.patch_length, length // 4)
    context[1, length - 3 * patch : length - patch] = NAN
    return Batch(context=context, target=batch.target)


def moved(
    method: Method, model: Backbone, batch: Batch, *, steps: int = STEPS, learning_rate: float = 1e-2
) -> set[str]:
    """Names of what some steps of the loop change, without decay, the rate falling to zero."""
    before = values(model)
    optimizer = torch.optim.AdamW(
        [p for _, p in method.trainable_parameters(model)], lr=learning_rate, weight_decay=0.0
    )
    model.train()
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - (step - 1) / steps)
        optimizer.zero_grad(set_to_none=True)
        method.gradients(model, batch, weight=1.0, precision=nullcontext())
        optimizer.step()
        method.after_step(model, step=step, total_steps=steps)
    after = values(model)
    assert all(t.isfinite().all() for t in after.values())
    return {name for name in before if not torch.equal(before[name], after[name])}


def trained_by_full(case: Case) -> set[str]:
    return {name for name, _ in case.model.named_parameters()} - case.model.unused_parameters


def trained_by_probe(case: Case) -> set[str]:
    return set(case.model.head_parameter_names() - case.model.unused_parameters)


def adapter_head(case: Case) -> dict[str, str]:
    """A random head has to be trained whole."""
    return {"head": "train"} if case.spec.random_head else {}


@pytest.fixture(autouse=True)
def _global_generator() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@every_network
class TestTargets:
    def test_lora_targets_are_linears_and_none_is_in_the_head(self, case: Case) -> None:
        assert case.cls.lora_targets.startswith("^")
        assert case.cls.lora_targets.endswith("$")
        found = [name for name, _ in case.model.named_modules() if re.fullmatch(case.cls.lora_targets, name)]
        assert found
        assert all(isinstance(case.model.get_submodule(name), nn.Linear) for name in found)
        assert not set(found) & set(head_targets(case.model))
        assert not {f"{name}.weight" for name in found} & case.model.unused_parameters

    def test_a_pair_of_the_catalogue_is_supported_or_says_why_not(self, case: Case) -> None:
        assert set(case.spec.methods) | set(case.spec.unsupported_methods) == set(catalog.METHODS)
        assert not set(case.spec.methods) & set(case.spec.unsupported_methods)


@every_network
class TestWhatMoves:
    def test_zero_shot_trains_nothing(self, case: Case) -> None:
        assert not any(p.requires_grad for p in created("zero_shot").prepare(case.fresh()).parameters())

    def test_full_trains_everything_that_is_used_and_the_loss_falls(self, case: Case) -> None:
        method, batch = created("full"), batch_of(case)
        model = method.prepare(case.fresh())
        before = self.loss(model, batch)
        assert moved(method, model, batch, steps=15, learning_rate=3e-3) | case.resting == trained_by_full(case)
        assert self.loss(model, batch) < 0.9 * before

    def loss(self, model: Backbone, batch: Batch) -> float:
        torch.manual_seed(3)
        return float(model.eval().loss(batch).detach())

    def test_linear_probe_trains_the_head(self, case: Case) -> None:
        method = created("linear_probe")
        model = method.prepare(case.fresh())
        assert moved(method, model, batch_of(case), steps=1) | case.resting == trained_by_probe(case)

    def test_lp_full_trains_the_head_and_then_everything(self, case: Case) -> None:
        method, batch = created("lp_full", probe_share=0.5), batch_of(case)
        model = method.prepare(case.fresh())
        before = values(model)
        optimizer = torch.optim.AdamW([p for _, p in method.trainable_parameters(model)], lr=1e-2, weight_decay=0.0)
        expected = [trained_by_probe(case), trained_by_full(case)]
        for step in (1, 2):
            optimizer.zero_grad(set_to_none=True)
            method.gradients(model, batch, weight=1.0, precision=nullcontext())
            optimizer.step()
            method.after_step(model, step=step, total_steps=2)
            changed = {name for name, t in values(model).items() if not torch.equal(before[name], t)}
            assert changed | case.resting == expected[step - 1]

    def test_sff_and_scratch_train_what_full_does(self, case: Case) -> None:
        for name in ("sff", "scratch"):
            model = created(name).prepare(case.fresh())
            assert {n for n, p in model.named_parameters() if p.requires_grad} == trained_by_full(case)

    @pytest.mark.parametrize("name", ["lora", "adalora", "trace"])
    def test_adapters_move_and_the_network_stays(self, case: Case, name: str) -> None:
        options: dict[str, Any] = {"dropout": 0.0, **adapter_head(case)}
        if name == "trace":
            options = {"dropout": 0.0, "keep_ratio": 1.0}
        method, batch = created(name, **options), batch_of(case)
        model = case.fresh()
        own = {n for n, _ in model.named_parameters()}
        model = method.prepare(model)
        method.bind(model, [], [])
        wrapped = {n.replace(".base_layer", "") for n, p in model.named_parameters() if not p.requires_grad}
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert moved(method, model, batch) == trained
        head = trained_by_probe(case) if case.spec.random_head else set()
        if name != "trace":
            assert trained & own == head
        assert own - head <= wrapped | trained

    def test_trace_selects_and_what_is_masked_rests(self, case: Case) -> None:
        method = created("trace", dropout=0.0, keep_ratio=0.5, rounds=1, first_round=0.3, last_round=0.3, draws=2)
        batch = batch_of(case)
        model = method.prepare(case.fresh())
        method.bind(model, [batch], [])
        moved(method, model, batch, steps=2)
        kept = method.facts(model)["kept"]
        assert 0 < len(kept) < method.facts(model)["num_modules"]
        assert {n.split(".lora_")[0] for n in moved(method, model, batch, steps=1) if ".lora_" in n} == set(kept)

    def test_importance_is_a_window_s_own_whatever_padding_stands_beside_it(self, case: Case) -> None:
        method = created("trace", dropout=0.0, keep_ratio=1.0)
        model = method.prepare(case.fresh())
        method.bind(model, [], [])
        moved(method, model, batch_of(case), steps=1)
        batch = case.batch(3)
        batch.context[1, : case.length // 2] = NAN
        batch.context[2, :-1] = NAN
        batch.target[2, 1:] = NAN
        windows = [Batch(context=batch.context[i : i + 1], target=batch.target[i : i + 1]) for i in range(3)]
        nothing = np.zeros((1, len(method.gates)), dtype=np.bool_)
        together, alone = (method.gates.measure(model, given, nothing, form="taylor") for given in ([batch], windows))
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5 * alone.max())

    @pytest.mark.filterwarnings("ignore")  # stock peft's, about models that are not of transformers
    def test_the_exported_adapter_folds_and_opens_in_stock_peft(self, case: Case, tmp_path: Path) -> None:
        head = {"head": "keep"} if case.spec.random_head else {}
        method = created("trace", dropout=0.0, keep_ratio=1.0, **head)
        model = method.prepare(case.fresh())
        method.bind(model, [], [])
        moved(method, model, batch_of(case), learning_rate=3e-2)
        made = method.export(model, case.spec)
        write_artifact(tmp_path / "adapter", made.files, {"weights": {"kind": made.kind, **made.facts}}, "")
        folded = fold(case.fresh(), open_artifact(tmp_path / "adapter"))
        stock = PeftModel.from_pretrained(case.fresh(), str(tmp_path / "adapter")).eval()
        with torch.inference_mode():
            said = [m.predict(case.rows(2), case.short).point for m in (model.eval(), folded, stock, case.model)]
        torch.testing.assert_close(said[1], said[0], rtol=1e-5, atol=5e-5)
        torch.testing.assert_close(said[2], said[0], rtol=1e-5, atol=5e-5)
        assert not torch.allclose(said[3], said[0], atol=1e-3)


@every_network
class TestBlend:
    def test_alpha_one_is_the_pretrained_network_and_zero_the_random_one_bit_for_bit(self, case: Case) -> None:
        twin, kept = values(twin_of(case.model, seed=9)), case.model.unused_parameters | case.model.fresh_parameters
        own = values(case.model)
        one = values(smooth(case.fresh(), alpha=1.0, twin_seed=9))
        none = values(smooth(case.fresh(), alpha=0.0, twin_seed=9))
        for name, tensor in own.items():
            assert torch.equal(one[name], tensor), name
            assert torch.equal(none[name], tensor if name in kept else twin[name]), name

    def test_every_used_tensor_is_blended_once_and_buffers_stay(self, case: Case) -> None:
        twin, kept = values(twin_of(case.model, seed=9)), case.model.unused_parameters | case.model.fresh_parameters
        own, mixed = values(case.model), smooth(case.fresh(), alpha=0.75, twin_seed=9)
        for name, tensor in values(mixed).items():
            expected = own[name] if name in kept else 0.75 * own[name] + 0.25 * twin[name]
            torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7, msg=name)
        buffers = dict(case.model.named_buffers())
        assert all(torch.equal(t, buffers[name]) for name, t in mixed.named_buffers())
