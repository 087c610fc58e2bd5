"""A downloaded adapter opens in stock `peft`, on our class and on IBM's own, and forecasts what we serve.

IBM's class comes from `granite-tsfm` where it is installed, else from its copy in `sktime`, which is the extra "parity"
(granite-tsfm cannot be one, since it asks for an older torch than the product runs on).
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from tests import toy
from tests.data import data_path
from tsfm import catalog, finetune
from tsfm.adapter_files import HEAD_WEIGHTS
from tsfm.backbones.ttm import TTM
from tsfm.backbones.weights import load_backbone
from tsfm.request import FinetuneRequest
from tsfm.tasks.forecast import BackboneSource, Forecaster

METHODS = {"lora": 1e-2, "adalora": 1e-1, "trace": 1e-2}
"""Learning rates at which four steps change the forecast visibly."""
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
"""On windows scaled to order one."""


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    for name in ("tsfm_public.models.tinytimemixer", "sktime.libs.granite_ttm"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    pytest.skip("IBM's TTM is not installed: pip install -e '.[parity]'")


def tuned(backbone: str, method: str | dict[str, Any], weights_dir: Path | None, folder: Path) -> tuple[Path, Any]:
    """An adapter after some large steps on synthetic series, and the network that `/forecast` would open."""
    name = method if isinstance(method, str) else method["type"]
    settings = {"learning_rate": METHODS[name], "max_epochs": 1, "max_windows_per_epoch": 64, "batch_size": 16}
    settings |= {"max_validation_windows": 8, "max_test_windows": 8, "evaluations_per_epoch": 1}
    asked = {"backbone": backbone, "method": method, "prediction_length": 16, "hyperparameters": settings}
    result = finetune.run(
        FinetuneRequest.from_mapping({**asked, "context_length": 512}),
        toy.frame(num_series=1, length=1_000),
        weights_dir=weights_dir,
        state_dir=folder / "state",
        out_dir=folder / "artifact",
        report=lambda progress: None,
        should_stop=lambda: None,
    )
    source = Forecaster.open(result.out_dir, digest=result.digest, weights_dir=weights_dir)._source
    assert isinstance(source, BackboneSource)
    return result.out_dir, source.model


def contexts() -> Tensor:
    walks = torch.randn(6, 512, generator=torch.Generator().manual_seed(0)).cumsum(1)
    return (walks - walks.mean(1, keepdim=True)) / walks.std(1, keepdim=True)


@pytest.mark.parametrize("method", METHODS)
def test_temper_tiny(method: str, tmp_path: Path) -> None:
    folder, served = tuned("temper-tiny", method, None, tmp_path)
    base = load_backbone(catalog.backbone("temper-tiny"))
    with torch.inference_mode():
        before = base.predict(contexts(), 96).quantiles
        expected = served.predict(contexts(), 96).quantiles
        found = PeftModel.from_pretrained(base, str(folder)).eval().predict(contexts(), 96).quantiles
    assert not torch.allclose(before, expected, atol=1e-2), "the adapter changed nothing"
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore")  # theirs
def test_ttm_r2_on_ibms_own_class(method: str, reference: ModuleType, tmp_path: Path) -> None:
    published = data_path("ttm_r2_512_96")
    (tmp_path / "ttm-r2").symlink_to(published)
    folder, served = tuned("ttm-r2", method, tmp_path, tmp_path)
    base = reference.TinyTimeMixerForPrediction.from_pretrained(published).eval()
    past = contexts().unsqueeze(2)
    with torch.inference_mode():
        before = base(past_values=past).prediction_outputs[..., 0]
        expected = served.predict(contexts(), 96).point
        found = PeftModel.from_pretrained(base, str(folder)).eval()(past_values=past).prediction_outputs[..., 0]
    assert not torch.allclose(before, expected, atol=1e-2), "the adapter changed nothing"
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.filterwarnings("ignore")  # theirs
def test_beside_a_replaced_head_the_hidden_states_agree(reference: ModuleType, tmp_path: Path) -> None:
    """The adapter knows nothing of `head.safetensors`, which holds the one linear of IBM's class too."""
    published = data_path("ttm_r2_512_96")
    (tmp_path / "ttm-r2").symlink_to(published)
    folder, served = tuned("ttm-r2", {"type": "trace", "head": "svd-32"}, tmp_path, tmp_path)
    assert isinstance(served, TTM)
    base = reference.TinyTimeMixerForPrediction.from_pretrained(published).eval()
    past = contexts().unsqueeze(2)
    with torch.inference_mode():
        before = base(past_values=past).decoder_hidden_state
        expected = served.forecast_channels(past)
        model = PeftModel.from_pretrained(base, str(folder)).eval()
        found = model(past_values=past)
        assert not torch.allclose(before, expected.decoder, atol=1e-2), "the adapter changed nothing"
        torch.testing.assert_close(found.decoder_hidden_state, expected.decoder, **TOLERANCE)
        assert not torch.allclose(found.prediction_outputs, expected.forecast, atol=1e-2)
        missing = base.load_state_dict(load_file(folder / HEAD_WEIGHTS), strict=False)
        assert not missing.unexpected_keys
        torch.testing.assert_close(model(past_values=past).prediction_outputs, expected.forecast, **TOLERANCE)
