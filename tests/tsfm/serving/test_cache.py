import threading

import pytest

from tsfm.serving.cache import Cache


def counting_cache(*, budget_bytes: int = 100, size: int = 40) -> tuple[Cache[str, str], list[str]]:
    loads: list[str] = []

    def load(key: str) -> tuple[str, int]:
        loads.append(key)
        return f"value of {key}", size

    return Cache(load, budget_bytes=budget_bytes), loads


def test_a_second_request_finds_the_value_in_memory() -> None:
    cache, loads = counting_cache()
    for _ in range(2):
        with cache.acquire("a") as pin:
            assert pin.value == "value of a"
    assert loads == ["a"]


def test_peek_never_loads() -> None:
    cache, loads = counting_cache()
    assert cache.peek("a") is None
    cache.acquire("a").release()
    pin = cache.peek("a")
    assert pin is not None
    assert pin.value == "value of a"
    assert loads == ["a"]


def test_the_least_recently_used_is_dropped_when_the_budget_is_exceeded() -> None:
    cache, _ = counting_cache()
    for key in ("a", "b", "a", "c"):
        cache.acquire(key).release()
    assert cache.keys() == ["a", "c"]
    assert cache.num_bytes == 80


def test_a_pinned_value_outlives_the_budget_and_goes_when_released() -> None:
    cache, _ = counting_cache(budget_bytes=50)
    first = cache.acquire("a")
    second = cache.acquire("b")
    assert cache.keys() == ["a", "b"]
    first.release()
    assert cache.keys() == ["b"]
    second.release()
    second.release()
    assert cache.keys() == ["b"]


def test_a_value_larger_than_the_budget_is_kept_only_while_in_use() -> None:
    cache, _ = counting_cache(budget_bytes=10)
    pin = cache.acquire("a")
    assert pin.value == "value of a"
    pin.release()
    assert cache.keys() == []


def test_concurrent_requests_for_one_key_load_it_once() -> None:
    loads: list[str] = []
    gate = threading.Event()

    def load(key: str) -> tuple[str, int]:
        loads.append(key)
        gate.wait(10)
        return key, 1

    cache: Cache[str, str] = Cache(load, budget_bytes=10)
    values: list[str] = []
    threads = [threading.Thread(target=lambda: values.append(cache.acquire("a").value)) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(10)
    assert values == ["a"] * 8
    assert loads == ["a"]


def test_a_failed_load_reaches_everybody_waiting_and_is_tried_again_later() -> None:
    gate, entered = threading.Event(), threading.Event()
    outcomes = iter([OSError("the disk is gone"), None])

    def load(key: str) -> tuple[str, int]:
        entered.set()
        gate.wait(10)
        if (error := next(outcomes)) is not None:
            raise error
        return key, 1

    cache: Cache[str, str] = Cache(load, budget_bytes=10)
    errors: list[str] = []

    def ask() -> None:
        try:
            cache.acquire("a")
        except OSError as error:
            errors.append(str(error))

    first = threading.Thread(target=ask)
    first.start()
    assert entered.wait(10)
    second = threading.Thread(target=ask)
    second.start()
    gate.set()
    first.join(10)
    second.join(10)
    assert errors[0] == "the disk is gone"
    assert cache.acquire("a").value == "a"


def test_clear_leaves_values_in_use_alone() -> None:
    cache, loads = counting_cache()
    pin = cache.acquire("a")
    cache.clear()
    assert pin.value == "value of a"
    pin.release()
    cache.acquire("a").release()
    assert loads == ["a", "a"]


@pytest.mark.parametrize("num_bytes", [0, 40])
def test_sizes_are_what_the_loader_says(num_bytes: int) -> None:
    cache, _ = counting_cache(size=num_bytes)
    cache.acquire("a").release()
    assert cache.num_bytes == num_bytes
