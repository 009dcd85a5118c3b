"""Which snapshots stay: the newest, one an hour, one a day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from learner.retention import HOURLY_US, UNSIGNED, Aged, kept
from stream.buckets import Calendar
from stream.event import FIRST_US, time_us
from stream.settings import Settings

HOUR = 3_600_000_000
NOON = time_us(datetime(2026, 3, 1, 12, tzinfo=UTC))


def at(us: int, lineage: int = 1) -> Aged:
    return Aged(f"{lineage}/{us}", lineage, us)


def every(step_us: int, count: int, until_us: int = NOON, lineage: int = 1) -> list[Aged]:
    return [at(until_us - n * step_us, lineage) for n in reversed(range(count))]


def stays(
    snapshots: list[Aged], newest: int = 3, days: int = 35, zone: str = "UTC", **more: str
) -> list[Aged]:
    day_of = Calendar(Settings(timezone=zone, **more)).day  # type: ignore[arg-type]
    found = kept(snapshots, newest=newest, days=days, day_of=day_of)
    assert found <= {one.snapshot for one in snapshots}
    return [one for one in snapshots if one.snapshot in found]


def test_of_none_none_stays_and_of_few_all() -> None:
    assert stays([]) == []
    assert stays(every(10_000_000, 3)) == every(10_000_000, 3)


def test_a_shard_that_publishes_every_ten_seconds_can_go_back_five_weeks() -> None:
    """As it is pruned in operation: now and then, from what the last time left."""
    left: list[Aged] = []
    for n in range(0, 40 * 24 * 60, 40):
        left += every(10_000_000, 5, NOON + n * 60_000_000)
        found = kept(left, newest=30, days=35, day_of=lambda us: us // (24 * HOUR))
        left = [one for one in left if one.snapshot in found]
    assert len(left) <= 30 + 49 + 36
    now_us = left[-1].time_us
    for back_us in range(0, 34 * 24 * HOUR, HOUR):
        newest = max(one.time_us for one in left if one.time_us <= now_us - back_us)
        lost_us = now_us - back_us - newest
        assert lost_us < (2 * HOUR if back_us < HOURLY_US - 2 * HOUR else 25 * HOUR)


@pytest.mark.parametrize("bucket", ["hour", "day", "week"])
def test_a_year_replayed_in_minutes_leaves_one_a_day(bucket: str) -> None:
    """Each snapshot is half a day of sales after the last."""
    left = stays(every(12 * HOUR, 730), newest=3, bucket=bucket)
    days = [datetime.fromtimestamp(one.time_us / 1e6, UTC).date() for one in left]
    assert len(set(days)) == 36
    assert {later - earlier for earlier, later in pairwise(days)} == {
        timedelta(), timedelta(days=1),
    }  # fmt: skip


def test_the_last_of_a_business_day_stays() -> None:
    left = stays(every(HOUR, 24 * 10), newest=2, days=9, zone="America/New_York", day_start="04:00")
    old = [one for one in left if NOON - one.time_us >= HOURLY_US]
    assert old
    # Four in New York is nine in Greenwich in winter: the last of the day is of eight.
    assert {datetime.fromtimestamp(one.time_us / 1e6, UTC).hour for one in old} == {8}


def test_without_days_only_the_newest_stay() -> None:
    assert stays(every(HOUR, 100), newest=4, days=0) == every(HOUR, 4)


def test_the_newest_are_the_last_put_and_not_the_latest_sold() -> None:
    """A replay has gone back two weeks, and has begun to learn again."""
    before, after = every(HOUR, 24 * 20), every(HOUR, 5, NOON - 14 * 24 * HOUR, lineage=2)
    left = stays([*before, *after], newest=3)
    assert left[-3:] == after[-3:]
    assert [one for one in left if one.lineage == 1] == stays(before, newest=1)


def test_a_quiet_shard_keeps_the_last_of_those_that_know_the_same() -> None:
    same = [Aged(f"s{n}", 1, NOON) for n in range(10)]
    assert [one.snapshot for one in stays([*same, *every(10_000_000, 3, NOON + 2 * HOUR)])] == [
        "s9", *(one.snapshot for one in every(10_000_000, 3, NOON + 2 * HOUR)),
    ]  # fmt: skip


def test_one_of_before_the_first_sale_goes() -> None:
    assert at(FIRST_US) not in stays([at(FIRST_US), *every(10_000_000, 5)])


def test_what_an_unsigned_one_says_makes_no_other_go() -> None:
    signed = every(HOUR, 24)
    future = Aged("x", UNSIGNED, NOON + 1000 * 24 * HOUR)
    same = Aged("y", UNSIGNED, signed[0].time_us)
    left = stays([future, same, *signed])
    assert left == [same, *signed]
    assert stays([*signed, future])[-1] == future, "among the newest it stays"


def test_where_none_is_signed_all_stay() -> None:
    unsigned = every(24 * HOUR, 100, lineage=UNSIGNED)
    assert stays(unsigned) == unsigned
