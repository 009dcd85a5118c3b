"""The fold of events from memory, without a client of any log; in CPU seconds of one core."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence

import msgspec

from learner.shard import Shard
from learner.worker import SLICE
from stream.event import AnyEvent
from stream.log import Record
from stream.window import Closed, Key
from tests.bench import sales
from tests.bench.measure import Options, Row, Series, rate


class Timed(Shard):
    """A shard that knows how long its closes took."""

    closing_s = 0.0

    def _close(self, closed: Closed) -> list[Key]:
        started = time.process_time()
        refused = super()._close(closed)
        self.closing_s += time.process_time() - started
        return refused


def fold(records: Sequence[Record], count: int) -> tuple[float, float]:
    """Events/s of a fresh shard: closes included, and without the time they took."""
    shard = Timed(sales.settings(), 0)
    gc.collect()
    started = time.process_time()
    for some in sales.slices(records, SLICE):
        shard.fold(some)
    took_s = time.process_time() - started
    counts = shard.counts()
    assert counts["learned"] + counts["duplicate"] == count, counts
    return count / took_s, count / (took_s - shard.closing_s)


def decode_only(packed: Sequence[bytes], many: bool) -> None:
    """msgspec into the events' structs, and nothing else."""
    decode = msgspec.json.Decoder(list[AnyEvent] if many else AnyEvent).decode
    for value in packed:
        decode(value)


def plain_dictionary(packed: Sequence[bytes], many: bool) -> dict[tuple[str, str, str], float]:
    """What one would write in ten lines: untyped JSON, a set of ids, sums in a dictionary."""
    seen: set[tuple[str, str]] = set()
    sums: dict[tuple[str, str, str], float] = {}
    for value in packed:
        found = msgspec.json.decode(value)
        for sale in found if many else (found,):
            identity = sale["source"], sale["id"]
            if identity in seen:
                continue
            seen.add(identity)
            key = sale["store"], sale["product"], sale["time"][:10]
            sums[key] = sums.get(key, 0.0) + sale["quantity"]
    return sums


def run(options: Options) -> list[Row]:
    """Single events, and records of 100."""
    count = 50_000 if options.quick else 200_000
    return [
        *_measure(options, count, 1, "one event a record"),
        *_measure(options, count, 100, "100 a record"),
    ]


def _measure(options: Options, count: int, size: int, name: str) -> list[Row]:
    records = sales.records(count, size)
    packed = [record.value for record in records]
    many = size > 1
    decode = rate(count, lambda: decode_only(packed, many), time.process_time)
    dictionary = rate(count, lambda: plain_dictionary(packed, many), time.process_time)
    folds: list[tuple[float, float]] = []
    decoded: list[float] = []
    summed: list[float] = []
    for _ in range(options.rounds):
        folds.append(fold(records, count))
        decoded.append(decode())
        summed.append(dictionary())
    whole, without = (Series(values) for values in zip(*folds, strict=True))
    plain = Series(tuple(summed))
    return [
        Row(what=f"{name}, closes included", figure=whole, unit="events/s",
            limit="plain dictionary", bare=plain),
        Row(what=f"{name}, without closes", figure=without, unit="events/s",
            limit="plain dictionary", bare=plain, goal=300_000),
        Row(what=f"{name}, without closes", figure=without, unit="events/s",
            limit="msgspec decode", bare=Series(tuple(decoded))),
    ]  # fmt: skip
