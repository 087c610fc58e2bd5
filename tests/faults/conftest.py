from collections.abc import Iterator

import pytest

from tests.backend import Backend
from tests.faults.deployment import Deployment, fresh


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Iterator[Deployment]:
    """One for all tests of a module; each of them leaves it settled."""
    with fresh(tmp_path_factory.mktemp("home"), backend) as deployment:
        yield deployment
