"""Gates and masks on LoRA modules, and the per-window gradients by which they are ranked."""

import numpy as np
import pytest
import torch

from tests.toy import CONFIG, Toy
from tsfm.backbones.base import Batch
from tsfm.methods.adapters import attach, body_targets, head_targets
from tsfm.methods.gates import Gates

NAMES = ("body.0", "body.3", "output")
NOTHING_MASKED = np.zeros((1, 3), dtype=np.bool_)


def gated(*, trained: bool = True, reverse: bool = False) -> tuple[Toy, Gates]:
    """The toy with three modules whose B and gates are off their start."""
    model = Toy.from_config(CONFIG, seed=1)
    modules = attach(model, targets=body_targets(model) + head_targets(model), rank=2, alpha=4.0, dropout=0.5, seed=3)
    gates = Gates(modules[::-1] if reverse else modules, trained=trained)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module, gate, value in zip(gates.modules, gates.gates, (0.8, -1.5, 1.2), strict=True):
            module.lora_B.weight.copy_(0.3 * torch.randn(module.lora_B.weight.shape, generator=generator))
            gate.value.fill_(value)
    return model.eval(), gates


def batch(size: int = 12) -> Batch:
    """Windows with missing targets: one whole, one all but a step."""
    generator = torch.Generator().manual_seed(5)
    context, target = torch.randn(size, 32, generator=generator), torch.randn(size, 6, generator=generator)
    target[1] = torch.nan
    target[2, 1:] = torch.nan
    target[4, 3] = torch.nan
    return Batch(context=context, target=target)


def part(whole: Batch, rows: slice) -> Batch:
    return Batch(context=whole.context[rows], target=whole.target[rows])


class TestMask:
    def test_attaching_changes_no_forecast(self) -> None:
        plain, context = Toy.from_config(CONFIG, seed=1).eval(), batch().context
        model = Toy.from_config(CONFIG, seed=1).eval()
        Gates(attach(model, targets=body_targets(model), rank=2, alpha=4.0, dropout=0.0, seed=3), trained=True)
        assert torch.equal(model.predict(context, 6).point, plain.predict(context, 6).point)

    @pytest.mark.parametrize("masked", [(0,), (2,), (0, 1)])
    def test_masking_is_zeroing_b(self, masked: tuple[int, ...]) -> None:
        context = batch().context
        model, gates = gated()
        gates.keep(np.array([i not in masked for i in range(3)]))
        other, others = gated()
        with torch.no_grad():
            for i in masked:
                others.modules[i].lora_B.weight.zero_()
        assert torch.equal(model.predict(context, 6).point, other.predict(context, 6).point)

    def test_a_mask_taken_back_restores_the_forecast(self) -> None:
        model, gates = gated()
        before = model.predict(batch().context, 6).point
        gates.keep(np.array([False, True, False]))
        assert not torch.equal(model.predict(batch().context, 6).point, before)
        gates.keep(np.array([True, True, True]))
        assert torch.equal(model.predict(batch().context, 6).point, before)

    def test_a_masked_module_gets_no_gradient_and_adamw_leaves_it(self) -> None:
        model, gates = gated()
        gates.keep(np.array([True, False, True]))
        rests = [*gates.modules[1].layer.lora_A.parameters(), gates.modules[1].lora_B.weight, gates.gates[1].value]
        before = [p.detach().clone() for p in rests]
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
        moving = gates.modules[0].lora_B.weight.detach().clone()
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            model.loss(batch()).backward()
            assert all(p.grad is None for p in rests)
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(before, rests, strict=True))
        assert not torch.equal(moving, gates.modules[0].lora_B.weight)

    def test_folding_the_gate_into_b_is_the_same_function(self) -> None:
        model, _ = gated()
        other, others = gated()
        with torch.no_grad():
            for (module, value), gate in zip(others.survivors(), others.gates, strict=True):
                module.lora_B.weight.copy_(module.low_rank(gate=value).b)
                gate.value.fill_(1.0)
        context = batch().context
        torch.testing.assert_close(model.predict(context, 6).point, other.predict(context, 6).point)

    def test_magnitude_is_the_norm_of_the_whole_update(self) -> None:
        _, gates = gated(trained=False)
        for module, value, norm in zip(gates.modules, (0.8, -1.5, 1.2), gates.magnitudes(), strict=True):
            update = value * module.scaling * module.lora_B.weight.detach() @ module.lora_A.weight.detach()
            assert norm == pytest.approx(float(update.norm()), rel=1e-5)


