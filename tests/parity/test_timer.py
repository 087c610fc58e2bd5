"""Timer against THUML's implementations: tiny random networks of both layouts, and the published names."""

import pytest
import torch
from torch import Tensor

from tests.parity.golden import GoldenSet, assert_equal, golden_sets
from tests.parity.manifests import assert_published, manifest
from tsfm import catalog
from tsfm.backbones.base import Batch
from tsfm.backbones.timer import Timer

NORMALISED = {"rtol": 1e-5, "atol": 1e-4}
RAW = {"rtol": 1e-5, "atol": 1e-3}
"""The sets' README: five to ten times the float32 rounding of the reference."""
HUB = golden_sets("timer_84m")
needs_golden = pytest.mark.skipif(not HUB, reason="reference numbers are absent (set TEMPER_GOLDEN)")


def hub(golden: GoldenSet) -> Timer:
    model = Timer.from_config(golden.constructor("weights"), seed=0).eval()
    model.load_state_dict(golden.weights("weights"), strict=True)
    return model.requires_grad_(False)


def inputs(golden: GoldenSet) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in golden.arrays().items()}


@needs_golden
@pytest.mark.parametrize("golden", HUB, ids=lambda golden: golden.folder.name)
class TestHub:
    def test_what_every_token_says(self, golden: GoldenSet) -> None:
        model, x, expected = hub(golden), inputs(golden), golden.arrays()
        assert_equal(model.normalised(x["x"], x["x"]), expected["x_norm"], rtol=1e-5, atol=1e-5)
        patches = model.patches(x["x"])
        assert_equal(patches.values.flatten(1), expected["x_norm"], rtol=1e-5, atol=1e-5)
        assert_equal(model.hidden(patches.values, patches.padding), expected["hidden"], **NORMALISED)
        assert_equal(model.tokens(patches.values, patches.padding), expected["token_out"], **NORMALISED)

    def test_the_protocol_s_forecast_is_the_rollout(self, golden: GoldenSet) -> None:
        model, x, expected = hub(golden), inputs(golden), golden.arrays()
        assert_equal(model.predict(x["x"], model.patch_length).point, expected["forecast"], **RAW)
        assert_equal(model.predict(x["x"], expected["rollout"].shape[1]).point, expected["rollout"], **RAW)

    def test_the_loss_is_that_of_every_token(self, golden: GoldenSet, monkeypatch: pytest.MonkeyPatch) -> None:
        """The set's windows are normalised already: they go in as they are."""
        model, x, expected = hub(golden), inputs(golden), golden.arrays()
        as_they_are = (torch.zeros(len(x["train_z"]), 1), torch.ones(len(x["train_z"]), 1))
        monkeypatch.setattr(model, "location_and_scale", lambda known, visible: as_they_are)
        p = model.patch_length
        batch = Batch(context=x["train_z"][:, :-p], target=x["train_z"][:, -p:])
        assert_equal(model.loss(batch), expected["train_loss"], **NORMALISED)


class TestPublished:
    def test_the_hub_s_file_fits(self) -> None:
        published = manifest("timer-base-84m")
        assert_published(published, Timer, published.constructor)
        assert_published(published, Timer, Timer.configs["timer-84m"])
        assert catalog.backbone("timer-84m").num_parameters == published.parameters
