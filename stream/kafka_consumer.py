"""Reading a Kafka topic to fold it: partitions that the caller names, or a group's share.

Guarantees, beyond ``log``: a rebalance listener does no more than pause, seek and note, so that
heartbeats go on; a partition that the group gives us gives no records until it is sought; one
that was lost is told apart from one that was given up in good order. Leaves out: what is done
about it (``learner.worker``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kafka import ConsumerRebalanceListener, TopicPartition  # type: ignore[import-untyped]
from kafka import errors as kafka_errors
from kafka.structs import MemberState, OffsetAndMetadata  # type: ignore[import-untyped]

from stream.errors import LogError
from stream.kafka_clients import close_consumer
from stream.log import Moves, Record

if TYPE_CHECKING:
    from stream.kafka_log import KafkaLog

#: How often ``poll`` looks whether the brokers are there and the topic is still the same.
LOOK_S = 2.0
#: How long a failed commit of offsets, which nobody waits for, keeps the next from being tried.
COMMIT_AGAIN_S = 30.0
#: Where a partition stands until it is sought; it is paused, so nothing is read there.
PLACEHOLDER = 0

LOST = (
    kafka_errors.OffsetOutOfRangeError,
    kafka_errors.LogTruncationError,
    kafka_errors.NoOffsetForPartitionError,
)


class KafkaLogConsumer:
    """A reader of assigned partitions; one thread's."""

    def __init__(self, log: KafkaLog, consumer: Any, positions: Mapping[int, int]) -> None:
        self._log = log
        self._consumer = consumer
        self._looked = time.monotonic()
        self._commit_after = 0.0
        try:
            self._own(positions)
        except BaseException:
            close_consumer(consumer)
            raise

    def _own(self, positions: Mapping[int, int]) -> None:
        self._consumer.assign([self._place(partition) for partition in positions])
        for partition, offset in positions.items():
            self.seek(partition, offset)

    @property
    def joined(self) -> bool:
        """Whether it is known which partitions are ours: from the start."""
        return True

    def moves(self) -> Moves:
        """No partition comes or goes."""
        return Moves()

    def poll(self, max_records: int, timeout_s: float) -> Mapping[int, Sequence[Record]]:
        """Records by partition, from where the last poll ended; empty on time-out."""
        log = self._log
        with log._unavailable():
            # Before records are taken: afterwards, an error would lose them.
            self._look()
            try:
                polled = self._consumer.poll(int(timeout_s * 1000), max_records)
            except LOST as error:
                raise self._lost() from error
        return {place.partition: to_records(place.partition, got) for place, got in polled.items()}

    def seek(self, partition: int, offset: int) -> None:
        """Go on reading a partition from ``offset``."""
        place = self._place(partition)
        if place not in self._consumer.assignment():
            raise ValueError(f"partition {partition} is not consumed here")
        self._consumer.seek(place, offset)
        self._consumer.resume(place)
        # kafka-python 3.0 parks what it had fetched of a paused partition, and takes it out again
        # only if it never had records of another in hand; until then it fetches no more of it.
        self._consumer._fetcher._paused_partition_records.pop(place, None)

    def pause(self, partition: int) -> None:
        """Read no more of a partition until it is sought."""
        with suppress(kafka_errors.IllegalStateError, KeyError):  # it has just been taken away
            self._consumer.pause(self._place(partition))

    def commit(self, positions: Mapping[int, int]) -> None:
        """Show positions as the group's offsets; a failure is kept to itself."""
        if time.monotonic() < self._commit_after:
            return
        try:
            with self._log._unavailable():
                self._log._commit(positions)
        except LogError:
            self._commit_after = time.monotonic() + COMMIT_AGAIN_S

    def close(self) -> None:
        """Release the connections. Safe to call twice."""
        close_consumer(self._consumer)

    def _place(self, partition: int) -> Any:
        return TopicPartition(self._log.topic, partition)

    def _look(self) -> None:
        """Ask now and then: kafka-python keeps quiet about brokers that are gone."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._log._same_topic()
            self._looked = time.monotonic()

    def _lost(self) -> LogError:
        positions = {
            place.partition: self._consumer.position(place) for place in self._consumer.assignment()
        }
        with self._log._reader_lock:
            return self._log._expired(positions)


class KafkaMember(KafkaLogConsumer):
    """A member of the group that shares the topic; one thread's.

    The group's coordinator gives it partitions, takes them back while ``poll`` or ``close`` runs,
    or finds it dead: then they are *lost*, and others may have read on already.
    """

    def __init__(self, log: KafkaLog, consumer: Any) -> None:
        super().__init__(log, consumer, {})

    def _own(self, positions: Mapping[int, int]) -> None:
        self._noted = threading.Lock()  # the listener runs on the client's own thread
        self._moves: dict[str, set[int]] = {"gained": set(), "revoked": set(), "lost": set()}
        # Known before it joins: a leader that does not know the topic yet assigns nothing of it,
        # and kafka-python may then miss that there is something to assign.
        self._consumer.partitions_for_topic(self._log.topic)
        self._consumer.subscribe([self._log.topic], listener=_Listener(self))

    @property
    def joined(self) -> bool:
        """Whether the group has said which partitions are ours, though it may be none."""
        return bool(self._consumer.group_metadata().state is MemberState.STABLE)

    def poll(self, max_records: int, timeout_s: float) -> Mapping[int, Sequence[Record]]:
        """Records by partition, from where the last poll ended; empty on time-out."""
        # kafka-python 3.0 forgets to end a join that outlasts a poll, if it was begun because the
        # topic's metadata came late: it would be put out of the group, and never be told.
        if self._consumer._coordinator.rejoining:
            self._consumer._coordinator.request_rejoin()
        return super().poll(max_records, timeout_s)

    def moves(self) -> Moves:
        """Partitions that came and went since the last call."""
        with self._noted:
            told = Moves(**{name: tuple(sorted(found)) for name, found in self._moves.items()})
            for found in self._moves.values():
                found.clear()
        return told

    def seek(self, partition: int, offset: int) -> None:
        """Go on reading a partition from ``offset``; nothing if it has just been taken away."""
        with suppress(ValueError, kafka_errors.IllegalStateError):
            super().seek(partition, offset)

    def commit(self, positions: Mapping[int, int]) -> None:
        """Show positions as the group's offsets; nobody waits for it, or minds if it fails."""
        with suppress(kafka_errors.KafkaError):
            self._consumer.commit_async(
                {
                    self._place(partition): OffsetAndMetadata(offset, "", -1)
                    for partition, offset in positions.items()
                }
            )

    def _note(self, what: str, places: Iterable[Any]) -> None:
        with self._noted:
            for place in places:
                if what != "gained" and place.partition in self._moves["gained"]:
                    self._moves["gained"].discard(place.partition)  # it came and went untold
                else:
                    self._moves[what].add(place.partition)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes what the group decides. It runs on the client's thread: no I/O, nothing slow."""

    def __init__(self, member: KafkaMember) -> None:
        self._member = member

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        assigned = list(assigned)
        for place in assigned:
            self._member._consumer.pause(place)
            self._member._consumer.seek(place, PLACEHOLDER)
        self._member._note("gained", assigned)

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self._member._note("revoked", revoked)

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        """The default calls it revoked, and so would have it snapshotted and committed."""
        self._member._note("lost", lost)


def to_records(partition: int, found: Sequence[Any]) -> list[Record]:
    """kafka-python's records as ours, by index: names cost a third of it.

    Kafka has values and headers that are null; they are empty here. Times come in ms.
    """
    new = tuple.__new__
    return [
        new(
            Record,
            (partition, r[3], r[4] * 1000, r[6], r[7] or b"",
             tuple((name, value or b"") for name, value in r[8]) if r[8] else ()),
        )
        for r in found
    ]  # fmt: skip


def assigned(assignment: Any) -> list[tuple[str, list[int]]]:
    """Topics and partitions of a group's member; none while the group is rebalancing."""
    if not isinstance(assignment, dict):  # raw bytes: it has none yet
        return []
    return [(one["topic"], one["partitions"]) for one in assignment["assigned_partitions"]]
