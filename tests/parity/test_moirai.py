"""Moirai against uni2ts: tiny random networks of both generations, and the published names and shapes."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.parity.golden import GoldenSet, assert_equal, golden_sets
from tests.parity.manifests import assert_published, manifest
from tsfm.backbones.moirai2 import Moirai2
from tsfm.backbones.moirai_layers import Tokens

SECOND = golden_sets("moirai_2")
needs_second = pytest.mark.skipif(not SECOND, reason="reference numbers are absent (set TEMPER_GOLDEN)")
TOLERANCE = {"rtol": 1e-5, "atol": 5e-5}
RAW = {"rtol": 1e-5, "atol": 5e-4}
"""The sets' READMEs: five to ten times the float32 rounding of the reference, on values of order one and of size 50."""


def tokens(arrays: dict[str, NDArray[np.generic]], example: str) -> Tokens:
    """One packed example of a set."""

    def array(name: str) -> Tensor:
        return torch.from_numpy(arrays[f"{example}_{name}"])

    return Tokens(
        values=array("target"),
        observed=array("observed"),
        sample=array("sample_id"),
        time=array("time_id"),
        variate=array("variate_id"),
        prediction=array("prediction"),
    )


@needs_second
@pytest.mark.parametrize("golden", SECOND, ids=lambda golden: golden.folder.name)
class TestSecondGeneration:
    def network(self, golden: GoldenSet) -> Moirai2:
        model = Moirai2.from_config(golden.constructor("weights"), seed=0).eval()
        model.load_state_dict(golden.weights("weights"), strict=True)
        return model.requires_grad_(False)

    @pytest.mark.parametrize("example", ["uni", "two", "pad"])
    def test_every_token_of_every_example(self, golden: GoldenSet, example: str) -> None:
        expected = golden.arrays()
        said = self.network(golden).forecast_tokens(tokens(expected, example))
        assert_equal(said.target, expected[f"{example}_scaled_target"], **TOLERANCE)
        assert_equal(said.quantiles, expected[f"{example}_pred_scaled"], **TOLERANCE)
        assert_equal(said.in_units(), expected[f"{example}_pred"], **RAW)

    def test_the_protocol_s_forecast_is_what_the_last_context_token_says(self, golden: GoldenSet) -> None:
        """The example's rows are full windows: their context alone, as one series, gives the same deciles."""
        model, expected = self.network(golden), golden.arrays()
        shown = ~expected["uni_prediction"][0]
        context = torch.from_numpy(expected["uni_target"][:, shown]).flatten(1)
        observed = torch.from_numpy(expected["uni_observed"][:, shown]).flatten(1)
        steps = model.sizes.num_predict_token * model.sizes.patch_size
        said = model.predict(torch.where(observed, context, torch.nan), steps)
        answers = torch.from_numpy(expected["uni_pred"][:, shown.sum() - 1]).transpose(1, 2).flatten(2)
        assert_equal(said.quantiles, answers.sort(dim=1).values.numpy(), **RAW)


def test_published_names_and_shapes() -> None:
    assert_published(manifest("moirai-2.0-R-small"), Moirai2, Moirai2.configs["moirai-2-small"])
