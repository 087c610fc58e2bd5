"""Timer against THUML's implementations: tiny random networks of both layouts, and the published names."""

import pytest
import torch
from torch import Tensor

from tests.parity.golden import GoldenSet, assert_equal, golden_sets
from tests.parity.manifests import assert_published, manifest
from tsfm import catalog
from tsfm.backbones.base import Batch
from tsfm.backbones.next_patch import NextPatch
from tsfm.backbones.timer import Timer
from tsfm.backbones.timer_v1 import POSITIONS, PREFIX, TimerV1

NORMALISED = {"rtol": 1e-5, "atol": 1e-4}
RAW = {"rtol": 1e-5, "atol": 1e-3}
V1_NORMALISED = {"rtol": 1e-5, "atol": 5e-5}
V1_RAW = {"rtol": 1e-5, "atol": 5e-4}
"""The sets' READMEs: five to ten times the float32 rounding of the reference."""
HUB = golden_sets("timer_84m")
FIRST = golden_sets("timer_v1")
ABSENT = "reference numbers are absent (set TEMPER_GOLDEN)"
needs_hub = pytest.mark.skipif(not HUB, reason=ABSENT)
needs_first = pytest.mark.skipif(not FIRST, reason=ABSENT)


def hub(golden: GoldenSet) -> Timer:
    model = Timer.from_config(golden.constructor("weights"), seed=0).eval()
    model.load_state_dict(golden.weights("weights"), strict=True)
    return model.requires_grad_(False)


def first(golden: GoldenSet) -> TimerV1:
    model = TimerV1.from_config(golden.constructor("weights"), seed=0).eval()
    model.load_state_dict(TimerV1.published_tensors(golden.weights("weights")), strict=True)
    return model.requires_grad_(False)


def loss_as_they_are(model: NextPatch, z: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Of windows that are normalised already: they go in untouched."""
    untouched = (torch.zeros(len(z), 1), torch.ones(len(z), 1))
    monkeypatch.setattr(model, "location_and_scale", lambda known, visible: untouched)
    p = model.patch_length
    return model.loss(Batch(context=z[:, :-p], target=z[:, -p:]))


def rows(x: Tensor) -> Tensor:
    """[series, time, channel] → [series × channel, time]."""
    return x.transpose(1, 2).flatten(0, 1)


def channels(said: Tensor, like: Tensor) -> Tensor:
    """[series × channel, …] → [series, time, channel]."""
    return said.flatten(1).unflatten(0, (len(like), -1)).transpose(1, 2)


def inputs(golden: GoldenSet) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in golden.arrays().items()}


@needs_hub
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
        model, x, expected = hub(golden), inputs(golden), golden.arrays()
        assert_equal(loss_as_they_are(model, x["train_z"], monkeypatch), expected["train_loss"], **NORMALISED)


@needs_first
@pytest.mark.parametrize("golden", FIRST, ids=lambda golden: golden.folder.name)
class TestFirst:
    def test_what_every_token_says(self, golden: GoldenSet) -> None:
        model, x, expected = first(golden), inputs(golden), golden.arrays()
        context = rows(x["x"])
        patches = model.patches(context)
        assert_equal(channels(patches.values, x["x"]), expected["z"], **V1_NORMALISED)
        assert_equal(channels(model.normalised(context, context), x["x"]), expected["z"], **V1_NORMALISED)
        assert_equal(model.embedded(patches.values, patches.padding), expected["embedded"], **V1_NORMALISED)
        assert_equal(model.hidden(patches.values, patches.padding), expected["hidden"], **V1_NORMALISED)
        assert_equal(model.tokens(patches.values, patches.padding), expected["proj_out"], **V1_NORMALISED)

    def test_the_protocol_s_forecast_is_the_last_token_s(self, golden: GoldenSet) -> None:
        model, x, expected = first(golden), inputs(golden), golden.arrays()
        context, p = rows(x["x"]), model.patch_length
        patches = model.patches(context)
        assert_equal(channels(model.after_each(patches.values, patches), x["x"]), expected["forecast_all"], **V1_RAW)
        said = model.predict(context, p).point
        assert_equal(channels(said, x["x"]), expected["forecast_all"][:, -p:], **V1_RAW)

    def test_hidden_patches_are_said_by_the_ones_before(self, golden: GoldenSet) -> None:
        model, x, expected = first(golden), inputs(golden), golden.arrays()
        seen, p = x["imp_mask"] > 0, model.patch_length
        context = rows(torch.where(seen, x["imp_x"], torch.nan))
        patches = model.patches(context)
        zeroed = torch.where(patches.seen, patches.values, 0.0)
        assert_equal(channels(model.after_each(zeroed, patches), x["x"]), expected["imputed"], **V1_RAW)
        filled = channels(model.impute(context), x["x"])
        assert_equal(filled[seen], expected["imp_x"][seen.numpy()], rtol=0, atol=0)
        hidden = ~seen[:, p:]
        assert_equal(filled[:, p:][hidden], expected["imputed"][:, :-p][hidden.numpy()], **V1_RAW)

    def test_the_loss_is_that_of_every_token(self, golden: GoldenSet, monkeypatch: pytest.MonkeyPatch) -> None:
        model, x, expected = first(golden), inputs(golden), golden.arrays()
        assert_equal(loss_as_they_are(model, x["train_z"], monkeypatch), expected["train_loss"], **V1_NORMALISED)


class TestPublished:
    def test_the_hub_s_file_fits(self) -> None:
        published = manifest("timer-base-84m")
        assert_published(published, Timer, published.constructor)
        assert_published(published, Timer, Timer.configs["timer-84m"])
        assert catalog.backbone("timer-84m").num_parameters == published.parameters

    @pytest.mark.parametrize("task", ["forecast", "imputation", "anomaly"])
    def test_the_first_files_fit(self, task: str) -> None:
        published = manifest(f"timer-v1-{task}")
        assert published.buffers == {POSITIONS}
        assert_published(published, TimerV1, published.constructor, prefix=PREFIX)

    def test_the_entry_is_the_first_forecast_file(self) -> None:
        published = manifest("timer-v1-forecast")
        assert_published(published, TimerV1, TimerV1.configs["timer-v1-forecast"], prefix=PREFIX)
        assert catalog.backbone("timer-v1-forecast").num_parameters == published.parameters
