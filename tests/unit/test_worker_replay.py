"""Replays by the worker, on a real log and a real store: what is served meanwhile, and crashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from learner import worker as module
from learner.keys import load_signer
from learner.manifest import read_manifest
from learner.operations import Operation
from learner.replay import START, Exclusion, passing
from learner.shard import Shard
from learner.snapshot import read_shard
from learner.worker import Worker
from stream.errors import LogUnavailable
from stream.event import Sale, decode
from stream.log import Entry
from tests.learner_parts import day
from tests.unit.test_worker import (
    Place,
    home,
    marker,
    running,
    step_until,
    stepping,
    two_stores,
    until,
)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries, and snapshots of a shard whose buckets close, wait hundredths of a second."""
    for name in ("RETRY_S", "MIN_INTERVAL_S", "POLL_S"):
        monkeypatch.setattr(module, name, 0.02)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place.at(tmp_path)
    yield one
    one.close()


def poison(days: int, first: int) -> list[Sale]:
    """Sales of a source that counts twelvefold."""
    return [
        msgspec.structs.replace(one, id=f"bad {one.id}", source="bad", quantity=12 * one.quantity)
        for one in two_stores(days, first=first)
    ]


def operate(place: Place, id: str, cut: dict[int, str], kind: Any = "rollback", **more: Any) -> int:
    """Ask for an operation and put its markers; the offset of the home partition's."""
    operation = Operation(
        id=id, kind=kind, who="tester", reason="a test", time=day(0), cut=cut, **more
    )
    place.control.append([Entry(0, None, msgspec.json.encode(operation))])
    at = {partition: place.put(marker(id), partition=partition)[0] for partition in cut}
    return at[home()]


def heads(place: Place) -> dict[int, str]:
    return {partition: place.head(partition).snapshot for partition in range(2)}


def plain(place: Place, cut: str, what: Exclusion, end: int) -> Shard:
    """The cut's shard, gone on without what is excluded of offsets before ``end``, told of gaps."""
    if cut == START:
        shard = Shard(place.settings, home())
    else:
        verifier = load_signer(place.settings).verifier
        shard = read_shard(place.store, read_manifest(place.store, home(), cut, verifier),
                           place.settings)  # fmt: skip
    for record in place.records(home())[shard.position :]:
        (event,) = decode(record.value)
        if event.__struct_config__.tag == "marker":
            continue
        if isinstance(event, Sale) and event.source in what.sources and record.offset < end:
            at = round(event.time.timestamp() * 1e6)
            shard.window.miss(event.store, event.product, at, feed=True)
            continue
        shard.fold([record])
    return shard


def story(place: Place) -> tuple[dict[int, str], Exclusion, int]:
    """Good days, poisoned days, good days; then a replay without the poison, and more days."""
    place.put(*two_stores(20))
    place.fold()
    cut = heads(place)
    place.put(*poison(6, first=20), *two_stores(4, first=26))
    place.fold()
    what = Exclusion(sources=("bad",))
    at = operate(place, "op", cut, replay=True, exclude=what)
    place.put(*two_stores(3, first=30))
    return cut, what, at


def test_a_replay_ends_as_one_that_never_saw_the_poison(place: Place) -> None:
    cut, what, at = story(place)
    before = heads(place)
    place.fold()
    shard = place.shard(home())
    assert shard.digest() == plain(place, cut[home()], what, at).digest()
    assert shard.replay is None
    assert shard.counts()["excluded"] == 18
    pointers = place.store.pointers(home())
    assert pointers.head == pointers.active and pointers.replaying is None
    assert pointers.head is not None and pointers.head.lineage == 2
    assert [(x[0], x[2]) for x in place.outcomes()] == [("op", "applied")] * 2
    verifier = load_signer(place.settings).verifier
    lineage = [
        one
        for name in place.store.snapshots(home())
        if (one := read_manifest(place.store, home(), name, verifier)).lineage == 2
    ]
    assert lineage[0].parent == cut[home()]
    assert before[home()] not in {one.parent for one in lineage}


def test_what_was_active_is_served_until_the_replay_has_caught_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE", 2)
    place.settings = replace(place.settings, snapshot_interval_s=0.0)
    _, _, at = story(place)
    active = place.store.pointers(home()).active
    worker, seen = place.worker(), []
    move = place.store.move_head

    def watched(partition: int, parent: Any, to: Any, replaying: Any = None) -> bool:
        moved = move(partition, parent, to, replaying)
        if partition == home():
            seen.append(place.store.pointers(partition))
        return moved

    monkeypatch.setattr(place.store, "move_head", watched)
    monkeypatch.setattr(module, "MIN_INTERVAL_S", 0.0)
    done = f'salescast_replay_left_records{{partition="{home()}"}} 0.0'.encode()
    with running(worker):
        until(lambda: place.folded(worker), "a fold")
        until(lambda: done in worker.telemetry.render(), "the metric that says so")
    unfinished = [one for one in seen if one.replaying is not None]
    assert len(unfinished) > 3
    assert {one.active for one in unfinished} == {active}
    assert all(one.replaying.until == at for one in unfinished)  # type: ignore[union-attr]
    positions = [one.head.position for one in unfinished if one.head]
    assert positions == sorted(positions) and positions[-1] <= at
    first = next(one for one in seen[seen.index(unfinished[-1]) :] if one.replaying is None)
    assert first.active == first.head


