"""What is particular to Moirai: packed tokens, what fills gaps, and how far one pass reaches."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.tsfm.backbones.contract import NAN, sines
from tsfm import catalog
from tsfm.backbones.base import Batch
from tsfm.backbones.moirai1 import DECILES, Moirai1
from tsfm.backbones.moirai2 import Moirai2
from tsfm.backbones.moirai_layers import causal_means, packed, rotate_pairs, standardisation
from tsfm.backbones.moirai_mixture import Mixture
from tsfm.errors import ConfigError
from tsfm.finetune import tuned_source
from tsfm.series.windows import WindowBatch
from tsfm.tasks.forecast import BackboneSource

FIRST = Moirai1.shrunk(Moirai1.configs["moirai-1.1-small"])
SECOND = Moirai2.shrunk(Moirai2.configs["moirai-2-small"])


@pytest.fixture(scope="module")
def second() -> Moirai2:
    return Moirai2.from_config(SECOND, seed=1).eval().requires_grad_(False)


def gappy(rows: int = 3, length: int = 90) -> Tensor:
    x = sines(rows, length, seed=2)
    x[1, 20:45] = NAN
    x[2, :37] = NAN
    x[2, 60] = NAN
    return x


class TestTokens:
    def test_gaps_are_filled_by_the_mean_of_all_before_them(self) -> None:
        x = torch.tensor([[NAN, 2.0, NAN, 4.0, NAN, NAN]])
        # Gaps themselves count in later means, with the value last seen: 2; 2; (2 + 2 + 4) / 3; (2 + 2 + 4 + 4) / 4.
        assert causal_means(x).tolist() == [[0.0, 2.0, 2.0, 4.0, pytest.approx(8 / 3), 3.0]]

    def test_time_counts_from_the_first_patch_with_a_point(self) -> None:
        tokens = packed(gappy(), 16, future=torch.zeros(3, 16))
        assert tokens.sample.tolist() == [[1] * 7, [1] * 7, [0, 0] + [1] * 5]
        assert tokens.time[2].tolist() == [0, 0, 0, 1, 2, 3, 4]
        assert tokens.prediction.tolist() == [[False] * 6 + [True]] * 3
        assert packed(torch.full((1, 40), NAN), 16).sample.tolist() == [[0, 0, 1]]

    def test_a_row_of_one_series_is_standardised_as_one_of_many(self) -> None:
        one = packed(gappy(), 16)
        many = dataclasses.replace(one, variate=torch.zeros_like(one.time))
        for ours, packed_form in zip(standardisation(one), standardisation(many), strict=True):
            torch.testing.assert_close(ours, packed_form)
        location, scale = standardisation(one)
        row = gappy()[1]
        seen = row[~row.isnan()].double()
        torch.testing.assert_close(location[1, -1], seen.mean()[None].float())
        torch.testing.assert_close(scale[1, -1], (seen.var() + 1e-5).sqrt()[None].float())

    def test_half_of_a_head_is_turned(self) -> None:
        x, angle = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3, 16)
        turned = rotate_pairs(x, angle.cos(), angle.sin())
        assert torch.equal(turned[..., 32:], x[..., 32:])
        pairs = torch.view_as_complex(x[..., :32].unflatten(-1, (16, 2)).contiguous())
        expected = pairs * torch.polar(torch.ones_like(angle), angle)
        torch.testing.assert_close(turned[..., :32], torch.view_as_real(expected).flatten(-2))


class TestSecondGeneration:
    def test_one_series_a_row_is_the_whole_network_for_less(self, second: Moirai2) -> None:
        one = packed(gappy(), 16)
        many = dataclasses.replace(one, variate=torch.zeros_like(one.time))
        ours, whole = second.forecast_tokens(one), second.forecast_tokens(many)
        torch.testing.assert_close(ours.quantiles, whole.quantiles, rtol=1e-5, atol=1e-5)

    def test_beyond_one_pass_nine_paths_are_followed(self, second: Moirai2) -> None:
        """The same with a loop over rows and paths: each path is a context of its own, with its own scale."""
        x = gappy()
        levels = torch.tensor(second.levels)
        first = second.predict(x, 64).quantiles
        said = second.predict(x, 140)
        assert first is not None
        assert said.quantiles is not None
        torch.testing.assert_close(said.quantiles[..., :64], first)
        for row, expected in zip(x, said.quantiles, strict=True):
            paths = [torch.cat([row, end]) for end in second._next(row[None])[0]]
            for start, stop in ((64, 128), (128, 140)):
                answers = torch.cat([second._next(path[None])[0] for path in paths])
                deciles = answers.quantile(levels, dim=0)
                torch.testing.assert_close(expected[:, start:stop], deciles[:, : stop - start], rtol=1e-4, atol=1e-4)
                paths = [torch.cat([path, end]) for path, end in zip(paths, deciles, strict=True)]

    def test_the_service_asks_for_the_whole_horizon_at_once(self, second: Moirai2) -> None:
        """Not for 64 steps and then for the rest after their median."""
        spec, x = catalog.backbone("moirai-2-small"), sines(2, 90)
        tuned = tuned_source(second, {"prediction_length": 96, "context_length": 90}, spec)
        whole = BackboneSource(second, block_length=spec.block_length(), context_length=90, cut_from_block=False)
        batch = WindowBatch(
            context=x.numpy(),
            target=np.zeros((2, 0), dtype=np.float32),
            loc=np.zeros(2),
            scale=np.ones(2),
            series=np.arange(2),
            origin=np.full(2, 90),
        )
        expected = second.predict(x, 96).quantiles
        for source in (tuned, whole):
            said = source(batch, 96).quantiles
            assert said is not None
            assert expected is not None
            np.testing.assert_allclose(said, expected.numpy(), rtol=1e-6)

    def test_context_and_forecast_share_the_tokens_there_are(self, second: Moirai2) -> None:
        small = Moirai2.from_config({**second.config, "max_seq_len": 8}, seed=1).eval()
        x = sines(1, 200)
        with torch.inference_mode():
            said, cut = small.predict(x, 64).point, small.predict(x[:, -64:], 64).point
        assert torch.equal(said, cut)
        with pytest.raises(ConfigError, match="1 to 112 steps"):
            small.predict(x, 113)
        with pytest.raises(ConfigError, match="1 to 112 steps"):
            small.predict(x, 0)

    def test_every_token_learns(self, second: Moirai2) -> None:
        """The loss is the mean over tokens of their own next 64 steps, computed here token by token."""
        x = sines(2, 160, seed=3)
        x[1, 30] = NAN
        context, target = x[:, :96], x[:, 96:]
        said = second.forecast_tokens(packed(context, 16, future=target))
        scaled = (x - said.location[:, -1]) / said.scale[:, -1]
        rows = []
        for row in range(2):
            losses = []
            for token in range(10):
                for step, quantiles in enumerate(said.quantiles[row, token].transpose(0, 1).flatten(1).T):
                    at = 16 * (token + 1) + step
                    if at < 160 and not x[row, at].isnan():
                        error = scaled[row, at] - quantiles
                        levels = torch.tensor(second.levels)
                        losses.append((2 * torch.maximum(levels * error, (levels - 1) * error)).mean())
            rows.append(torch.stack(losses).mean())
        torch.testing.assert_close(second.loss(Batch(context=context, target=target)), torch.stack(rows).mean())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"d_model": 96}, "heads of 64"),
            ({"dropout_p": 0.1}, "dropout_p"),
            ({"scaling": False}, "scaling"),
            ({"quantile_levels": [0.1, 0.9]}, "median"),
        ],
    )
    def test_what_was_never_published_is_refused(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Moirai2.from_config({**SECOND, **change}, seed=0)


@pytest.fixture(scope="module")
def first() -> Moirai1:
    return Moirai1.from_config(FIRST, seed=1).eval().requires_grad_(False)


def outputs(points: int = 40) -> Tensor:
    """[12, points] numbers of a network, spread enough that every component leads somewhere."""
    return 2.0 * torch.randn(12, points, generator=torch.Generator().manual_seed(0))


def mixture(numbers: Tensor) -> Mixture:
    return Mixture.of(numbers, location=torch.tensor(3.0), scale=torch.tensor(2.0))


class TestMixture:
    def test_a_t_of_two_degrees_has_its_closed_form(self) -> None:
        numbers = torch.zeros(12, 1)
        numbers[:5, 0] = torch.tensor([40.0, 0.0, 0.0, 0.0, -40.0])  # the t alone, df = 2
        levels = (0.01, 0.1, 0.5, 0.9, 0.99)
        said = (mixture(numbers).quantiles(levels)[:, 0] - 3.0) / 2.0 / math.log(2.0)
        p = torch.tensor(levels)
        torch.testing.assert_close(said, (2 * p - 1) / (2 * p * (1 - p)).sqrt(), rtol=1e-4, atol=1e-5)

    def test_quantiles_are_those_of_samples(self) -> None:
        """Shares of 20,000 draws of torch's own distributions below each quantile: four standard errors are 0.014."""
        one = mixture(outputs())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            size = (20_000,)
            drawn = torch.stack(
                [
                    torch.distributions.StudentT(one.t_df, one.t_loc, one.t_scale).sample(size),
                    torch.distributions.Normal(one.normal_loc, 1e-3).sample(size),
                    torch.distributions.NegativeBinomial(one.nb_total_count, logits=one.nb_logits).sample(size),
                    torch.distributions.LogNormal(one.ln_loc, one.ln_scale).sample(size),
                ],
                dim=-1,
            )
            chosen = torch.distributions.Categorical(logits=one.log_weights).sample(size)
        draws = drawn.gather(-1, chosen[..., None])[..., 0] * 2.0 + 3.0
        below = 2.0 * 1e-3  # half a bar of a count, and a hair
        for level, quantile in zip(DECILES, one.quantiles(DECILES), strict=True):
            assert ((draws < quantile - below).float().mean(0) < level + 0.015).all()
            assert ((draws < quantile + below).float().mean(0) > level - 0.015).all()

    def test_the_density_is_torch_s(self) -> None:
        """Each component by itself, at values on both sides of zero."""
        one = mixture(outputs(5))
        x = torch.tensor([-0.7, 0.0, 0.4, 1.0, 2.5])
        t = torch.distributions.StudentT(one.t_df, one.t_loc, one.t_scale).log_prob(x)
        normal = torch.distributions.Normal(one.normal_loc, 1e-3).log_prob(x)
        positive, count = x.clamp(min=1e-6), x.clamp(min=0)
        skewed = torch.distributions.LogNormal(one.ln_loc, one.ln_scale).log_prob(positive)
        bar = torch.distributions.NegativeBinomial(
            one.nb_total_count, logits=one.nb_logits, validate_args=False
        ).log_prob(count)
        parts = torch.stack(
            [t, normal, torch.where(x >= 0, bar, -torch.inf), torch.where(x > 0, skewed, -torch.inf)], dim=-1
        )
        expected = (one.log_weights + parts).logsumexp(-1) - math.log(2.0)
        torch.testing.assert_close(one.log_prob(2.0 * x + 3.0), expected, rtol=1e-4, atol=1e-4)

    def test_gradients_of_quantiles_are_their_slopes(self) -> None:
        numbers = 0.3 * outputs(6)
        numbers[1] -= 5.0  # hardly any of the narrow component: finite differences would jump over it
        numbers[2] -= 5.0
        direction = torch.randn(12, 6, generator=torch.Generator().manual_seed(4))
        leaf = numbers.clone().requires_grad_()
        mixture(leaf).quantiles((0.3, 0.5, 0.8)).sum().backward()
        assert leaf.grad is not None
        found = (leaf.grad * direction).sum(0)
        step = 1e-2
        ahead, behind = (
            mixture(numbers + sign * step * direction).quantiles((0.3, 0.5, 0.8)).sum(0) for sign in (1, -1)
        )
        torch.testing.assert_close(found, (ahead - behind) / (2 * step), rtol=2e-2, atol=2e-2)

    def test_wild_parameters_give_finite_sorted_quantiles_and_densities(self) -> None:
        numbers = 60.0 * outputs(200)
        leaf = numbers.clone().requires_grad_()
        one = mixture(leaf)
        said = one.quantiles(DECILES)
        assert said.isfinite().all()
        assert (said.diff(dim=0) >= 0).all()
        (said.sum() + one.log_prob(torch.linspace(-50, 50, 200)).sum()).backward()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


