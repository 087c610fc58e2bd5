"""How sharp the minimum is: curvature of the training loss at the pretrained, the smoothed and the tuned weights.

    measure({"pretrained": network, "tuned": other}, twin, windows, config, seed=0, allowed_seconds=60)

evaluation.md §8. The loss is the mean squared error of the point forecast (mean or median) in the model's normalised
space over fixed train windows, in eval mode and float32; its Hessian is taken over every parameter that full
fine-tuning would train, by products alone (`tsfm.hessian`). The answer is plain JSON; nothing in it was chosen by, or
decides, anything else in a job. Sharpness is not invariant under rescaling a network, and lower is not promised to be
better: it is a description.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tsfm import hessian
from tsfm.backbones.base import Backbone, Batch
from tsfm.configs import LandscapeConfig
from tsfm.errors import NonFinite
from tsfm.train import TrainWindows

MIN_WINDOWS, MAX_WINDOWS = 8, 128
LANCZOS_STEPS = 24
TOLERANCE = 1e-3
"""Lanczos stops when both ends are this close, relative to the largest |λ|."""
PATH_POINTS = 11
SURFACE_POINTS = 11
SURFACE_REACH = 1.0
"""The surface covers ±1 of filter-normalised directions: at 1 a step is as long as the weights themselves."""
PLANNED_SHARE = 0.8
"""Of the time allowed; the rest is for what a measured product does not tell."""
_SPACES = {"normalised": "the model's normalised space", "windows": "the units of its windows"}
_BATCH_WINDOWS = 16

Units = Literal["normalised", "windows"]
"""In which the error is squared: the network's own space (evaluation.md §8), or as the windows are given to it."""
Tick = Callable[[float], None]
"""Called with the share that is done, between two passes; may raise `Cancelled`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is computed: everything but the number of windows is fixed."""

    windows: int
    products: int
    """Hessian-vector products at most, over all points."""
    passes: int
    """Evaluations of the loss alone."""
    seconds_per_product: float
    """Of one window; 0 where the number of windows was given."""
    allowed_seconds: float | None


class Objective:
    """The loss of one network over fixed windows, as a function of its trained parameters θ [P]."""

    def __init__(self, network: Backbone, batches: list[Batch], *, units: Units = "normalised") -> None:
        self.network = network.eval()
        self.units = units
        named = [(n, p) for n, p in network.named_parameters() if n not in network.unused_parameters]
        self.names = [name for name, _ in named]
        self.parameters = [p.requires_grad_(True) for _, p in named]
        self.batches = batches
        self.observed = sum(int((~b.target.isnan()).sum()) for b in batches)
        self.size = sum(p.numel() for p in self.parameters)

    def theta(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters])

    @torch.no_grad()
    def place(self, theta: Tensor) -> None:
        """Puts θ into the network."""
        for parameter, part in zip(self.parameters, self._parts(theta), strict=True):
            parameter.copy_(part)

    def loss(self) -> float:
        with torch.no_grad():
            return float(torch.stack([self._loss(batch).double() for batch in self.batches]).sum())

    def product(self, v: Tensor) -> Tensor:
        """H·v [P]; `NonFinite` where the loss has no finite curvature."""
        total = torch.zeros_like(v)
        parts = self._parts(v)
        # Fused attention has no second derivative on a CPU.
        with sdpa_kernel(SDPBackend.MATH):
            for batch in self.batches:
                slopes = torch.autograd.grad(
                    self._loss(batch), self.parameters, create_graph=True, materialize_grads=True
                )
                along = torch.stack([(g * part).sum() for g, part in zip(slopes, parts, strict=True)]).sum()
                curved = torch.autograd.grad(along, self.parameters, materialize_grads=True)
                total += torch.cat([c.flatten() for c in curved])
        if not math.isfinite(float(total.norm())):
            raise NonFinite("The loss has no finite curvature here.")
        return total

    def _loss(self, batch: Batch) -> Tensor:
        """This batch's share of the mean over all observed target points."""
        point = self.network.predict(batch.context, batch.target.shape[1]).point
        seen, wanted = point, batch.target
        if self.units == "normalised":
            seen, wanted = (self.network.normalised(batch.context, values) for values in (point, batch.target))
        error = torch.where(batch.target.isnan(), torch.zeros_like(seen), seen - wanted.nan_to_num())
        return error.square().sum() / max(self.observed, 1)

    def _parts(self, vector: Tensor) -> list[Tensor]:
        pieces = torch.split(vector, [p.numel() for p in self.parameters])
        return [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]


