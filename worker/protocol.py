"""What supervisor and run say to each other: JSON lines on the run's stdout, one word a line on its stdin.

stdin    first line: `Assignment` as JSON; then orders (`Order`) and answers (`verdict_number 3`)
         its end means that the supervisor is gone
stdout   {"type": "progress", …}, {"type": "alive"}, {"type": "checkpoint", "metrics", "digest", "files" or null},
         {"type": "judging", "test_sha256"} (a question), any number of times, then one of
         {"type": "result", "result": {…}, "files": {path: sha256}, "result_files": […], "refit": {…} or null}
         {"type": "stopped"}                                            an order was obeyed
         {"type": "error", "code", "message", "param", "details", "retry"}
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

VERDICT_NUMBER = "verdict_number"


class Order(StrEnum):
    CANCEL = "cancel"
    PAUSE = "pause"
    STOP = "stop"
    """The worker shuts down: save the state and go."""
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """All that a run needs to know of its job; it never asks the database."""

    job_id: str
    file_id: str
    request: dict[str, Any]
    reading: dict[str, Any]
    incumbent: dict[str, Any] | None = None
    """The version to beat (`app.registry.register.Standing` as a mapping); None: the zero-shot backbone alone."""
    measures: bool = False
    """Only a few steps, to say what the run would take; nothing is stored. `job_id` is that of the measurement."""

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def parse(cls, line: str) -> Self:
        return cls(**json.loads(line))


def message(kind: str, content: Mapping[str, Any]) -> str:
    """One line of the run's stdout. A number that is not finite is no JSON (and no database takes it): null."""
    return json.dumps({"type": kind, **_finite(dict(content))}, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
