"""What `tsfm.backbones.base` promises of every backbone, on each class of the catalogue: construction and forecasts.

Losses and training: test_contract_loss.py; methods: test_contract_methods.py. A new entry of the catalogue runs through
all of it without a line here.
"""

import json
from functools import cache

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from tests.tsfm.backbones.contract import NAN, OTHER_SIZES, Case, every_checkpoint, every_network, hard_rows, padded
from tsfm import catalog
from tsfm.backbones import implementation
from tsfm.backbones.base import Backbone
from tsfm.backbones.weights import load_tensors, tensors_of
from tsfm.errors import WeightsError
from tsfm.spec import BackboneSpec
from tsfm.tasks.forecast import BackboneSource

CLOSE = {"rtol": 1e-5, "atol": 2e-5}
"""On answers of order one: float32 in another order of summation."""
MOST_SHRUNK_PARAMETERS = 1_000_000


def answers(model: Backbone, context: Tensor, steps: int) -> Tensor:
    """[B, 1 + Q, H] point and quantiles."""
    with torch.inference_mode():
        said = model.predict(context, steps)
    return said.point[:, None] if said.quantiles is None else torch.cat([said.point[:, None], said.quantiles], dim=1)


@cache
def published(name: str) -> Backbone:
    """On the meta device: no memory."""
    cls = implementation(catalog.backbone(name))
    with torch.device("meta"):
        return cls.from_config(cls.configs[name], seed=0)


@every_checkpoint
class TestPublishedSizes:
    def test_the_architecture_has_the_catalogue_s_parameters(self, spec: BackboneSpec) -> None:
        """Parameters that no checkpoint holds do not count."""
        model = published(spec.name)
        held = {name: p for name, p in model.named_parameters() if name not in model.fresh_parameters}
        assert sum(p.numel() for p in held.values()) == spec.num_parameters
        assert all(p.is_meta for p in held.values())

    def test_its_config_is_json_and_rebuilds_it(self, spec: BackboneSpec) -> None:
        model = published(spec.name)
        with torch.device("meta"):
            again = type(model).from_config(json.loads(json.dumps(model.config)), seed=0)
        assert again.config == model.config
        assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}


@every_network
class TestConstruction:
    def test_a_seed_decides_the_weights_and_the_global_generator_is_left_alone(self, case: Case) -> None:
        torch.manual_seed(11)
        before = torch.get_rng_state()
        first, again, other = (dict(case.fresh(seed).named_parameters()) for seed in (3, 3, 4))
        assert torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(first[name], again[name]) for name in first)
        targets = [name for name, p in first.items() if p.ndim >= 2 and name not in case.model.unused_parameters]
        same = [name for name in targets if torch.equal(first[name], other[name])]
        assert len(same) <= 0.1 * len(targets), f"the same in every random network: {same}"

    def test_the_random_initialisation_is_trainable(self, case: Case) -> None:
        """A matrix of zeros is what publications start a branch with that pretraining opened long ago."""
        names = [
            name
            for name, p in case.fresh().named_parameters()
            if p.ndim >= 2 and name not in case.model.unused_parameters and not p.any()
        ]
        assert not names

    def test_the_tiny_size_is_tiny(self, case: Case) -> None:
        assert sum(p.numel() for p in case.model.parameters()) < MOST_SHRUNK_PARAMETERS

    def test_its_config_rebuilds_it_head_and_all(self, case: Case) -> None:
        again = case.cls.from_config(json.loads(json.dumps(case.model.config)), seed=1)
        assert again.config == case.model.config
        assert {n: t.shape for n, t in tensors_of(again).items()} == {
            n: t.shape for n, t in tensors_of(case.model).items()
        }

    def test_saved_and_loaded_strictly_it_says_the_same(self, case: Case) -> None:
        stored = load(save({name: t.contiguous() for name, t in tensors_of(case.model).items()}))
        other = case.cls.from_config(case.model.config, seed=5).eval()
        said = answers(case.model, case.rows(), case.short)
        assert not torch.equal(answers(other, case.rows(), case.short), said)
        load_tensors(other, stored)
        own = tensors_of(case.model)
        assert all(torch.equal(t, own[name]) for name, t in tensors_of(other).items())
        # Not to the bit: BLAS rounds by where in memory a matrix begins.
        torch.testing.assert_close(answers(other, case.rows(), case.short), said, rtol=1e-6, atol=2e-6)
        with pytest.raises(WeightsError, match="missing"):
            load_tensors(other, dict(list(stored.items())[1:]))

    def test_names_that_the_class_states_are_the_network_s(self, case: Case) -> None:
        names = {name for name, _ in case.model.named_parameters()}
        assert case.model.unused_parameters <= names
        assert case.model.fresh_parameters <= names
        assert case.model.head_parameter_names()
        assert case.model.head_parameter_names() <= names
        if case.spec.replaceable_head:
            assert case.cls.head_linear is not None
            linear = case.model.get_submodule(case.cls.head_linear)
            tokens, width = case.model.head_shape()
            assert isinstance(linear, torch.nn.Linear)
            assert linear.in_features == tokens * width


