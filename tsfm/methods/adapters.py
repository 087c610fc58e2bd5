"""Low-rank adapters (LoRA, arXiv 2106.09685) put into a backbone by `peft`, and taken out again as an artifact's files.

The only module, with `adalora`, that imports `peft`; only methods that train adapters load it. The network stays a
`Backbone`: its linears are wrapped where they stand, and everything but the adapters is frozen.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tsfm.adapter_files import LowRank, exactly
from tsfm.backbones.base import Backbone
from tsfm.errors import ConfigError

ADAPTER = "default"
"""The name under which `peft` keeps the one adapter there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterModule:
    """One adapted linear: y = base(x) + scaling * lora_B(lora_A(dropout(x)))."""

    name: str
    """Full module name in the backbone, as it was before."""
    layer: nn.Module
    """What stands there now (`peft.tuners.lora.Linear`)."""
    base: nn.Linear
    """The pretrained linear, frozen."""
    lora_A: nn.Linear  # noqa: N815 - the papers' and peft's name
    """in → r, without bias; drawn at random."""
    lora_B: nn.Linear  # noqa: N815
    """r → out, without bias; zero at the start, so that attaching changes no forecast."""
    alpha: float

    @property
    def rank(self) -> int:
        return self.lora_A.out_features

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    @property
    def num_parameters(self) -> int:
        return self.lora_A.weight.numel() + self.lora_B.weight.numel()

    def switch(self, on: bool) -> None:
        """Whether a forward pass goes through the adapter, or the linear answers alone. Both stay trainable."""
        cast("LoraLayer", self.layer).enable_adapters(on)
        self.lora_A.requires_grad_(True)
        self.lora_B.requires_grad_(True)

    def low_rank(self, *, gate: float = 1.0) -> LowRank:
        """A copy of what is stored of it, B multiplied by `gate` in float32."""
        b = self.lora_B.weight.detach().float().cpu()
        return LowRank(
            a=self.lora_A.weight.detach().float().cpu().clone(),
            b=b.clone() if gate == 1.0 else gate * b,
            alpha=self.alpha,
        )


def body_targets(backbone: Backbone) -> list[str]:
    """Full names of the linears that match the backbone's `lora_targets`."""
    return [name for name, m in backbone.named_modules() if isinstance(m, nn.Linear) and _fits(backbone, name)]


def head_targets(backbone: Backbone) -> list[str]:
    """Full names of the linears of the head, or heads."""
    parameters = backbone.head_parameter_names()
    return [name for name, m in backbone.named_modules() if isinstance(m, nn.Linear) and f"{name}.weight" in parameters]


def head_mode(backbone: Backbone, asked: str) -> str:
    """What LoRA does with the head: "keep", "lora" or "train"; "auto" trains a head that no checkpoint holds."""
    if asked != "auto":
        return asked
    return "train" if backbone.head_is_random else "lora"


def targets(backbone: Backbone, *, head: str) -> list[str]:
    """What LoRA adapts: the body's targets, and with `head` "lora" the head's linears as well."""
    return body_targets(backbone) + (head_targets(backbone) if head == "lora" else [])


def train_head(backbone: Backbone) -> None:
    """Gradients on for every parameter of the head, besides the adapters."""
    names = backbone.head_parameter_names() - backbone.unused_parameters
    for name, parameter in backbone.named_parameters():
        if name in names:
            parameter.requires_grad_(True)


def head_tensors(backbone: Backbone) -> dict[str, Tensor]:
    """The head's parameters by name, for `head.safetensors`."""
    names = backbone.head_parameter_names() - backbone.unused_parameters
    return {name: p.detach() for name, p in backbone.named_parameters() if name in names}


def _fits(backbone: Backbone, name: str) -> bool:
    return re.fullmatch(backbone.lora_targets, name) is not None


def capped_rank(rank: int, linear: nn.Linear) -> int:
    """At most a rank at which A and B together hold half the linear's numbers (evaluation.md §7); 0 on tiny ones."""
    size = linear.in_features, linear.out_features
    return min(rank, size[0] * size[1] // (2 * sum(size)))


def attach(
    backbone: Backbone, *, targets: Sequence[str], rank: int, alpha: float, dropout: float, seed: int = 0
) -> list[AdapterModule]:
    """Adapts the linears named by `targets`, in place, and freezes all else; answers them in the backbone's order.

    Linears too small for rank one are left as they are. The scaling alpha / rank is the same everywhere: a module whose
    rank is capped gets an alpha to match. A is drawn from `seed` under a forked generator. `ConfigError` when nothing
    can be adapted.
    """
    linears = {name: cast("nn.Linear", backbone.get_submodule(name)) for name in targets}
    ranks = {name: r for name, linear in linears.items() if (r := capped_rank(rank, linear)) > 0}
    if not ranks:
        raise ConfigError("This backbone has no linear layer that an adapter would make smaller.", param="method")
    capped = {name: r for name, r in ranks.items() if r != rank}
    alphas = {name: alpha if r == rank else alpha * r / rank for name, r in ranks.items()}
    config = LoraConfig(
        r=rank,
        lora_alpha=cast("int", alpha),
        lora_dropout=dropout,
        target_modules=f"^({'|'.join(re.escape(name) for name in ranks)})$",
        rank_pattern={exactly(name): r for name, r in capped.items()},
        alpha_pattern={exactly(name): cast("int", alphas[name]) for name in capped},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone, ADAPTER)
    return [_module(backbone, name, alphas[name]) for name, _ in linears.items() if name in ranks]


def _module(backbone: Backbone, name: str, alpha: float) -> AdapterModule:
    layer = backbone.get_submodule(name)
    return AdapterModule(
        name=name,
        layer=layer,
        base=cast("nn.Linear", layer.get_submodule("base_layer")),
        lora_A=cast("nn.Linear", layer.get_submodule(f"lora_A.{ADAPTER}")),
        lora_B=cast("nn.Linear", layer.get_submodule(f"lora_B.{ADAPTER}")),
        alpha=alpha,
    )
