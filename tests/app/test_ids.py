"""Ids: distinct across threads and across a fork, whose two sides share what had been drawn before it."""

import os
from concurrent.futures import ThreadPoolExecutor

from app.ids import FILE, new_id


def test_threads_never_share_an_id() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: new_id(FILE), range(5_000)))
    assert len(set(ids)) == len(ids)
    assert all(i.startswith(FILE) and len(i) == len(FILE) + 24 for i in ids)


def test_parent_and_child_draw_their_own() -> None:
    new_id(FILE)  # something is left over from this draw
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, new_id(FILE).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() != new_id(FILE)
    os.close(read)
    os.close(write)
