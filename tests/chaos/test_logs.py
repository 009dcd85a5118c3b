"""Brokers that die, topics that are not what they were, embedded logs on bad days."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.admin import (  # type: ignore[import-untyped]
    KafkaAdminClient,
)

from infra.kafka.cluster import Cluster
from infra.redis_server import RedisServer
from learner.shard import Shard
from stream.adapters import open_log
from stream.event import Sale, Tick, decode, encode, time_us
from stream.log import Entry, partition_of
from stream.sqlite_log import SqliteLog
from tests.chaos.corpus import days
from tests.chaos.rig import PARTITIONS, SHORT, Rig, long, on_kafka, rigged, seed_of, until

kafka = pytest.mark.kafka


@kafka
@pytest.mark.redis
def test_brokers_die(
    kafka_cluster: Callable[[int], Cluster], on_cluster: Callable[[str, int], Rig]
) -> None:
    """The leader of every partition in turn; then one is down for longer than any session."""
    world = days(seed_of("brokers"), 60, PARTITIONS)
    cluster = kafka_cluster(3)
    rig = on_cluster(cluster.bootstrap, 3)
    rig.start("a", "b")
    rig.shared("a", "b")

    def some(count: int) -> None:
        for _ in range(count):
            rig.send(next(world))
            time.sleep(0.1)

    for n in range(1 if SHORT else 5):
        client = KafkaAdminClient(bootstrap_servers=cluster.bootstrap)
        about = client.describe_topics([rig.events.topic])[0]["partitions"]
        client.close()
        leader = about[n % PARTITIONS]["leader_id"]
        some(3)
        cluster.kill(leader)
        some(3)
        if n == 4:
            time.sleep(70)
            some(3)
        cluster.restart(leader)
        some(2)
    for entries in world:
        rig.send(entries)
    rig.settle(240)
    rig.verify()


@long
@kafka
@pytest.mark.redis
def test_a_broker_that_is_down_at_the_start_is_waited_for(
    kafka_cluster: Callable[[int], Cluster], on_cluster: Callable[[str, int], Rig]
) -> None:
    cluster = kafka_cluster(1)
    rig = on_cluster(cluster.bootstrap, 1)
    for entries in days(seed_of("down at start"), 5, PARTITIONS):
        rig.send(entries)
    cluster.kill(1)
    rig.start("a")
    until(lambda: "unavailable" in rig.said("a"), "a to say so")
    cluster.restart(1)
    rig.settle()
    rig.verify()


@kafka
@pytest.mark.redis
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("expired", "Set `archive` to where `salescast archive` keeps them"),
        ("recreated", "belongs to another topic"),
        ("grown", "partitions"),
    ],
)
def test_a_topic_that_is_not_what_it_was_is_refused(rig: Rig, what: str, said: str) -> None:
    world = days(seed_of(what), 8, PARTITIONS)
    rig.start("a")
    for _ in range(4):
        rig.send(next(world))
    rig.settle()
    if what != "grown":
        rig.end("a")
    topic = rig.events.topic
    client = KafkaAdminClient(bootstrap_servers=rig.settings.kafka_bootstrap)
    if what == "expired":
        for entries in world:
            rig.send(entries)
        ends = rig.events.end()
        client.delete_records({TopicPartition(topic, p): end for p, end in ends.items()})
    elif what == "recreated":
        client.delete_topics([topic])
        until(lambda: bool(client.describe_topics([topic])[0]["error_code"]), "the deletion")
    else:
        client.create_partitions({topic: PARTITIONS + 2})
    client.close()
    heads = rig.heads()
    if what != "grown":
        rig.start("a")
    until(lambda: rig.running["a"].poll() is not None, lambda: rig.said("a")[-2000:], 60)
    assert rig.running.pop("a").returncode == 2
    assert said in rig.said("a")
    assert rig.heads() == heads


@kafka
@pytest.mark.redis
def test_nothing_is_published_ahead_of_its_dead_letters(rig: Rig) -> None:
    """Their topic is gone for a while, which the learner meets with its first letters."""
    seed = seed_of("dead letters")
    rig.start("a")
    rig.shared("a")
    for entries in days(seed, 4, PARTITIONS, hostile=False):
        rig.send(entries)
    rig.settle()
    client = KafkaAdminClient(bootstrap_servers=rig.settings.kafka_bootstrap)
    client.delete_topics([rig.letters.topic])
    client.close()
    rig.letters.close()
    world = days(seed + 1, 10, PARTITIONS)
    for _ in range(4):
        rig.send(next(world))
    until(lambda: "not published" in rig.said("a"), "it to wait for the letters")
    for partition, (_, position) in rig.heads().items():
        plain = Shard(rig.settings, partition)
        assert not plain.fold([r for r in rig.records(partition) if r.offset < position]).letters
    rig.alive()
    rig.letters = open_log(rig.settings, "dead_letters")
    for entries in world:
        rig.send(entries)
    rig.settle()
    rig.verify()


@long
@kafka
@pytest.mark.redis
def test_time_passes_in_an_idle_partition_that_was_live_and_in_no_other(
    apache_kafka: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Beside a busy one: 0 goes on selling, 1 was live and falls silent, 2 has old history only."""
    with rigged(
        tmp_path, **on_kafka(apache_kafka, redis_server.url), tick_idle_s=0.5, grace_s=0,
        bucket="hour", max_series=60,
    ) as rig:  # fmt: skip
        stores = {partition_of(f"s{n}", PARTITIONS): f"s{n}" for n in range(40)}

        def sell(partition: int, n: int, at: datetime) -> None:
            sold = Sale(id=f"{partition}/{n}", source="till", time=at, store=stores[partition],
                        product="p", quantity=1.0, price=1.0)  # fmt: skip
            rig.send([Entry(partition, None, encode(sold))])

        rig.start("a")
        rig.shared("a")
        now = datetime.now(UTC)
        for hours in range(30, 0, -3):
            sell(0, hours, now - timedelta(hours=hours))
            sell(1, hours, now - timedelta(hours=hours))
            sell(2, hours, now - timedelta(days=400, hours=hours))
        for n in range(100, 130):
            sell(0, n, datetime.now(UTC))
            time.sleep(0.1)

        def ticks(partition: int) -> list[float]:
            return [
                event.time.timestamp()
                for record in rig.records(partition)
                for event in decode(record.value)
                if isinstance(event, Tick)
            ]

        until(lambda: len(ticks(1)) >= 3, "ticks in the idle partition")
        rig.end("a", signal.SIGTERM)
        assert ticks(2) == ticks(3) == [], "history is not idleness, nor is nothing at all"
        assert rig.head(2)[1].window.watermark_us < time_us(now - timedelta(days=399))
        # The last one may have been written as the learner was told to end, and not be folded yet.
        last = [round(1e6 * tick) for tick in ticks(1)[-2:]]
        assert rig.head(1)[1].window.watermark_us in last
        assert ticks(1)[-1] <= time.time() + 0.1, "it does not run ahead"
        rig.start("b")
        until(lambda: rig.owners().get("b") == PARTITIONS, "b to take over")
        rig.end("b", signal.SIGTERM)
        for partition in range(3):
            plain = Shard(rig.settings, partition)
            manifest, published = rig.head(partition)
            plain.fold([r for r in rig.records(partition) if r.offset < manifest.position])
            assert published.digest() == plain.digest()


