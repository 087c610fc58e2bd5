"""Runs benchmarks one after another and prints one table of all their figures.

./run bench                    every one (an hour on two cores; `sff` skips what is done, `reproduce` only prints it)
./run bench NAME [options]     one, with its own options (./run bench NAME --help)
./run bench NAME NAME …        some, one after another, all with the options that follow
./run bench --list             their names and questions
"""

import ast
import itertools
import json
import subprocess
import sys
from pathlib import Path

from common import RESULTS, table

HERE = Path(__file__).resolve().parent
NAMES = (
    "training",
    "methods",
    "backbones",
    "allocator",
    "dsic",
    "landscape",
    "ingestion",
    "upload",
    "forecast",
    "startup",
    "chaos",
    "sff",
    "sff_search",
    "zero_shot",
    "calibration",
    "reproduce",
    "gate",
    "anomaly",
    "imputation",
    "scoring",
)

OPTIONS = {
    "reproduce": ["--table"],
    "sff_search": ["--table"],
    "backbones": ["--table"],
    "anomaly": ["--table"],
    "imputation": ["--table"],
}
"""What a run of everything asks of a benchmark that would take hours or days by itself."""


def main(words: list[str]) -> int:
    if words[:1] == ["--list"]:
        for name in NAMES:
            print(f"{name:12s} {question(name)}")
        return 0
    if words[:1] in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    if words:
        names = list(itertools.takewhile(NAMES.__contains__, words))
        if not names:
            print(f"There is no benchmark named {words[0]!r}. Known: {', '.join(NAMES)}.", file=sys.stderr)
            return 2
        return max(one(name, words[len(names) :]) for name in names)
    return every()


def question(name: str) -> str:
    """The first line of the file's own text."""
    text = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8")))
    assert text, f"{name} does not say what it asks"
    return text.splitlines()[0]


def one(name: str, options: list[str]) -> int:
    return subprocess.run([sys.executable, str(HERE / f"{name}.py"), *options], check=False).returncode


def every() -> int:
    failed: list[str] = []
    rows = []
    for name in NAMES:
        print(f"\n## {name}: {question(name)}\n", flush=True)
        if one(name, OPTIONS.get(name, [])):
            failed.append(name)
            continue
        results = RESULTS / f"{name}.jsonl"
        if results.exists():  # what has no ratios prints a table of its own
            rows += json.loads(results.read_text(encoding="utf-8").splitlines()[-1]).get("rows", [])
    print(f"\n## All figures\n\n{table(rows)}")
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
