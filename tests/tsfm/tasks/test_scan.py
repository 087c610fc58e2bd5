"""Blocks of points to be scored, laid out from the end of each series."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.tsfm.series.frames import frame_of
from tsfm.tasks.forecast import BATCH_SIZE
from tsfm.tasks.scan import Scan, blocks_of


@given(
    begins=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    rooms=st.lists(st.integers(0, 60), min_size=4, max_size=4),
    horizon=st.integers(1, 20),
)
def test_every_point_is_used_once_and_whole_blocks_end_with_the_series(
    begins: list[int], rooms: list[int], horizon: int
) -> None:
    begin = np.array(begins)
    lengths = begin + np.array(rooms[: len(begins)])
    series, origin, count = blocks_of(begin, lengths, horizon=horizon)
    for i in range(len(begins)):
        mine = series == i
        used = [o + k for o, n in zip(origin[mine].tolist(), count[mine].tolist(), strict=True) for k in range(n)]
        assert used == list(range(begin[i], lengths[i]))
        whole = mine & (count == horizon)
        assert ((lengths[i] - origin[whole]) % horizon == 0).all()


def scan(num_open: int, num_blind: int) -> Scan:
    blocks = np.zeros(num_open + num_blind, dtype=np.int64)
    return Scan(
        frame=frame_of([1.0]),
        series=blocks,
        origin=blocks,
        count=blocks,
        num_blind=num_blind,
        first=np.zeros(1, dtype=np.int64),
        min_context=1,
        is_two_sided=True,
        skipped=(),
    )


@given(num_open=st.integers(1, 3 * BATCH_SIZE), num_blind=st.integers(0, 2 * BATCH_SIZE))
def test_chunks_hold_every_block_once_and_never_both_kinds(num_open: int, num_blind: int) -> None:
    made = scan(num_open, num_blind)
    parts = [made.chunk(number) for number in range(made.num_chunks)]
    assert [k for part in parts for k in range(part.start, part.stop)] == list(range(num_open + num_blind))
    for part in parts:
        assert 1 <= part.stop - part.start <= BATCH_SIZE
        assert part.stop <= num_open or part.start >= num_open
