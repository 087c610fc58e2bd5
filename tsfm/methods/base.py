"""What a fine-tuning method may do inside the one training loop.

Order of calls in a run: `prepare` once; then, for every optimizer step, `gradients` once per micro-batch (the loop
clips and steps the optimizer afterwards) and `after_step`; at the end `export`. The loop owns everything else: data
order, schedule, clipping, precision, evaluation, checkpoints. `state`/`load_state` carry what a method must keep across
a kill.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from tsfm.backbones.base import Backbone, Batch
from tsfm.backbones.weights import tensors_of


def train_everything(backbone: Backbone) -> Backbone:
    """Gradients on for all but what is loaded for the checkpoint's sake only."""
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name not in backbone.unused_parameters)
    return backbone


class Method(ABC):
    """One way to turn a pretrained backbone into a tuned one."""

    def __init__(self, config: Any) -> None:
        self.config = config
        """The frozen dataclass of this method in `tsfm.configs`."""

    @abstractmethod
    def prepare(self, backbone: Backbone) -> Backbone:
        """The network to train, on CPU, with `requires_grad` set on exactly what this method trains.

        Must leave the global random generators as they were, so that methods see the same data order and dropout.
        """

    def trainable_parameters(self, model: Backbone) -> list[tuple[str, Parameter]]:
        """Name and tensor of what the optimizer moves, each tied tensor once."""
        return [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def gradients(
        self, model: Backbone, batch: Batch, *, weight: float, precision: AbstractContextManager[Any]
    ) -> Tensor:
        """Adds `weight` × the gradient of the batch's loss to `.grad` and answers the loss, detached.

        `precision` is the autocast context for forward passes. A method that needs several passes owns them here.
        """
        with precision:
            loss = model.loss(batch)
        (loss * weight).backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        return loss.detach()

    def after_step(self, model: Backbone, *, step: int, total_steps: int) -> None:  # noqa: B027 - most have nothing to do
        """Called after optimizer step `step` (1-based), before gradients are cleared."""

    def export(self, model: Backbone) -> dict[str, Tensor]:
        """The tensors an artifact stores; by default the whole network."""
        return tensors_of(model)

    def state(self) -> dict[str, Tensor]:
        """What the method itself must find again after a kill."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        assert not state, "this method keeps no state"
