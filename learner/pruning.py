"""Forgetting old snapshots, and the chunks that none names any more.

Guarantees: head, active and what an operation names stay; a snapshot that cannot be read stands
in the way of no other, and keeps its chunks while it is kept. Leaves out: which ones go
(``retention``), and when (``worker``).
"""

from __future__ import annotations

import logging
import sys
from typing import NamedTuple

import msgspec

from learner.manifest import Envelope, Verifier
from learner.parts import Part
from learner.retention import UNSIGNED, Aged, kept
from learner.store import SnapshotStore
from stream.buckets import Calendar
from stream.errors import SnapshotCorrupt, SnapshotMissing
from stream.event import FIRST_US
from stream.settings import Settings

logger = logging.getLogger(__name__)


class _Seen(NamedTuple):
    """What is remembered of a manifest, which never changes."""

    lineage: int
    time_us: int
    chunks: tuple[str, ...]


class _Outline(msgspec.Struct, frozen=True):
    """What a manifest says that is not verified, or is of another format."""

    watermark_us: int = 0
    parts: dict[str, Part] = {}


class Pruner:
    """Prunes a store; remembers manifests, so that a run reads only those that are new.

    Parameters
    ----------
    settings
        How many are kept, and for how long.
    store, verifier
        The snapshots, and the keys that owners sign with.
    """

    def __init__(self, settings: Settings, store: SnapshotStore, verifier: Verifier) -> None:
        self._settings = settings
        self._store = store
        self._verifier = verifier
        self._calendar = Calendar(settings)
        self._seen: dict[int, dict[str, _Seen]] = {}
        self._told: set[tuple[int, str]] = set()

    def prune(self, pinned: set[str]) -> None:
        """Delete what is not to be kept in any partition, and chunks that no snapshot names.

        Raises
        ------
        StoreUnavailable
        """
        named: set[str] = set()
        for partition in self._store.partitions():
            ages = [
                Aged(snapshot, seen.lineage, seen.time_us)
                for snapshot, seen in self._look(partition).items()
            ]
            stay = kept(
                ages,
                newest=self._settings.snapshots_kept,
                days=self._settings.snapshots_kept_days,
                day_of=self._calendar.day,
            )
            self._store.delete(partition, {one.snapshot for one in ages} - stay - pinned)
            for seen in self._look(partition).values():
                named.update(seen.chunks)
        self._store.sweep(named)

    def _look(self, partition: int) -> dict[str, _Seen]:
        """The snapshots of a partition, in the order they were put."""
        before, now = self._seen.get(partition, {}), {}
        unread: list[tuple[str, SnapshotCorrupt]] = []
        for snapshot in self._store.snapshots(partition):
            seen = before.get(snapshot)
            # A key may have come to be known since.
            if seen is None or seen.lineage == UNSIGNED:
                try:
                    envelope = self._store.get_manifest(partition, snapshot)
                except SnapshotMissing:
                    continue  # somebody else prunes too
                try:
                    one = self._verifier.open(envelope, partition, snapshot)
                    seen = _seen(one.lineage, one.watermark_us, one.parts)
                except SnapshotCorrupt as error:
                    unread.append((snapshot, error))
                    said = _outline(envelope)
                    seen = _seen(UNSIGNED, said.watermark_us, said.parts)
            now[snapshot] = seen
        self._seen[partition] = now
        self._tell(partition, unread)
        return now

    def _tell(self, partition: int, unread: list[tuple[str, SnapshotCorrupt]]) -> None:
        fresh = [error for name, error in unread if (partition, name) not in self._told]
        self._told.update((partition, name) for name, _ in unread)
        if fresh:
            logger.warning(
                "partition %d: %d snapshots cannot be read: %s. They are passed over, and deleted "
                "when they are old; nothing is to be done if their key was forgotten on purpose",
                partition, len(fresh), fresh[0],
            )  # fmt: skip


def _seen(lineage: int, watermark_us: int, parts: dict[str, Part]) -> _Seen:
    # Snapshots share most of their chunks, and so their names here.
    digests = {sys.intern(digest) for part in parts.values() for digest in part.chunks}
    # Before the first sale there is no watermark, only a very low number.
    return _Seen(lineage, max(watermark_us, FIRST_US), tuple(digests))


def _outline(envelope: bytes) -> _Outline:
    try:
        body = msgspec.msgpack.decode(envelope, type=Envelope).manifest
        return msgspec.json.decode(body, type=_Outline)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Outline()
