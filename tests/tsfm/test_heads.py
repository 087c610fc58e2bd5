"""Small heads: the formulas of papers.md §1.4, folding into one linear, and starting from a pretrained head."""

import pytest
import torch
from torch import nn

from tsfm import heads
from tsfm.configs import head_kind
from tsfm.errors import ConfigError

MOMENT = {"num_tokens": 64, "width": 768}
SMALL = {"num_tokens": 6, "width": 8, "horizon": 5}
HORIZONS = (96, 192, 336, 720)
NAMES = ("H1", "H1b-3", "H2-2", "H3-2", "H4-3", "svd-3")


def size(name: str, horizon: int) -> int:
    with torch.device("meta"):  # sizes only: MOMENT's linears are never allocated
        built = heads.build(name, **MOMENT, horizon=horizon, seed=0)
    return sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("H1-64", (442_528, 835_840, 1_425_808, 2_999_056)),
        ("H1", (442_528, 835_840, 1_425_808, 2_999_056)),
        ("H1-96", (663_744, 1_253_664, 2_138_544, 4_498_224)),
        ("H1b", (788_080, None, None, 798_688)),
        ("H1b-8", (394_088, None, None, 399_704)),
        ("H2-8", (589_920, 1_179_840, 2_064_720, 4_424_400)),
        ("H2", (589_920, 1_179_840, 2_064_720, 4_424_400)),
        ("H3", (589_920, 1_179_840, 2_064_720, 4_424_400)),
        ("H3-16", (295_008, 590_016, 1_032_528, 2_212_560)),
        ("H4", (248_992, 445_696, 740_752, 1_527_568)),
    ],
)
def test_parameters_on_moment_base_are_the_papers(name: str, expected: tuple[int | None, ...]) -> None:
    linear_probe = {horizon: 64 * 768 * horizon + horizon for horizon in HORIZONS}
    for horizon, number in zip(HORIZONS, expected, strict=True):
        found = size(name, horizon)
        assert found == number or number is None
        assert name == "H1b" or found < 0.15 * linear_probe[horizon], "at least 85 % fewer than the linear head"


@pytest.mark.parametrize(("n", "d", "h"), [(6, 24, 5), (9, 36, 7)])
def test_parameters_follow_the_formulas(n: int, d: int, h: int) -> None:
    narrow, rank = d // 12, h
    pooled = max(k for k in range(1, 9) if n % k == 0)
    expected = {
        "H1": d * narrow + narrow + n * narrow * h + h,
        "H1b": n * d * rank + rank + rank * h + h,
        "H2": max(1, n // 8) * d * h + h,
        "H3": n // pooled * d * h + h,
        "H4": d * 3 + d + d * narrow + narrow + -(-n // 2) * narrow * h + h,
    }
    for name, number in expected.items():
        head = heads.build(name, num_tokens=n, width=d, horizon=h, seed=0)
        assert sum(p.numel() for p in head.parameters()) == number, name


@pytest.mark.parametrize("name", NAMES)
def test_a_head_folds_into_one_linear(name: str) -> None:
    head = heads.build(name, **SMALL, seed=3)
    x = torch.randn(7, 6, 8, generator=torch.Generator().manual_seed(0))
    before = [p.clone() for p in head.parameters()]
    folded = heads.fold(head)
    assert folded.weight.shape == (5, 48)
    torch.testing.assert_close(folded(x.flatten(1)), head(x), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(before, head.parameters(), strict=True))


def pretrained() -> tuple[nn.Linear, torch.Tensor]:
    """A linear head, and hidden states that lie near few directions, off the origin."""
    generator = torch.Generator().manual_seed(1)
    linear = nn.Linear(48, 5)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(5, 48, generator=generator))
        linear.bias.copy_(torch.randn(5, generator=generator))
    states = torch.randn(400, 4, generator=generator) @ torch.randn(4, 48, generator=generator) + 2.0
    return linear, states + 0.01 * torch.randn(400, 48, generator=generator)


def error(head: heads.SmallHead, linear: nn.Linear, states: torch.Tensor) -> float:
    """Share of the answers' variance that is missed."""
    wanted = linear(states)
    return float(((head(states.unflatten(1, (6, 8))) - wanted).square().mean() / wanted.var(0).mean()).detach())


@pytest.mark.parametrize("name", [n for n in NAMES if n != "svd-3"])
def test_a_distilled_head_answers_nearly_as_the_pretrained_one(name: str) -> None:
    linear, states = pretrained()
    head = heads.build(name, **SMALL, seed=0)
    fresh = error(head, linear, states)
    heads.distil(head, linear, states[:200])
    assert error(head, linear, states[200:]) < 0.2 < fresh


def test_svd_is_the_best_rank_k_for_the_states() -> None:
    """Eckart and Young, weighted: no other rank-3 map of these states is nearer to the linear's answers."""
    linear, states = pretrained()
    head = heads.build("svd-3", **SMALL, seed=0)
    heads.distil(head, linear, states)
    answers = linear(states).detach().double()
    lost = torch.linalg.svdvals(answers - answers.mean(0))[3:].square().sum() / 400 / 5
    missed = (head(states.unflatten(1, (6, 8))).detach().double() - answers).square().mean()
    assert float(missed) == pytest.approx(float(lost), rel=1e-3)


def test_full_rank_svd_is_the_linear_itself_everywhere() -> None:
    linear, states = pretrained()
    head = heads.build("svd-5", **SMALL, seed=0)
    heads.distil(head, linear, states)
    anywhere = torch.randn(20, 48, generator=torch.Generator().manual_seed(2)) * 10
    torch.testing.assert_close(head(anywhere.unflatten(1, (6, 8))), linear(anywhere), rtol=1e-4, atol=1e-3)


def test_a_new_head_leaves_the_global_generator_alone_and_repeats_under_its_seed() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one, two = (heads.build("H4", **SMALL, seed=5) for _ in range(2))
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("name", ["H3-4", "H2-7"])
def test_sizes_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"tokens there are|does not divide"):
        heads.build(name, **SMALL, seed=0)


@pytest.mark.parametrize("name", ["H5", "svd", "H1-0", "h1", "H1-", "svd-x"])
def test_unknown_heads_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="head is"):
        head_kind(name)
