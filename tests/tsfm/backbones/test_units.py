"""UniTS: what is particular to it. Every backbone's contract: test_contract*.py; the authors' numbers: tests/parity."""

import re

import pytest
import torch
from torch import Tensor

from tsfm.backbones.units import DynamicLinear, UniTS
from tsfm.errors import ConfigError

NAN = torch.nan
SMALL = {"d_model": 16, "n_heads": 2, "e_layers": 2, "patch_len": 4, "token_map_size": 24, "context_length": 32}


def small(**changes: object) -> UniTS:
    return UniTS.from_config({**SMALL, **changes}, seed=0).eval().requires_grad_(False)


def rows(count: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.sin(torch.arange(length) / 3) + 0.3 * torch.randn(count, length, generator=generator)


class TestConstruction:
    def test_overlapping_patches_and_heads_that_do_not_divide_the_width_are_refused(self) -> None:
        for wrong in ({"stride": 2}, {"n_heads": 3}):
            with pytest.raises(ConfigError):
                small(**wrong)
        assert small(stride=4, right_prob=0.5).config == small().config

    def test_what_forecasting_never_calls_is_unused(self) -> None:
        """The rest has a gradient."""
        model = UniTS.from_config(SMALL, seed=0)
        model.predict(rows(2, 32), 6).point.square().sum().backward()  # type: ignore[no-untyped-call]
        without = {name for name, p in model.named_parameters() if p.grad is None}
        assert without == model.unused_parameters
        assert "blocks.1.var_att_block.proj.weight" in without

    def test_adapters_go_beside_projections_of_both_attentions_and_the_narrowing_linear(self) -> None:
        """`fc1` is a convolution, and the outer `proj` of a block is dead weight."""
        found = [name for name, _ in small().named_modules() if re.fullmatch(UniTS.lora_targets, name)]
        assert len(found) == 2 * 5
        assert not any(name.endswith(("_block.proj", "fc1")) for name in found)


class TestPublishedTensors:
    def test_shared_tokens_are_means_over_variates_and_then_over_datasets(self) -> None:
        file = {
            "module.prompt_tokens.A": torch.tensor([1.0, 3.0]).view(1, 2, 1, 1),
            "module.prompt_tokens.B-b": torch.tensor([8.0]).view(1, 1, 1, 1),
            "module.mask_tokens.A": torch.tensor([4.0, 0.0]).view(1, 2, 1, 1),
            "module.cls_tokens.CLS_A": torch.tensor([5.0]).view(1, 1, 1, 1),
            "module.category_tokens.CLS_A": torch.zeros(1, 1, 3, 1),
            "module.prompt2forecat.bias": torch.ones(2),
        }
        mapped = UniTS.published_tensors(file)
        assert {name: float(t.flatten()[0]) for name, t in mapped.items()} == {
            "prompt_token": 5.0,
            "mask_token": 2.0,
            "cls_token": 5.0,
            "prompt2forecat.bias": 1.0,
        }
        assert UniTS.published_tensors(mapped).keys() == mapped.keys()


class TestDynamicLinear:
    def test_at_its_stored_size_it_is_a_linear_and_prompts_keep_their_columns(self) -> None:
        torch.manual_seed(0)
        layer = DynamicLinear(7, 5, fixed=3).requires_grad_(False)
        x = torch.randn(2, 7)
        torch.testing.assert_close(layer(x, 5), x @ layer.weights.T + layer.bias)
        only_prompts = torch.cat([x[:, :3], torch.zeros(2, 9)], dim=1)
        expected = x[:, :3] @ layer.weights[:, :3].T + layer.bias
        torch.testing.assert_close(layer(only_prompts, 5), expected)
        assert layer(only_prompts, 11).shape == (2, 11)


class TestForecast:
    def test_rows_of_other_lengths_are_as_if_they_were_alone(self) -> None:
        """Three numbers of patches in one batch, and none of it depends on what stands before the first value."""
        model, x = small(), rows(5, 32)
        x[1, :9], x[2, :21], x[3, :11], x[4] = NAN, NAN, NAN, NAN
        together = model.predict(x, 7).point
        for i, start in enumerate([0, 9, 21, 11, 31]):
            torch.testing.assert_close(together[i : i + 1], model.predict(x[i : i + 1, start:], 7).point)
        assert together.isfinite().all()

    def test_lengths_that_are_no_whole_patches_are_filled_on_the_left(self) -> None:
        """By the first value; it does not enter the statistics."""
        model, x = small(), rows(2, 10)
        location, scale = x.mean(1, keepdim=True), (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        filled = torch.cat([x[:, :1].expand(-1, 2), x], dim=1)
        out = model.read(((filled - location) / scale)[:, None], torch.zeros(2, 1, 3, dtype=torch.bool), 2)
        torch.testing.assert_close(model.predict(x, 6).point, out.values[:, 0, 12:18] * scale + location)

    def test_a_horizon_within_a_patch_is_a_cut_and_another_number_of_patches_another_forecast(self) -> None:
        model, x = small(), rows(2, 32)
        assert torch.equal(model.predict(x, 5).point, model.predict(x, 8).point[:, :5])
        assert not torch.allclose(model.predict(x, 8).point, model.predict(x, 9).point[:, :8], atol=1e-4)
        with pytest.raises(ConfigError, match="720"):
            model.predict(x, 721)

    def test_a_patch_without_values_is_a_mask_token_and_a_smaller_gap_a_line(self) -> None:
        model, x = small(), rows(1, 32)
        gap, line = x.clone(), x.clone()
        gap[0, 9:11] = NAN
        line[0, 9:11] = torch.lerp(x[0, 8], x[0, 11], torch.tensor([1 / 3, 2 / 3]))
        torch.testing.assert_close(model.predict(gap, 4).point, model.predict(line, 4).point, atol=2e-2, rtol=0.0)
        x[0, 8:12] = NAN
        hidden = torch.zeros(1, 1, 8, dtype=torch.bool)
        hidden[0, 0, 2] = True
        known = x[~x.isnan()]
        location, scale = known.mean(), (known.var(correction=0) + 1e-5).sqrt()
        out = model.read(((x.nan_to_num(55.0) - location) / scale)[:, None], hidden, 1).values[:, 0, 32:]
        torch.testing.assert_close(model.predict(x, 4).point, out * scale + location)

    def test_variates_that_begin_later_are_hidden_until_then(self) -> None:
        model, x = small(), rows(4, 32).view(2, 2, 32).transpose(1, 2).contiguous()
        x[0, :20, 1] = NAN
        said = model.forecast_channels(x, 4)
        assert said.shape == (2, 4, 2)
        assert said.isfinite().all()
        torch.testing.assert_close(said[1:], model.forecast_channels(x[1:], 4))
        assert not torch.allclose(said[0, :, 0], model.predict(x[:1, :, 0], 4).point[0], atol=1e-4)
