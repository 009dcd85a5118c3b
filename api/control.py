"""Carries operations out: decide, write down, take effect, write the outcome.

The control log's order is the order of operations; every step may be repeated. Guarantees: an
operation is in the control log before it has any effect; a repeated id does nothing new; what a
crash interrupts is carried out by ``reconcile``. Leaves out: a rollback's effect, which is the
fold's, at the marker. All of it blocks: routes call it in a thread.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from api.background import Trouble
from api.catalog import Catalog, candidate
from api.problems import Problem, invalid
from learner.operations import Entry, Kind, Operation, Outcome, choose_cut, decode_control, history
from learner.store import Pointers
from stream.errors import LogUnavailable, SnapshotCorrupt, SnapshotMissing, StoreUnavailable
from stream.event import FIRST_US, Marker, encode, time_us
from stream.log import Entry as LogEntry
from stream.log import EventLog

#: Source of the markers, which only operations write.
SOURCE = "salescast"
#: Header of a control record: hash of the request, to tell a repeated one from another.
REQUEST = "salescast.request"
_READ = 1000


class Request(NamedTuple):
    """What an operator asks for."""

    kind: Kind
    who: str
    reason: str
    id: str | None = None
    snapshots: tuple[str, ...] = ()
    to: datetime | None = None

    def digest(self) -> bytes:
        """Equal for equal requests; the id is not part of it."""
        to_us = None if self.to is None else time_us(self.to)
        asked = [self.kind, self.who, self.reason, sorted(self.snapshots), to_us]
        return hashlib.sha256(msgspec.json.encode(asked)).hexdigest().encode()


class Control:
    """Operations over a control log, an event log and a snapshot store.

    Parameters
    ----------
    control
        The control log, of one partition.
    events
        Where markers go.
    clock
        Seconds since 1970 UTC.
    """

    def __init__(
        self, control: EventLog, events: EventLog, catalog: Catalog, clock: Callable[[], float]
    ) -> None:
        self._log = control
        self._events = events
        self._catalog = catalog
        self._clock = clock
        self._lock = threading.RLock()
        self._next: int | None = None
        self._records: list[tuple[int, bytes]] = []
        self._asked: dict[int, bytes] = {}
        self._entries: dict[str, Entry] = {}
        self._reconciled = False
        self._unfinished: set[str] = set()
        self._trouble = Trouble("operations")

    def entries(self) -> Mapping[str, Entry]:
        """Operations by id, in the control log's order, read up to its end.

        Raises
        ------
        LogUnavailable
        """
        with self._lock:
            offset = self._log.begin()[0] if self._next is None else self._next
            grown = False
            while records := self._log.read(0, offset, _READ):
                for record in records:
                    try:
                        decode_control(record.value)
                    except msgspec.DecodeError as error:
                        self._trouble.on(f"control record {record.offset}", error)
                        continue
                    grown = True
                    self._records.append((record.offset, record.value))
                    self._asked[record.offset] = dict(record.headers).get(REQUEST, b"")
                offset = records[-1].offset + 1
            self._next = offset
            if grown:
                self._entries = history(self._records)
            return self._entries

    def submit(self, request: Request) -> Entry:
        """Carry a request out, or answer what became of it if its id is known.

        1. Look the id up. 2. Choose and check the cut. 3. Write the operation down. 4. Take
        effect and write the outcomes; a store that is down leaves it pending.

        Raises
        ------
        Problem
            It cannot be carried out as asked; nothing was written.
        LogUnavailable, StoreUnavailable
            Nothing was written.
        """
        with self._lock:
            # 1.
            known = self.entries().get(request.id) if request.id else None
            if known is not None:
                return self._same(known, request)
            # 2.
            operation = self.plan(request)
            # 3.
            value = msgspec.json.encode(operation)
            self._log.append([LogEntry(0, None, value, ((REQUEST, request.digest()),))])
            # Another process may have written this id just before: the first one counts.
            entry = self._same(self.entries()[operation.id], request)
            # 4.
            self._carry_out(entry)
            return self.entries()[operation.id]

    def plan(self, request: Request) -> Operation:
        """The operation a request comes to, checked; writes nothing.

        Raises
        ------
        Problem, StoreUnavailable
        """
        cut = self._cut(request)
        if request.kind != "resume":
            for partition, snapshot in cut.items():
                self._check(partition, snapshot)
        return Operation(
            id=request.id or uuid.uuid4().hex,
            kind=request.kind,
            who=request.who,
            reason=request.reason,
            time=datetime.fromtimestamp(self._clock(), UTC),
            cut=cut,
        )

    def reconcile(self) -> None:
        """Carry out again, in order, what has no outcome yet.

        The first call looks at all operations, a rollback's markers among them (the fold
        ignores a repeated one); later calls only at those that this process left unfinished.

        Raises
        ------
        LogUnavailable
        """
        with self._lock:
            if self._reconciled and not self._unfinished:
                return
            for entry in list(self.entries().values()):
                left = entry.operation.id in self._unfinished
                if entry.state == "pending" and (left or not self._reconciled):
                    self._carry_out(entry)
            self._reconciled = True

    def _same(self, entry: Entry, request: Request) -> Entry:
        """The entry, if the request is the one that made it."""
        asked = self._asked.get(entry.offset, b"")
        operation = entry.operation
        same = (operation.kind, operation.who, operation.reason) == request[:3]
        if same and (not asked or asked == request.digest()):
            return entry
        raise Problem(
            409,
            "id-conflict",
            "This id names another operation",
            f"`{operation.id}` is a {operation.kind} by {operation.who}, asked for differently",
            field="id",
            remedy="send the new request under an id of its own, or none",
        )

    def _cut(self, request: Request) -> dict[int, str]:
        pointers = self._catalog.pointers()
        if not any(one.head for one in pointers.values()):
            raise Problem(
                409, "no-snapshots", "Nothing to operate on", "no snapshot was published yet",
                remedy="start the learner, and wait for its first snapshot",
            )  # fmt: skip
        if request.snapshots and request.to is not None:
            raise invalid("to", "give `snapshots` or `to`, not both", "leave one of them out")
        if request.kind == "resume":
            return _frozen(pointers, request)
        if request.snapshots:
            return self._named(request.snapshots)
        if request.to is not None:
            return self._until(request.to)
        if request.kind == "rollback":
            raise invalid(
                "to", "a rollback needs to know how far", "give `to`, a time, or `snapshots`, ids"
            )
        return {p: one.active.snapshot for p, one in pointers.items() if one.active is not None}

    def _named(self, named: tuple[str, ...]) -> dict[int, str]:
        cut: dict[int, str] = {}
        for snapshot in dict.fromkeys(named):
            partition = self._catalog.partition_of(snapshot)
            if partition is None:
                raise Problem(
                    404, "unknown-snapshot", "No such snapshot",
                    f"no partition keeps a snapshot `{snapshot}`", field="snapshots",
                    remedy="choose one of GET /v1/snapshots; only the newest are kept",
                )  # fmt: skip
            if partition in cut:
                raise invalid(
                    "snapshots",
                    f"`{cut[partition]}` and `{snapshot}` are both of partition {partition}",
                    "name one snapshot a partition",
                )
            cut[partition] = snapshot
        return cut

    def _until(self, to: datetime) -> dict[int, str]:
        candidates = []
        oldest: dict[int, datetime] = {}
        for partition in self._catalog.store.partitions():
            manifests, _ = self._catalog.newest(partition)
            candidates += [candidate(one) for one in manifests]
            if manifests:
                # Before the first sale there is no watermark, only a very low number.
                first = max(min(one.watermark_us for one in manifests), FIRST_US)
                oldest[partition] = datetime.fromtimestamp(first / 1e6, UTC)
        cut = choose_cut(candidates, to_us=time_us(to))
        lacking = sorted(oldest.keys() - cut.keys())
        if lacking:
            since = max(oldest[partition] for partition in lacking)
            raise Problem(
                404, "unknown-snapshot", "No snapshot is that old",
                f"partitions {', '.join(map(str, lacking))} keep none up to {to.isoformat()}",
                field="to",
                remedy=f"give a time from {since.isoformat()} on, or name `snapshots`",
            )  # fmt: skip
        return cut

    def _check(self, partition: int, snapshot: str) -> None:
        try:
            self._catalog.check(partition, snapshot)
        except SnapshotMissing as error:
            raise Problem(
                404, "unknown-snapshot", "The snapshot is not whole", error.args[0],
                field="snapshots", remedy="choose another one of GET /v1/snapshots",
            ) from error  # fmt: skip
        except SnapshotCorrupt as error:
            raise Problem(
                409, "corrupt-snapshot", "The snapshot does not verify",
                error.args[0], field="snapshots", remedy=error.remedy,
            ) from error  # fmt: skip

    def _carry_out(self, entry: Entry) -> None:
        """Let an operation take effect; what cannot be reached now is left for ``reconcile``."""
        self._unfinished.add(entry.operation.id)
        try:
            if entry.operation.kind == "rollback":
                self._mark(entry)
            else:
                self._move(entry)
        except (StoreUnavailable, LogUnavailable, OSError) as error:
            self._trouble.on(entry.operation.id, error)
            return
        self._trouble.off(entry.operation.id)
        self._unfinished.discard(entry.operation.id)

    def _mark(self, entry: Entry) -> None:
        """Append the marker to each partition of the cut that has no outcome; the fold does it."""
        operation = entry.operation
        marker = Marker(
            id=operation.id, source=SOURCE, time=datetime.fromtimestamp(self._clock(), UTC)
        )
        value = encode(marker)
        left = operation.cut.keys() - {outcome.partition for outcome in entry.outcomes}
        self._events.append([LogEntry(partition, None, value) for partition in sorted(left)])

    def _move(self, entry: Entry) -> None:
        """Move ``active`` in each partition of the cut, and write down what became of it."""
        operation = entry.operation
        done = {outcome.partition for outcome in entry.outcomes}
        store = self._catalog.store
        outcomes = []
        for partition, snapshot in operation.cut.items():
            if partition in done:
                continue
            refused = ""
            if operation.kind == "resume":
                store.move_active(partition, None, None, entry.offset)
            else:
                try:
                    to = self._catalog.check(partition, snapshot)
                except (SnapshotMissing, SnapshotCorrupt) as error:
                    refused = str(error)
                else:
                    store.move_active(partition, to, operation.id, entry.offset)
            overtaken = store.pointers(partition).control_offset > entry.offset
            outcomes.append(
                Outcome(
                    operation=operation.id,
                    partition=partition,
                    outcome="refused" if refused else "applied",
                    time=datetime.fromtimestamp(self._clock(), UTC),
                    detail=refused or ("a later operation is in force" if overtaken else ""),
                )
            )
        self._log.append([LogEntry(0, None, msgspec.json.encode(one)) for one in outcomes])


def _frozen(pointers: Mapping[int, Pointers], request: Request) -> dict[int, str]:
    """What a resume is about: partitions that are frozen, and on what."""
    if request.to is not None:
        raise invalid("to", "a resume goes to the head", "leave `to` out")
    frozen = {
        partition: one.active.snapshot
        for partition, one in pointers.items()
        if one.frozen_by is not None and one.active is not None
    }
    if request.snapshots:
        wrong = sorted(set(request.snapshots) - set(frozen.values()))
        if wrong:
            raise Problem(
                409, "not-frozen", "Not frozen", f"nothing is frozen on `{wrong[0]}`",
                field="snapshots", remedy="leave `snapshots` out to resume all that is frozen",
            )  # fmt: skip
        frozen = {p: one for p, one in frozen.items() if one in request.snapshots}
    if not frozen:
        raise Problem(
            409, "not-frozen", "Nothing is frozen", "every partition follows its head already",
            remedy="nothing needs to be done; GET /v1/status shows what is served",
        )  # fmt: skip
    return frozen
