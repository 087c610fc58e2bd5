"""What is TimesFM's own: its running statistics, its two heads, its loss. The contract: test_contract*.py; numbers of
Google's code: tests/parity."""

import pytest
import torch
from torch import Tensor, nn

from tests.tsfm.backbones.contract import NAN, sines
from tsfm.backbones.base import Batch
from tsfm.backbones.timesfm import TimesFM, running_moments, spread, uncrossed
from tsfm.errors import ConfigError
from tsfm.methods.adapters import attach, head_targets

HEADS = {"output_projection_point", "output_projection_quantiles"}
SMALL = {
    "patch_length": 4,
    "context_length": 64,
    "horizon_length": 16,
    "output_quantile_len": 48,
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}


def small(**changes: object) -> TimesFM:
    return TimesFM.from_config({**SMALL, **changes}, seed=0).eval()


class TestRunningMoments:
    @pytest.mark.parametrize("level", [0.0, 300.0, 1e5])
    def test_every_patch_has_the_moments_of_all_points_up_to_its_end(self, level: float) -> None:
        """At level 300 sums of squares in float32 miss the deviation by a tenth."""
        x = sines(3, 40) + level
        masked = torch.zeros_like(x, dtype=torch.bool)
        masked[1, :6] = True
        location, scale = running_moments(x, masked, patch=4)
        for row in range(3):
            for i in range(10):
                seen = x[row, : 4 * i + 4][~masked[row, : 4 * i + 4]].double()
                if len(seen):
                    assert float(location[row, i]) == pytest.approx(float(seen.mean()), rel=1e-6, abs=1e-6)
                    assert float(scale[row, i]) == pytest.approx(float(seen.std(correction=0)), rel=1e-4, abs=1e-6)
        assert (float(location[1, 0]), float(scale[1, 0])) == (0.0, 0.0)

    def test_a_constant_row_has_no_deviation_and_no_gradient_through_it(self) -> None:
        x = torch.full((1, 12), 300.1, requires_grad=True)
        location, scale = running_moments(x, torch.zeros(1, 12, dtype=torch.bool), patch=4)
        assert not scale.any()
        (location + scale).sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert x.grad.isfinite().all()


