"""TTM: the contract of a backbone, and what the methods count on. Equality with IBM's code: tests/parity."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.data import data_path
from tsfm import catalog
from tsfm.backbones import build
from tsfm.backbones.base import Batch
from tsfm.backbones.layers import Dropout
from tsfm.backbones.ttm import TTM
from tsfm.errors import ConfigError

SMALL = {
    "context_length": 32,
    "prediction_length": 12,
    "patch_length": 8,
    "patch_stride": 8,
    "d_model": 16,
    "num_layers": 1,
    "adaptive_patching_levels": 2,
    "decoder_num_layers": 1,
    "decoder_d_model": 8,
    "dropout": 0.2,
    "head_dropout": 0.2,
}
NAN = torch.nan


def small(seed: int = 0, **changes: object) -> TTM:
    return TTM.from_config({**SMALL, **changes}, seed=seed).eval()


def rows(count: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.sin(torch.arange(length) / 3) + 0.3 * torch.randn(count, length, generator=generator)


def adapted(model: TTM) -> list[torch.nn.Linear]:
    found = [m for name, m in model.named_modules() if re.fullmatch(TTM.lora_targets, name)]
    assert all(isinstance(m, torch.nn.Linear) for m in found)
    return found  # type: ignore[return-value]  # just asserted


@pytest.fixture(scope="module")
def published() -> TTM:
    """The published sizes, random weights."""
    model = build("ttm-r2", TTM.configs["ttm-r2"], seed=0)
    assert isinstance(model, TTM)
    return model


class TestConstruction:
    def test_same_seed_gives_equal_weights_and_another_seed_other_ones(self) -> None:
        before = torch.get_rng_state()
        first, again, other = (dict(small(seed).named_parameters()) for seed in (3, 3, 4))
        assert torch.equal(before, torch.get_rng_state())
        for name, tensor in first.items():
            assert torch.equal(tensor, again[name])
            assert torch.equal(tensor, other[name]) == ("norm" in name), name

    def test_its_config_is_plain_json_and_rebuilds_it(self) -> None:
        model = small()
        again = TTM.from_config(json.loads(json.dumps(model.config)), seed=0)
        assert again.config == model.config
        shapes = [(name, p.shape) for name, p in model.named_parameters()]
        assert shapes == [(name, p.shape) for name, p in again.named_parameters()]

    @pytest.mark.parametrize("name", TTM.configs)
    def test_the_published_sizes_are_the_catalogue_s(self, name: str) -> None:
        spec = catalog.backbone(name)
        with torch.device("meta"):
            model = TTM.from_config(TTM.configs[name], seed=0)
        assert sum(p.numel() for p in model.parameters()) == spec.num_parameters
        for sizes in (model.sizes, TTM.from_config(TTM.shrunk(model.config), seed=0).sizes):
            assert (sizes.context_length, sizes.prediction_length, sizes.patch_length) == (
                spec.context_length,
                spec.prediction_length,
                spec.patch_length,
            )

    def test_what_the_decoder_and_the_head_of_1024_96_hold(self) -> None:
        """IBM's notebook counts 2,964,960 parameters, and 955,424 once the backbone is frozen."""
        with torch.device("meta"):
            model = TTM.from_config(TTM.configs["ttm-r2-1024-96"], seed=0)
        assert sum(p.numel() for m in (model.decoder, model.head) for p in m.parameters()) == 955_424

    @pytest.mark.parametrize(
        "change",
        [
            {"self_attn": True},
            {"scaling": "mean"},
            {"patch_stride": 4},
            {"enable_forecast_channel_mixing": True},
            {"context_length": 33},
            {"d_model": 50, "adaptive_patching_levels": 3},
        ],
    )
    def test_variants_that_were_never_published_are_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            small(**change)

    def test_narrow_tokens_and_missing_levels(self) -> None:
        """A level whose tokens would be four wide does not reshape; without levels the layers stand alone."""
        levels = small(adaptive_patching_levels=3).backbone.encoder.mlp_mixer_encoder.mixers
        assert [level.num_tokens for level in levels] == [4, 8, 4]
        plain = small(adaptive_patching_levels=0, decoder_d_model=16)
        assert plain.predict(rows(2, 32), 12).point.isfinite().all()
        assert len(adapted(plain)) == 2 * 6


