"""The landscape against Hessians computed whole, its invariances, its plan, and what must stay as it was."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

from tests import toy
from tests.toy import Toy
from tsfm import landscape
from tsfm.backbones import build
from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.tiny import Tiny
from tsfm.configs import LandscapeConfig
from tsfm.errors import Cancelled, ConfigError, NonFinite
from tsfm.landscape import Objective, directions, fixed_batches, measure, plan_for
from tsfm.methods.sff import smooth
from tsfm.series.split import Block, split
from tsfm.series.windows import Windows, cut

CPU = torch.device("cpu")
SMALL = {"context_length": 8, "prediction_length": 4, "width": 4, "dropout": 0.5}
TINY = {"d_model": 16, "num_layers": 1, "num_heads": 2, "quantile_levels": [0.1, 0.5, 0.9], "dropout": 0.3}


class Chain(Backbone):
    """Two linear maps in a row, point forecast: the same function under many weights."""

    lora_targets: ClassVar[str] = "^$"
    head_name: ClassVar[str] = "second"

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"width": width}
        self.first = nn.Linear(8, width, bias=False)
        self.second = nn.Linear(width, 4, bias=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(**config)

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        point = self.second(self.first(context.nan_to_num()))[:, :prediction_length]
        return Prediction(point=point, point_kind="mean", quantiles=None, levels=())

    def loss(self, batch: Batch) -> Tensor:
        raise AssertionError("the landscape is that of the squared error, not of the training loss")


def small(seed: int = 1) -> Toy:
    return Toy.from_config(SMALL, seed=seed)


@pytest.fixture(scope="module")
def windows() -> Windows:
    frame = toy.frame()
    blocks = split(frame, context_length=8, prediction_length=4, patch_length=4)
    return cut(frame, blocks, Block.TRAIN, context_length=8, prediction_length=4)


def exact_hessian(objective: Objective) -> Tensor:
    """All of it, by torch's own second derivatives of the same loss written down anew."""
    network, names = objective.network, objective.names
    shapes = [p.shape for p in objective.parameters]

    def loss(theta: Tensor) -> Tensor:
        pieces = theta.split([shape.numel() for shape in shapes])
        values = {n: piece.view(shape) for n, piece, shape in zip(names, pieces, shapes, strict=True)}
        total, count = torch.zeros(()), 0
        for batch in objective.batches:
            point = torch.func.functional_call(_Predict(network), {f"network.{n}": v for n, v in values.items()}, batch)
            seen = ~batch.target.isnan()
            total = total + (point[seen] - batch.target[seen]).square().sum()
            count += int(seen.sum())
        return total / count

    found: Tensor = torch.autograd.functional.hessian(loss, objective.theta())
    return found


class _Predict(nn.Module):
    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> Tensor:
        return self.network.predict(batch.context, batch.target.shape[1]).point


def run(networks: Mapping[str, Backbone], windows: Windows, **changes: Any) -> dict[str, Any]:
    config = LandscapeConfig(**{"windows": 24, **changes})
    twin = smooth(type(next(iter(networks.values()))).from_config(SMALL, seed=1), alpha=0.0, twin_seed=3)
    return measure(networks, twin, windows, config, seed=0, device=CPU)


