"""One scalar gate and one 0/1 mask per LoRA module, and the gradients by which modules are chosen.

papers.md §1.2 and §1.10, evaluation.md §7. A gate multiplies what its module's B answers, through a forward hook:
PEFT's layers stay as they are. A masked module is passed by (PEFT's own switch), so that its tensors get no gradient at
all: AdamW skips them, there is no decay, and the optimizer's state waits. Nothing is deleted, and it can return.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tsfm.backbones.base import Backbone, Batch
from tsfm.device import is_out_of_memory
from tsfm.methods.adapters import AdapterModule
from tsfm.methods.dsic import Mask, Scores

GATE = "gate"
"""Name of the gate below its LoRA layer: `layers.0.fc1.gate.value`."""


class Gate(nn.Module):
    """`g · out`: g is trained, 1 at the start, and never decayed, since it is a scalar."""

    def __init__(self, *, trained: bool) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(()), requires_grad=trained)
        self.on = True
        """The module's ξ."""
        self.probe: Tensor | None = None
        """While measuring: ξ·g for each window [B], in place of g."""

    def forward(self, out: Tensor) -> Tensor:
        return out * (self.value if self.probe is None else _per_window(self.probe, out))


def _per_window(values: Tensor, out: Tensor) -> Tensor:
    """[B] spread over `out` [B·k, …], whose rows belong to windows in order."""
    rows, rest = divmod(len(out), len(values))
    if rest:
        raise ValueError(f"a module answered {len(out)} rows for {len(values)} windows")
    return values.repeat_interleave(rows).view(-1, *(1,) * (out.ndim - 1))


class Gates:
    """The gates of a network in the order of their modules' names.

    The order decides which module a simulated mask hits, so it must not depend on where a network registers what.
    """

    def __init__(self, modules: Sequence[AdapterModule], *, trained: bool) -> None:
        """Gives every module a gate, as part of its layer."""
        self.modules = tuple(sorted(modules, key=lambda module: module.name))
        self.gates = tuple(Gate(trained=trained) for _ in self.modules)
        for module, gate in zip(self.modules, self.gates, strict=True):
            module.layer.add_module(GATE, gate)
            module.lora_B.register_forward_hook(lambda _, __, out, gate=gate: gate(out))

    def __len__(self) -> int:
        return len(self.modules)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(module.name for module in self.modules)

    @property
    def kept(self) -> Mask:
        """[n] True = on."""
        return np.array([gate.on for gate in self.gates], dtype=np.bool_)

    def keep(self, kept: Mask) -> None:
        for gate, on in zip(self.gates, kept, strict=True):
            gate.on = bool(on)
        self._switch(self.kept)

    def _switch(self, on: Mask) -> None:
        """Which modules a forward pass goes through."""
        for module, wanted in zip(self.modules, on, strict=True):
            module.switch(bool(wanted))

    def survivors(self) -> list[tuple[AdapterModule, float]]:
        """The modules that are on, each with its gate."""
        return [
            (module, float(gate.value.detach()))
            for module, gate in zip(self.modules, self.gates, strict=True)
            if gate.on
        ]

    def magnitudes(self) -> Scores:
        """[n] Frobenius norm of each module's whole update, g·s·B·A."""
        norms = []
        with torch.no_grad():
            for module, gate in zip(self.modules, self.gates, strict=True):
                update = module.lora_B.weight.float() @ module.lora_A.weight.float()
                norms.append(float(update.norm() * gate.value.abs()) * module.scaling)
        return np.array(norms)

    def measure(
        self, model: Backbone, batches: Sequence[Batch], masks: Mask, *, form: Literal["taylor", "gradient"]
    ) -> Scores:
        """[M, n] from `masks` [M, n] (True = masked): per draw and module, the mean over windows of |∂ℓ/∂ξ|.

        ℓ is a window's own loss, the mean over its observed target points, whatever stands beside it in a batch.
        "taylor" is |g·∂ℓ/∂(ξg)|, "gradient" |∂ℓ/∂(ξg)|. In eval mode and float32; one backward pass per draw and batch;
        no `.grad` is touched. Modules that the current mask switches off are measured like all others.
        """
        was_training, device = model.training, self.gates[0].value.device
        values = torch.stack([gate.value.detach() for gate in self.gates])
        on = torch.from_numpy(~masks).to(device, values.dtype)
        sums = torch.zeros(masks.shape, dtype=torch.float64, device=device)
        observed = [part for batch in batches for part in _observed_parts(model, batch)]
        model.eval()
        self._switch(np.ones(len(self), dtype=np.bool_))
        try:
            for batch in observed:
                for draw in range(len(masks)):
                    sums[draw] += self._sums(model, batch, on[draw] * values)
        finally:
            model.train(was_training)
            self._switch(self.kept)
        if form == "taylor":
            sums *= values.abs().double()
        answer: Scores = (sums / sum(len(batch.target) for batch in observed)).cpu().numpy()
        return answer

    def _sums(self, model: Backbone, batch: Batch, effective: Tensor) -> Tensor:
        """[n] |∂ℓ/∂(ξg)| summed over windows; in halves where the batch does not fit in memory."""
        size = len(batch.target)
        try:
            return self._gradients(model, batch, effective).abs().sum(1).double()
        except RuntimeError as error:
            if not is_out_of_memory(error) or size == 1:
                raise
        halves = (slice(size // 2), slice(size // 2, None))
        first, last = (batch.rows(rows) for rows in halves)
        return self._sums(model, first, effective) + self._sums(model, last, effective)

    def _gradients(self, model: Backbone, batch: Batch, effective: Tensor) -> Tensor:
        """[n, B] ∂ℓ_w/∂(ξ_i·g_i) of window w, where the products ξ·g are `effective` [n]."""
        counts = (~batch.target.isnan()).sum(1)
        probes = effective.unsqueeze(1).repeat(1, len(batch.target)).requires_grad_()
        try:
            for i, gate in enumerate(self.gates):
                gate.probe = probes[i]
            with torch.enable_grad():
                loss = model.objective(batch)
            (gradients,) = torch.autograd.grad(loss, probes)
        finally:
            for gate in self.gates:
                gate.probe = None
        # The batch's loss averages over points: undo a window's share in it.
        scaled: Tensor = gradients * (counts.sum() / counts)
        return scaled


def _observed_parts(model: Backbone, batch: Batch) -> list[Batch]:
    """The windows that have a loss; a batch for each lot of them that goes through the network together."""
    rows = (~batch.target.isnan()).any(1).nonzero()[:, 0]
    if not len(rows):
        return []
    lots = [rows[lot] for lot in model.rows_together(batch.rows(rows).seen)]
    return [batch.rows(lot) for lot in lots]
