"""Shared by the core's tests: the toy backbone in the catalogue, and small synthetic frames."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import toy
from tests.tsfm import jobs


@pytest.fixture(scope="session")
def toy_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Lists "toy" in the catalogue and answers the folder that holds its weights."""
    folder = tmp_path_factory.mktemp("weights")
    with toy.registered(folder):
        yield folder


@pytest.fixture(scope="module")
def every_task(toy_weights: Path) -> Iterator[Path]:
    """As `toy_weights`, of a toy that does every task."""
    with jobs.toy_of_every_task():
        yield toy_weights


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices of a few kilobytes: a second thread only waits for the first, and the suite shares two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
