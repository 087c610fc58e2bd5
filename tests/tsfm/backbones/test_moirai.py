"""What is particular to Moirai: packed tokens, what fills gaps, and how far one pass reaches."""

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.tsfm.backbones.contract import NAN, sines
from tsfm.backbones.base import Batch
from tsfm.backbones.moirai2 import Moirai2
from tsfm.backbones.moirai_layers import causal_means, packed, rotate_pairs, standardisation
from tsfm.errors import ConfigError

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
