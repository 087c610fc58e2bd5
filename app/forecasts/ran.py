"""Work that was done pass by pass for one caller, and a caller who did not wait for it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, cast

from app.registry.directory import Target
from tsfm.series.frame import SeriesFrame

T = TypeVar("T")
R = TypeVar("R")
N = TypeVar("N", bound="Noted")
CLIENT_CLOSED_REQUEST = 499
"""Logged, never sent: nobody listens."""
Gone = Callable[[], Awaitable[bool]]
"""Whether the caller has hung up."""
VALUES_PER_POINT = 8
"""Numbers that an answer holds of each point, about."""


class Noted(Protocol):
    """What was made of series, and what is to be known about it."""

    @property
    def notes(self) -> tuple[str, ...]: ...


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole(Generic[N]):
    """What was made of every point of the series that were given."""

    target: Target
    frame: SeriesFrame
    ran: Ran[N]
    notes: tuple[str, ...]
    """Those of the value, and what else the numbers do not say of the model and the series."""

    @property
    def num_values(self) -> int:
        """How many numbers the answer holds, about."""
        return VALUES_PER_POINT * len(self.frame.values)
