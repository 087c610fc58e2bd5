"""A run asks its supervisor what only the database knows: how many verdicts its test rows have had.

The run learns the digest of its test rows just before it judges them, so the question comes then, and the number that
it is given is its own: no other job of the tenant gets the same one.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tsfm.errors import Cancelled
from worker.protocol import VERDICT_NUMBER

POLL_SECONDS = 0.2


class Answers:
    """Numbers that came in on stdin; one thread puts, another waits."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._arrived = threading.Event()

    def take(self, line: str) -> bool:
        """Whether the line was an answer and not an order."""
        word, _, number = line.partition(" ")
        if word != VERDICT_NUMBER:
            return False
        self._number = int(number)
        self._arrived.set()
        return True

    def wait(self, should_stop: Callable[[], str | None]) -> int:
        """The next number; `Cancelled` when an order comes first."""
        while not self._arrived.wait(POLL_SECONDS):
            if reason := should_stop():
                raise Cancelled(f"Stopped before judging: {reason}.", code=reason)
        assert self._number is not None
        self._arrived.clear()
        return self._number


class PriorVerdicts(Mapping[str, int]):
    """Digest of test rows → verdicts given on them before this one. Looking one up asks, and counts this run's own."""

    def __init__(
        self, speak: Callable[[str, Any], None], answers: Answers, should_stop: Callable[[], str | None]
    ) -> None:
        self._speak, self._answers, self._should_stop = speak, answers, should_stop
        self._known: dict[str, int] = {}

    def __getitem__(self, test_sha256: str) -> int:
        if test_sha256 not in self._known:
            self._speak("judging", {"test_sha256": test_sha256})
            self._known[test_sha256] = self._answers.wait(self._should_stop) - 1
        return self._known[test_sha256]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
