"""Learners beside each other on one Kafka: how fast one takes over, and what a second one adds."""

from __future__ import annotations

import math
import os
import re
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, count, islice
from pathlib import Path

import httpx

from infra.kafka.cluster import Cluster, KafkaMissingError
from stream.event import Sale, encode
from stream.log import Entry, partition_of
from tests.bench.measure import Options, Row, Series, Skipped
from tests.chaos.rig import Rig

PACKED = 100
#: Events/s that go on coming in while a partition changes hands.
RATE = 10_000
DAYS = 4
FIRST = datetime(2024, 1, 1, 12, tzinfo=UTC)
WAIT_S = 900.0


def run(options: Options) -> list[Row]:
    """Hand-over of a large partition, and two learners against one."""
    with Cluster() as cluster, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kafka-python's own, of Python 3.11's deprecations
        try:
            bootstrap = cluster.start(1)
        except KafkaMissingError as missing:
            raise Skipped(str(missing)) from None
        return [*_hand_over(bootstrap, options), *_two_beside_one(bootstrap, options)]


@contextmanager
def _rig(bootstrap: str, partitions: int) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="salescast-scale-") as folder:
        rig = Rig(
            Path(folder), log="kafka", store="folder", kafka_bootstrap=bootstrap,
            partitions=partitions, max_series=1_000_000, snapshot_interval_s=2.0, aside_series=5000,
        )  # fmt: skip
        try:
            yield rig
        finally:
            rig.close()


def _day(day: int, series: int, partitions: int, times: int = 1) -> list[Entry]:
    """Each series' sales of one day, packed."""
    stores = [f"s{n}" for n in range(20 * partitions)]
    waiting: dict[int, list[bytes]] = {p: [] for p in range(partitions)}
    entries = []
    for n in range(series * times):
        store = stores[n % len(stores)]
        home = partition_of(store, partitions)
        sold = Sale(
            id=f"{day}-{n}", source="till", time=FIRST + timedelta(days=day), store=store,
            product=f"p{n // len(stores) % (series // len(stores) + 1)}", quantity=2.0, price=1.0,
        )  # fmt: skip
        waiting[home].append(encode(sold))
        if len(waiting[home]) == PACKED:
            entries.append(Entry(home, None, b"[" + b",".join(waiting[home]) + b"]"))
            waiting[home] = []
    return entries


def _hand_over(bootstrap: str, options: Options) -> list[Row]:
    """From the kill of its owner to where a partition has caught up with what came meanwhile."""
    series = 5_000 if options.quick else 100_000
    found, seen = [], []
    with _rig(bootstrap, 1) as rig:
        for day in range(DAYS):
            rig.send(_day(day, series, 1))
        rig.start("a")
        rig.settle(WAIT_S)
        rig.start("b")
        for n in range(1 if options.quick else 3):
            owner, other = ("a", "b") if n % 2 == 0 else ("b", "a")
            rig.end(owner, signal.SIGKILL)
            killed = time.monotonic()
            come, taken = _from(DAYS + 10 * n, series), 0.0
            while not (taken and _behind(rig, other) <= RATE // PACKED):
                due = time.monotonic() + 0.1
                rig.send(islice(come, RATE // PACKED // 10))
                if not taken and rig.owners().get(other):
                    taken = time.monotonic()
                assert time.monotonic() < killed + WAIT_S, rig.tails()
                time.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            seen.append(taken - killed)
            found.append(now - taken)
            rig.start(owner)
            rig.settle(WAIT_S)
    title = f"hand-over of {series:,} series at {RATE:,} events/s"
    return [
        Row(what=f"{title}: until the group has noticed", figure=Series(tuple(seen)), unit="s"),
        Row(what=f"{title}: from then until caught up", figure=Series(tuple(found)), unit="s",
            goal=None if options.quick else 5.0),
    ]  # fmt: skip


def _behind(rig: Rig, name: str) -> float:
    """Records that a learner has yet to fold, as its own metrics say."""
    ports = re.findall(r"metrics on port (\d+)", (rig.folder / f"{name}.log").read_text())
    if not ports:
        return math.inf
    told = httpx.get(f"http://127.0.0.1:{ports[-1]}/metrics", timeout=30).text
    lag = re.search(r'^salescast_lag_records\{partition="0"\} (\S+)', told, re.MULTILINE)
    return math.inf if lag is None else float(lag[1])


def _from(day: int, series: int) -> Iterator[Entry]:
    """Entries of one day after the other."""
    return chain.from_iterable(_day(one, series, 1) for one in count(day))


def _two_beside_one(bootstrap: str, options: Options) -> list[Row]:
    """The same log, folded by one learner and by two; wall time from the first that is owned."""
    rates = {}
    events = 0
    for names in (("a",), ("a", "b")):
        with _rig(bootstrap, 2) as rig:
            series = 2_000
            for day in range(DAYS):
                entries = _day(day, series, 2, times=10 if options.quick else 100)
                events += len(entries) * PACKED
                rig.send(entries)
            rig.start(*names)
            rig.shared(*names)
            started, at = time.monotonic(), sum(rig.position(p) for p in range(2))
            rig.settle(WAIT_S)
            folded = (sum(rig.events.end().values()) - at) * PACKED
            rates[len(names)] = Series((folded / (time.monotonic() - started),))
    cores = len(os.sched_getaffinity(0))
    return [
        Row(what="one learner, two partitions", figure=rates[1], unit="events/s"),
        Row(what=f"two learners, two partitions, {cores} cores with Kafka on them",
            figure=rates[2], unit="events/s", limit="one learner", bare=rates[1],
            goal=1.8, goal_of="ratio"),
    ]  # fmt: skip
