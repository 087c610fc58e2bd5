"""Shared by the core's tests: the toy backbone in the catalogue, and small synthetic frames."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import toy
from tsfm import catalog


@pytest.fixture(scope="session")
def toy_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Lists "toy" in the catalogue and answers the folder that holds its weights."""
    folder = tmp_path_factory.mktemp("weights")
    toy.register(folder)
    yield folder
    del catalog.BACKBONES["toy"]