def test_every_figure_agrees_with_the_whole_hessian(windows: Windows) -> None:
    objective = Objective(small(), fixed_batches(windows, 24, CPU))
    whole = exact_hessian(objective).double()
    v = torch.randn(objective.size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(objective.product(v), (whole @ v.double()).float(), rtol=1e-4, atol=1e-6)
    values = torch.linalg.eigvalsh(whole)
    found = run({"pretrained": small()}, windows, probes=64)["points"]["pretrained"]
    assert found["lambda_max"] == pytest.approx(float(values[-1]), rel=1e-3)
    assert found["lambda_min"] == pytest.approx(float(values[0]), rel=1e-2, abs=2e-3 * float(values[-1]))
    exact = {
        "trace": values.sum(),
        "squared_frobenius": values.square().sum(),
        "trace_over_frobenius": values.sum() / values.square().sum().sqrt(),
        "scaled_trace": (whole.diag() * objective.theta().double().square()).sum(),
    }
    for name, value in exact.items():
        assert abs(found[name]["value"] - float(value)) < 4 * found[name]["standard_error"], name


def test_dropout_is_off_unused_tensors_are_left_out_and_tied_ones_counted_once(windows: Windows) -> None:
    network = small().train()
    objective = Objective(network, fixed_batches(windows, 4, CPU))
    assert objective.loss() == objective.loss()
    assert objective.names == [n for n, _ in small().named_parameters() if n != "spare"]
    assert objective.size == sum(p.numel() for p in small().parameters()) - 3
    assert not network.training


def test_the_loss_is_the_mean_over_observed_points_however_it_is_batched(windows: Windows) -> None:
    batches = fixed_batches(windows, 120, CPU)
    assert len(batches) == 8
    assert any(b.target.isnan().any() for b in batches)
    pieces = [
        Batch(context=b.context[i : i + 1], target=b.target[i : i + 1]) for b in batches for i in range(len(b.context))
    ]
    whole, single = Objective(small(), batches), Objective(small(), pieces)
    assert whole.loss() == pytest.approx(single.loss(), rel=1e-5)
    v = torch.ones(whole.size)
    torch.testing.assert_close(whole.product(v), single.product(v), rtol=1e-4, atol=1e-6)


def test_rescaling_moves_eigenvalues_but_not_the_scaled_trace(windows: Windows) -> None:
    plain, scaled = Chain.from_config({"width": 3}, seed=1), Chain.from_config({"width": 3}, seed=1)
    with torch.no_grad():
        scaled.first.weight.mul_(6.0)
        scaled.second.weight.div_(6.0)
    twin = Chain.from_config({"width": 3}, seed=2)
    config = LandscapeConfig(windows=24, probes=256)
    found = measure({"pretrained": plain, "tuned": scaled}, twin, windows, config, seed=0, device=CPU)["points"]
    one, other = found["pretrained"], found["tuned"]
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert other["lambda_max"] > 2 * one["lambda_max"]
    gap = abs(one["scaled_trace"]["value"] - other["scaled_trace"]["value"])
    assert gap < 4 * (one["scaled_trace"]["standard_error"] + other["scaled_trace"]["standard_error"])


def test_the_whole_answer_is_json_repeats_under_its_seed_and_changes_no_network(windows: Windows) -> None:
    networks = {"pretrained": small(), "smoothed": smooth(small(), alpha=0.9, twin_seed=3), "tuned": small(seed=2)}
    before = {name: Objective(network, []).theta() for name, network in networks.items()}
    found = run(networks, windows, surface=True)
    again = run(networks, windows, surface=True)
    for name, network in networks.items():
        assert torch.equal(Objective(network, []).theta(), before[name])
    assert {**json.loads(json.dumps(found, allow_nan=False)), "seconds": 0} == {**again, "seconds": 0}
    other = measure(networks, small(seed=5), windows, LandscapeConfig(windows=24), seed=1, device=CPU)
    assert other["points"]["tuned"]["trace"] != found["points"]["tuned"]["trace"]
    assert other["surface"] is None
    assert list(found["points"]) == ["pretrained", "smoothed", "tuned"]
    assert found["num_parameters"] == len(before["tuned"])


def test_paths_end_at_both_networks_and_the_surfaces_centre_is_the_network(windows: Windows) -> None:
    found = run({"pretrained": small(), "tuned": small(seed=2)}, windows, surface=True)
    points, paths, surface = found["points"], found["interpolation"], found["surface"]
    for path in paths.values():
        assert path["share"][0] == 0.0
        assert path["share"][-1] == 1.0
        assert path["loss"][0] == points["pretrained"]["loss"]
        assert path["barrier"] >= 0
    assert paths["tuned"]["loss"][-1] == points["tuned"]["loss"]
    batches = fixed_batches(windows, 24, CPU)
    assert paths["random"]["loss"][-1] == Objective(smooth(small(), alpha=0.0, twin_seed=3), batches).loss()
    assert paths["random"]["loss"][1] == pytest.approx(
        Objective(smooth(small(), alpha=0.9, twin_seed=3), batches).loss(), rel=1e-5
    )
    middle = landscape.SURFACE_POINTS // 2
    for name in points:
        assert surface["loss"][name][middle][middle] == points[name]["loss"]


def test_directions_are_filter_normalised_and_leave_vectors(windows: Windows) -> None:
    objective = Objective(small(), fixed_batches(windows, 1, CPU))
    one, other = directions(objective.parameters, seed=4)
    assert not torch.equal(one, other)
    assert torch.equal(one, directions(objective.parameters, seed=4)[0])
    for part, parameter in zip(objective._parts(one), objective.parameters, strict=True):
        if parameter.ndim < 2:
            assert not part.any()
        else:
            torch.testing.assert_close(part.norm(dim=1), parameter.detach().norm(dim=1))
    big, _ = directions([torch.ones(400, 300)], seed=0)
    assert abs(float(big.mean())) < 0.02


def test_attention_and_asinh_have_second_derivatives() -> None:
    frame = toy.frame(num_series=2)
    blocks = split(frame, context_length=48, prediction_length=8, patch_length=16)
    windows = cut(frame, blocks, Block.TRAIN, context_length=48, prediction_length=8)
    network, tuned = build("temper-tiny", TINY, seed=1), build("temper-tiny", TINY, seed=2)
    twin = build("temper-tiny", TINY, seed=3)
    config = LandscapeConfig(windows=4)
    found = measure({"pretrained": network, "tuned": tuned}, twin, windows, config, seed=0, device=CPU)
    for point in found["points"].values():
        assert point["lambda_max"] > point["lambda_min"]
        assert point["squared_frobenius"]["value"] > 0
    assert found["loss"] == "mean squared error of the median, in the model's normalised space"


def test_tiny_is_measured_in_its_own_space() -> None:
    network = build("temper-tiny", TINY, seed=1)
    assert isinstance(network, Tiny)
    context = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    context[0, :20] = torch.nan
    values = torch.linspace(-3, 3, 8).expand(3, 8)
    expected = network.normalised(context, values)
    torch.testing.assert_close(network.normalised(5 + 2 * context, 5 + 2 * values), expected, rtol=1e-4, atol=1e-4)
    seen = context[0, 20:]
    torch.testing.assert_close(expected[0], torch.asinh((values[0] - seen.mean()) / seen.std(correction=0)))


def test_the_units_of_the_windows_are_another_loss() -> None:
    network = build("temper-tiny", TINY, seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    batch = Batch(context=torch.randn(3, 48, generator=generator), target=torch.randn(3, 8, generator=generator))
    point = network.predict(batch.context, 8).point.detach()
    expected = float((point - batch.target).square().mean())
    assert Objective(network, [batch], units="windows").loss() == pytest.approx(expected, rel=1e-5)
    assert Objective(network, [batch]).loss() != pytest.approx(expected, rel=0.05)


def test_a_head_of_another_shape_has_no_line_to_it(windows: Windows) -> None:
    networks: dict[str, Backbone] = {"pretrained": Chain(width=3), "tuned": Chain(width=2)}
    found = measure(networks, Chain(width=3), windows, LandscapeConfig(windows=4), seed=0, device=CPU)
    assert "other parameters" in found["interpolation"]["tuned"]["omitted"]
    assert found["interpolation"]["random"]["barrier"] >= 0
    assert found["points"]["tuned"]["lambda_max"] > 0


def test_curvature_that_is_not_finite_is_said(windows: Windows) -> None:
    broken = small(seed=2)
    with torch.no_grad():
        broken.output.weight.fill_(1e30)
    with pytest.raises(NonFinite):
        Objective(broken, fixed_batches(windows, 4, CPU)).product(torch.ones(Objective(broken, []).size))
    found = json.loads(json.dumps(run({"pretrained": small(), "tuned": broken}, windows), allow_nan=False))
    assert found["points"]["tuned"] == {"loss": None, "omitted": "The loss has no finite curvature here."}
    assert found["interpolation"]["tuned"]["barrier"] is None


def test_the_plan_fits_the_time_allowed(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landscape, "_seconds", lambda work, device: 0.8)  # 0.1 s a window, product and pass alike

    def planned(allowed: float | None, **changes: Any) -> landscape.Plan:
        return plan_for(small(), 2, windows, LandscapeConfig(**changes), allowed_seconds=allowed, device=CPU)

    plan = planned(300.0)
    assert (plan.products, plan.passes) == (80, 24)
    assert plan.windows == int(0.8 * 300 / (0.1 * 104))
    assert planned(600.0, surface=True).windows < planned(600.0).windows
    assert planned(10.0).windows == 0
    assert planned(None).windows == planned(1e9).windows == landscape.MAX_WINDOWS
    assert planned(10.0, windows=5) == replace(plan, windows=5, seconds_per_product=0.0, allowed_seconds=None)


def test_no_room_is_said(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landscape, "_seconds", lambda work, device: 0.8)
    found = measure(
        {"pretrained": small()}, small(seed=2), windows, LandscapeConfig(), seed=0, device=CPU, allowed_seconds=6.0
    )
    assert "longer than the 6 s allowed" in found["omitted"]
    assert "points" not in found


def test_ticks_rise_and_may_stop_it(windows: Windows) -> None:
    seen: list[float] = []

    def tick(share: float) -> None:
        seen.append(share)
        if len(seen) == 5:
            raise Cancelled("enough")

    config = LandscapeConfig(windows=4)
    with pytest.raises(Cancelled):
        measure({"pretrained": small()}, small(seed=2), windows, config, seed=0, device=CPU, tick=tick)
    assert seen == sorted(seen)
    assert seen[0] == 0.0
    assert seen[-1] < 1.0


@pytest.mark.parametrize("wrong", [{"windows": 0}, {"windows": 5000}, {"probes": 4}])
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        LandscapeConfig(**wrong)
