"""Inputs judged before they are learned from: who is named, what is withheld, who is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from learner.digest import facts
from learner.findings import Finding, identity, standings
from learner.inputs import SALES
from learner.replay import Effect, Turn
from learner.serving import MISSING, OBSERVED
from learner.shard import Shard
from learner.snapshot import lay_down, take_up
from stream.event import Marker, Sale, encode, time_us
from stream.log import Record
from stream.settings import Settings
from tests.guard_parts import SMALL, SOURCES, WEEK, WRONG, Fault, of, twelvefold, weeks, wrong
from tests.learner_parts import START, chosen


def deployment(**changed: Any) -> Settings:
    return chosen(**{**SMALL, "challengers": (), "guard": "quarantine", **changed})


@dataclass(slots=True)
class Watched:
    """A shard, its log, and what its guard found."""

    shard: Shard
    log: list[Record] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)

    def tell(self, events: Sequence[Any], *, pack: int = 1) -> Watched:
        records = []
        for at in range(0, len(events), pack):
            some = events[at : at + pack]
            value = b"[" + b",".join(map(encode, some)) + b"]"
            append = max(time_us(some[-1].time), self.log[-1].append_us if self.log else 0)
            records.append(Record(0, len(self.log), append, None, value))
            self.log.append(records[-1])
        return self.fold(records)

    def fold(self, records: Sequence[Record], resolve: Any = None) -> Watched:
        self.found += [one for one, _ in self.shard.fold(records, resolve).findings]
        return self

    def status(self, week: int, store: str) -> set[int]:
        """Status of a store's series in a week."""
        panel = self.shard.panel
        bucket = self.shard.calendar.index(time_us(START + week * WEEK))
        ring = panel.status(bucket)
        return {int(ring[row]) for key, row in panel.rows.items() if key[0] == store}

    def state(self, source: str) -> str:
        guard = self.shard.guard
        every = standings(list(guard.rows), guard.arrays, guard.warm)
        return {one.source: one.state for one in every}[source]


def watched(events: Sequence[Any] = (), *, pack: int = 1, **changed: Any) -> Watched:
    return Watched(Shard(deployment(**changed), 0)).tell(events, pack=pack)


@pytest.fixture(scope="module")
def poisoned() -> list[Sale]:
    return wrong(weeks(0, WRONG + 3), "b", twelvefold)


def test_nobody_is_named_in_calm_weeks_nor_when_all_move_together() -> None:
    sales = weeks(0, 26)
    for week in (14, 20):
        sales = [
            of(one, quantity=one.quantity * 3) if (one.time - START) // WEEK == week else one
            for one in sales
        ]
    one = watched(sales)
    assert one.found == []
    assert {one.state(source) for source in SOURCES} == {"ok"}


def test_no_sales_at_all_is_the_least_that_is_usual_of_a_source_long_silent() -> None:
    few = [one for one in weeks(0, 3, ("d",)) if one.id.endswith(("-0", "-20"))]
    calm = [*weeks(0, 40, ("a", "b", "c")), *few]
    one = watched(sorted(calm, key=lambda sale: sale.time), pack=50)
    guard, last = one.shard.guard, one.shard.panel.last
    assert last is not None
    # Its silence adds up to nothing lacked, and two sales are not far from none.
    assert guard._usual(last + 1)[guard.rows["d"], SALES] == 0.0
    assert guard.arrays["score"][guard.rows["d"]] == 0.0
    every = standings(list(guard.rows), guard.arrays, guard.warm)
    assert next(each for each in every if each.source == "d").text.startswith("units 0, ")
    assert one.found == []


