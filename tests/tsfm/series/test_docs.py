"""docs/data.md names every code that reading can answer, and no other."""

import re

from tests.tsfm.series.test_parse import KEYS
from tsfm.series import stamps
from tsfm.series.options import ReadOptions

CODE = re.compile(r'(?:code=|refusal\(\s*)"([a-z_]+)"|^ +"([a-z]+(?:_[a-z]+)+)",$', re.MULTILINE)


def test_every_code_is_documented(repository_text: dict[str, str]) -> None:
    page = repository_text["docs/data.md"]
    codes = set()
    for name, text in repository_text.items():
        if name.startswith("tsfm/series/"):
            codes |= {a or b for a, b in CODE.findall(text)}
    assert {"duplicate_timestamps", "empty_file", "off_grid", "missing_id"} <= codes
    assert sorted(c for c in codes if f"`{c}`" not in page) == []


def test_every_option_and_key_is_documented(repository_text: dict[str, str]) -> None:
    page = repository_text["docs/data.md"]
    for word in (*ReadOptions().to_mapping(), *KEYS.split(), *stamps.NAMED):
        assert f"`{word}`" in page, word
