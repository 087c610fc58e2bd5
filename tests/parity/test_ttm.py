"""TTM against IBM's implementation: the published checkpoint, and tiny random networks of every variant."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.data import data_path
from tests.parity.golden import GoldenSet, assert_equal, golden_sets
from tests.parity.manifests import assert_published, manifest
from tsfm.backbones.base import Batch
from tsfm.backbones.ttm import TTM

TOLERANCE = {"rtol": 1e-5, "atol": 5e-4}
"""The set's README: five to ten times the float32 rounding of the reference on values of size 50."""
SETS = golden_sets("ttm")
needs_golden = pytest.mark.skipif(not SETS, reason="reference numbers are absent (set TEMPER_GOLDEN)")


def network(golden: GoldenSet, variant: str) -> TTM:
    model = TTM.from_config(golden.constructor(variant), seed=0).eval()
    model.load_state_dict(golden.weights(variant), strict=True)
    return model.requires_grad_(False)


def inputs(golden: GoldenSet) -> dict[str, Tensor]:
    """The set's inputs as the protocol has them: missing points are NaN."""
    stored = {name: torch.from_numpy(array) for name, array in golden.arrays().items()}
    stored["x_masked"] = torch.where(stored["mask"] > 0, stored["x_masked"], torch.nan)
    return stored


@needs_golden
@pytest.mark.parametrize("golden", SETS, ids=lambda golden: golden.folder.name)
class TestGolden:
    def test_common_channel(self, golden: GoldenSet) -> None:
        model, x, expected = network(golden, "weights"), inputs(golden), golden.arrays()
        out = model.forecast_channels(x["x"])
        assert_equal(out.location[:, None], expected["loc"], rtol=1e-5, atol=1e-6)
        assert_equal(out.scale[:, None], expected["scale"], rtol=1e-5, atol=1e-6)
        assert_equal(out.backbone, expected["backbone"], rtol=1e-5, atol=1e-4)
        assert_equal(out.decoder, expected["decoder"], rtol=1e-5, atol=1e-4)
        assert_equal(out.forecast, expected["forecast"], **TOLERANCE)
        assert_equal(model.forecast_channels(x["x_masked"]).forecast, expected["forecast_masked"], **TOLERANCE)

    def test_a_shorter_context_is_padded_by_missing_points(self, golden: GoldenSet) -> None:
        """The reference without a mask takes the padding for zeros that were seen: not what we want."""
        model, x, expected = network(golden, "weights"), inputs(golden), golden.arrays()
        said = model.forecast_channels(x["x_short"]).forecast
        assert_equal(said, expected["forecast_short"], **TOLERANCE)
        assert np.abs(said.numpy() - expected["forecast_short_nomask"]).max() > 0.1

    def test_the_protocol_s_forecast_and_loss_are_the_network_s(self, golden: GoldenSet) -> None:
        model, x, expected = network(golden, "weights"), inputs(golden), golden.arrays()
        rows = x["x_masked"].transpose(1, 2).flatten(0, 1)
        horizon = expected["forecast_masked"].shape[1]
        said = model.predict(rows, horizon).point.unflatten(0, (len(x["x"]), -1)).transpose(1, 2)
        assert_equal(said, expected["forecast_masked"], **TOLERANCE)
        batch = Batch(context=x["x"].transpose(1, 2).flatten(0, 1), target=x["target"].transpose(1, 2).flatten(0, 1))
        assert_equal(model.loss(batch), expected["loss"], **TOLERANCE)

    def test_mixed_channels(self, golden: GoldenSet) -> None:
        model, x, expected = network(golden, "weights_mix_channel"), inputs(golden), golden.arrays()
        assert_equal(model.forecast_channels(x["x"]).forecast, expected["mix_forecast"], **TOLERANCE)
        assert_equal(model.forecast_channels(x["x_masked"]).forecast, expected["mix_forecast_masked"], **TOLERANCE)

    def test_frequency_prefix(self, golden: GoldenSet) -> None:
        model, x, expected = network(golden, "weights_freq_prefix"), inputs(golden), golden.arrays()
        said = model.forecast_channels(x["x"], resolution=x["freq_token"].long()).forecast
        assert_equal(said, expected["freq_forecast"], **TOLERANCE)
        resolutions = golden.constructor("weights_freq_prefix")["frequency_token_vocab_size"]
        other = model.forecast_channels(x["x"], resolution=(x["freq_token"].long() + 1) % resolutions).forecast
        assert not torch.allclose(said, other, atol=1e-3)


class TestPublished:
    def test_names_and_shapes_are_those_of_the_file(self) -> None:
        assert_published(manifest("granite-timeseries-ttm-r2-512-96"), TTM, TTM.configs["ttm-r2"])

    def test_our_config_is_the_file_s(self) -> None:
        stored = json.loads((data_path("ttm_r2_512_96") / "config.json").read_bytes())
        assert TTM.configs["ttm-r2"].items() <= stored.items()

    def test_the_checkpoint_loads_strictly_and_answers_as_ibm_s_code(self) -> None:
        folder = data_path("ttm_r2_512_96")
        model = TTM.from_config(json.loads((folder / "config.json").read_bytes()), seed=0).eval().requires_grad_(False)
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
        with data_path("ett/ETTh1.csv").open() as source, np.load(folder / "golden_etth1.npz") as golden:
            values = np.array([row[1:] for row in list(csv.reader(source))[1:]], dtype=np.float64)
            contexts = np.stack([values[s : s + 512] for s in golden["context_start_row"]]).astype(np.float32)
            out = model.forecast_channels(torch.from_numpy(contexts))
            assert_equal(out.forecast, golden["prediction"], rtol=1e-5, atol=1e-4)
            assert_equal(out.location, golden["loc"], rtol=1e-5, atol=1e-5)
            assert_equal(out.scale, golden["scale"], rtol=1e-5, atol=1e-5)
            hidden = (golden["backbone_hidden_state_window0"], golden["decoder_hidden_state_window0"])
            assert_equal(out.backbone[0][:, None], hidden[0], rtol=1e-5, atol=1e-4)
            assert_equal(out.decoder[0][:, None], hidden[1], rtol=1e-5, atol=1e-4)
