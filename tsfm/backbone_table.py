"""Every pretrained network this version knows, in the order `/v1/backbones` lists them. Torch-free.

One `BackboneSpec` a checkpoint; what the checkpoints of one family share stands once, above them.
"""

from tsfm.spec import BackboneSpec

EVERY_METHOD: tuple[str, ...] = (
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
)

SPECS: tuple[BackboneSpec, ...] = (
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
        methods=EVERY_METHOD,
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
        methods=EVERY_METHOD,
    ),
)
