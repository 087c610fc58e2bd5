"""Writes docs/backbones/*.md from the catalogue and docs/backbones/notes/*.md: `python docs/make_backbones.py`.

One page a backbone and the index. What a page says of numbers, limits, licence, weights and methods is the catalogue's;
what a family is and how to tune it is written by hand, in the notes. A test fails when a page is out of date.
"""

from collections.abc import Iterator
from pathlib import Path

from tsfm import backbone_table, catalog
from tsfm.backbones import places
from tsfm.spec import BackboneSpec, MethodSpec

FOLDER = Path(__file__).with_name("backbones")
NOTES = FOLDER / "notes"
INDEX = "README.md"
MADE = "Made from the catalogue by `python docs/make_backbones.py`; do not edit."
SFF_CONTEXT = {"timer": 672, "moment": 512, "timesfm": 256}
"""Steps of context in SFF's tables, where they are known (papers.md §2.4)."""
USUAL_CONTEXT = 512
SFF_SETS = ("exchange_rate", "ETTh1", "ETTm1-70-10-20", "weather")
SFF_METHODS = ("zero_shot", *(f'"{name}, as published"' for name in ("full", "sff", "scratch")))
SFF_HORIZON = 96
COMMIT_CHARS = 40


def pages() -> dict[str, str]:
    """File name → text of every page."""
    made = {f"{spec.name}.md": "\n".join(_page(spec)) + "\n" for spec in backbone_table.SPECS}
    return {INDEX: index(), **made}


def index() -> str:
    rows = "\n".join(_row(spec) for spec in backbone_table.SPECS)
    text = (NOTES / "index.md").read_text(encoding="utf-8").replace("](../", "](")
    return text.replace("{made}", MADE).replace("{table}", rows)


def _row(spec: BackboneSpec) -> str:
    cells = (
        f"[`{spec.name}`]({spec.name}.md)",
        f"{spec.num_parameters:,}",
        f"{spec.context_length:,} → {spec.prediction_length:,}, at most {spec.max_prediction_length:,}",
        _answers(spec),
        "ship with the code" if places.command(spec) is None else "converted" if spec.pickled else "pulled",
        spec.licence + (", **not for commercial use**" if spec.non_commercial else ""),
    )
    return f"| {' | '.join(cells)} |"


def _page(spec: BackboneSpec) -> Iterator[str]:
    what, advice = _notes(spec.family)
    yield f"# `{spec.name}`\n\n{MADE}\n\n{spec.summary}\n"
    yield f"{what}\n"
    yield from _limits(spec)
    yield "\n## Weights\n"
    yield from _weights(spec)
    yield "\n## Methods\n"
    yield from _methods(spec)
    yield f"\n{advice}\n"
    yield "## SFF's table row\n"
    yield from _reproduce(spec)


def _notes(family: str) -> tuple[str, str]:
    """The family's two sections, with links as they stand one folder higher; empty where nobody has written any."""
    path = NOTES / f"{family}.md"
    text = path.read_text(encoding="utf-8").strip().replace("](../", "](") if path.exists() else ""
    what, title, advice = text.partition("## Tuning advice")
    return what.strip(), title + advice


def _limits(spec: BackboneSpec) -> Iterator[str]:
    can = ["past covariates"] * spec.past_covariates + ["future covariates"] * spec.future_covariates
    facts = {
        "family": spec.family,
        "parameters": f"{spec.num_parameters:,}",
        "context": f"up to {spec.context_length:,} steps; longer histories are cut to their end",
        "horizon": f"{spec.prediction_length:,} steps in one pass, {spec.max_prediction_length:,} at most",
        "patch": f"{spec.patch_length} steps",
        "answers": _answers(spec),
        "missing values": "masked" if spec.handles_missing else "filled from their neighbours",
        "covariates": " and ".join(can) or "none",
        "tasks": ", ".join(f"`{task}`" for task in spec.tasks),
        "scores points by": " or ".join(f"`{scoring}`" for scoring in spec.scorings),
        "fills gaps": "from both sides at once" if spec.reconstructs else "by a forecast from each side",
        "licence": spec.licence + (": **not for commercial use**" if spec.non_commercial else ""),
    }
    yield "## Limits and abilities\n\n| | |\n|---|---|"
    yield from (f"| {name} | {value} |" for name, value in facts.items())