def test_a_source_that_counts_twelvefold_is_withheld_before_it_is_learned_from(
    poisoned: list[Sale],
) -> None:
    one = watched(poisoned)
    (finding,) = one.found
    assert (finding.source, finding.state, finding.held) == ("b", "quarantined", True)
    assert finding.found > 6 * finding.usual
    assert finding.id in one.shard.operations
    (rule,) = one.shard.rules
    assert (rule.operation, rule.kind, rule.what.sources) == (finding.id, "quarantined", ("b",))
    # Its week, and those after, are missing; the others' are not.
    assert one.status(WRONG, "store-b") == one.status(WRONG + 1, "store-b") == {MISSING}
    assert one.status(WRONG, "store-a") == {OBSERVED}
    counts = one.shard.window.counts["b"]
    assert counts[0] == 40 * WRONG and sum(counts) == 40 * (WRONG + 3)
    # As if it had never come: all that is known equals what a shard knows that only saw gaps.
    never = watched(guard="off")
    for sale in poisoned:
        if sale.source == "b" and sale.time >= START + WRONG * WEEK:
            never.shard.window.miss(sale.store, sale.product, time_us(sale.time), feed=True)
        else:
            never.tell([sale])
    assert list(facts(one.shard)) == list(facts(never.shard))
    assert one.shard.forecast().tobytes() == never.shard.forecast().tobytes()


def test_with_warn_it_is_learned_and_named_once_and_let_off_when_it_behaves() -> None:
    sales = wrong(weeks(0, WRONG + 8), "b", lambda one, n: twelvefold(one, n) if n < 2 else [one])
    one = watched(sales, guard="warn")
    (finding,) = one.found
    assert (finding.state, finding.held) == ("suspect", False)
    assert one.shard.rules == [] and one.shard.operations == {}
    assert one.shard.counts()["quarantined"] == 0
    assert one.status(WRONG, "store-b") == {OBSERVED}
    assert one.state("b") == "ok"


def test_with_off_nothing_is_judged(poisoned: list[Sale]) -> None:
    one = watched(poisoned, guard="off")
    assert one.found == [] and not one.shard.guard.rows


def again(one: Sale, after: int) -> list[Sale]:
    return [one, of(one, id=f"again {one.id}")]


def stuck() -> Fault:
    known: dict[str, float | None] = {}
    return lambda one, n: [of(one, price=known.setdefault(one.product, one.price))]


