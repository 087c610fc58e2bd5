"""docs/errors.md lists every code that can be answered, and no other."""

import re

from tests.docs.codes import ROOT, codes_in_sources

_ROW = re.compile(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", flags=re.MULTILINE)


def documented_codes() -> list[str]:
    rows = _ROW.findall((ROOT / "docs" / "errors.md").read_text())
    return [code for row in rows for code in re.findall(r"`([a-z_]+)`", row)]


def test_every_code_is_documented() -> None:
    assert codes_in_sources() - set(documented_codes()) == set()


def test_no_code_is_documented_that_cannot_be_answered() -> None:
    assert set(documented_codes()) - codes_in_sources() == set()


def test_every_row_has_a_mend() -> None:
    rows = [line for line in (ROOT / "docs" / "errors.md").read_text().splitlines() if _ROW.match(line)]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    assert [row for row in cells if len(row) != 4 or not all(row)] == []
    assert len(documented_codes()) == len(set(documented_codes()))
