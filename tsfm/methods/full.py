"""`full` trains every parameter from the pretrained weights; `scratch` from the random twin. SFF's two ends."""

from tsfm.backbones.base import Backbone
from tsfm.configs import ScratchConfig
from tsfm.methods.base import Method, train_everything
from tsfm.methods.sff import smooth


class Full(Method):
    def prepare(self, backbone: Backbone) -> Backbone:
        return train_everything(backbone)


class Scratch(Method):
    config: ScratchConfig

    def prepare(self, backbone: Backbone) -> Backbone:
        return train_everything(smooth(backbone, alpha=0.0, twin_seed=self.config.twin_seed))
