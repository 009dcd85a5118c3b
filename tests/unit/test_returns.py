"""What came back, by bucket and series: as a dictionary would have it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from learner.returns import Returns
from stream.event import time_us
from tests.learner_parts import day, sale, tick, told, void

SERIES = 4

amounts = st.integers(-2, 2).map(lambda n: n * 500_000)


@given(
    st.lists(st.lists(amounts.map(abs), min_size=SERIES, max_size=SERIES), max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, SERIES - 1), amounts), max_size=12),
    st.integers(0, 13),
)
def test_returns_equal_a_plain_dictionary(
    buckets: list[list[int]], amended: list[tuple[int, int, int]], forgotten: int
) -> None:
    returns, plainly = Returns(), dict[tuple[int, int], int]()
    for bucket, units in enumerate(buckets):
        returns.put(bucket, np.array(units, np.int64))
        plainly |= {(bucket, row): one for row, one in enumerate(units)}
    for bucket, row, more in amended:
        if more:
            returns.add(bucket, row, more)
            plainly[bucket, row] = plainly.get((bucket, row), 0) + more
    returns.forget(forgotten)
    for row in range(SERIES):
        expected = [
            0.0 if bucket < forgotten else plainly.get((bucket, row), 0) / 1e6
            for bucket in range(13)
        ]
        assert returns.of(row, np.arange(13)).tolist() == expected
    assert (np.diff(returns.returned_at) > 0).all()
    assert returns.returned.all()


def test_a_return_that_came_after_the_close_is_added_and_its_void_leaves_no_trace() -> None:
    back = sale(0, -2, id="back", hour=13)
    one = told(sale(0, 5), sale(0, product="q"), tick(1), back, tick(2))
    assert one.returned(0) == 2
    one.tell(void(back), tick(3))
    assert one.returned(0) == 0
    assert len(one.shard.panel.returns.returned) == 0


def test_returns_are_forgotten_with_the_ring() -> None:
    one = told(sale(0, 5), sale(0, -2, hour=13), tick(1))
    assert len(one.shard.panel.returns.returned) == 1
    one.tell(sale(90), tick(91))
    assert len(one.shard.panel.returns.returned) == 0


def test_what_came_back_is_part_of_the_digest() -> None:
    shard = told(sale(0, 5), sale(0, -2, hour=13), tick(1)).shard
    before = shard.digest()
    shard.panel.returns.add(shard.calendar.index(time_us(day(0))), 0, 1)
    assert shard.digest() != before