def test_a_replay_writes_no_dead_letter_twice_and_loses_none(place: Place) -> None:
    place.put(*two_stores(20))
    place.fold()
    cut = heads(place)
    place.events.append([Entry(home(), None, b"no event at all")])
    place.put(*two_stores(3, first=20), *poison(1, first=23))
    place.fold()
    kept = place.kept_aside()
    assert len(kept) == 1
    place.events.append([Entry(home(), None, b"nor is this")])
    operate(place, "op", cut, replay=True, exclude=Exclusion(sources=("bad",)))
    place.events.append([Entry(home(), None, b"nor that")])
    place.fold()
    assert place.kept_aside()[:1] == kept
    assert [value for *_, value in place.kept_aside()] == [
        b"no event at all", b"nor is this", b"nor that",
    ]  # fmt: skip
    shard = place.shard(home())
    assert sum(shard.counts().values()) == shard.position


def test_metrics_count_each_item_once_though_it_is_learned_twice(place: Place) -> None:
    place.put(*two_stores(20))
    place.fold()
    cut = heads(place)
    worker = place.worker()
    with running(worker):
        place.put(*poison(2, first=20), *two_stores(2, first=22))
        until(lambda: place.folded(worker), "a fold")
        operate(place, "op", cut, replay=True, exclude=Exclusion(sources=("bad",)))
        until(lambda: len(place.outcomes()) == 2 and place.folded(worker), "the replay")
        place.put(*two_stores(3, first=24))
        until(lambda: place.folded(worker), "a fold")
    counted = {}
    for line in worker.telemetry.render().decode().splitlines():
        if line.startswith("salescast_items_total{"):
            labels, value = line.rsplit(" ", 1)
            if f'partition="{home()}"' in labels:
                counted[labels.partition('outcome="')[2].partition('"')[0]] = float(value)
    assert counted["excluded"] == 6
    # What the poison was counted as before cannot be taken back; later sales make it up.
    assert counted["learned"] == 6 + 6 + 3
    assert counted["applied"] == 1


def test_a_second_operator_at_the_same_time_is_the_one_that_wins(place: Place) -> None:
    place.put(*two_stores(20))
    place.fold()
    cut = heads(place)
    place.put(*poison(3, first=20))
    operations = [
        Operation(id=name, kind="rollback", who=name, reason="poison", time=day(0), cut=cut,
                  replay=True, exclude=Exclusion(sources=(source,)))
        for name, source in (("first", "nobody"), ("second", "bad"))
    ]  # fmt: skip
    for one in operations:
        place.control.append([Entry(0, None, msgspec.json.encode(one))])
    for partition, order in ((0, ("first", "second")), (1, ("second", "first"))):
        for name in order:
            place.put(marker(name), partition=partition)
    place.fold()
    for partition in range(2):
        shard = place.shard(partition)
        assert shard.replay is None
        assert "second" in shard.operations and shard.counts()["excluded"] == 9
    said = {(x[0], x[1]): (x[2], x[3]) for x in place.outcomes()}
    assert said["first", 1] == ("refused", "a later operation is in force")
    assert said["second", 0][0] == said["second", 1][0] == "applied"


def test_a_marker_repeated_does_not_replay_again(place: Place) -> None:
    cut, what, at = story(place)
    place.fold()
    place.put(marker("op"), marker("op"), partition=home())
    place.put(*two_stores(2, first=33))
    place.fold()
    assert place.head(home()).lineage == 2
    assert place.shard(home()).digest() == plain(place, cut[home()], what, at).digest()


def test_a_readmission_learns_what_was_excluded(place: Place) -> None:
    cut, _, _ = story(place)
    place.fold()
    operate(place, "sorry", cut, kind="readmit", replay=True, readmits="op")
    place.fold()
    shard = place.shard(home())
    assert passing(shard.rules) == () and shard.counts()["excluded"] == 0
    assert shard.digest() == plain(place, START, Exclusion(), 0).digest()
    assert place.head(home()).lineage == 3


def test_late_items_come_back_where_they_are_admitted(place: Place) -> None:
    place.settings = replace(place.settings, revise_buckets=0)
    whole = two_stores(12)
    kept, stragglers = [one for one in whole if one.time != day(7, 9)], whole
    late = [one for one in stragglers if one.time == day(7, 9)]
    place.put(*kept[:24])
    place.fold()
    cut = heads(place)
    place.put(*kept[24:], *late)
    place.fold()
    assert {reason for _, reason, _ in place.kept_aside()} == {"late"}
    operate(place, "op", cut, replay=True, admit_late=True)
    place.fold()
    shard = place.shard(home())
    in_time = Shard(place.settings, home())
    log = place.records(home())
    order = {encoded: n for n, encoded in enumerate(map(msgspec.json.encode, whole))}
    in_time.fold(sorted((r for r in log if r.value in order), key=lambda r: order[r.value]))
    assert shard.digest() == in_time.digest()
    assert shard.counts()["late"] == 0
    assert sum(shard.counts().values()) == shard.position


