"""EventLog: the contract of a partitioned, ordered, durable log.

Guarantees: an appended entry is durable when ``append`` returns; offsets of a partition only
grow; append times are the log's own; what was read once reads the same again. Leaves
out: deduplication (the fold's), ordering between partitions, whether offsets are dense (they need
not be), and append times that never decrease within a partition: those of one clock do, but a
cluster's brokers have several, and a resharded log's come from several partitions.
Two implementations: ``sqlite_log``, ``kafka_log``; one contract suite runs over both.
"""

from __future__ import annotations

import os
import socket
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

Headers = tuple[tuple[str, bytes], ...]

#: Offsets that are read together, where only some of them are asked for.
AHEAD = 100


class Entry(NamedTuple):
    """What is appended: a value to a partition."""

    partition: int
    key: bytes | None
    value: bytes
    headers: Headers = ()


class Record(NamedTuple):
    """What is read: an entry at its offset; ``append_us`` is the log's time, µs since 1970 UTC."""

    partition: int
    offset: int
    append_us: int
    key: bytes | None
    value: bytes
    headers: Headers = ()


class Moves(NamedTuple):
    """Partitions that came to a consumer and went from it.

    ``revoked`` ones were ours until now, and nobody else has them yet; ``lost`` ones were taken
    while we were thought dead, and others may have read on already.
    """

    gained: tuple[int, ...] = ()
    revoked: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()


class Consumer(Protocol):
    """The folding owner's reader of some partitions."""

    @property
    def joined(self) -> bool:
        """Whether it is known which partitions are ours, though it may be none."""

    def moves(self) -> Moves:
        """Partitions gained, revoked and lost since the last call, to be asked after each poll.

        One that went and came back is in two of them: it went first. A gained partition gives
        no records until it is sought.
        """

    def poll(self, max_records: int, timeout_s: float) -> Mapping[int, Sequence[Record]]:
        """Records by partition, in order, from where the last poll ended; empty on time-out.

        Raises
        ------
        LogUnavailable
            The log cannot be reached; positions are kept, so call again.
        OffsetExpired
            A position is before the first record that is kept.
        """

    def seek(self, partition: int, offset: int) -> None:
        """Go on reading a partition from ``offset``; nothing if it has just been taken away."""

    def pause(self, partition: int) -> None:
        """Give no records of a partition until it is sought."""

    def commit(self, positions: Mapping[int, int]) -> None:
        """Tell the log the next offsets to fold: for the display of lag only, best effort."""

    def close(self) -> None:
        """Release the partitions. Safe to call twice."""


class EventLog(Protocol):
    """One topic."""

    @property
    def topic(self) -> str:
        """The topic's name."""

    @property
    def topic_id(self) -> str:
        """An id that a topic recreated under the same name does not share."""

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append entries durably; their offsets, in the order given.

        Entries of one partition keep their order. On an error some may have been appended.

        Raises
        ------
        LogUnavailable
            Durability could not be had.
        """

    def begin(self) -> Mapping[int, int]:
        """First offset kept, by partition."""

    def end(self) -> Mapping[int, int]:
        """Offset the next entry will get at the earliest, by partition."""

    def read(self, partition: int, offset: int, max_records: int = 1000) -> list[Record]:
        """Records from ``offset`` on, at once; empty at the end. Owns nothing."""

    def consume(self, positions: Mapping[int, int]) -> Consumer:
        """Own partitions and read them from these offsets.

        Raises
        ------
        AlreadyOwned
            The log has one owner, and it is another process.
        """

    def join(self) -> Consumer:
        """Own a share of the partitions, beside other members; ``Consumer.moves`` says which.

        A log that one process owns gives it all of them.

        Raises
        ------
        AlreadyOwned
            The log has one owner, and it is another process.
        """

    def owners(self) -> Mapping[int, str]:
        """Who folds a partition now, as host:process id; those that nobody does are left out."""

    def close(self) -> None:
        """Release connections. Safe to call twice."""


def here() -> str:
    """What this process calls itself among the owners of a log."""
    return f"{socket.gethostname()}:{os.getpid()}"


def in_turns(
    left: dict[int, Sequence[Record]], size: int
) -> Iterator[tuple[int, Sequence[Record]]]:
    """Records of several partitions, so many of each in turn, so that none is far ahead.

    Parameters
    ----------
    left
        What was polled; who takes a partition out of it gets no more of that.

    Examples
    --------
    >>> records = [Record(0, at, 0, None, b"") for at in range(3)]
    >>> polled = {0: records, 1: records[:1]}
    >>> [(partition, len(some)) for partition, some in in_turns(polled, 2)]
    [(0, 2), (1, 1), (0, 1)]
    """
    at = 0
    while left:
        for partition, records in list(left.items()):
            if at < len(records):
                yield partition, records[at : at + size]
            else:
                del left[partition]
        at += size


def read_at(log: EventLog, partition: int, offsets: Iterable[int]) -> Iterator[Record]:
    """Records at these offsets, in order, as far as there are any; neighbours are read together.

    Raises
    ------
    LogUnavailable, OffsetExpired
    """
    wanted = sorted(set(offsets))
    at = 0
    while at < len(wanted):
        last = wanted[bisect_left(wanted, wanted[at] + AHEAD) - 1]
        records = log.read(partition, wanted[at], last - wanted[at] + 1)
        if not records:
            return
        after = bisect_right(wanted, records[-1].offset)
        asked = set(wanted[at:after])
        yield from (record for record in records if record.offset in asked)
        at = after


@lru_cache(maxsize=65536)
def partition_of(store: str, partitions: int) -> int:
    """Partition of a store: murmur2 of its UTF-8 bytes, as Kafka's own default partitioner.

    Examples
    --------
    >>> [partition_of(s, 4) for s in ("330", "406", "Köln")]
    [3, 1, 2]
    """
    return (_murmur2(store.encode()) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """Kafka's murmur2 (seed 0x9747b28c), 32 bits, unsigned."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    tail = data[whole:]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15