class TestMeasure:
    def test_is_the_derivative_of_each_windows_own_loss(self) -> None:
        """Against central differences of g in windows taken one by one, with a module masked: at ξ = 0 too."""
        whole, masks = batch(), np.array([[False, True, False]])
        model, gates = gated()
        found = gates.measure(model, [whole], masks, form="gradient")[0]
        rows = [part(whole, slice(w, w + 1)) for w in range(12) if w != 1]
        with torch.no_grad():
            gates.gates[1].value.zero_()
            for i, gate in enumerate(gates.gates):
                slopes, at, epsilon = [], float(gate.value), 1e-2
                for row in rows:
                    gate.value.fill_(at + epsilon)
                    above = model.loss(row)
                    gate.value.fill_(at - epsilon)
                    slopes.append(float(above - model.loss(row)) / (2 * epsilon))
                gate.value.fill_(at)
                assert found[i] == pytest.approx(float(np.abs(slopes).mean()), rel=0.05), NAMES[i]

    def test_does_not_depend_on_how_windows_are_batched(self) -> None:
        model, gates = gated()
        whole, masks = batch(), np.array([[True, False, False], [False, False, True]])
        one = gates.measure(model, [whole], masks, form="taylor")
        other = gates.measure(model, [part(whole, slice(0, 5)), part(whole, slice(5, 12))], masks, form="taylor")
        np.testing.assert_allclose(one, other, rtol=1e-4)

    def test_what_does_not_fit_in_memory_is_measured_in_halves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, gates = gated()
        expected = gates.measure(model, [batch()], NOTHING_MASKED, form="taylor")
        whole = Toy.loss

        def small(self: Toy, given: Batch) -> torch.Tensor:
            if len(given.target) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return whole(self, given)

        monkeypatch.setattr(Toy, "loss", small)
        np.testing.assert_allclose(gates.measure(model, [batch()], NOTHING_MASKED, form="taylor"), expected, rtol=1e-4)

    def test_taylor_is_the_gradient_times_the_gate(self) -> None:
        model, gates = gated()
        gradient = gates.measure(model, [batch()], NOTHING_MASKED, form="gradient")
        taylor = gates.measure(model, [batch()], NOTHING_MASKED, form="taylor")
        np.testing.assert_allclose(taylor, gradient * np.array([0.8, 1.5, 1.2]), rtol=1e-6)

    def test_follows_names_not_the_order_of_registration(self) -> None:
        masks = np.array([[True, False, False]])
        (model, gates), (other, others) = gated(), gated(reverse=True)
        assert gates.names == others.names == NAMES
        one = gates.measure(model, [batch()], masks, form="taylor")
        assert (one == others.measure(other, [batch()], masks, form="taylor")).all()

    def test_masked_modules_are_measured_like_the_others(self) -> None:
        model, gates = gated()
        before = gates.measure(model, [batch()], NOTHING_MASKED, form="taylor")
        gates.keep(np.array([True, False, False]))
        assert (gates.measure(model, [batch()], NOTHING_MASKED, form="taylor") == before).all()
        assert (before > 0).all()

    def test_leaves_mode_gradients_and_generators_as_they_were(self) -> None:
        model, gates = gated()
        model.train()
        torch.manual_seed(4)
        expected = torch.rand(3)
        torch.manual_seed(4)
        gates.measure(model, [batch()], NOTHING_MASKED, form="taylor")
        assert torch.equal(torch.rand(3), expected), "measured without dropout"
        assert model.training
        assert all(p.grad is None for p in model.parameters())
        assert all(gate.probe is None for gate in gates.gates)

    def test_before_b_has_trained_every_importance_is_zero(self) -> None:
        model, gates = gated()
        with torch.no_grad():
            for module in gates.modules:
                module.lora_B.weight.zero_()
        assert (gates.measure(model, [batch()], NOTHING_MASKED, form="taylor") == 0).all()

    def test_rows_that_do_not_belong_to_windows_are_refused(self) -> None:
        model, gates = gated()
        gates.modules[0].lora_B.register_forward_pre_hook(lambda _, given: (given[0][:-1],), prepend=True)
        with pytest.raises(ValueError, match="rows for 11 windows"):
            gates.measure(model, [batch()], NOTHING_MASKED, form="taylor")