FAULTS: dict[str, tuple[Fault, str, int]] = {
    "hundredfold": (lambda one, n: [of(one, quantity=100 * one.quantity)], "size", 0),
    "twice under new ids": (again, "twice", 0),
    "twice under the same ids": (lambda one, n: [one, one], "again", 0),
    "silence": (lambda one, n: [], "sales", 0),
    "another currency": (lambda one, n: [of(one, price=9 * (one.price or 0))], "price", 0),
    "stuck prices": (stuck(), "stuck", 3),
    "a drift": (lambda one, n: [of(one, quantity=one.quantity * 1.2 ** (n + 1))], "", 7),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_its_source_named(fault: str) -> None:
    make, statistic, most = FAULTS[fault]
    one = watched(wrong(weeks(0, WRONG + most + 2), "b", make))
    (finding,) = one.found
    assert finding.source == "b"
    assert finding.statistic == statistic or not statistic
    week = finding.bucket - one.shard.calendar.index(time_us(START))
    assert WRONG <= week <= WRONG + most
    # Ids that come again are removed anyway, and of silence there is nothing to withhold.
    assert finding.held == (fault not in ("twice under the same ids", "silence"))


def test_a_new_source_that_spoils_others_series_is_named_and_not_they() -> None:
    sales = wrong(
        weeks(0, WRONG + 2), "b",
        lambda one, n: [one, of(one, id=f"x {one.id}", source="x", quantity=12 * one.quantity)],
    )  # fmt: skip
    one = watched(sales)
    assert [(each.source, each.statistic, each.held) for each in one.found] == [
        ("x", "model", True)
    ]
    assert one.status(WRONG, "store-b") == {2}  # censored: what remained is a lower bound


def test_a_source_that_takes_over_from_another_is_not_at_fault() -> None:
    sales = wrong(weeks(0, WRONG + 3), "b", lambda one, n: [of(one, source="b2")])
    one = watched(sales)
    assert one.found == []


def test_batches_packing_and_a_snapshot_at_any_place_change_nothing(poisoned: list[Sale]) -> None:
    wanted = watched(poisoned)
    (finding,) = wanted.found
    for pack in (7, 160):
        packed = watched(poisoned, pack=pack)
        assert packed.found == [finding]
        assert packed.shard.digest() == wanted.shard.digest()
    trip = wanted.shard.rules[0].start
    for at in (trip - 90, trip - 1, trip, trip + 1, trip + 90):
        half = Watched(Shard(deployment(), 0)).fold(wanted.log[:at])
        again = Watched(take_up(deployment(), 0, lay_down(half.shard)), found=half.found)
        again.fold(wanted.log[at:])
        assert again.found == [finding]
        assert again.shard.rules == wanted.shard.rules
        assert again.shard.operations == wanted.shard.operations
        assert again.shard.digest() == wanted.shard.digest()


def test_arrival_within_grace_leaves_no_trace(poisoned: list[Sale]) -> None:
    one, other = watched(grace_s=86400), watched(grace_s=86400)
    one.tell(poisoned)
    drawn = np.random.default_rng(3)
    late = {n: sale.time + timedelta(hours=float(drawn.uniform(0, 20)))
            for n, sale in enumerate(poisoned)}  # fmt: skip
    order = sorted(range(len(poisoned)), key=late.__getitem__)
    for n in order:
        value = encode(poisoned[n])
        other.log.append(Record(0, len(other.log), time_us(late[n]), None, value))
    other.fold(other.log)
    assert one.found == other.found != []
    last = [of(poisoned[-1], id="last", time=late[order[-1]] + timedelta(days=1))]
    assert one.tell(last).shard.digest() == other.tell(last).shard.digest()


def test_what_is_readmitted_is_learned_and_then_usual(poisoned: list[Sale]) -> None:
    one = watched(poisoned)
    (finding,) = one.found
    start = one.shard.rules[0].start

    def resolve(id: str) -> Effect:
        cut = Shard(deployment(), 0)
        cut.fold(one.log[: start - 100])
        return Turn(order=1, snapshot="s", shard=cut, exclude=None, readmits=finding.id,
                    admit_late=False)  # fmt: skip

    marker = Marker(id="readmit", source="salescast", time=poisoned[-1].time)
    until = len(one.log)
    log = [*one.log, Record(0, until, one.log[-1].append_us, None, encode(marker))]
    folded = one.shard.fold(log[until:], resolve)
    assert folded.turn is not None
    back = Watched(folded.turn.shard, log=log)
    back.fold(log[back.shard.position :])
    assert back.shard.replay is None and back.found == []
    assert back.status(WRONG, "store-b") == back.status(WRONG + 1, "store-b") == {OBSERVED}
    assert back.state("b") == "ok"
    # It goes on as it was readmitted, and is judged by its new past once that is long enough.
    more = wrong(weeks(WRONG + 3, WRONG + 16), "b", twelvefold)
    assert back.tell(more).found == []
    worse = wrong(weeks(WRONG + 16, WRONG + 18), "b", lambda one, n: [of(one, quantity=150.0)])
    assert [each.source for each in back.tell(worse).found] == ["b"]


def test_a_standing_quarantine_outlasts_a_replay_for_another_reason(poisoned: list[Sale]) -> None:
    one = watched(poisoned)
    (finding,) = one.found

    def resolve(id: str) -> Effect:
        return Turn(order=1, snapshot="start", shard=Shard(deployment(), 0), exclude=None,
                    readmits=None, admit_late=False)  # fmt: skip

    marker = Marker(id="again", source="salescast", time=poisoned[-1].time)
    until = len(one.log)
    log = [*one.log, Record(0, until, one.log[-1].append_us, None, encode(marker))]
    before = one.shard.digest()
    folded = one.shard.fold(log[until:], resolve)
    assert folded.turn is not None
    back = Watched(folded.turn.shard, log=log).fold(log)
    assert back.found == [finding], "the same fold finds the same again, under the same id"
    assert back.shard.digest() == before
    assert [rule.operation for rule in back.shard.rules] == [finding.id]


def test_an_id_says_where_and_whom() -> None:
    assert identity(1, "a", 7) == identity(1, "a", 7)
    assert len({identity(p, s, b) for p in (0, 1) for s in ("a", "b") for b in (7, 8)}) == 8
