"""SFF: the blend's arithmetic, its two ends, and what it must leave alone."""

import pytest
import torch
from safetensors.torch import load

from tests.toy import CONFIG, Toy, spec
from tsfm.configs import FullConfig, LinearProbeConfig, ScratchConfig, SFFConfig, ZeroShotConfig
from tsfm.errors import ConfigError
from tsfm.methods.base import Method
from tsfm.methods.full import Full, Scratch
from tsfm.methods.linear_probe import LinearProbe
from tsfm.methods.sff import SFF, blend, smooth, twin_of
from tsfm.methods.zero_shot import ZeroShot

SPEC = spec("0" * 64)


def pretrained() -> Toy:
    return Toy.from_config(CONFIG, seed=1)


def parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class TestBlend:
    def test_is_linear_in_alpha(self) -> None:
        one, other = parameters(pretrained()), parameters(Toy.from_config(CONFIG, seed=2))
        for alpha in (0.3, 0.5, 0.9):
            mixed = blend(one, other, alpha=alpha)
            for name, t in mixed.items():
                torch.testing.assert_close(t, other[name] + alpha * (one[name] - other[name]), rtol=1e-5, atol=1e-6)

    def test_ends_are_copies_without_arithmetic(self) -> None:
        one = {"a": torch.tensor([1.0, float("inf")])}
        other = {"a": torch.tensor([float("nan"), 2.0])}
        assert torch.equal(blend(one, other, alpha=1.0)["a"], one["a"])
        assert torch.equal(blend(other, one, alpha=0.0)["a"], one["a"])
        assert blend(one, other, alpha=1.0)["a"].data_ptr() != one["a"].data_ptr()

    def test_computes_in_float32(self) -> None:
        half = {"a": torch.tensor([0.1], dtype=torch.float16)}
        assert blend(half, half, alpha=0.5)["a"].dtype == torch.float32

    @pytest.mark.parametrize("other", [{}, {"a": torch.ones(1), "b": torch.ones(1)}, {"a": torch.ones(2)}])
    def test_refuses_models_that_differ(self, other: dict[str, torch.Tensor]) -> None:
        with pytest.raises(ValueError, match="the two models"):
            blend({"a": torch.ones(1)}, other, alpha=0.5)


class TestSmooth:
    def test_alpha_one_is_the_pretrained_model_and_zero_the_twin(self) -> None:
        for alpha, expected in ((1.0, pretrained()), (0.0, twin_of(pretrained(), seed=5))):
            found = parameters(smooth(pretrained(), alpha=alpha, twin_seed=5))
            for name, t in parameters(expected).items():
                if name != "spare":
                    assert torch.equal(found[name], t), name

    def test_a_tied_tensor_is_blended_once(self) -> None:
        before, twin = pretrained().body[3].weight.detach(), twin_of(pretrained(), seed=5).body[3].weight.detach()
        model = smooth(pretrained(), alpha=0.5, twin_seed=5)
        assert model.again.weight is model.body[3].weight
        torch.testing.assert_close(model.again.weight.detach(), 0.5 * before + 0.5 * twin)

    def test_buffers_and_unused_parameters_are_untouched(self) -> None:
        model = pretrained()
        model.gain.fill_(0.25)
        with torch.no_grad():
            model.spare.fill_(3.0)
        smooth(model, alpha=0.5, twin_seed=5)
        assert torch.equal(model.gain, torch.full((16,), 0.25))
        assert torch.equal(model.spare.detach(), torch.full((3,), 3.0))

    def test_excluded_prefixes_stay_pretrained(self) -> None:
        before = parameters(pretrained())
        after = parameters(smooth(pretrained(), alpha=0.5, twin_seed=5, exclude=("output.",)))
        assert torch.equal(after["output.weight"], before["output.weight"])
        assert not torch.equal(after["body.0.weight"], before["body.0.weight"])

    def test_a_prefix_that_names_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="outptu"):
            smooth(pretrained(), alpha=0.5, twin_seed=5, exclude=("outptu",))

    def test_fresh_parameters_are_the_same_tensor_in_both_models(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Toy, "fresh_parameters", frozenset({"output.weight"}))
        before = parameters(pretrained())["output.weight"]
        assert torch.equal(parameters(smooth(pretrained(), alpha=0.5, twin_seed=5))["output.weight"], before)

    def test_the_global_generator_is_left_as_it_was(self) -> None:
        model = pretrained()
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        smooth(model, alpha=0.5, twin_seed=5)
        assert torch.equal(torch.rand(4), expected)


EVERYTHING = {name for name, _ in pretrained().named_parameters()} - {"spare"}


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        (ZeroShot(ZeroShotConfig()), set()),
        (LinearProbe(LinearProbeConfig()), {"output.weight", "output.bias"}),
        (LinearProbe(LinearProbeConfig(reinit_head=True)), {"output.weight", "output.bias"}),
        (Full(FullConfig()), EVERYTHING),
        (Scratch(ScratchConfig()), EVERYTHING),
        (SFF(SFFConfig()), EVERYTHING),
    ],
)
def test_each_method_trains_exactly_its_parameters(method: Method, trained: set[str]) -> None:
    model = method.prepare(pretrained())
    assert {name for name, _ in method.trainable_parameters(model)} == trained
    exported = method.export(model, SPEC)
    assert (exported.kind, list(exported.files)) == ("full", ["model.safetensors"])
    assert set(load(exported.files["model.safetensors"])) == {name for name, _ in model.named_parameters()} | {"gain"}


def test_reinit_head_replaces_the_head_alone() -> None:
    before = parameters(pretrained())
    after = parameters(LinearProbe(LinearProbeConfig(reinit_head=True)).prepare(pretrained()))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"output.weight", "output.bias"}
