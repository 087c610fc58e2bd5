"""Moirai against uni2ts: tiny random networks of both generations, and the published names and shapes."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.parity.golden import GoldenSet, assert_equal, golden_sets
from tests.parity.manifests import assert_published, manifest
from tsfm.backbones.base import Batch
from tsfm.backbones.moirai1 import Moirai1
from tsfm.backbones.moirai2 import Moirai2
from tsfm.backbones.moirai_layers import Tokens

FIRST, SECOND = golden_sets("moirai_1"), golden_sets("moirai_2")
needs_first = pytest.mark.skipif(not FIRST, reason="reference numbers are absent (set TEMPER_GOLDEN)")
needs_second = pytest.mark.skipif(not SECOND, reason="reference numbers are absent (set TEMPER_GOLDEN)")
TOLERANCE = {"rtol": 1e-5, "atol": 5e-5}
RAW = {"rtol": 1e-5, "atol": 5e-4}
"""The sets' READMEs: five to ten times the float32 rounding of the reference, on values of order one and of size 50."""


NAMES = (
    "log_weights",
    "t_df",
    "t_loc",
    "t_scale",
    "normal_loc",
    "nb_total_count",
    "nb_logits",
    "ln_loc",
    "ln_scale",
)


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


@needs_first
@pytest.mark.parametrize("golden", FIRST, ids=lambda golden: golden.folder.name)
class TestFirstGeneration:
    def network(self, golden: GoldenSet) -> Moirai1:
        model = Moirai1.from_config(golden.constructor("weights"), seed=0).eval()
        model.load_state_dict(golden.weights("weights"), strict=True)
        return model.requires_grad_(False)

    @pytest.mark.parametrize("example", ["uni", "two", "mix"])
    def test_every_parameter_of_every_point(self, golden: GoldenSet, example: str) -> None:
        expected = golden.arrays()
        packed = tokens(expected, example)
        said = self.network(golden).mixture_of_tokens(packed, torch.from_numpy(expected[f"{example}_patch_size"]))
        close = {"rtol": 1e-5, "atol": 2e-5}
        assert_equal(said.location, expected[f"{example}_loc"], **close)
        assert_equal(said.scale, expected[f"{example}_scale"], **close)
        for name in NAMES:
            assert_equal(getattr(said, name), expected[f"{example}_{name}"], **close)
        found = said.log_prob(torch.from_numpy(expected[f"{example}_truth"]))
        assert_equal(found, expected[f"{example}_log_prob"], **close)
        points = np.arange(packed.values.shape[2]) < expected[f"{example}_patch_size"][..., None]
        for name in NAMES:
            assert np.isfinite(getattr(said, name).numpy()[points]).all()

    def test_the_protocol_s_loss_is_the_density_of_what_follows(self, golden: GoldenSet) -> None:
        """The example's rows are full windows of one series: context, then target."""
        expected = golden.arrays()
        asked, size = expected["uni_prediction"][0], int(expected["uni_patch_size"][0, 0])
        assert expected["uni_observed"][:, ~asked, :size].all()
        model = Moirai1.from_config({**golden.constructor("weights"), "patch_size": size}, seed=0).eval()
        model.load_state_dict(golden.weights("weights"), strict=True)
        context = torch.from_numpy(expected["uni_target"][:, ~asked, :size]).flatten(1)
        target = torch.from_numpy(expected["uni_truth"][:, asked, :size]).flatten(1)
        density = expected["uni_log_prob"][:, asked, :size]
        assert_equal(model.loss(Batch(context=context, target=target)).detach(), -density.mean(), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("file", "network", "name"),
    [("moirai-2.0-R-small", Moirai2, "moirai-2-small"), ("moirai-1.1-R-small", Moirai1, "moirai-1.1-small")],
)
def test_published_names_and_shapes(file: str, network: type[Moirai1 | Moirai2], name: str) -> None:
    assert_published(manifest(file), network, network.configs[name])
