"""Lines above the table that a reader may pass over: blank ones, Excel's `sep=;`, and comments marked by `#`.

Other text above the header is refused by `dialect.py`, since nothing says where it ends.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tsfm.series.problems import refusal

_SEPARATOR = re.compile(r'^"?sep=(.)"?$', re.IGNORECASE)
COMMENT = "#"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preamble:
    """What stands above the first line of the table."""

    num_lines: int
    delimiter: str | None
    """As Excel's `sep=` line names it; None where there is no such line."""
    comments: tuple[str, ...]
    rest: str
    """The text from the table's first line on."""


def split_preamble(text: str, *, delimiters: Sequence[str]) -> Preamble:
    """Splits off the lines above the table. Raises `DataError` (`unreadable_csv`) for a comment with a double quote."""
    lines = text.splitlines(keepends=True)
    at, delimiter = 0, None
    comments: list[str] = []
    while at < len(lines):
        line = lines[at].strip()
        found = _SEPARATOR.match(lines[at].rstrip("\r\n"))
        if found and delimiter is None and not comments and found[1] in delimiters:
            delimiter = found[1]
        elif line.startswith(COMMENT):
            comments.append(line)
        elif line:
            break
        at += 1
    if at == len(lines) and comments:  # nothing but comments: let the caller say that there is no table
        at, comments = at - 1, comments[:-1]
    for i, comment in enumerate(comments):
        if '"' in comment and comment != comments[-1]:
            raise refusal(
                "unreadable_csv",
                f"Line {i + 1} of the comments above the header holds a double quote: {comment[:60]!r}.",
                "Remove the comment lines.",
                value=comment[:120],
            )
    return Preamble(num_lines=at, delimiter=delimiter, comments=tuple(comments), rest="".join(lines[at:]))
