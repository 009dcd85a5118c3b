"""Resharding: a log's events copied into a new one, where stores live in other partitions.

Items of all partitions are merged by how far time had come in each, and written anew to where their
stores belong now, with the append times they had: so what was in time is in time. Each record says
by a header where it comes from; what has been copied is told to a log of its own after each batch,
so that a copy goes on where it broke off, exactly once. Leaves out: what only the old log's owner
wrote (ticks, markers) and what its fold refused for itself (undecodable or misrouted items): they
stay where they are.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec
from xxhash import xxh3_128_digest

from stream.errors import AlreadyOwned, OffsetExpired, TopicMismatch
from stream.event import (
    MICRO,
    AnyEvent,
    Complete,
    Marker,
    Refusal,
    Sale,
    Tick,
    Void,
    decode,
    item_values,
    time_us,
)
from stream.log import Entry, EventLog, Record, partition_of

#: Pieces copied between two notes of how far it has come.
BATCH = 2000
#: Every new partition.
ALL = -1
QUARTER_US = 900 * MICRO
#: An event this far ahead of its append moves no time here, whatever the settings say.
FUTURE_US = 366 * 86400 * MICRO
#: Header of a copied record: partition, offset, piece and part of what it was copied from.
FROM = "salescast.from"
#: Header of a copy that is in every partition.
EVERYWHERE = "salescast.everywhere"


class At(msgspec.Struct, frozen=True, array_like=True):
    """How far a partition is copied: the next record, the next piece of it, and how far its
    events' time had come before that record, µs since 1970 UTC."""

    offset: int
    piece: int = 0
    mark_us: int = 0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a copy has come: by old partition; and where each new one ends."""

    topic_id: str
    at: dict[int, At]
    ends: dict[int, int]
    counts: dict[str, int]
    finished: bool = False


class Target(EventLog, Protocol):
    """A log that takes records with the append times they have; unusable until it is finished."""

    def load(self, entries: Sequence[Entry], append_us: Sequence[int]) -> None:
        """Append entries durably, each with its append time, µs since 1970 UTC."""

    def finish(self) -> None:
        """From now on it is a log like any other."""


class Piece(msgspec.Struct, frozen=True):
    """Neighbouring items of a record between which no bucket closes; their ``raws`` and events.

    ``after`` is where its partition stands once it is copied.
    """

    record: Record
    number: int
    events: list[AnyEvent | Refusal]
    raws: list[bytes]
    after: At


def pieces(record: Record, at: At, grace_s: int) -> list[tuple[int, Piece]]:
    """Cut a record where time passes a quarter of an hour, on which alone buckets end.

    Parameters
    ----------
    grace_s
        Of the new deployment.

    Returns
    -------
    Pieces, each with the quarter that the watermark has come to by its end.
    """
    events = decode(record.value)
    found: list[tuple[int, Piece]] = []
    mark, grace_us = at.mark_us, grace_s * MICRO
    for event, raw in zip(events, item_values(record.value), strict=True):
        if isinstance(event, Sale | Void | Complete):
            moment = time_us(event.time)
            if moment <= record.append_us + FUTURE_US:
                mark = max(mark, min(moment, record.append_us))
        quarter = (mark - grace_us) // QUARTER_US
        if not found or found[-1][0] != quarter:
            number = len(found)
            piece = Piece(record, number, [], [], At(record.offset, number + 1, at.mark_us))
            found.append((quarter, piece))
        found[-1][1].events.append(event)
        found[-1][1].raws.append(raw)
    quarter, last = found[-1]
    found[-1] = quarter, msgspec.structs.replace(last, after=At(record.offset + 1, 0, mark))
    return found


def merged(
    log: EventLog, at: Mapping[int, At], ends: Mapping[int, int], grace_s: int
) -> Iterator[Piece]:
    """Pieces of all partitions, by how far the time of their events had come in each.

    So the watermark of a new partition has never come further, when an item is met, than the old
    one's had: what was in time is in time. Within a quarter of an hour they come in the order in
    which they were appended.
    """

    def of(partition: int) -> Iterator[tuple[int, int, int, int, int, Piece]]:
        now, end, quarter, latest = at[partition], ends[partition], 0, 0
        while now.offset < end and (records := log.read(partition, now.offset)):
            for record in records:
                if record.offset >= end:
                    return
                for now_quarter, piece in pieces(record, now, grace_s):
                    # A broker's clock may have stepped back; a partition stays in its order.
                    latest = max(latest if now_quarter == quarter else 0, record.append_us)
                    quarter = now_quarter
                    if record.offset > now.offset or piece.number >= now.piece:
                        yield quarter, latest, partition, record.offset, piece.number, piece
                now = piece.after

    for *_, piece in heapq.merge(*map(of, sorted(ends))):
        yield piece


def route(
    piece: Piece, old: range, new: int, counts: Counter[str]
) -> list[tuple[int, list[bytes]]]:
    """Where the items of a piece go: a partition of ``new`` ones, or all of them (-1).

    Parameters
    ----------
    old
        How many partitions the old log has had: stores were placed by any of these numbers.
    counts
        Gains the items by what became of them: ``copied``, or why they are left behind.
    """
    found: list[tuple[int, list[bytes]]] = []
    last: dict[int, list[bytes]] = {}
    for event, raw in zip(piece.events, piece.raws, strict=True):
        place = _place(event, piece.record.partition, old, new, counts)
        if place is None:
            continue
        if place == ALL:
            last = {}  # what follows stays behind it, in every partition
            found.append((place, [raw]))
        elif place in last:
            last[place].append(raw)
        else:
            last[place] = [raw]
            found.append((place, last[place]))
    return found


def _place(
    event: AnyEvent | Refusal, partition: int, old: range, new: int, counts: Counter[str]
) -> int | None:
    """The new partition of an item; ``None``: it is left behind."""
    if isinstance(event, Refusal):
        counts["refused"] += 1
    elif isinstance(event, Tick | Marker):
        counts["ticks and markers"] += 1
    elif event.store == "*":
        counts["for all stores"] += 1
        return ALL
    elif all(partition_of(event.store, many) != partition for many in old):
        counts["misrouted"] += 1
    else:
        counts["copied"] += 1
        return partition_of(event.store, new)
    return None


def _packed(items: list[bytes]) -> bytes:
    return items[0] if len(items) == 1 else b"[" + b",".join(items) + b"]"


def survey(
    log: EventLog, new: int, grace_s: int = 0, placed: int | None = None
) -> tuple[Counter[str], Counter[int]]:
    """What a copy into ``new`` partitions would do: items by outcome, and by new partition.

    ``placed`` as in ``Copy``.
    """
    counts: Counter[str] = Counter()
    spread: Counter[int] = Counter(dict.fromkeys(range(new), 0))
    for piece in merged(log, _whole(log), log.end(), grace_s):
        for partition, raws in route(piece, _had(log, placed), new, counts):
            if partition != ALL:
                spread[partition] += len(raws)
    return counts, spread


def _had(log: EventLog, placed: int | None) -> range:
    """How many partitions a log has had."""
    return range(min(placed or log.partitions, log.partitions), log.partitions + 1)


def last_progress(notes: EventLog) -> Progress | None:
    """What was last told of a copy; ``None``: nothing yet."""
    end = notes.end()[0]
    at = max(0, end - 50)
    records = notes.read(0, at) or notes.read(0, 0)
    return msgspec.json.decode(records[-1].value, type=Progress) if records else None


class Copy:
    """A copy on its way.

    Parameters
    ----------
    source
        The old log, from its very beginning: with an archive, if it has dropped any.
    target
        The new one.
    notes
        Where progress is told: one partition, for this copy alone.
    grace_s
        Of the new deployment.
    placed
        Partitions that the old log was made with, if it was given more: stores stayed where they
        were by this number; by default it has had as many as it has.

    Raises
    ------
    OffsetExpired
        The old log does not begin at its beginning.
    TopicMismatch
        The new log holds something else, or a copy of another log.
    """

    def __init__(
        self, source: EventLog, target: Target, notes: EventLog, *, grace_s: int,
        placed: int | None = None,
    ) -> None:  # fmt: skip
        self._source, self._target, self._notes = source, target, notes
        self._old = _had(source, placed)
        self._grace_s = grace_s
        begun = last_progress(notes)
        if begun is None:
            begun = Progress(
                topic_id=source.topic_id, at=dict(_whole(source)), counts={},
                ends=dict(target.begin()),
            )  # fmt: skip
        if begun.topic_id != source.topic_id:
            raise TopicMismatch(
                f"{target.topic} is a copy of another log than {source.topic} as it is now",
                remedy="Choose another topic_prefix, or another data folder, for the new one",
            )
        self.progress = begun
        self._noted = notes.end()[0]
        self._counts = Counter(begun.counts)
        self._after: dict[int, At] = {}
        self._done = self._already(begun)
        self._seen = self._everywhere()

    def run(self, told: Callable[[int, int], None] | None = None) -> int:
        """Copy up to where the old log ends by now; how many pieces it had.

        Parameters
        ----------
        told
            Told of offsets copied and of offsets there are, now and then.

        Raises
        ------
        AlreadyOwned
            Another process copies the same.
        TopicMismatch
            What a run that broke off has written is not what this one would write.
        LogUnavailable
            Run it again: it goes on.
        """
        ends = dict(self._source.end())
        total = sum(ends.values())
        batch: list[Piece] = []
        count = 0
        for piece in merged(self._source, self.progress.at, ends, self._grace_s):
            batch.append(piece)
            if len(batch) >= BATCH:
                count += self._keep(batch)
                batch = []
                if told is not None:
                    told(sum(at.offset for at in self.progress.at.values()), total)
        count += self._keep(batch)
        if self._done:
            raise TopicMismatch(
                f"{self._target.topic} holds {len(self._done)} records that a copy made now would "
                "not have",
                remedy="Set `grace_s` back to what the copy began with, or choose another "
                "topic_prefix, or another data folder, for the new one",
            )
        if told is not None:
            told(total, total)
        return count

    def finish(self) -> bool:
        """Make the new log usable, if the old one has no more by now; else ``False``."""
        # Asked of the records: offsets need not be dense.
        if any(self._source.read(p, at.offset, 1) for p, at in self.progress.at.items()):
            return False
        # Told first: whoever finds it told, and the new log unfinished, finishes it.
        self._note(msgspec.structs.replace(self.progress, finished=True))
        self._target.finish()
        return True

    def _keep(self, batch: list[Piece]) -> int:
        """Copy some pieces. A crash between any two steps copies none of them twice.

        1. Nobody else has copied meanwhile. 2. The new records, but those that a run which broke
        off has written. 3. How far it has come, once all that such a run has written was met: what
        came in since may lie before it.
        """
        if not batch:
            return 0
        # 1.
        if self._notes.end()[0] != self._noted:
            raise AlreadyOwned(
                f"another process copies to {self._target.topic}", remedy="Let one of them go on"
            )
        # 2.
        entries, times = [], []
        for piece in batch:
            record = piece.record
            for part, entry in enumerate(self._entries(piece)):
                place = f"{record.partition}/{record.offset}/{piece.number}/{part}".encode()
                if (entry.partition, place) in self._done:
                    self._done.discard((entry.partition, place))
                else:
                    headers = (*entry.headers, (FROM, place))
                    entries.append(entry._replace(headers=headers))
                    times.append(record.append_us)
        self._target.load(entries, times)
        # 3.
        self._after |= {piece.record.partition: piece.after for piece in batch}
        if self._done:
            return len(batch)
        at, ends = self.progress.at | self._after, dict(self._target.end())
        self._note(
            msgspec.structs.replace(self.progress, at=at, ends=ends, counts=dict(self._counts))
        )
        return len(batch)

    def _entries(self, piece: Piece) -> Iterator[Entry]:
        """What a piece becomes, the same each time."""
        record, new = piece.record, self._target.partitions
        for place, raws in route(piece, self._old, new, self._counts):
            if place != ALL:
                yield Entry(place, record.key, _packed(raws), record.headers)
                continue
            (raw,) = raws
            identity = xxh3_128_digest(raw)
            if identity in self._seen:
                continue  # the copy that another partition had
            self._seen.add(identity)
            for partition in range(new):
                yield Entry(partition, None, raw, ((EVERYWHERE, b""),))

    def _note(self, progress: Progress) -> None:
        self._notes.append([Entry(0, None, msgspec.json.encode(progress))])
        self._noted = self._notes.end()[0]
        self.progress = progress

    def _already(self, begun: Progress) -> set[tuple[int, bytes]]:
        """What a run that broke off has written after it told of its progress for the last time."""
        return {
            (record.partition, dict(record.headers).get(FROM, b""))
            for partition, at in begun.ends.items()
            for record in _records(self._target, partition, at)
        }

    def _everywhere(self) -> set[bytes]:
        """What every partition has been given, as far as it was told."""
        if not any(self.progress.ends.values()):
            return set()
        return {
            xxh3_128_digest(record.value)
            for record in _records(self._target, 0, 0, self.progress.ends[0])
            if EVERYWHERE in dict(record.headers)
        }


def _records(log: EventLog, partition: int, at: int, end: int | None = None) -> Iterator[Record]:
    while (end is None or at < end) and (records := log.read(partition, at)):
        yield from (record for record in records if end is None or record.offset < end)
        at = records[-1].offset + 1


def _whole(log: EventLog) -> Mapping[int, At]:
    """Where a log begins; it has to have everything."""
    begins = log.begin()
    for partition, begin in begins.items():
        if begin > 0:
            raise OffsetExpired(
                f"{log.topic}[{partition}] begins at offset {begin}: a copy would lack what came "
                "before",
                remedy="Set `archive` to where the rest is kept",
            )
    return {partition: At(begin) for partition, begin in begins.items()}
