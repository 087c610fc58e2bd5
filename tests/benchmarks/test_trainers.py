"""SAM, SWA, L2-SP and shrink-and-perturb: one exact step each on the toy, and how a benchmark finds them."""

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.architecture.repo import ROOT
from tests.toy import CONFIG, Toy
from tsfm import catalog, methods
from tsfm.backbones.base import Batch
from tsfm.methods.sff import twin_of

Parameters = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def trainers() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    yield import_module("trainers")
    patch.undo()


def network() -> Toy:
    return Toy.from_config({**CONFIG, "dropout": 0.0}, seed=1)


def parameters(model: torch.nn.Module) -> Parameters:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(context=torch.randn(6, 32, generator=generator), target=torch.randn(6, 16, generator=generator))


def gradients(method: Any, model: Toy, batch: Batch, *, weight: float = 1.0) -> Parameters:
    method.gradients(model, batch, weight=weight, precision=contextlib.nullcontext())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_gradients(model: Toy, batch: Batch) -> Parameters:
    model.zero_grad()
    model.loss(batch).backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_sam_takes_the_gradient_where_the_loss_rises_most(trainers: ModuleType, batch: Batch) -> None:
    sam = trainers.SAM(trainers.SAMConfig(rho=0.3))
    model = sam.prepare(network())
    before = parameters(model)
    model.output.bias.grad = torch.ones_like(model.output.bias)  # of an earlier micro-batch
    found = gradients(sam, model, batch, weight=0.5)
    assert all(torch.equal(t, before[name]) for name, t in parameters(model).items())

    here = plain_gradients(network(), batch)
    norm = torch.cat([g.flatten() for g in here.values()]).norm()
    above = network()
    with torch.no_grad():
        for name, p in above.named_parameters():
            if name in here:
                p.add_(0.3 * here[name] / norm)
    worst = plain_gradients(above, batch)
    for name, g in worst.items():
        earlier = 1.0 if name == "output.bias" else 0.0
        torch.testing.assert_close(found[name], 0.5 * g + earlier)
    assert not torch.allclose(worst["body.0.weight"], here["body.0.weight"])


def test_sam_answers_the_loss_before_the_ascent_and_is_full_without_one(trainers: ModuleType, batch: Batch) -> None:
    sam = trainers.SAM(trainers.SAMConfig(rho=0.0))
    model = sam.prepare(network())
    loss = sam.gradients(model, batch, weight=1.0, precision=contextlib.nullcontext())
    assert float(loss) == float(network().loss(batch).detach())
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name, g in plain_gradients(network(), batch).items():
        torch.testing.assert_close(found[name], g)


def test_swa_ends_with_the_mean_of_the_last_half(trainers: ModuleType) -> None:
    swa = trainers.SWA(trainers.SWAConfig())
    model = swa.prepare(network())
    for step in range(1, 9):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(float(step))
        if step == 7:  # killed here, and continued
            again = trainers.SWA(trainers.SWAConfig())
            again.load_state({name: t.clone() for name, t in swa.state().items()})
            swa = again
        swa.after_step(model, step=step, total_steps=8)
        assert swa.eligible(step, 8) == (step == 8)
    torch.testing.assert_close(model.output.weight.detach(), torch.full_like(model.output.weight, (5 + 6 + 7 + 8) / 4))
    assert torch.equal(model.spare.detach(), torch.full((3,), 8.0)), "an unused tensor is nobody's to average"


def test_l2_sp_pulls_back_to_the_pretrained_weights(trainers: ModuleType, batch: Batch) -> None:
    spring = trainers.L2SP(trainers.L2SPConfig(beta=0.2))
    model = spring.prepare(network())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5)
    plain = plain_gradients(model, batch)
    model.zero_grad()
    gradients(spring, model, batch, weight=0.25)
    found = gradients(spring, model, batch, weight=0.75)  # two micro-batches make one step
    for name, g in plain.items():
        torch.testing.assert_close(found[name], g + 0.2 * 0.5)
    assert "spare" not in found


@pytest.mark.parametrize("parts", ["both", "shrink", "noise"])
def test_shrink_and_perturb_has_the_moments_of_the_blend(trainers: ModuleType, parts: str) -> None:
    start = parameters(network())
    method = trainers.ShrinkPerturb(trainers.ShrinkPerturbConfig(alpha=0.6, parts=parts, twin_seed=3))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found = parameters(method.prepare(network()))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(found["spare"], start["spare"])
    kept = 1.0 if parts == "noise" else 0.6
    twin = parameters(twin_of(network(), seed=3))
    added = found["body.0.weight"] - kept * start["body.0.weight"]
    if parts == "shrink":
        assert float(added.abs().max()) < 1e-6
    else:
        assert float(added.std()) == pytest.approx(0.4 * float(twin["body.0.weight"].std()), rel=0.1)
        assert abs(float(added.mean())) < 0.02


def test_shrinking_leads_to_the_start_of_a_norm(trainers: ModuleType) -> None:
    class Normed(Toy):
        def __init__(self, **config: Any) -> None:
            super().__init__(**config)
            self.norm = torch.nn.LayerNorm(4)

    model = Normed.from_config(CONFIG, seed=1)
    with torch.no_grad():
        model.norm.weight.fill_(3.0)
        model.norm.bias.fill_(2.0)
    method = trainers.ShrinkPerturb(trainers.ShrinkPerturbConfig(alpha=0.6, parts="both", twin_seed=3))
    prepared = method.prepare(model)
    torch.testing.assert_close(prepared.norm.weight.detach(), torch.full((4,), 0.6 * 3 + 0.4))
    torch.testing.assert_close(prepared.norm.bias.detach(), torch.full((4,), 0.6 * 2))


def test_trainers_are_methods_only_while_they_are_listed(trainers: ModuleType) -> None:
    known = list(catalog.METHODS)
    create: Callable[..., Any] = methods.create
    with trainers.listed():
        for name, spec in trainers.TRAINERS.items():
            assert create(name, spec.config()).__class__.__module__ == "trainers"
            assert name in catalog.backbone("temper-tiny").methods
            assert catalog.learning_rate(spec, catalog.backbone("temper-tiny")) == 3e-4
    assert list(catalog.METHODS) == known
    assert not set(trainers.TRAINERS) & set(catalog.backbone("temper-tiny").methods)
