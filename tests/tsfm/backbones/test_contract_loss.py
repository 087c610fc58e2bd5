"""What `tsfm.backbones.base` promises of every backbone's loss, on each class of the catalogue."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.tsfm.backbones.contract import NAN, Case, every_network, hard_rows
from tsfm.backbones.base import Backbone, Batch

SEED = 7
"""Of the global generator while a loss is computed: dropout, and the noise of flows."""


def loss_of(model: Backbone, batch: Batch) -> Tensor:
    torch.manual_seed(SEED)
    return model.loss(batch)


def gradients(model: Backbone, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(model, batch).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(autouse=True)
def _global_generator() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


@every_network
class TestLoss:
    def test_a_finite_scalar_below_at_and_beyond_one_pass(self, case: Case) -> None:
        for horizon in (1, case.short, case.native, case.beyond):
            loss = loss_of(case.model, case.batch(2, horizon))
            assert loss.shape == ()
            assert loss.dtype == torch.float32
            assert 0 < float(loss) < 1e3

    def test_no_target_at_all_gives_zero_with_a_gradient_path(self, case: Case) -> None:
        model, batch = case.fresh(), case.batch(2)
        empty = Batch(context=batch.context, target=torch.full_like(batch.target, NAN))
        assert float(loss_of(model, empty).detach()) == 0
        assert not any(g.any() for g in gradients(model, empty).values())

    def test_targets_that_are_missing_at_the_end_are_as_a_shorter_horizon(self, case: Case) -> None:
        batch = case.batch(2)
        steps = batch.target.shape[1] - 2
        partly = batch.target.clone()
        partly[:, steps:] = NAN
        short = loss_of(case.model, Batch(context=batch.context, target=batch.target[:, :steps]))
        long = loss_of(case.model, Batch(context=batch.context, target=partly))
        torch.testing.assert_close(long, short, rtol=1e-4, atol=1e-5)
        assert float(short) != float(loss_of(case.model, batch))

    def test_gaps_in_the_targets_are_not_looked_at(self, case: Case) -> None:
        """Gradients stay finite, and a row without any target is as if it were not there."""
        model, batch = case.fresh(), case.batch(3)
        target = batch.target.clone()
        target[0, 1] = NAN
        target[2] = NAN
        found = gradients(model, Batch(context=batch.context, target=target))
        without = gradients(model, Batch(context=batch.context[:2], target=target[:2]))
        assert found.keys() == without.keys()
        for name, gradient in found.items():
            assert gradient.isfinite().all(), name
            torch.testing.assert_close(gradient, without[name], rtol=1e-3, atol=1e-5, msg=name)

    def test_rows_count_by_their_observed_targets(self, case: Case) -> None:
        """What makes micro-batches add up, and lets TRACE read one window's own loss out of a batch's."""
        batch = case.batch(2)
        target = batch.target.clone()
        target[1, 2:] = NAN
        if loss_of(case.model, batch) != case.model.loss(batch):
            pytest.skip("this loss draws noise, another for each row")
        together = loss_of(case.model, Batch(context=batch.context, target=target))
        alone = [
            loss_of(case.model, Batch(context=batch.context[i : i + 1], target=target[i : i + 1])) for i in range(2)
        ]
        counts = (~target.isnan()).sum(1)
        expected = (alone[0] * counts[0] + alone[1] * counts[1]) / counts.sum()
        torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)

    def test_hard_contexts_give_finite_gradients_and_inputs_are_not_mutated(self, case: Case) -> None:
        model, context = case.fresh(), hard_rows(case)
        target = case.batch(len(context)).target.clone()
        target[1, :3] = NAN
        before = context.clone(), target.clone()
        found = gradients(model.train(), Batch(context=context, target=target))
        assert all(g.isfinite().all() for g in found.values())
        assert torch.equal(context.nan_to_num(99.0), before[0].nan_to_num(99.0))
        assert torch.equal(target.nan_to_num(99.0), before[1].nan_to_num(99.0))

    def test_bfloat16_stays_close(self, case: Case) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = loss_of(case.model, case.batch(2))
        torch.testing.assert_close(rough.float(), loss_of(case.model, case.batch(2)), rtol=0.1, atol=0.02)

    def test_checkpointed_blocks_give_the_same_loss_and_gradients_and_keep_less(self, case: Case) -> None:
        model, batch = case.fresh().train(), case.batch(2)
        kept: list[int] = []
        found: list[dict[str, Tensor]] = []
        for model.gradient_checkpointing in (False, True):
            sizes: list[int] = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
            ):
                loss = loss_of(model, batch)
            kept.append(sum(sizes))
            found.append({"loss": loss.detach(), **gradients(model, batch)})
        assert found[0].keys() == found[1].keys()
        for name, value in found[0].items():
            torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6, msg=name)
        assert kept[1] < kept[0]

    def test_curvature_can_be_measured(self, case: Case) -> None:
        """What the landscape does: the gradient of a gradient, with attention in its plain form."""
        model, batch = case.fresh(), case.batch(2)
        parameters = [p for name, p in model.named_parameters() if name not in model.unused_parameters]
        with sdpa_kernel(SDPBackend.MATH):
            slopes = torch.autograd.grad(loss_of(model, batch), parameters, create_graph=True, allow_unused=True)
            slope = torch.stack([slope.sum() for slope in slopes if slope is not None]).sum()
            found = torch.autograd.grad(slope, parameters, allow_unused=True)
        products = [product for product in found if product is not None]
        assert all(product.isfinite().all() for product in products)
        assert any(product.any() for product in products)
