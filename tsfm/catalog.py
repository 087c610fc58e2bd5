"""The two tables of the product: backbones and methods. Torch-free, so that the gateway can read it.

Adding a backbone is one file under `tsfm/backbones/` and one `BackboneSpec` here; adding a method is one file under
`tsfm/methods/`, one config in `tsfm/configs.py` and one `MethodSpec` here. API schemas, docs and contract tests read
these tables; a lookup that fails lists the known names.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from tsfm import configs
from tsfm.errors import UnknownName

Task = Literal["forecast", "anomaly_detection", "imputation"]
TASKS: tuple[Task, ...] = ("forecast", "anomaly_detection", "imputation")
AUTO = "auto"
"""The method that chooses among the others; also a hyperparameter's "take the default"."""
RIVALS: tuple[str, ...] = ("naive", "seasonal_naive", "window_mean")
"""Plain forecasters every job is judged against; `model` names of `/forecast` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """Everything about a pretrained network that can be said without loading it."""

    name: str
    family: str
    """Architecture, e.g. "tiny", "ttm"."""
    summary: str
    implementation: str
    """`module:Class` under `tsfm.backbones`; a dotted module is taken as it stands."""
    repo: str | None
    """Hub repository, or None for weights that ship in this package."""
    revision: str | None
    files: tuple[str, ...]
    sha256: str
    """Digest of the weights file: what is served is exactly what is named here."""
    licence: str
    non_commercial: bool = False
    num_parameters: int
    context_length: int
    """Longest context in steps; longer histories are cut to their end."""
    prediction_length: int
    """Longest horizon of one pass in steps."""
    max_prediction_length: int
    """Longest horizon by recursion; beyond it a request is refused."""
    patch_length: int
    tasks: tuple[Task, ...]
    quantile_levels: tuple[float, ...]
    """Native quantiles; empty for point models."""
    handles_missing: bool
    replaceable_head: bool = False
    """The head is one linear over the flattened hidden state, which a small one can replace (`tsfm.heads`)."""
    past_covariates: bool = False
    future_covariates: bool = False
    methods: tuple[str, ...]
    unsupported_methods: dict[str, str] = field(default_factory=dict)
    """Method → why this backbone cannot do it; shown to whoever asks for the pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """A way to turn a backbone and series into a fine-tuned model."""

    name: str
    summary: str
    implementation: str | None
    """`module:Class` under `tsfm.methods`; None of `auto`, which trains others (`tsfm.auto`)."""
    config: type[Any]
    """Frozen dataclass in `tsfm.configs`; its fields are the method's API options."""
    trains: bool = True
    learning_rate: dict[str, float] = field(default_factory=dict)
    """Default learning rate by backbone family; "*" for the rest."""
    auto: dict[str, tuple[Any, ...]] | None = None
    """Options that `auto` varies, the default first, each at every multiple of the learning rate; {} varies the rate
    alone, None keeps the method out of `auto`."""


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
            learning_rate={"*": 1e-3, "ttm": 1e-4},
        ),
        MethodSpec(
            name="lora",
            summary="Low-rank adapters beside the frozen linears of the backbone; a few per cent of its parameters.",
            implementation="lora:LoRA",
            config=configs.LoRAConfig,
            auto={},
            learning_rate={"*": 1e-3},
        ),
        MethodSpec(
            name="adalora",
            summary="Low-rank adapters whose ranks are shared out among the modules by importance while they train.",
            implementation="adalora:AdaLoRA",
            config=configs.AdaLoRAConfig,
            learning_rate={"tiny": 3e-3, "*": 1e-2},
        ),
        MethodSpec(
            name="lp_full",
            summary="First the forecasting head alone, then every parameter.",
            implementation="lp_full:LPFull",
            config=configs.LPFullConfig,
            learning_rate={"*": 3e-4},
        ),
        MethodSpec(
            name="full",
            summary="Every parameter is trained, starting from the pretrained weights.",
            implementation="full:Full",
            config=configs.FullConfig,
            auto={},
            learning_rate={"*": 3e-4, "ttm": 1e-4},
        ),
        MethodSpec(
            name="scratch",
            summary="Every parameter is trained, starting from the random twin: what the data alone can teach.",
            implementation="full:Scratch",
            config=configs.ScratchConfig,
            learning_rate={"*": 1e-3},
        ),
        MethodSpec(
            name="sff",
            summary="Smoothed full fine-tuning: full, starting from alpha*pretrained + (1-alpha)*random.",
            implementation="sff:SFF",
            config=configs.SFFConfig,
            auto={"alpha": (0.9, 0.95, 0.7)},
            learning_rate={"*": 3e-4, "ttm": 1e-4},
        ),
        MethodSpec(
            name="trace",
            summary="Gated low-rank adapters of which only the important ones are kept, chosen while they train.",
            implementation="trace:Trace",
            config=configs.TraceConfig,
            auto={},
            learning_rate={"*": 1e-3, "ttm": 6e-4},
        ),
        MethodSpec(
            name=AUTO,
            summary="Tries the other methods and their few settings on short schedules, and trains the best one.",
            implementation=None,
            config=configs.AutoConfig,
        ),
    )
}

BACKBONES: dict[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            name="temper-tiny",
            family="tiny",
            summary="Masked-patch encoder with quantile heads, pretrained by this project on synthetic series only.",
            implementation="tiny:Tiny",
            repo=None,
            revision=None,
            files=("model.safetensors", "config.json"),
            sha256="b15785227daa40f9478822cd8aafbb12c8eaf1c0bd247d083f45fc0fa06d0735",
            licence="Apache-2.0",
            num_parameters=973_440,
            context_length=512,
            prediction_length=128,
            max_prediction_length=512,
            patch_length=16,
            tasks=("forecast",),
            quantile_levels=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
            handles_missing=True,
            methods=(
                "zero_shot",
                "linear_probe",
                "lp_full",
                "full",
                "scratch",
                "lora",
                "adalora",
                "sff",
                "trace",
                "auto",
            ),
        ),
        BackboneSpec(
            name="ttm-r2",
            family="ttm",
            summary="IBM's TinyTimeMixer R2, 512 to 96 steps: a patch mixer for point forecasts.",
            implementation="ttm:TTM",
            repo="ibm-granite/granite-timeseries-ttm-r2",
            revision="main",
            files=("model.safetensors", "config.json"),
            sha256="a706726a7eb01bbcb42994b7dcb3c06ea9557898dbae8d480eb04fe8ccb89710",
            licence="Apache-2.0",
            num_parameters=805_280,
            context_length=512,
            prediction_length=96,
            max_prediction_length=720,
            patch_length=64,
            tasks=("forecast",),
            quantile_levels=(),
            handles_missing=True,
            replaceable_head=True,
            methods=(
                "zero_shot",
                "linear_probe",
                "lp_full",
                "full",
                "scratch",
                "lora",
                "adalora",
                "sff",
                "trace",
                "auto",
            ),
        ),
    )
}
