"""Eigenvalues, traces and norms against matrices whose answers are known exactly."""

import itertools

import numpy as np
import pytest
import torch

from tsfm.hessian import Product, extremes, summarise, traces

CPU = torch.device("cpu")


def symmetric(eigenvalues: list[float], *, seed: int = 0) -> torch.Tensor:
    """A dense matrix with this spectrum."""
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    q, _ = torch.linalg.qr(
        torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed)).double()
    )
    return (q * values) @ q.T


def product_of(matrix: torch.Tensor) -> Product:
    return lambda v: matrix.to(v) @ v


@pytest.mark.parametrize(
    "eigenvalues",
    [
        [3.0, 2.0, 1.0, 0.5],
        [-9.0, 4.0, 1.0, 0.0, 0.0],  # power iteration would answer -9
        [-1.0, -2.0, -7.0],
        [5.0, 5.0, 5.0, 1.0],
        [2.0],
    ],
)
def test_lanczos_finds_both_ends_by_value(eigenvalues: list[float]) -> None:
    size = len(eigenvalues)
    found = extremes(product_of(symmetric(eigenvalues)), size, max_steps=50, tolerance=1e-6, seed=0, device=CPU)
    widest = max(map(abs, eigenvalues))
    assert found.largest == pytest.approx(max(eigenvalues), abs=1e-5 * widest)
    assert found.smallest == pytest.approx(min(eigenvalues), abs=1e-5 * widest)
    assert found.steps <= size
    assert max(found.largest_residual, found.smallest_residual) <= 1e-3 * widest


def test_a_residual_bounds_the_distance_to_an_eigenvalue_before_convergence() -> None:
    eigenvalues = list(np.linspace(-1.0, 10.0, 200))
    for steps in (2, 5, 10, 20):
        found = extremes(product_of(symmetric(eigenvalues)), 200, max_steps=steps, tolerance=0.0, seed=1, device=CPU)
        assert found.steps == steps
        for value, residual in (
            (found.largest, found.largest_residual),
            (found.smallest, found.smallest_residual),
        ):
            assert np.abs(np.array(eigenvalues) - value).min() <= residual + 1e-5


def test_lanczos_stops_when_it_has_converged() -> None:
    eigenvalues = [100.0, -50.0, *np.linspace(-0.01, 0.01, 100)]
    found = extremes(product_of(symmetric(eigenvalues)), 102, max_steps=100, tolerance=1e-3, seed=0, device=CPU)
    assert found.steps < 10
    assert found.largest == pytest.approx(100.0, rel=1e-4)
    assert found.smallest == pytest.approx(-50.0, rel=1e-4)


def test_a_zero_matrix_has_no_curvature() -> None:
    zero = product_of(torch.zeros(5, 5))
    found = extremes(zero, 5, max_steps=10, tolerance=1e-3, seed=0, device=CPU)
    assert (found.largest, found.smallest, found.steps) == (0.0, 0.0, 1)
    assert traces(zero, torch.ones(5), probes=4, seed=0).ratio.value == 0.0


def test_every_probe_is_exact_on_a_diagonal_matrix() -> None:
    diagonal = torch.tensor([4.0, -1.0, 0.5])
    theta = torch.tensor([1.0, 2.0, 4.0])
    found = traces(product_of(torch.diag(diagonal)), theta, probes=3, seed=0)
    assert found.trace.value == pytest.approx(3.5)
    assert found.squared_frobenius.value == pytest.approx(17.25)
    assert found.ratio.value == pytest.approx(3.5 / 17.25**0.5)
    assert found.scaled_trace.value == pytest.approx(4.0 - 4.0 + 8.0)
    assert found.trace.standard_error == pytest.approx(0.0, abs=1e-6)
    assert found.ratio.standard_error == pytest.approx(0.0, abs=1e-6)


def test_all_sign_vectors_together_give_the_exact_sums() -> None:
    matrix, theta = symmetric([3.0, -2.0, 1.0, 0.2]), torch.tensor([0.5, 1.0, -2.0, 3.0], dtype=torch.float64)
    rows = []
    for signs in itertools.product([-1.0, 1.0], repeat=4):
        v = torch.tensor(signs, dtype=torch.float64)
        hv = matrix @ v
        rows.append([float(v @ hv), float(hv @ hv), float((theta.square() * v) @ hv)])
    found = summarise(np.array(rows))
    assert found.trace.value == pytest.approx(2.2)
    assert found.squared_frobenius.value == pytest.approx(14.04)
    assert found.scaled_trace.value == pytest.approx(float((matrix.diag() * theta.square()).sum()))


def test_standard_errors_cover_what_they_should() -> None:
    matrix, theta = symmetric(list(np.linspace(-1.0, 5.0, 30))), torch.linspace(0.1, 2.0, 30)
    exact = {
        "trace": float(matrix.trace()),
        "squared_frobenius": float(matrix.square().sum()),
        "scaled_trace": float((matrix.diag() * theta.double().square()).sum()),
        "ratio": float(matrix.trace() / matrix.square().sum().sqrt()),
    }
    misses = dict.fromkeys(exact, 0)
    for seed in range(40):
        found = traces(product_of(matrix), theta, probes=16, seed=seed)
        for name, value in exact.items():
            estimate = getattr(found, name)
            misses[name] += abs(estimate.value - value) > 2.13 * estimate.standard_error  # t with 15 degrees, 95 %
    assert all(count <= 8 for count in misses.values()), misses
    assert all(getattr(found, name).standard_error > 0 for name in exact)


def test_seeds_decide() -> None:
    matrix, theta = symmetric(list(np.linspace(-1.0, 5.0, 30))), torch.ones(30)
    one, again, other = (traces(product_of(matrix), theta, probes=4, seed=s) for s in (1, 1, 2))
    assert one == again != other
    ends = [extremes(product_of(matrix), 30, max_steps=4, tolerance=0.0, seed=s, device=CPU) for s in (1, 1, 2)]
    assert ends[0] == ends[1] != ends[2]


def test_few_kept_vectors_find_the_same_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = symmetric([40.0, -20.0, *np.linspace(0.0, 3.0, 60)])
    whole = extremes(product_of(matrix), 62, max_steps=25, tolerance=1e-5, seed=0, device=CPU)
    monkeypatch.setattr("tsfm.hessian.KEPT_BYTES", 0)
    local = extremes(product_of(matrix), 62, max_steps=25, tolerance=1e-5, seed=0, device=CPU)
    assert local.largest == pytest.approx(whole.largest, rel=1e-4)
    assert local.smallest == pytest.approx(whole.smallest, rel=1e-4)
