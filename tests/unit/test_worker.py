"""The only loop, over a real log and a real store: what it recovers, and what it refuses."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learner import file_store, shard, worker
from learner.features import features
from learner.file_store import FileStore
from learner.operations import Operation
from learner.ownership import take
from learner.probes import Probes
from learner.snapshot import Signer, read_manifest
from learner.store import Pointer
from learner.telemetry import Telemetry
from learner.worker import Worker
from stream.dead_letters import DeadLetters
from stream.errors import StoreUnavailable, TopicMismatch
from stream.event import AnyEvent, Marker, Sale, encode
from stream.log import Consumer, Entry, partition_of
from stream.settings import Settings
from stream.sqlite_log import SqliteLog

WAIT_S = 20.0
START = datetime(2024, 1, 1, 12, tzinfo=UTC)
#: A store of each of two partitions.
HOME = {partition_of(name, 2): name for name in ("a", "b", "c", "d", "e", "f")}


def until(true: Callable[[], object]) -> None:
    """Wait until something is true that nobody tells of."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def sales(first: int, last: int, store: str) -> list[AnyEvent]:
    return [
        Sale(id=f"{store}/{day}/{n}", source="till", time=START + timedelta(days=day), store=store,
             product=f"p{n}", quantity=float(1 + (day * 7 + n * 3) % 5))
        for day in range(first, last)
        for n in range(6)
    ]  # fmt: skip


class Store(FileStore):
    """A folder that can be away for a while, and lets somebody else go first."""

    away = False
    meanwhile: Callable[[], None] | None = None

    def missing(self, digests: Any) -> set[str]:
        if self.away:
            raise StoreUnavailable("the store is away")
        return super().missing(digests)

    def move_head(self, partition: int, parent: str | None, to: Pointer) -> bool:
        other, self.meanwhile = self.meanwhile, None
        if other is not None:
            other()
        return super().move_head(partition, parent, to)


class Place:
    """A deployment in a folder."""

    def __init__(self, folder: Path, **changed: Any) -> None:
        self.folder = folder
        values: dict[str, Any] = {"partitions": 1, "grace_s": 0, "snapshot_interval_s": 0.05,
                                  "metrics_port": 0, "data_dir": str(folder)}  # fmt: skip
        self.settings = Settings(**(values | changed))
        self.clock = time.time
        self.signer = Signer(Ed25519PrivateKey.generate())
        self.store = Store(folder / "snapshots")
        self.open()

    def open(self) -> None:
        count = self.settings.partitions
        file = self.folder / "log.db"
        self.events = SqliteLog(file, "sales.events", count, clock=lambda: self.clock())
        self.control = SqliteLog(file, "sales.control", 1)
        self.letters = SqliteLog(file, "sales.dead_letters", count)

    def close(self) -> None:
        for one in (self.events, self.control, self.letters):
            one.close()

    def worker(self, **changed: Any) -> Worker:
        values: dict[str, Any] = {"events": self.events, "control": self.control,
            "dead_letters": DeadLetters(self.letters, self.events), "store": self.store,
            "signer": self.signer, "telemetry": Telemetry(), "clock": self.clock}  # fmt: skip
        return Worker(changed.pop("settings", self.settings), **(values | changed))

    def send(self, events: list[AnyEvent], partition: int = 0) -> None:
        self.events.append([Entry(partition, None, encode(one)) for one in events])

    def fold(self) -> Worker:
        """Fold all there is in a worker's life, and publish it."""
        one = self.worker()
        with running(one):
            until(lambda: one.started and self.reached(one))
        return one

    def reached(self, one: Worker) -> bool:
        ends = self.events.end()
        return all(owned.shard.position == ends[p] for p, owned in one.owned.items())

    def head(self, partition: int = 0) -> Pointer:
        head = self.store.pointers(partition).head
        assert head is not None
        return head


@contextmanager
def running(one: Worker) -> Iterator[None]:
    stop, errors = threading.Event(), []

    def run() -> None:
        try:
            one.run(stop)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert errors == []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    yield one
    one.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path, partitions=2)
    yield one
    one.close()


