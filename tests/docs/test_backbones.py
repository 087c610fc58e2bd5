"""docs/backbones is what its script makes of the catalogue now, and every page can be made."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.architecture.repo import ROOT
from tsfm import backbone_table

FOLDER = ROOT / "docs" / "backbones"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_backbones", ROOT / "docs" / "make_backbones.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_current_and_none_is_left_over(script: ModuleType) -> None:
    made = script.pages()
    lying = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    stale = sorted(name for name in made.keys() | lying.keys() if made.get(name) != lying.get(name))
    assert stale == [], "PYTHONPATH=. python docs/make_backbones.py"


@pytest.mark.parametrize("path", sorted((FOLDER / "notes").glob("[!i]*.md")), ids=lambda path: path.stem)
def test_a_family_s_notes_say_what_it_is_and_how_to_tune_it(path: Path) -> None:
    assert path.stem in {spec.family for spec in backbone_table.SPECS}
    text = path.read_text(encoding="utf-8")
    assert text.startswith("## What it is\n")
    assert text.partition("## Tuning advice")[2].count("\n- ") >= 2
