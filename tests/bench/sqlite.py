"""The embedded log: appending, polling, and folding what was polled; wall time."""

from __future__ import annotations

import gc
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from learner.shard import Shard
from learner.worker import SLICE
from stream.log import Consumer, Entry, EventLog, Record
from stream.sqlite_log import SqliteLog
from tests.bench import sales
from tests.bench.measure import Options, Row, rate, turns

#: Entries of one append, and records of one poll: the worker's default.
APPEND, POLL = 1000, 5000
WAIT_S = 10.0


def read_all(consumer: Consumer, records: int, shard: Shard | None = None) -> None:
    """Poll so many records, and fold them if there is a shard to."""
    left = records
    while left:
        batches = consumer.poll(min(POLL, left), WAIT_S)
        assert batches, f"nothing came for {WAIT_S:g} s, {left} records missing"
        for found in batches.values():
            left -= len(found)
            if shard is not None:
                for some in sales.slices(found, SLICE):
                    shard.fold(some)


def reading_rate(log: EventLog, records: int, events: int, *, fold: bool) -> float:
    """Events/s of a fresh consumer from the log's start; without connecting."""
    consumer = log.consume({0: 0})
    try:
        shard = Shard(sales.settings(), 0) if fold else None
        gc.collect()
        started = time.perf_counter()
        read_all(consumer, records, shard)
        return events / (time.perf_counter() - started)
    finally:
        consumer.close()


def fold_rate(records: Sequence[Record], events: int) -> float:
    """Events/s of the fold from memory, closes included."""
    shard = Shard(sales.settings(), 0)

    def work() -> None:
        for some in sales.slices(records, SLICE):
            shard.fold(some)

    return rate(events, work)()


def entries(values: Sequence[bytes]) -> list[list[Entry]]:
    """Entries of partition 0, an append at a time."""
    return [
        [Entry(0, None, value) for value in values[at : at + APPEND]]
        for at in range(0, len(values), APPEND)
    ]


def bare_inserts(path: Path, values: Sequence[bytes]) -> None:
    """A row a value in a table of two columns, as durable, as many a commit."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS log (at INTEGER PRIMARY KEY, value BLOB)")
        connection.execute("DELETE FROM log")
        for at in range(0, len(values), APPEND):
            connection.execute("BEGIN IMMEDIATE")
            rows = [(value,) for value in values[at : at + APPEND]]
            connection.executemany("INSERT INTO log (value) VALUES (?)", rows)
            connection.execute("COMMIT")
    connection.close()


def bare_select(path: Path) -> None:
    """Those rows again, in batches of the poll's size."""
    connection = sqlite3.connect(path)
    cursor = connection.execute("SELECT at, value FROM log ORDER BY at")
    while cursor.fetchmany(POLL):
        pass
    connection.close()


def run(options: Options) -> list[Row]:
    """One event a record, and 100."""
    count = 20_000 if options.quick else 100_000
    with tempfile.TemporaryDirectory(prefix="salescast-bench-") as folder:
        return [
            *_measure(options, Path(folder), count, 1, "one event a record"),
            *_measure(options, Path(folder), count, 100, "100 a record"),
        ]


def _measure(options: Options, folder: Path, count: int, size: int, title: str) -> list[Row]:
    values = sales.packed(count, size)
    n = len(values)
    batches = entries(values)
    bare = folder / f"bare-{size}.db"
    log = SqliteLog(folder / f"log-{size}.db", "bench.events", 1)

    def append() -> None:
        for one in batches:
            log.append(one)

    appended, inserted = turns(
        options.rounds, rate(n, append), rate(n, lambda: bare_inserts(bare, values))
    )
    records = log.read(0, 0, n)[:n]
    polled, selected, folded, memory = turns(
        options.rounds,
        lambda: reading_rate(log, n, n, fold=False),
        rate(n, lambda: bare_select(bare)),
        lambda: reading_rate(log, n, count, fold=True),
        lambda: fold_rate(records, count),
    )
    log.close()
    return [
        Row(what=f"append, {title}, {APPEND} a commit", figure=appended,
            unit="records/s", limit="plain INSERTs", bare=inserted),
        Row(what=f"poll, {title}", figure=polled, unit="records/s",
            limit="plain SELECT", bare=selected),
        Row(what=f"poll and fold, {title}, closes included", figure=folded,
            unit="events/s", limit="fold from memory", bare=memory, goal=150_000),
    ]  # fmt: skip
