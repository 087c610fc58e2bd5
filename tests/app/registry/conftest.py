from collections.abc import Callable
from pathlib import Path

import pytest

from app.registry.register import Registered
from app.settings import Settings
from app.storage import ObjectStore
from tests.app.tuned import Tuned, register

Register = Callable[..., Registered]


@pytest.fixture
def settings(settings: Settings, toy_weights: Path) -> Settings:
    return settings.model_copy(update={"weights_dir": toy_weights})


@pytest.fixture
def registered(engine: object, store: ObjectStore, tuned: Tuned, toy_backbone: str) -> Register:
    """`registered(fallback=…, suffix=…, register_as=…)`: one more finished job with the first artifact."""
    return lambda artifact=tuned, **options: register(engine, store, artifact, **options)  # type: ignore[arg-type]  # an Engine


@pytest.fixture
def blobs(store: ObjectStore) -> Callable[[], list[str]]:
    return lambda: store.list("blobs")
