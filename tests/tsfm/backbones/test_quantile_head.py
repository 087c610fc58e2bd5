"""TRACE's head "quantiles" on Sundial: one linear to all deciles of a short horizon (evaluation.md §7)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import toy
from tests.tsfm.backbones.test_sundial import NAN, rows, small
from tests.tsfm.test_finetune import run
from tsfm import heads
from tsfm.backbones.base import Batch
from tsfm.backbones.sundial import DECILES, Sundial
from tsfm.backbones.weights import tensors_of
from tsfm.configs import TraceConfig
from tsfm.errors import ConfigError
from tsfm.methods.trace import Trace
from tsfm.request import FinetuneRequest, resolve
from tsfm.tasks.forecast import BackboneSource, Forecaster

STEPS = 6
HEAD = {"quantile_head.weight", "quantile_head.bias"}


def fitted(steps: int = STEPS) -> Sundial:
    model = small()
    model.fit_to(steps, seed=0)
    return model


def with_head(seed: int = 3) -> Sundial:
    model = fitted()
    model.put_quantile_head(seed=seed)
    return model.eval()


class TestNetwork:
    def test_it_answers_sorted_deciles_and_goes_on_from_the_median(self) -> None:
        model, x = with_head(), rows(3, 40)
        said = model.predict(x, 2 * STEPS - 1)
        assert said.quantiles is not None
        assert (said.point_kind, said.levels) == ("median", DECILES)
        assert torch.equal(said.point, said.quantiles[:, 4])
        assert (said.quantiles.diff(dim=1) >= 0).all()
        grown = torch.cat([x, said.point[:, :STEPS]], dim=1)
        torch.testing.assert_close(said.point[:, STEPS:], model.predict(grown, STEPS - 1).point)

    def test_its_config_rebuilds_it(self) -> None:
        model = with_head()
        again = Sundial.from_config(json.loads(json.dumps(model.config)), seed=0).eval()
        again.load_state_dict(tensors_of(model), strict=True)
        assert torch.equal(again.predict(rows(2, 40), 4).point, model.predict(rows(2, 40), 4).point)
        assert again.fresh_parameters == model.fresh_parameters == HEAD
        assert again.unused_parameters == model.unused_parameters == model.head_parameter_names()
        assert again.unused_parameters

    def test_its_loss_is_the_quantile_loss_of_observed_steps(self) -> None:
        model, context, target = with_head(), rows(2, 40), rows(2, STEPS, seed=1)
        target[1, 2:] = NAN
        window = model.window(context)
        z = (target - window.location) / window.scale
        error = z[:, None] - model._deciles(window)
        levels = torch.tensor(DECILES)[:, None]
        expected = 2 * torch.maximum(levels * error, (levels - 1) * error).mean(1).nansum() / (STEPS + 2)
        torch.testing.assert_close(model.loss(Batch(context=context, target=target)), expected)

    def test_it_starts_near_what_the_sampler_says(self) -> None:
        """More windows than features: what is left is what no linear can say."""
        model = fitted()
        method = Trace(TraceConfig(head="quantiles", dropout=0.0, keep_ratio=1.0))
        method.prepare(model)
        method.bind(model.eval(), [], [Batch(context=rows(200, 40), target=rows(200, STEPS))])
        x = rows(20, 40, seed=9)
        states, answers = model.quantile_head_examples(x)
        assert isinstance(model.quantile_head, nn.Linear)
        missed = (model.quantile_head(states) - answers).square().mean()
        assert missed < 0.2 * (answers - answers.mean(0)).square().mean()
        sampled = small().predict(x, STEPS).quantiles
        window = model.window(x)
        torch.testing.assert_close(
            answers.view(20, 9, STEPS) * window.scale[:, None] + window.location[:, None], sampled, rtol=1e-4, atol=1e-4
        )


def test_ridge_is_exact_on_the_windows_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    states, linear = torch.randn(50, 4, generator=generator) + 2, nn.Linear(4, 3)
    answers = states @ torch.randn(4, 3, generator=generator) + 1
    heads.regress(linear, states, answers, ridge=1e-9)
    torch.testing.assert_close(linear(states), answers, rtol=1e-4, atol=1e-4)
    heads.regress(linear, states, answers, ridge=1e3)
    torch.testing.assert_close(linear(states.mean(0)), answers.mean(0), rtol=1e-4, atol=1e-4)


def asked(backbone: str, **fields: Any) -> dict[str, Any]:
    method = {"type": "trace", "head": "quantiles", "rounds": 1, "draws": 2, "selection_windows": 8, "dropout": 0.0}
    return {"backbone": backbone, "method": method, "prediction_length": STEPS, "context_length": 64, **fields}


class TestJob:
    def test_backbones_that_do_not_sample_refuse_it(self) -> None:
        with pytest.raises(ConfigError, match="sundial-128m") as caught:
            resolve(FinetuneRequest.from_mapping(asked("ttm-r2")), {"freq": "h", "max_length": 900})
        assert (caught.value.param, caught.value.code) == ("method.head", "unsupported_method")

    def test_a_landscape_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="one set of parameters"):
            resolve(
                FinetuneRequest.from_mapping(asked("sundial-128m", landscape=True)), {"freq": "h", "max_length": 900}
            )

    def test_a_tiny_random_network_is_tuned_stored_and_opened(self, tmp_path: Path) -> None:
        settings = {"learning_rate": 1e-2, "max_epochs": 1, "max_windows_per_epoch": 64, "batch_size": 16}
        settings |= {"max_validation_windows": 16, "max_test_windows": 16, "max_calibration_windows": 16}
        tiny = {"type": "random", "size": "tiny"}
        fields = asked("sundial-128m", initialisation=tiny, hyperparameters={**settings, "evaluations_per_epoch": 1})
        result = run(tmp_path, tmp_path, frame=toy.frame(num_series=1, length=600), **fields)
        weights = result.manifest["weights"]
        assert (weights["kind"], weights["head"]) == ("adapter", "quantiles")
        assert result.manifest["num_trainable_parameters"] > 9 * STEPS * (24 + 1)
        assert "put_quantile_head" in (result.out_dir / "README.md").read_text()
        forecaster = Forecaster.open(result.out_dir, digest=result.digest)
        source = forecaster._source
        assert isinstance(source, BackboneSource)
        assert isinstance(source.model, Sundial)
        assert source.model.predict(rows(2, 64), STEPS).point_kind == "median"
        assert source.model.quantile_head is not None
        assert source.model.quantile_head.weight.any()