def measure(
    networks: Mapping[str, Backbone],
    twin: Backbone,
    windows: TrainWindows,
    config: LandscapeConfig,
    *,
    seed: int,
    device: torch.device,
    allowed_seconds: float | None = None,
    units: Units = "normalised",
    tick: Tick = lambda share: None,
) -> dict[str, Any]:
    """Everything about `networks` (the first is the pretrained one), as JSON-ready numbers.

    `twin` is the random end of the path. The networks' parameters are left as they were. Without room for
    `MIN_WINDOWS` windows in `allowed_seconds` nothing is measured, and `omitted` says so.
    """
    begun = time.monotonic()
    networks = {name: network.to(device) for name, network in networks.items()}
    first = next(iter(networks.values()))
    plan = plan_for(first, len(networks), windows, config, allowed_seconds=allowed_seconds, device=device)
    about: dict[str, Any] = {
        "loss": f"mean squared error of the {_point_kind(first, windows, device)}, in {_SPACES[units]}",
        "block": "train",
        "windows": plan.windows,
        "probes": config.probes,
        "seed": seed,
        "allowed_seconds": allowed_seconds,
        "seconds_per_product": plan.seconds_per_product,
    }
    if plan.windows < 1:
        text = (
            f"{MIN_WINDOWS} windows would take longer than the {allowed_seconds:.0f} s allowed (a tenth of the budget)."
        )
        return {**about, "omitted": text}
    batches = fixed_batches(windows, plan.windows, device)
    step = _Steps(plan.products + plan.passes, tick)
    objectives = {name: Objective(network, batches, units=units) for name, network in networks.items()}
    points = {name: _point(o, config, seed=seed, device=device, step=step) for name, o in objectives.items()}
    paths = _paths(objectives, Objective(twin.to(device), batches, units=units), step)
    surface = _surfaces(objectives, seed=seed, step=step) if config.surface else None
    return {
        **about,
        "num_parameters": next(iter(objectives.values())).size,
        "points": points,
        "interpolation": paths,
        "surface": surface,
        "seconds": round(time.monotonic() - begun, 3),
    }


def plan_for(
    network: Backbone,
    num_points: int,
    windows: TrainWindows,
    config: LandscapeConfig,
    *,
    allowed_seconds: float | None,
    device: torch.device,
) -> Plan:
    """As many windows as fit: one Hessian-vector product and one pass over a few windows are timed."""
    products = num_points * (config.probes + LANCZOS_STEPS)
    passes = num_points + 2 * PATH_POINTS + (num_points * SURFACE_POINTS**2 if config.surface else 0)
    most = min(MAX_WINDOWS if config.windows is None else config.windows, len(windows))
    if config.windows is not None or allowed_seconds is None:
        return Plan(windows=most, products=products, passes=passes, seconds_per_product=0.0, allowed_seconds=None)
    few = min(MIN_WINDOWS, len(windows))
    objective = Objective(network, fixed_batches(windows, few, device))
    probe = torch.ones(objective.size, device=device)
    objective.product(probe)  # the first one allocates
    product = _seconds(lambda: objective.product(probe), device) / few
    single = _seconds(objective.loss, device) / few
    fitting = int(PLANNED_SHARE * allowed_seconds / (products * product + passes * single))
    return Plan(
        windows=min(most, fitting) if fitting >= few else 0,
        products=products,
        passes=passes,
        seconds_per_product=product,
        allowed_seconds=allowed_seconds,
    )


def fixed_batches(windows: TrainWindows, count: int, device: torch.device) -> list[Batch]:
    """`count` windows spread evenly over all series and times, always the same ones."""
    indices = np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(np.int64)
    batches = []
    for begin in range(0, len(indices), _BATCH_WINDOWS):
        cut = windows.batch(indices[begin : begin + _BATCH_WINDOWS])
        batches.append(Batch.of(cut, device))
    return batches


class _Steps:
    """Counts what is done, so that progress moves and a stop is seen between two passes."""

    def __init__(self, total: int, tick: Tick) -> None:
        self.done, self.total, self._tick = 0, total, tick

    def __call__(self, count: int = 1) -> None:
        self._tick(min(self.done / self.total, 1.0))
        self.done += count


