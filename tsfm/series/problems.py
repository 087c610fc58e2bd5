"""Everything wrong with a file, gathered so that one refusal names all of it."""

from dataclasses import dataclass, field
from typing import Any

from tsfm.errors import DataError

MOST_LISTED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong, where, and how to mend it."""

    code: str
    reason: str
    fix: str
    row: int | None = None
    """Line of the file as an editor counts them (the header is line 1); the row for Parquet."""
    column: str | None = None
    value: str | None = None

    def to_mapping(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "row": self.row,
            "column": self.column,
            "value": self.value,
            "reason": self.reason,
            "fix": self.fix,
            "code": self.code,
        }


@dataclass(slots=True)
class Problems:
    """A growing list; `refuse` raises when it is not empty."""

    listed: list[Problem] = field(default_factory=list)
    count: int = 0

    def add(self, problem: Problem, *, count: int = 1) -> None:
        """One more; `count` says how many like it there are."""
        self.listed.append(problem)
        self.count += count

    def extend(self, problems: list[Problem], *, count: int) -> None:
        """Several of one kind, of which `count` exist and the first are given."""
        self.listed.extend(problems)
        self.count += count

    def refuse(self) -> None:
        """Raise `DataError` naming the first problem and listing up to 20, in file order."""
        if not self.listed:
            return
        ordered = sorted(self.listed, key=lambda p: (p.row is None, p.row or 0))[:MOST_LISTED]
        first = ordered[0]
        place = "" if first.row is None else f" Line {first.row}"
        place += "" if first.column is None else f"{',' if place else ' Column'} {first.column!r}"
        place = f"{place}:" if place else ""
        codes = {p.code for p in self.listed}
        more = f" ({self.count:,} problems in all; see details.)" if self.count > 1 else ""
        raise DataError(
            f"The file cannot be read.{place} {first.reason} {first.fix}{more}",
            code=first.code if len(codes) == 1 else "invalid_file",
            param="file",
            details={"problems": [p.to_mapping() for p in ordered], "num_problems": self.count},
        )


def refusal(code: str, reason: str, fix: str, *, param: str = "file", **where: Any) -> DataError:
    """A `DataError` of one problem."""
    problem = Problem(code=code, reason=reason, fix=fix, **where)
    return DataError(
        f"{reason} {fix}", code=code, param=param, details={"problems": [problem.to_mapping()], "num_problems": 1}
    )
