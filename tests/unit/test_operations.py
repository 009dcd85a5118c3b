"""Operations as values: which snapshots a cut names, and what the audit trail says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from learner.operations import (
    GUARD,
    Candidate,
    Operation,
    Outcome,
    as_served,
    choose_cut,
    decode_control,
    history,
    overruled,
)
from learner.ownership import pinned
from learner.replay import Exclusion

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
#: Two partitions with three and two snapshots; ids do not sort as positions do.
KEPT = [
    Candidate(1, "d", 15, 1, 4),
    Candidate(0, "c", 10, 1, 5),
    Candidate(0, "a", 30, 1, 12),
    Candidate(0, "b", 20, 1, 9),
    Candidate(1, "e", 25, 1, 8),
]


def operation(id: str = "op", **changed: Any) -> Operation:
    values: dict[str, Any] = {
        "kind": "rollback",
        "who": "ann",
        "reason": "drift",
        "cut": {0: "a", 1: "d"},
    }
    return Operation(id=id, time=NOON, **(values | changed))


def outcome(partition: int, said: Any = "applied", **changed: Any) -> Outcome:
    values: dict[str, Any] = {"operation": "op", "time": NOON, "offset": 7}
    return Outcome(partition=partition, outcome=said, **(values | changed))


def told(*items: Operation | Outcome) -> list[tuple[int, bytes]]:
    return [(10 * at, msgspec.json.encode(item)) for at, item in enumerate(items)]


@pytest.mark.parametrize(
    "to_us, cut",
    [
        (30, {0: "a", 1: "e"}),
        (29, {0: "b", 1: "e"}),
        (20, {0: "b", 1: "d"}),
        (19, {0: "c", 1: "d"}),
        (14, {0: "c"}),
        (9, {}),
    ],
)
def test_a_cut_by_time_is_the_newest_that_knows_nothing_later(
    to_us: int, cut: dict[int, str]
) -> None:
    assert choose_cut(KEPT, to_us=to_us) == cut


def test_a_cut_without_a_time_is_the_newest_of_all() -> None:
    assert choose_cut(KEPT) == {0: "a", 1: "e"}
    assert choose_cut([]) == {}


def test_a_higher_lineage_is_newer_wherever_it_stands() -> None:
    replayed = Candidate(0, "r", 20, 2, 3)
    assert choose_cut([*KEPT, replayed]) == {0: "r", 1: "e"}
    assert choose_cut([replayed, *KEPT]) == {0: "r", 1: "e"}


def test_what_a_replay_was_on_its_way_was_never_served() -> None:
    unfinished = Candidate(0, "u", 10, 2, 2, finished=False)
    ended = Candidate(0, "r", 31, 2, 13)
    kept = [unfinished, ended, *KEPT[1:4]]
    cuts = {to_us: choose_cut(as_served(kept), to_us=to_us) for to_us in (9, 10, 30, 31)}
    assert cuts == {9: {}, 10: {0: "c"}, 30: {0: "a"}, 31: {0: "r"}}
    assert as_served([unfinished]) == []


def test_a_replay_that_knows_less_is_served_only_after_what_it_came_after() -> None:
    """What it leaves out had moved time, so it ended at an earlier one."""
    kept = [*KEPT[1:4], Candidate(0, "r", 18, 2, 13), Candidate(0, "s", 19, 2, 14)]
    cuts = {to_us: choose_cut(as_served(kept), to_us=to_us) for to_us in (18, 29, 30)}
    assert cuts == {18: {0: "c"}, 29: {0: "b"}, 30: {0: "s"}}


def test_a_named_cut_leaves_out_partitions_of_which_none_is_named() -> None:
    assert choose_cut(KEPT, named=["b"]) == {0: "b"}
    assert choose_cut(KEPT, named=["d", "c"]) == {0: "c", 1: "d"}
    assert choose_cut(KEPT, named=["unheard of"]) == {}


def test_names_go_before_a_time() -> None:
    assert choose_cut(KEPT, to_us=9, named=["a"]) == {0: "a"}


def test_a_cut_is_in_order_of_partitions() -> None:
    assert list(choose_cut(KEPT, to_us=20)) == [0, 1]


def test_what_is_written_to_the_control_log_is_read_back() -> None:
    for item in (operation(), outcome(1, "refused", detail="no such snapshot", offset=None)):
        assert decode_control(msgspec.json.encode(item)) == item


@pytest.mark.parametrize(
    "value",
    [
        b"", b"{}", b"[]", b'{"type": "operation"}',
        msgspec.json.encode(operation()).replace(b"rollback", b"erase"),
        msgspec.json.encode(operation()).replace(b'"who"', b'"why"'),
        msgspec.json.encode(operation(reason="")),
        msgspec.json.encode(outcome(0)).replace(b"applied", b"perhaps"),
    ],
)  # fmt: skip
def test_what_is_no_operation_is_not_taken_for_one(value: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_control(value)


def test_a_record_with_an_offset_that_no_snapshot_can_hold_is_passed_over() -> None:
    bad = msgspec.json.encode(operation("bad", exclude=Exclusion(offsets={0: (0, 7)})))
    bad = bad.replace(b"[0,7]", b"[0,%d]" % 10**22)
    good = msgspec.json.encode(operation("good"))
    assert list(history([(0, bad), (1, good)])) == ["good"]


def test_the_first_record_of_an_id_counts() -> None:
    first, second = operation(reason="drift"), operation(reason="another", cut={0: "b"})
    entries = history(told(operation("before"), first, second))
    assert list(entries) == ["before", "op"]
    assert entries["op"].operation == first
    assert entries["op"].offset == 10


def test_the_first_outcome_of_a_partition_counts() -> None:
    entries = history(
        told(operation(), outcome(0), outcome(0, "refused"), outcome(1), outcome(1, offset=99))
    )
    assert entries["op"].outcomes == (outcome(0), outcome(1))


def test_an_outcome_of_an_operation_nobody_asked_for_is_passed_over() -> None:
    assert history(told(outcome(0), operation()))["op"].outcomes == ()
    assert history(told(outcome(0))) == {}


@pytest.mark.parametrize(
    "outcomes, state",
    [
        ([], "pending"),
        ([outcome(0)], "pending"),
        ([outcome(0, "refused")], "pending"),
        ([outcome(1), outcome(5)], "pending"),
        ([outcome(0), outcome(1)], "applied"),
        ([outcome(1), outcome(0, "refused")], "refused"),
        ([outcome(0, "refused"), outcome(1, "refused")], "refused"),
    ],
)
def test_an_operation_is_pending_until_every_partition_has_an_outcome(
    outcomes: list[Outcome], state: str
) -> None:
    assert history(told(operation(), *outcomes))["op"].state == state


@pytest.mark.parametrize(
    "before, stands",
    [
        ([], False),
        ([operation("f", kind="freeze")], True),
        ([operation("f", kind="freeze", cut={1: "d"})], False),
        ([operation("f", kind="freeze"), operation("r", kind="resume")], False),
        ([operation("f", kind="freeze"), operation("r", kind="resume", cut={1: "d"})], True),
        ([operation("f", kind="freeze"), outcome(0, "refused", operation="f")], False),
        ([operation("f", kind="freeze"), outcome(1, "refused", operation="f")], True),
        ([operation("f"), operation("g", kind="suspect", who=GUARD)], False),
    ],
)
def test_only_a_freeze_that_stands_keeps_the_guard_from_freezing(
    before: list[Any], stands: bool
) -> None:
    late = operation("later", kind="freeze")
    trips = [operation(who, kind="freeze", who=who) for who in (GUARD, "ann")]
    entries = history(told(*before, *trips, late))
    assert bool(overruled(entries[GUARD], entries.values(), 0)) == stands
    assert overruled(entries["ann"], entries.values(), 0) == "", "people may freeze otherwise"


def test_what_changes_nothing_pins_no_snapshot() -> None:
    kinds: tuple[Any, ...] = ("resume", "promote", "suspect", "freeze", "rollback", "quarantine")
    made = [operation(kind, kind=kind, cut={0: f"of {kind}"}) for kind in kinds]
    assert pinned(history(told(*made))) == {"of freeze", "of rollback", "of quarantine"}


def test_a_freeze_pins_its_snapshot_until_it_is_carried_out_there() -> None:
    """Then it is active, which no store deletes; once it is resumed, nobody needs it again."""
    asked = operation(kind="freeze")
    assert pinned(history(told(asked))) == {"a", "d"}
    assert pinned(history(told(asked, outcome(1)))) == {"a"}
    assert pinned(history(told(asked, outcome(1), outcome(0, "refused")))) == set()
    assert pinned(history(told(operation(), outcome(0), outcome(1)))) == {"a", "d"}