def _answers(spec: BackboneSpec) -> str:
    levels = spec.quantile_levels
    return f"{len(levels)} quantiles, {levels[0]:g} to {levels[-1]:g}" if levels else "points"


def _weights(spec: BackboneSpec) -> Iterator[str]:
    command = places.command(spec)
    digest = f"sha256 `{spec.sha256}`" if spec.sha256 else "unknown here: the first copy that fits is pinned"
    if command is None:
        yield f"They ship with the code ({digest})."
        return
    files = ", ".join(f"`{name}`" for name in spec.files)
    yield f"{_source(spec)}: {files}. Digest of the weights file: {digest}.\n\n```\n{command}\n```\n"
    folder = f"`TEMPER_WEIGHTS_DIR/{spec.name}`"
    if spec.pickled:
        yield (
            "The file is a pickle: this command alone reads it, restricted to tensors, and leaves safetensors in "
            f"{folder}."
        )
    else:
        consent = " --accept-license" if spec.non_commercial else ""
        yield (
            f"It fetches, checks and pins them in {folder}. On a machine without network: "
            f"`temper backbones add {spec.name} --path FOLDER{consent}` with the files copied from elsewhere."
        )
    if spec.non_commercial:
        yield f"\nTheir licence ({spec.licence}) forbids commercial use; a job needs `accept_license: true`."


def _source(spec: BackboneSpec) -> str:
    if spec.repo is None:
        return "Published by its authors outside any model hub"
    if spec.pickled:
        return _by_hand(spec)
    return f"[{spec.repo}](https://huggingface.co/{spec.repo}), revision `{spec.revision}`"


def _by_hand(spec: BackboneSpec) -> str:
    """Of a repository of code: a release holds the file itself, the page of a commit says where it lies."""
    at = f"https://github.com/{spec.repo}"
    if len(spec.revision or "") == COMMIT_CHARS:
        return f"Linked by the README of [{spec.repo}]({at}/tree/{spec.revision})"
    return f"[{spec.repo}]({at}/releases/tag/{spec.revision}), release `{spec.revision}`"


def _methods(spec: BackboneSpec) -> Iterator[str]:
    yield "| method | here | default learning rate |\n|---|---|---|"
    for method in catalog.METHODS.values():
        can = method.name in spec.methods
        reason = spec.unsupported_methods.get(method.name, "not offered for this backbone")
        yield f"| [`{method.name}`](../methods.md#{method.name}) | {'yes' if can else reason} | {_rate(method, spec)} |"


def _rate(method: MethodSpec, spec: BackboneSpec) -> str:
    if not method.learning_rate or method.name not in spec.methods:
        return "–"
    mantissa, _, exponent = f"{catalog.learning_rate(method, spec):e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _reproduce(spec: BackboneSpec) -> Iterator[str]:
    known = SFF_CONTEXT.get(spec.family)
    context = known or (spec.context_length if spec.replaceable_head else min(USUAL_CONTEXT, spec.context_length))
    said = "as in their paper" if known else "theirs is not known for this model"
    yield (
        "The protocol of SFF's authors (Zhang et al. 2026) on this backbone, once its weights are on the disk: context "
        f"{context} ({said}), horizon {SFF_HORIZON}, all of train, ten epochs, four seeds. The epoch is picked on "
        "validation; beside it stands the one that was best on test, which is what they report.\n"
    )
    chosen = " ".join(SFF_METHODS)
    yield (
        f"```\npython benchmarks/reproduce.py --backbone {spec.name} --context {context} --horizon {SFF_HORIZON} \\\n"
        f"    --sets {' '.join(SFF_SETS)} \\\n    --methods {chosen} \\\n"
        "    --fraction 1.0 --train-windows 0 --validation-windows 0 --seeds 0 1 2 3\n```\n"
    )
    yield (
        "`--fraction 0.25 --fraction-mode strided` is their quarter of the data, `--device cuda` takes a GPU. The "
        "weights are looked for in `TEMPER_WEIGHTS_DIR`, the data in `TEMPER_DATA`; cells that are done are skipped, "
        "and `--table` prints the table."
    )


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
