"""Finds every error code that the sources can answer with, by reading their syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

from app import errors
from tsfm import errors as core

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("app", "tsfm", "worker")
NOT_FOR_CALLERS = ("app/cli", "tsfm/pretrain")
_CODE_POSITION = {"ApiError": 1, "Conflict": 0, "refusal": 0}


def codes_in_sources() -> set[str]:
    """Codes written as literals, those of error classes, and those made from a kind (`file_not_found`)."""
    found = set(errors._CODE_BY_STATUS.values()) | set(errors.STATUS_BY_CODE)
    found |= {
        kind.code for kind in vars(core).values() if isinstance(kind, type) and issubclass(kind, core.TemperError)
    }
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found.update(_codes_of(node))
    return found


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not path.relative_to(ROOT).as_posix().startswith(NOT_FOR_CALLERS):
                yield path


def _codes_of(call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    literals = [_literal(argument) for argument in call.args]
    position = _CODE_POSITION.get(name)
    if position is not None and len(literals) > position and literals[position]:
        yield str(literals[position])
    if name == "NotFound" and literals and literals[0]:
        yield literals[0].replace(" ", "_") + "_not_found"
    if name == "UnknownName" and literals and literals[0]:
        yield "unknown_" + literals[0].replace(" ", "_")
    for keyword in call.keywords:
        code = _literal(keyword.value)
        if keyword.arg == "code" and code and code.replace("_", "").isalpha():
            yield code


def _literal(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
