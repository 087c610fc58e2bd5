"""The toy backbone and two artifacts tuned from it, for tests of the registry and of forecasts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import toy
from tests.app.tuned import Tuned, tune


@pytest.fixture(scope="session")
def toy_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the toy's weights lie once `toy_backbone` is asked for."""
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="session")
def tuned_pair(tmp_path_factory: pytest.TempPathFactory, toy_weights: Path) -> tuple[Tuned, Tuned]:
    """Two versions' worth of artifacts, from different seeds."""
    with toy.registered(toy_weights):
        first, second = (tune(tmp_path_factory.mktemp(f"tuned{seed}"), toy_weights, seed=seed) for seed in (0, 1))
    return first, second


@pytest.fixture
def tuned(tuned_pair: tuple[Tuned, Tuned]) -> Tuned:
    return tuned_pair[0]


@pytest.fixture(scope="module")
def toy_backbone(toy_weights: Path) -> Iterator[str]:
    with toy.registered(toy_weights):
        yield "toy"
