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
    """The lines that begin with `#`, in file order."""
    header: str | None
    """The last of these without its mark, if it stands directly above the table and so may be its header."""
    rest: str
    """The text from the table's first line on."""

    def with_header(self) -> "Preamble":
        """The same with the marked header counted to the table."""
        assert self.header is not None
        return Preamble(
            num_lines=self.num_lines - 1,
            delimiter=self.delimiter,
            comments=self.comments[:-1],
            header=None,
            rest=f"{self.header}\n{self.rest}",
        )

    def refuse_quotes(self) -> None:
        """Raises `DataError` for a comment with a double quote, which would swallow the lines below it."""
        for comment in self.comments:
            if '"' in comment:
                raise refusal(
                    "unreadable_csv",
                    f"A comment line above the header holds a double quote: {comment[:60]!r}.",
                    "Remove the comment lines, or the quotes in them.",
                    value=comment[:120],
                )


def split_preamble(text: str, *, delimiters: Sequence[str]) -> Preamble:
    """Splits off the lines above the table."""
    at, num_lines, delimiter = 0, 0, None
    comments: list[str] = []
    header = None
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end].strip()
        found = _SEPARATOR.match(line)
        if found and delimiter is None and not comments and found[1] in delimiters:
            delimiter = found[1]
        elif line.startswith(COMMENT):
            comments.append(line)
        elif line:
            break
        header = line.lstrip(COMMENT).strip() if line.startswith(COMMENT) else None
        at, num_lines = end + 1, num_lines + 1
    return Preamble(
        num_lines=num_lines, delimiter=delimiter, comments=tuple(comments), header=header or None, rest=text[at:]
    )
