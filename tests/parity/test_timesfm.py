"""TimesFM 2.5 against Google's package: its numbers for tiny random networks, and itself where it is installed."""

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.golden import GoldenSet, assert_equal, golden_sets
from tests.parity.manifests import assert_published, manifest
from tsfm.backbones.timesfm import TimesFM, TimesFMConfig, running_moments
from tsfm.errors import ConfigError

TOLERANCE = {"rtol": 1e-5, "atol": 3e-3}
"""The set's README, on values of size 100."""
SETS = golden_sets("timesfm_2_5")
needs_golden = pytest.mark.skipif(not SETS, reason="reference numbers are absent (set TEMPER_GOLDEN)")
OURS = {
    "input_patch_len": "patch_length",
    "output_patch_len": "horizon_length",
    "output_quantile_len": "output_quantile_len",
    "model_dims": "hidden_size",
    "hidden_dims": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "rms_eps": "rms_norm_eps",
}
"""The package's names of sizes, and those of our config."""


def network(golden: GoldenSet, **changes: Any) -> TimesFM:
    sizes = golden.constructor("weights")
    deciles = [round(0.1 * k, 1) for k in range(1, sizes["num_quantiles"] + 1)]
    config = {ours: sizes[theirs] for theirs, ours in OURS.items()} | {"quantiles": deciles} | changes
    model = TimesFM.from_config(config, seed=0).eval()
    model.load_state_dict(TimesFM.published_tensors(golden.weights("weights")), strict=True)
    assert model.sizes.median == sizes["decode_index"]
    return model.requires_grad_(False)


def given(golden: GoldenSet, name: str) -> tuple[Tensor, Tensor]:
    """Values and mask as the network itself takes them."""
    arrays = golden.arrays()
    x = torch.from_numpy(arrays[name])
    return x, torch.from_numpy(arrays.get(f"{name}_mask", np.zeros(x.shape, dtype=bool)))


def contexts(golden: GoldenSet) -> list[Tensor]:
    """The rows of the public call, each [1, T]; missing points are NaN."""
    arrays = golden.arrays()
    rows = [arrays["x"][0][~arrays["x_mask"][0]], arrays["x"][1], arrays["nan_row"]]
    return [torch.from_numpy(row)[None] for row in rows]


@needs_golden
@pytest.mark.parametrize("golden", SETS, ids=lambda golden: golden.folder.name)
class TestGolden:
    def test_running_statistics(self, golden: GoldenSet) -> None:
        model, expected = network(golden), golden.arrays()
        location, scale = running_moments(*given(golden, "x"), patch=model.sizes.patch_length)
        assert_equal(location, expected["patch_mu"], rtol=1e-5, atol=1e-4)
        assert_equal(scale, expected["patch_sigma"], rtol=1e-4, atol=1e-3)

    def test_tokens_hidden_states_and_what_every_patch_says(self, golden: GoldenSet) -> None:
        model, expected = network(golden), golden.arrays()
        seen: list[Tensor] = []
        model.model.input_ff_layer.register_forward_hook(lambda _, __, out: seen.append(out))
        patches = model.hidden(*given(golden, "x"))
        assert_equal(seen[0], expected["embedding"], rtol=1e-5, atol=1e-3)
        assert_equal(patches.hidden, expected["hidden"], rtol=1e-5, atol=1e-3)
        assert_equal(model.next_steps(patches), expected["out_all"], **TOLERANCE)
        assert_equal(model.far_steps(patches), expected["quantile_head"], **TOLERANCE)

    def test_medians_are_fed_back_as_new_patches(self, golden: GoldenSet) -> None:
        model, expected = network(golden), golden.arrays()
        values, masked = given(golden, "ar_x")
        said = [model.next_steps(model.hidden(values, masked))[:, -1]]
        for _ in range(expected["ar_next"].shape[1]):
            values = torch.cat([values, said[-1][..., model.sizes.median]], dim=1)
            said.append(model.next_steps(model.hidden(values, torch.zeros_like(values, dtype=torch.bool)))[:, -1])
        assert_equal(said[0], expected["ar_first"], **TOLERANCE)
        assert_equal(torch.stack(said[1:], dim=1), expected["ar_next"], **TOLERANCE)
        horizon = min(int(expected["ar_horizon"][0]), model.sizes.output_quantile_len)
        point = model.predict(given(golden, "ar_x")[0], horizon).point
        assert_equal(torch.cat(said, dim=1)[:, :horizon, model.sizes.median], point.numpy(), **TOLERANCE)

    def test_the_public_forecast_with_gaps_and_padding(self, golden: GoldenSet) -> None:
        model, expected = network(golden), golden.arrays()
        horizon = expected["api_point"].shape[1]
        for row, context in enumerate(contexts(golden)):
            columns = model._columns(context, horizon)
            assert_equal(columns, expected["api_full"][row : row + 1], **TOLERANCE)
            said = model.predict(context, horizon)
            assert_equal(said.point, expected["api_point"][row : row + 1], **TOLERANCE)

    def test_flipped_and_uncrossed(self, golden: GoldenSet) -> None:
        model, expected = network(golden, flip_invariance=True), golden.arrays()
        full = expected["flip_full"]
        for row, context in enumerate(contexts(golden)):
            said = model.predict(context, full.shape[1])
            assert said.quantiles is not None
            assert_equal(said.quantiles.transpose(1, 2), full[row : row + 1, :, 1:], **TOLERANCE)
            assert_equal(said.point, expected["flip_point"][row : row + 1], **TOLERANCE)

    def test_every_array_is_compared(self, golden: GoldenSet) -> None:
        inputs = {"x", "x_mask", "ar_x", "ar_horizon", "nan_row"}
        compared = {"patch_mu", "patch_sigma", "embedding", "hidden", "out_all", "quantile_head", "ar_first", "ar_next"}
        assert set(golden.arrays()) == inputs | compared | {"api_point", "api_full", "flip_full", "flip_point"}


