"""SnapshotStore: the contract of a store of immutable chunks, manifests and two pointers.

Guarantees: a chunk is found under the SHA-256 of its bytes or not at all; ``head`` moves only
from the parent the caller names and only forward; ``active`` follows it unless frozen; both
moves are one atomic step, and a repeated call changes nothing. Leaves out: what is in a chunk,
and signatures (``manifest``'s). Two implementations: ``file_store``, ``redis_store``; one
contract suite runs over both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec


class Pointer(msgspec.Struct, frozen=True):
    """A snapshot and its place in the order of snapshots: (lineage, position)."""

    snapshot: str
    lineage: int
    position: int


class Replaying(msgspec.Struct, frozen=True):
    """What ``head`` is doing while it is not to be served: learning [start, until) again."""

    operation: str
    start: int
    until: int


class Pointers(msgspec.Struct, frozen=True):
    """Where a partition stands.

    ``head`` is what its owner recovers from; ``active`` is what is served. ``frozen_by`` is the
    operation that froze ``active``, or ``None`` while it follows ``head``. ``control_offset``
    is the offset in the control log of the last operation applied to ``active``; older ones
    are ignored. ``replaying``: ``head`` is unfinished, and ``active`` stays where it is.
    """

    head: Pointer | None = None
    active: Pointer | None = None
    frozen_by: str | None = None
    control_offset: int = -1
    replaying: Replaying | None = None


class Standstill(msgspec.Struct, frozen=True):
    """What keeps a partition from being folded on: for those who only read the store.

    ``offset`` is that of the record that no fold gets past; ``None``: it stands still before a
    head that cannot be taken up.
    """

    offset: int | None
    why: str
    remedy: str
    since_us: int


class SnapshotStore(Protocol):
    """Snapshots of all partitions of one deployment."""

    def missing(self, digests: Collection[str]) -> set[str]:
        """Those of the chunks (hex SHA-256) that the store does not hold."""

    def put_chunk(self, digest: str, data: bytes) -> None:
        """Keep a chunk under the hex SHA-256 of its bytes. Idempotent."""

    def get_chunk(self, digest: str) -> bytes:
        """A chunk's bytes, checked against its digest.

        Raises
        ------
        SnapshotMissing, SnapshotCorrupt
        """

    def put_manifest(self, partition: int, snapshot: str, envelope: bytes) -> None:
        """Keep a signed manifest. Idempotent."""

    def get_manifest(self, partition: int, snapshot: str) -> bytes:
        """A signed manifest as it was put.

        Raises
        ------
        SnapshotMissing
        """

    def snapshots(self, partition: int) -> list[str]:
        """Ids of the manifests kept, in the order they were put."""

    def partitions(self) -> list[int]:
        """Partitions that have pointers, ascending."""

    def pointers(self, partition: int) -> Pointers:
        """Where the partition stands; all empty if nothing was published."""

    def move_head(
        self, partition: int, parent: str | None, to: Pointer, replaying: Replaying | None = None
    ) -> bool:
        """Publish: set ``head``, and ``active`` too unless frozen; then make it durable.

        With ``replaying``, ``active`` stays where it is: ``to`` is unfinished.

        Moves only if ``head`` is ``parent`` (``None``: none yet) and ``to`` is greater by
        (lineage, position), or equal to what is there already (a repeated call).
        ``False``: somebody else has moved it; drop the shard and restore.
        """

    def move_active(
        self, partition: int, to: Pointer | None, frozen_by: str | None, control_offset: int
    ) -> bool:
        """Freeze on ``to``, or resume following ``head`` (``to=None, frozen_by=None``).

        Applies only if ``control_offset`` is greater than the last one applied; equal or
        smaller returns ``False`` and changes nothing.
        """

    def standstills(self) -> dict[int, Standstill]:
        """What partitions stand still at, as far as their owners have said; to be shown only.

        What cannot be read is left out: nothing else depends on it.
        """

    def put_standstill(self, partition: int, standstill: Standstill | None) -> None:
        """Say that a partition stands still; ``None``: it does no longer. Idempotent."""

    def delete(self, partition: int, snapshots: Collection[str]) -> None:
        """Forget manifests; head and active are never deleted, whoever asks."""

    def sweep(self, keep: Collection[str]) -> int:
        """Delete chunks that no digest in ``keep`` names and that are older than an hour.

        Returns how many were deleted. (The hour spares chunks of a snapshot being written.)
        """

    def info(self) -> Mapping[str, str]:
        """What a person wants to know of the store: kind, place, durability."""

    def close(self) -> None:
        """Release connections. Safe to call twice."""
