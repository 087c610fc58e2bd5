"""`zero_shot`: nothing is trained; the pretrained network is what is judged and served."""

from tsfm.backbones.base import Backbone
from tsfm.methods.base import Method


class ZeroShot(Method):
    def prepare(self, backbone: Backbone) -> Backbone:
        return backbone.requires_grad_(False)