class TestPublished:
    @pytest.mark.parametrize("layout", ["timesfm-2.5-200m-pytorch", "timesfm-2.5-200m-transformers"])
    def test_names_and_shapes_of_either_layout_load(self, layout: str) -> None:
        assert_published(manifest(layout), TimesFM, TimesFM.configs["timesfm-2.5"])


TINY = {"hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 3}


def draw(network: torch.nn.Module) -> torch.nn.Module:
    """Random in every tensor: norms and scales that all are 1 would hide each other."""
    generator = torch.Generator().manual_seed(4)
    for parameter in network.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + float(parameter.ndim == 1))
    return network.eval().requires_grad_(False)


def walks(count: int, length: int) -> Tensor:
    return 50 + torch.randn(count, length, generator=torch.Generator().manual_seed(5)).cumsum(1)


@pytest.fixture(scope="module")
def theirs() -> Any:
    """Google's forecaster around its network at a tiny size."""
    pytest.importorskip("timesfm", reason="Google's package is not installed: pip install -e '.[parity]'")
    published = importlib.import_module("timesfm.timesfm_2p5.timesfm_2p5_torch")
    full, width = published.TimesFM_2p5_200M_torch_module.config, TINY["hidden_size"]
    layer = replace(
        full.stacked_transformers.transformer,
        model_dims=width,
        hidden_dims=TINY["intermediate_size"],
        num_heads=TINY["num_attention_heads"],
    )
    small = replace(
        full,
        tokenizer=replace(full.tokenizer, hidden_dims=width, output_dims=width),
        stacked_transformers=replace(
            full.stacked_transformers, num_layers=TINY["num_hidden_layers"], transformer=layer
        ),
        output_projection_point=replace(full.output_projection_point, input_dims=width, hidden_dims=width),
        output_projection_quantiles=replace(full.output_projection_quantiles, input_dims=width, hidden_dims=width),
    )
    network = type("Small", (published.TimesFM_2p5_200M_torch_module,), {"config": small})()
    forecaster = published.TimesFM_2p5_200M_torch(torch_compile=False)
    forecaster.model = draw(network)
    forecaster.model.device = torch.device("cpu")
    return forecaster


class TestPackage:
    """The extra "parity"."""

    @pytest.mark.parametrize("flip", [False, True])
    @pytest.mark.parametrize("horizon", [40, 300])
    def test_forecasts(self, theirs: Any, flip: bool, horizon: int) -> None:
        options = {
            "max_context": 256,
            "max_horizon": 384,
            "per_core_batch_size": 3,
            "use_continuous_quantile_head": True,
            "fix_quantile_crossing": True,
            "force_flip_invariance": flip,
            "infer_is_positive": False,
        }
        theirs.compile(importlib.import_module("timesfm").ForecastConfig(**options))
        ours = TimesFM.from_config({**TINY, "flip_invariance": flip}, seed=0).eval().requires_grad_(False)
        ours.load_state_dict(TimesFM.published_tensors(theirs.model.state_dict()), strict=True)
        x = walks(3, 256)
        x[1, :90] = torch.nan
        x[2, 100:117] = torch.nan
        point, full = theirs.forecast(horizon, [row.numpy().copy() for row in x])
        said = ours.predict(x, horizon)
        assert said.quantiles is not None
        assert_equal(said.point, point, **TOLERANCE)
        assert_equal(said.quantiles.transpose(1, 2), full[..., 1:], **TOLERANCE)


class TestTransformers:
    """The class of `transformers`, as a container of the same names; its loss and its clamp are not ours."""

    @pytest.mark.filterwarnings("ignore")  # theirs
    def test_weights_of_ours_load_strictly_and_forecast_the_same(self) -> None:
        transformers = importlib.import_module("transformers")
        ours = draw(TimesFM.from_config(TINY, seed=0))
        assert isinstance(ours, TimesFM)
        head_width = TINY["hidden_size"] // TINY["num_attention_heads"]
        sizes = {**TINY, "head_dim": head_width, "num_key_value_heads": TINY["num_attention_heads"]}
        theirs = transformers.TimesFm2_5ModelForPrediction(transformers.TimesFm2_5Config(**sizes)).eval()
        theirs.load_state_dict(ours.state_dict(), strict=True)
        x = walks(2, 256)
        with torch.inference_mode():
            out = theirs(list(x), forecast_context_len=256, force_flip_invariance=False, truncate_negative=False)
        assert_equal(ours.predict(x, 128).point, out.mean_predictions.numpy(), **TOLERANCE)
        assert_equal(ours._columns(x, 128), out.full_predictions.numpy(), **TOLERANCE)

    def test_a_published_config_is_read_as_it_lies(self) -> None:
        transformers = importlib.import_module("transformers")
        config = transformers.TimesFm2_5Config().to_dict()
        with torch.device("meta"):
            assert TimesFM.from_config(config, seed=0).sizes == TimesFMConfig()
        with pytest.raises(ConfigError, match="activation"):
            TimesFM.from_config({**config, "activation": "relu"}, seed=0)
