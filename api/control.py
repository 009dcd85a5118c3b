"""Carries operations out: decide, write down, take effect, write the outcome.

The control log's order is the order of operations; every step may be repeated. Guarantees: an
operation is in the control log before it has any effect; a repeated id does nothing new; what a
crash interrupts is carried out by ``reconcile``. Leaves out: the effect of all but freeze and
resume, which is the fold's, at the marker. All of it blocks: routes call it in a thread.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec

from api.background import Trouble
from api.catalog import Catalog
from api.cuts import Cuts, Request, check_fields
from api.problems import Problem
from api.promotion import Promotions
from learner.operations import Entry, Operation, Outcome, decode_control, history, overruled
from learner.replay import START
from stream.errors import LogUnavailable, SnapshotCorrupt, SnapshotMissing, StoreUnavailable
from stream.event import Marker, encode, time_us
from stream.log import Entry as LogEntry
from stream.log import EventLog

#: Source of the markers, which only operations write.
SOURCE = "salescast"
#: Header of a control record: hash of the request, to tell a repeated one from another.
REQUEST = "salescast.request"
_READ = 1000


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
        self._cuts = Cuts(catalog, events)
        self._promotions = Promotions(catalog, events.partitions)
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
            known = self.known(request)
            if known is not None:
                return known
            # 2.
            operation = self.plan(request)
            # 3.
            value = msgspec.json.encode(operation)
            self._log.append([LogEntry(0, None, value, ((REQUEST, _digest(request)),))])
            # Another process may have written this id just before: the first one counts.
            entry = self._same(self.entries()[operation.id], request)
            # 4.
            self._carry_out(entry)
            return self.entries()[operation.id]

    def known(self, request: Request) -> Entry | None:
        """What became of the request already, if its id is known.

        Raises
        ------
        Problem
            The id names another operation.
        LogUnavailable
        """
        with self._lock:
            found = self.entries().get(request.id) if request.id else None
            return None if found is None else self._same(found, request)

    def note(self, request: Request, about: str, letters: bytes) -> Entry:
        """Write down what is done with dead letters; the caller does it.

        Parameters
        ----------
        letters
            Which letters were asked for, and how they are mended: equal for equal requests.

        Raises
        ------
        Problem
            The id names another operation.
        LogUnavailable
        """
        with self._lock:
            operation = Operation(
                id=request.id or uuid.uuid4().hex,
                kind=request.kind,
                who=request.who,
                reason=request.reason,
                time=datetime.fromtimestamp(self._clock(), UTC),
                cut={},
                about=about,
            )
            if operation.id not in self.entries():
                value = msgspec.json.encode(operation)
                digest = _digest(request, letters)
                self._log.append([LogEntry(0, None, value, ((REQUEST, digest),))])
            return self._same(self.entries()[operation.id], request, letters)

    def plan(self, request: Request) -> Operation:
        """The operation a request comes to, checked; writes nothing.

        Raises
        ------
        Problem, StoreUnavailable
        """
        check_fields(request)
        if request.kind == "promote":
            return self._promotion(request)
        cut = self._cuts.choose(request, self.entries())
        if request.kind != "resume":
            for partition, snapshot in cut.items():
                if snapshot != START:
                    self._check(partition, snapshot)
        return Operation(
            id=request.id or uuid.uuid4().hex,
            kind=request.kind,
            who=request.who,
            reason=request.reason,
            time=datetime.fromtimestamp(self._clock(), UTC),
            cut=cut,
            replay=request.replay or request.kind == "readmit",
            exclude=request.exclude,
            admit_late=request.admit_late,
            readmits=request.readmits,
        )

    def _promotion(self, request: Request) -> Operation:
        """A promotion, if every gate lets it pass."""
        assert request.model is not None
        judged = self._promotions.judge(request.model, self._catalog.pointers())
        return Operation(
            id=request.id or uuid.uuid4().hex,
            kind="promote",
            who=request.who,
            reason=request.reason,
            time=datetime.fromtimestamp(self._clock(), UTC),
            cut=judged.cut,
            model=request.model,
            over=judged.champion,
            about=self._promotions.require(judged, request.model),
        )

    def reconcile(self) -> None:
        """Carry out again, in order, what has no outcome yet.

        The first call looks at all operations, markers among them (the fold
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

    def _same(self, entry: Entry, request: Request, letters: bytes = b"") -> Entry:
        """The entry, if the request is the one that made it."""
        asked = self._asked.get(entry.offset, b"")
        operation = entry.operation
        same = (operation.kind, operation.who, operation.reason) == request[:3]
        if same and (not asked or asked == _digest(request, letters)):
            return entry
        raise Problem(
            409,
            "id-conflict",
            "This id names another operation",
            f"`{operation.id}` is a {operation.kind} by {operation.who}, asked for differently",
            field="id",
            remedy="send the new request under an id of its own, or none",
        )

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
            if entry.operation.kind in ("freeze", "resume"):
                self._move(entry)
            else:
                self._mark(entry)
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
        entries = list(self.entries().values())
        store = self._catalog.store
        outcomes = []
        for partition, snapshot in operation.cut.items():
            if partition in done:
                continue
            refused = overruled(entry, entries, partition)
            if operation.kind == "resume":
                store.move_active(partition, None, None, entry.offset)
            elif not refused:
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


def _digest(request: Request, letters: bytes = b"") -> bytes:
    """Equal for equal requests; the id is not part of it. ``letters``: see ``Control.note``."""
    to_us = None if request.to is None else time_us(request.to)
    asked: list[object] = [
        request.kind, request.who, request.reason, sorted(request.snapshots), to_us
    ]  # fmt: skip
    more = (request.replay, request.exclude, request.admit_late, request.readmits)
    if any(more):  # the first release knew of none
        asked += more
    if request.model is not None:
        asked.append(request.model)
    return hashlib.sha256(msgspec.json.encode(asked) + letters).hexdigest().encode()
