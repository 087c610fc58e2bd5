"""`lora`: low-rank adapters on the linears a backbone names, all else frozen (papers.md §2.4; arXiv 2106.09685)."""

from tsfm.adapter_files import adapter_files
from tsfm.backbones.base import Backbone
from tsfm.catalog import BackboneSpec
from tsfm.configs import LoRAConfig
from tsfm.methods.adapters import AdapterModule, attach, head_mode, head_tensors, targets, train_head
from tsfm.methods.base import Export, Method


class LoRA(Method):
    config: LoRAConfig
    modules: list[AdapterModule]

    def prepare(self, backbone: Backbone) -> Backbone:
        self.head = head_mode(backbone, self.config.head)
        self.modules = attach(
            backbone,
            targets=targets(backbone, head=self.head),
            rank=self.config.rank,
            alpha=self.config.lora_alpha,
            dropout=self.config.dropout,
            seed=self.config.init_seed,
        )
        if self.head == "train":
            train_head(backbone)
        return backbone

    def export(self, model: Backbone, spec: BackboneSpec) -> Export:
        files = adapter_files(
            {module.name: module.low_rank() for module in self.modules},
            spec,
            rank=self.config.rank,
            alpha=self.config.lora_alpha,
            head=head_tensors(model) if self.head == "train" else None,
        )
        return Export(kind="adapter", files=files, facts={"num_modules": len(self.modules), "head": self.head})
