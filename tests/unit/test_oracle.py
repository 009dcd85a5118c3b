"""The oracle by hand-computed examples, and by what must hold of every log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from stream.event import (
    AnyEvent,
    Availability,
    Complete,
    Plan,
    Product,
    Sale,
    Tick,
    decode,
    encode,
)
from stream.log import Record, partition_of
from stream.settings import Settings
from tests.oracle import Fact, Reading, bucket_of, bucket_start, read
from tests.strategies import World, logs, microseconds, one_fact_two_orders, voided

ONE = Settings(partitions=1, grace_s=3600, revise_buckets=1)
MILLION = 1_000_000


def at(day: int, hour: int = 12, minute: int = 0) -> datetime:
    """A moment of March 2024, UTC."""
    return datetime(2024, 3, day, hour, minute, tzinfo=UTC)


def sale(name: str, when: datetime, quantity: float = 1.0, **other: Any) -> Sale:
    """A sale of milk in store 7, unless told otherwise."""
    fields: dict[str, Any] = {"source": "till", "store": "7", "product": "milk"} | other
    return Sale(id=name, time=when, quantity=quantity, **fields)


def tick(when: datetime) -> Tick:
    return Tick(id=f"t{when}", source="clock", time=when)


def reading(
    *events: AnyEvent, settings: Settings = ONE, append: datetime | None = None, partition: int = 0
) -> Reading:
    """Read events that came one a record, all appended long after."""
    us = microseconds(append or datetime(2024, 6, 1, tzinfo=UTC))
    return read(
        settings,
        [Record(partition, n, us, None, encode(event)) for n, event in enumerate(events)],
    )


def days(found: Reading, product: str = "milk", store: str = "7") -> dict[int, tuple[float, str]]:
    """Gross units and status by day of March."""
    facts = found.facts.get((store, product), {})
    return {start.day: (fact.gross / MILLION, fact.status) for start, fact in facts.items()}


def reasons(found: Reading) -> list[str]:
    return [reason for _, _, reason in found.refusals]


# Buckets and the watermark


def test_a_bucket_closes_when_the_watermark_reaches_its_end() -> None:
    before = reading(sale("1", at(1)), tick(at(2, 0, 59)))
    assert before.watermark == at(1, 23, 59)
    assert before.facts == {}
    assert before.open_sold == {("7", "milk"): {at(1, 0): MILLION}}
    after = reading(sale("1", at(1)), tick(at(2, 1)))
    assert after.facts == {("7", "milk"): {at(1, 0): Fact(MILLION, 0, 0, "observed")}}
    assert after.open_sold == {}


def test_the_watermark_does_not_move_back_and_not_past_the_append_time() -> None:
    found = reading(sale("1", at(5)), sale("2", at(4)))
    assert found.watermark == at(5, 11)
    ahead = reading(sale("1", at(5)), append=at(4, 18))
    assert ahead.watermark == at(4, 17)


def test_plans_products_and_stock_outs_do_not_move_the_watermark() -> None:
    plan = Plan(id="1", source="hq", time=at(9), start=at(9), end=at(10), promotion=1.0)
    product = Product(id="2", source="hq", time=at(9), product="milk")
    out = Availability(id="3", source="hq", time=at(9), start=at(9), end=at(10), store="7",
                       product="milk")  # fmt: skip
    found = reading(plan, product, out)
    assert found.watermark is None
    assert found.counts == {("hq", "applied"): 3}


def test_a_day_of_new_york_has_23_hours_when_clocks_go_forward() -> None:
    new_york = Settings(timezone="America/New_York")
    day = bucket_of(new_york, datetime(2024, 3, 10, 12, tzinfo=UTC))
    start, end = bucket_start(new_york, day), bucket_start(new_york, day + 1)
    assert start == datetime(2024, 3, 10, 5, tzinfo=UTC)
    assert end == datetime(2024, 3, 11, 4, tzinfo=UTC)
    assert bucket_of(new_york, end) == day + 1
    assert bucket_of(new_york, end - timedelta(microseconds=1)) == day


def test_a_business_day_starts_at_day_start_and_a_week_on_its_weekday() -> None:
    night = Settings(day_start="04:00")
    assert bucket_of(night, at(6, 3, 59)) == bucket_of(night, at(5, 4))
    week = Settings(bucket="week", week_start="sunday", day_start="04:00")
    assert bucket_start(week, bucket_of(week, at(6))) == at(3, 4)
    assert bucket_start(week, bucket_of(week, at(3, 3))) == datetime(2024, 2, 25, 4, tzinfo=UTC)


def test_hours_of_kolkata_start_on_the_half_hour_of_utc() -> None:
    kolkata = Settings(bucket="hour", timezone="Asia/Kolkata")
    assert bucket_start(kolkata, bucket_of(kolkata, at(1, 12, 29))) == at(1, 11, 30)
    assert bucket_start(kolkata, bucket_of(kolkata, at(1, 12, 30))) == at(1, 12, 30)


# Facts


def test_sales_returns_and_revenue_are_summed_apart() -> None:
    found = reading(
        sale("1", at(1), 2.0, price=1.25),
        sale("2", at(1), 0.5),
        sale("3", at(1), -1.0, price=1.25),
        tick(at(3)),
    )
    assert found.facts["7", "milk"][at(1, 0)] == Fact(2_500_000, 1_000_000, 2_500_000, "observed")


def test_a_day_without_sales_is_zero_if_the_store_sold_something_else_and_missing_if_not() -> None:
    found = reading(
        sale("1", at(1)),
        sale("2", at(2), product="bread"),
        sale("3", at(3), store="8"),
        tick(at(4, 6)),
    )
    assert days(found) == {1: (1.0, "observed"), 2: (0.0, "observed"), 3: (0.0, "missing")}
    assert days(found, "bread") == {2: (1.0, "observed"), 3: (0.0, "missing")}


def test_a_complete_observes_a_day_without_sales_but_only_up_to_its_time() -> None:
    def complete(when: datetime) -> Complete:
        return Complete(id="c", source="till", store="7", time=when)

    whole = reading(sale("1", at(1)), complete(at(3, 0)), tick(at(3, 6)))
    assert days(whole)[2] == (0.0, "observed")
    most = reading(sale("1", at(1)), complete(at(2, 23, 59)), tick(at(3, 6)))
    assert days(most)[2] == (0.0, "missing")
    too_late = reading(sale("1", at(1)), tick(at(3, 6)), complete(at(3, 0)))
    assert days(too_late)[2] == (0.0, "missing")


def test_a_stock_out_known_at_the_close_censors_what_it_touches() -> None:
    out = Availability(id="1", source="hq", time=at(1), start=at(2, 0), end=at(3, 0), store="7",
                       product="milk")  # fmt: skip
    sales = [sale(str(day), at(day)) for day in (1, 2, 3)]
    statuses = {day: fact[1] for day, fact in days(reading(out, *sales, tick(at(5)))).items()}
    assert statuses == {1: "observed", 2: "censored", 3: "observed", 4: "missing"}
    known_later = reading(*sales, tick(at(5)), out)
    assert days(known_later)[2] == (1.0, "observed")


def test_of_two_availabilities_that_touch_a_bucket_the_later_by_its_own_time_counts() -> None:
    def said(name: str, available: bool) -> Availability:
        return Availability(id=name, source="hq", time=at(1), start=at(1), end=at(2, 0),
                            store="7", product="milk", available=available)  # fmt: skip

    out, back = said("1", False), said("2", True)
    milk = sale("1", at(1))
    assert days(reading(out, back, milk, tick(at(3))))[1] == (1.0, "observed")
    assert days(reading(back, out, milk, tick(at(3))))[1] == (1.0, "observed"), "in any order"
    later = msgspec.structs.replace(out, time=at(1, 13))
    assert days(reading(later, back, milk, tick(at(3))))[1] == (1.0, "censored")
    assert days(reading(out, back, out, milk, tick(at(3))))[1] == (1.0, "observed")


def test_hours_of_a_business_day_are_observed_once_it_has_had_a_sale_earlier_ones_too() -> None:
    hours = Settings(partitions=1, grace_s=0, bucket="hour", day_start="04:00")
    found = reading(
        sale("1", at(1, 5)),
        sale("2", at(2, 3)),
        sale("3", at(2, 6)),
        tick(at(2, 8)),
        settings=hours,
    )
    before = reading(sale("1", at(1, 5)), sale("2", at(2, 3)), tick(at(2, 6)), settings=hours)
    assert before.facts["7", "milk"][at(2, 5)].status == "missing"
    facts = found.facts["7", "milk"]
    assert facts[at(1, 23)].status == "observed"
    assert facts[at(2, 3)] == Fact(MILLION, 0, 0, "observed")
    assert {facts[at(2, hour)].status for hour in (4, 5, 6, 7)} == {"observed"}


def test_a_series_past_max_series_is_refused_by_key_not_by_arrival() -> None:
    two = Settings(partitions=1, grace_s=3600, revise_buckets=1, max_series=2)
    found = reading(
        sale("1", at(1), product="rye"),
        sale("2", at(1), product="oats"),
        sale("3", at(1), product="milk"),
        sale("4", at(1), product="rye"),
        tick(at(3)),
        settings=two,
    )
    assert sorted(found.facts) == [("7", "milk"), ("7", "oats")]
    assert found.refusals == [(0, 0, "past_max_series"), (3, 0, "past_max_series")]
    assert found.counts["till", "learned"] == 2
    assert found.counts["till", "refused"] == 2


# Identities


def test_a_retry_is_a_duplicate_and_another_content_a_conflict() -> None:
    found = reading(
        sale("1", at(1), 1.0),
        sale("1", at(1), 1.0, x={"try": 2}),
        sale("1", at(1), 1.0000001),
        sale("1", at(1), 2.0),
        sale("1", at(1), 1.0, source="web"),
    )
    assert found.counts == {
        ("till", "learned"): 1,
        ("till", "duplicate"): 2,
        ("till", "refused"): 1,
        ("web", "learned"): 1,
    }
    assert found.refusals == [(3, 0, "id_conflict")]


def test_an_identity_is_forgotten_with_its_buckets_last_revision() -> None:
    # Day 1 may be revised while day 2 is open, and not once day 3 is.
    kept = reading(sale("1", at(1)), tick(at(2, 12)), sale("1", at(2)))
    assert reasons(kept) == ["id_conflict"]
    forgotten = reading(sale("1", at(1)), tick(at(3, 12)), sale("1", at(3)))
    assert forgotten.counts["till", "learned"] == 2


def test_a_void_and_its_sale_count_as_a_pair_and_leave_nothing_in_either_order() -> None:
    bread = sale("1", at(1), product="bread")
    milk = sale("2", at(1), 3.0)
    void = voided(milk, "v")
    orders: list[list[AnyEvent]] = [[milk, void, bread], [void, bread, milk]]
    for order in orders:
        found = reading(*order, tick(at(3)))
        assert found.counts["till", "void"] == 2
        assert found.counts["till", "learned"] == 1
        assert sorted(found.facts) == [("7", "bread")]


def test_a_store_whose_only_sale_was_voided_is_not_alive() -> None:
    gone = sale("2", at(2), product="bread")
    found = reading(sale("1", at(1)), gone, voided(gone, "v"), tick(at(4)))
    assert days(found)[2] == (0.0, "missing")


def test_a_second_void_and_a_retry_after_the_void_are_duplicates() -> None:
    milk = sale("1", at(1))
    found = reading(milk, voided(milk, "v"), voided(milk, "w"), voided(milk, "v"), milk)
    assert found.counts == {("till", "void"): 2, ("till", "duplicate"): 3}
    ahead = reading(voided(milk, "v"), voided(milk, "w"), milk, milk)
    assert ahead.counts == {("till", "void"): 2, ("till", "duplicate"): 2}


def test_a_void_that_repeats_the_sale_wrongly_is_refused_and_not_remembered() -> None:
    milk = sale("1", at(1), 2.0)
    wrong = voided(sale("1", at(1), 3.0), "v")
    found = reading(milk, wrong, voided(milk, "v"))
    assert found.refusals == [(1, 0, "void_mismatch")]
    assert found.counts == {("till", "refused"): 1, ("till", "void"): 2}


def test_a_second_void_that_repeats_other_content_is_a_mismatch_not_a_duplicate() -> None:
    milk = sale("1", at(1), 2.0)
    wrong = voided(sale("1", at(1), 3.0), "w")
    for first in (milk, voided(milk, "v")):
        found = reading(first, voided(milk, "v"), wrong)
        assert reasons(found) == ["void_mismatch"]


def test_a_tombstone_refuses_a_sale_of_other_content() -> None:
    found = reading(voided(sale("1", at(1), 2.0), "v"), sale("1", at(1), 3.0))
    assert reasons(found) == ["id_conflict"]
    assert found.counts["till", "void"] == 1


# Revisions and lateness


def test_a_revision_amends_the_facts_at_the_next_close() -> None:
    begin: list[AnyEvent] = [sale("1", at(1)), tick(at(2, 12)), sale("2", at(1, 13), 4.0)]
    waiting = reading(*begin)
    assert waiting.counts["till", "revised"] == 1
    assert days(waiting) == {1: (1.0, "observed")}
    assert days(reading(*begin, tick(at(3, 12)))) == {1: (5.0, "observed"), 2: (0.0, "missing")}


def test_a_revision_turns_missing_to_observed_for_its_whole_store() -> None:
    found = reading(
        sale("1", at(1)),
        sale("2", at(1), product="bread"),
        tick(at(3, 12)),
        sale("3", at(2)),
        tick(at(4, 12)),
    )
    assert days(found)[2] == (1.0, "observed")
    assert days(found, "bread")[2] == (0.0, "observed")


def test_a_revision_before_the_series_was_listed_moves_its_first_fact_back() -> None:
    found = reading(
        sale("1", at(2, 12), product="bread"),
        tick(at(3, 12)),
        sale("2", at(2, 13), 4.0),
        sale("3", at(3, 12), 1.0),
        tick(at(4, 12)),
    )
    assert found.counts["till", "revised"] == 1
    assert days(found) == {2: (4.0, "observed"), 3: (1.0, "observed")}
    by_it_alone = reading(sale("1", at(2), product="bread"), tick(at(3, 12)),
                          sale("2", at(2, 13)), tick(at(4, 12)))  # fmt: skip
    assert days(by_it_alone) == {2: (1.0, "observed"), 3: (0.0, "missing")}


def test_a_void_after_the_close_takes_the_sale_out_of_the_facts() -> None:
    milk = sale("1", at(1), 3.0, price=2.0)
    found = reading(milk, sale("2", at(1)), tick(at(2, 12)), voided(milk, "v"), tick(at(3, 12)))
    assert found.facts["7", "milk"][at(1, 0)] == Fact(MILLION, 0, 0, "observed")
    assert found.counts["till", "learned"] == 1
    assert found.counts["till", "void"] == 2


def test_a_revision_voided_before_the_next_close_leaves_nothing() -> None:
    milk = sale("2", at(2), 3.0)
    found = reading(sale("1", at(1)), tick(at(3, 12)), milk, voided(milk, "v"), tick(at(4, 12)))
    assert days(found)[2] == (0.0, "missing")
    assert ("till", "revised") not in found.counts


def test_what_comes_after_the_last_revision_is_late_first_or_second() -> None:
    milk = sale("1", at(1))
    found = reading(milk, tick(at(3, 12)), milk, sale("2", at(1)), voided(milk, "v"))
    assert found.counts["till", "late"] == 3
    assert found.refusals == [(2, 0, "late"), (3, 0, "late"), (4, 0, "late")]
    assert days(found)[1] == (1.0, "observed")


# Refusals and the rest


def test_misrouted_items_never_move_time() -> None:
    four = Settings(partitions=4, grace_s=0)
    here = partition_of("7", 4)
    away = next(s for s in "0123456789" if partition_of(s, 4) != here)
    found = reading(
        sale("1", at(9), store=away),
        sale("2", at(9), store="*"),
        Complete(id="3", source="till", store=away, time=at(9)),
        Plan(id="4", source="hq", time=at(9), start=at(9), end=at(10), store=away, closed=True),
        sale("5", at(1)),
        settings=four,
        partition=here,
    )
    assert reasons(found) == ["misrouted"] * 4
    assert found.watermark == at(1)


def test_future_dated_and_ancient_items_are_refused_and_do_not_move_time() -> None:
    append = at(10)
    found = reading(
        sale("1", append + timedelta(days=1, microseconds=1)),
        sale("2", datetime(1989, 12, 31, tzinfo=UTC)),
        sale("3", datetime(2200, 1, 2, tzinfo=UTC)),
        Complete(id="5", source="till", store="7", time=append + timedelta(days=2)),
        voided(sale("6", append + timedelta(days=2)), "v"),
        sale("4", append + timedelta(days=1)),
        append=append,
    )
    assert reasons(found) == [
        "future_dated",
        "out_of_range",
        "out_of_range",
        "future_dated",
        "future_dated",
    ]
    assert found.watermark == at(10, 11)


def test_a_plan_is_applied_once_a_revision_and_content() -> None:
    plan = Plan(id="1", source="hq", time=at(1), start=at(1), end=at(2), product="milk", price=1.0)
    again = Plan(id="1", source="hq", time=at(1), start=at(1), end=at(2), product="milk",
                 price=1.0, revision=1)  # fmt: skip
    found = reading(plan, plan, again, plan)
    assert found.counts == {("hq", "applied"): 2, ("hq", "duplicate"): 2}


def test_a_bad_item_of_an_array_does_not_cost_its_neighbours() -> None:
    value = b"[" + encode(sale("1", at(1))) + b',{"type":"sail"},' + encode(tick(at(1))) + b"]"
    found = read(ONE, [Record(0, 5, microseconds(at(9)), None, value)])
    assert found.refusals == [(5, 1, "unknown_type")]
    assert found.counts == {
        ("till", "learned"): 1, ("", "refused"): 1, ("clock", "applied"): 1,
    }  # fmt: skip


def test_no_records_say_nothing() -> None:
    found = read(ONE, [])
    assert (found.counts, found.refusals, found.facts, found.watermark) == ({}, [], {}, None)


def test_records_of_two_partitions_are_not_read_as_one() -> None:
    both = [Record(p, 0, 0, None, encode(tick(at(1)))) for p in (0, 1)]
    with pytest.raises(AssertionError, match="one partition"):
        read(ONE, both)


# What holds of every log


@given(logs())
@hypothesis_settings(max_examples=80, deadline=None)
def test_every_item_is_counted_once(log: tuple[World, list[Record]]) -> None:
    world, records = log
    found = read(world.settings, records)
    assert sum(found.counts.values()) == sum(len(decode(record.value)) for record in records)
    assert all(n > 0 for n in found.counts.values())
    assert len(found.refusals) == found.total("refused") + found.total("late")
    assert len({(offset, item) for offset, item, _ in found.refusals}) == len(found.refusals)


@given(logs())
@hypothesis_settings(max_examples=80, deadline=None)
def test_facts_are_whole_and_a_missing_bucket_is_empty(log: tuple[World, list[Record]]) -> None:
    world, records = log
    found = read(world.settings, records)
    assert len(found.facts) <= world.settings.max_series
    for facts in found.facts.values():
        numbers = [bucket_of(world.settings, start) for start in facts]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert found.watermark is not None
        assert numbers[-1] + 1 == bucket_of(world.settings, found.watermark)
        for fact in facts.values():
            assert min(fact.gross, fact.returns, fact.revenue) >= 0
            assert fact.status != "missing" or fact[:3] == (0, 0, 0)


@given(one_fact_two_orders())
@hypothesis_settings(max_examples=80, deadline=None)
def test_no_order_within_grace_leaves_a_trace(
    case: tuple[World, list[Record], list[Record]],
) -> None:
    world, first, second = case
    one, other = read(world.settings, first), read(world.settings, second)
    assert (one.counts, one.facts, one.open_sold, one.watermark) == (
        other.counts, other.facts, other.open_sold, other.watermark,
    )  # fmt: skip
    assert one.total("late") == one.total("revised") == 0
