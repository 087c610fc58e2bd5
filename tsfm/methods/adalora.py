"""`adalora`: LoRA as A, E, B whose ranks are shared out among the modules by importance (arXiv 2303.10512), by `peft`.

Each module starts at `initial_rank`; from the warm-up on the least important triplets of all modules are zeroed on a
cubic schedule, until `target_rank` a module is left on average; then the ranks stand and the rest trains to the end.
Exported as plain LoRA: E and the scaling go into A, zeroed triplets and modules without any are left out.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast

import torch
from peft import AdaLoraConfig, AdaLoraModel
from torch import Tensor, nn

from tsfm.adapter_files import LowRank, adapter_files
from tsfm.backbones.base import Backbone, Batch
from tsfm.catalog import BackboneSpec
from tsfm.configs import AdaLoRAConfig
from tsfm.errors import ConfigError
from tsfm.methods.adapters import ADAPTER, capped_rank, head_mode, head_tensors, targets, train_head
from tsfm.methods.base import Export, Method

_UNKNOWN_STEPS = 1_000_000
"""`peft` wants a number of steps before the run has one; replaced at the first step."""
_MIN_STEPS = 3
"""A run of fewer steps has no time to measure and allocate: it keeps its initial ranks."""


class Allocation(NamedTuple):
    """In optimizer steps: ranks are touched from `warm_up` on, and for the last time at `settled`."""

    warm_up: int
    settled: int


class AdaLoRA(Method):
    config: AdaLoRAConfig
    _tuner: Any
    """`peft.AdaLoraModel`, whose methods carry no types."""

    def prepare(self, backbone: Backbone) -> Backbone:
        config = self.config
        self.head = head_mode(backbone, config.head)
        names = targets(backbone, head=self.head)
        self._names = [
            name
            for name in names
            if capped_rank(config.target_rank, cast("nn.Linear", backbone.get_submodule(name))) > 0
        ]
        if not self._names:
            raise ConfigError("This backbone has no linear layer that an adapter would make smaller.", param="method")
        wanted = AdaLoraConfig(
            init_r=config.initial_rank,
            target_r=config.target_rank,
            lora_alpha=cast("int", config.lora_alpha),
            lora_dropout=config.dropout,
            target_modules=f"^({'|'.join(re.escape(name) for name in self._names)})$",
            orth_reg_weight=config.orthogonality,
            beta1=config.smoothing,
            beta2=config.smoothing,
            total_step=_UNKNOWN_STEPS,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.init_seed)
            self._tuner = AdaLoraModel(backbone, wanted, ADAPTER)  # type: ignore[no-untyped-call]  # as peft has it
        if self.head == "train":
            train_head(backbone)
        return backbone

    def gradients(
        self, model: Backbone, batch: Batch, *, weight: float, precision: AbstractContextManager[Any]
    ) -> Tensor:
        """The loss, and the pull of A's rows and B's columns towards orthogonality; the answer is the loss alone."""
        with precision:
            loss = model.objective(batch)
        total = loss + self.config.orthogonality * self._orthogonality()
        (total * weight).backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        return loss.detach()

    def _orthogonality(self) -> Tensor:
        """Mean over all A and B of the Frobenius norm of P @ P.T - I (arXiv 2303.10512, equation 4)."""
        norms: list[Tensor] = []
        for name in self._names:
            for part, transposed in (("lora_A", False), ("lora_B", True)):
                p = self._part(name, part)
                rows = p.T if transposed else p
                norms.append(torch.linalg.norm(rows @ rows.T - torch.eye(len(rows), device=p.device)))
        return torch.stack(norms).mean()

    def _part(self, name: str, part: str) -> Tensor:
        parts = getattr(self._tuner.model.get_submodule(name), part)
        return cast("Tensor", parts[ADAPTER])

    def allocation(self, total_steps: int) -> Allocation:
        settled = max(total_steps - round(self.config.final_share * total_steps), 2)
        return Allocation(min(round(self.config.warm_up_share * total_steps), settled - 1), settled)

    def after_step(self, model: Backbone, *, step: int, total_steps: int) -> None:
        if total_steps < _MIN_STEPS:
            return
        warm_up, settled = self.allocation(total_steps)
        wanted = self._tuner.peft_config[ADAPTER]
        wanted.total_step, wanted.tinit, wanted.tfinal = total_steps, warm_up, total_steps - settled
        wanted.deltaT = self.config.interval_steps
        self._tuner.update_and_allocate(step)

    def eligible(self, step: int, total_steps: int) -> bool:
        """From the last allocation on: before it the ranks are above what was asked for."""
        return total_steps < _MIN_STEPS or step >= self.allocation(total_steps).settled

    def num_trainable_parameters(self, model: Backbone) -> int:
        changes = sum(m.a.numel() + m.b.numel() for m in self._low_ranks().values())
        return changes + sum(t.numel() for t in self._head(model).values())

    def facts(self, model: Backbone) -> dict[str, Any]:
        ranks = {name: m.rank for name, m in self._low_ranks().items()}
        return {
            "ranks": ranks,
            "rank_total": sum(ranks.values()),
            "peak_trainable_parameters": super().num_trainable_parameters(model),
        }

    def export(self, model: Backbone, spec: BackboneSpec) -> Export:
        modules = self._low_ranks()
        rank = self.config.target_rank
        files = adapter_files(modules, spec, rank=rank, alpha=rank, head=self._head(model))
        return Export(kind="adapter", files=files, facts={"num_modules": len(modules), "head": self.head})

    def _head(self, model: Backbone) -> dict[str, Tensor]:
        return head_tensors(model) if self.head == "train" else {}

    def _low_ranks(self) -> dict[str, LowRank]:
        """What is left of each module, as LoRA of scaling 1."""
        modules: dict[str, LowRank] = {}
        for name in self._names:
            a, b, e = (self._part(name, part).detach().float().cpu() for part in ("lora_A", "lora_B", "lora_E"))
            kept = e[:, 0] != 0
            if rank := int(kept.sum()):
                # peft divides by the initial rank, and by 1e-5 more than that.
                scaling = self.config.lora_alpha / (self.config.initial_rank + 1e-5)
                modules[name] = LowRank(a=scaling * (a * e)[kept], b=b[:, kept].clone(), alpha=float(rank))
        return modules

    def state(self) -> dict[str, Tensor]:
        """The smoothed importances, and which triplets are kept."""
        allocator = self._tuner.rankallocator
        kept = self._tuner.peft_config[ADAPTER].rank_pattern or {}
        return {
            **{f"{kind}/{n}": t for kind in _IMPORTANCES for n, t in getattr(allocator, kind).items()},
            **{f"kept/{n}": torch.tensor(mask) for n, mask in kept.items()},
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        allocator = self._tuner.rankallocator
        places = {name: p.device for name, p in self._tuner.model.named_parameters()}
        allocator.reset_ipt()
        kept: dict[str, list[bool]] = {}
        for key, t in state.items():
            kind, _, name = key.partition("/")
            if kind == "kept":
                kept[name] = t.tolist()
            else:
                getattr(allocator, kind)[name] = t.to(places[name])
        self._tuner.peft_config[ADAPTER].rank_pattern = kept or None


_IMPORTANCES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""The allocator's memory (`peft.tuners.adalora.layer.RankAllocator`)."""
