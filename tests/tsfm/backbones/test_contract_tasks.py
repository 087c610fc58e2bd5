"""What scoring points and filling gaps need of every network: the protocol's optional answers, and its objective."""

import pytest
import torch
from torch import Tensor

from tests.tsfm.backbones.contract import CASES, NAN, Case, every_network, hard_rows, padded
from tsfm.backbones.base import Backbone, Batch, bridged

reconstructing = pytest.mark.parametrize(
    "case", [case for case in CASES if case.cls.reconstructs], ids=lambda case: case.spec.name
)
following = pytest.mark.parametrize(
    "case", [case for case in CASES if case.cls.follows], ids=lambda case: case.spec.name
)


def published(case: Case) -> Backbone:
    """The network with the head it was published with."""
    return case.cls.from_config(case.config, seed=0).eval().requires_grad_(False)


def hidden_in(values: Tensor, begin: int, end: int) -> Tensor:
    hidden = torch.zeros_like(values, dtype=torch.bool)
    hidden[:, begin:end] = True
    return hidden


def gaps(case: Case, count: int = 4, *, horizon: int = 6, seed: int = 0) -> Batch:
    rows = case.rows(count, 2 * case.length // 2 + horizon, seed=seed)
    begin = case.length // 2
    gap = torch.arange(count) % horizon + 1
    target = torch.where(torch.arange(horizon) < gap[:, None], rows[:, begin : begin + horizon], NAN)
    after = torch.stack([row[begin + g :][: begin - horizon] for row, g in zip(rows, gap.tolist(), strict=True)])
    return Batch(context=rows[:, :begin], target=target, after=after, gap=gap)


@every_network
class TestScorings:
    def test_the_catalogue_says_what_the_class_can(self, case: Case) -> None:
        assert case.spec.reconstructs == case.cls.reconstructs
        assert ("every_patch" in case.spec.scorings) == case.cls.follows
        assert "forecast" in case.spec.scorings

    def test_what_a_class_cannot_is_refused_by_name(self, case: Case) -> None:
        model, x = published(case), case.rows(1)
        if not case.cls.reconstructs:
            with pytest.raises(Exception, match="does not reconstruct"):
                model.reconstruct(x, x > 0)
        if not case.cls.follows:
            with pytest.raises(Exception, match="patch by patch"):
                model.predict_patches(x, x)

    def test_every_network_has_an_objective_for_gaps_that_reaches_its_weights(self, case: Case) -> None:
        model = published(case) if case.cls.reconstructs else case.fresh()
        model.requires_grad_(True)
        loss = model.objective(gaps(case))
        loss.backward()
        moved = sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)
        assert torch.isfinite(loss)
        assert moved > 0

    def test_gaps_without_anything_observed_give_no_loss(self, case: Case) -> None:
        model = (published(case) if case.cls.reconstructs else case.fresh()).requires_grad_(False)
        batch = gaps(case)
        empty = Batch(
            context=batch.context, target=torch.full_like(batch.target, NAN), after=batch.after, gap=batch.gap
        )
        assert float(model.objective(empty)) == pytest.approx(0.0, abs=1e-6)