def test_a_worker_goes_on_where_the_last_one_left(place: Place) -> None:
    place.send(sales(0, 20, "s"))
    first = place.fold().owned[0]
    assert place.head().position == 120
    place.send(sales(20, 25, "s"))
    second = place.fold().owned[0]
    assert second.shard.counts()["learned"] == 150
    assert second.shard.counts()["duplicate"] == 0
    assert second.head != first.head


def test_a_recreated_topic_is_refused(place: Place) -> None:
    place.send(sales(0, 3, "s"))
    place.fold()
    place.close()
    for file in place.folder.glob("log.db*"):
        file.unlink()
    place.open()
    with pytest.raises(TopicMismatch, match="belongs to another topic"):
        place.worker().run(threading.Event())


def test_a_log_that_lost_records_is_refused(place: Place) -> None:
    place.send(sales(0, 3, "s"))
    place.close()
    shutil.copy(place.folder / "log.db", place.folder / "old")
    place.open()
    place.send(sales(3, 6, "s"))
    place.fold()
    place.close()
    for file in place.folder.glob("log.db*"):
        file.unlink()
    (place.folder / "old").rename(place.folder / "log.db")
    place.open()
    with pytest.raises(TopicMismatch, match="ends at offset 18"):
        place.worker().run(threading.Event())


def test_another_partition_count_is_refused(place: Place) -> None:
    other = Settings(partitions=3)
    with pytest.raises(TopicMismatch, match="has 1 partitions, the setting `partitions` says 3"):
        place.worker(settings=other).run(threading.Event())


def test_learning_goes_on_while_the_store_is_away(place: Place) -> None:
    one = place.worker()
    with running(one):
        until(lambda: one.started)
        place.store.away = True
        place.send(sales(0, 20, "s"))
        until(lambda: place.reached(one))
        assert place.store.pointers(0).head is None
        place.store.away = False
        until(lambda: place.store.pointers(0).head is not None)
    assert place.head().position == 120


