"""UniTS against the authors' code: tiny random networks, and the names and shapes of the published checkpoints."""

import pytest
import torch
from torch import Tensor

from tests.parity.golden import GoldenSet, assert_equal, golden_sets
from tests.parity.manifests import manifest, on_meta
from tsfm.backbones.units import UniTS
from tsfm.backbones.weights import tensors_of

TOLERANCE = {"rtol": 1e-5, "atol": 2e-3}
"""The set's README."""
HIDDEN = {"rtol": 1e-5, "atol": 1e-4}
SETS = golden_sets("units")
needs_golden = pytest.mark.skipif(not SETS, reason="reference numbers are absent (set TEMPER_GOLDEN)")


def network(golden: GoldenSet) -> UniTS:
    model = UniTS.from_config(golden.constructor("weights"), seed=0).eval()
    model.load_state_dict(UniTS.published_tensors(golden.weights("weights")), strict=True)
    return model.requires_grad_(False)


def standardised(x: Tensor, stored: dict[str, Tensor]) -> Tensor:
    """Variates first, by the reference's own statistics."""
    return ((x - stored["mean"]) / stored["std"]).transpose(1, 2)


def nothing_hidden(golden: GoldenSet, x: Tensor) -> Tensor:
    return torch.zeros(len(x), x.shape[2], x.shape[1] // golden.config["constructor"]["patch_len"], dtype=torch.bool)


@needs_golden
@pytest.mark.parametrize("golden", SETS, ids=lambda golden: golden.folder.name)
class TestGolden:
    def test_forecast(self, golden: GoldenSet) -> None:
        model, expected = network(golden), golden.arrays()
        x, horizon = torch.from_numpy(expected["x"]), golden.config["tasks"]["pred_len"]
        assert_equal(model.forecast_channels(x, horizon), expected["forecast"], **TOLERANCE)

    def test_hidden_states(self, golden: GoldenSet) -> None:
        model, expected = network(golden), golden.arrays()
        stored = {name: torch.from_numpy(array) for name, array in expected.items()}
        x, horizon = stored["x"], golden.config["tasks"]["pred_len"]
        patches = -(-horizon // golden.config["constructor"]["patch_len"])
        out = model.read(standardised(x, stored), nothing_hidden(golden, x), patches)
        assert_equal(out.tokens, expected["tokens"], **HIDDEN)
        assert_equal(out.sequence, expected["forecast_sequence"], **HIDDEN)
        assert_equal(out.hidden, expected["forecast_hidden"], **HIDDEN)

    def test_the_space_of_the_network(self, golden: GoldenSet) -> None:
        """`normalised` of every channel by the reference's mean and deviation."""
        model, expected = network(golden), golden.arrays()
        stored = {name: torch.from_numpy(array) for name, array in expected.items()}
        rows = stored["x"].transpose(1, 2).flatten(0, 1)
        said = model.normalised(rows, rows).view(len(stored["x"]), -1, rows.shape[1])
        torch.testing.assert_close(said, standardised(stored["x"], stored), rtol=1e-4, atol=1e-4)

    def test_imputation(self, golden: GoldenSet) -> None:
        """A patch with a hidden point is hidden. The mean counts hidden points as zeros: the reference's, not ours."""
        model, expected = network(golden), golden.arrays()
        x, visible = (torch.from_numpy(expected[name]) for name in ("imp_x", "imp_mask"))
        mean = x.mean(1, keepdim=True)
        centred = (x - mean) * visible
        deviation = (centred.square().sum(1, keepdim=True) / visible.sum(1, keepdim=True) + 1e-5).sqrt()
        patches = (visible == 0).transpose(1, 2).unflatten(2, (-1, golden.config["constructor"]["patch_len"]))
        out = model.read((centred / deviation).transpose(1, 2), patches.any(-1), 0)
        assert_equal(out.values.transpose(1, 2) * deviation + mean, expected["imputed"], **TOLERANCE)

    @pytest.mark.parametrize(("name", "channels"), [("reconstruction", None), ("reconstruction_1ch", 1)])
    def test_reconstruction(self, golden: GoldenSet, name: str, channels: int | None) -> None:
        model, expected = network(golden), golden.arrays()
        stored = {key: torch.from_numpy(array)[:, :, :channels] for key, array in expected.items()}
        x = stored["x"]
        out = model.read(standardised(x, stored), nothing_hidden(golden, x), 0).values.transpose(1, 2)
        assert_equal(out * stored["std"] + stored["mean"], expected[name], **TOLERANCE)

    def test_one_channel_through_the_protocol(self, golden: GoldenSet) -> None:
        """Variates attend to each other, so that alone a channel has another forecast: the network's of it."""
        model, expected = network(golden), golden.arrays()
        x, horizon = torch.from_numpy(expected["x"]), golden.config["tasks"]["pred_len"]
        said = model.predict(x[:, :, 0], horizon).point
        assert torch.equal(said, model.forecast_channels(x[:, :, :1], horizon)[:, :, 0])
        assert not torch.allclose(said, torch.from_numpy(expected["forecast"])[:, :, 0], atol=1e-2)


@pytest.mark.parametrize("name", ["units-x32", "units-x128"])
class TestPublished:
    def test_a_released_file_s_names_and_shapes_fit(self, name: str) -> None:
        """Below "module." and with tokens per dataset; the manifest counts without any tokens."""
        published, model = manifest(name), on_meta(UniTS, UniTS.configs[name])
        stored = published.tensors | {key: tuple(shape) for key, shape in published.rest["dataset_tokens"].items()}
        file = {f"module.{key}": torch.empty(shape, device="meta") for key, shape in stored.items()}
        own = {key: t.shape for key, t in tensors_of(model).items()}
        assert {key: t.shape for key, t in UniTS.published_tensors(file).items()} == own
        shared = {key: tuple(own[key]) for key in published.rest["shared_token_variant"]}
        assert shared == {key: tuple(shape) for key, shape in published.rest["shared_token_variant"].items()}
        tokens = sum(own[key].numel() for key in shared)
        assert sum(p.numel() for p in model.parameters()) - tokens == published.parameters
