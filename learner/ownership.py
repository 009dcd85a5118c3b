"""Which shards are ours, and how one is taken up: from its head snapshot, or from nothing.

One worker owns all partitions of a log. Leaves out: sharing partitions between workers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from learner.operations import Entry
from learner.shard import Shard
from learner.snapshot import Verifier, read_manifest, read_shard
from learner.store import SnapshotStore
from stream.dead_letters import DeadLetter
from stream.errors import OffsetExpired, TopicMismatch
from stream.log import EventLog
from stream.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Owned:
    """A shard in the hands of its owner, with what is not durable yet."""

    shard: Shard
    head: str | None
    lineage: int
    chunks: set[str] = field(default_factory=set)  # of the head: known to be in the store
    letters: list[DeadLetter] = field(default_factory=list)  # to be kept before publishing
    finished: list[tuple[str, int, str | None]] = field(default_factory=list)  # operations
    folded: int = 0  # records since the last snapshot
    closes: int = 0  # buckets closed since the last snapshot
    published_s: float = 0.0  # monotonic
    publish_s: float = 0.0  # how long the last publication took
    last_record_s: float = 0.0  # monotonic
    stopped: str = ""  # why it stands still, if it does


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
            remedy=f"Set `partitions` to {events.partitions}, or choose another `topic_prefix`",
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
    SnapshotMissing, SnapshotCorrupt, FingerprintMismatch
        The head cannot be taken up; it is never replaced by an empty one.
    """
    head = store.pointers(partition).head
    first, end = events.begin()[partition], events.end()[partition]
    if head is None:
        if first > 0:
            raise OffsetExpired(
                f"partition {partition} of {events.topic} begins at offset {first}, "
                "and no snapshot covers what came before"
            )
        return Owned(shard=Shard(settings, partition), head=None, lineage=1)
    manifest = read_manifest(store, partition, head.snapshot, verifier)
    if manifest.topic_id != events.topic_id:
        raise TopicMismatch(
            f"snapshot {head.snapshot} belongs to another topic than {events.topic} as it is now",
            remedy="Restore the topic, or start anew with an empty store and log",
        )
    if manifest.position < first:
        raise OffsetExpired(
            f"partition {partition} of {events.topic} begins at offset {first}, "
            f"its snapshot ends at {manifest.position}"
        )
    if manifest.position > end:
        raise TopicMismatch(
            f"partition {partition} of {events.topic} ends at offset {end}, "
            f"its snapshot has folded up to {manifest.position}",
            remedy="The log has lost records; restore it before starting",
        )
    shard = read_shard(store, manifest, settings)
    logger.info(
        "partition %d: restored %s, %d series, %d records to fold",
        partition, manifest.snapshot, manifest.series, end - manifest.position,
    )  # fmt: skip
    return Owned(shard=shard, head=head.snapshot, lineage=head.lineage, chunks=manifest.chunks)


def pinned(operations: dict[str, Entry]) -> set[str]:
    """Snapshots that an operation names; they are kept, since the fold may need them again."""
    return {
        snapshot
        for entry in operations.values()
        if entry.operation.kind != "resume"
        for snapshot in entry.operation.cut.values()
    }
