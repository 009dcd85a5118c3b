"""Going back and learning again, as if what is excluded had never come, but for its gap."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.replay import START, Effect, Exclusion, Promote, Quarantine, Resolve, Rule, Turn, fit
from learner.serving import CENSORED, MISSING, OBSERVED
from learner.shard import Shard
from learner.snapshot import lay_down, take_up
from stream.event import AnyEvent, Marker, Product, Refusal, Sale, decode, encode, time_us
from stream.log import Record
from tests.learner_parts import Told, chosen, complete, day, market, sale, tick, told
from tests.strategies import World, logs

KINDS = ("source", "store", "product", "category", "time", "offsets", "all")


def excluding(draw: st.DataObject, kind: str, world: World, records: list[Record]) -> Exclusion:
    """An exclusion of one kind of criterion, or of several."""
    half = world.start + (world.end - world.start) / 2
    third = len(records) // 3
    offsets = (records[third].offset, records[2 * third].offset + 1)
    every: dict[str, dict[str, Any]] = {
        "source": {"sources": (world.sources[-1],)},
        "store": {"stores": world.stores[:1]},
        "product": {"products": world.products[-1:]},
        "category": {"categories": ("food", "dairy", "bakery")},
        "time": {"since": half - timedelta(days=1), "until": half},
        "offsets": {"offsets": {world.partition: offsets}},
        "all": {"sources": world.sources, "stores": world.stores[:1], "since": half},
    }
    return Exclusion(**every[kind], surplus=draw.draw(st.booleans()))


def meant(
    what: Exclusion, event: AnyEvent, record: Record, categories: dict[tuple[str, str], str]
) -> bool:
    """The same question, asked anew and in full."""
    if event.__struct_config__.tag in ("tick", "marker"):
        return False
    values = msgspec.to_builtins(event)
    product = values.get("product", "")
    known = categories.get((event.store, product)) or categories.get(("*", product))
    own = values.get("category") or known
    first, end = what.offsets.get(record.partition, (0, 1 << 60))
    return (
        (not what.sources or event.source in what.sources)
        and (not what.stores or event.store in what.stores)
        and (not what.products or values.get("product") in what.products)
        and (not what.categories or own in what.categories)
        and (what.since is None or what.since <= event.time)
        and (what.until is None or event.time < what.until)
        and first <= record.offset < end
    )


def never_saw(
    shard: Shard, records: list[Record], what: Exclusion, end: int, resolve: Resolve | None = None
) -> Shard:
    """A shard that never sees what is meant of offsets before ``end``, and is told of the gaps."""
    categories = {
        key: one.category for key, one in shard.panel.products.told.items() if one.category
    }
    for record in records:
        for event in decode(record.value):
            assert not isinstance(event, Refusal)
            if record.offset < end and meant(what, event, record, categories):
                if isinstance(event, Sale) and not what.surplus:
                    feed = not (what.products or what.categories)
                    shard.window.miss(event.store, event.product, time_us(event.time), feed=feed)
                continue
            shard.fold([record._replace(value=encode(event))], resolve)
            if isinstance(event, Product):
                categories.pop((event.store, event.product), None)
                if event.category is not None:
                    categories[event.store, event.product] = event.category
    return shard


def copy(shard: Shard) -> Shard:
    """The shard as a snapshot has it."""
    return take_up(shard.settings, shard.partition, lay_down(shard))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(logs(hostile=False), st.data())
def test_a_replay_ends_as_one_that_never_saw_what_is_excluded(
    kind: str, drawn: tuple[World, list[Record]], data: st.DataObject
) -> None:
    world, records = drawn
    if len(records) < 4:
        return
    place = data.draw(st.integers(0, len(records)), "promotion")
    up = encode(Marker(id="up", source="salescast", time=world.start))
    near = records[min(place, len(records) - 1)]
    later = [record._replace(offset=record.offset + 1) for record in records[place:]]
    first = near.offset + (place == len(records))
    records = [*records[:place], near._replace(value=up, offset=first), *later]
    cut = data.draw(st.integers(0, len(records) - 2), "cut")
    until = data.draw(st.integers(cut + 1, len(records) - 1), "marker")
    # Control's order is the markers'.
    models, order = world.settings.models, 0 if place < until else 2
    effects: dict[str, Effect] = {"up": Promote(order=order, model=models[1], over=models[0])}
    what = excluding(data, kind, world, records)
    at = records[until]
    marker = at._replace(
        value=encode(Marker(id="op", source="salescast", time=world.start)), offset=at.offset
    )
    log = [*records[:until], marker, *(r._replace(offset=r.offset + 1) for r in records[until:])]
    before = Shard(world.settings, world.partition)
    before.fold(log[:cut], effects.__getitem__)
    base = copy(before)
    turn = Turn(
        order=1, snapshot="s", shard=copy(base), exclude=what, readmits=None, admit_late=False
    )
    effects["op"] = turn
    folded = before.fold(log[cut:], effects.__getitem__)
    assert folded.turn is turn
    assert before.position == marker.offset + 1, "what comes after is not folded by the old one"
    shard = turn.shard
    assert shard.position == base.position
    shard.fold(log[cut : until + 1])
    assert shard.replay is None
    shard = copy(shard)
    folded = shard.fold(log[until + 1 :], effects.__getitem__)
    assert folded.turn is None
    plain = never_saw(
        base, log[cut:until] + log[until + 1 :], what, marker.offset, effects.__getitem__
    )
    assert shard.champion == plain.champion == models[1]
    assert shard.digest() == plain.digest()
    assert shard.forecast().tobytes() == plain.forecast().tobytes()
    items = sum(len(decode(record.value)) for record in log)
    assert sum(shard.counts().values()) == items, "each item of the log has one outcome"


# -- gaps ----------------------------------------------------------------------------------


def excluded(one: Told, what: Exclusion, until: int = 1 << 60) -> Told:
    """The same deployment with a rule in force from the start."""
    one.shard.rules.append(Rule(operation="op", kind="excluded", what=what, start=0, end=until))
    return one


def test_a_bucket_without_its_excluded_sales_is_missing_and_no_zero() -> None:
    one = excluded(told(), Exclusion(sources=("bad",)))
    one.tell(sale(0), sale(0, product="q"), sale(1), sale(1, 9, product="q", source="bad"))
    one.tell(sale(2), tick(3))
    assert one.fact("status", 1, product="q") == MISSING
    assert one.fact("status", 2, product="q") == OBSERVED
    assert one.fact("units", 2, product="q") == 0
    assert one.fact("status", 1) == OBSERVED


def test_what_remains_of_a_bucket_is_a_lower_bound() -> None:
    one = excluded(told(), Exclusion(sources=("bad",)))
    one.tell(sale(0, 5), sale(1, 5), sale(1, 500, source="bad"), sale(2, 5), tick(3))
    assert one.fact("status", 1) == CENSORED
    assert one.fact("units", 1) == 5


def test_without_what_is_surplus_the_rest_is_whole() -> None:
    one = excluded(told(), Exclusion(sources=("bad",), surplus=True))
    one.tell(sale(0, 5), sale(1, 5), sale(1, 500, source="bad"), sale(2, 5), tick(3))
    assert one.fact("status", 1) == OBSERVED
    assert one.fact("units", 1) == 5


def test_a_store_whose_feed_is_excluded_was_silent_whatever_complete_says() -> None:
    one = excluded(told(), Exclusion(sources=("bad",)))
    one.tell(sale(0), sale(0, product="q"), sale(1, source="bad"), complete(2), tick(2))
    assert one.fact("status", 1) == MISSING
    assert one.fact("status", 1, product="q") == MISSING


def test_a_complete_still_speaks_for_the_rest_of_a_store_where_a_product_is_excluded() -> None:
    one = excluded(told(), Exclusion(products=("p",), since=day(1, 0)))
    one.tell(sale(0), sale(0, product="q"), sale(1), complete(2), tick(2))
    assert one.fact("status", 1) == MISSING
    assert one.fact("status", 1, product="q") == OBSERVED


def test_a_straggler_in_a_gap_makes_it_a_lower_bound() -> None:
    one = excluded(told(), Exclusion(sources=("bad",)))
    one.tell(sale(0), sale(0, product="q"), sale(1, product="q"), sale(1, 9, source="bad"))
    one.tell(sale(2, product="q"), sale(1, 2, id="straggler"), append=day(2, 13))
    one.tell(tick(3))
    assert one.fact("status", 1) == CENSORED
    assert one.fact("units", 1) == 2


def test_what_is_excluded_does_not_move_time() -> None:
    one = excluded(told(), Exclusion(sources=("bad",)))
    one.tell(sale(0))
    before = one.shard.window.watermark_us
    one.tell(
        sale(5, source="bad"), complete(6).__class__(id="c", source="bad", store="s", time=day(6))
    )
    assert one.shard.window.watermark_us == before
    assert one.shard.counts()["excluded"] == 2


def test_an_exclusion_without_a_criterion_means_nothing() -> None:
    one = excluded(told(), Exclusion())
    one.tell(sale(0))
    assert one.shard.counts()["learned"] == 1


# -- late items ----------------------------------------------------------------------------


def test_late_items_that_are_admitted_are_learned_in_their_bucket() -> None:
    whole, straggler = market(10), sale(1, 7, id="straggler")
    late = Told(Shard(chosen(revise_buckets=0), 0))
    late.tell(*whole)
    late.tell(straggler, append=day(10))
    assert late.letters == [(30, "late")]
    base = Shard(chosen(revise_buckets=0), 0)
    sent = Turn(order=0, snapshot=START, shard=base, exclude=None, readmits=None, admit_late=True)
    late.tell(marker("op"), append=day(10), resolve={"op": sent}.__getitem__)
    base.admit(late.log[30:31], [(30, 0)])
    base = copy(base)
    assert base.fold(late.log).letters == []
    reference = Told(Shard(chosen(revise_buckets=0), 0))
    reference.tell(*whole[:6], straggler, *whole[6:])
    assert base.digest() == reference.shard.digest()
    assert base.counts()["learned"] == 31
    assert sum(base.counts().values()) == len(late.log)


# -- operations ----------------------------------------------------------------------------


def marker(id: str) -> Marker:
    return Marker(id=id, source="salescast", time=day(0))


def effects(**by_id: Effect) -> Callable[[str], Effect | str]:
    return lambda identity: by_id.get(identity, "no such operation")


def turn(shard: Shard, order: int, **changed: Any) -> Turn:
    parts: dict[str, Any] = {"exclude": None, "readmits": None, "admit_late": False, **changed}
    return Turn(order=order, snapshot="s", shard=shard, **parts)


def test_of_two_operations_the_later_in_the_control_log_wins_in_whatever_order_they_come() -> None:
    for first, second in (("a", "b"), ("b", "a")):
        one = told(*market(5))
        known = effects(
            a=Quarantine(order=1, what=Exclusion(sources=("x",))),
            b=Quarantine(order=2, what=Exclusion(sources=("y",))),
        )
        said = one.tell(marker(first), marker(second), resolve=known).operations
        assert one.shard.order == 2
        assert "b" in one.shard.operations
        if first == "b":
            assert said[1] == ("a", 16, "a later operation is in force")


def test_a_quarantine_passes_over_what_comes_after_and_a_readmission_learns_it_again() -> None:
    one = told(*market(20))
    base = copy(one.shard)
    what = Exclusion(sources=("bad",))
    bad = [msgspec.structs.replace(x, source="bad", id=f"b{x.id}") for x in market(5, first=20)]
    one.tell(marker("q"), resolve=effects(q=Quarantine(order=1, what=what)))
    one.tell(*bad, *market(5, first=25))
    assert one.shard.counts()["quarantined"] == 15
    assert np.isnan(one.shard.panel.units(one.bucket(22))).all()
    again = turn(copy(base), 2, readmits="q")
    one.tell(marker("r"), resolve=effects(r=again))
    shard = again.shard
    shard.fold(one.log[60:])
    assert shard.replay is None
    # Nothing is passed over any more; the guard does not judge what was let in on a word.
    assert [rule.kind for rule in shard.rules] == ["readmitted"]
    assert shard.counts()["quarantined"] == 0
    plain = copy(base)
    plain.fold([r for r in one.log[60:] if b"marker" not in r.value])
    assert shard.digest() == plain.digest()


def test_a_quarantine_holds_from_its_marker_on_whatever_is_folded_with_it() -> None:
    known = effects(q=Quarantine(order=1, what=Exclusion(sources=("bad",))))
    bad = [msgspec.structs.replace(x, source="bad", id=f"b{x.id}") for x in market(2, first=20)]
    said: list[AnyEvent] = [marker("q"), *bad, *market(3, first=22)]
    at_once, apart = told(*market(20)), told(*market(20))
    at_once.tell(*said, resolve=known)
    for event in said:
        apart.tell(event, resolve=known)
    assert at_once.shard.counts() == apart.shard.counts()
    assert at_once.shard.counts()["quarantined"] == len(bad)
    assert at_once.shard.digest() == apart.shard.digest()


def test_a_second_replay_still_passes_over_what_the_first_excluded() -> None:
    one = told(*market(20))
    start = len(one.log)
    poison = [msgspec.structs.replace(x, source="bad", id=f"b{x.id}") for x in market(5, first=20)]
    other = [msgspec.structs.replace(x, source="odd", id=f"o{x.id}") for x in market(5, first=25)]
    base = copy(one.shard)
    one.tell(*poison)
    first = turn(copy(base), 1, exclude=Exclusion(sources=("bad",)))
    one.tell(marker("a"), resolve=effects(a=first))
    one.shard = first.shard
    one.shard.fold(one.log[start:])
    one.tell(*other)
    second = turn(copy(base), 2, exclude=Exclusion(sources=("odd",)))
    one.tell(marker("b"), resolve=effects(b=second))
    shard = second.shard
    shard.fold(one.log[start:])
    assert shard.replay is None
    assert shard.counts()["excluded"] == 30
    assert shard.window.watermark_us == base.window.watermark_us
    assert [rule.operation for rule in shard.rules] == ["a", "b"]


def test_a_cut_that_has_learned_what_is_excluded_since_is_refused() -> None:
    one = told(*market(5))
    base = copy(one.shard)
    one.tell(*market(5, first=5))
    poisoned = copy(one.shard)
    first = turn(copy(base), 1, exclude=Exclusion(sources=("till",)))
    one.tell(marker("a"), resolve=effects(a=first))
    one.shard = first.shard
    one.shard.fold(one.log[15:])
    said = one.tell(marker("b"), resolve=effects(b=turn(poisoned, 2))).operations
    assert said[0][2] is not None and "learned otherwise" in said[0][2]
    assert one.shard.order == 1


def test_a_cut_fits_if_it_obeyed_the_rules_that_stand() -> None:
    def rule(operation: str, start: int) -> Rule:
        return Rule(operation=operation, kind="excluded", what=Exclusion(), start=start)

    assert fit([], 10, [rule("a", 10)])
    assert not fit([], 11, [rule("a", 10)])
    assert fit([rule("a", 10)], 20, [rule("a", 10), rule("b", 30)])
    assert not fit([rule("a", 10)], 20, []), "it lacks what was readmitted"


def test_a_snapshot_in_the_middle_of_a_replay_goes_on_with_it() -> None:
    one = told(*market(20))
    base = copy(one.shard)
    poison = [msgspec.structs.replace(x, source="bad", id=f"b{x.id}") for x in market(9, first=20)]
    one.tell(*poison, *market(3, first=29))
    what = Exclusion(sources=("bad",), since=day(21, 0))
    sent = turn(copy(base), 1, exclude=what)
    one.tell(marker("a"), resolve=effects(a=sent))
    shard, again = copy(sent.shard), sent.shard
    for record in one.log[60:]:
        shard.fold([record])
        shard = copy(shard)
    again.fold(one.log[60:])
    assert shard.digest() == again.digest()
    assert shard.counts() == again.counts()
    assert shard.rules == again.rules and shard.operations == again.operations
