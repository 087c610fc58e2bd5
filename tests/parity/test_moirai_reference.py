"""Moirai against sktime's copy of Salesforce's code (the extra "parity") at random tiny sizes."""

import importlib
import random
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tsfm.backbones.moirai1 import Moirai1
from tsfm.backbones.moirai2 import Moirai2
from tsfm.backbones.moirai_layers import Tokens, causal_means

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
FIXED = {"attn_dropout_p": 0.0, "dropout_p": 0.0, "scaling": True}


def reference(name: str) -> ModuleType:
    pytest.importorskip("sktime.libs.uni2ts", reason="sktime is not installed: pip install -e '.[parity]'")
    return importlib.import_module(f"sktime.libs.uni2ts.{name}")


def shaken(model: nn.Module, seed: int) -> None:
    """Norms and biases start where a forgotten one would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


def first(seed: int) -> tuple[Moirai1, Any]:
    """Ours and theirs, with the same random weights."""
    draw = random.Random(seed)
    sizes = sorted(draw.sample([4, 6, 8, 16], 3))
    config = {"d_model": 64 * draw.choice([1, 2]), "num_layers": draw.choice([1, 2]), "patch_sizes": sizes}
    config |= {"max_seq_len": 64, **FIXED}
    ours = Moirai1.from_config(config, seed=seed).eval().requires_grad_(False)
    shaken(ours, seed)
    kinds = [
        reference("distribution.student_t").StudentTOutput(),
        reference("distribution.normal").NormalFixedScaleOutput(),
        reference("distribution.negative_binomial").NegativeBinomialOutput(),
        reference("distribution.log_normal").LogNormalOutput(),
    ]
    mixture = reference("distribution.mixture").MixtureOutput(kinds)
    theirs = reference("moirai_module").MoiraiModule(distr_output=mixture, **{**config, "patch_sizes": tuple(sizes)})
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs.eval().requires_grad_(False)


def second(seed: int) -> tuple[Moirai2, Any]:
    draw = random.Random(seed)
    config = {"d_model": 64 * draw.choice([1, 2]), "d_ff": draw.choice([20, 48]), "num_layers": draw.choice([1, 2])}
    config |= {"patch_size": draw.choice([4, 8]), "num_predict_token": draw.choice([1, 2, 3]), "max_seq_len": 64}
    ours = Moirai2.from_config({**config, **FIXED}, seed=seed).eval().requires_grad_(False)
    shaken(ours, seed)
    theirs = reference("moirai2_module").Moirai2Module(**config, **FIXED)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs.eval().requires_grad_(False)


def packed(width: int, seed: int) -> Tokens:
    """Two rows: samples of two variates and of one, gaps, and prediction tokens at random places."""
    generator = torch.Generator().manual_seed(seed)
    values = 20 + 5 * torch.randn(2, 14, width, generator=generator)
    return Tokens(
        values=values,
        observed=torch.rand(2, 14, width, generator=generator) < 0.9,
        sample=torch.tensor([[1] * 8 + [2] * 4 + [0] * 2, [1] * 14]),
        time=torch.tensor([[*range(4), *range(4), *range(4), 0, 0], [*range(7), *range(7)]]),
        variate=torch.tensor([[0] * 4 + [1] * 4 + [0] * 4 + [0] * 2, [0] * 7 + [1] * 7]),
        prediction=torch.rand(2, 14, generator=generator) < 0.25,
    )


def arrays(tokens: Tokens) -> tuple[Tensor | None, ...]:
    """In the order of the reference's forward."""
    return tokens.values, tokens.observed, tokens.sample, tokens.time, tokens.variate, tokens.prediction


def walks(rows: int, length: int, seed: int) -> Tensor:
    return 50 + 3 * torch.randn(rows, length, generator=torch.Generator().manual_seed(seed)).cumsum(1)


@pytest.mark.parametrize("seed", range(3))
class TestFirstGeneration:
    def test_every_parameter_of_the_mixture_with_patch_sizes_mixed(self, seed: int) -> None:
        ours, theirs = first(seed)
        sizes = ours.sizes.patch_sizes
        tokens = packed(max(sizes), seed)
        assert tokens.variate is not None
        patch_sizes = torch.tensor(sizes)[(tokens.variate + 2 * tokens.sample) % 3]
        said = ours.mixture_of_tokens(tokens, patch_sizes)
        theirs_said = theirs(*arrays(tokens), patch_sizes)
        base = theirs_said.base_dist
        t, normal, count, skewed = base.components
        points = (torch.arange(max(sizes)) < patch_sizes[..., None]) & (tokens.sample != 0)[..., None]
        for ours_one, theirs_one in (
            (said.log_weights, base.weights.logits),
            (said.t_df, t.df),
            (said.t_loc, t.loc),
            (said.t_scale, t.scale),
            (said.normal_loc, normal.loc),
            (said.nb_total_count, count.total_count),
            (said.nb_logits, count.logits),
            (said.ln_loc, skewed.loc),
            (said.ln_scale, skewed.scale),
        ):
            torch.testing.assert_close(ours_one[points], theirs_one[points], **TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
class TestSecondGeneration:
    def test_every_token(self, seed: int) -> None:
        ours, theirs = second(seed)
        tokens = packed(ours.sizes.patch_size, seed)
        said = ours.forecast_tokens(tokens)
        quantiles, target = theirs(*arrays(tokens))
        real = tokens.sample != 0
        torch.testing.assert_close(said.target[real], target[real], **TOLERANCE)
        torch.testing.assert_close(said.quantiles.flatten(2)[real], quantiles[real], **TOLERANCE)

    def test_forecasts_below_at_and_beyond_one_pass(self, seed: int) -> None:
        """Their forecaster without the framework around it; it sorts nothing, so both are sorted."""
        ours, theirs = second(seed)
        kind = reference("moirai2_forecast").Moirai2Forecast
        plain = type("Plain", (), {k: v for k, v in vars(kind).items() if not k.startswith("__")})
        x = walks(3, 45, seed)
        seen = torch.ones(3, 45, dtype=torch.bool)
        seen[1, 17:29] = False
        native = ours.sizes.num_predict_token * ours.sizes.patch_size
        for horizon in (3, native, 2 * native + 3):
            forecaster = plain()
            forecaster.module, forecaster.device = theirs, torch.device("cpu")
            forecaster.hparams = SimpleNamespace(
                prediction_length=horizon,
                context_length=45,
                target_dim=1,
                feat_dynamic_real_dim=0,
                past_feat_dynamic_real_dim=0,
            )
            gappy = torch.where(seen, x, torch.nan)
            filled = causal_means(gappy)
            (expected,), _, _ = forecaster.forward(filled[..., None], seen[..., None], torch.zeros(3, 45))
            said = ours.predict(gappy, horizon).quantiles
            assert said is not None
            torch.testing.assert_close(said, expected.transpose(1, 2).sort(dim=1).values, rtol=1e-4, atol=2e-3)

    def test_gaps_are_filled_as_theirs(self, seed: int) -> None:
        x = walks(1, 60, seed)
        x[0, 5:9] = x[0, 30] = x[0, 40:55] = torch.nan
        theirs = reference("moirai2_forecast").CausalMeanImputation()(x[0].double().numpy().copy())
        np.testing.assert_allclose(causal_means(x)[0].numpy(), theirs, rtol=1e-6)
