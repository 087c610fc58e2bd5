"""Every pretrained network this version knows, in the order `/v1/backbones` lists them. Torch-free.

One `BackboneSpec` a checkpoint; what the checkpoints of one family share stands once, above them.
"""

from typing import Any

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

_TTM_R2: dict[str, Any] = {
    "family": "ttm",
    "implementation": "ttm:TTM",
    "repo": "ibm-granite/granite-timeseries-ttm-r2",
    "files": ("model.safetensors", "config.json"),
    "licence": "Apache-2.0",
    "prediction_length": 96,
    "max_prediction_length": 720,
    "tasks": ("forecast",),
    "quantile_levels": (),
    "handles_missing": True,
    "replaceable_head": True,
    "methods": EVERY_METHOD,
}
"""One branch of the repository for each length of context and horizon (`get_model` of granite-tsfm has the list)."""

_UNITS: dict[str, Any] = {
    "family": "units",
    "implementation": "units:UniTS",
    "repo": "mims-harvard/UniTS",
    "revision": "ckpt",
    "sha256": None,
    "pickled": True,
    "licence": "MIT",
    "context_length": 512,
    "prediction_length": 720,
    "max_prediction_length": 720,
    "patch_length": 16,
    "tasks": ("forecast",),
    "quantile_levels": (),
    "handles_missing": True,
    "methods": EVERY_METHOD,
}
"""Files of one GitHub release. One pass gives every horizon of the pretraining tasks."""

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
        summary="IBM's TinyTimeMixer R2, 512 to 96 steps: a patch mixer for point forecasts.",
        revision="main",
        sha256="a706726a7eb01bbcb42994b7dcb3c06ea9557898dbae8d480eb04fe8ccb89710",
        num_parameters=805_280,
        context_length=512,
        patch_length=64,
        **_TTM_R2,
    ),
    BackboneSpec(
        name="ttm-r2-1024-96",
        summary="IBM's TinyTimeMixer R2, 1024 to 96 steps.",
        revision="1024-96-r2",
        sha256=None,
        num_parameters=2_964_960,
        context_length=1024,
        patch_length=128,
        **_TTM_R2,
    ),
    BackboneSpec(
        name="ttm-r2-1536-96",
        summary="IBM's TinyTimeMixer R2, 1536 to 96 steps.",
        revision="1536-96-r2",
        sha256=None,
        num_parameters=3_081_120,
        context_length=1536,
        patch_length=128,
        **_TTM_R2,
    ),
    BackboneSpec(
        name="timer-84m",
        family="timer",
        summary="THUML's Timer, 84 million parameters: a decoder over patches of 96 steps, for point forecasts.",
        implementation="timer:Timer",
        repo="thuml/timer-base-84m",
        revision="main",
        files=("model.safetensors", "config.json"),
        sha256=None,
        licence="Apache-2.0",
        num_parameters=84_142_080,
        context_length=2_880,
        prediction_length=96,
        max_prediction_length=720,
        patch_length=96,
        tasks=("forecast",),
        quantile_levels=(),
        handles_missing=False,
        methods=EVERY_METHOD,
    ),
    BackboneSpec(
        name="units-x32",
        summary="Harvard's UniTS, width 32: one small network for any length, point forecasts.",
        files=("units_x32_pretrain_checkpoint.pth",),
        num_parameters=397_832,
        **_UNITS,
    ),
    BackboneSpec(
        name="units-x128",
        summary="Harvard's UniTS, width 128: one network for any length, point forecasts.",
        files=("units_x128_pretrain_checkpoint.pth",),
        num_parameters=3_617_480,
        **_UNITS,
    ),
)