@reconstructing
class TestReconstruct:
    def test_what_is_hidden_is_not_looked_at(self, case: Case) -> None:
        model, x = published(case), case.rows()
        begin = len(x[0]) // 2
        hidden = hidden_in(x, begin, begin + 9)
        said = model.reconstruct(x, hidden)
        other = model.reconstruct(torch.where(hidden, 50.0, x), hidden)
        assert said.point.shape == x.shape
        assert torch.equal(said.point, other.point)

    def test_both_sides_count(self, case: Case) -> None:
        model, x = published(case), case.rows(length=6 * max(case.spec.patch_length, 16))
        begin = len(x[0]) // 2
        hidden = hidden_in(x, begin, begin + 9)
        said = model.reconstruct(x, hidden).point[:, begin : begin + 9]
        for side in (slice(0, 16), slice(len(x[0]) - 16, None)):
            changed = x.clone()
            changed[:, side] += torch.linspace(0, 3, 16)
            assert not torch.allclose(said, model.reconstruct(changed, hidden).point[:, begin : begin + 9], atol=1e-4)

    def test_hard_rows_are_finite_where_hidden(self, case: Case) -> None:
        model, x = published(case), hard_rows(case)
        for begin in (0, x.shape[1] // 2, x.shape[1] - 9):
            said = model.reconstruct(x, hidden_in(x, begin, begin + 9))
            assert torch.isfinite(said.point[:, begin : begin + 9]).all()
            if said.quantiles is not None:
                assert (said.quantiles[..., begin : begin + 9].diff(dim=1) >= -1e-5).all()

    def test_a_batch_equals_its_rows_one_by_one(self, case: Case) -> None:
        model, x = published(case), hard_rows(case)
        hidden = hidden_in(x, x.shape[1] // 2, x.shape[1] // 2 + 9)
        whole = model.reconstruct(x, hidden).point
        for i in range(len(x)):
            one = model.reconstruct(x[i : i + 1], hidden[i : i + 1]).point
            assert torch.allclose(whole[i : i + 1][hidden[i : i + 1]], one[hidden[i : i + 1]], atol=1e-4)

    def test_left_padding_changes_nothing(self, case: Case) -> None:
        model, x = published(case), case.rows(length=min(case.length, case.spec.context_length - 64))
        hidden = hidden_in(x, 40, 49)
        wide = padded(x, 64), torch.nn.functional.pad(hidden, (64, 0))
        said, shifted = model.reconstruct(x, hidden).point, model.reconstruct(*wide).point
        assert torch.allclose(said[:, 40:49], shifted[:, 104:113], atol=1e-4)

    def test_the_loss_counts_observed_points_that_were_hidden(self, case: Case) -> None:
        model, x = published(case), case.rows()
        hidden = hidden_in(x, 40, 49)
        holed = x.clone()
        holed[:, 41:] = torch.where(hidden[:, 41:], NAN, holed[:, 41:])
        one = hidden_in(x, 40, 41)
        assert torch.isfinite(model.reconstruction_loss(x, hidden))
        assert float(model.reconstruction_loss(holed, hidden)) != float(model.reconstruction_loss(x, hidden))
        assert float(model.reconstruction_loss(x, one & ~one)) == pytest.approx(0.0, abs=1e-6)


@following
class TestPredictPatches:
    def test_no_step_depends_on_its_own_patch_or_a_later_one(self, case: Case) -> None:
        p = case.spec.patch_length
        model, rows = case.model, case.rows(3, case.length + 4 * p)
        context, target = rows[:, : case.length], rows[:, case.length :]
        said = model.predict_patches(context, target)
        changed = target.clone()
        changed[:, 2 * p :] += 5.0
        changed[:, 2 * p + 1] = NAN
        other = model.predict_patches(context, changed)
        assert said.point.shape == target.shape
        assert torch.equal(said.point[:, : 3 * p], other.point[:, : 3 * p])
        assert not torch.allclose(said.point[:, 3 * p :], other.point[:, 3 * p :], atol=1e-4)

    def test_the_first_patch_is_the_forecast(self, case: Case) -> None:
        p = case.spec.patch_length
        rows = case.rows(3, case.length + p)
        context, target = rows[:, : case.length], rows[:, case.length :]
        said = case.model.predict_patches(context, target).point
        assert torch.allclose(said, case.model.predict(context, p).point, atol=1e-4)

    def test_hard_rows_are_finite(self, case: Case) -> None:
        p = case.spec.patch_length
        x = hard_rows(case)
        target = torch.cat([x[:, -p:], x[:, -p:]], dim=1)
        target[2, 3:7] = NAN
        assert torch.isfinite(case.model.predict_patches(x, target).point).all()


class TestBatch:
    def test_a_gap_is_bridged_and_what_follows_it_comes_at_once(self) -> None:
        context, after = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[5.0, 6.0], [4.0, 5.0]])
        seen = bridged(context, after, torch.tensor([2, 1]), horizon=2)
        want = torch.tensor([[1, 2, NAN, NAN, 5, 6], [1, 2, NAN, 4, 5, NAN]])
        assert torch.equal(seen.nan_to_num(-1), want.nan_to_num(-1))

    def test_whole_puts_the_truth_where_it_is_hidden(self) -> None:
        batch = Batch(
            context=torch.tensor([[1.0, 2.0]]),
            target=torch.tensor([[3.0, NAN]]),
            after=torch.tensor([[4.0, 5.0]]),
            gap=torch.tensor([1]),
        )
        values, hidden = batch.whole()
        assert values.nan_to_num(-1).tolist() == [[1, 2, 3, 4, 5, -1]]
        assert hidden.tolist() == [[False, False, True, False, False, False]]

    def test_backwards_reverses_time_and_the_gap(self) -> None:
        batch = Batch(
            context=torch.tensor([[1.0, 2.0], [1.0, 2.0]]),
            target=torch.tensor([[3.0, 4.0, NAN], [3.0, NAN, NAN]]),
            after=torch.tensor([[5.0, 6.0], [NAN, NAN]]),
            gap=torch.tensor([2, 1]),
        )
        back = batch.backwards()
        assert back.context.nan_to_num(-1).tolist() == [[6, 5], [-1, -1]]
        assert back.target.nan_to_num(-1).tolist() == [[4, 3, -1], [-1, -1, -1]]
