"""A backbone as CONTRIBUTING's checklist has one added: one class, one entry of the catalogue. Nothing else knows it.

`listed` puts the entry in place, as a line of `tsfm/backbone_table.py` would.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tsfm import catalog
from tsfm.backbones.base import Backbone, Batch, Prediction
from tsfm.backbones.layers import through
from tsfm.spec import BackboneSpec

METHODS = tuple(catalog.METHODS)


class Block(nn.Module):
    """`x + down(silu(up(x)))`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(F.silu(self.up(x)))
        return out


class Ninth(Backbone):
    """The standardised window and its mask through residual MLPs to the mean of the next steps."""

    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ninth": {"context_length": 48, "prediction_length": 12, "width": 64}
    }
    lora_targets: ClassVar[str] = r"^blocks\.\d+\.(up|down)$"
    head_name: ClassVar[str] = "head"

    def __init__(self, *, context_length: int, prediction_length: int, width: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "context_length": context_length,
            "prediction_length": prediction_length,
            "width": width,
        }
        self.context_length = context_length
        self.embed = nn.Linear(2 * context_length, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.head = nn.Linear(width, prediction_length)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, seed: int) -> Self:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(**config)

    @classmethod
    def shrunk(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {**config, "width": 16}

    def predict(self, context: Tensor, prediction_length: int) -> Prediction:
        blocks: list[Tensor] = []
        while sum(block.shape[1] for block in blocks) < prediction_length:
            blocks.append(self._next(torch.cat([context, *blocks], dim=1)))
        point = torch.cat(blocks, dim=1)[:, :prediction_length]
        return Prediction(point=point, point_kind="mean", quantiles=None, levels=())

    def loss(self, batch: Batch) -> Tensor:
        said = self.predict(batch.context, batch.target.shape[1]).point
        observed = ~batch.target.isnan()
        error = torch.where(observed, batch.target.nan_to_num() - said, 0.0)
        return error.square().sum() / observed.sum().clamp(min=1)

    def _next(self, context: Tensor) -> Tensor:
        context = context[:, -self.context_length :]
        x = F.pad(context, (self.context_length - context.shape[1], 0), value=torch.nan)
        seen = ~x.isnan()
        count = seen.sum(1, keepdim=True).clamp(min=1)
        location = x.nan_to_num().sum(1, keepdim=True) / count
        centred = torch.where(seen, x - location, 0.0)
        scale = (centred.square().sum(1, keepdim=True) / count + 1e-5).sqrt()
        hidden = self.embed(torch.cat([centred / scale, seen.to(x.dtype)], dim=1))
        for block in self.blocks:
            hidden = through(block, hidden, checkpointing=self.gradient_checkpointing and self.training)
        out: Tensor = self.head(hidden).float() * scale + location
        return out


SPEC = BackboneSpec(
    name="ninth",
    family="ninth",
    summary="An MLP over one window.",
    implementation="tests.ninth:Ninth",
    repo="nobody/ninth",
    revision="main",
    files=("model.safetensors",),
    sha256=None,
    licence="Apache-2.0",
    num_parameters=40_140,
    context_length=48,
    prediction_length=12,
    max_prediction_length=48,
    patch_length=4,
    quantile_levels=(),
    handles_missing=True,
    methods=METHODS,
)


@contextlib.contextmanager
def listed() -> Iterator[BackboneSpec]:
    """In the catalogue for as long as this lasts."""
    catalog.BACKBONES[SPEC.name] = SPEC
    try:
        yield SPEC
    finally:
        del catalog.BACKBONES[SPEC.name]
