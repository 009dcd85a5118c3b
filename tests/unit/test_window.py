"""The window: identities, voids, lateness, the watermark, and what a close is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.buckets import Calendar
from stream.event import AnyEvent, Plan, Refusal, Sale, encode, time_us
from stream.log import Record, partition_of
from stream.window import OUTCOMES, Closed, Key, Letter, Window
from tests.learner_parts import chosen, complete, day, plan, sale, tick, void

MICRO = 1_000_000


@dataclass(slots=True)
class Watched:
    """A window, what its closes were given, and the series that they listed."""

    changed: dict[str, Any]
    reach: int = 85
    most: int = 1_000_000
    closed: list[Closed] = field(default_factory=list)
    applied: list[AnyEvent] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    rows: set[Key] = field(default_factory=set)
    offset: int = 0
    window: Window = field(init=False)

    def __post_init__(self) -> None:
        settings = chosen(**self.changed)
        self.window = Window(settings, Calendar(settings), 0, self.rows.__contains__, self.reach)

    def tell(self, *events: AnyEvent, append: Any = None) -> None:
        for event in events:
            self.tell_bytes(encode(event), append or event.time)

    def tell_bytes(self, value: bytes, append: Any) -> None:
        record = Record(0, self.offset, time_us(append), None, value)
        self.offset += 1
        self.letters += self.window.fold([record], close=self._close, apply=self._apply)

    def _close(self, closed: Closed) -> Sequence[Key]:
        self.closed.append(closed)
        late = {key for cells in closed.revisions.values() for key in cells}
        new = sorted((closed.cells.keys() | late) - self.rows)
        room = max(self.most - len(self.rows), 0)
        self.rows.update(new[:room])
        return new[room:]

    def _apply(self, event: AnyEvent, record: Record) -> Refusal | bool:
        self.applied.append(event)
        return True

    @property
    def counts(self) -> dict[str, int]:
        lines = self.window.counts.values()
        return {name: n for name, n in zip(OUTCOMES, map(sum, zip(*lines, strict=True)),
                                           strict=False) if n}  # fmt: skip

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return [(letter.offset, letter.reason) for letter in self.letters]

    def bucket(self, n: float) -> int:
        return self.window.calendar.index(time_us(day(n)))

    def gross(self, n: float, store: str = "s", product: str = "p") -> int:
        """Gross of an open bucket, in millionths."""
        return self.window.open[self.bucket(n)].cells[store, product][0]


def watched(*events: AnyEvent, reach: int = 85, most: int = 1_000_000, **changed: Any) -> Watched:
    one = Watched(changed, reach=reach, most=most)
    one.tell(*events)
    return one


# -- time ----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=12))
def test_watermark_never_moves_back(times: list[tuple[int, int]]) -> None:
    one = watched(grace_s=3600)
    marks = []
    for n, (hour, append) in enumerate(times):
        event = sale(0, 1, id=str(n), hour=hour)
        one.tell(event, append=day(0, append))
        marks.append(one.window.watermark_us)
    assert marks == sorted(marks)
    said = [min(hour, append) - 1 for hour, append in times if hour <= append + 24]
    if said:
        assert one.window.watermark_us == time_us(day(0, max(said)))


def test_watermark_is_grace_behind_the_lesser_of_event_and_append_time() -> None:
    one = watched(grace_s=7200)
    one.tell(sale(3, hour=12), append=day(3, 10))
    assert one.window.watermark_us == time_us(day(3, 8))


def test_a_bucket_closes_when_the_watermark_reaches_its_end_and_no_sooner() -> None:
    one = watched(sale(0), grace_s=3600)
    one.tell(msgspec.structs.replace(tick(1, 1), time=day(1, 1) - timedelta(microseconds=1)))
    assert one.closed == []
    one.tell(tick(1, hour=1))
    assert [closed.bucket for closed in one.closed] == [one.bucket(0)]


def test_each_bucket_closes_once_and_in_order() -> None:
    one = watched(*(sale(n) for n in (0, 3, 2.9, 3, 7, 7, 20)), tick(40))
    assert [c.bucket for c in one.closed] == list(range(one.bucket(0), one.bucket(40)))


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (sale(90, store="away"), "misrouted"),
        (msgspec.structs.replace(sale(90), store="*"), "misrouted"),
        (msgspec.structs.replace(sale(0), time=day(-20_000)), "out_of_range"),
    ],
)
def test_a_misplaced_item_is_refused_before_it_moves_time(event: Sale, reason: str) -> None:
    assert partition_of("away", 4) != 0
    home = next(name for name in "abcdefgh" if partition_of(name, 4) == 0)
    one = watched(sale(0, store=home), partitions=4)
    mark = one.window.watermark_us
    if reason == "out_of_range":
        event = msgspec.structs.replace(event, store=home)
    one.tell(event, append=day(90))
    assert one.reasons == [(1, reason)]
    assert one.window.watermark_us == mark
    assert one.counts == {"learned": 1, "refused": 1}


def test_a_future_dated_item_is_refused_before_it_moves_time() -> None:
    one = watched(sale(0), max_future_s=3600)
    edge = sale(2, id="edge", hour=13)
    past = msgspec.structs.replace(edge, id="past", time=edge.time + timedelta(microseconds=1))
    one.tell(past, complete(5), append=day(2, 12))
    assert one.reasons == [(1, "future_dated"), (2, "future_dated")]
    assert one.window.watermark_us == time_us(day(0))
    one.tell(edge, append=day(2, 12))
    assert one.window.watermark_us == time_us(day(2, 12))
    assert one.gross(2) == MICRO


def test_an_id_conflict_does_not_move_time() -> None:
    one = watched(sale(0, id="1"), sale(5, id="1"))
    assert one.reasons == [(1, "id_conflict")]
    assert one.window.watermark_us == time_us(day(0))


def test_a_plan_does_not_move_time() -> None:
    one = watched(sale(0), plan("p", 50, 60, said=40, promotion=1.0))
    assert one.window.watermark_us == time_us(day(0))
    assert one.counts == {"learned": 1, "applied": 1}
    assert [type(event) for event in one.applied] == [Plan]


def test_a_tick_closes_but_never_observes() -> None:
    one = watched(sale(0), tick(1), tick(3))
    assert [(c.bucket, c.alive) for c in one.closed] == [
        (one.bucket(0), {"s"}), (one.bucket(1), set()), (one.bucket(2), set())
    ]  # fmt: skip


def test_complete_keeps_its_own_store_alive_up_to_its_time_and_no_further() -> None:
    one = watched(sale(0), sale(0, store="b"), complete(2), tick(4))
    alive = {c.bucket - one.bucket(0): c.alive for c in one.closed}
    assert alive == {0: {"s", "b"}, 1: {"s"}, 2: set(), 3: set()}


def test_one_sale_keeps_the_later_hours_of_its_business_day_alive() -> None:
    one = watched(sale(0, hour=9), tick(1, hour=2), bucket="hour")
    alive = [bool(c.alive) for c in one.closed]
    assert alive == [True] * 15 + [False] * 2


# -- identities ----------------------------------------------------------------------------


def test_a_retry_is_a_duplicate_however_it_is_formatted() -> None:
    first = sale(0, 2, price=1.5)
    one = watched(first, first, msgspec.structs.replace(first, x={"attempt": 3}))
    one.tell_bytes(encode(first).replace(b"2.0", b"2.00"), first.time)
    assert one.counts == {"learned": 1, "duplicate": 3}
    assert one.gross(0) == 2 * MICRO


def test_the_first_of_two_contents_under_one_id_wins() -> None:
    one = watched(sale(0, 2, id="1"), sale(0, 5, id="1"), sale(0, 2, id="1", price=1.0))
    assert one.counts == {"learned": 1, "refused": 2}
    assert one.reasons == [(1, "id_conflict"), (2, "id_conflict")]
    assert one.gross(0) == 2 * MICRO


def test_ids_of_two_sources_do_not_meet() -> None:
    one = watched(sale(0, id="1"), sale(0, id="1", source="web"))
    run_together = (sale(0, source="a", id="b1"), sale(0, source="ab", id="1"))
    one.tell(*run_together)
    assert one.counts == {"learned": 4}


def test_identities_are_forgotten_with_their_buckets_last_chance_of_a_revision() -> None:
    first = sale(0)
    one = watched(first, tick(1), revise_buckets=2)
    for n in (2, 3):
        one.tell(first, tick(n))
    assert one.counts["duplicate"] == 2
    assert not one.window.seen and not one.window.seen_in
    one.tell(first)
    assert one.counts["late"] == 1


# -- voids ---------------------------------------------------------------------------------


def test_a_void_before_its_sale_leaves_nothing_behind() -> None:
    gone = sale(0, 3, price=2.0)
    one = watched(void(gone), gone)
    assert one.window.open == {}
    assert one.counts == {"void": 2}
    one.tell(tick(1))
    assert one.closed[-1].cells == {} and one.closed[-1].alive == set()


def test_a_pair_counts_as_void_in_either_order() -> None:
    gone = sale(0, 3, price=2.0)
    for order in ((gone, void(gone)), (void(gone), gone)):
        one = watched(sale(0, 1))
        one.tell(*order)
        assert one.counts == {"learned": 1, "void": 2}
        assert one.gross(0) == MICRO


def test_a_second_void_and_a_retry_of_a_voided_sale_are_duplicates() -> None:
    gone = sale(0)
    one = watched(gone, void(gone), void(gone), void(gone, "another"), gone)
    assert one.counts == {"void": 2, "duplicate": 3}
    assert one.window.open == {}


def test_a_void_that_does_not_repeat_its_sale_is_refused_and_takes_nothing_out() -> None:
    kept = sale(0, 3)
    one = watched(kept, msgspec.structs.replace(void(kept), quantity=2.0))
    assert one.reasons == [(1, "void_mismatch")]
    assert one.gross(0) == 3 * MICRO
    one.tell(void(kept))
    assert one.window.open == {}, "a refused void is not remembered under its id"


def test_a_void_of_a_closed_bucket_is_taken_out_as_a_revision() -> None:
    gone = sale(0, 3)
    one = watched(gone, sale(0, 1), tick(1), void(gone), tick(2))
    assert one.closed[0].cells["s", "p"][0] == 4 * MICRO
    assert one.closed[1].revisions == {one.bucket(0): {("s", "p"): [-3 * MICRO, 0, 0, 0, -1, 0]}}
    assert one.counts == {"learned": 1, "void": 2, "applied": 2}


def test_a_revised_sale_voided_before_the_next_close_leaves_no_revision() -> None:
    straggler = sale(0, 3)
    one = watched(sale(0), tick(1), straggler, void(straggler), tick(2))
    assert one.closed[1].revisions == {}
    assert one.counts == {"learned": 1, "void": 2, "applied": 2}


# -- lateness ------------------------------------------------------------------------------


def test_an_event_is_learned_then_revised_then_late_as_its_bucket_ages() -> None:
    one = watched(sale(0, id="1"), revise_buckets=2)
    for n in (1, 2, 3):
        one.tell(tick(n), sale(0, id=f"after {n}"))
    assert one.counts == {"learned": 1, "revised": 2, "late": 1, "applied": 3}
    assert one.reasons == [(6, "late")]


def test_nothing_is_revised_where_settings_allow_no_revision() -> None:
    one = watched(sale(0), tick(1), sale(0, 2), void(sale(0, 2)), revise_buckets=0)
    assert one.counts == {"learned": 1, "late": 2, "applied": 1}
    assert one.window.revisions == {}


# -- sums ----------------------------------------------------------------------------------


def test_a_tenth_a_thousand_times_is_a_hundred() -> None:
    one = watched(*(sale(0, 0.1, id=str(n), price=0.1) for n in range(1000)))
    cell = one.window.open[one.bucket(0)].cells["s", "p"]
    assert cell == [100 * MICRO, 0, 10 * MICRO, 100 * MICRO, 1000, 100 * MICRO]


def test_a_return_is_no_negative_sale() -> None:
    one = watched(sale(0, 5, price=2.0), sale(0, -2, price=2.0))
    assert one.window.open[one.bucket(0)].cells["s", "p"] == [
        5 * MICRO, 2 * MICRO, 10 * MICRO, 5 * MICRO, 2, 5 * MICRO
    ]  # fmt: skip


@given(st.permutations(range(7)))
def test_arrival_within_grace_leaves_no_trace_in_a_close(order: list[int]) -> None:
    gone = sale(0, 3, price=0.7)
    stragglers = [sale(0, n / 10, price=0.3) for n in range(1, 6)]
    events: list[AnyEvent] = [gone, void(gone), *stragglers]
    straight, mixed = watched(), watched()
    for at in range(7):
        straight.tell(events[at], append=day(0, 20))
        mixed.tell(events[order[at]], append=day(0, 20))
    for one in (straight, mixed):
        one.tell(tick(1))
    assert straight.closed == mixed.closed
    assert straight.counts == mixed.counts
    assert straight.window.seen == mixed.window.seen


# -- many series, much silence -------------------------------------------------------------


def test_series_past_the_limit_are_refused_in_key_order_with_their_own_offsets() -> None:
    one = watched(
        sale(0, product="c", id="1"), sale(0, product="a", id="2"), sale(0, product="c", id="3"),
        sale(0, product="b", id="4"), most=2,
    )  # fmt: skip
    assert one.letters == []
    one.tell(tick(1))
    assert sorted(one.rows) == [("s", "a"), ("s", "b")]
    assert one.reasons == [(0, "past_max_series"), (2, "past_max_series")]
    assert one.counts == {"learned": 2, "refused": 2, "applied": 1}


def test_the_limit_is_by_key_whatever_came_first() -> None:
    events = [sale(0, product=name) for name in "dbca"]
    for order in (events, events[::-1]):
        one = watched(*order, tick(1), most=2)
        assert sorted(one.rows) == [("s", "a"), ("s", "b")]


def test_a_sale_refused_for_the_limit_is_not_remembered() -> None:
    one = watched(sale(0, product="a"), sale(0, product="b"), tick(1), most=1)
    one.tell(sale(0, product="b"))
    assert one.counts == {"learned": 1, "refused": 1, "applied": 1, "revised": 1}


def test_a_late_sale_past_the_limit_is_refused_at_the_next_close_and_not_remembered() -> None:
    one = watched(sale(0, product="a"), tick(1), sale(0, product="b", id="late"), most=1)
    assert one.counts == {"learned": 1, "applied": 1, "revised": 1}
    one.tell(sale(1, product="a"), tick(2))
    assert one.reasons == [(2, "past_max_series")]
    assert one.counts == {"learned": 2, "applied": 2, "refused": 1}
    one.tell(sale(0, product="b", id="late"))
    assert one.counts["revised"] == 1, "sent again it is no duplicate"


def test_a_first_sale_and_a_revision_say_which_earlier_hours_were_zero() -> None:
    one = watched(sale(0, hour=3), tick(0, hour=4), sale(0, hour=6), tick(0, hour=7), bucket="hour")
    midnight = one.bucket(0) - 12
    assert one.closed[-1].woken == {}, "it was alive before"
    one.tell(sale(1, hour=2), tick(1, hour=3))
    assert one.closed[-1].woken == {midnight + 24 + hour: {"s"} for hour in range(2)}
    one.tell(tick(2, hour=1), sale(1, hour=23, id="late"), tick(2, hour=2))
    assert one.closed[-1].woken == {midnight + 24 + hour: {"s"} for hour in range(24)}


def test_five_years_of_silence_are_passed_in_a_reach_of_closes() -> None:
    one = watched(sale(0), reach=745, bucket="hour")
    one.tell(sale(5 * 365, hour=13))
    assert len(one.closed) <= 745 + 1 + 48, "hours are learned a day late"
    assert one.closed[-1].bucket == one.bucket(5 * 365)
    assert one.closed[0].cells, "what was open when silence began is closed, not skipped"
    jumps = [b.bucket - a.bucket for a, b in zip(one.closed, one.closed[1:], strict=False)]
    assert sum(jump > 1 for jump in jumps) == 1


def test_silence_passes_no_open_bucket_and_no_revision() -> None:
    one = watched(sale(0, hour=1), tick(0, hour=2), sale(0, 2, hour=1), reach=10, bucket="hour")
    one.tell(sale(0, hour=20, id="ahead"), append=day(0, 3))
    one.tell(tick(30))
    cells = {c.bucket: c.cells for c in one.closed if c.cells}
    assert len(cells) == 2
    assert sum(len(c.revisions) for c in one.closed) == 1


def test_sources_past_the_limit_share_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.window.MAX_SOURCES", 2)
    gone = sale(0, source="d")
    one = watched(sale(0, source="a"), sale(0, source="b"), sale(0, source="c"), gone, void(gone))
    assert set(one.window.counts) == {"a", "b", "*"}
    assert one.counts == {"learned": 3, "void": 2}


def test_stores_that_nobody_hears_of_are_forgotten_with_the_rings() -> None:
    one = watched(sale(0), complete(0), reach=10)
    one.tell(*(tick(n) for n in range(11)))
    assert one.window.alive.last_day and one.window.alive.complete_us
    one.tell(tick(14))
    assert (one.window.alive.last_day, one.window.alive.complete_us) == ({}, {})


def test_what_cannot_be_decoded_is_kept_aside_item_by_item() -> None:
    one = watched(sale(0))
    one.tell_bytes(b'[{"type":"sail"},' + encode(sale(0, 2)) + b",7]", day(0))
    assert [(x.offset, x.item, x.reason) for x in one.letters] == [
        (1, 0, "unknown_type"), (1, 2, "invalid_field")
    ]  # fmt: skip
    assert one.counts == {"learned": 2, "refused": 2}
    assert one.window.refused == {"unknown_type": 1, "invalid_field": 1}


def test_a_partition_is_live_once_an_event_was_fresh_when_appended() -> None:
    one = watched(live_edge_s=3600)
    one.tell(sale(0, hour=10), append=day(0, 11))
    assert not one.window.live, "loading history is not idleness"
    one.tell(sale(0, hour=10.5), append=day(0, 11))
    assert one.window.live


# -- how a bucket came -----------------------------------------------------------------------


def test_a_bucket_knows_by_store_how_many_sales_came_in_each_slot_and_what_came_early() -> None:
    gone = sale(0, 9, id="gone", hour=3)
    one = watched(
        sale(0, 2, hour=9.5), sale(0, 3, hour=15.9, store="t"), sale(0, 4, hour=16, product="q"),
        sale(0, 5, hour=9.2), sale(0, -1, hour=20), gone, void(gone), sale(0, 2, hour=9.5),
    )  # fmt: skip
    found = one.window.open[one.bucket(0)]
    assert {store: [(at, n) for at, n in enumerate(line) if n] for store, line in
            found.heard.items()} == {"s": [(9, 2), (16, 1), (20, 1)], "t": [(15, 1)]}  # fmt: skip
    assert {key: cell[5] for key, cell in found.cells.items()} == {
        ("s", "p"): 7 * MICRO, ("s", "q"): 0, ("t", "p"): 3 * MICRO,
    }  # fmt: skip
    one.tell(tick(1))
    assert one.closed[0].heard == found.heard