class TestFirstGeneration:
    def test_one_series_a_row_is_the_whole_network_for_less(self, first: Moirai1) -> None:
        """The other patch size and its columns stand by, as the packed form has them."""
        x = gappy()
        one = packed(x, 32, future=torch.full((3, 64), NAN))
        wide = {"values": F.pad(one.values, (0, 32)), "observed": F.pad(one.observed, (0, 32))}
        many = dataclasses.replace(one, **wide, variate=torch.zeros_like(one.time))
        whole = first.mixture_of_tokens(many, torch.full_like(one.time, 32))
        said = first._after(x, torch.full((3, 64), NAN))
        for name in ("log_weights", "t_df", "nb_logits", "ln_scale"):
            expected = getattr(whole, name)[:, -2:]
            assert expected[:, :, 32:].isnan().all()
            torch.testing.assert_close(getattr(said, name), expected[:, :, :32].flatten(1, 2), rtol=1e-5, atol=1e-5)

    def test_of_a_small_patch_only_the_first_component_s_weight_depends_on_the_input(self, first: Moirai1) -> None:
        """The published quirk: 4 * 32 of 4 * 64 rows have weights, and are read as [4, 64]."""
        logits = first.param_proj.proj["weights_logits"]
        x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
        said = logits(x, 0)
        assert said.shape == (5, 4, 32)
        assert not torch.equal(said[0, 1], said[1, 1])
        assert torch.equal(said[0, 2:], said[1, 2:])
        assert torch.equal(said[0, 2:], logits.bias[0].view(4, 64)[2:, :32])

    def test_the_target_is_masked_and_not_looked_at(self, first: Moirai1) -> None:
        x = gappy()
        one = first._after(x, torch.zeros(3, 40)).quantiles(DECILES)
        assert torch.equal(one, first._after(x, torch.full((3, 40), 7.0)).quantiles(DECILES))

    def test_a_published_config_is_read_and_others_are_refused(self) -> None:
        kinds = ("student_t.StudentTOutput", "normal.NormalFixedScaleOutput")
        kinds += ("negative_binomial.NegativeBinomialOutput", "log_normal.LogNormalOutput")
        components = [{"_target_": f"uni2ts.distribution.{kind}"} for kind in kinds]
        published = {**FIRST, "distr_output": {"components": components}}
        model = Moirai1.from_config(published, seed=1)
        assert model.config["patch_size"] == 32
        assert Moirai1.from_config({**published, "patch_sizes": [8, 16]}, seed=1).config["patch_size"] == 16
        with pytest.raises(ConfigError, match="mixture"):
            Moirai1.from_config({**published, "distr_output": {"components": components[::-1]}}, seed=0)
        with pytest.raises(ConfigError, match="not 24"):
            Moirai1.from_config({**published, "patch_size": 24}, seed=0)
        with pytest.raises(ConfigError, match="1 to 224 steps"):
            Moirai1.from_config({**published, "max_seq_len": 8}, seed=0).predict(gappy(), 225)
