"""Sundial: what is particular to its samples, its noise and its loss. The contract of all: test_contract*.py."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tsfm.backbones import flow, sundial
from tsfm.backbones.base import Batch
from tsfm.backbones.flow import order_statistics
from tsfm.backbones.sundial import DECILES, Sundial, SundialConfig
from tsfm.errors import ConfigError

SMALL = {
    "input_token_len": 8,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "flow_loss_depth": 1,
    "prediction_length": 24,
    "num_sampling_steps": 4,
    "context_length": 64,
}
NAN = torch.nan


def small(**changes: object) -> Sundial:
    """Weights large enough for a condition to matter."""
    model = Sundial.from_config({**SMALL, **changes}, seed=0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and "in_ln" not in name:
                parameter.mul_(8.0)
    return model


def rows(count: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.sin(torch.arange(length) / 3) + 0.3 * torch.randn(count, length, generator=generator)


@pytest.fixture(scope="module")
def model() -> Sundial:
    return small().requires_grad_(False)


@pytest.mark.parametrize(
    "change", [{"hidden_act": "gelu"}, {"output_token_lens": [24, 48]}, {"hidden_size": 18}, {"context_length": 60}]
)
def test_variants_that_were_never_published_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SundialConfig.parse({**SMALL, **change})


def test_too_few_samples_for_deciles_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 9"):
        small(num_samples=8)


class TestSamples:
    def test_all_samples_of_all_windows_take_one_pass_a_step(
        self, model: Sundial, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shapes: list[tuple[int, ...]] = []
        handle = model.flow_loss.net.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
        whole = model.predict(rows(3, 40), 24)
        assert shapes == [(3, 20, 24)] * 4
        monkeypatch.setattr(flow, "MOST_CONDITIONS", 3)  # modulations of one step at a time
        again = model.predict(rows(3, 40), 24)
        handle.remove()
        assert shapes == [(3, 20, 24)] * 8
        torch.testing.assert_close(again.point, whole.point, rtol=1e-5, atol=1e-6)

    def test_noise_is_the_same_for_every_window_and_favours_no_direction(
        self, model: Sundial, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Tensor] = []
        futures = model.futures
        monkeypatch.setattr(model, "futures", lambda context, noise: (seen.append(noise), futures(context, noise))[1])
        model.predict(rows(3, 40), 30)
        first, second = seen
        assert first.shape == (1, 20, 24)
        torch.testing.assert_close(first.sum(1), torch.zeros(1, 24))
        assert len(first[0].unique(dim=0)) == 20
        assert not torch.equal(first, second)

    def test_deciles_are_order_statistics_whose_coverage_is_their_level(self) -> None:
        samples = torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(0))
        expected = np.quantile(samples.numpy(), DECILES, axis=1, method="weibull").transpose(1, 0, 2)
        torch.testing.assert_close(order_statistics(samples, DECILES), torch.from_numpy(expected).float())
        assert torch.equal(order_statistics(samples[:, :1], (0.1, 0.9)), samples[:, :1].expand(-1, 2, -1))

    def test_a_shorter_horizon_is_a_cut_and_a_longer_one_goes_on_from_the_median(self, model: Sundial) -> None:
        x = rows(2, 40)
        one, short, long = (model.predict(x, h) for h in (24, 7, 30))
        assert one.quantiles is not None
        assert short.quantiles is not None
        assert long.quantiles is not None
        torch.testing.assert_close(short.point, one.point[:, :7])
        assert torch.equal(short.quantiles, one.quantiles[..., :7])
        assert torch.equal(long.point[:, :24], one.point)
        noise = torch.Generator().manual_seed(sundial.NOISE_SEED)
        torch.randn(1, 10, 24, generator=noise)
        half = torch.randn(1, 10, 24, generator=noise)
        grown = torch.cat([x, one.quantiles[:, 4]], dim=1)
        rest = model.futures(grown, torch.cat([half, -half], dim=1))[..., :6]
        torch.testing.assert_close(long.point[:, 24:], rest.mean(1))

    def test_mean_of_samples_and_their_spread_follow_the_window_s_scale(self, model: Sundial) -> None:
        x = rows(2, 40)
        said, scaled = model.predict(x, 5), model.predict(10 * x + 3, 5)
        torch.testing.assert_close(scaled.point, 10 * said.point + 3, rtol=1e-4, atol=1e-4)


class TestWindow:
    def test_its_mask_is_for_what_stands_before_and_gaps_are_bridged(self, model: Sundial) -> None:
        x = torch.tensor([[NAN, NAN, 1.0, NAN, 3.0, 5.0, NAN]])
        window = model.window(x)
        assert window.real.tolist() == [[False, False, False] + [True] * 5]
        bridged = window.z * window.scale + window.location
        torch.testing.assert_close(bridged[0, 3:], torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0]))
        assert not window.z[0, :3].any()
        assert float(window.location) == 3.0

    def test_a_flat_window_is_not_scaled(self, model: Sundial) -> None:
        x = torch.tensor([-1.0, 1.0]).repeat(8)
        found = model.window(torch.stack([0.009 * x, 0.011 * x])).scale
        torch.testing.assert_close(found[:, 0], torch.tensor([1.0, 0.011]))


class TestLoss:
    def test_noise_is_fresh_in_training_and_repeats_with_the_seed(self, model: Sundial) -> None:
        batch = Batch(context=rows(2, 40), target=rows(2, 6, seed=1))
        training = small(dropout_rate=0.0).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            first, other = training.loss(batch), training.loss(batch)
            torch.manual_seed(1)
            assert torch.equal(training.loss(batch), first)
            assert not torch.equal(first, other)
            before = torch.get_rng_state()
            assert torch.equal(model.loss(batch), model.loss(batch))
            assert torch.equal(torch.get_rng_state(), before)

    def test_the_last_state_alone_is_that_of_all(self, model: Sundial) -> None:
        window = model.window(rows(3, 40))
        every = model.model(window.z, window.real, checkpointing=False)
        torch.testing.assert_close(model.last_state(window), every[:, -1])

    def test_near_steps_weigh_more_and_steps_beyond_one_pass_nothing(self, model: Sundial) -> None:
        context, target = rows(2, 40), rows(2, 30, seed=1)
        window = model.window(context)
        noise, time = model._draws(2, torch.device("cpu"))
        future = ((target[:, :24] - window.location) / window.scale)[:, None].expand(-1, 4, -1)
        hidden = model.last_state(window)[:, None]
        error = model.flow_loss.error(future, hidden, noise=noise, time=time).mean((0, 1))
        weights = 1 / torch.arange(1, 25)
        expected = (error * weights).sum() / weights.sum()
        torch.testing.assert_close(model.loss(Batch(context=context, target=target)), expected)

    def test_what_nobody_knows_of_a_future_is_what_the_network_expects(self, model: Sundial) -> None:
        head = model.flow_loss
        generator = torch.Generator().manual_seed(2)
        future, noise = torch.randn(3, 24, generator=generator), torch.randn(3, 24, generator=generator)
        hidden, time = torch.randn(3, 16, generator=generator), torch.rand(3, generator=generator)
        expected = head.net(noise, head.net.modulations(torch.zeros(3), hidden))
        filled = torch.cat([future[:, :9], expected[:, 9:]], dim=1)
        partly = torch.cat([future[:, :9], torch.full((3, 15), NAN)], dim=1)
        found = head.error(partly, hidden, noise=noise, time=time)
        torch.testing.assert_close(found[:, :9], head.error(filled, hidden, noise=noise, time=time)[:, :9])
        assert not found[:, 9:].any()
        zeros = head.error(torch.cat([future[:, :9], torch.zeros(3, 15)], dim=1), hidden, noise=noise, time=time)
        assert not torch.allclose(found[:, :9], zeros[:, :9], rtol=1e-3)
