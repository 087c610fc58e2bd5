"""TRACE: gated LoRA on every candidate module, of which dynamic selection (DSIC) keeps the important ones.

papers.md §1 and evaluation.md §7; `tsfm.configs.TraceConfig` says how each point that the paper leaves open was read.
All modules train together at first. In a few rounds their importance is measured on validation windows under simulated
maskings and the least important are masked; a masked module rests as it is and may return in the next round. The last
round freezes the mask and the survivors train to the end: from there on weights may be kept as the best.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tsfm import heads
from tsfm.adapter_files import adapter_files
from tsfm.backbones.base import Backbone, Batch
from tsfm.catalog import BackboneSpec
from tsfm.configs import QUANTILES, TraceConfig
from tsfm.errors import DataError, NonFinite
from tsfm.methods import adapters, dsic
from tsfm.methods.base import Export, Method
from tsfm.methods.gates import Gates

START_WINDOWS = 2_048
"""Train windows on which a new head learns to answer as the pretrained one."""
QUANTILE_START_WINDOWS = 512
"""The same where the pretrained one has to sample its answers, which takes as long as forecasting these windows."""


class Trace(Method):
    config: TraceConfig
    gates: Gates

    def __init__(self, config: TraceConfig) -> None:
        super().__init__(config)
        self.head = config.head
        self._new_head: heads.SmallHead | None = None
        self._pretrained: nn.Linear | None = None
        self._quantile_head: nn.Linear | None = None
        self._selection: Sequence[Batch] = ()
        self._rounds: list[tuple[int, dsic.Scores, dsic.Mask]] = []
        """(step, scores [n], kept [n]) of the rounds so far."""
        self._backward_passes = 0
        self._seconds = 0.0

    def prepare(self, backbone: Backbone) -> Backbone:
        config = self.config
        if self.head == "auto":
            self.head = "H4" if backbone.head_is_random else "lora"
        targets = adapters.body_targets(backbone)
        if self.head == "lora":
            targets += adapters.head_targets(backbone)
        modules = adapters.attach(
            backbone,
            targets=targets,
            rank=config.rank,
            alpha=config.lora_alpha,
            dropout=config.dropout,
            seed=config.init_seed,
        )
        self.gates = Gates(modules, trained=config.train_gates)
        if self.head == QUANTILES:
            self._quantile_head = backbone.put_quantile_head(seed=config.init_seed)
        elif self.head not in ("lora", "keep"):
            self._replace_head(backbone)
        return backbone

    def _replace_head(self, backbone: Backbone) -> None:
        num_tokens, width = backbone.head_shape()
        name = _head_linear(backbone)
        linear = backbone.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        self._new_head = heads.build(
            self.head, num_tokens=num_tokens, width=width, horizon=linear.out_features, seed=self.config.init_seed
        )
        if not backbone.head_is_random:
            self._pretrained = linear
        backbone.set_submodule(name, heads.InPlaceOfLinear(self._new_head))

    @property
    def num_selection_windows(self) -> int:
        return self.config.selection_windows if self.config.selection == "dsic" else 0

    @property
    def num_start_windows(self) -> int:
        if self._quantile_head is not None:
            return QUANTILE_START_WINDOWS
        return START_WINDOWS if self._pretrained is not None else 0

    def bind(self, model: Backbone, selection: Sequence[Batch], start: Sequence[Batch]) -> None:
        measures = self.config.selection == "dsic" and self.config.keep_ratio < 1
        if measures and not any(bool((~batch.target.isnan()).any()) for batch in selection):
            raise DataError(
                "No window of the validation block holds an observed target, so the importance of modules cannot be "
                'measured: give series with fewer missing values, or take the selection "magnitude".',
                code="no_validation_windows",
            )
        self._selection = selection
        if self._new_head is not None and self._pretrained is not None:
            heads.distil(self._new_head, self._pretrained, _states(model, _head_linear(model), start))
        if self._quantile_head is not None and start:
            heads.regress(self._quantile_head, *_examples(model, start))

    def after_step(self, model: Backbone, *, step: int, total_steps: int) -> None:
        for planned in self._schedule(total_steps):
            if planned.step == step:
                started = time.monotonic()
                self._select(model, planned)
                self._seconds += time.monotonic() - started

    def _schedule(self, total_steps: int) -> tuple[dsic.Round, ...]:
        config = self.config
        return dsic.schedule(
            total_steps,
            num_modules=len(self.gates),
            keep_ratio=config.keep_ratio,
            rounds=config.rounds,
            first=config.first_round,
            last=config.last_round,
        )

    def _select(self, model: Backbone, planned: dsic.Round) -> None:
        scores = self._scores(model, num_masked=len(self.gates) - planned.num_kept)
        if not np.isfinite(scores).all():
            raise NonFinite(
                f"The importance of a module was not finite at step {planned.step}: use a lower learning_rate.",
                details={"step": planned.step},
            )
        kept = dsic.strongest(scores, planned.num_kept)
        self.gates.keep(kept)
        self._rounds.append((planned.step, scores, kept))

    def _scores(self, model: Backbone, *, num_masked: int) -> dsic.Scores:
        """[n] higher is more important; of masked modules too."""
        config, n = self.config, len(self.gates)
        if config.selection == "random":  # one lot for the whole run: what is masked stays so
            return np.random.default_rng(config.init_seed).permutation(n).astype(np.float64)
        if config.selection == "magnitude":
            return self.gates.magnitudes()
        rng = np.random.default_rng([config.init_seed, len(self._rounds)])
        masks = dsic.simulated_masks(n, num_masked, num_draws=config.draws, rng=rng)
        measured = self.gates.measure(model, self._selection, masks, form=config.importance)
        self._backward_passes += len(masks) * len(self._selection)
        return dsic.importance(measured, masks, all_draws=config.all_draws)

    def eligible(self, step: int, total_steps: int) -> bool:
        """From the final freeze on (evaluation.md §7)."""
        rounds = self._schedule(total_steps)
        return not rounds or step >= rounds[-1].step

    def num_trainable_parameters(self, model: Backbone) -> int:
        """A and B of the survivors, and a new head. The gates are folded away."""
        return self._num_head_parameters() + sum(module.num_parameters for module, _ in self.gates.survivors())

    def _num_head_parameters(self) -> int:
        new = self._new_head or self._quantile_head
        return 0 if new is None else sum(p.numel() for p in new.parameters())

    def facts(self, model: Backbone) -> dict[str, Any]:
        names = self.gates.names
        return {
            "head": self.head,
            "num_modules": len(names),
            "kept": {module.name: gate for module, gate in self.gates.survivors()},
            "peak_trainable_parameters": sum(p.numel() for _, p in self.trainable_parameters(model)),
            "selection": {
                "by": self.config.selection,
                "num_backward_passes": self._backward_passes,
                "rounds": self._round_facts(),
                "importance": dict(zip(names, self._rounds[-1][1].tolist(), strict=True)) if self._rounds else None,
            },
        }

    def _round_facts(self) -> list[dict[str, Any]]:
        facts: list[dict[str, Any]] = []
        before = np.ones(len(self.gates), dtype=np.bool_)
        for step, _, kept in self._rounds:
            returned = [name for name, back in zip(self.gates.names, kept & ~before, strict=True) if back]
            facts.append({"step": step, "num_kept": int(kept.sum()), "returned": returned})
            before = kept
        return facts

    def laps(self) -> dict[str, float]:
        return {"selection_seconds": round(self._seconds, 3)}

    def export(self, model: Backbone, spec: BackboneSpec) -> Export:
        """The survivors with their gates folded into B, as a PEFT LoRA folder; a new head folded into one linear."""
        head: dict[str, Tensor] = {}
        if self._new_head is not None:
            folded = heads.fold(self._new_head)
            name = _head_linear(model)
            head = {f"{name}.weight": folded.weight.detach(), f"{name}.bias": folded.bias.detach()}
        if self._quantile_head is not None:
            head = {n: p.detach() for n, p in model.named_parameters() if n in model.fresh_parameters}
        kept = self.gates.survivors()
        files = adapter_files(
            {module.name: module.low_rank(gate=gate) for module, gate in kept},
            spec,
            rank=self.config.rank,
            alpha=self.config.lora_alpha,
            head=head,
        )
        return Export(kind="adapter", files=files, facts={"num_modules": len(kept), "head": self.head})

    def state(self) -> dict[str, Tensor]:
        n = len(self.gates)
        scores = [torch.from_numpy(scores) for _, scores, _ in self._rounds]
        kept = [torch.from_numpy(kept) for _, _, kept in self._rounds]
        return {
            "steps": torch.tensor([step for step, _, _ in self._rounds], dtype=torch.int64),
            "scores": torch.stack(scores) if scores else torch.zeros(0, n, dtype=torch.float64),
            "kept": torch.stack(kept) if kept else torch.zeros(0, n, dtype=torch.bool),
            "backward_passes": torch.tensor(self._backward_passes),
            "seconds": torch.tensor(self._seconds, dtype=torch.float64),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        rows = zip(state["steps"].tolist(), state["scores"].numpy(), state["kept"].numpy(), strict=True)
        self._rounds = list(rows)
        self._backward_passes = int(state["backward_passes"])
        self._seconds = float(state["seconds"])
        if self._rounds:
            self.gates.keep(self._rounds[-1][2])


def _head_linear(backbone: Backbone) -> str:
    name = backbone.head_linear
    assert name is not None, "the catalogue refuses a new head where there is no one linear to replace"
    return name


def _examples(model: Backbone, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """What a quantile head is given on these windows and should say, in eval mode, on the CPU."""
    was_training = model.training
    model.eval()
    found = [model.quantile_head_examples(batch.context) for batch in batches]
    model.train(was_training)
    return torch.cat([states.cpu() for states, _ in found]), torch.cat([answers.cpu() for _, answers in found])


@torch.no_grad()
def _states(model: Backbone, name: str, batches: Sequence[Batch]) -> Tensor:
    """[W, N*D] what the module `name` is given on these windows, in eval mode."""
    found: list[Tensor] = []

    def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(given[0].flatten(0, -2).cpu())

    was_training = model.training
    model.eval()
    handle = model.get_submodule(name).register_forward_pre_hook(note)
    try:
        for batch in batches:
            model.objective(batch)
    finally:
        handle.remove()
        model.train(was_training)
    return torch.cat(found)
