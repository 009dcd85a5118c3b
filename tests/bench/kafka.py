"""Apache Kafka, one broker beside us: the bare client, our log on it, and the fold; wall time."""

from __future__ import annotations

import gc
import time
import uuid
import warnings

from infra.kafka.cluster import Cluster, KafkaMissingError
from tests.bench import sales
from tests.bench.measure import Options, Row, Skipped, rate, turns
from tests.bench.sqlite import POLL, WAIT_S, entries, fold_rate, reading_rate


def bare_rate(bootstrap: str, topic: str, records: int, events: int) -> float:
    """Events/s of a loop over kafka-python's ``poll`` that does nothing with what comes."""
    from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]

    from stream.kafka_log import FETCH_BYTES

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES,
        metrics_enabled=False,
    )
    try:
        place = TopicPartition(topic, 0)
        consumer.assign([place])
        consumer.seek(place, 0)
        left = records
        gc.collect()
        started = time.perf_counter()
        while left:
            found = consumer.poll(int(WAIT_S * 1000), POLL)
            assert found, f"nothing came for {WAIT_S:g} s, {left} records missing"
            left -= sum(map(len, found.values()))
        return events / (time.perf_counter() - started)
    finally:
        consumer.close()


def run(options: Options) -> list[Row]:
    """One event a record, and 100."""
    with Cluster() as cluster, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kafka-python's own, of Python 3.11's deprecations
        try:
            bootstrap = cluster.start(1)
        except KafkaMissingError as missing:
            raise Skipped(str(missing)) from None
        return [
            row
            for size, title, goal in ((1, "one event a record", 0.8), (100, "100 a record", None))
            for row in _measure(bootstrap, options, size, title, goal)
        ]


def _measure(
    bootstrap: str, options: Options, size: int, title: str, goal: float | None
) -> list[Row]:
    from stream.kafka_log import KafkaLog

    count = 20_000 if options.quick else 100_000
    values = sales.packed(count, size)
    n = len(values)
    topic = f"bench.{uuid.uuid4().hex[:12]}"
    log = KafkaLog(bootstrap, topic, partitions=1)
    try:
        batches = entries(values)

        def append() -> None:
            for one in batches:
                log.append(one)

        (appended,) = turns(1, rate(count, append))
        records = log.read(0, 0, n)
        while len(records) < n:
            records += log.read(0, records[-1].offset + 1, n)
        bare, polled, folded, memory = turns(
            options.rounds,
            lambda: bare_rate(bootstrap, topic, n, count),
            lambda: reading_rate(log, n, count, fold=False),
            lambda: reading_rate(log, n, count, fold=True),
            lambda: fold_rate(records[:n], count),
        )
    finally:
        log.close()
    limit = "bare poll loop"
    return [
        Row(what=f"append, {title}, acknowledged", figure=appended, unit="events/s"),
        Row(what=f"poll, {title}", figure=polled, unit="events/s", limit=limit, bare=bare),
        Row(what=f"poll and fold, {title}", figure=folded, unit="events/s", limit=limit,
            bare=bare, goal=goal, goal_of="ratio"),
        Row(what=f"poll and fold, {title}", figure=folded, unit="events/s",
            limit="fold from memory", bare=memory, goal=None if goal else 200_000),
    ]  # fmt: skip
