"""Micro-batching: requests that may share a forward pass meet in a bounded queue in front of one compute thread.

While a batch is computed, arrivals gather; the next batch takes all that share the oldest one's key. Only after a batch
of several does the thread wait a moment for as many again, since their clients are about to ask again. A lone caller
never waits.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")


class OverloadedError(Exception):
    """The queue is full; `retry_after_seconds` is about when what waits will have been served."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"the queue is full; retry after {retry_after_seconds:.1f} s")
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherConfig:
    max_batch_weight: int = 64
    """Most series in one forward pass."""
    max_pending_weight: int = 4_096
    """Most series waiting; beyond it `submit` refuses."""
    max_wait_seconds: float = 0.002
    """Longest wait for company, and only when the last batch had several requests."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    value: R
    queue_seconds: float
    compute_seconds: float


@dataclass(slots=True)
class _Item(Generic[T, R]):
    value: T
    weight: int
    submitted: float
    future: "Future[Answer[R]]" = field(default_factory=Future)


class Batcher(Generic[K, T, R]):
    """`compute(key, values)` returns one result per value, in order, and runs in the batcher's own thread only.

    An exception of `compute` for several values is not everybody's fault: they are tried again one by one, and each
    gets its own. `weight` of a value is its number of series.
    """

    def __init__(
        self,
        compute: Callable[[K, Sequence[T]], Sequence[R]],
        *,
        config: BatcherConfig,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._compute = compute
        self._config = config
        self._clock = clock
        self._pending: OrderedDict[K, deque[_Item[T, R]]] = OrderedDict()
        self._weight = 0
        self._seconds_per_weight = 0.005
        self._last_batch = 1
        self._last_end = clock()
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="forecast-compute", daemon=True)

    @property
    def max_batch_weight(self) -> int:
        return self._config.max_batch_weight

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after the batch in hand; what still waits is cancelled."""
        with self._changed:
            self._closed = True
            waiting = [item for items in self._pending.values() for item in items]
            self._pending.clear()
            self._weight = 0
            self._changed.notify_all()
        for item in waiting:
            item.future.cancel()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, key: K, value: T, *, weight: int = 1) -> "Future[Answer[R]]":
        """Queues one request. Raises `OverloadedError` when `max_pending_weight` would be exceeded."""
        item: _Item[T, R] = _Item(value, weight, self._clock())
        with self._changed:
            if self._closed or (self._weight and self._weight + weight > self._config.max_pending_weight):
                raise OverloadedError(max(self._weight * self._seconds_per_weight, 0.05))
            self._pending.setdefault(key, deque()).append(item)
            self._weight += weight
            self._changed.notify()
        return item.future

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._pending) or self._closed)
                if self._closed:
                    return
                self._wait_for_company()
                if self._closed:
                    return
                key, items = self._take()
            self._serve(key, [item for item in items if item.future.set_running_or_notify_cancel()])
            self._last_end = self._clock()

    def _wait_for_company(self) -> None:
        expected = self._last_batch
        if expected > 1 and self._clock() - self._last_end <= self._config.max_wait_seconds:
            self._changed.wait_for(
                lambda: self._closed or sum(map(len, self._pending.values())) >= expected,
                timeout=self._config.max_wait_seconds,
            )

    def _take(self) -> tuple[K, list[_Item[T, R]]]:
        """The queue whose head waits longest, as much of it as fits one batch."""
        key = min(self._pending, key=lambda k: self._pending[k][0].submitted)
        queue, items, weight = self._pending[key], list[_Item[T, R]](), 0
        while queue and (not items or weight + queue[0].weight <= self._config.max_batch_weight):
            items.append(queue.popleft())
            weight += items[-1].weight
        if not queue:
            del self._pending[key]
        self._weight -= weight
        self._last_batch = len(items)
        return key, items

    def _serve(self, key: K, items: list[_Item[T, R]]) -> None:
        if not items:
            return
        begun = self._clock()
        try:
            results = self._compute(key, [item.value for item in items])
        except Exception as error:  # an answer to the caller, not ours to judge
            if len(items) == 1:
                items[0].future.set_exception(error)
                return
            for item in items:
                self._serve(key, [item])
            return
        seconds = self._clock() - begun
        self._seconds_per_weight += 0.1 * (seconds / sum(item.weight for item in items) - self._seconds_per_weight)
        for item, result in zip(items, results, strict=True):
            item.future.set_result(Answer(result, begun - item.submitted, seconds))
