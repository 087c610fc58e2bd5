"""The toy backbone and two artifacts tuned from it, for tests of the registry and of forecasts; openai clients."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests import toy
from tests.app.tuned import Tuned, tune

Open = Callable[..., OpenAI]


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


@pytest.fixture
def open_client(server: str) -> Iterator[Open]:
    """`open_client(key, …)` → a client of the running gateway that does not repeat what failed."""
    clients: list[OpenAI] = []

    def connect(key: str, **options: Any) -> OpenAI:
        clients.append(OpenAI(**{"api_key": key, "base_url": f"{server}/v1", "max_retries": 0, **options}))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def openai(open_client: Open, new_key: Callable[..., str]) -> OpenAI:
    return open_client(new_key("local"))