def test_an_embedded_log_has_one_owner_and_the_clock_may_jump(tmp_path: Path) -> None:
    with rigged(tmp_path) as rig:
        shift = [0.0]
        log = SqliteLog(tmp_path / "data" / "log.db", rig.events.topic, PARTITIONS,
                        clock=lambda: time.time() + shift[0])  # fmt: skip
        rig.start("a")
        until(lambda: bool(rig.events.owners()), "an owner")
        rig.start("b")
        until(lambda: rig.running["b"].poll() is not None, "b to be refused", 60)
        assert rig.running.pop("b").returncode == 2
        assert "is folded already by process" in rig.said("b")
        for n, entries in enumerate(days(seed_of("clock"), 12, PARTITIONS)):
            shift[0] = (0.0, 3600.0, -3600.0)[n % 3]
            log.append(entries)
        log.close()
        rig.settle()
        rig.verify()


def test_a_full_disk_under_the_snapshots_is_waited_for(tmp_path: Path) -> None:
    world = days(seed_of("disk"), 10, PARTITIONS)
    with rigged(tmp_path) as rig:
        rig.start("a")
        for _ in range(4):
            rig.send(next(world))
        rig.settle()
        pid = rig.running["a"].pid
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        # Every file it writes ends at 1 kB: as a disk does that is full. Its own log too.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1000, limits[1]))
        before = rig.heads()
        for _ in range(4):
            rig.send(next(world))
        time.sleep(5)
        assert {p: position for p, (_, position) in rig.heads().items()} == {
            p: position for p, (_, position) in before.items()
        }
        rig.alive()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        for entries in world:
            rig.send(entries)
        rig.settle()
        rig.verify()
        assert os.path.getsize(tmp_path / "a.log") > 0  # noqa: PTH202
