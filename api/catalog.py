"""The snapshots that the store keeps, by their manifests.

Manifests never change, so one that was read and verified is remembered. All of it blocks:
routes call it in a thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from learner.manifest import Manifest, Verifier
from learner.operations import Candidate
from learner.replay import Rule, passing
from learner.store import Pointer, Pointers, SnapshotStore
from stream.errors import SnapshotCorrupt, SnapshotMissing

MANIFESTS_KEPT = 2048


class ManifestReader(Protocol):
    """How a manifest is read: ``learner.manifest.read_manifest``."""

    def __call__(
        self, store: SnapshotStore, partition: int, snapshot: str, verifier: Verifier
    ) -> Manifest:
        """The manifest, its signature verified."""


class Unreadable(NamedTuple):
    """A snapshot whose manifest is gone or wrong."""

    partition: int
    snapshot: str
    reason: str


class Catalog:
    """Reads manifests of a store."""

    def __init__(self, store: SnapshotStore, verifier: Verifier, read: ManifestReader) -> None:
        self.store = store
        self._verifier = verifier
        self._read = read
        self._kept: OrderedDict[tuple[int, str], Manifest] = OrderedDict()
        self._lock = threading.Lock()

    def manifest(self, partition: int, snapshot: str) -> Manifest:
        """A snapshot's manifest.

        Raises
        ------
        SnapshotMissing, SnapshotCorrupt, StoreUnavailable
        """
        key = (partition, snapshot)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        found = self._read(self.store, partition, snapshot, self._verifier)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > MANIFESTS_KEPT:
                self._kept.popitem(last=False)
        return found

    def newest(
        self, partition: int, limit: int | None = None
    ) -> tuple[list[Manifest], list[Unreadable]]:
        """Manifests of a partition, newest first, and those that cannot be read."""
        manifests: list[Manifest] = []
        unreadable: list[Unreadable] = []
        for snapshot in reversed(self.store.snapshots(partition)):
            if limit is not None and len(manifests) >= limit:
                break
            try:
                manifests.append(self.manifest(partition, snapshot))
            except (SnapshotMissing, SnapshotCorrupt) as error:
                unreadable.append(Unreadable(partition, snapshot, str(error)))
        return manifests, unreadable

    def partition_of(self, snapshot: str) -> int | None:
        """The partition that keeps a snapshot of this id."""
        for partition in self.store.partitions():
            if snapshot in self.store.snapshots(partition):
                return partition
        return None

    def pointers(self) -> dict[int, Pointers]:
        """Where each partition stands."""
        return {partition: self.store.pointers(partition) for partition in self.store.partitions()}

    def rules(self, pointers: Mapping[int, Pointers]) -> dict[int, tuple[Rule, ...]]:
        """What is passed over, by partition that has a head, as the head has it."""
        return {
            partition: passing(self.manifest(partition, one.head.snapshot).rules)
            for partition, one in sorted(pointers.items())
            if one.head is not None
        }

    def check(self, partition: int, snapshot: str) -> Pointer:
        """The pointer to a snapshot whose manifest is verified and whose chunks are all there.

        Raises
        ------
        SnapshotMissing, SnapshotCorrupt, StoreUnavailable
        """
        manifest = self.manifest(partition, snapshot)
        missing = self.store.missing(manifest.chunks)
        if missing:
            raise SnapshotMissing(
                f"snapshot {snapshot} of partition {partition} lacks {len(missing)} of its chunks",
                remedy="Name another snapshot; list them with: salescast snapshots",
            )
        return Pointer(snapshot=snapshot, lineage=manifest.lineage, position=manifest.position)


def candidate(manifest: Manifest) -> Candidate:
    """A snapshot as one that a cut may name."""
    return Candidate(
        partition=manifest.partition,
        snapshot=manifest.snapshot,
        watermark_us=manifest.watermark_us,
        lineage=manifest.lineage,
        position=manifest.position,
        finished=manifest.origin is not None and manifest.replay is None,
    )
