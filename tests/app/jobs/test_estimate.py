"""The table's memory against what a training step of 32 windows of 512 steps took (backbones.md §4)."""

from typing import Any

import pytest

from app.jobs.estimate import FLOAT_BYTES, estimate
from app.jobs.schemas import Estimate
from tsfm import catalog
from tsfm.request import FinetuneRequest, resolve

READING: dict[str, Any] = {"freq": "h", "max_length": 4_000, "num_points": 40_000, "num_series": 10}


def asked(backbone: str, method: str = "full", **fields: Any) -> Estimate:
    request = FinetuneRequest.from_mapping(
        {
            "backbone": backbone,
            "method": method,
            "prediction_length": 96,
            "context_length": 512,
            "hyperparameters": {"batch_size": 32},
            **fields,
        }
    )
    return estimate(resolve(request, READING), READING)


@pytest.mark.parametrize(
    ("backbone", "measured_gigabytes"),
    [("ttm-r2", 0.55), ("moirai-2-small", 1.3), ("moment-small", 2.0), ("sundial-128m", 4.1), ("timesfm-2.5", 5.6)],
)
def test_full_is_near_what_was_measured(backbone: str, measured_gigabytes: float) -> None:
    beside = 2 * FLOAT_BYTES * catalog.backbone(backbone).num_parameters  # best weights and start, which no step holds
    assert 0.6 < asked(backbone).memory_bytes / (measured_gigabytes * 1e9 + beside) < 1.6


def test_adapters_and_probes_need_less_and_checkpointing_too() -> None:
    full = asked("timesfm-2.5").memory_bytes
    for method in ("linear_probe", "lora", "trace"):
        assert asked("timesfm-2.5", method).memory_bytes < 0.6 * full
    settings = {"batch_size": 32, "gradient_checkpointing": True}
    assert asked("sundial-128m", hyperparameters=settings).memory_bytes < asked("sundial-128m").memory_bytes
    assert asked("timesfm-2.5", "zero_shot", hyperparameters={}).memory_bytes < 0.4 * full


def test_a_tiny_random_network_is_tiny() -> None:
    start = {"type": "random", "size": "tiny"}
    found = asked("timesfm-2.5", initialisation=start)
    assert found.memory_bytes < 1e9
    assert found.trainable_parameters is None, "only building it would say"
    assert asked("timesfm-2.5", initialisation="random").trainable_parameters == 231_289_280
