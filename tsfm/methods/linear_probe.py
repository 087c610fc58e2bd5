"""`linear_probe`: only the parameters under the backbone's `head_name` are trained (papers.md §2.4, LP)."""

import torch

from tsfm.backbones.base import Backbone
from tsfm.configs import LinearProbeConfig
from tsfm.methods.base import Method
from tsfm.methods.sff import twin_of


class LinearProbe(Method):
    config: LinearProbeConfig

    def prepare(self, backbone: Backbone) -> Backbone:
        head = backbone.head_parameter_names() - backbone.unused_parameters
        assert head, f"{type(backbone).__name__}.head_name names no parameter"
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name in head)
        if self.config.reinit_head:
            reinitialise_head(backbone)
        return backbone


def reinitialise_head(backbone: Backbone) -> None:
    """Draws the head anew, from the backbone's own initialisation under seed 0; the global generators stay."""
    head = backbone.head_parameter_names() - backbone.unused_parameters
    fresh = dict(twin_of(backbone, seed=0).named_parameters())
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name in head:
                parameter.copy_(fresh[name])
