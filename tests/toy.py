"""A backbone small enough to train in milliseconds: an MLP with dropout, a buffer, a tied tensor and an unused one.

`register(weights_dir)` writes pretrained-looking weights and puts the catalogue entry "toy" in place; processes that a
test starts do the same from the same seed, so that their digests agree.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from tsfm import catalog
from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.series.frame import SeriesFrame

LEVELS = (0.1, 0.5, 0.9)
CONFIG = {"context_length": 32, "prediction_length": 16, "width": 16, "dropout": 0.1}


class Toy(Backbone):
    """Last `context_length` steps and their mask → deciles of `prediction_length` steps, around the last value."""

    lora_targets: ClassVar[str] = r"^body\.\d+$"
    head_name: ClassVar[str] = "output"
    unused_parameters: frozenset[str] = frozenset({"spare"})

    def __init__(self, *, context_length: int, prediction_length: int, width: int, dropout: float) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "context_length": context_length,
            "prediction_length": prediction_length,
            "width": width,
            "dropout": dropout,
        }
        self.context_length, self.prediction_length = context_length, prediction_length
        self.body = nn.Sequential(
            nn.Linear(2 * context_length, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width)
        )
        self.again = nn.Linear(width, width, bias=False)
        self.again.weight = self.body[3].weight  # tied, as some published backbones are
        self.output = nn.Linear(width, len(LEVELS) * prediction_length)
        self.spare = nn.Parameter(torch.ones(3))
        self.register_buffer("gain", torch.full((width,), 0.5))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(**config)

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        assert prediction_length <= self.prediction_length
        quantiles = self._quantiles(context)[..., :prediction_length].sort(dim=1).values
        return Prediction(point=quantiles[:, 1], point_kind="median", quantiles=quantiles, levels=LEVELS)

    def loss(self, batch: Batch) -> Tensor:
        out = self._quantiles(batch.context)[..., : batch.target.shape[1]]
        observed = ~batch.target.isnan()
        error = torch.nan_to_num(batch.target).unsqueeze(1) - out
        levels = torch.tensor(LEVELS, device=out.device).view(1, -1, 1)
        pinball = torch.maximum(levels * error, (levels - 1) * error).mean(1)
        return (pinball * observed).sum() / observed.sum().clamp(min=1)

    def _quantiles(self, context: Tensor) -> Tensor:
        context = context[:, -self.context_length :]
        padded = torch.full((len(context), self.context_length), torch.nan, device=context.device)
        padded[:, self.context_length - context.shape[1] :] = context
        x = torch.cat([torch.nan_to_num(padded), padded.isnan().float()], dim=1)
        hidden = self.body(x)
        hidden = hidden + self.gain * self.again(torch.tanh(hidden))
        out: Tensor = self.output(hidden).view(len(context), len(LEVELS), self.prediction_length)
        return out


def spec(sha256: str) -> catalog.BackboneSpec:
    return catalog.BackboneSpec(
        name="toy",
        family="toy",
        summary="A test's MLP.",
        implementation="tests.toy:Toy",
        repo=None,
        revision=None,
        files=("model.safetensors", "config.json"),
        sha256=sha256,
        licence="Apache-2.0",
        num_parameters=sum(p.numel() for p in Toy.from_config(CONFIG, seed=1).parameters()),
        context_length=32,
        prediction_length=16,
        max_prediction_length=40,
        patch_length=4,
        tasks=("forecast",),
        quantile_levels=LEVELS,
        handles_missing=True,
        methods=("zero_shot", "linear_probe", "lp_full", "full", "scratch", "lora", "adalora", "sff", "trace", "auto"),
    )


def register(weights_dir: Path) -> catalog.BackboneSpec:
    """Writes `weights_dir/toy/` and lists "toy" in the catalogue, for as long as this process lives."""
    from tsfm.backbones.weights import tensors_of

    folder = weights_dir / "toy"
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({k: v.contiguous() for k, v in tensors_of(Toy.from_config(CONFIG, seed=1)).items()})
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    catalog.BACKBONES["toy"] = spec(hashlib.sha256(weights).hexdigest())
    return catalog.BACKBONES["toy"]


@contextlib.contextmanager
def registered(weights_dir: Path) -> Iterator[catalog.BackboneSpec]:
    """`register`, undone at the end: what was listed as "toy" before (a fixture of a wider scope) is listed again."""
    before = catalog.BACKBONES.get("toy")
    try:
        yield register(weights_dir)
    finally:
        catalog.BACKBONES.pop("toy")
        if before is not None:
            catalog.BACKBONES["toy"] = before


def frame(*, num_series: int = 3, length: int = 240, seed: int = 0, freq: str = "h") -> SeriesFrame:
    """Hourly sines of period 12 with noise, a trend each and a few missing values."""
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    rows = [
        10 * (i + 1) + 0.01 * i * t + np.sin(2 * np.pi * t / 12 + i) + 0.3 * rng.standard_normal(length)
        for i in range(num_series)
    ]
    for row in rows:
        row[rng.integers(0, length, size=length // 50)] = np.nan
    return SeriesFrame(
        item_ids=tuple(f"s{i}" for i in range(num_series)),
        values=np.concatenate(rows),
        offsets=np.arange(num_series + 1, dtype=np.int64) * length,
        starts=np.zeros(num_series, dtype=np.int64),
        freq=freq,
    )
