"""Keys seen in the last second, so that a hot route makes no query for its caller. A revoked key lives on that long."""

import time
from collections.abc import Callable

from app.auth.keys import Principal

KEEP_SECONDS = 1.0
MAX_ENTRIES = 4096


class KeyCache:
    """sha256 of a key → its owner. Unknown keys are not kept. Thread-safe: single dict operations only."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[float, Principal]] = {}

    def get(self, sha256: str) -> Principal | None:
        entry = self._entries.get(sha256)
        if entry is None or self._clock() - entry[0] > KEEP_SECONDS:
            return None
        return entry[1]

    def put(self, sha256: str, principal: Principal) -> None:
        if len(self._entries) >= MAX_ENTRIES:
            self._entries = {}
        self._entries[sha256] = (self._clock(), principal)

    def forget(self) -> None:
        """Drops everything: after a revocation this process refuses the key at once."""
        self._entries = {}
