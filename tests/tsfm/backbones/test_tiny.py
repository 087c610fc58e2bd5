"""temper-tiny: the contract of a backbone, what its references promise, and the shipped weights."""

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import tsfm.backbones
from tsfm import catalog
from tsfm.backbones.base import Batch
from tsfm.backbones.tiny import Tiny, _cleanness, _interpolate, _lags, _seasonal_copies
from tsfm.backbones.weights import load_backbone
from tsfm.errors import ConfigError
from tsfm.pretrain import prior
from tsfm.pretrain.train import HOLDOUT_SEED_OFFSET

CHECKPOINT = Path(tsfm.backbones.__file__).parent / "checkpoints" / "temper-tiny"
SMALL = {"d_model": 32, "num_layers": 2, "num_heads": 2}
NAN = math.nan


def small(seed: int = 0) -> Tiny:
    return Tiny.from_config(SMALL, seed=seed).eval()


@pytest.fixture(scope="module")
def shipped() -> Tiny:
    model = load_backbone(catalog.backbone("temper-tiny"))
    assert isinstance(model, Tiny)
    return model


def series(rows: int, length: int, seed: int = 0) -> Tensor:
    """Seasonal rows with a drift and noise, of order one."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(length, dtype=torch.float32)
    period = torch.tensor([24.0, 7.0, 48.0, 12.0]).repeat(rows)[:rows, None]
    noise = torch.randn(rows, length, generator=generator)
    return torch.sin(2 * math.pi * t / period) + 0.3 * noise + 0.002 * t


class TestConstruction:
    def test_same_seed_gives_equal_weights_and_another_seed_other_ones(self) -> None:
        first, again, other = (small(seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["layers.0.fc1.weight"], other["layers.0.fc1.weight"])

    def test_global_generator_is_untouched(self) -> None:
        torch.manual_seed(11)
        before = torch.get_rng_state()
        small(5)
        assert torch.equal(before, torch.get_rng_state())

    def test_config_survives_json_and_rebuilds_the_same_shapes(self) -> None:
        model = small()
        rebuilt = Tiny.from_config(json.loads(json.dumps(model.config)), seed=0)
        assert rebuilt.config == model.config
        assert {n: p.shape for n, p in rebuilt.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}

    def test_random_twin_differs_everywhere_but_in_norms(self) -> None:
        """SFF blends with the twin: a matrix that is zero or equal in both would stay untouched by it."""
        one, two = small(0), small(1)
        for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
            assert torch.equal(a, b) == ("norm" in name), name

    def test_parameter_count_is_the_catalogue_s(self) -> None:
        count = sum(p.numel() for p in Tiny.from_config({}, seed=0).parameters())
        assert count == catalog.backbone("temper-tiny").num_parameters

    def test_lora_targets_name_every_linear_of_the_layers_and_nothing_else(self) -> None:
        model = small()
        found = [n for n, m in model.named_modules() if re.fullmatch(Tiny.lora_targets, n)]
        linears = [n for n, m in model.layers.named_modules(prefix="layers") if isinstance(m, torch.nn.Linear)]
        assert sorted(found) == sorted(linears)
        assert len(found) == 6 * SMALL["num_layers"]

    def test_head_parameters_are_the_output_s(self) -> None:
        assert small().head_parameter_names() == {
            f"output.{n}.weight" for n in ("gate", "block.hidden", "block.out", "block.skip")
        }

    def test_median_is_required(self) -> None:
        with pytest.raises(ConfigError):
            Tiny(quantile_levels=(0.1, 0.9))


class TestPredict:
    @pytest.mark.parametrize("length", [1, 5, 16, 100, 512])
    @pytest.mark.parametrize("horizon", [1, 16, 50, 128])
    def test_shapes_and_sorted_finite_quantiles(self, length: int, horizon: int) -> None:
        answer = small().predict(series(3, length), horizon)
        assert answer.quantiles is not None
        assert answer.point.shape == (3, horizon)
        assert answer.quantiles.shape == (3, 9, horizon)
        assert answer.levels == catalog.backbone("temper-tiny").quantile_levels
        assert (answer.quantiles.diff(dim=1) >= 0).all()
        assert answer.quantiles.isfinite().all()
        assert torch.equal(answer.point, answer.quantiles[:, 4])

    def test_deterministic(self) -> None:
        model, x = small(), series(2, 80)
        assert torch.equal(model.predict(x, 20).point, model.predict(x, 20).point)

    def test_batch_equals_items_one_by_one(self, shipped: Tiny) -> None:
        x = series(5, 200)
        x[1, :90] = NAN
        x[2, 50:70] = NAN
        x[3] = 4.0
        with torch.inference_mode():
            together = shipped.predict(x, 40).quantiles
            alone = torch.cat([shipped.predict(row[None], 40).quantiles for row in x])  # type: ignore[misc]
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("padding", [1, 16, 37, 300])
    def test_left_padding_changes_nothing(self, shipped: Tiny, padding: int) -> None:
        x = series(4, 212)
        with torch.inference_mode():
            plain = shipped.predict(x, 33).quantiles
            padded = shipped.predict(F.pad(x, (padding, 0), value=NAN), 33).quantiles
        torch.testing.assert_close(plain, padded, rtol=1e-5, atol=1e-5)

    def test_only_the_last_context_counts(self) -> None:
        model, x = small(), series(2, 700)
        assert torch.equal(model.predict(x, 16).point, model.predict(x[:, -512:], 16).point)

    def test_shift_and_scale_pass_through(self, shipped: Tiny) -> None:
        x = series(3, 160)
        with torch.inference_mode():
            plain, moved = shipped.predict(x, 24).point, shipped.predict(5 * x - 3, 24).point
        torch.testing.assert_close(moved, 5 * plain - 3, rtol=1e-3, atol=1e-3)

    def test_a_shorter_horizon_of_the_same_patches_is_a_cut(self) -> None:
        model, x = small(), series(2, 90)
        torch.testing.assert_close(model.predict(x, 20).point, model.predict(x, 32).point[:, :20])

    def test_beyond_the_native_horizon_medians_are_appended(self) -> None:
        model, x = small(), series(2, 300)
        far = model.predict(x, 200)
        near = model.predict(x, 128)
        rest = model.predict(torch.cat([x, near.point], dim=1), 72)
        torch.testing.assert_close(far.point, torch.cat([near.point, rest.point], dim=1))

    @pytest.mark.parametrize("horizon", [0, 513])
    def test_refuses_horizons_outside_its_limits(self, horizon: int) -> None:
        with pytest.raises(ConfigError):
            small().predict(series(1, 64), horizon)

    def test_empty_constant_and_single_point_rows_are_finite(self, shipped: Tiny) -> None:
        x = torch.full((4, 100), NAN)
        x[1] = 7.0
        x[2, 50] = 3.0
        x[3] = 0.0
        with torch.inference_mode():
            answer = shipped.predict(x, 150)
        assert answer.quantiles is not None
        assert answer.quantiles.isfinite().all()
        torch.testing.assert_close(answer.point[1], torch.full((150,), 7.0), rtol=1e-2, atol=0)

    def test_inputs_are_not_mutated_and_gradients_flow(self) -> None:
        model, x = small(), series(2, 64).requires_grad_()
        kept = x.detach().clone()
        model.predict(x, 16).point.sum().backward()  # type: ignore[no-untyped-call]
        assert torch.equal(x.detach(), kept)
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class TestLoss:
    def test_every_parameter_gets_a_gradient(self) -> None:
        model = small()
        model.loss(Batch(context=series(4, 96), target=series(4, 30, seed=1))).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())

    def test_missing_targets_do_not_count(self) -> None:
        model, context, target = small(), series(3, 96), series(3, 32, seed=1)
        partly = target.clone()
        partly[:, 20:] = NAN
        short = model.loss(Batch(context=context, target=target[:, :20]))
        torch.testing.assert_close(model.loss(Batch(context=context, target=partly)), short)

    def test_no_target_at_all_gives_zero_with_a_gradient_path(self) -> None:
        loss = small().loss(Batch(context=series(2, 64), target=torch.full((2, 16), NAN)))
        assert float(loss.detach()) == 0
        loss.backward()  # type: ignore[no-untyped-call]

    def test_dropout_acts_in_training_only(self) -> None:
        model = Tiny.from_config(SMALL | {"dropout": 0.5}, seed=0)
        batch = Batch(context=series(2, 64), target=series(2, 16, seed=1))
        assert not torch.equal(model.train().loss(batch), model.loss(batch))
        assert torch.equal(model.eval().loss(batch), model.loss(batch))

    def test_relative_loss_weighs_a_clean_season_above_noise_and_a_constant_like_noise(self) -> None:
        t = torch.arange(256)
        noise = torch.randn(256, generator=torch.Generator().manual_seed(0))
        rows = torch.stack([torch.sin(2 * math.pi * t / 24) + 0.05 * noise, noise, torch.zeros(256)])
        clean, noisy, constant = _cleanness(rows, torch.ones_like(rows, dtype=torch.bool), buffer=640)[:, 0].tolist()
        assert clean > 4 * noisy
        assert constant == pytest.approx(1 / 1.1)

    def test_relative_loss_bounds_what_leaves_a_constant_context(self) -> None:
        values = torch.zeros(1, 128)
        values[:, 100:] = 1e6
        hidden = torch.zeros_like(values, dtype=torch.bool)
        hidden[:, 96:] = True
        model = small()
        assert float(model.masked_loss(values, hidden, relative=True).detach()) < 10
        assert float(model.masked_loss(values, hidden).detach()) > 10

    def test_few_steps_of_training_lower_it(self) -> None:
        model = small().train()
        x = series(16, 112)
        batch = Batch(context=x[:, :96], target=x[:, 96:])
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses: list[float] = []
        for _ in range(25):
            loss = model.loss(batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.7 * losses[0]


class TestReconstruct:
    def test_answers_every_step_and_does_not_see_what_is_hidden(self, shipped: Tiny) -> None:
        x = series(2, 150)
        hidden = torch.zeros_like(x, dtype=torch.bool)
        hidden[:, 60:80] = True
        with torch.inference_mode():
            answer = shipped.reconstruct(x, hidden)
            altered = shipped.reconstruct(torch.where(hidden, 99.0, x), hidden)
        assert answer.quantiles is not None
        assert answer.quantiles.shape == (2, 9, 150)
        assert torch.equal(answer.point, altered.point)

    def test_beats_linear_interpolation_on_a_seasonal_gap(self, shipped: Tiny) -> None:
        x = series(4, 480)
        hidden = torch.zeros_like(x, dtype=torch.bool)
        hidden[:, 200:248] = True
        with torch.inference_mode():
            filled = shipped.reconstruct(x, hidden).point
        straight, _, _ = _interpolate(torch.where(hidden, 0.0, x), ~hidden)
        ours, theirs = ((filled - x).abs()[hidden].mean(), (straight - x).abs()[hidden].mean())
        assert ours < 0.8 * theirs


class TestReferences:
    def test_interpolation_is_linear_inside_and_constant_outside(self) -> None:
        z = torch.tensor([[0.0, 2.0, 0.0, 0.0, 8.0, 0.0]])
        visible = torch.tensor([[False, True, False, False, True, False]])
        filled, first, end = _interpolate(z, visible)
        torch.testing.assert_close(filled, torch.tensor([[2.0, 2.0, 4.0, 6.0, 8.0, 8.0]]))
        assert (int(first), int(end)) == (1, 5)

    @pytest.mark.parametrize("period", [4, 7, 24, 96])
    def test_the_first_lag_is_the_period_despite_trend_and_noise(self, period: int) -> None:
        generator = torch.Generator().manual_seed(period)
        t = torch.arange(512)
        cycle = torch.randn(period, generator=generator)[t % period]
        z = (cycle + 0.01 * t + 0.2 * torch.randn(512, generator=generator))[None]
        lags, strength = _lags(z, torch.ones_like(z, dtype=torch.bool), buffer=640)
        assert period in lags[0].tolist()
        assert float(strength.max()) > 0.5

    def test_a_week_is_the_second_lag_of_hours(self) -> None:
        t = torch.arange(512)
        z = (torch.sin(2 * math.pi * t / 24) + 1.0 * (t // 24 % 7 >= 5))[None]
        lags, _ = _lags(z, torch.ones_like(z, dtype=torch.bool), buffer=640)
        assert lags[0].tolist() == [24, 168]

    def test_drift_copy_continues_a_growing_season_exactly(self) -> None:
        t = torch.arange(160)
        truth = (torch.sin(2 * math.pi * t / 12) + 0.05 * t)[None]
        visible = (t < 128)[None]
        filled, first, end = _interpolate(truth * visible, visible)
        copy, _, drift, *_ = _seasonal_copies(filled, torch.tensor([[12, 36]]), first, end)
        torch.testing.assert_close(drift[:, 128:], truth[:, 128:], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(copy[:, 128:140], truth[:, 116:128])


class TestShippedWeights:
    def test_digest_is_the_catalogue_s(self) -> None:
        digest = hashlib.sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest()
        assert digest == catalog.backbone("temper-tiny").sha256
        assert digest in (CHECKPOINT / "README.md").read_text()

    def test_limits_are_the_catalogue_s(self, shipped: Tiny) -> None:
        spec = catalog.backbone("temper-tiny")
        limits = (spec.context_length, spec.prediction_length, spec.max_prediction_length, spec.patch_length)
        assert limits == (
            shipped.context_length,
            shipped.prediction_length,
            shipped.max_prediction_length,
            shipped.patch,
        )

    def test_beat_every_plain_rival_on_series_never_trained_on(self, shipped: Tiny) -> None:
        drawn, families = prior.draw_block(HOLDOUT_SEED_OFFSET, 1, rows=512, length=608)
        chosen = np.array([f == "periodic" for f in families]) & ~np.isnan(drawn).any(1)
        x = torch.from_numpy(drawn[chosen])
        past, future = x[:, :512], x[:, 512:]
        with torch.inference_mode():
            answer = shipped.predict(past, 96)
        lags, _ = _lags(past, torch.ones_like(past, dtype=torch.bool), buffer=640)
        season = past.gather(1, 512 - lags[:, :1] + torch.arange(96) % lags[:, :1])
        error = {
            "ours": (answer.point - future).abs().mean(),
            "season": (season - future).abs().mean(),
            "last": (past[:, -1:] - future).abs().mean(),
            "mean": (past.mean(1, keepdim=True) - future).abs().mean(),
        }
        assert error["ours"] < 0.9 * min(error["season"], error["last"], error["mean"])
        assert answer.quantiles is not None
        inside = ((future >= answer.quantiles[:, 0]) & (future <= answer.quantiles[:, -1])).float().mean()
        assert 0.7 < float(inside) < 0.9
