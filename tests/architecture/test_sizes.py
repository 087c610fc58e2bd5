"""The hard caps of the house style, kept from the first day."""

import ast

from tests.architecture.repo import ROOT, tracked

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
TRAINING_LOOP = (ROOT / "tsfm" / "train.py", 150)


def test_no_file_is_over_the_cap() -> None:
    def lines(text: str) -> int:
        return text.count("\n")

    sizes = {path: lines(path.read_text(encoding="utf-8")) for path in tracked(".py", ".sh")}
    long = {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > MAX_FILE_LINES}
    assert long == {}


def test_no_function_is_over_the_cap() -> None:
    long = {}
    for path in tracked(".py"):
        cap = TRAINING_LOOP[1] if path == TRAINING_LOOP[0] else MAX_FUNCTION_LINES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if (size := node.end_lineno - node.lineno + 1) > cap:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = size
    assert long == {}
