"""The shipped backbone goes the whole road: tuned, stored, reopened, continued past its tuned horizon."""

from pathlib import Path

import numpy as np
import pytest

from tests import toy
from tsfm import catalog, finetune
from tsfm.backbones.weights import load_backbone
from tsfm.finetune import FinetuneRequest
from tsfm.tasks.forecast import Forecaster


def test_the_catalogue_describes_the_shipped_network() -> None:
    spec = catalog.backbone("temper-tiny")
    model = load_backbone(spec)
    assert sum(p.numel() for p in model.parameters()) == spec.num_parameters
    for name in ("context_length", "prediction_length", "max_prediction_length", "patch_length"):
        assert model.config[name] == getattr(spec, name)
    assert tuple(model.config["quantile_levels"]) == spec.quantile_levels
    assert model.head_parameter_names()


@pytest.mark.parametrize("method", ["sff", "linear_probe"])
def test_temper_tiny_is_tuned_stored_and_reopened(tmp_path: Path, method: str) -> None:
    caps = {"max_windows_per_epoch": 48, "max_validation_windows": 16, "max_calibration_windows": 16}
    caps["max_test_windows"] = 16
    result = finetune.run(
        FinetuneRequest.from_mapping(
            {
                "backbone": "temper-tiny",
                "method": method,
                "prediction_length": 6,
                "context_length": 64,
                "hyperparameters": {"learning_rate": 1e-3, "max_epochs": 2, "batch_size": 16, **caps},
            }
        ),
        toy.frame(num_series=2),
        weights_dir=None,
        state_dir=tmp_path / "state",
        out_dir=tmp_path / "artifact",
        report=lambda _: None,
        should_stop=lambda: None,
    )
    assert result.candidates[0]["test"]["mase"] != result.candidates[1]["test"]["mase"]
    forecaster = Forecaster.open(result.out_dir, digest=result.digest)
    whole = forecaster.predict(toy.frame(num_series=2), 6, (0.1, 0.5, 0.9))
    longer = forecaster.predict(toy.frame(num_series=2), 30, (0.1, 0.5, 0.9))
    assert np.array_equal(longer.point[:, :6], whole.point)
    assert longer.quantiles is not None
    assert np.isfinite(longer.quantiles).all()
    assert (np.diff(longer.quantiles, axis=1) >= 0).all()
