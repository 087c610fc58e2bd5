"""Open forecasters in memory: keyed by digest, bounded in bytes, one load at a time per key, pinned while in use."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    num_bytes: int
    pins: int = 0


class Pin(Generic[V]):
    """A value that stays in memory until `release` (or the end of the `with`)."""

    __slots__ = ("_release", "value")

    def __init__(self, value: V, release: Callable[[], None]) -> None:
        self.value = value
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Idempotent."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


class Cache(Generic[K, V]):
    """LRU by bytes. A pinned entry is never dropped, so the budget may be exceeded while everything is in use.

    `load(key)` (the cache's own, or given with each request where a key alone does not say enough) returns the value
    and its size in bytes; it runs in the thread that asked first, the others wait for its outcome. A failed load is not
    remembered. Thread-safe.
    """

    def __init__(self, load: Callable[[K], tuple[V, int]] | None = None, *, budget_bytes: int) -> None:
        self._load = load
        self._budget_bytes = budget_bytes
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._loading: dict[K, Future[None]] = {}
        self._lock = threading.Lock()

    def peek(self, key: K) -> Pin[V] | None:
        """The value, pinned, if it is in memory already; never loads, never waits."""
        with self._lock:
            entry = self._entries.get(key)
            return None if entry is None else self._pin(key, entry)

    def acquire(self, key: K, load: Callable[[K], tuple[V, int]] | None = None) -> Pin[V]:
        """The value, pinned, loaded if need be (by `load` in place of the cache's own). Raises what that raised."""
        while True:
            with self._lock:
                if (entry := self._entries.get(key)) is not None:
                    return self._pin(key, entry)
                waiting = self._loading.get(key)
                if waiting is None:
                    mine = self._loading[key] = Future()
            if waiting is None:
                filled = load or self._load
                assert filled is not None, "a cache without a load of its own is given one with each request"
                return self._fill(key, mine, filled)
            waiting.result()  # the first asker's error is everybody's; after a success look again

    def keys(self) -> list[K]:
        """What is in memory, least recently used first."""
        with self._lock:
            return list(self._entries)

    @property
    def num_bytes(self) -> int:
        with self._lock:
            return sum(entry.num_bytes for entry in self._entries.values())

    def clear(self) -> None:
        """Drops everything; values still pinned live on with their users."""
        with self._lock:
            self._entries.clear()

    def _fill(self, key: K, outcome: "Future[None]", load: Callable[[K], tuple[V, int]]) -> Pin[V]:
        try:
            value, num_bytes = load(key)
        except BaseException as error:  # the waiting threads must wake with it, whatever it is
            with self._lock:
                del self._loading[key]
            outcome.set_exception(error)
            raise
        with self._lock:
            entry = self._entries[key] = _Entry(value, num_bytes)
            pin = self._pin(key, entry)
            del self._loading[key]
            self._evict()
        outcome.set_result(None)
        return pin

    def _pin(self, key: K, entry: _Entry[V]) -> Pin[V]:
        entry.pins += 1
        self._entries.move_to_end(key)
        return Pin(entry.value, lambda: self._unpin(entry))

    def _unpin(self, entry: _Entry[V]) -> None:
        with self._lock:
            entry.pins -= 1
            self._evict()

    def _evict(self) -> None:
        total = sum(entry.num_bytes for entry in self._entries.values())
        for key, entry in list(self._entries.items()):
            if total <= self._budget_bytes:
                return
            if entry.pins == 0:
                del self._entries[key]
                total -= entry.num_bytes
