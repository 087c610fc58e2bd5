"""What a fine-tuning method may do inside the one training loop.

Order of calls in a run: `prepare` once, on CPU; `bind` once, when the network is on its device; then, for every
optimizer step, `gradients` once per micro-batch (the loop clips and steps the optimizer afterwards) and `after_step`;
after every evaluation `eligible`; at the end `export`. The loop owns everything else: data order, schedule, clipping,
precision, evaluation, checkpoints. `state`/`load_state` carry what a method must keep across a kill.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from safetensors.torch import save
from torch import Tensor
from torch.nn import Parameter

from tsfm.artifact import WEIGHTS
from tsfm.backbones.base import Backbone, Batch
from tsfm.backbones.weights import tensors_of
from tsfm.catalog import BackboneSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What an artifact stores of a tuned network, beside its manifest and card."""

    kind: Literal["full", "adapter"]
    """"full" opens alone; "adapter" is a PEFT LoRA folder that opens on the backbone's own weights."""
    files: Mapping[str, bytes]
    """Contents by file name: `model.safetensors`, or `adapter_model.safetensors` and what belongs to it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON about these files, for `manifest["weights"]`."""


def whole_network(model: Backbone) -> Export:
    """Every tensor of the network, as one safetensors file."""
    return Export(kind="full", files={WEIGHTS: packed(tensors_of(model))})


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """The tensors as one safetensors file; the same bytes wherever they lay."""
    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


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

    @property
    def num_selection_windows(self) -> int:
        """Validation windows that `bind` is to be given, for whoever selects by measuring."""
        return 0

    @property
    def num_start_windows(self) -> int:
        """Train windows that `bind` is to be given, for whoever starts new layers from data."""
        return 0

    def bind(self, model: Backbone, selection: Sequence[Batch], start: Sequence[Batch]) -> None:  # noqa: B027 - see above
        """The fixed windows that were asked for, evenly strided, in batches on the network's device.

        Called in every run, also in one that continues. Must leave the global random generators as they were.
        """

    def trainable_parameters(self, model: Backbone) -> list[tuple[str, Parameter]]:
        """Name and tensor of what the optimizer moves, each tied tensor once."""
        return [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def schedule(self, step: int, total_steps: int) -> tuple[int, int]:
        """Where `step` (from 0) stands in the learning-rate schedule, and how long that is: one over all steps."""
        return step, total_steps

    def gradients(
        self, model: Backbone, batch: Batch, *, weight: float, precision: AbstractContextManager[Any]
    ) -> Tensor:
        """Adds `weight` × the gradient of the batch's loss to `.grad` and answers the loss, detached.

        `precision` is the autocast context for forward passes. A method that needs several passes owns them here.
        """
        with precision:
            loss = model.objective(batch)
        (loss * weight).backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        return loss.detach()

    def after_step(self, model: Backbone, *, step: int, total_steps: int) -> None:  # noqa: B027 - most have nothing to do
        """Called after optimizer step `step` (1-based), before gradients are cleared."""

    def eligible(self, step: int, total_steps: int) -> bool:
        """Whether weights of this step may be kept as the best, and whether patience counts."""
        return True

    def num_trainable_parameters(self, model: Backbone) -> int:
        """Trained numbers that an artifact holds: what is dropped before export does not count."""
        return sum(p.numel() for _, p in self.trainable_parameters(model))

    def facts(self, model: Backbone) -> dict[str, Any]:
        """Plain JSON on how the method came to its weights, for `training["method"]`; nothing a clock said."""
        return {}

    def laps(self) -> dict[str, float]:
        """Seconds that the method spent beside its steps, by what they were for; part of the run's training time."""
        return {}

    def export(self, model: Backbone, spec: BackboneSpec) -> Export:
        """What an artifact stores; by default the whole network. `spec` says where the backbone comes from."""
        return whole_network(model)

    def state(self) -> dict[str, Tensor]:
        """What the method itself must find again after a kill."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        assert not state, "this method keeps no state"
