"""`lp_full`: first the head alone, then every parameter (papers.md §2.4, LPFF), as two phases of one run.

Each phase has a complete learning-rate schedule of its own, as two runs one after the other would have.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from tsfm.backbones.base import Backbone, Batch
from tsfm.configs import LPFullConfig
from tsfm.methods.base import Method, train_everything
from tsfm.methods.linear_probe import reinitialise_head


class LPFull(Method):
    config: LPFullConfig

    def prepare(self, backbone: Backbone) -> Backbone:
        self._probing = True
        if self.config.reinit_head:
            reinitialise_head(backbone)
        train_everything(backbone)
        head = backbone.head_parameter_names()
        self._body = [p for name, p in self.trainable_parameters(backbone) if name not in head]
        return backbone

    def probe_steps(self, total_steps: int) -> int:
        """How many of the run's steps train the head alone; at least one."""
        return max(1, round(self.config.probe_share * total_steps))

    def schedule(self, step: int, total_steps: int) -> tuple[int, int]:
        probing = self.probe_steps(total_steps)
        return (step, probing) if step < probing else (step - probing, total_steps - probing)

    def gradients(
        self, model: Backbone, batch: Batch, *, weight: float, precision: AbstractContextManager[Any]
    ) -> Tensor:
        with _frozen(self._body if self._probing else []):
            return super().gradients(model, batch, weight=weight, precision=precision)

    def after_step(self, model: Backbone, *, step: int, total_steps: int) -> None:
        self._probing = step < self.probe_steps(total_steps)

    def eligible(self, step: int, total_steps: int) -> bool:
        """From the second phase on: else patience or the validation error would make it `linear_probe`."""
        return step > self.probe_steps(total_steps)

    def facts(self, model: Backbone) -> dict[str, Any]:
        return {"phase": "head" if self._probing else "everything"}

    def state(self) -> dict[str, Tensor]:
        return {"probing": torch.tensor(self._probing)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._probing = bool(state["probing"])


@contextmanager
def _frozen(parameters: list[Parameter]) -> Iterator[None]:
    """No gradients for `parameters` inside. The optimizer then neither moves nor decays them: they have none at all."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
