"""Which shards are ours, and how one is taken up: from its head snapshot, or from nothing.

Leaves out: who gets which (the log's consumers say), and when one goes (``worker``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from learner.aside import Aside
from learner.findings import Finding
from learner.manifest import Manifest, Verifier, outdated, read_manifest
from learner.operations import Entry
from learner.parts import Known
from learner.replay import START, Turn
from learner.shard import Folded, Shard
from learner.snapshot import reaches_back, read_shard
from learner.standstill import stopped
from learner.store import Pointer, Pointers, SnapshotStore, Standstill
from stream.dead_letters import DeadLetter, DeadLetters
from stream.errors import (
    OffsetExpired,
    SnapshotCorrupt,
    SnapshotForeign,
    SnapshotMissing,
    StoreError,
    TopicMismatch,
)
from stream.log import EventLog, Record, read_at
from stream.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Owned:
    """A shard in the hands of its owner, with what is not durable yet."""

    shard: Shard
    head: str | None
    lineage: int
    parent: str | None = None  # the snapshot it goes on from: the head, or a replay's cut
    #: Letters that a replay finds written already, by (offset, item).
    written: Mapping[tuple[int, int], str] = field(default_factory=dict)
    #: Counts and refusals that metrics have been told of, while a replay counts anew.
    told: tuple[Mapping[str, int], Mapping[str, int]] | None = None
    chunks: set[str] = field(default_factory=set)  # of the head: known to be in the store
    known: Known = field(default_factory=dict)  # what the head's chunks hold
    letters: list[DeadLetter] = field(default_factory=list)  # to be kept before publishing
    finished: list[tuple[str, int, str | None]] = field(default_factory=list)  # operations
    findings: list[tuple[Finding, int]] = field(default_factory=list)  # of the guard
    folded: int = 0  # records since the last snapshot
    closes: int = 0  # buckets closed since the last snapshot
    taken_at: int = 0  # position when it was taken up
    caught_up_at: int = 0  # end of the log then
    #: Position of a head that could not be taken up, until something as new is published.
    unread: int = 0
    foreign: bool = False  # whether that head was not what an owner signed
    aside: Aside[Any] | None = None  # a snapshot on its way
    published: int = 0  # position of the last one
    publishing_s: float = 0.0  # monotonic: when the one on its way was begun
    published_s: float = 0.0  # monotonic
    publish_s: float = 0.0  # how long the last publication took
    last_record_s: float = 0.0  # monotonic
    standstill: Standstill | None = None  # what it stands still at, if it does
    said: Standstill | None = None  # what the store says of that
    say_s: float = 0.0  # monotonic: when the store is told of that again, if it could not be
    looked_s: float = 0.0  # monotonic: when it was last seen whether that may be skipped

    @property
    def stopped(self) -> str:
        """Why it stands still, if it does."""
        if self.standstill is None:
            return ""
        return str(stopped(self.shard.partition, self.standstill))

    @property
    def stopped_at(self) -> int | None:
        """Offset of the record that it stands still at."""
        return None if self.standstill is None else self.standstill.offset

    @property
    def behind(self) -> bool:
        """Whether it has yet to come to where a head stands that could not be taken up."""
        return self.shard.position < self.unread

    def let_go(self) -> None:
        """Give up a snapshot that is on its way: it will not become head."""
        aside, self.aside = self.aside, None
        if aside is not None:
            aside.end()


def restored(owned: Owned) -> float:
    """How much of what waited in the log when a shard was taken up is folded, 0 to 1.

    Examples
    --------
    >>> from types import SimpleNamespace as Some
    >>> restored(Some(shard=Some(position=15), taken_at=10, caught_up_at=20))
    0.5
    """
    waited = owned.caught_up_at - owned.taken_at
    return min((owned.shard.position - owned.taken_at) / waited, 1.0) if waited > 0 else 1.0


def check_topic(settings: Settings, events: EventLog) -> None:
    """Refuse a log that does not fit the settings.

    Raises
    ------
    TopicMismatch
    """
    if events.partitions != settings.partitions:
        raise TopicMismatch(
            f"topic {events.topic} has {events.partitions} partitions, "
            f"the setting `partitions` says {settings.partitions}",
            remedy=f"Set `partitions` to {events.partitions} if it always had so many; if it was "
            "given more, go on with: salescast reshard --help",
        )


def take(
    settings: Settings,
    events: EventLog,
    store: SnapshotStore,
    verifier: Verifier,
    partition: int,
) -> Owned:
    """A partition's shard as its head snapshot has it; a new one where there is none.

    Raises
    ------
    TopicMismatch, OffsetExpired
        The log is not the one that the snapshot's position belongs to.
    FingerprintMismatch
        The head was made under other settings.
    SnapshotCorrupt
        The head cannot be taken up, and nothing that can be trusted leads back to it.
    """
    pointers = store.pointers(partition)
    head = pointers.head
    first, end = events.begin()[partition], events.end()[partition]
    if head is None:
        if first > 0:
            raise OffsetExpired(
                f"partition {partition} of {events.topic} begins at offset {first}, "
                "and no snapshot covers what came before"
            )
        return Owned(shard=Shard(settings, partition), head=None, lineage=1, caught_up_at=end)
    served = _served(pointers, end)
    head = msgspec.structs.replace(head, position=max(head.position, served))
    try:
        manifest = read_manifest(store, partition, head.snapshot, verifier)
        _check_position(manifest, events, first, end)
        if outdated(manifest) and not reaches_back(store, manifest, settings) and first == 0:
            return _from_start(settings, partition, head, end, _made_otherwise(manifest))
        shard = _read(store, manifest, settings)
    except (SnapshotCorrupt, SnapshotMissing) as error:
        return _recover(settings, events, store, verifier, partition, head, error)
    logger.info(
        "partition %d: restored %s, %d series, %d records to fold",
        partition, manifest.snapshot, manifest.series, end - manifest.position,
    )  # fmt: skip
    return Owned(
        shard=shard,
        head=head.snapshot,
        lineage=head.lineage,
        parent=head.snapshot,
        chunks=manifest.chunks,
        taken_at=manifest.position,
        caught_up_at=end,
        unread=served,
    )


def _served(pointers: Pointers, end: int) -> int:
    """Position of what is served, if head's replay ends before it; else 0.

    It does if it was begun on the way back to a head that could not be taken up.
    """
    active, replaying = pointers.active, pointers.replaying
    if active is None or replaying is None or active.position <= replaying.until + 1:
        return 0
    return min(active.position, end)


def _check_position(manifest: Manifest, events: EventLog, first: int, end: int) -> None:
    """Refuse a log that is not the one that a snapshot's position belongs to."""
    if manifest.topic_id != events.topic_id:
        raise TopicMismatch(
            f"snapshot {manifest.snapshot} belongs to another topic than {events.topic} as it is "
            "now",
            remedy="Restore the topic, or start anew with an empty store and log",
        )
    where = f"partition {manifest.partition} of {events.topic}"
    if manifest.position < first:
        raise OffsetExpired(
            f"{where} begins at offset {first}, its snapshot ends at {manifest.position}"
        )
    if manifest.position > end:
        raise TopicMismatch(
            f"{where} ends at offset {end}, its snapshot has folded up to {manifest.position}",
            remedy="The log has lost records; restore it before starting",
        )


