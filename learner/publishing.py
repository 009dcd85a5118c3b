"""Putting a snapshot into the store. Leaves out: when (``worker``), for how long (``pruning``)."""

from __future__ import annotations

import msgspec

from learner.manifest import Signer
from learner.ownership import Owned
from learner.parts import Known, cut_new
from learner.snapshot import describe, lay_down
from learner.store import Pointer, Replaying, SnapshotStore


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that is in the store, to which head may move.

    ``unserved`` says that it is in the midst of a replay, and of which.
    ``folded`` and ``closes`` are what it holds since the last one: records, and buckets closed.
    """

    to: Pointer
    unserved: Replaying | None
    chunks: set[str]
    known: Known
    size_bytes: int
    written_bytes: int
    folded: int
    closes: int


def put(
    owned: Owned, store: SnapshotStore, signer: Signer, *, topic_id: str, created_us: int
) -> Put:
    """Put a shard's chunks, those that are new, and then its signed manifest.

    Raises
    ------
    StoreUnavailable
    """
    shard = owned.shard
    tables, chunks, known = cut_new(lay_down(shard), owned.known)
    manifest = describe(
        shard,
        tables,
        topic_id=topic_id,
        lineage=owned.lineage,
        parent=owned.parent,
        created_us=created_us,
    )
    written = 0
    for digest in store.missing(chunks.keys() - owned.chunks):
        store.put_chunk(digest, chunks[digest])
        written += len(chunks[digest])
    store.put_manifest(shard.partition, manifest.snapshot, signer.seal(manifest))
    replay = shard.replay
    return Put(
        to=Pointer(manifest.snapshot, owned.lineage, shard.position),
        unserved=Replaying(replay.operation, replay.start, replay.until) if replay else None,
        chunks=manifest.chunks,
        known=known,
        size_bytes=manifest.size_bytes,
        written_bytes=written,
        folded=owned.folded,
        closes=owned.closes,
    )
