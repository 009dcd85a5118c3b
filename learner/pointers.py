"""The rules by which ``head`` and ``active`` move, and how they are written down. Pure.

Both stores decide by these functions and differ only in how they make the step atomic, so a
rule is written once. Leaves out: locks, compare-and-set, durability (the stores').
"""

from __future__ import annotations

import re
from hashlib import sha256

import msgspec

from learner.store import Pointer, Pointers, Replaying, Standstill
from stream.errors import SnapshotCorrupt, SnapshotMissing

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Ids become file names and key fields: no separators, nothing hidden, nothing overlong.
_SNAPSHOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,127}")


def moved_head(
    pointers: Pointers, parent: str | None, to: Pointer, replaying: Replaying | None = None
) -> Pointers | None:
    """Pointers after ``head`` moved from ``parent`` to ``to``; ``None``: it may not move.

    A repeated call (``head`` is ``to`` already) returns the pointers as they are.

    Examples
    --------
    >>> first = moved_head(Pointers(), None, Pointer("a", 0, 10))
    >>> first.active == first.head == Pointer("a", 0, 10)
    True
    >>> moved_head(first, "a", Pointer("b", 0, 9)) is None
    True
    """
    head = pointers.head
    if head == to:
        return pointers
    if parent != (head.snapshot if head else None):
        return None
    if head and (to.lineage, to.position) <= (head.lineage, head.position):
        return None
    follows = pointers.frozen_by is None and replaying is None
    active = to if follows else pointers.active
    return msgspec.structs.replace(pointers, head=to, active=active, replaying=replaying)


def moved_active(
    pointers: Pointers, to: Pointer | None, frozen_by: str | None, control_offset: int
) -> Pointers | None:
    """Pointers after a freeze on ``to`` or a resume; ``None``: a later operation was applied.

    A head that is replaying is not served: a resume waits for its end.

    Raises
    ------
    ValueError
        Only one of ``to`` and ``frozen_by`` is given: neither a freeze nor a resume.
    """
    if (to is None) != (frozen_by is None):
        raise ValueError("a freeze names a snapshot and the operation; a resume names neither")
    if control_offset <= pointers.control_offset:
        return None
    followed = pointers.head if pointers.replaying is None else pointers.active
    return Pointers(
        head=pointers.head,
        active=followed if to is None else to,
        frozen_by=frozen_by,
        control_offset=control_offset,
        replaying=pointers.replaying,
    )


def protected(pointers: Pointers) -> set[str]:
    """Snapshots that may not be deleted: head and active."""
    return {pointer.snapshot for pointer in (pointers.head, pointers.active) if pointer}


def encode(pointers: Pointers) -> bytes:
    """Pointers as JSON, fields in a fixed order, all written out but for no replay.

    So those of the first release, which knew none, are still what they were.
    """
    fields = msgspec.to_builtins(pointers)
    if pointers.replaying is None:
        del fields["replaying"]
    return msgspec.json.encode(fields)


def decode(data: bytes, where: str) -> Pointers:
    """Pointers from what ``encode`` wrote, and from nothing else.

    Parameters
    ----------
    data
        The bytes that were kept.
    where
        File or key they come from, for the message.

    Raises
    ------
    SnapshotCorrupt
        A byte differs: an object cut short must not pass for one that was never published.
    """
    try:
        pointers = msgspec.json.decode(data, type=Pointers)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pointers = None
    if pointers is None or encode(pointers) != data:
        raise SnapshotCorrupt(
            f"the pointers of a partition are damaged: {where}",
            remedy="Put them back from a backup of the store, and find out who can write to it",
        )
    return pointers


def decode_standstill(data: bytes) -> Standstill | None:
    """A standstill from its JSON; ``None`` if it is none, since it is only shown."""
    try:
        return msgspec.json.decode(data, type=Standstill)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def is_digest(text: str) -> bool:
    """Whether this is a hex SHA-256, lower case."""
    return _DIGEST.fullmatch(text) is not None


def is_snapshot_id(text: str) -> bool:
    """Whether this can be the id of a snapshot: safe as a file name."""
    return _SNAPSHOT.fullmatch(text) is not None


def checked(digest: str, data: bytes, where: str) -> bytes:
    """The chunk's bytes, if they are those of its digest.

    Raises
    ------
    SnapshotCorrupt
        They are not.
    """
    if sha256(data).hexdigest() != digest:
        raise SnapshotCorrupt(f"chunk {digest} in {where} does not match its digest")
    return data


def no_such_chunk(digest: str, where: str) -> SnapshotMissing:
    """The error that says so."""
    return SnapshotMissing(f"there is no chunk {digest[:80]} in {where}")


def no_such_snapshot(partition: int, snapshot: str, where: str) -> SnapshotMissing:
    """The error that says so."""
    return SnapshotMissing(
        f"there is no snapshot {snapshot[:140]} of partition {partition} in {where}"
    )
