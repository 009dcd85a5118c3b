"""Items that are not folded, with their original bytes and why.

Guarantees: a letter is durable when ``append`` returns; writing one twice is harmless, since
its key (topic id, partition, offset, item) is the same; the bytes are those of the log, in a
packed record those of the one item. Leaves out: the decision (``event`` and ``window``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import msgspec

from stream.errors import OffsetExpired
from stream.event import REASONS, item_values
from stream.log import Entry, EventLog, Record, read_at
from stream.window import Letter

#: Letters whose reason can be asked for by ``Index``; older ones are only in the log.
KEPT = 200_000
#: Header of a record that settles the letter of the same key: by which operation, and how.
SETTLED = "salescast.settled"
#: Records that the index reads of a partition at once.
STEP = 1000

#: Reasons found while an item is decoded; the others are found while it is folded.
_DECODING = frozenset({"malformed", "unknown_type", "unknown_field", "invalid_field", "too_large"})


class DeadLetter(NamedTuple):
    """An item kept aside: where it was, why, and its original bytes."""

    partition: int
    offset: int
    item: int
    reason: str
    detail: str
    value: bytes


class _Sent(msgspec.Struct):
    source: str = ""


_sources = msgspec.json.Decoder(_Sent)


def source_of(value: bytes) -> str:
    """Who sent an item, as far as its bytes say.

    Examples
    --------
    >>> source_of(b'{"source": "till", "quantity": "two"}'), source_of(b"no event")
    ('till', '')
    """
    try:
        return _sources.decode(value).source
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


class DeadLetters:
    """The dead-letter topic of an event log.

    Parameters
    ----------
    log
        Where letters are kept; it has as many partitions as ``events``.
    events
        The log the items came from.
    """

    def __init__(self, log: EventLog, events: EventLog) -> None:
        self._log = log
        self._events = events

    def collect(
        self, partition: int, letters: Sequence[Letter], records: Sequence[Record]
    ) -> list[DeadLetter]:
        """Add the original bytes to what the fold kept aside.

        Bytes come from ``records``; what is not among them (a series that turned out at its
        bucket's close to be one too many) is read from the log again.

        Raises
        ------
        LogUnavailable
        """
        places = {(letter.offset, letter.item) for letter in letters}
        offsets = {offset for offset, _ in places}
        gone = offsets - {record.offset for record in records}
        values = {
            (record.offset, item): value
            for record in chain(records, read_at(self._events, partition, gone))
            if record.offset in offsets
            for item, value in enumerate(item_values(record.value))
            if (record.offset, item) in places
        }
        return [
            DeadLetter(
                partition,
                letter.offset,
                letter.item,
                letter.reason,
                letter.detail,
                values.get((letter.offset, letter.item), b""),
            )
            for letter in letters
        ]

    def append(self, letters: Sequence[DeadLetter]) -> None:
        """Keep letters durably.

        Raises
        ------
        LogUnavailable
            Some may have been kept; append them all again.
        """
        if letters:
            self._log.append([self._entry(letter) for letter in letters])

    def written(self, partition: int, end: int) -> dict[tuple[int, int], str]:
        """Reasons of the letters there are of offsets before ``end``, by (offset, item).

        Raises
        ------
        LogUnavailable
        """
        found = {}
        at = self._log.begin()[partition]
        while records := self._log.read(partition, at):
            for record in records:
                place = place_of(record, self._events.topic_id)
                if place is not None and place[0] == partition and place[1] < end:
                    reason = dict(record.headers).get("salescast.reason")
                    if reason is None:
                        continue  # it settles a letter
                    found[place[1:]] = reason.decode("utf-8", "replace")
            at = records[-1].offset + 1
        return found

    def settle(self, places: Sequence[tuple[int, int, int]], how: str) -> None:
        """Say of letters, by (partition, offset, item), that they were dealt with.

        Raises
        ------
        LogUnavailable
            Some may be settled; settle them all again.
        """
        if places:
            self._log.append([
                Entry(place[0], self._key(*place), b"", ((SETTLED, how.encode()),))
                for place in places
            ])  # fmt: skip

    def read(self, partition: int, at: int) -> bytes:
        """Original bytes of the letter at an offset of the dead-letter topic.

        Raises
        ------
        LogUnavailable
        """
        records = self._log.read(partition, at, 1)
        return records[0].value if records and records[0].offset == at else b""

    def _key(self, partition: int, offset: int, item: int) -> bytes:
        return f"{self._events.topic_id}/{partition}/{offset}/{item}".encode()

    def _entry(self, letter: DeadLetter) -> Entry:
        """A letter as Kafka Connect writes one, with our reason and item beside it."""
        decoding = letter.reason in _DECODING
        headers = {
            "__connect.errors.topic": self._events.topic,
            "__connect.errors.partition": str(letter.partition),
            "__connect.errors.offset": str(letter.offset),
            "__connect.errors.stage": "VALUE_CONVERTER" if decoding else "TRANSFORMATION",
            "__connect.errors.class.name": "stream.event" if decoding else "stream.window",
            "__connect.errors.exception.class.name": "stream.event.Refusal",
            "__connect.errors.exception.message": letter.detail,
            "salescast.reason": letter.reason,
            "salescast.item": str(letter.item),
        }
        return Entry(
            letter.partition,
            self._key(letter.partition, letter.offset, letter.item),
            letter.value,
            tuple((name, text.encode()) for name, text in headers.items()),
        )


def place_of(record: Record, topic_id: str) -> tuple[int, int, int] | None:
    """Partition, offset and item that a letter is about; ``None``: not of this topic."""
    of_topic, *place = (record.key or b"").decode("utf-8", "replace").rsplit("/", 3)
    if of_topic != topic_id or len(place) != 3 or not all(part.isdecimal() for part in place):
        return None
    partition, offset, item = map(int, place)
    return partition, offset, item


class Why(NamedTuple):
    """Why an item is a dead letter, who sent it as far as its bytes say, and what became of it.

    ``at`` is the letter's own offset in its partition of the dead-letter topic; ``settled`` is
    empty while nobody has dealt with it.
    """

    reason: str
    detail: str
    source: str = ""
    settled: str = ""
    at: int = -1

    @property
    def remedy(self) -> str:
        """What the producer should do."""
        return REASONS.get(self.reason, "see the detail")


class Index:
    """Reasons of the newest dead letters, followed by reading in small steps.

    Parameters
    ----------
    log
        The dead-letter topic.
    events
        The events' topic; letters of one recreated under its name since are passed over.
    kept
        How many letters are remembered.
    """

    def __init__(self, log: EventLog, events: EventLog, kept: int = KEPT) -> None:
        self._log = log
        self._events = events
        self._kept = kept
        self._next: dict[int, int] = {}
        # Ordered, since a plain dict is slow to give up its oldest.
        self._why: OrderedDict[tuple[int, int, int], Why] = OrderedDict()

    def step(self) -> int:
        """Read on, at most ``STEP`` records a partition; how many were read. One thread only.

        Raises
        ------
        LogUnavailable
        """
        if not self._next:
            begin, end = self._log.begin(), self._log.end()
            self._next = {p: max(begin[p], end[p] - self._kept) for p in end}
        count = 0
        for partition, offset in list(self._next.items()):
            try:
                records = self._log.read(partition, offset, STEP)
            except OffsetExpired:
                self._next[partition] = self._log.begin()[partition]
                continue
            for record in records:
                self._take(record)
            if records:
                self._next[partition] = records[-1].offset + 1
                count += len(records)
        return count

    def find(self, partition: int, offset: int, item: int) -> Why | None:
        """Why an item is a dead letter, as far as was read; ``None`` if it is not known as one."""
        return self._why.get((partition, offset, item))

    def all(self) -> list[tuple[tuple[int, int, int], Why]]:
        """Letters that are known, by (partition, offset, item), in that order."""
        return sorted(self._why.items())

    def _take(self, record: Record) -> None:
        place = place_of(record, self._events.topic_id)
        if place is None:
            return
        headers = dict(record.headers)
        before = self._why.pop(place, None)
        settled = headers.get(SETTLED, b"").decode("utf-8", "replace")
        if settled:
            if before is not None:
                self._why[place] = before._replace(settled=settled)
            return
        self._why[place] = Why(
            headers.get("salescast.reason", b"").decode("utf-8", "replace"),
            headers.get("__connect.errors.exception.message", b"").decode("utf-8", "replace"),
            source_of(record.value),
            at=record.offset,
        )
        while len(self._why) > self._kept:
            self._why.popitem(last=False)
