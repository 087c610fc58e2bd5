"""The model card of an artifact: the manifest's facts for a human reader, as Markdown."""

import json
from collections.abc import Mapping
from typing import Any

from tsfm import catalog
from tsfm.backbones import places
from tsfm.configs import PRETRAINED, QUANTILES
from tsfm.setting import Setting


def render(manifest: Mapping[str, Any]) -> str:
    """`README.md` of an artifact; deterministic, like the manifest it is made from."""
    backbone, method = manifest["backbone"], manifest["method"]
    report = manifest["data"]["report"]
    options = ", ".join(f"{k} = {json.dumps(v)}" for k, v in method.items() if k != "type")
    lines = [
        f"# {backbone['name']} tuned with {method['type']}",
        "",
        _purpose(manifest),
        "",
        f"- Backbone: {backbone['name']} ({backbone['licence']}), `{backbone['digest']}`"
        + ("" if _is_pretrained(manifest) else " (**random weights**: nothing was pretrained)"),
        f"- Method: {method['type']}" + (f" ({options})" if options else ""),
        f"- Trained parameters: {manifest['num_trainable_parameters']:,}",
        f"- Data: {report['num_series']} series, {report['num_points']} points, {report['num_missing']} missing; "
        f"sha256 `{manifest['data']['sha256']}`",
        f"- Seed: {manifest['seed']}",
        "",
        "## Verdict",
        "",
        *_verdict(manifest),
        "",
        "## Opening it",
        "",
        *_opening(manifest),
        "",
    ]
    return "\n".join(lines)


def _purpose(manifest: Mapping[str, Any]) -> str:
    steps, context = manifest["prediction_length"], manifest["context_length"]
    freq = f"of frequency `{manifest['schema']['freq']}`"
    if manifest["task"] == "imputation":
        return f"Fills gaps of up to {steps} steps {freq} from {context} steps on each side. Made by Temper."
    if manifest["task"] == "anomaly_detection":
        sides = " on each side" if manifest["scoring"] == "reconstruction" else " of history"
        return (
            f"Scores points by {manifest['scoring']}, in blocks of {steps} steps {freq}, from {context} steps{sides}. "
            "Made by Temper."
        )
    return f"Forecasts {steps} steps {freq} from {context} steps of history. Made by Temper."


def _start(manifest: Mapping[str, Any]) -> Any:
    return manifest["backbone"].get("initialisation", PRETRAINED)


def _is_pretrained(manifest: Mapping[str, Any]) -> bool:
    return bool(_start(manifest) == PRETRAINED)


def _opening(manifest: Mapping[str, Any]) -> list[str]:
    if manifest["weights"]["kind"] == "full":
        return [
            "`tsfm.tasks.forecast.Forecaster.open(directory)`; `manifest.json` holds every setting, "
            "`model.safetensors` the whole network in float32."
        ]
    name, weights = manifest["backbone"]["name"], manifest["weights"]
    elsewhere = _is_pretrained(manifest) and places.command(catalog.backbone(name)) is not None
    shelf = 'Path("HOME/weights")' if elsewhere else "None"
    drawn = "" if _is_pretrained(manifest) else ", which are drawn anew"
    lines = [
        f"A PEFT LoRA adapter of {weights['num_modules']} modules. It opens on the weights of {name} with the digest "
        f"above{drawn}: `tsfm.tasks.forecast.Forecaster.open(directory, weights_dir={shelf})`, which needs no `peft`; "
        "`manifest.json` holds every setting. With stock `peft`, on any class that has the backbone's module names:",
        "",
        "```python",
        *(["from pathlib import Path", ""] if elsewhere else []),
        "from peft import PeftModel",
        "from tsfm import catalog",
        "from tsfm.backbones.start import base_of",
        "",
        f'base = base_of(catalog.backbone("{name}"), {_start(manifest)!r}, weights_dir={shelf}).fresh()',
    ]
    spec = catalog.backbone(name)
    if Setting.of(manifest).draws_head(spec):
        length, seed = spec.tuned_length(manifest["prediction_length"]), manifest["seed"]
        lines += [f"base.fit_to({length}, seed={seed})  # the published weights have no forecasting head"]
    if weights["head"] == QUANTILES:
        if not spec.random_head:
            length = spec.tuned_length(manifest["prediction_length"])
            lines += [f"base.fit_to({length}, seed={manifest['seed']})"]
        lines += ["base.put_quantile_head(seed=0)  # one linear in place of the head that samples"]
    if weights["head"] not in ("keep", "lora"):
        lines += [
            "from safetensors.torch import load_file",
            "",
            'base.load_state_dict(load_file("head.safetensors"), strict=False)',
        ]
    return [*lines, 'model = PeftModel.from_pretrained(base, ".")', "```"]


def _verdict(manifest: Mapping[str, Any]) -> list[str]:
    verdict = manifest["verdict"]
    if "refit_of" in manifest:
        why = f"None: the recipe of `{manifest['refit_of']}` trained once more on all history."
        return [f"{why} Nothing was left to judge or calibrate it by."]
    if verdict is None:
        step = manifest["training"]["best_step"]
        return [f"None: a checkpoint of step {step} of a run that had not ended. Nothing was judged or calibrated."]
    metric = verdict["metric"]
    return [
        verdict["reason"],
        "",
        f"| candidate | validation {metric} | test {metric} |",
        "|---|---|---|",
        *(
            f"| {c['name']} | {_cell(c['validation'], metric)} | {_cell(c['test'], metric)} |"
            for c in manifest["candidates"]
        ),
        "",
        "Validation chose the weights; the test block was read once, for this table.",
        "",
        *_calibration(manifest["calibration"]),
    ]


def _calibration(held: Mapping[str, Any] | None) -> list[str]:
    if held is None:
        return ["Quantiles are not calibrated."]
    lines = [
        f"Quantiles are calibrated ({held['method']}, {held['num_scores']} scores a step: intervals of up to "
        f"{100 * held['resolution']:g} %)."
    ]
    covered = {share: value for share, value in (held["coverage"] or {}).items() if value is not None}
    if covered:
        shown = ", ".join(f"{100 * value:.1f} % inside the {share} % interval" for share, value in covered.items())
        lines.append(f"On the test block: {shown}.")
    return [" ".join(lines)]


def _cell(scores: Mapping[str, Any] | None, metric: str) -> str:
    return "–" if not scores or metric not in scores else f"{scores[metric]:.4f}"
