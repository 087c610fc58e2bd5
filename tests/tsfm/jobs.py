"""Jobs of every task on networks that train in milliseconds."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests import toy
from tsfm import catalog, finetune
from tsfm.finetune import FinetuneRequest, FinetuneResult
from tsfm.incumbent import Incumbent
from tsfm.progress import Checkpoints
from tsfm.series.frame import SeriesFrame
from tsfm.series.split import Block, split

HORIZON = 6
FAST = {"learning_rate": 1e-2, "max_epochs": 1, "batch_size": 32}
TINY = {"initialisation": {"type": "random", "size": "tiny"}}
"""Of a published backbone: its class at a size that needs no weights on the disk."""


@contextlib.contextmanager
def toy_of_every_task() -> Iterator[None]:
    """The registered toy forecasts alone; meanwhile it scores points and fills gaps, too."""
    before = catalog.BACKBONES["toy"]
    catalog.BACKBONES["toy"] = dataclasses.replace(before, tasks=catalog.TASKS)
    try:
        yield
    finally:
        catalog.BACKBONES["toy"] = before


def tune(
    weights_dir: Path,
    out: Path,
    frame: SeriesFrame | None = None,
    *,
    incumbent: Incumbent | None = None,
    checkpoints: Checkpoints | None = None,
    **asked: Any,
) -> FinetuneResult:
    request = {"backbone": "toy", "method": "full", "prediction_length": HORIZON, "hyperparameters": FAST, **asked}
    return finetune.run(
        FinetuneRequest.from_mapping(request),
        frame if frame is not None else toy.frame(),
        weights_dir=weights_dir,
        state_dir=out / "state",
        out_dir=out / "artifact",
        report=lambda _: None,
        should_stop=lambda: None,
        incumbent=incumbent,
        checkpoints=checkpoints,
    )


def altered(frame: SeriesFrame, after: Block, *, context_length: int = 32) -> SeriesFrame:
    """Other values, and other holes, everywhere behind the end of a block."""
    blocks = split(frame, context_length=context_length, prediction_length=HORIZON, patch_length=4)
    values, rng = frame.values.copy(), np.random.default_rng(99)
    for i, end in enumerate(blocks.block(after)[1]):
        tail = values[frame.offsets[i] + end : frame.offsets[i + 1]]
        tail[:] = 1e3 * rng.standard_normal(len(tail))
        tail[::7] = np.nan
    return dataclasses.replace(frame, values=values)


def weights(result: FinetuneResult) -> bytes:
    return (result.out_dir / "model.safetensors").read_bytes()


def files(result: FinetuneResult) -> set[str]:
    return {path.name for path in result.out_dir.iterdir()}
