"""TimesFM 2.5 against Google's package: its numbers for tiny random networks, and itself where it is installed."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.golden import GoldenSet, assert_equal, golden_sets
from tests.parity.manifests import assert_published, manifest
from tsfm.backbones.timesfm import TimesFM, running_moments

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
