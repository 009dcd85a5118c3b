"""The contract of EventLog: on SQLite, Apache Kafka, Tansu (Kafka's small stand-in), and Apache
Kafka with an archive from which all that was appended has to be read."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.admin import (  # type: ignore[import-untyped]
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    MemberToRemove,
)
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from infra.kafka.cluster import Cluster
from stream import kafka_log, sqlite_log
from stream.adapters import open_log
from stream.archive import keep
from stream.archived_log import ArchivedLog
from stream.errors import AlreadyOwned, LogUnavailable, OffsetExpired, TopicMismatch
from stream.kafka_log import KafkaLog
from stream.log import Consumer, Entry, EventLog, Moves, Record, here
from stream.settings import Settings
from stream.sqlite_log import SqliteLog

WAIT_S = 20.0


class Aged(ArchivedLog):
    """A log all of whose records are archived and dropped by Kafka as soon as they are there."""

    _one = threading.Lock()

    def append(self, entries: Sequence[Entry]) -> list[int]:
        offsets = super().append(entries)
        with self._one:
            age(self)
        return offsets


def age(log: ArchivedLog) -> None:
    """Archive all there is, and have Kafka drop it."""
    keep(log.live, log.kept)
    kept = {p: log.kept.index(p).end for p in range(log.partitions)}
    assert isinstance(log.live, KafkaLog)
    with log.live._admin_lock:
        log.live._admin.delete_records(
            {TopicPartition(log.topic, p): at for p, at in kept.items() if at}
        )


class Place:
    """Where a topic is kept, and how to open it, again and again."""

    def __init__(self, kind: str, topic: str, where: str) -> None:
        self.kind = kind
        self.topic = topic
        self.where = where
        self.archive = ""
        self._opened: list[EventLog] = []

    def open(self, partitions: int = 3, topic: str | None = None) -> EventLog:
        log: EventLog
        if self.kind == "sqlite":
            log = SqliteLog(self.where, topic or self.topic, partitions)
        else:
            log = KafkaLog(
                self.where, topic or self.topic, partitions=partitions,
                group=self.topic, session_s=6.0, archived=self.kind == "archived",
            )  # fmt: skip
        if self.kind == "archived":
            log = Aged(log, self.archive)
        self._opened.append(log)
        return log

    def needs_ends(self) -> None:
        """Skip a test that asks where a partition ends."""
        if self.kind == "tansu":
            pytest.skip(
                "Tansu counts a partition's last batch as one record when asked for its end"
            )

    def close(self) -> None:
        for log in self._opened:
            log.close()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("kafka", marks=pytest.mark.kafka),
        "tansu",
        pytest.param("archived", marks=pytest.mark.kafka),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path, unique_topic: str) -> Iterator[Place]:
    """A topic nobody has used."""
    kind = request.param
    if kind == "sqlite":
        where = str(tmp_path / "log.db")
    else:
        where = request.getfixturevalue("tansu_kafka" if kind == "tansu" else "apache_kafka")
    opened = Place(kind, unique_topic, where)
    opened.archive = str(tmp_path / "archive")
    yield opened
    opened.close()


@pytest.fixture
def kafka_place(apache_kafka: str, unique_topic: str) -> Iterator[Place]:
    """A topic on Apache Kafka."""
    opened = Place("kafka", unique_topic, apache_kafka)
    yield opened
    opened.close()


def admin(bootstrap: str) -> Any:
    return KafkaAdminClient(bootstrap_servers=bootstrap)


def await_gone(client: Any, topic: str) -> None:
    """Wait until brokers know nothing of a topic any more: a deletion is told before it is done."""
    deadline = time.monotonic() + WAIT_S
    while not client.describe_topics([topic])[0]["error_code"]:
        assert time.monotonic() < deadline


def numbered(count: int, partitions: int, start: int = 0) -> list[Entry]:
    return [
        Entry(n % partitions, b"key-%d" % n, b"value-%d" % n) for n in range(start, start + count)
    ]


def drain(consumer: Consumer, count: int, max_records: int = 500) -> dict[int, list[Record]]:
    """Poll until there are so many records; fail after a while."""
    found: dict[int, list[Record]] = {}
    deadline = time.monotonic() + WAIT_S
    while sum(map(len, found.values())) < count:
        assert time.monotonic() < deadline, f"only {found} within {WAIT_S:g} s"
        for partition, records in consumer.poll(max_records, 0.5).items():
            found.setdefault(partition, []).extend(records)
    return found


def entries_of(records: Sequence[Record]) -> list[Entry]:
    return [Entry(r.partition, r.key, r.value, r.headers) for r in records]


# what every log does


def test_records_come_back_in_the_order_of_their_partition(place: Place) -> None:
    log = place.open()
    sent = numbered(1000, 3)
    offsets = log.append(sent[:400]) + log.append(sent[400:])
    consumer = log.consume({0: 0, 1: 0, 2: 0})
    found = drain(consumer, len(sent))
    consumer.close()
    for partition in range(3):
        mine = [(entry, o) for entry, o in zip(sent, offsets, strict=True)
                if entry.partition == partition]  # fmt: skip
        assert entries_of(found[partition]) == [entry for entry, _ in mine]
        assert [record.offset for record in found[partition]] == [o for _, o in mine]
        assert all(a < b for (_, a), (_, b) in pairwise(mine))


def test_what_was_read_once_reads_the_same_after_reopening(place: Place) -> None:
    log = place.open()
    log.append(numbered(50, 3))
    before = [log.read(partition, 0) for partition in range(3)]
    log.close()
    again = place.open()
    assert [again.read(partition, 0) for partition in range(3)] == before
    assert sum(map(len, before)) == 50


def test_values_keys_and_headers_are_kept_byte_for_byte(place: Place) -> None:
    log = place.open(1)
    sent = [
        Entry(0, None, b'{"a": 1}'),
        Entry(0, b"", b""),
        Entry(0, bytes(range(256)), bytes(range(255, -1, -1))),
        Entry(0, "Köln".encode(), b"\xff\xfe\x00", (("ce_id", b"1"), ("ce_id", b"\x00\xff"))),
        Entry(0, None, b"x", (("größe", b""),)),
        Entry(0, b"large", os.urandom(900_000)),
    ]
    for entry in sent:
        log.append([entry])
    assert entries_of(log.read(0, 0)) == sent
    consumer = log.consume({0: 0})
    assert entries_of(drain(consumer, len(sent))[0]) == sent
    consumer.close()


def test_append_times_are_the_logs_and_never_decrease(place: Place) -> None:
    log = place.open(1)
    before = time.time()
    for start in range(0, 50, 5):
        log.append(numbered(5, 1, start))
    after = time.time()
    times = [record.append_us for record in log.read(0, 0)]
    assert len(times) == 50
    assert times == sorted(times)
    assert before - 0.002 <= times[0] / 1e6 <= times[-1] / 1e6 <= after + 0.002


def test_begin_and_end_frame_what_is_kept(place: Place) -> None:
    place.needs_ends()
    log = place.open()
    assert dict(log.begin()) == dict(log.end()) == {0: 0, 1: 0, 2: 0}
    offsets = log.append([Entry(1, None, b"a"), Entry(1, None, b"b"), Entry(2, None, b"c")])
    end = log.end()
    assert end[0] == 0
    assert end[1] > offsets[1]
    assert end[2] > offsets[2]
    assert dict(log.begin()) == {0: 0, 1: 0, 2: 0}


def test_reading_starts_at_any_offset_and_stops_at_the_end(place: Place) -> None:
    place.needs_ends()
    log = place.open(1)
    log.append(numbered(30, 1))
    log.append(numbered(30, 1, 30))
    everything = log.read(0, 0)
    assert len(everything) == 60
    for offset in (0, 1, 29, 30, 31, 59):
        assert log.read(0, offset) == everything[offset:]
        assert log.read(0, offset, 7) == everything[offset : offset + 7]
    assert log.read(0, 60) == []
    assert log.read(0, 1000) == []


def test_reading_page_by_page_sees_every_record_once(place: Place) -> None:
    place.needs_ends()
    log = place.open(1)
    log.append(numbered(1000, 1))
    found: list[Record] = []
    while page := log.read(0, len(found), 64):
        found += page
    assert entries_of(found) == numbered(1000, 1)


def test_an_empty_append_does_nothing(place: Place) -> None:
    log = place.open()
    assert log.append([]) == []
    assert dict(log.end()) == {0: 0, 1: 0, 2: 0}


@pytest.mark.parametrize("partition", [-1, 3])
def test_a_partition_that_is_not_there_is_refused(place: Place, partition: int) -> None:
    log = place.open(3)
    with pytest.raises(ValueError, match=r"partition"):
        log.append([Entry(0, None, b"good"), Entry(partition, None, b"bad")])
    with pytest.raises(ValueError, match=r"partition"):
        log.consume({partition: 0})
    assert dict(log.end()) == {0: 0, 1: 0, 2: 0}


def test_poll_goes_on_after_a_time_out(place: Place) -> None:
    log = place.open(1)
    consumer = log.consume({0: 0})
    assert consumer.poll(10, 0.05) == {}
    log.append([Entry(0, None, b"first")])
    assert entries_of(drain(consumer, 1)[0]) == [Entry(0, None, b"first")]
    assert consumer.poll(10, 0.05) == {}
    log.append([Entry(0, None, b"second")])
    assert entries_of(drain(consumer, 1)[0]) == [Entry(0, None, b"second")]
    consumer.close()


def test_a_waiting_poll_wakes_up_when_something_is_appended(place: Place) -> None:
    log = place.open(1)
    consumer = log.consume({0: 0})
    consumer.poll(10, 0.2)
    timer = threading.Timer(0.2, log.append, [[Entry(0, None, b"late")]])
    timer.start()
    started = time.monotonic()
    found = consumer.poll(10, WAIT_S)
    assert time.monotonic() - started < WAIT_S / 2
    timer.join()
    assert [record.value for record in found[0]] == [b"late"]
    consumer.close()


def test_poll_gives_no_more_than_asked_and_loses_nothing(place: Place) -> None:
    place.needs_ends()
    log = place.open()
    log.append(numbered(100, 3))
    consumer = log.consume({0: 0, 1: 0, 2: 0})
    found: dict[int, list[int]] = {0: [], 1: [], 2: []}
    deadline = time.monotonic() + WAIT_S
    while sum(map(len, found.values())) < 100:
        assert time.monotonic() < deadline
        polled = consumer.poll(7, 0.5)
        assert sum(map(len, polled.values())) <= 7
        for partition, records in polled.items():
            found[partition] += [record.offset for record in records]
    consumer.close()
    ends = log.end()
    assert found == {p: list(range(ends[p])) for p in range(3)}


def test_a_consumer_reads_only_its_partitions_from_its_positions(place: Place) -> None:
    log = place.open()
    log.append(numbered(30, 3))
    consumer = log.consume({0: 4, 2: 10})
    found = drain(consumer, 6)
    assert {partition: [r.offset for r in records] for partition, records in found.items()} == {
        0: [4, 5, 6, 7, 8, 9]
    }
    log.append(numbered(3, 3))
    found = drain(consumer, 2)
    assert {p: [r.offset for r in records] for p, records in found.items()} == {0: [10], 2: [10]}
    with pytest.raises(ValueError, match=r"partition 1"):
        consumer.seek(1, 0)
    consumer.close()


def test_seek_goes_back_and_forth(place: Place) -> None:
    log = place.open(1)
    log.append(numbered(40, 1))
    consumer = log.consume({0: 0})
    assert [r.offset for r in consumer_take(consumer, 10)] == list(range(10))
    consumer.seek(0, 3)
    assert [r.offset for r in consumer_take(consumer, 10)] == list(range(3, 13))
    consumer.seek(0, 35)
    assert [r.offset for r in consumer_take(consumer, 5)] == [35, 36, 37, 38, 39]
    consumer.seek(0, 40)
    assert consumer.poll(10, 0.05) == {}
    consumer.close()


def consumer_take(consumer: Consumer, count: int) -> list[Record]:
    """Exactly so many records of partition 0."""
    found: list[Record] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count:
        assert time.monotonic() < deadline
        found += consumer.poll(count - len(found), 0.5).get(0, [])
    return found


def test_a_position_past_the_end_is_loud(place: Place) -> None:
    if place.kind == "tansu":
        pytest.skip("Tansu answers a fetch past the end with nothing")
    log = place.open(1)
    log.append(numbered(5, 1))
    consumer = log.consume({0: 6})
    with pytest.raises(OffsetExpired, match=r"position 6 .* end at 5"):
        drain(consumer, 1)
    consumer.close()


def test_commit_is_harmless(place: Place) -> None:
    log = place.open(1)
    log.append(numbered(5, 1))
    consumer = log.consume({0: 0})
    drain(consumer, 5)
    consumer.commit({0: 2})
    log.append(numbered(1, 1, 5))
    assert [r.offset for r in drain(consumer, 1)[0]] == [5]
    consumer.close()


def test_topic_id_stays_and_belongs_to_one_topic(place: Place) -> None:
    log = place.open()
    assert place.open().topic_id == log.topic_id
    assert place.open(topic=f"{place.topic}.other").topic_id != log.topic_id
    assert (log.topic, log.partitions) == (place.topic, 3)


def test_topics_do_not_see_each_other(place: Place) -> None:
    place.needs_ends()
    log, other = place.open(), place.open(2, f"{place.topic}.other")
    log.append(numbered(9, 3))
    other.append([Entry(1, None, b"other")])
    assert dict(other.end()) == {0: 0, 1: 1}
    assert [r.value for r in other.read(1, 0)] == [b"other"]
    assert dict(log.end()) == {0: 3, 1: 3, 2: 3}


def test_threads_append_at_once_and_each_keeps_its_order(place: Place) -> None:
    log = place.open()
    given: dict[int, list[tuple[int, int]]] = {}

    def work(thread: int) -> None:
        given[thread] = [
            (n % 3, log.append([Entry(n % 3, b"%d" % thread, b"%d" % n)])[0]) for n in range(30)
        ]

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(given) == list(range(6))
    at = {(partition, r.offset): r for partition in range(3) for r in log.read(partition, 0)}
    assert len(at) == 180
    for number, places in given.items():
        assert [(at[p].key, at[p].value) for p in places] == [
            (b"%d" % number, b"%d" % n) for n in range(30)
        ]
        for partition in range(3):
            mine = [offset for p, offset in places if p == partition]
            assert mine == sorted(mine)


def test_reading_keeps_up_with_an_appender(place: Place) -> None:
    log = place.open(2)
    sent = numbered(2000, 2)

    def work() -> None:
        for start in range(0, 2000, 50):
            log.append(sent[start : start + 50])

    consumer = log.consume({0: 0, 1: 0})
    thread = threading.Thread(target=work)
    thread.start()
    found = drain(consumer, 2000, 333)
    thread.join(WAIT_S)
    consumer.close()
    for partition in range(2):
        assert entries_of(found[partition]) == [e for e in sent if e.partition == partition]


def test_closing_twice_is_safe(place: Place) -> None:
    log = place.open()
    consumer = log.consume({0: 0})
    consumer.close()
    consumer.close()
    log.close()
    log.close()


# sharing a topic


class Member:
    """A consumer that joined, and what it holds: it reads every gained partition from its start."""

    def __init__(self, log: EventLog) -> None:
        self.consumer = log.join()
        self.held: set[int] = set()
        self.revoked: list[int] = []
        self.lost: list[int] = []
        self.found: dict[int, list[Record]] = {}

    def step(self, *, start: int | None = 0, timeout_s: float = 0.1) -> None:
        """Poll once, and follow what came and went."""
        polled = self.consumer.poll(100, timeout_s)
        moves = self.consumer.moves()
        for partition, records in polled.items():
            self.found.setdefault(partition, []).extend(records)
        self.revoked += moves.revoked
        self.lost += moves.lost
        self.held -= {*moves.revoked, *moves.lost}
        for partition in moves.gained:
            self.held.add(partition)
            if start is not None:
                self.consumer.seek(partition, start)


def step_until(true: Callable[[], bool], *members: Member) -> None:
    """Step some members in turn until something holds."""
    deadline = time.monotonic() + 2 * WAIT_S
    while not true():
        assert time.monotonic() < deadline, [member.held for member in members]
        for member in members:
            member.step()


def test_who_joins_alone_gains_every_partition_and_is_named_their_owner(place: Place) -> None:
    log = place.open()
    if place.kind != "tansu":  # kafka-python cannot read how it describes groups
        assert dict(log.owners()) == {}
    member = Member(log)
    step_until(lambda: member.held == {0, 1, 2} and member.consumer.joined, member)
    assert member.consumer.moves() == Moves()
    if place.kind != "tansu":
        assert dict(log.owners()) == dict.fromkeys(range(3), here())
    member.consumer.close()
    if place.kind != "tansu":
        assert dict(log.owners()) == {}


def test_a_gained_partition_gives_no_records_until_it_is_sought(place: Place) -> None:
    log = place.open(1)
    log.append(numbered(10, 1))
    member = Member(log)
    deadline = time.monotonic() + WAIT_S
    while not member.held:
        assert time.monotonic() < deadline
        member.step(start=None)
    for _ in range(5):
        member.step(start=None)
    assert member.found == {}
    member.consumer.seek(0, 7)
    step_until(lambda: len(member.found.get(0, ())) >= 3, member)
    assert [record.offset for record in member.found[0]] == [7, 8, 9]
    member.consumer.close()


def test_a_paused_partition_gives_no_records_until_it_is_sought(place: Place) -> None:
    log = place.open(2)
    log.append(numbered(20, 2))
    consumer = log.consume({0: 0, 1: 0})
    first = drain(consumer, 1, 1)
    consumer.pause(0)
    log.append(numbered(20, 2, 20))
    found = drain(consumer, 20 - len(first.get(1, ())))  # all of the other one
    for _ in range(5):
        found |= {p: list(records) for p, records in consumer.poll(100, 0.1).items()}
    assert 0 not in found
    consumer.seek(0, 5)
    assert [record.offset for record in drain(consumer, 15)[0]] == list(range(5, 20))
    consumer.close()


@pytest.mark.kafka
def test_a_second_member_takes_its_share_and_gives_it_back_when_it_leaves(
    kafka_place: Place,
) -> None:
    log = kafka_place.open(4)
    log.append(numbered(40, 4))
    first = Member(log)
    step_until(lambda: first.held == {0, 1, 2, 3}, first)
    second = Member(log)
    step_until(lambda: len(first.held) == len(second.held) == 2, first, second)
    assert first.held | second.held == {0, 1, 2, 3}
    assert sorted(first.revoked) == sorted(second.held), "only what moves is revoked: cooperative"
    assert first.lost == []
    step_until(lambda: set(second.found) == second.held, first, second)
    second.consumer.close()
    step_until(lambda: first.held == {0, 1, 2, 3}, first)
    first.consumer.close()


@pytest.mark.kafka
def test_a_join_that_outlasts_a_poll_comes_to_its_end(kafka_place: Place) -> None:
    member = Member(kafka_place.open(2))
    step_until(lambda: member.held == {0, 1} and member.consumer.joined, member)
    while member.consumer.joined:
        # As if the topic's metadata had come only after the share was given: it joins again.
        member.consumer._consumer._coordinator._assignment_snapshot = {}  # type: ignore[attr-defined]
        member.step(timeout_s=0.001)
    time.sleep(0.5)  # it folds, and meanwhile the group answers
    step_until(lambda: member.consumer.joined, member)
    assert (member.held, member.lost, member.revoked) == ({0, 1}, [], [])
    member.consumer.close()


@pytest.mark.kafka
def test_a_member_thought_dead_is_told_that_its_partitions_are_lost(kafka_place: Place) -> None:
    log = kafka_place.open(2)
    first = Member(log)
    step_until(lambda: first.held == {0, 1}, first)
    client = admin(kafka_place.where)
    group = kafka_place.topic
    told = time.monotonic()

    def is_back() -> bool:
        nonlocal told
        if not first.lost and time.monotonic() > told:
            # What the coordinator does by itself to a member whose session has run out; asked
            # again in a while, since a group that is just changing forgets nobody.
            for one in client.describe_groups([group])[group]["members"]:
                client.remove_group_members(group, [MemberToRemove(member_id=one["member_id"])])
            told = time.monotonic() + WAIT_S / 2
        return sorted(first.lost) == [0, 1] and first.held == {0, 1}

    step_until(is_back, first)
    client.close()
    assert first.revoked == []
    first.consumer.close()


# what only the embedded log promises


APPENDER = """
import sys
from stream.log import Entry
from stream.sqlite_log import SqliteLog
path, name, count = sys.argv[1], sys.argv[2].encode(), int(sys.argv[3])
log = SqliteLog(path, "sales.events", 2)
n = 0
while n != count:
    offset = log.append([Entry(n % 2, name, b"%d" % n)])[0]
    print(n, offset, flush=True)
    n += 1
