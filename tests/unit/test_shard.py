"""What a shard says at a close: to whom asks for one model, and to whom is told of each close."""

from __future__ import annotations

import numpy as np
import pytest

from learner.shard import Shard
from stream.event import encode, time_us
from stream.log import Record
from tests.learner_parts import chosen, market, plan, sale, tick, told


@pytest.mark.parametrize("horizon", [1, 3, 7, 14, 28])
def test_a_models_forecast_is_the_champions_where_it_is_champion(horizon: int) -> None:
    one = told(*market(60), tick(60))
    np.testing.assert_allclose(
        one.shard.predict("ensemble", horizon), one.shard.forecast()[horizon - 1], rtol=1e-6
    )
    assert one.shard.forecast()[horizon - 1].min() > 0


def test_a_challenger_speaks_for_itself() -> None:
    one = told(*market(60), tick(60), challengers=("seasonal_naive",))
    for horizon in (2, 7):
        back = 60 + horizon - 1 - 7
        expected = [one.fact("units", back, product=f"p{at}") for at in range(3)]
        assert one.shard.predict("seasonal_naive", horizon).tolist() == expected


def test_nothing_is_said_before_a_series_is_known() -> None:
    assert told().shard.predict("ensemble", 2).tolist() == []


@pytest.mark.parametrize("horizon", [2, 7])
def test_a_plan_said_after_the_close_does_not_change_what_was_said_at_it(horizon: int) -> None:
    one = told(*market(60), tick(60))
    before = one.shard.predict("ensemble", horizon)
    one.tell(plan("closing", 61, 70, said=60, closed=True))
    assert one.shard.predict("ensemble", horizon).tolist() == before.tolist()
    assert one.shard.forecast()[horizon - 1].tolist() == [0.0, 0.0, 0.0]


def test_each_close_is_told_of_once_however_many_a_record_brings() -> None:
    shard = Shard(chosen(), 0)
    events = [sale(0), sale(1), sale(9)]
    value = b"[" + b",".join(encode(event) for event in events) + b"]"
    now = time_us(events[-1].time)
    told_of: list[tuple[int, int]] = []

    def told_that(bucket: int) -> None:
        assert shard.panel.last == bucket
        assert len(shard.predict("ensemble", 3)) == 1
        told_of.append((bucket, len(shard.panel.keys)))

    folded = shard.fold([Record(0, 0, now, None, value)], after_close=told_that)
    first = shard.calendar.index(time_us(events[0].time))
    assert told_of == [(first + n, 1) for n in range(9)]
    assert folded.closes == 9


def test_who_reads_at_each_close_leaves_no_trace() -> None:
    one = told(*market(40), tick(40))
    again = Shard(chosen(), 0)
    again.fold(one.log, after_close=lambda bucket: again.predict("river_plain", 5).sum())
    assert again.digest() == one.shard.digest()
