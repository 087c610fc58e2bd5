"""Sundial against the published code: every array of the golden sets, the published names, and sktime's copy of it."""

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.golden import GoldenSet, assert_equal, golden_sets
from tests.parity.manifests import assert_published, manifest
from tsfm.backbones.base import Batch
from tsfm.backbones.flow import TIME_SCALE
from tsfm.backbones.sundial import Sundial, SundialConfig

TOLERANCE = {"rtol": 1e-5, "atol": 1e-4}
RAW = {"rtol": 1e-5, "atol": 5e-4}
"""The set's README: normalised values of size 3, and values of size 77 on the raw scale."""
SETS = golden_sets("sundial")
ORACLE = {
    "input_token_len": 8,
    "hidden_size": 24,
    "intermediate_size": 40,
    "output_token_lens": [20],
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "flow_loss_depth": 2,
    "num_sampling_steps": 7,
    "diffusion_batch_mul": 3,
}


def network(golden: GoldenSet) -> Sundial:
    model = Sundial.from_config(golden.constructor("weights"), seed=0).eval()
    model.load_state_dict(golden.weights("weights"), strict=True)
    return model.requires_grad_(False)


def inputs(golden: GoldenSet) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in golden.arrays().items()}


def hidden_states(model: Sundial, z: Tensor) -> Tensor:
    """[B, N, D] of normalised series, padded on the left with zeros that are not real."""
    padding = -z.shape[1] % model.sizes.input_token_len
    real = torch.nn.functional.pad(torch.ones_like(z, dtype=torch.bool), (padding, 0))
    return model.model(torch.nn.functional.pad(z, (padding, 0)), real, checkpointing=False)


@pytest.mark.skipif(not SETS, reason="reference numbers are absent (set TEMPER_GOLDEN)")
@pytest.mark.parametrize("golden", SETS, ids=lambda golden: golden.folder.name)
class TestGolden:
    def test_trunk(self, golden: GoldenSet) -> None:
        model, x, expected = network(golden), inputs(golden), golden.arrays()
        assert_equal(hidden_states(model, x["z"]), expected["hidden"], **TOLERANCE)
        assert_equal(hidden_states(model, x["z_whole"]), expected["hidden_whole"], **TOLERANCE)

    def test_flow_network(self, golden: GoldenSet) -> None:
        model, x, expected = network(golden), inputs(golden), golden.arrays()
        net = model.flow_loss.net
        assert_equal(net.time_embed(x["net_t"]), expected["net_time_embed"], **TOLERANCE)
        assert_equal(net(x["net_x_t"], net.modulations(x["net_t"], x["net_h"])), expected["net_out"], **TOLERANCE)

    def test_sampler(self, golden: GoldenSet) -> None:
        model, x, expected = network(golden), inputs(golden), golden.arrays()
        samples = model.flow_loss.sample(x["sample_h"], x["sample_noise"].transpose(0, 1))
        assert_equal(samples, expected["sample_out"], **TOLERANCE)

    def test_loss_of_every_token(self, golden: GoldenSet) -> None:
        model, x, expected = network(golden), inputs(golden), golden.arrays()
        z, patch, horizon = x["train_z"], model.sizes.input_token_len, model.sizes.prediction_length
        hidden = hidden_states(model, z[:, :-horizon])
        future = z[:, patch:].unfold(1, horizon, patch)
        errors = model.flow_loss.error(
            future.expand_as(x["train_noise"]), hidden, noise=x["train_noise"], time=x["train_t"]
        )
        steps = torch.arange(1, horizon + 1)
        assert_equal((errors / steps).sum(-1).mean(), expected["train_loss"], **TOLERANCE)

    def test_a_raw_series_end_to_end(self, golden: GoldenSet) -> None:
        model, x, expected = network(golden), inputs(golden), golden.arrays()
        samples = model.futures(x["e2e_x"], x["e2e_noise"].transpose(0, 1))
        assert_equal(samples, expected["e2e_samples"], **RAW)

    def test_the_protocol_s_loss_is_the_last_token_s(self, golden: GoldenSet, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the reference's noise and times; its weights 1/k are a mean's here."""
        model, x = network(golden), inputs(golden)
        horizon = model.sizes.prediction_length
        noise, time = x["train_noise"][:, :, -1].transpose(0, 1), x["train_t"][:, :, -1].T
        monkeypatch.setattr(Sundial, "_draws", lambda *_: (noise, time))
        context, target = x["train_z"].split([x["train_z"].shape[1] - horizon, horizon], dim=1)
        window = model.window(context)
        future = (target - window.location) / window.scale
        hidden = hidden_states(model, (context - window.location) / window.scale)[:, -1:]
        errors = model.flow_loss.error(future[:, None].expand_as(noise), hidden, noise=noise, time=time)
        weights = 1 / torch.arange(1, horizon + 1)
        expected = (errors * weights).sum(-1).mean() / weights.sum()
        torch.testing.assert_close(model.loss(Batch(context=context, target=target)), expected)


class TestPublished:
    def test_names_shapes_and_parameters(self) -> None:
        published = manifest("sundial-base-128m")
        assert_published(published, Sundial, Sundial.configs["sundial-128m"])
        assert SundialConfig.parse(published.constructor) == SundialConfig.parse(Sundial.configs["sundial-128m"])


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    pytest.importorskip("sktime", reason="sktime is not installed: pip install -e '.[parity]'")
    return importlib.import_module("sktime.libs.sundial")


@pytest.mark.filterwarnings("ignore")  # theirs
class TestOracle:
    """A tiny random network of another shape than the golden one's, with the reference's own weights."""

    @pytest.fixture(scope="class")
    def pair(self, reference: ModuleType) -> tuple[Any, Sundial]:
        torch.manual_seed(5)
        theirs = reference.SundialForPrediction(reference.SundialConfig(**ORACLE)).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        ours = Sundial.from_config(ORACLE, seed=0).eval()
        ours.load_state_dict(theirs.state_dict(), strict=True)
        return theirs, ours.requires_grad_(False)

    @pytest.mark.parametrize("length", [64, 59])
    def test_hidden_states(self, pair: tuple[Any, Sundial], length: int) -> None:
        theirs, ours = pair
        z = torch.randn(3, length, generator=torch.Generator().manual_seed(length))
        with torch.inference_mode():
            expected = theirs.model(input_ids=z, use_cache=False, return_dict=True).last_hidden_state
        torch.testing.assert_close(hidden_states(ours, z), expected, **TOLERANCE)

    def test_flow_network(self, pair: tuple[Any, Sundial]) -> None:
        theirs, ours = pair
        generator = torch.Generator().manual_seed(1)
        mixed, hidden = torch.randn(6, 20, generator=generator), torch.randn(6, 24, generator=generator)
        time = torch.rand(6, generator=generator)
        with torch.inference_mode():
            expected = theirs.flow_loss.net(mixed, TIME_SCALE * time, hidden)
        net = ours.flow_loss.net
        torch.testing.assert_close(net(mixed, net.modulations(time, hidden)), expected, **TOLERANCE)