"""
OWNER = """
import sys, time
from stream.sqlite_log import SqliteLog
log = SqliteLog(sys.argv[1], "sales.events", 2)
consumer = log.consume({0: 0})
print("owned", flush=True)
sys.stdin.read()
"""


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "log.db")


@pytest.fixture
def log(path: str) -> Iterator[SqliteLog]:
    opened = SqliteLog(path, "sales.events", 2)
    yield opened
    opened.close()


def test_processes_open_and_append_at_once(path: str) -> None:
    children = [child(APPENDER, path, f"p{n}", "40") for n in range(4)]
    outputs = [process.communicate(timeout=WAIT_S)[0] for process in children]
    assert [process.returncode for process in children] == [0, 0, 0, 0]
    log = SqliteLog(path, "sales.events", 2)
    found = [log.read(0, 0), log.read(1, 0)]
    log.close()
    assert [[r.offset for r in records] for records in found] == [list(range(80))] * 2
    for number, output in enumerate(outputs):
        for line in output.splitlines():
            n, offset = map(int, line.split())
            record = found[n % 2][offset]
            assert (record.key, record.value) == (b"p%d" % number, b"%d" % n)
    for records in found:
        times = [record.append_us for record in records]
        assert times == sorted(times)


def test_kill_9_of_an_appender_loses_nothing_acknowledged(path: str) -> None:
    acknowledged: list[list[str]] = []
    for run in range(3):
        with child(APPENDER, path, f"r{run}", "-1") as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(100)]
            process.kill()
            lines += process.stdout.readlines()
        acknowledged.append(lines)
    log = SqliteLog(path, "sales.events", 2)
    found = [log.read(0, 0, 10**6), log.read(1, 0, 10**6)]
    assert [[r.offset for r in f] for f in found] == [list(range(log.end()[p])) for p in (0, 1)]
    for run, lines in enumerate(acknowledged):
        assert len(lines) >= 100
        for line in lines:
            if line.endswith("\n"):
                n, offset = map(int, line.split())
                record = found[n % 2][offset]
                assert (record.key, record.value) == (b"r%d" % run, b"%d" % n)
    log.append([Entry(0, None, b"and it goes on")])
    log.close()


def test_a_log_has_one_owner_and_its_pid_is_named(log: SqliteLog, path: str) -> None:
    with child(OWNER, path) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "owned\n"
        with pytest.raises(AlreadyOwned, match=rf"sales.events .* process {owner.pid}\b"):
            log.consume({1: 0})
        owner.send_signal(signal.SIGKILL)
    log.consume({1: 0}).close()


def test_ownership_is_given_up_on_close_and_held_once_a_process(log: SqliteLog) -> None:
    consumer = log.consume({0: 0})
    with pytest.raises(AlreadyOwned, match=rf"process {os.getpid()}\b"):
        log.consume({1: 0})
    consumer.close()
    again = log.consume({1: 0})
    consumer.close()
    with pytest.raises(AlreadyOwned):
        log.consume({1: 0})
    again.close()


def test_topics_of_a_file_have_an_owner_each(log: SqliteLog, path: str) -> None:
    control = SqliteLog(path, "sales.control", 1)
    consumers = [log.consume({0: 0}), control.consume({0: 0})]
    for consumer in consumers:
        consumer.close()
    control.close()


def test_every_partition_gets_its_share_of_a_poll(log: SqliteLog) -> None:
    log.append([Entry(0, None, b"%d" % n) for n in range(5000)])
    log.append([Entry(1, None, b"only")])
    consumer = log.consume({0: 0, 1: 0})
    found = consumer.poll(100, 0)
    assert {partition: len(records) for partition, records in found.items()} == {0: 99, 1: 1}
    log.append([Entry(1, None, b"again")])
    assert [r.value for polled in (consumer.poll(1, 0), consumer.poll(1, 0))
            for r in polled.get(1, ())] == [b"again"]  # fmt: skip
    consumer.close()


def test_what_is_left_of_a_batch_is_no_partitions_whole_share(log: SqliteLog) -> None:
    for _ in range(20):
        log.append([Entry(p, None, b"%d" % n) for p in (0, 1) for n in range(10)])
    consumer = log.consume({0: 0, 1: 0})
    consumer.poll(5, 0)  # an odd share: batches are cut
    found = consumer.poll(60, 0)
    assert {partition: len(records) for partition, records in found.items()} == {0: 30, 1: 30}
    assert [r.offset for r in found[0]] == list(range(found[0][0].offset, found[0][0].offset + 30))
    consumer.close()


def test_a_poll_is_bounded_in_bytes_and_partitions_get_their_share_of_them(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_log, "BATCH_BYTES", 20_000)
    monkeypatch.setattr(sqlite_log, "GIVEN_BYTES", 100_000)
    log = SqliteLog(path, "t", 17)
    log.append([Entry(p, None, b"." * 10_000) for p in range(16) for _ in range(20)])
    log.append([Entry(16, None, b"." * 150_000) for _ in range(2)])
    consumer = log.consume(dict.fromkeys(range(17), 0))
    found: dict[int, list[int]] = {p: [] for p in range(17)}
    while polled := consumer.poll(5000, 0):
        size_bytes = 0
        for partition, records in polled.items():
            found[partition] += [record.offset for record in records]
            size_bytes += sum(len(record.value) for record in records)
        assert size_bytes <= 100_000 + (150_000 if 16 in polled else 20_000)
        behind = [len(found[partition]) for partition in range(16)]
        assert max(behind) - min(behind) <= 6, "none is read far ahead of the others"
    assert found == {p: list(range(2 if p == 16 else 20)) for p in range(17)}
    assert [len(log.read(p, 0)) for p in (0, 16)] == [10, 1], "one read gives no more either"
    consumer.close()
    log.close()


def test_append_times_stand_still_while_the_clock_goes_back(path: str) -> None:
    now = iter([100.0, 90.0, 101.0, 50.0])
    log = SqliteLog(path, "sales.events", 2, clock=lambda: next(now))
    for partition in (0, 0, 0, 1):
        log.append([Entry(partition, None, b"x")])
    assert [r.append_us for r in log.read(0, 0)] == [100_000_000, 100_000_000, 101_000_000]
    assert [r.append_us for r in log.read(1, 0)] == [50_000_000]
    log.close()


def test_appends_that_wait_share_one_commit(log: SqliteLog) -> None:
    commits = []
    log._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    with log._writing:
        threads = [
            threading.Thread(target=log.append, args=([Entry(0, None, b"%d" % n)],))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + WAIT_S
        while len(log._pending) < 8:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    for thread in threads:
        thread.join(WAIT_S)
    assert len(commits) == 1
    assert len(log.read(0, 0)) == 8


@pytest.mark.parametrize("bad", [
    Entry(0, None, "text"),  # type: ignore[arg-type]
    Entry(0, "text", b""),  # type: ignore[arg-type]
    Entry(0, None, b"", (("name", "text"),)),  # type: ignore[arg-type]
    Entry(0, None, b"", (("\ud800", b""),)),
])  # fmt: skip
def test_an_entry_that_could_not_be_read_back_is_refused(log: SqliteLog, bad: Entry) -> None:
    with pytest.raises((TypeError, ValueError)):
        log.append([bad])
    assert log.end()[0] == 0


def test_another_partition_count_is_refused_with_the_choices(log: SqliteLog, path: str) -> None:
    with pytest.raises(TopicMismatch, match=r"has 2 partitions, not 3.* back to 2.* reshard"):
        SqliteLog(path, "sales.events", 3)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match=r"does the folder .*nowhere exist"):
        SqliteLog(tmp_path / "nowhere" / "log.db", "sales.events", 1)


def test_a_file_that_is_no_log_is_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_bytes(b"not a database" * 100)
    with pytest.raises(TopicMismatch, match=r"text.db is not a log"):
        SqliteLog(text, "sales.events", 1)
    assert text.read_bytes() == b"not a database" * 100
    foreign = tmp_path / "foreign.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = foreign.read_bytes()
    with pytest.raises(TopicMismatch, match=r"another program's database"):
        SqliteLog(foreign, "sales.events", 1)
    assert foreign.read_bytes() == before


def test_a_locked_log_is_unavailable_and_works_again(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_log, "BUSY_S", 0.05)
    log = SqliteLog(path, "sales.events", 2)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogUnavailable, match=r"another process has kept it locked") as caught:
        log.append([Entry(0, None, b"x")])
    assert caught.value.retriable
    assert log.read(0, 0) == []
    blocker.execute("ROLLBACK")
    blocker.close()
    assert log.append([Entry(0, None, b"x")]) == [0]
    log.close()


def test_a_full_disk_is_unavailable_and_leaves_nothing_half_written(log: SqliteLog) -> None:
    log.append([Entry(0, None, b"before")])
    pages = log._writer.execute("PRAGMA page_count").fetchone()[0]
    log._writer.execute(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(LogUnavailable, match=r"the disk is full"):
        log.append([Entry(0, None, b"small"), Entry(1, None, bytes(1_000_000))])
    assert dict(log.end()) == {0: 1, 1: 0}
    log._writer.execute("PRAGMA max_page_count = 1000000")
    assert log.append([Entry(0, None, b"after"), Entry(1, None, bytes(1_000_000))]) == [1, 0]


def test_a_log_deleted_under_its_users_is_noticed(log: SqliteLog, path: str) -> None:
    consumer = log.consume({0: 0})
    Path(path).unlink()
    with pytest.raises(LogUnavailable):
        log.append([Entry(0, None, b"x")])
    with pytest.raises(LogUnavailable):
        consumer.poll(1, 0)
    other = SqliteLog(path, "sales.events", 2)
    with pytest.raises(TopicMismatch, match=r"replaced or deleted"):
        log.append([Entry(0, None, b"x")])
    assert other.topic_id != log.topic_id
    other.close()
    consumer.close()


def test_a_reader_leaves_no_transaction_open(log: SqliteLog, path: str) -> None:
    """An open one would keep the write-ahead log from being emptied."""
    log.append(numbered(10, 2))
    consumer = log.consume({0: 0, 1: 0})
    consumer.poll(1, 0)
    log.read(0, 2, 1)
    other = sqlite3.connect(path, isolation_level=None)
    busy, _, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    other.close()
    assert busy == 0
    consumer.close()


# what only Kafka promises


def configs(bootstrap: str, topic: str) -> dict[str, str]:
    client = admin(bootstrap)
    answer = client.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all"
    )
    client.close()
    return {name: config["value"] for name, config in answer["topic"][topic].items()}


def make_topic(bootstrap: str, topic: str, settings: Mapping[str, str]) -> None:
    client = admin(bootstrap)
    client.create_topics(
        {topic: {"num_partitions": 2, "replication_factor": 1, "configs": dict(settings)}},
        wait_for_metadata=True,
    )
    client.close()


SAFE = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete",
        "retention.ms": "-1", "min.insync.replicas": "1"}  # fmt: skip


@pytest.mark.kafka
def test_a_topic_that_is_made_keeps_its_events_for_ever(kafka_place: Place) -> None:
    kafka_place.open()
    found = configs(kafka_place.where, kafka_place.topic)
    assert {name: found[name] for name in SAFE} == SAFE


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("message.timestamp.type", "CreateTime"),
        ("cleanup.policy", "compact"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000"),
        ("min.insync.replicas", "2"),
    ],
)
def test_a_topic_that_would_lose_events_is_refused_with_the_remedy(
    kafka_place: Place, name: str, value: str
) -> None:
    make_topic(kafka_place.where, kafka_place.topic, {**SAFE, name: value})
    good = SAFE.get(name, "-1")
    with pytest.raises(TopicMismatch) as caught:
        kafka_place.open()
    assert f"{name} is {value} and must be {good}" in str(caught.value)
    assert f"--topic {kafka_place.topic} --add-config {name}={good}" in str(caught.value)


@pytest.mark.kafka
def test_settings_inherited_from_the_broker_are_checked_too(kafka_place: Place) -> None:
    make_topic(kafka_place.where, kafka_place.topic, {})
    with pytest.raises(TopicMismatch, match=r"retention.ms is 604800000 and must be -1"):
        kafka_place.open()


@pytest.mark.kafka
def test_a_topic_that_is_there_keeps_its_partition_count(kafka_place: Place) -> None:
    make_topic(kafka_place.where, kafka_place.topic, SAFE)
    assert kafka_place.open(5).partitions == 2


@pytest.mark.kafka
def test_no_partition_is_read_far_ahead_of_the_others(kafka_place: Place) -> None:
    log = kafka_place.open(3)
    for _ in range(20):
        log.append([Entry(p, None, os.urandom(10_000)) for p in range(3) for _ in range(25)])
    consumer = log.consume(dict.fromkeys(range(3), 0))
    read = Counter(dict.fromkeys(range(3), 0))
    deadline = time.monotonic() + WAIT_S
    while read.total() < 750:  # half of all, 2.5 MB a partition
        assert time.monotonic() < deadline
        read.update({p: len(records) for p, records in consumer.poll(25, 0.5).items()})
        assert max(read.values()) - min(read.values()) <= 300, read
    consumer.close()


def test_too_few_brokers_for_the_replicas_are_named(apache_kafka: str, unique_topic: str) -> None:
    with pytest.raises(TopicMismatch, match=r"3 replicas.*kafka_replication"):
        KafkaLog(apache_kafka, unique_topic, partitions=1, replication=3)


@pytest.mark.kafka
def test_a_record_deleted_before_it_was_read_is_loud(kafka_place: Place) -> None:
    log = kafka_place.open(1)
    log.append(numbered(10, 1))
    consumer = log.consume({0: 2})
    client = admin(kafka_place.where)
    client.delete_records({TopicPartition(kafka_place.topic, 0): 4})
    client.close()
    with pytest.raises(OffsetExpired, match=r"position 2 .* before the first record kept, 4"):
        drain(consumer, 1)
    with pytest.raises(OffsetExpired):
        log.read(0, 3)
    assert log.begin()[0] == 4
    consumer.seek(0, 4)
    assert [r.offset for r in drain(consumer, 6)[0]] == [4, 5, 6, 7, 8, 9]
    consumer.close()


@pytest.mark.kafka
def test_a_topic_made_anew_under_its_name_is_loud(kafka_place: Place) -> None:
    log = kafka_place.open(1)
    log.append(numbered(3, 1))
    consumer = log.consume({0: 0})
    drain(consumer, 3)
    client = admin(kafka_place.where)
    client.delete_topics([kafka_place.topic])
    await_gone(client, kafka_place.topic)
    client.close()
    again = kafka_place.open(1)
    assert again.topic_id != log.topic_id
    with pytest.raises(TopicMismatch, match=r"recreated"):
        drain(consumer, 1)
    consumer.close()


@pytest.mark.kafka
def test_committed_positions_are_the_groups_offsets(kafka_place: Place) -> None:
    log = kafka_place.open(2)
    log.append(numbered(10, 2))
    consumer = log.consume({0: 0, 1: 0})
    client = admin(kafka_place.where)

    def committed() -> dict[int, int]:
        try:
            found = client.list_group_offsets(kafka_place.topic)[kafka_place.topic]
        except KafkaError:  # elected just now, or loading: the client does not ask again by itself
            return {}
        return {
            place.partition: offset.offset
            for place, offset in found.items()
            if place.topic == kafka_place.topic
        }

    deadline = time.monotonic() + WAIT_S
    while committed() != {0: 3, 1: 4}:
        assert time.monotonic() < deadline, committed()
        # It keeps a failure to itself: the first group of a cluster has no coordinator at once.
        consumer._commit_after = 0.0  # type: ignore[attr-defined]
        consumer.commit({0: 3, 1: 4})
    client.close()
    consumer.close()


@pytest.mark.kafka
def test_no_broker_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_log, "CONNECT_S", 0.5)
    with pytest.raises(LogUnavailable, match=r"Kafka at 127.0.0.1:1 is unavailable"):
        KafkaLog("127.0.0.1:1", "sales.events", partitions=1)


@pytest.mark.kafka
def test_a_broker_may_die_and_come_back(
    kafka_cluster: Callable[[int], Cluster], unique_topic: str
) -> None:
    cluster = kafka_cluster(1)
    log = KafkaLog(cluster.bootstrap, unique_topic, partitions=2)
    log.append(numbered(10, 2))
    consumer = log.consume({0: 0, 1: 0})
    drain(consumer, 10)
    cluster.kill(1)
    deadline = time.monotonic() + WAIT_S
    with pytest.raises(LogUnavailable):
        while time.monotonic() < deadline:
            consumer.poll(10, 0.2)
    cluster.restart(1)
    deadline = time.monotonic() + 3 * WAIT_S
    while True:
        try:
            log.append(numbered(10, 2, 10))
            break
        except LogUnavailable:
            assert time.monotonic() < deadline
    found: dict[int, list[Record]] = {0: [], 1: []}
    while sum(map(len, found.values())) < 10:
        assert time.monotonic() < deadline
        try:
            for partition, records in consumer.poll(10, 0.5).items():
                found[partition] += records
        except LogUnavailable:
            continue
    for partition in range(2):
        assert entries_of(found[partition]) == [
            entry for entry in numbered(10, 2, 10) if entry.partition == partition
        ]
        assert entries_of(log.read(partition, 0)) == [
            entry for entry in numbered(20, 2) if entry.partition == partition
        ]
    consumer.close()
    log.close()


@pytest.mark.kafka
def test_killing_the_leader_loses_nothing_acknowledged_and_keeps_the_order(
    kafka_cluster: Callable[[int], Cluster], unique_topic: str
) -> None:
    cluster = kafka_cluster(3)
    log = KafkaLog(cluster.bootstrap, unique_topic, partitions=1, replication=3)
    consumer = log.consume({0: 0})
    client = admin(cluster.bootstrap)
    leader = client.describe_topics([unique_topic])[0]["partitions"][0]["leader_id"]
    client.close()
    acknowledged: dict[int, bytes] = {}
    deadline = time.monotonic() + 4 * WAIT_S
    for n in range(200):
        if n == 100:
            cluster.kill(leader)
        while True:
            try:
                acknowledged[log.append([Entry(0, None, b"%d" % n)])[0]] = b"%d" % n
                break
            except LogUnavailable:
                assert time.monotonic() < deadline
    found: list[Record] = []
    while not found or found[-1].value != b"199":
        assert time.monotonic() < deadline
        try:
            found += consumer.poll(500, 0.5).get(0, ())
        except LogUnavailable:
            continue
    assert len(acknowledged) == 200
    assert {r.offset: r.value for r in found}.items() >= acknowledged.items()
    numbers = [int(record.value) for record in found]
    assert numbers == sorted(numbers)
    consumer.close()
    log.close()


# which log the settings name


def test_the_embedded_log_makes_its_folder_for_its_user_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path / "a" / "data"), partitions=2)
    logs = [open_log(settings, "events"), open_log(settings, "control"),
            open_log(settings, "dead_letters")]  # fmt: skip
    assert [(log.topic, log.partitions) for log in logs] == [
        ("sales.events", 2), ("sales.control", 1), ("sales.dead_letters", 2)
    ]  # fmt: skip
    assert (tmp_path / "a" / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "data" / "log.db").exists()
    for log in logs:
        log.close()


def test_settings_name_kafka(kafka_bootstrap: str, unique_topic: str) -> None:
    settings = Settings(
        log="kafka", kafka_bootstrap=kafka_bootstrap, topic_prefix=unique_topic, partitions=2
    )
    log = open_log(settings, "control")
    assert (log.topic, log.partitions) == (f"{unique_topic}.control", 1)
    assert isinstance(log, KafkaLog)
    log.close()