@every_network
class TestPredict:
    def test_shapes_and_kinds_below_at_and_beyond_one_pass(self, case: Case) -> None:
        for horizon in (1, case.short, case.native, case.beyond):
            said = case.model.predict(case.rows(2), horizon)
            assert said.point.shape == (2, horizon)
            assert said.point.dtype == torch.float32
            assert said.point.isfinite().all()
            assert said.point_kind in ("mean", "median")
            assert said.levels == case.spec.quantile_levels
            if said.quantiles is None:
                assert said.levels == ()
                continue
            assert said.quantiles.shape == (2, len(said.levels), horizon)
            assert said.quantiles.isfinite().all()
            assert (said.quantiles.diff(dim=1) >= 0).all()
            if said.point_kind == "median" and 0.5 in said.levels:
                torch.testing.assert_close(said.point, said.quantiles[:, said.levels.index(0.5)], **CLOSE)

    def test_beyond_one_pass_serving_asks_as_the_network_goes_on_itself(self, case: Case) -> None:
        x, context_length = case.rows(2), case.spec.context_length
        block = case.spec.block_length(case.native if case.spec.random_head else None)
        source = BackboneSource(case.model, block_length=block, context_length=context_length, cut_from_block=False)
        with torch.inference_mode():
            point, _ = source.roll(x, case.beyond)
            torch.testing.assert_close(point, case.model.predict(x, case.beyond).point, **CLOSE)

    def test_the_same_answer_every_time_whatever_the_global_generator(self, case: Case) -> None:
        x = case.rows(2)
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = answers(case.model, x, case.short)
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(2)
        assert torch.equal(first, answers(case.model, x, case.short))

    def test_a_batch_equals_its_items_one_by_one(self, case: Case) -> None:
        x = hard_rows(case)
        together = answers(case.model, x, case.short)
        alone = torch.cat([answers(case.model, row[None], case.short) for row in x])
        torch.testing.assert_close(together, alone, **CLOSE)

    def test_left_padding_changes_nothing(self, case: Case) -> None:
        """By single steps and by whole patches, as far as the context goes."""
        room = case.spec.context_length
        x = case.rows(2, min(case.length, room - min(3 + case.spec.patch_length, room // 2)))
        said = answers(case.model, x, case.short)
        for steps in (1, 3 + case.spec.patch_length, room - x.shape[1]):
            if x.shape[1] + steps <= room:
                torch.testing.assert_close(answers(case.model, padded(x, steps), case.short), said, **CLOSE)

    def test_missing_constant_and_empty_rows_are_finite(self, case: Case) -> None:
        x = hard_rows(case)
        assert answers(case.model, x, case.native).isfinite().all()
        assert answers(case.model, x[:, -1:], case.short).isfinite().all()

    def test_a_gap_is_not_a_zero(self, case: Case) -> None:
        x = case.rows(2, level=4.0)
        x[:, -12:-5] = NAN
        said = answers(case.model, x, case.short)
        assert not torch.allclose(said, answers(case.model, x.nan_to_num(), case.short), atol=1e-3)

    def test_only_the_last_context_counts(self, case: Case) -> None:
        longer = case.rows(1, case.spec.context_length + 3)
        cut = longer[:, 3:]
        torch.testing.assert_close(
            answers(case.model, longer, case.short), answers(case.model, cut, case.short), **CLOSE
        )

    def test_inputs_are_not_mutated_and_gradients_reach_them(self, case: Case) -> None:
        x = hard_rows(case)
        kept = x.clone()
        leaf = x.requires_grad_()
        case.model.predict(leaf, case.short).point.sum().backward()  # type: ignore[no-untyped-call]
        assert torch.equal(x.detach().nan_to_num(99.0), kept.nan_to_num(99.0))
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()

    def test_bfloat16_stays_close(self, case: Case) -> None:
        x = case.rows(2, level=3.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = answers(case.model, x, case.short)
        assert rough.isfinite().all()
        torch.testing.assert_close(rough.float(), answers(case.model, x, case.short), rtol=0.1, atol=0.25)


@pytest.mark.parametrize("case", OTHER_SIZES, ids=lambda case: case.spec.name)
def test_other_sizes_of_a_class_forecast_and_learn(case: Case) -> None:
    model = case.fresh()
    assert answers(model, hard_rows(case), case.beyond).isfinite().all()
    model.train().loss(case.batch(2)).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
