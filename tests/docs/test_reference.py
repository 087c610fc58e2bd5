"""What the product has stands in the documentation: commands, backbones, methods, rivals; and links resolve."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from app.cli.main import app as command
from tests.architecture.repo import ROOT, tracked
from tsfm import catalog
from tsfm.spec import SCORINGS

REFERENCE = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
EVERYTHING = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def commands(one: Any, path: str) -> Iterator[str]:
    """Full names of all commands below a group of typer's."""
    children = getattr(one, "commands", None)
    if children is None:
        yield path
        return
    for name, child in children.items():
        yield from commands(child, f"{path} {name}")


def test_every_command_is_documented() -> None:
    known = list(commands(typer.main.get_command(command), "temper"))
    assert "temper jobs cancel" in known
    assert [name for name in known if f"`{name}`" not in REFERENCE] == []


def test_every_documented_command_exists() -> None:
    known = set(commands(typer.main.get_command(command), "temper"))
    groups = {name.rpartition(" ")[0] for name in known}
    named = set(re.findall(r"`(temper [a-z]+(?: [a-z]+)?)`", REFERENCE))
    assert named - known - groups == set()


def test_every_page_is_in_the_index() -> None:
    pages = [path.name for path in tracked(".md") if path.parent == ROOT / "docs" and path.name != "README.md"]
    assert "quickstart.md" in pages
    assert [page for page in pages if f"]({page})" not in REFERENCE] == []


@pytest.mark.parametrize(
    "name",
    [*catalog.METHODS, *catalog.BACKBONES, *catalog.RIVALS, *catalog.FILL_RIVALS, *catalog.TASKS, *SCORINGS],
)
def test_every_name_of_the_catalogue_is_documented(name: str) -> None:
    assert f"`{name}`" in EVERYTHING


@pytest.mark.parametrize("path", tracked(".md"), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_files_resolve(path: Path) -> None:
    targets = [link.split("#")[0] for link in LINK.findall(path.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []


def test_every_decision_record_has_its_parts() -> None:
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.name[:4]}. "), path.name
        for part in ("Context", "Decision", "Consequences", "Alternatives"):
            assert f"\n## {part}\n" in text, f"{path.name} lacks {part}"
