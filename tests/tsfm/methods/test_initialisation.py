"""The random twin of SFF: its three initialisations, each reproducible, and what they leave alone."""

from typing import get_args

import pytest
import torch

from tests.toy import CONFIG, Toy
from tsfm.backbones import build
from tsfm.configs import Initialisation, ScratchConfig, SFFConfig
from tsfm.methods.full import Scratch
from tsfm.methods.sff import SFF, twin_of

ALL: tuple[Initialisation, ...] = get_args(Initialisation)
TINY = {"d_model": 16, "num_layers": 1, "num_heads": 2, "quantile_levels": [0.1, 0.5, 0.9]}


def grown() -> Toy:
    """Pretrained-looking weights that lie on another scale than any fresh draw."""
    model = Toy.from_config(CONFIG, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model


def parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("initialisation", ALL)
def test_a_twin_repeats_under_its_seed_and_changes_with_it(initialisation: Initialisation) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one, again, other = (twin_of(grown(), seed=s, initialisation=initialisation) for s in (4, 4, 5))
    assert torch.equal(torch.rand(3), expected), "the global generator moved"
    for name, t in parameters(one).items():
        assert torch.equal(t, parameters(again)[name])
    assert not torch.equal(one.output.weight, other.output.weight)


def test_pytorch_draws_what_torch_layers_give() -> None:
    twin = build("temper-tiny", TINY, seed=3)
    drawn = twin_of(twin, seed=3, initialisation="pytorch")
    for name, p in drawn.named_parameters():
        if p.ndim == 2:
            bound = p.shape[1] ** -0.5
            assert float(p.detach().abs().max()) <= bound, name
            torch.testing.assert_close(float(p.detach().std()), bound / 3**0.5, rtol=0.15, atol=0.0)
        else:  # norms of the project's own: no torch default, so the backbone's
            assert torch.equal(p.detach(), torch.ones_like(p)), name


def test_pytorch_draws_biases_and_norms_too() -> None:
    class Normed(Toy):
        def __init__(self, **config: float) -> None:
            super().__init__(**config)  # type: ignore[arg-type]  # the toy's own configuration
            self.norm = torch.nn.LayerNorm(4)
            torch.nn.init.constant_(self.norm.weight, 7.0)
            torch.nn.init.zeros_(self.output.bias)

    twin = twin_of(Normed(**CONFIG), seed=0, initialisation="pytorch")
    assert isinstance(twin, Normed)
    assert torch.equal(twin.norm.weight.detach(), torch.ones(4))
    assert torch.equal(twin.norm.bias.detach(), torch.zeros(4))
    assert 0 < float(twin.output.bias.detach().abs().max()) <= CONFIG["width"] ** -0.5
    assert twin.again.weight is twin.body[3].weight


def test_matched_has_the_norm_of_every_pretrained_tensor_and_the_direction_of_the_draw() -> None:
    pretrained = grown()
    own, plain = parameters(pretrained), parameters(twin_of(pretrained, seed=4))
    for name, t in parameters(twin_of(pretrained, seed=4, initialisation="matched")).items():
        torch.testing.assert_close(t.norm(), own[name].norm())
        torch.testing.assert_close(t / t.norm(), plain[name] / plain[name].norm())


def test_matched_leaves_zeros() -> None:
    class Zeroed(Toy):
        def __init__(self, **config: float) -> None:
            super().__init__(**config)  # type: ignore[arg-type]  # the toy's own configuration
            torch.nn.init.zeros_(self.output.bias)

    pretrained = Zeroed(**CONFIG)
    with torch.no_grad():
        pretrained.output.bias.fill_(1.0)
    twin = twin_of(pretrained, seed=0, initialisation="matched")
    assert torch.equal(twin.output.bias.detach(), torch.zeros_like(pretrained.output.bias))


@pytest.mark.parametrize("initialisation", ALL)
def test_the_ends_and_the_middle(initialisation: Initialisation) -> None:
    def start(alpha: float) -> dict[str, torch.Tensor]:
        return parameters(SFF(SFFConfig(alpha=alpha, twin_seed=4, initialisation=initialisation)).prepare(grown()))

    pretrained, low, middle, high = parameters(grown()), start(0.0), start(0.25), start(1.0)
    random = parameters(twin_of(grown(), seed=4, initialisation=initialisation))
    for name in pretrained.keys() - {"spare"}:
        assert torch.equal(high[name], pretrained[name]), name
        assert torch.equal(low[name], random[name]), name
        torch.testing.assert_close(middle[name], 0.25 * pretrained[name] + 0.75 * random[name])


def test_alpha_zero_is_scratch_by_default() -> None:
    low = parameters(SFF(SFFConfig(alpha=0.0, twin_seed=4)).prepare(grown()))
    scratch = parameters(Scratch(ScratchConfig(twin_seed=4)).prepare(grown()))
    assert all(torch.equal(low[name], scratch[name]) for name in low)
