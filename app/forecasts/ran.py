"""Work that was done pass by pass for one caller, and a caller who did not wait for it."""

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")
CLIENT_CLOSED_REQUEST = 499
"""Logged, never sent: nobody listens."""


class CallerGone(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran(Generic[T]):
    """What came out, and the seconds it took."""

    value: T
    queue_seconds: float
    load_seconds: float
    compute_seconds: float

    def of(self, value: R) -> "Ran[R]":
        """The same times for what was made of the value."""
        return cast("Ran[R]", replace(cast("Any", self), value=value))

    def timing_ms(self) -> dict[str, float]:
        return {
            "queue": round(self.queue_seconds * 1e3, 3),
            "load": round(self.load_seconds * 1e3, 3),
            "compute": round(self.compute_seconds * 1e3, 3),
        }
