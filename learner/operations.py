"""Operations as values: what was asked, what it means, and what became of it.

An operation is one record of the control log, which is the audit trail; its outcomes are
appended to the same log. ``freeze`` and ``resume`` move what is served; the others take effect in
the fold, at a marker with the operation's id in each affected partition. Leaves out: carrying
them out (``api.control`` and the worker).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from learner.replay import Exclusion
from stream.event import Name, Time

Kind = Literal[
    "freeze",
    "resume",
    "rollback",
    "quarantine",
    "readmit",
    "skip",
    "promote",
    "resend",
    "discard",
    "suspect",
]
#: Who names what the guard finds.
GUARD = "guard"
Text = Annotated[str, Meta(min_length=1, max_length=1000)]


class Operation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="operation",
                tag_field="type", kw_only=True, omit_defaults=True):  # fmt: skip
    """What an operator asked for, decided: ``cut`` names one snapshot a partition.

    ``rollback`` is *keep facts*: models return to the cut; facts and position stay. With
    ``replay`` all returns, and what came after is learned again, without ``exclude``, with late
    items if ``admit_late``. ``quarantine`` passes ``exclude`` over from its marker on; its cut is
    where ``readmit`` may go back to, a replay without the rule of the operation ``readmits``.
    ``skip`` lets a partition pass the offsets of ``exclude`` that it stands still at.
    ``promote`` lets ``model`` be champion in place of ``over``, against which it was judged on the
    cut's snapshots; ``about`` says what the gates found. ``replay.START`` in a cut is the log's
    beginning. ``resend`` and ``discard`` are about dead letters: their cut is empty, and ``about``
    says which letters, and how they were mended.
    ``suspect`` is the guard's: it names a source, and does nothing.
    """

    id: Name
    kind: Kind
    who: Text
    reason: Text
    time: Time
    cut: dict[int, str]
    replay: bool = False
    exclude: Exclusion | None = None
    admit_late: bool = False
    readmits: str | None = None
    model: str = ""
    over: str = ""
    about: str = ""


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="outcome",
              tag_field="type", kw_only=True):  # fmt: skip
    """What became of an operation in one partition.

    ``offset`` is the marker's offset in the events, or ``None`` where there is no marker.
    """

    operation: Name
    partition: int
    outcome: Literal["applied", "refused"]
    time: Time
    detail: str = ""
    offset: int | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An operation with its place in the control log and its outcomes so far."""

    operation: Operation
    offset: int
    outcomes: tuple[Outcome, ...] = ()

    @property
    def state(self) -> str:
        """``pending`` until every partition of the cut has an outcome."""
        by_partition = {o.partition: o.outcome for o in self.outcomes}
        if set(self.operation.cut) - set(by_partition):
            return "pending"
        return "refused" if "refused" in by_partition.values() else "applied"

    def told(self, partition: int) -> Outcome | None:
        """What became of it in a partition, if that is known yet."""
        return next((one for one in self.outcomes if one.partition == partition), None)


_decoder: msgspec.json.Decoder[Operation | Outcome] = msgspec.json.Decoder(Operation | Outcome)


def decode_control(value: bytes) -> Operation | Outcome:
    """A record of the control log.

    Raises
    ------
    msgspec.DecodeError
        It is neither an operation nor an outcome.
    """
    return _decoder.decode(value)


def history(records: Iterable[tuple[int, bytes]]) -> dict[str, Entry]:
    """Operations by id, in the control log's order, from its (offset, value) pairs.

    The first record of an id counts; a repeated outcome of a partition does too. A record that is
    none is passed over: its marker is refused, since no operation is known by its id.
    """
    entries: dict[str, Entry] = {}
    for offset, value in records:
        try:
            item = decode_control(value)
        except msgspec.DecodeError:
            continue
        if isinstance(item, Operation):
            entries.setdefault(item.id, Entry(operation=item, offset=offset))
        elif (entry := entries.get(item.operation)) is not None and item.partition not in {
            o.partition for o in entry.outcomes
        }:
            entries[item.operation] = msgspec.structs.replace(
                entry, outcomes=(*entry.outcomes, item)
            )
    return entries


def overruled(entry: Entry, entries: Iterable[Entry], partition: int) -> str:
    """Why a freeze has no effect in a partition; empty: it has one.

    The guard moves nothing that stands frozen already, whoever froze it: an operator who looks at
    a snapshot goes on being served that one. What stood is read from the control log and not from
    the store, where an older freeze may have yet to arrive.

    Parameters
    ----------
    entries
        Of the control log, in its order.
    """
    if (entry.operation.kind, entry.operation.who) != ("freeze", GUARD):
        return ""
    standing: Operation | None = None
    for before in entries:
        operation = before.operation
        if before.offset >= entry.offset or partition not in operation.cut:
            continue
        refused = any(o.partition == partition and o.outcome == "refused" for o in before.outcomes)
        if operation.kind == "resume":
            standing = None
        elif operation.kind == "freeze" and not refused:
            standing = operation
    if standing is None:
        return ""
    return f"it stays as `{standing.id}` by {standing.who} has frozen it, until it is resumed"


class Candidate(msgspec.Struct, frozen=True):
    """A snapshot that a cut may name; ``finished``: it has forecasts, and no replay is on in it."""

    partition: int
    snapshot: str
    watermark_us: int
    lineage: int
    position: int
    finished: bool = True


def as_served(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The finished ones of a partition, in the order that they were served in, never going back.

    A snapshot after which one follows that knew less, since a replay has left out what moved
    time, was served up to its own watermark: the later one counts from there on.

    Examples
    --------
    >>> some = [Candidate(0, "a", 20, 1, 9), Candidate(0, "b", 5, 2, 3, False),
    ...         Candidate(0, "c", 15, 2, 9)]
    >>> [(one.snapshot, one.watermark_us) for one in as_served(some)]
    [('a', 20), ('c', 20)]
    """
    found: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: (one.lineage, one.position)):
        if one.finished:
            knew_us = max(one.watermark_us, found[-1].watermark_us if found else one.watermark_us)
            found.append(msgspec.structs.replace(one, watermark_us=knew_us))
    return found


def choose_cut(
    candidates: Sequence[Candidate], *, to_us: int | None = None, named: Sequence[str] = ()
) -> dict[int, str]:
    """One snapshot a partition: the named ones, or the newest with watermark ≤ ``to_us``.

    Parameters
    ----------
    candidates
        Snapshots there are.
    to_us
        Event time, µs since 1970 UTC; ``None``: the newest of all.
    named
        Snapshot ids; partitions of which none is named are left out of the cut.

    Examples
    --------
    >>> some = [Candidate(0, "a", 10, 1, 5), Candidate(0, "b", 20, 1, 9)]
    >>> choose_cut(some, to_us=15)
    {0: 'a'}
    """
    cut: dict[int, Candidate] = {}
    for one in candidates:
        if named and one.snapshot not in named:
            continue
        if not named and to_us is not None and one.watermark_us > to_us:
            continue
        best = cut.get(one.partition)
        if best is None or (one.lineage, one.position) > (best.lineage, best.position):
            cut[one.partition] = one
    return {partition: cut[partition].snapshot for partition in sorted(cut)}
