"""Brokers that die, topics that are not what they were, embedded logs on bad days."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.admin import KafkaAdminClient  # type: ignore[import-untyped]

from infra.kafka.cluster import Cluster
from stream.sqlite_log import SqliteLog
from tests.chaos.corpus import days
from tests.chaos.rig import PARTITIONS, SHORT, Rig, rigged, seed_of, until

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
        ("expired", "Restore the records from an archive"),
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
        time.sleep(1)
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