class TestForecast:
    def test_deciles_are_the_second_head_s_around_the_first_head_s_median(self) -> None:
        near, far = torch.randn(2, 5, 10), torch.randn(2, 5, 10)
        joined = spread(near, far, median=5)
        assert torch.equal(joined[..., 0], near[..., 0])
        assert torch.equal(joined[..., 5], near[..., 5])
        torch.testing.assert_close(joined[..., 1:] - joined[..., 5:6], far[..., 1:] - far[..., 5:6])

    def test_deciles_that_cross_stop_at_the_one_nearer_to_the_median(self) -> None:
        said = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0])
        assert uncrossed(said, median=2).tolist() == [1.0, 1.0, 2.0, 5.0, 5.0]

    def test_a_longer_horizon_sees_its_own_medians(self) -> None:
        model, x = small(), sines(2, 32)
        first = model.predict(x, 16).point
        far = model.predict(x, 40).point
        torch.testing.assert_close(far[:, :16], first)
        torch.testing.assert_close(far[:, 16:32], model.predict(torch.cat([x, first], dim=1), 16).point)

    def test_a_longer_horizon_computes_every_patch_once(self) -> None:
        model, widths = small(), []
        model.model.layers[0].register_forward_pre_hook(lambda _, given: widths.append(given[0].shape[1]))
        model.predict(sines(2, 32), 40)
        assert widths == [8, 4, 4]

    def test_what_is_fed_back_takes_its_place_from_the_context(self) -> None:
        model, x = small(), sines(1, 64)
        torch.testing.assert_close(model.predict(x, 20).point, model.predict(x[:, 16:], 20).point)
        assert not torch.allclose(model.predict(x, 16).point, model.predict(x[:, 16:], 16).point)

    def test_flipped_networks_answer_a_negated_window_by_the_negative(self) -> None:
        x = sines(2, 40)
        plain, flipping = small(), small(flip_invariance=True)
        for model, same in ((plain, False), (flipping, True)):
            up, down = model.predict(x, 20).quantiles, model.predict(-x, 20).quantiles
            assert up is not None
            assert down is not None
            assert torch.allclose(up, -down.flip(1), atol=1e-5) == same

    @pytest.mark.parametrize("horizon", [0, 49])
    def test_refuses_horizons_outside_its_limits(self, horizon: int) -> None:
        with pytest.raises(ConfigError):
            small().predict(sines(1, 40), horizon)

    @pytest.mark.parametrize(
        "change", [{"horizon_length": 6}, {"quantiles": [0.1, 0.9]}, {"use_bias": True}, {"hidden_size": 6}]
    )
    def test_refuses_what_was_never_published(self, change: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            small(**change)


class TestHeadsAskedForFewerSteps:
    """What is not asked for is not computed; the rest, and every gradient, is what the whole heads give."""

    @pytest.mark.parametrize("adapted", [False, True])
    def test_say_the_first_steps_of_what_they_say_in_full(self, adapted: bool) -> None:
        model = small()
        if adapted:
            modules = attach(model, targets=head_targets(model), rank=2, alpha=4, dropout=0.0)
            assert {module.name.partition(".")[0] for module in modules} == HEADS
            for module in modules:
                torch.nn.init.normal_(module.lora_B.weight)
        patches = model.hidden(*model.prepared(sines(2, 40), room=64))
        few = patches._replace(steps=5)
        torch.testing.assert_close(model.next_steps(few), model.next_steps(patches)[:, :, :5])
        torch.testing.assert_close(model.far_steps(few), model.far_steps(patches)[:, :5])
        assert model.next_steps(patches._replace(steps=20)).shape[2] == 16

    @pytest.mark.parametrize("horizon", [5, 16, 30])
    def test_leave_loss_and_gradients_as_they_are(self, horizon: int, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = sines(3, 40 + horizon)
        batch = Batch(context=rows[:, :40], target=rows[:, 40:])

        def loss_and_gradients() -> tuple[Tensor, dict[str, Tensor]]:
            model = small()
            loss = model.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

        found, gradients = loss_and_gradients()
        widths: list[int] = []

        def whole(linear: nn.Module, x: Tensor, count: int | None) -> Tensor:
            out: Tensor = linear(x)
            widths.append(out.shape[-1])
            return out[..., :count]

        monkeypatch.setattr("tsfm.backbones.timesfm.first_outputs", whole)
        expected, expected_gradients = loss_and_gradients()
        assert {160, 480} <= set(widths)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients, expected_gradients)
        assert len(gradients) == len(list(small().parameters()))


class TestLoss:
    def batch(self, horizon: int) -> Batch:
        rows = sines(3, 40 + horizon)
        rows[1, :10] = NAN
        rows[2, 20:25] = NAN
        return Batch(context=rows[:, :40], target=rows[:, 40:])

    def loss(self, model: TimesFM, batch: Batch) -> Tensor:
        return model.loss(batch).detach()

    @pytest.mark.parametrize("tokens", ["every", "target"])
    @pytest.mark.parametrize("horizon", [5, 16, 30])
    def test_is_what_a_loop_over_rows_and_patches_gives(self, tokens: str, horizon: int) -> None:
        model, batch = small(loss_tokens=tokens), self.batch(horizon)
        steps = min(horizon, 16)
        values, masked = model.prepared(batch.context, room=64)
        patches = model.hidden(values, masked)
        said = model.next_steps(patches)
        deciles = spread(said[:, -1], model.far_steps(patches)[:, :16], median=5)
        series = torch.cat([batch.context, batch.target], dim=1)
        levels = [k / 10 for k in range(1, 10)]

        def pinball(columns: Tensor, y: Tensor) -> Tensor:
            errors = [y - columns[1 + k] for k in range(9)]
            return sum(2 * max(level * e, (level - 1) * e) for level, e in zip(levels, errors, strict=True)) / 9  # type: ignore[return-value]  # a sum of tensors

        total = torch.zeros(())
        for row in range(3):
            native: list[Tensor] = []
            for i in range(10):
                if masked[row, 4 * i + 3] or (tokens == "target" and i < 9):
                    continue
                for j in range(steps):
                    y = series[row, 4 * i + 4 + j]
                    if not y.isnan():
                        native.append((y - said[row, i, j, 0]).square() + pinball(said[row, i, j], y))
            last = [pinball(deciles[row, j], batch.target[row, j]) for j in range(steps)]
            total = total + torch.stack(native).mean() + torch.stack(last).mean()
        torch.testing.assert_close(self.loss(model, batch), total.detach() / 3, rtol=1e-5, atol=1e-6)

    def test_column_one_learns_the_first_decile_and_the_mean_column_the_mean(self) -> None:
        """The pairing that `transformers` has wrong: free parameters find the quantiles of what they are shown."""
        model = small(loss_tokens="target", horizon_length=4, output_quantile_len=4)
        samples = -torch.rand(100, 4, generator=torch.Generator().manual_seed(0)).log()
        context = torch.tensor([-1.0, 1.0, -1.0, 1.0]).repeat(100, 2)
        columns = torch.zeros(10, requires_grad=True)
        patches = model.hidden(*model.prepared(context, room=64))
        model.hidden = lambda values, masked, memories=None: patches  # type: ignore[method-assign]  # always the same
        model.next_steps = lambda patches: columns.expand(100, 2, 4, 10)  # type: ignore[method-assign]  # free parameters
        model.far_steps = lambda patches: columns.expand(100, 4, 10)  # type: ignore[method-assign]
        optimizer = torch.optim.Adam([columns], lr=0.1)
        for _ in range(150):
            optimizer.zero_grad()
            model.loss(Batch(context=context, target=samples)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        flat = samples.flatten()
        found = columns.detach()
        assert float(found[0]) == pytest.approx(float(flat.mean()), abs=0.03)
        for k in range(1, 10):
            assert float(found[k]) == pytest.approx(float(flat.quantile(k / 10)), abs=0.05)