def _point(
    objective: Objective, config: LandscapeConfig, *, seed: int, device: torch.device, step: _Steps
) -> dict[str, Any]:
    """Loss and curvature at one network's weights; `omitted` where the curvature is not finite."""

    def product(v: Tensor) -> Tensor:
        step()
        return objective.product(v)

    step()
    found: dict[str, Any] = {"loss": _finite(objective.loss())}
    try:
        ends = hessian.extremes(
            product, objective.size, max_steps=LANCZOS_STEPS, tolerance=TOLERANCE, seed=seed, device=device
        )
        sums = hessian.traces(product, objective.theta(), probes=config.probes, seed=seed)
    except NonFinite as error:
        return {**found, "omitted": error.message}
    return {
        **found,
        "lambda_max": ends.largest,
        "lambda_max_residual": ends.largest_residual,
        "lambda_min": ends.smallest,
        "lambda_min_residual": ends.smallest_residual,
        "lanczos_steps": ends.steps,
        "trace": asdict(sums.trace),
        "squared_frobenius": asdict(sums.squared_frobenius),
        "trace_over_frobenius": asdict(sums.ratio),
        "scaled_trace": asdict(sums.scaled_trace),
    }


def _paths(objectives: Mapping[str, Objective], twin: Objective, step: _Steps) -> dict[str, Any]:
    """Loss along the straight lines pretrained → random twin and pretrained → tuned."""
    start = next(iter(objectives.values()))
    ends = {"random": twin}
    if "tuned" in objectives:
        ends["tuned"] = objectives["tuned"]
    return {name: _path(start, end, step) for name, end in ends.items()}


def _path(start: Objective, end: Objective, step: _Steps) -> dict[str, Any]:
    """`share` 0 is the pretrained network, 1 the other; `barrier` is the highest rise over the chord."""
    if start.names != end.names or any(
        a.shape != b.shape for a, b in zip(start.parameters, end.parameters, strict=True)
    ):
        return {"omitted": "The two networks hold other parameters, so there is no line between them."}
    here, there = start.theta(), end.theta()
    shares = np.linspace(0.0, 1.0, PATH_POINTS)
    losses = []
    try:
        for share in shares:
            step()
            start.place(torch.lerp(here, there, float(share)) if share < 1 else there)
            losses.append(start.loss())
    finally:
        start.place(here)
    rise = math.nan
    if all(map(math.isfinite, losses)):
        rise = float((np.array(losses) - ((1 - shares) * losses[0] + shares * losses[-1])).max())
    return {
        "share": [round(float(share), 6) for share in shares],
        "loss": [_finite(loss) for loss in losses],
        "barrier": _finite(rise),
    }


def _surfaces(objectives: Mapping[str, Objective], *, seed: int, step: _Steps) -> dict[str, Any]:
    """Loss over two random directions around each network, the same draws for all; `loss[i][j]` at (at[i], at[j])."""
    at = np.linspace(-SURFACE_REACH, SURFACE_REACH, SURFACE_POINTS)
    return {
        "at": [round(float(x), 6) for x in at],
        "loss": {name: list(_surface(o, at, seed=seed, step=step)) for name, o in objectives.items()},
    }


def _surface(objective: Objective, at: "np.ndarray[Any, Any]", *, seed: int, step: _Steps) -> Iterator[list[Any]]:
    centre = objective.theta()
    one, other = directions(objective.parameters, seed=seed)
    try:
        for x in at:
            row = []
            for y in at:
                step()
                objective.place(centre + float(x) * one + float(y) * other)
                row.append(_finite(objective.loss()))
            yield row
    finally:
        objective.place(centre)


def directions(parameters: list[Tensor], *, seed: int) -> tuple[Tensor, Tensor]:
    """Two Gaussian directions [P] of zero mean, each row of a matrix as long as the weights' own row.

    Filter normalisation (Li et al. 2018, arXiv 1712.09913) makes networks of other scales comparable; vectors (biases,
    gains of norms) stay where they are, as there. The draws depend on the seed and the shapes alone.
    """
    generator = torch.Generator().manual_seed(seed)

    def one() -> Tensor:
        parts = []
        for p in parameters:
            draw = torch.randn(p.shape, generator=generator).to(p.device)
            if p.ndim < 2:
                parts.append(torch.zeros(p.numel(), device=p.device))
                continue
            rows = draw.flatten(1)
            length = p.detach().flatten(1).norm(dim=1, keepdim=True)
            parts.append((rows * (length / rows.norm(dim=1, keepdim=True).clamp(min=1e-10))).flatten())
        return torch.cat(parts)

    return one(), one()


def _point_kind(network: Backbone, windows: TrainWindows, device: torch.device) -> str:
    with torch.no_grad():
        return network.predict(fixed_batches(windows, 1, device)[0].context, 1).point_kind


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
