"""MOMENT against its authors' implementation: tiny random networks, and the names and shapes of the published file."""

import dataclasses
import importlib
import math
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.golden import GoldenSet, assert_equal, golden_sets
from tests.parity.manifests import assert_published, manifest
from tsfm.backbones.base import Batch
from tsfm.backbones.moment import MOMENT, Window, sines
from tsfm.backbones.weights import load_tensors

TOLERANCE = {"rtol": 1e-5, "atol": 5e-4}
"""The set's README, for values of size 100."""
SETS = golden_sets("moment")
needs_golden = pytest.mark.skipif(not SETS, reason="reference numbers are absent (set TEMPER_GOLDEN)")
TABLE = "encoder.embed_tokens.weight"
ENCODER = {
    "d_model": 24,
    "d_ff": 40,
    "d_kv": 6,
    "num_heads": 3,
    "num_layers": 3,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 40,
    "vocab_size": 8,
}
ORACLE = {
    "transformer_type": "encoder_only",
    "transformer_backbone": "none",
    "d_model": 24,
    "seq_len": 512,
    "patch_len": 8,
    "patch_stride_len": 8,
    "t5_config": ENCODER,
}
"""Another shape than the golden set's."""


def published(golden: GoldenSet) -> MOMENT:
    model = MOMENT.from_config(golden.constructor("weights"), seed=0)
    load_tensors(model, MOMENT.published_tensors(golden.weights("weights")))
    return model.eval().requires_grad_(False)


def fitted(golden: GoldenSet) -> MOMENT:
    """The same trunk under the forecasting head of the second file."""
    model = published(golden)
    model.fit_to(golden.config["forecast_horizon"], seed=0)
    head = load_file(golden.folder / "weights_forecast_head.safetensors")
    load_tensors(model.head, {name.removeprefix("head."): t for name, t in head.items()})
    return model.eval().requires_grad_(False)


def rows(x: Tensor) -> Tensor:
    """[row, channel, time] to [B, T]: channels are independent."""
    return x.flatten(0, 1)


@needs_golden
@pytest.mark.parametrize("golden", SETS, ids=lambda golden: golden.folder.name)
class TestGolden:
    def window(self, golden: GoldenSet, *, padded: bool = False, masked: bool = False) -> Window:
        arrays = golden.arrays()
        x = torch.from_numpy(arrays["x"])
        real, shown = (torch.from_numpy(arrays[name]).bool()[:, None].expand_as(x) for name in ("input_mask", "mask"))
        real = rows(real) if padded else torch.ones_like(rows(x), dtype=torch.bool)
        visible = rows(shown) if masked else torch.ones_like(real)
        return Window.of(rows(x), real=real, visible=visible, known=real & visible)

    def test_normalisation(self, golden: GoldenSet) -> None:
        window, expected = self.window(golden, padded=True, masked=True), golden.arrays()
        shape = expected["mean"].shape
        assert_equal(window.location.view(shape), expected["mean"], rtol=1e-5, atol=1e-5)
        assert_equal(window.scale.view(shape), expected["std"], rtol=1e-5, atol=1e-6)
        assert_equal(window.x.view(expected["normalised_masked"].shape), expected["normalised_masked"], **TOLERANCE)

    def test_reconstruction(self, golden: GoldenSet) -> None:
        model, expected = published(golden), golden.arrays()
        for name, is_masked in (("reconstruction", False), ("reconstruction_masked", True)):
            said = model.answer(self.window(golden, padded=is_masked, masked=is_masked))
            assert_equal(said.view(expected[name].shape), expected[name], **TOLERANCE)

    def test_forecasting_head(self, golden: GoldenSet) -> None:
        model, expected = fitted(golden), golden.arrays()
        for name, is_padded in (("forecast", False), ("forecast_padded", True)):
            said = model.answer(self.window(golden, padded=is_padded))
            assert_equal(said.view(expected[name].shape), expected[name], **TOLERANCE)

    def test_embedding(self, golden: GoldenSet) -> None:
        """There, padding is hidden as well; the mean is over channels, then over patches without padding."""
        model, expected, padded = published(golden), golden.arrays(), self.window(golden, padded=True)
        window = dataclasses.replace(padded, visible=padded.real)
        shape = expected["x"].shape[:2]
        states = model.states(window).unflatten(0, shape).mean(1)
        whole = window.real.unflatten(0, shape)[:, 0].unflatten(-1, (states.shape[1], -1)).all(-1).float()
        said = (states * whole[..., None]).sum(1) / whole.sum(1, keepdim=True)
        assert_equal(said, expected["embedding"], rtol=1e-5, atol=1e-4)

    def test_the_protocol_s_forecast_and_loss_are_the_network_s(self, golden: GoldenSet) -> None:
        """A window without padding; and with it, where the protocol takes padding for the mean instead of zero."""
        model, expected = fitted(golden), golden.arrays()
        x = rows(torch.from_numpy(expected["x"]))
        said = rows(torch.from_numpy(expected["forecast"]))
        assert_equal(model.predict(x, said.shape[1]).point, said.numpy(), **TOLERANCE)
        target = said + 0.5
        assert float(model.loss(Batch(context=x, target=target))) == pytest.approx(0.25, abs=1e-3)
        window = self.window(golden, padded=True)
        mean = torch.where(window.real, rows(torch.from_numpy(expected["x"])), math.nan)
        direct = model.answer(
            Window.of(mean, real=window.real, visible=torch.ones_like(window.real), known=window.real)
        )
        assert_equal(model.predict(mean, said.shape[1]).point, direct.numpy(), **TOLERANCE)

    def test_the_stored_sines_are_those_that_are_computed(self, golden: GoldenSet) -> None:
        stored = golden.weights("weights")["patch_embedding.position_embedding.pe"][0]
        model = published(golden)
        assert torch.equal(model.patch_embedding.positions, stored[: model.sizes.num_tokens])
        torch.testing.assert_close(sines(*stored.shape), stored)