def test_what_no_reason_names_stops_one_partition_and_loses_nothing(
    pair: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(panel: Any, *rest: Any) -> Any:
        if any(store == HOME[1] for store, _ in panel.keys):
            raise RuntimeError("nobody thought of this")
        return features(panel, *rest)

    for partition in (0, 1):
        pair.send(sales(0, 5, HOME[partition]), partition)
    one = pair.worker()
    with monkeypatch.context() as patch, Probes(pair.settings, one.telemetry) as probes:
        patch.setattr(shard, "features", failing)
        probes.worker = one
        with running(one), httpx.Client(trust_env=False) as client:
            until(lambda: 1 in one.owned and one.owned[1].stopped)
            until(lambda: (head := pair.store.pointers(0).head) and head.position == 30)
            answer = client.get(f"http://127.0.0.1:{probes.port}/readyz")
            assert answer.status_code == 503
            (reason,) = answer.json()["reasons"]
            assert "partition 1 stands still" in reason and "nobody thought of this" in reason
    assert pair.store.pointers(1).head is None
    again = pair.fold()
    assert [again.owned[p].shard.counts()["learned"] for p in (0, 1)] == [30, 30]


def begun(one: Worker) -> Consumer:
    """A worker that has restored and is stepped by hand."""
    consumer = one.events.consume(dict.fromkeys(range(one.events.partitions), 0))
    for partition in range(one.events.partitions):
        one._restore(partition, consumer)
    return consumer


def test_a_tick_comes_only_after_a_live_event_and_only_when_idle(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(worker, "time", SimpleNamespace(
        monotonic=lambda: now[0], perf_counter=time.perf_counter, sleep=time.sleep))  # fmt: skip
    place.clock = lambda: (START + timedelta(days=30)).timestamp()
    one = place.worker()
    consumer = begun(one)

    def ends_after(seconds: float) -> int:
        now[0] += seconds
        one.step(consumer, 0.0)
        return place.events.end()[0]

    try:
        place.send(sales(0, 1, "s"))
        assert ends_after(1) == 6
        assert ends_after(1000) == 6, "history is not idleness"
        place.send(sales(30, 31, "s"))
        assert ends_after(1) == 12
        assert ends_after(59) == 12, "not idle for long enough"
        assert ends_after(2) == 13
        assert [ends_after(20) for _ in range(3)] == [13, 13, 13]
        assert ends_after(41) == 14
    finally:
        consumer.close()


def marker(id: str) -> Marker:
    return Marker(id=id, source="salescast", time=START)


def test_a_marker_of_no_operation_becomes_a_dead_letter(place: Place) -> None:
    place.send([*sales(0, 2, "s"), marker("invented")])
    place.fold()
    (letter,) = place.letters.read(0, 0)
    assert b"unknown_operation" in b"".join(value for _, value in letter.headers) + letter.value
    assert place.head().position == 13


def models(one: Worker) -> list[bytes]:
    return [a.tobytes() for m in one.owned[0].shard.models.values() for a in m.digest()]


def test_a_rollback_takes_models_back_and_keeps_facts(place: Place) -> None:
    place.send(sales(0, 40, "s"))
    good = models(place.fold())
    cut = place.head().snapshot
    place.send(sales(40, 50, "s"))
    before = place.fold()
    assert models(before) != good
    asked = Operation(id="op", kind="rollback", who="ann", reason="drift", time=START,
                      cut={0: cut})  # fmt: skip
    place.control.append([Entry(0, None, msgspec.json.encode(asked))])
    place.send([marker("op")])
    after = place.fold()
    assert models(after) == good
    for name, ring in after.owned[0].shard.panel.rings.items():
        assert np.array_equal(ring, before.owned[0].shard.panel.rings[name], equal_nan=True)
    place.send(sales(50, 55, "s"))
    learned = models(place.fold())
    assert learned != good
    place.send([marker("op")])
    assert models(place.fold()) == learned
    assert len(place.control.read(0, 0)) == 2, "the operation and one outcome"
    assert after.operations()["op"].state == "applied"


def test_who_finds_head_moved_goes_back_to_it(place: Place) -> None:
    place.send(sales(0, 5, "s"))
    one, other = place.worker(), place.worker(store=FileStore(place.folder / "snapshots"))

    def first() -> None:
        place.send(sales(5, 7, "s"))
        owned = take(place.settings, place.events, other.store, place.signer.verifier, 0)
        owned.shard.fold(place.events.read(0, 0))
        other.owned[0] = owned
        assert other.publish(owned)

    place.store.meanwhile = first
    with running(one):
        until(lambda: one.started and one.owned[0].shard.position == 42)
    assert place.head() == Pointer(other.owned[0].head or "", 1, 42)
    assert one.owned[0].head == other.owned[0].head
    assert one.owned[0].shard.counts()["learned"] == 42


def test_pruning_keeps_what_is_pinned_served_or_recovered_from(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PRUNE_EVERY", 1)
    monkeypatch.setattr(file_store, "YOUNG_S", -1.0)
    place.settings = Settings(partitions=1, grace_s=0, snapshots_kept=2)
    one = place.worker()
    one.owned[0] = owned = take(place.settings, place.events, place.store, place.signer.verifier, 0)
    made: list[str] = []
    for day in range(8):
        place.send(sales(day, day + 1, "s"))
        owned.shard.fold(place.events.read(0, owned.shard.position))
        assert one.publish(owned)
        made.append(place.head().snapshot)
        if day == 1:
            asked = Operation(id="op", kind="rollback", who="ann", reason="drift", time=START,
                              cut={0: made[0]})  # fmt: skip
            place.control.append([Entry(0, None, msgspec.json.encode(asked))])
        if day == 3:
            assert place.store.move_active(0, place.head(), "freeze", 1)
    kept = place.store.snapshots(0)
    assert kept == [made[0], made[3], made[6], made[7]]
    named = set()
    for name in kept:
        chunks = read_manifest(place.store, 0, name, place.signer.verifier).chunks
        assert place.store.missing(chunks) == set()
        named |= chunks
    files = (place.folder / "snapshots" / "chunks").glob("*/*")
    assert {file.name for file in files} == named
