"""Made-up sales, the same for every run: skewed over products, 163 bytes each, 2 % twice."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from stream.log import Record
from stream.settings import Settings

BYTES = 163
DUPLICATES = 0.02
STORES, PRODUCTS = 25, 400
DAYS = 4
FIRST = datetime(2025, 3, 1, tzinfo=UTC)
FIRST_US = round(FIRST.timestamp() * 1e6)
_DAY_US = 86_400_000_000
#: Events come so long after they happened.
_DELAY_US = 5_000_000


def settings() -> Settings:
    """One partition, day buckets, the default models."""
    return Settings(partitions=1)


@functools.cache
def values(count: int) -> Sequence[tuple[bytes, int]]:
    """Sales as JSON with their times in µs, in order of time; each day has as many."""
    rng = np.random.default_rng(7)
    fresh = round(count / (1 + DUPLICATES))
    at_us = FIRST_US + np.sort(rng.integers(0, DAYS * _DAY_US, fresh))
    stores = rng.integers(0, STORES, fresh)
    products = (PRODUCTS * rng.random(fresh) ** 2).astype(int)
    quantity = rng.integers(1, 6, fresh)
    price = rng.integers(50, 2000, fresh) / 100
    made = []
    for i in range(fresh):
        time = FIRST + timedelta(microseconds=int(at_us[i]) - FIRST_US)
        head = '{"type":"sale","id":"'
        tail = (
            f'-{i:08d}","source":"till-{stores[i]:03d}","time":"{time:%Y-%m-%dT%H:%M:%S}Z",'
            f'"store":"{100 + stores[i]}","product":"P-{products[i]:06d}",'
            f'"quantity":{quantity[i]},"price":{price[i]:.2f}}}'
        )
        made.append(((head + tail.rjust(BYTES - len(head), "r")).encode(), int(at_us[i])))
    again = rng.choice(fresh, count - fresh, replace=False)
    order = np.concatenate([np.arange(fresh), again + rng.integers(1, 1000, len(again))])
    both = made + [made[i] for i in again.tolist()]
    return [both[i] for i in np.argsort(order, kind="stable").tolist()]


def packed(count: int, size: int) -> list[bytes]:
    """The sales as records' values: alone, or so many in an array."""
    events = [value for value, _ in values(count)]
    if size == 1:
        return events
    return [b"[" + b",".join(events[at : at + size]) + b"]" for at in range(0, count, size)]


def records(count: int, size: int) -> list[Record]:
    """The sales as records of partition 0, appended a little after they happened."""
    times = [at_us for _, at_us in values(count)]
    latest = np.maximum.accumulate(times)[size - 1 :: size].tolist()
    latest.extend([max(times)] * (-(-count // size) - len(latest)))
    return [
        Record(0, offset, append_us + _DELAY_US, None, value)
        for offset, (value, append_us) in enumerate(zip(packed(count, size), latest, strict=True))
    ]


def slices(whole: Sequence[Record], size: int) -> Iterator[Sequence[Record]]:
    """The records, so many at a time."""
    return (whole[at : at + size] for at in range(0, len(whole), size))