def _made_otherwise(manifest: Manifest) -> str:
    said = ", ".join(f"{name} {then}" for name, then in outdated(manifest).items())
    return f"{manifest.snapshot} was made with {said}"


def _read(store: SnapshotStore, manifest: Manifest, settings: Settings) -> Shard:
    """The shard of a snapshot; says so if its models had to be made anew."""
    started = time.monotonic()
    shard = read_shard(store, manifest, settings)
    if outdated(manifest):
        whole = reaches_back(store, manifest, settings)
        logger.warning(
            "partition %d: %s: its models were made anew from its facts in %.1f s%s",
            manifest.partition, _made_otherwise(manifest), time.monotonic() - started,
            "" if whole else "; those reach back over the newest buckets only, and the log does "
            "not reach back to its beginning (see the setting `archive`)",
        )  # fmt: skip
    return shard


def _recover(
    settings: Settings, events: EventLog, store: SnapshotStore, verifier: Verifier,
    partition: int, head: Pointer, error: StoreError,
) -> Owned:  # fmt: skip
    """Go on from an older snapshot of the same lineage, or from the log's beginning.

    The fold is deterministic, so either comes to where the head stands with what it holds. Nothing
    older is published meanwhile: what is served stays. Where no snapshot at all is signed by a key
    that is known here, that key is more likely wrong than all of them: nothing is learned again.

    Raises
    ------
    SnapshotCorrupt
        There is no way back.
    """
    first, end = events.begin()[partition], events.end()[partition]
    # Who put a head that no owner signed may have put it past the end: pointers are not signed.
    head = msgspec.structs.replace(head, position=min(head.position, end))
    for name in reversed(store.snapshots(partition)):
        if name == head.snapshot:
            continue
        try:
            manifest = read_manifest(store, partition, name, verifier)
            at = (manifest.lineage, manifest.topic_id)
            if at != (head.lineage, events.topic_id) or not first <= manifest.position <= end:
                continue
            shard = _read(store, manifest, settings)
        except (SnapshotCorrupt, SnapshotMissing) as also:
            logger.error("partition %d: %s", partition, also)
            continue
        logger.error(
            "partition %d: %s; going on from %s, %d records before it",
            partition, error, name, head.position - manifest.position,
        )  # fmt: skip
        return Owned(
            shard=shard, head=head.snapshot, lineage=head.lineage + 1, parent=name,
            taken_at=manifest.position, caught_up_at=end, unread=head.position,
            foreign=isinstance(error, SnapshotForeign),
        )  # fmt: skip
    if isinstance(error, SnapshotForeign):
        raise SnapshotForeign(
            f"partition {partition}: {error.args[0]}, nor is any older one of its lineage that "
            "can be read"
        ) from error
    if first == 0:
        return _from_start(settings, partition, head, end, str(error))
    raise SnapshotCorrupt(
        f"partition {partition}: {error} No older snapshot of its lineage can be read, and the log "
        f"begins at offset {first}",
        remedy="Put the store back from a backup, or set `archive` to where the log is kept",
    ) from error