class TestTargets:
    def test_every_fc_and_gate_and_nothing_else(self, published: TTM) -> None:
        """evaluation.md §7: rank 2 gives 16,896 parameters on 48 modules, and 2,240 on the head."""
        found = adapted(published)
        assert len(found) == 48
        ranks = [min(2, m.in_features * m.out_features // (2 * (m.in_features + m.out_features))) for m in found]
        assert sum(r * (m.in_features + m.out_features) for r, m in zip(ranks, found, strict=True)) == 16_896
        assert TTM.head_linear is not None
        head = published.get_submodule(TTM.head_linear)
        assert isinstance(head, torch.nn.Linear)
        assert 2 * (head.in_features + head.out_features) == 2_240

    def test_the_head_is_one_linear_over_the_flattened_state(self) -> None:
        model = small()
        tokens, width = model.head_shape()
        head = model.get_submodule(str(TTM.head_linear))
        assert isinstance(head, torch.nn.Linear)
        assert head.in_features == tokens * width
        assert model.head_parameter_names() == {f"{TTM.head_linear}.weight", f"{TTM.head_linear}.bias"}

    def test_channel_mixers_are_targets_too(self) -> None:
        assert len(adapted(small(decoder_mode="mix_channel", num_input_channels=3))) == len(adapted(small())) + 3


class TestPredict:
    @pytest.mark.parametrize("length", [1, 7, 32, 50])
    def test_points_only_and_of_the_asked_length(self, length: int) -> None:
        answer = small().predict(rows(3, length), 5)
        assert (answer.point.shape, answer.point_kind) == ((3, 5), "mean")
        assert (answer.quantiles, answer.levels) == (None, ())

    def test_batch_equals_items_one_by_one_and_left_padding_changes_nothing(self) -> None:
        model, x = small(), rows(4, 20)
        x[1, 5:9] = NAN
        together = model.predict(x, 12).point
        alone = torch.cat([model.predict(row[None], 12).point for row in x])
        torch.testing.assert_close(together, alone)
        padded = torch.cat([torch.full((4, 9), NAN), x], dim=1)
        assert torch.equal(model.predict(padded, 12).point, together)

    def test_shorter_is_a_cut_and_longer_continues_on_the_mean(self) -> None:
        model, x = small(), rows(2, 40)
        native = model.predict(x, 12).point
        assert torch.equal(model.predict(x, 5).point, native[:, :5])
        rest = model.predict(torch.cat([x, native], dim=1), 8).point
        assert torch.equal(model.predict(x, 20).point, torch.cat([native, rest], dim=1))
        with pytest.raises(ConfigError):
            model.predict(x, 0)

    def test_empty_and_constant_rows_are_finite_and_nothing_is_mutated(self) -> None:
        x = torch.full((3, 32), NAN)
        x[1], x[2, 4] = 7.0, 3.0
        kept = x.clone()
        answer = small().predict(x, 20).point
        assert answer.isfinite().all()
        assert (answer[1] - 7).abs().max() < 0.1
        assert torch.equal(torch.nan_to_num(x), torch.nan_to_num(kept))

    def test_a_checkpoint_that_mixes_channels_has_no_single_series(self) -> None:
        model = small(decoder_mode="mix_channel", num_input_channels=3)
        assert model.forecast_channels(torch.zeros(2, 32, 3)).forecast.shape == (2, 12, 3)
        with pytest.raises(ConfigError, match="3 channels"):
            model.predict(rows(1, 32), 4)
        with pytest.raises(ConfigError, match="not 2"):
            model.forecast_channels(torch.zeros(1, 32, 2))


class TestLoss:
    def test_every_parameter_gets_a_gradient(self) -> None:
        model = small()
        model.loss(Batch(context=rows(4, 32), target=rows(4, 12, seed=1))).backward()  # type: ignore[no-untyped-call]
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []

    def test_missing_targets_do_not_count_and_none_gives_zero_with_a_path(self) -> None:
        model, x, target = small(), rows(3, 32), rows(3, 12, seed=1)
        partly = torch.where(torch.arange(12) < 7, target, NAN)
        torch.testing.assert_close(
            model.loss(Batch(context=x, target=partly)), model.loss(Batch(context=x, target=target[:, :7]))
        )
        nothing = model.loss(Batch(context=x, target=torch.full((3, 12), NAN)))
        nothing.backward()  # type: ignore[no-untyped-call]
        assert float(nothing.detach()) == 0

    def test_dropout_acts_in_training_only(self) -> None:
        model, batch = small(), Batch(context=rows(3, 32), target=rows(3, 12, seed=1))
        assert torch.equal(model.loss(batch), model.loss(batch))
        model.train()
        assert not torch.equal(model.loss(batch), model.loss(batch))


class TestDropout:
    @pytest.mark.parametrize("p", [0.1, 0.4, 0.7])
    def test_it_drops_its_share_keeps_the_mean_and_follows_the_seed(self, p: float) -> None:
        drop, x = Dropout(p).train(), torch.ones(7, 100_001)
        torch.manual_seed(0)
        first = drop(x)
        torch.manual_seed(0)
        assert torch.equal(first, drop(x))
        assert float((first == 0).float().mean()) == pytest.approx(p, abs=0.003)
        assert set(first.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - p)))}
        columns = (first == 0).float().view(-1)[: 4 * 150_000].view(-1, 4).mean(0)
        assert columns.tolist() == pytest.approx([p] * 4, abs=0.005), "each quarter of a draw is as good as the others"

    def test_gradients_pass_where_values_did_and_evaluation_leaves_them(self) -> None:
        x = torch.randn(4, 50, requires_grad=True)
        out = Dropout(0.5).train()(x)
        out.sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad == 0, out.detach() == 0)
        assert torch.equal(Dropout(0.5).eval()(x), x)


def test_the_published_files_open_under_the_catalogue_s_name(tmp_path: Path) -> None:
    """As a user puts them: WEIGHTS_DIR/ttm-r2/model.safetensors and config.json."""
    from tsfm.backbones.weights import load_backbone

    (tmp_path / "ttm-r2").symlink_to(data_path("ttm_r2_512_96"))
    model = load_backbone(catalog.backbone("ttm-r2"), weights_dir=tmp_path)
    assert isinstance(model, TTM)
    assert model.config["head_dropout"] == 0.4