class Away:
    """A log that cannot be reached the next time its begin is asked for, once it is told so."""

    def __init__(self, log: Any) -> None:
        self.log, self.armed = log, False

    def begin(self) -> dict[int, int]:
        if self.armed:
            self.armed = False
            raise LogUnavailable("the log does not answer")
        return dict(self.log.begin())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


def test_a_log_that_is_away_for_a_moment_refuses_no_operation(place: Place) -> None:
    place.put(*two_stores(8))
    place.fold()
    cut = heads(place)
    place.put(*poison(2, first=8))
    events: Any = Away(place.events)
    worker = place.worker(events=events)
    with running(worker):
        until(lambda: worker.started and place.folded(worker), "a fold")
        events.armed = True
        operate(place, "op", cut, replay=True, exclude=Exclusion(sources=("bad",)))
        until(lambda: len(place.outcomes()) == 2, "the outcomes")
    assert not events.armed
    assert {one[2] for one in place.outcomes()} == {"applied"} and place.kept_aside() == []


def test_pointers_damaged_before_a_replay_hold_its_partition_and_ask_for_no_skip(
    place: Place,
) -> None:
    place.put(*two_stores(5))
    place.fold()
    pointers = Path(place.settings.data_dir) / "snapshots" / f"p{home()}" / "pointers.json"
    whole, worker, cut = pointers.read_bytes(), place.worker(), place.head(home()).snapshot
    with stepping(worker) as consumer:
        pointers.write_bytes(b"{")
        operate(place, "op", {home(): cut}, replay=True)
        step_until(worker, consumer, lambda: home() in worker.held, "the partition to be held")
        pointers.write_bytes(whole)
        worker.waiting[home()] = 0.0
        step_until(worker, consumer, lambda: place.folded(worker), "the replay")
    assert [one[:3] for one in place.outcomes()] == [("op", home(), "applied")]


def test_a_replay_on_the_way_back_to_a_lost_head_serves_nothing_older(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where the learner is started anew half-way, either."""
    monkeypatch.setattr(module, "SLICE", 2)
    place.settings = replace(place.settings, snapshot_interval_s=0.0)
    place.put(*two_stores(6))
    place.fold()
    cut = place.head(home()).snapshot
    place.put(*poison(1, first=6))
    at = operate(place, "op", {home(): cut}, replay=True, exclude=Exclusion(sources=("bad",)))
    place.put(*two_stores(3, first=7))
    place.fold()
    before = place.store.pointers(home()).active
    assert before is not None and before.position > at + 4
    folder = Path(place.settings.data_dir) / "snapshots" / f"p{home()}"
    for lost in folder.glob("*-l2-*.manifest"):
        lost.write_bytes(b"x")
    place.put(*two_stores(1, first=10))
    seen, move = [], place.store.move_head

    def watched(partition: int, parent: Any, to: Any, replaying: Any = None) -> bool:
        moved = move(partition, parent, to, replaying)
        if partition == home():
            seen.append(place.store.pointers(partition))
        return moved

    monkeypatch.setattr(place.store, "move_head", watched)
    worker = place.worker()
    with stepping(worker) as consumer:
        step_until(worker, consumer, lambda: bool(seen), "the replay's begin")
    assert seen[-1].replaying is not None and seen[-1].active == before
    place.fold()
    served = [one.active.position for one in seen if one.active is not None]
    assert served == sorted(served) and served[0] == before.position < served[-1]


# -- crashes -------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends a process at once."""


def die_at(worker: Worker, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Let a worker die before the n-th thing it would write or load."""
    left = [n]

    def fatal(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return inner(*args, **named)

        return call

    for part, names in (
        (worker.store, ("put_chunk", "put_manifest", "move_head", "get_manifest")),
        (worker.dead_letters, ("append", "written")),
        (worker.control, ("append",)),
    ):
        for name in names:
            monkeypatch.setattr(part, name, fatal(getattr(part, name)))


def test_a_crash_between_any_two_steps_is_made_good(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE", 7)
    cut, what, at = story(place)
    place.events.append([Entry(home(), None, b"no event at all")])
    crashes = 0
    while True:
        worker = place.worker()
        with monkeypatch.context() as patched:
            die_at(worker, patched, crashes)
            try:
                with stepping(worker) as consumer:
                    step_until(worker, consumer, partial(place.folded, worker), "a fold")
                break
            except Killed:
                crashes += 1
        pointers = place.store.pointers(home())
        if pointers.replaying is not None:
            assert pointers.active is not None and pointers.active.lineage == 1
    assert crashes > 10
    place.fold()
    assert place.shard(home()).digest() == plain(place, cut[home()], what, at).digest()
    assert {(x[0], x[2]) for x in place.outcomes()} == {("op", "applied")}
    assert {value for *_, value in place.kept_aside()} == {b"no event at all"}
    assert place.head(home()).lineage == 2