def _from_start(settings: Settings, partition: int, head: Pointer, end: int, why: str) -> Owned:
    """Learn all again from the log's beginning, in the place of a head that cannot be taken up."""
    logger.error(
        "partition %d: %s; all is learned again from the log's beginning: %d records. What is "
        "served stays until it has come to offset %d",
        partition, why, end, head.position,
    )  # fmt: skip
    return Owned(
        shard=Shard(settings, partition), head=head.snapshot, lineage=head.lineage + 1,
        caught_up_at=end, unread=head.position,
    )  # fmt: skip


def following(owned: Owned, turn: Turn, events: EventLog, dead_letters: DeadLetters) -> Owned:
    """The shard of a replay's cut in the hands of the same owner, ready to learn again.

    1. Letters that are written already are looked up, not to be written twice. 2. Late items
    are folded, if the replay admits them, before all others.

    Raises
    ------
    LogUnavailable
    """
    shard = turn.shard
    assert shard.replay is not None
    # 1.
    written = dead_letters.written(shard.partition, shard.replay.until)
    after = Owned(
        shard=shard,
        head=owned.head,
        lineage=owned.lineage + 1,
        parent=None if turn.snapshot == START else turn.snapshot,
        written=written,
        unread=owned.unread,
        said=owned.said,
        told=(owned.shard.counts(), dict(owned.shard.window.refused)),
    )
    # 2.
    if turn.admit_late:
        take_in(after, *admit_late(shard, events, written), dead_letters)
    logger.warning(
        "partition %d: goes back to %s, and learns offsets %d to %d again",
        shard.partition, turn.snapshot, shard.position, shard.replay.until,
    )  # fmt: skip
    return after


def admit_late(
    shard: Shard, events: EventLog, written: Mapping[tuple[int, int], str]
) -> tuple[Folded, list[Record]]:
    """Fold late items into a shard that begins a replay; what came of them, and their records.

    Parameters
    ----------
    written
        Reasons of dead letters, by (offset, item).
    """
    late = sorted(
        place
        for place, reason in written.items()
        if reason == "late" and place[0] >= shard.position
    )
    records = list(read_at(events, shard.partition, (offset for offset, _ in late)))
    return shard.admit(records, late), records


def take_in(
    owned: Owned, folded: Folded, records: Sequence[Record], dead_letters: DeadLetters
) -> None:
    """Remember what came of some records, until it is published.

    Raises
    ------
    LogUnavailable
    """
    letters = dead_letters.collect(owned.shard.partition, folded.letters, records)
    owned.letters += [one for one in letters if (one.offset, one.item) not in owned.written]
    owned.folded += len(records)
    owned.closes += folded.closes
    owned.finished += folded.operations
    owned.findings += folded.findings


def pinned(operations: dict[str, Entry]) -> set[str]:
    """Snapshots that an operation names; they are kept, since the fold may need them again.

    Not those of a promotion, which is carried out without them, nor of a suspect, for which nothing
    is, nor the twin's: every snapshot holds all of its twin. A freeze's only until it is carried
    out: while it stands its snapshot is active, which no store deletes, and then nobody needs it.
    """
    return {
        snapshot
        for entry in operations.values()
        if entry.operation.kind not in ("resume", "promote", "suspect")
        for partition, snapshot in entry.operation.cut.items()
        if entry.operation.kind != "freeze" or entry.told(partition) is None
    }
