"""The model card of an artifact: the manifest's facts for a human reader, as Markdown."""

from collections.abc import Mapping
from typing import Any


def render(manifest: Mapping[str, Any]) -> str:
    """`README.md` of an artifact; deterministic, like the manifest it is made from."""
    backbone, method, verdict = manifest["backbone"], manifest["method"], manifest["verdict"]
    report, metric = manifest["data"]["report"], manifest["verdict"]["metric"]
    options = ", ".join(f"{k} = {v}" for k, v in method.items() if k != "type")
    lines = [
        f"# {backbone['name']} tuned with {method['type']}",
        "",
        f"Forecasts {manifest['prediction_length']} steps of frequency `{manifest['schema']['freq']}` from "
        f"{manifest['context_length']} steps of history. Made by Temper.",
        "",
        f"- Backbone: {backbone['name']} ({backbone['licence']}), `{backbone['digest']}`",
        f"- Method: {method['type']}" + (f" ({options})" if options else ""),
        f"- Trained parameters: {manifest['num_trainable_parameters']:,}",
        f"- Data: {report['num_series']} series, {report['num_points']} points, {report['num_missing']} missing; "
        f"sha256 `{manifest['data']['sha256']}`",
        f"- Seed: {manifest['seed']}",
        "",
        "## Verdict",
        "",
        verdict["reason"],
        "",
        f"| candidate | validation {metric} | test {metric} |",
        "|---|---|---|",
        *(
            f"| {c['name']} | {_cell(c['validation'], metric)} | {_cell(c['test'], metric)} |"
            for c in manifest["candidates"]
        ),
        "",
        "Validation chose the weights; the test block was read once, for this table. Quantiles are not calibrated.",
        "",
        "## Opening it",
        "",
        "`tsfm.tasks.forecast.Forecaster.open(directory)`; `manifest.json` holds every setting, `model.safetensors` "
        "the whole network in float32.",
        "",
    ]
    return "\n".join(lines)


def _cell(scores: Mapping[str, Any] | None, metric: str) -> str:
    return "–" if not scores or metric not in scores else f"{scores[metric]:.4f}"
