"""Smoothed full fine-tuning (SFF): θ = α·pretrained + (1 − α)·random, once, then ordinary full fine-tuning.

papers.md §2.1 and evaluation.md §6. The blend runs over `named_parameters()`, so a tied tensor is blended once; norms
and embeddings are included, buffers are not touched. α = 1 and α = 0 copy, without arithmetic: they are `full` and
`scratch` bit for bit.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tsfm.backbones.base import Backbone
from tsfm.configs import Initialisation, SFFConfig
from tsfm.errors import ConfigError
from tsfm.methods.base import Method, train_everything


def blend(pretrained: Mapping[str, Tensor], random: Mapping[str, Tensor], *, alpha: float) -> dict[str, Tensor]:
    """`alpha * pretrained + (1 - alpha) * random` by name, in float32, as new tensors.

    Refuses differing names or shapes with `ValueError`; alpha 1 and 0 are copies.
    """
    if pretrained.keys() != random.keys():
        raise ValueError(f"the two models name other parameters: {sorted(pretrained.keys() ^ random.keys())[:5]}")
    if wrong := [name for name, t in pretrained.items() if t.shape != random[name].shape]:
        raise ValueError(f"the two models have other shapes: {wrong[:5]}")
    if alpha == 1.0:
        return {name: t.detach().clone() for name, t in pretrained.items()}
    if alpha == 0.0:
        return {name: t.detach().clone() for name, t in random.items()}
    return {
        name: alpha * t.detach().float() + (1.0 - alpha) * random[name].detach().float()
        for name, t in pretrained.items()
    }


def twin_of(backbone: Backbone, *, seed: int, initialisation: Initialisation = "backbone") -> Backbone:
    """The same architecture, random weights from `seed` alone; the global generators are left as they were.

    "pytorch" draws anew every torch layer that knows its own defaults (for a linear layer or a convolution weights and
    bias of U(±1/√fan_in), for a norm 1 and 0); what no torch layer owns keeps the backbone's initialisation. "matched"
    rescales each tensor of that initialisation to the Frobenius norm of `backbone`'s, so that no layer's share of the
    blend depends on how far pretraining has grown it; a tensor of zeros stays.
    """
    with torch.random.fork_rng(devices=[]):
        twin = type(backbone).from_config(backbone.config, seed=seed)
        if initialisation == "pytorch":
            torch.manual_seed(seed)
            for module in twin.modules():
                if type(module).__module__.startswith("torch.nn.") and callable(
                    reset := getattr(module, "reset_parameters", None)
                ):
                    reset()
    if initialisation == "matched":
        _match_norms(twin, backbone)
    return twin


@torch.no_grad()
def _match_norms(twin: Backbone, pretrained: Backbone) -> None:
    own = dict(pretrained.named_parameters())
    for name, parameter in twin.named_parameters():
        norm = parameter.norm()
        if norm > 0:
            parameter.mul_(own[name].norm().to(norm.device) / norm)


def smooth(
    backbone: Backbone,
    *,
    alpha: float,
    twin_seed: int,
    exclude: Sequence[str] = (),
    initialisation: Initialisation = "backbone",
) -> Backbone:
    """Blends the backbone with its twin, in place. `exclude` are name prefixes that stay pretrained."""
    kept = backbone.unused_parameters | backbone.fresh_parameters
    names = [n for n, _ in backbone.named_parameters() if n not in kept]
    for prefix in exclude:
        if not any(name.startswith(prefix) for name in names):
            raise ConfigError(f"exclude: no parameter of this backbone begins with {prefix!r}.", param="method.exclude")
    chosen = {name for name in names if not name.startswith(tuple(exclude))}
    twin = twin_of(backbone, seed=twin_seed, initialisation=initialisation)
    own, other = dict(backbone.named_parameters()), dict(twin.named_parameters())
    if own.keys() != other.keys():
        raise ValueError(f"the twin names other parameters: {sorted(own.keys() ^ other.keys())[:5]}")
    mixed = blend({n: own[n] for n in chosen}, {n: other[n] for n in chosen}, alpha=alpha)
    with torch.no_grad():
        for name, tensor in mixed.items():
            own[name].copy_(tensor)
    return backbone


class SFF(Method):
    config: SFFConfig

    def prepare(self, backbone: Backbone) -> Backbone:
        alpha = self.config.alpha
        assert not isinstance(alpha, str), '"search" is resolved to numbers before a method is created'
        mixed = smooth(
            backbone,
            alpha=alpha,
            twin_seed=self.config.twin_seed,
            exclude=self.config.exclude,
            initialisation=self.config.initialisation,
        )
        return train_everything(mixed)
