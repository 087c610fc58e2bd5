"""Finds every error code that the sources can answer with, by reading their syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

from app import errors
from tsfm import errors as core

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("app", "tsfm", "worker")
NOT_FOR_CALLERS = ("app/cli", "tsfm/pretrain")
_CODE_POSITION = {"ApiError": 1, "Conflict": 0, "refusal": 0, "_unauthorized": 0}


def codes_in_sources() -> set[str]:
    """Codes written as literals, those of error classes, and those made from a kind (`file_not_found`)."""
    found = set(errors._CODE_BY_STATUS.values()) | set(errors.STATUS_BY_CODE)
    found |= {
        kind.code for kind in vars(core).values() if isinstance(kind, type) and issubclass(kind, core.TemperError)
    }
    for path in _sources():
        tree = ast.parse(path.read_text())
        constants = _constants(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found.update(_codes_of(node, constants))
            elif isinstance(node, ast.Dict):
                found.update(_code_entries(node, constants))
    return found


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not path.relative_to(ROOT).as_posix().startswith(NOT_FOR_CALLERS):
                yield path


def _constants(tree: ast.Module) -> dict[str, str]:
    """Module-level `NAME = "literal"`."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _codes_of(call: ast.Call, constants: dict[str, str]) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    arguments = [_text(argument, constants) for argument in call.args]
    position = _CODE_POSITION.get(name)
    if position is not None and len(arguments) > position and arguments[position]:
        yield str(arguments[position])
    if name == "NotFound" and arguments and arguments[0]:
        yield arguments[0].replace(" ", "_") + "_not_found"
    if name == "UnknownName" and arguments and arguments[0]:
        yield "unknown_" + arguments[0].replace(" ", "_")
    for keyword in call.keywords:
        if keyword.arg == "code":
            branches = [keyword.value]
            if isinstance(keyword.value, ast.IfExp):
                branches = [keyword.value.body, keyword.value.orelse]
            for branch in branches:
                yield from _names(_text(branch, constants))


def _code_entries(node: ast.Dict, constants: dict[str, str]) -> Iterator[str]:
    """`{"code": "…"}`, as a job row keeps its error."""
    for key, value in zip(node.keys, node.values, strict=True):
        if key is not None and _text(key, {}) == "code":
            yield from _names(_text(value, constants))


def _names(code: str | None) -> Iterator[str]:
    if code and code.replace("_", "").isalpha() and code.islower():
        yield code


def _text(node: ast.expr, constants: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