def test_the_published_file_loads_strictly() -> None:
    """Of its parameters the table of the language model is left out, and nothing else."""
    found = manifest("MOMENT-1-small")
    held = found.parameters - math.prod(found.tensors[TABLE])
    assert_published(dataclasses.replace(found, parameters=held), MOMENT, found.constructor)
    assert MOMENT.from_config(MOMENT.shrunk(found.constructor), seed=0).config == MOMENT.shrunk(
        MOMENT.configs["moment-small"]
    )


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    pytest.importorskip("sktime", reason="sktime is not installed: pip install -e '.[parity]'")
    return importlib.import_module("sktime.libs.momentfm.models.moment")


@pytest.mark.filterwarnings("ignore")  # theirs
class TestOracle:
    """The authors' class, at tiny random weights; only its encoder comes from our sizes instead of the hub."""

    def pair(self, reference: ModuleType, monkeypatch: pytest.MonkeyPatch, **task: Any) -> tuple[Any, MOMENT]:
        from transformers import T5Config, T5EncoderModel

        monkeypatch.setattr(
            reference.MOMENT,
            "_get_transformer_backbone",
            lambda self, config: T5EncoderModel(T5Config(**config.t5_config)).get_encoder(),
        )
        torch.manual_seed(3)
        theirs = reference.MOMENT({**ORACLE, **task}, model_kwargs={}).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        ours = MOMENT.from_config(ORACLE, seed=0).eval()
        if "forecast_horizon" in task:
            ours.fit_to(task["forecast_horizon"], seed=0)
        load_tensors(ours, MOMENT.published_tensors(theirs.state_dict()))
        return theirs, ours.requires_grad_(False)

    def windows(self) -> tuple[Tensor, Tensor]:
        """[3, 512] with zeros before some of them, and where they are real."""
        x = 50 + 10 * torch.randn(3, 512, generator=torch.Generator().manual_seed(4))
        real = torch.ones(3, 512)
        real[1, :200], real[2, :301] = 0, 0
        return x * real, real

    @pytest.mark.parametrize("horizon", [1, 8, 90])
    def test_forecasts_by_reconstruction(
        self, reference: ModuleType, monkeypatch: pytest.MonkeyPatch, horizon: int
    ) -> None:
        """Rows without padding: where there is some, theirs shows the network zeros and ours the mean."""
        theirs, ours = self.pair(reference, monkeypatch, task_name="reconstruction")
        x = self.windows()[0][:1]
        with torch.inference_mode():
            expected = theirs.short_forecast(x[:, None], torch.ones(1, 512), horizon).forecast[:, 0]
        torch.testing.assert_close(ours.predict(x, horizon).point, expected, **TOLERANCE)

    def test_reconstruction(self, reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        theirs, ours = self.pair(reference, monkeypatch, task_name="reconstruction")
        x, real = self.windows()
        mask = torch.ones(3, 512)
        mask[:, 400:416], mask[1, 300:304] = 0, 0
        with torch.inference_mode():
            expected = theirs.reconstruction(x[:, None], real, mask).reconstruction[:, 0]
        known = real.bool() & mask.bool()
        said = ours.answer(Window.of(x, real=real.bool(), visible=mask.bool(), known=known))
        torch.testing.assert_close(said, expected, **TOLERANCE)

    def test_forecasting_head(self, reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        theirs, ours = self.pair(reference, monkeypatch, task_name="forecasting", forecast_horizon=20)
        x, real = self.windows()
        with torch.inference_mode():
            expected = theirs.forecast(x[:, None], real).forecast[:, 0]
        window = Window.of(x, real=real.bool(), visible=torch.ones(3, 512, dtype=torch.bool), known=real.bool())
        torch.testing.assert_close(ours.answer(window), expected, **TOLERANCE)
