"""The two tables of the product: backbones and methods. Torch-free, so that the gateway can read it.

Adding a backbone is one file under `tsfm/backbones/` and one `BackboneSpec` in `tsfm/backbone_table.py`; adding a
method is one file under `tsfm/methods/`, one config in `tsfm/configs.py` and one `MethodSpec` here. API schemas, docs
and contract tests read these tables; a lookup that fails lists the known names.
"""

from tsfm import backbone_table, configs
from tsfm.errors import UnknownName
from tsfm.spec import AUTO, FILL_RIVALS, RIVALS, SEASONAL_RIVALS, TASKS, BackboneSpec, MethodSpec, Task

__all__ = [
    "AUTO",
    "BACKBONES",
    "FILL_RIVALS",
    "METHODS",
    "RIVALS",
    "SEASONAL_RIVALS",
    "TASKS",
    "BackboneSpec",
    "MethodSpec",
    "Task",
]


def backbone(name: str) -> BackboneSpec:
    """The spec named `name`, or `UnknownName` listing the known ones."""
    if name not in BACKBONES:
        raise UnknownName("backbone", name, list(BACKBONES), param="model")
    return BACKBONES[name]


def method(name: str) -> MethodSpec:
    """The spec named `name`, or `UnknownName` listing the known ones."""
    if name not in METHODS:
        raise UnknownName("method", name, list(METHODS), param="method")
    return METHODS[name]


def learning_rate(method_spec: MethodSpec, backbone_spec: BackboneSpec) -> float:
    """The default learning rate of a method on a backbone's family."""
    rates = method_spec.learning_rate
    return rates.get(backbone_spec.family, rates["*"])


SFF_RATE = 3e-5
"""What SFF's authors trained Timer, MOMENT and TimesFM with: probe, full, scratch and SFF alike (papers.md §2.4).
For MOIRAI and Sundial it is inferred there; others tuned MOIRAI with less (5e-6, arXiv 2506.14087)."""

UNITS_RATE = 1e-4
"""Of the UniTS authors' fine-tuning on new data (scripts/few_shot_newdata of their repository)."""

MOMENT_RATE = 1e-4
"""Of MOMENT's authors for their probe on ETTh1, and the reading of TRACE's unknown rate (papers.md §1.8, §1.10)."""

TIMESFM_RATE = 1e-4
"""Of Google's LoRA example for TimesFM 2.5 (timesfm-forecasting/examples/finetuning in their repository)."""

CHRONOS_RATE = 1e-5
"""Of AutoGluon for tuning Chronos-Bolt whole (`fine_tune_lr`); adapters take ten times as much, the ratio that the
package's own `Chronos2Pipeline.fit` recommends."""

METHODS: dict[str, MethodSpec] = {
    spec.name: spec
    for spec in (
        MethodSpec(
            name="zero_shot",
            summary="The pretrained backbone as it is; nothing is trained.",
            implementation="zero_shot:ZeroShot",
            config=configs.ZeroShotConfig,
            trains=False,
        ),
        MethodSpec(
            name="linear_probe",
            summary="Only the forecasting head is trained; the rest of the backbone stays frozen.",
            implementation="linear_probe:LinearProbe",
            config=configs.LinearProbeConfig,
            auto={},
            learning_rate={
                "*": 1e-3,
                "ttm": 1e-4,
                "chronos": SFF_RATE,
                "timer": SFF_RATE,
                "moirai": SFF_RATE,
                "moment": MOMENT_RATE,
                "timesfm": SFF_RATE,
                "sundial": SFF_RATE,
            },
        ),
        MethodSpec(
            name="lora",
            summary="Low-rank adapters beside the frozen linears of the backbone; a few per cent of its parameters.",
            implementation="lora:LoRA",
            config=configs.LoRAConfig,
            auto={},
            learning_rate={"*": 1e-3, "chronos": 10 * CHRONOS_RATE, "moment": MOMENT_RATE, "timesfm": TIMESFM_RATE},
        ),
        MethodSpec(
            name="adalora",
            summary="Low-rank adapters whose ranks are shared out among the modules by importance while they train.",
            implementation="adalora:AdaLoRA",
            config=configs.AdaLoRAConfig,
            learning_rate={
                "tiny": 3e-3,
                "*": 1e-2,
                "chronos": 100 * CHRONOS_RATE,
                "moment": 10 * MOMENT_RATE,
                "timesfm": 10 * TIMESFM_RATE,
            },
        ),
        MethodSpec(
            name="lp_full",
            summary="First the forecasting head alone, then every parameter.",
            implementation="lp_full:LPFull",
            config=configs.LPFullConfig,
            learning_rate={
                "*": 3e-4,
                "chronos": CHRONOS_RATE,
                "timer": SFF_RATE,
                "moirai": SFF_RATE,
                "units": UNITS_RATE,
                "moment": SFF_RATE,
                "timesfm": SFF_RATE,
                "sundial": SFF_RATE,
            },
        ),
        MethodSpec(
            name="full",
            summary="Every parameter is trained, starting from the pretrained weights.",
            implementation="full:Full",
            config=configs.FullConfig,
            auto={},
            learning_rate={
                "*": 3e-4,
                "ttm": 1e-4,
                "chronos": CHRONOS_RATE,
                "timer": SFF_RATE,
                "moirai": SFF_RATE,
                "units": UNITS_RATE,
                "moment": SFF_RATE,
                "timesfm": SFF_RATE,
                "sundial": SFF_RATE,
            },
        ),
        MethodSpec(
            name="scratch",
            summary="Every parameter is trained, starting from the random twin: what the data alone can teach.",
            implementation="full:Scratch",
            config=configs.ScratchConfig,
            learning_rate={"*": 1e-3, "timer": SFF_RATE, "moment": SFF_RATE, "timesfm": SFF_RATE, "sundial": SFF_RATE},
        ),
        MethodSpec(
            name="sff",
            summary="Smoothed full fine-tuning: full, starting from alpha*pretrained + (1-alpha)*random.",
            implementation="sff:SFF",
            config=configs.SFFConfig,
            auto={"alpha": (0.9, 0.95, 0.7)},
            learning_rate={
                "*": 3e-4,
                "ttm": 1e-4,
                "chronos": SFF_RATE,
                "timer": SFF_RATE,
                "moirai": SFF_RATE,
                "units": UNITS_RATE,
                "moment": SFF_RATE,
                "timesfm": SFF_RATE,
                "sundial": SFF_RATE,
            },
        ),
        MethodSpec(
            name="trace",
            summary="Gated low-rank adapters of which only the important ones are kept, chosen while they train.",
            implementation="trace:Trace",
            config=configs.TraceConfig,
            auto={},
            learning_rate={
                "*": 1e-3,
                "ttm": 6e-4,
                "chronos": 10 * CHRONOS_RATE,
                "moment": MOMENT_RATE,
                "timesfm": TIMESFM_RATE,
            },
        ),
        MethodSpec(
            name=AUTO,
            summary="Tries the other methods and their few settings on short schedules, and trains the best one.",
            implementation=None,
            config=configs.AutoConfig,
        ),
    )
}

BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in backbone_table.SPECS}
