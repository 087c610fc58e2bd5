"""Curvature of a function from products of its Hessian with vectors: extreme eigenvalues, traces, norms.

Nothing here knows what the function is: a `Product` maps a vector [P] to H·v [P]. evaluation.md §8 names what is asked:
Lanczos for the algebraically largest eigenvalue (power iteration finds the largest in magnitude, which may be
negative), and Rademacher probes for the trace and the Frobenius norm, with standard errors.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Product = Callable[[Tensor], Tensor]
Floats = NDArray[np.float64]

KEPT_BYTES = 1 << 30
"""Lanczos vectors kept at most, for orthogonalisation; with fewer than all, converged values may be found twice, which
does not move the extremes."""
_BREAKDOWN = 1e-6
"""A remainder below this share of the spectrum seen so far is rounding: the Krylov space is exhausted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extremes:
    """The ends of the spectrum, by value and not by magnitude.

    A residual is ‖H·x − λ·x‖ for the unit vector x found: some eigenvalue lies within it of λ.
    """

    largest: float
    largest_residual: float
    smallest: float
    smallest_residual: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over random probes."""

    value: float
    standard_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Sums over the whole spectrum, from the same probes."""

    trace: Estimate
    """Σ λ"""
    squared_frobenius: Estimate
    """Σ λ² = E‖H·v‖²"""
    ratio: Estimate
    """Σ λ ÷ √(Σ λ²): √P where all eigenvalues are equal, 1 where one dominates (papers.md §2.3)."""
    scaled_trace: Estimate
    """Tr(H·diag θ²) = Σ H_ii·θ_i²: unlike eigenvalues unchanged when a layer is scaled up and the next one down."""
    probes: int


def extremes(
    product: Product, size: int, *, max_steps: int, tolerance: float, seed: int, device: torch.device
) -> Extremes:
    """Lanczos from one random vector, until both residuals are below `tolerance` × the largest |λ|, or `max_steps`.

    Vectors are orthogonalised against all earlier ones that fit into `KEPT_BYTES`.
    """
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(size, generator=generator).to(device)
    v = v / v.norm()
    basis: deque[Tensor] = deque(maxlen=max(2, KEPT_BYTES // (4 * size)))
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(max_steps, size)):
        basis.append(v)
        w = product(v)
        diagonal.append(_dot(v, w))
        for _ in range(2):  # twice is enough (Parlett)
            for earlier in basis:
                w = w - _dot(earlier, w) * earlier
        remainder = math.sqrt(_dot(w, w))
        found = _ritz(diagonal, beside, remainder)
        widest = max(abs(found.largest), abs(found.smallest))
        converged = max(found.largest_residual, found.smallest_residual) <= tolerance * widest
        if remainder <= _BREAKDOWN * widest or (converged and len(diagonal) > 1):
            break
        beside.append(remainder)
        v = w / remainder
    return found


def traces(product: Product, theta: Tensor, *, probes: int, seed: int) -> Traces:
    """Hutchinson's estimates at the parameters `theta` [P], all from the same `probes` products."""
    generator = torch.Generator().manual_seed(seed)
    squares = theta.square()
    rows = []
    for _ in range(probes):
        v = (2 * torch.randint(0, 2, theta.shape, generator=generator) - 1).to(theta)
        hv = product(v)
        rows.append((_dot(v, hv), _dot(hv, hv), _dot(squares * v, hv)))
    return summarise(np.array(rows))


def summarise(samples: Floats) -> Traces:
    """`samples` [probes, 3]: vᵀHv, ‖Hv‖² and (θ²∘v)ᵀHv of each probe."""
    mean = samples.mean(axis=0)
    spread = np.cov(samples, rowvar=False) / len(samples)
    errors = np.sqrt(np.diag(spread))
    trace, square = float(mean[0]), float(mean[1])
    ratio = Estimate(value=0.0, standard_error=0.0)
    if square > 0:
        slope = np.array([1.0, -0.5 * trace / square]) / math.sqrt(square)  # of T ÷ √F, by the delta method
        error = math.sqrt(max(float(slope @ spread[:2, :2] @ slope), 0.0))
        ratio = Estimate(value=trace / math.sqrt(square), standard_error=error)
    return Traces(
        trace=Estimate(value=trace, standard_error=float(errors[0])),
        squared_frobenius=Estimate(value=square, standard_error=float(errors[1])),
        ratio=ratio,
        scaled_trace=Estimate(value=float(mean[2]), standard_error=float(errors[2])),
        probes=len(samples),
    )


def _ritz(diagonal: list[float], beside: list[float], remainder: float) -> Extremes:
    """The extreme eigenvalues of the tridiagonal matrix, and how far each is from one of H at most."""
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    last = np.abs(vectors[-1]) * remainder
    return Extremes(
        largest=float(values[-1]),
        largest_residual=float(last[-1]),
        smallest=float(values[0]),
        smallest_residual=float(last[0]),
        steps=len(diagonal),
    )


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))
