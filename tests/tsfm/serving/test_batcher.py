import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future

import pytest

from tsfm.serving.batcher import Answer, Batcher, BatcherConfig, OverloadedError

PATIENCE_SECONDS = 10


class Doubler:
    """Doubles numbers; remembers every batch; can be held at the door."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, key: str, values: Sequence[int]) -> list[int]:
        self.batches.append((key, list(values)))
        self.entered.release()
        self.open.wait(PATIENCE_SECONDS)
        if -1 in values:
            raise ValueError("minus one")
        return [2 * value for value in values]


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
def batcher(doubler: Doubler) -> Iterator[Batcher[str, int, int]]:
    batcher: Batcher[str, int, int] = Batcher(doubler, config=BatcherConfig(max_batch_weight=4, max_pending_weight=6))
    batcher.start()
    yield batcher
    doubler.open.set()
    batcher.close()


def result(future: "Future[Answer[int]]") -> int:
    return future.result(PATIENCE_SECONDS).value


def hold(batcher: Batcher[str, int, int], doubler: Doubler) -> "Future[Answer[int]]":
    """Keeps the compute thread busy with a first request until `doubler.open` is set."""
    doubler.open.clear()
    first = batcher.submit("first", 0)
    assert doubler.entered.acquire(timeout=PATIENCE_SECONDS)
    return first


def test_a_lone_request_is_computed_at_once(batcher: Batcher[str, int, int], doubler: Doubler) -> None:
    answer = batcher.submit("a", 21).result(PATIENCE_SECONDS)
    assert answer.value == 42
    assert answer.queue_seconds >= 0
    assert answer.compute_seconds >= 0
    assert doubler.batches == [("a", [21])]


def test_requests_that_arrive_while_busy_share_the_next_batch(
    batcher: Batcher[str, int, int], doubler: Doubler
) -> None:
    first = hold(batcher, doubler)
    futures = [batcher.submit(key, value) for key, value in [("a", 1), ("b", 2), ("a", 3)]]
    doubler.open.set()
    assert [result(future) for future in (first, *futures)] == [0, 2, 4, 6]
    assert doubler.batches == [("first", [0]), ("a", [1, 3]), ("b", [2])]


def test_a_batch_holds_at_most_the_configured_weight(batcher: Batcher[str, int, int], doubler: Doubler) -> None:
    first = hold(batcher, doubler)
    futures = [batcher.submit("a", 1, weight=3), batcher.submit("a", 2), batcher.submit("a", 3)]
    doubler.open.set()
    assert [result(future) for future in (first, *futures)] == [0, 2, 4, 6]
    assert doubler.batches[1:] == [("a", [1, 2]), ("a", [3])]


def test_a_request_heavier_than_a_batch_is_computed_alone(batcher: Batcher[str, int, int]) -> None:
    assert result(batcher.submit("a", 5, weight=100)) == 10


def test_a_full_queue_refuses_with_a_time_to_wait(batcher: Batcher[str, int, int], doubler: Doubler) -> None:
    hold(batcher, doubler)
    futures = [batcher.submit("a", value) for value in range(6)]
    with pytest.raises(OverloadedError) as caught:
        batcher.submit("a", 7)
    assert caught.value.retry_after_seconds > 0
    doubler.open.set()
    assert [result(future) for future in futures] == [0, 2, 4, 6, 8, 10]
    assert result(batcher.submit("a", 7)) == 14


def test_one_bad_request_does_not_spoil_its_batch(batcher: Batcher[str, int, int], doubler: Doubler) -> None:
    hold(batcher, doubler)
    good, bad, other = (batcher.submit("a", value) for value in (1, -1, 3))
    doubler.open.set()
    assert (result(good), result(other)) == (2, 6)
    with pytest.raises(ValueError, match="minus one"):
        bad.result(PATIENCE_SECONDS)


def test_a_cancelled_request_is_not_computed(batcher: Batcher[str, int, int], doubler: Doubler) -> None:
    hold(batcher, doubler)
    gone, kept = batcher.submit("a", 1), batcher.submit("a", 2)
    assert gone.cancel()
    doubler.open.set()
    assert result(kept) == 4
    assert doubler.batches[1] == ("a", [2])


def test_closing_cancels_what_waits_and_refuses_what_comes(doubler: Doubler) -> None:
    batcher: Batcher[str, int, int] = Batcher(doubler, config=BatcherConfig())
    batcher.start()
    first = hold(batcher, doubler)
    waiting = batcher.submit("a", 1)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(CancelledError):
        waiting.result(PATIENCE_SECONDS)
    doubler.open.set()
    closing.join(PATIENCE_SECONDS)
    assert result(first) == 0
    with pytest.raises(OverloadedError):
        batcher.submit("a", 2)
