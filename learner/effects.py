"""What operations mean to the fold, and what became of them: the owner's side of the control log.

What an operation does depends on the logs alone: what was refused stays refused, and a cut that
the store does not hold any more, or not so that it can be read, is folded again (``again``).
Leaves out: the decision (``api.control``) and the effect itself (``shard``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

import msgspec

from learner.again import Again, Cuts
from learner.findings import Finding
from learner.manifest import Manifest, Verifier, outdated, read_manifest, read_parts
from learner.operations import GUARD, Entry, Kind, Operation, Outcome, history, overruled
from learner.ownership import Owned
from learner.pickles import load_models
from learner.replay import START, Effect, Exclusion, Promote, Quarantine, Rollback, Turn
from learner.shard import Shard
from learner.snapshot import LEARNED, lay_down, read_shard, take_up_learned
from learner.store import Pointer, SnapshotStore
from learner.telemetry import Telemetry
from stream.buckets import Calendar
from stream.dead_letters import DeadLetters
from stream.errors import (
    CutLost,
    SalescastError,
    SnapshotCorrupt,
    SnapshotMissing,
    StoreError,
    TopicMismatch,
)
from stream.log import Entry as LogEntry
from stream.log import EventLog
from stream.settings import Settings

logger = logging.getLogger(__name__)


class AuditTrail:
    """The control log as the fold's owner reads it: on from where it was read up to."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._records: list[tuple[int, bytes]] = []
        self._next = 0
        self._operations: dict[str, Entry] | None = None  # of these records

    def operations(self) -> dict[str, Entry]:
        """All operations, by id.

        Raises
        ------
        LogUnavailable
        """
        while records := self._log.read(0, self._next):
            self._records += [(record.offset, record.value) for record in records]
            self._next = records[-1].offset + 1
            self._operations = None
        if self._operations is None:
            self._operations = history(self._records)
        return self._operations

    def append(self, items: Sequence[Operation | Outcome]) -> None:
        """Write down operations, or what became of them.

        Raises
        ------
        LogUnavailable
        """
        self._log.append([LogEntry(0, None, msgspec.json.encode(item)) for item in items])


class Effects:
    """Looks up what a marker stands for.

    Parameters
    ----------
    settings
        Of the deployment.
    events, control
        The logs; a snapshot of another topic is refused.
    store, verifier
        Where a cut's snapshots are.
    dead_letters
        Where late items are that a replay admits.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        events: EventLog,
        control: AuditTrail,
        store: SnapshotStore,
        verifier: Verifier,
        dead_letters: DeadLetters,
    ) -> None:
        self._settings = settings
        self._events = events
        self._control = control
        self._store = store
        self._verifier = verifier
        self._dead_letters = dead_letters

    def of(self, partition: int, cuts: Cuts | None = None) -> Callable[[str], Effect | str]:
        """What the fold of a partition asks at a marker: its effect, or why it has none.

        An operation that was carried out once, and cannot be now, raises: a fold that went on
        without it would bring back what it took away. So the partition stands still there.

        Parameters
        ----------
        cuts
            Where cuts are, instead of the store.
        """

        def resolve(identity: str) -> Effect | str:
            entry = self._control.operations().get(identity)
            if entry is None:
                return "the control log holds no such operation"
            operation = entry.operation
            if operation.kind in ("freeze", "resume", "suspect") or partition not in operation.cut:
                return "the operation does not concern this partition"
            if operation.kind == "skip":
                return "the partition did not stand still at these offsets"
            told = entry.told(partition)
            if told is not None and told.outcome == "refused":
                return told.detail
            try:
                return self._effect(entry, partition, cuts)
            except SalescastError as error:
                # What cannot be reached now says nothing of the operation.
                if error.retriable:
                    raise
                if told is None:
                    return str(error)
                raise CutLost(
                    f"the operation {identity} was carried out here, and cannot be again: "
                    f"{error.args[0]}"
                ) from error

        return resolve

    def _effect(self, entry: Entry, partition: int, cuts: Cuts | None) -> Effect:
        operation, order = entry.operation, entry.offset
        if operation.kind == "quarantine":
            assert operation.exclude is not None
            return Quarantine(order=order, what=operation.exclude)
        if operation.kind == "promote":
            return Promote(order=order, model=operation.model, over=operation.over)
        if operation.kind == "readmit" or operation.replay:
            return Turn(
                order=order,
                snapshot=operation.cut[partition],
                shard=self._shard(entry, partition, cuts),
                exclude=operation.exclude,
                readmits=operation.readmits,
                admit_late=operation.admit_late,
            )
        return self._rollback(entry, partition, cuts)

    def _rollback(self, entry: Entry, partition: int, cuts: Cuts | None) -> Rollback:
        if cuts is None:
            try:
                return self._read_rollback(entry, partition)
            except (SnapshotMissing, SnapshotCorrupt) as error:
                shard = self.fold_again(entry, partition, error)
        else:
            shard = cuts.shard(entry)
        return Rollback(
            order=entry.offset,
            models=shard.models,
            learned=take_up_learned(self._settings, lay_down(shard))._asdict(),
            champion=shard.champion,
            promotions=shard.promotions,
        )

    def _read_rollback(self, entry: Entry, partition: int) -> Rollback:
        """No more of a snapshot is read than a rollback that keeps facts needs."""
        manifest = read_manifest(
            self._store, partition, entry.operation.cut[partition], self._verifier
        )
        parts = read_parts(self._store, manifest, ["models", *LEARNED])
        return Rollback(
            order=entry.offset,
            models=read_shard(self._store, manifest, self._settings).models
            if outdated(manifest)
            else load_models(parts["models"], self._settings.models),
            learned=take_up_learned(self._settings, parts)._asdict(),
            champion=manifest.champion,
            promotions=manifest.promotions,
        )

    def _shard(self, entry: Entry, partition: int, cuts: Cuts | None) -> Shard:
        """The shard that a replay begins from."""
        first = self._events.begin()[partition]
        snapshot = entry.operation.cut[partition]
        if snapshot == START:
            shard = Shard(self._settings, partition)
        elif cuts is not None:
            shard = cuts.shard(entry)
        else:
            try:
                manifest = read_manifest(self._store, partition, snapshot, self._verifier)
                if manifest.topic_id != self._events.topic_id:
                    raise TopicMismatch(f"snapshot {snapshot} belongs to another topic")
                shard = read_shard(self._store, manifest, self._settings)
            except (SnapshotMissing, SnapshotCorrupt) as error:
                shard = self.fold_again(entry, partition, error)
        if shard.position < first:
            raise TopicMismatch(
                f"the log begins at offset {first}, a replay needs it from {shard.position} on"
            )
        return shard

    def fold_again(self, entry: Entry, partition: int, error: StoreError) -> Shard:
        """The shard of a cut that cannot be read, from the log.

        Raises
        ------
        StoreError
            The log does not lead there either.
        """
        again = Again(
            self._settings, partition, self._control.operations(), entry,
            events=self._events, dead_letters=self._dead_letters,
        )  # fmt: skip
        return again.fold(error, partial(self.of, partition))


class Suspects:
    """Writes down what the guard found, and lets it take effect, once for each finding.

    A fold that is repeated, here or by another owner, finds the same and finds it written.

    Parameters
    ----------
    settings
        Of the deployment.
    control
        The audit trail.
    store, verifier
        Where the snapshots are that a champion gone wrong is frozen on.
    """

    def __init__(
        self, settings: Settings, control: AuditTrail, store: SnapshotStore, verifier: Verifier,
        telemetry: Telemetry,
    ) -> None:  # fmt: skip
        self._calendar = Calendar(settings)
        self._control = control
        self._store = store
        self._verifier = verifier
        self._telemetry = telemetry

    def name(self, owned: Owned, at: datetime) -> None:
        """Tell what was found of a shard's sources and champion.

        1. The operation is written down. 2. It takes effect: what was withheld is so already, a
        freeze moves what is served, unless that is frozen already. 3. Its outcome is written.

        Raises
        ------
        LogUnavailable, StoreUnavailable
        """
        entries = self._control.operations()
        for finding, offset in owned.findings:
            # 1.
            entry = entries.get(finding.id)
            if entry is not None and entry.outcomes:
                continue
            if entry is None:
                self._write(self._operation(finding, owned, at))
                # Another owner may have written it just before: the first one counts.
                entries = self._control.operations()
                entry = entries[finding.id]
                logger.warning("partition %d: %s", finding.partition, entry.operation.reason)
                self._telemetry.suspected(finding.partition, finding.state, finding.statistic)
            # 2.
            frozen = entry.operation.kind == "freeze"
            refused = self._freeze(entry, entries, finding.partition) if frozen else ""
            # 3.
            self._write(
                Outcome(
                    operation=finding.id, partition=finding.partition, time=at,
                    outcome="refused" if refused else "applied", detail=refused,
                    offset=None if frozen else offset,
                )
            )  # fmt: skip
        owned.findings = []

    def _freeze(self, entry: Entry, entries: Mapping[str, Entry], partition: int) -> str:
        """Serve the snapshot of a freeze; or why not."""
        refused = overruled(entry, entries.values(), partition)
        if refused:
            return refused
        try:
            manifest = self._manifest(partition, entry.operation.cut[partition])
        except (SnapshotMissing, SnapshotCorrupt) as error:
            return str(error)
        to = Pointer(manifest.snapshot, manifest.lineage, manifest.position)
        self._store.move_active(partition, to, entry.operation.id, entry.offset)
        return ""

    def _operation(self, finding: Finding, owned: Owned, at: datetime) -> Operation:
        start_us, _ = self._calendar.span(finding.bucket)
        start = datetime.fromtimestamp(start_us / 1e6, self._calendar.zone).isoformat()
        kind: Kind = "quarantine" if finding.held else "suspect"
        cut = owned.head or START
        exclude = None if finding.champion else Exclusion(sources=(finding.source,))
        if finding.champion:
            good = self._last_good(finding) if finding.held else None
            kind, cut = ("suspect", cut) if good is None else ("freeze", good)
        return Operation(
            id=finding.id,
            kind=kind,
            who=GUARD,
            reason=f"{finding.source or 'the champion'}, from {start} on: {finding.text}",
            time=at,
            cut={finding.partition: cut},
            exclude=exclude,
        )

    def _last_good(self, finding: Finding) -> str | None:
        """The newest snapshot of before the last bucket that was no worse than usual.

        One that learned from that bucket may be spoilt already, however small its first errors.
        """
        sound = finding.bucket - 1 if finding.sound is None else finding.sound
        good = []
        for name in self._store.snapshots(finding.partition):
            try:
                one = self._manifest(finding.partition, name)
            except (SnapshotMissing, SnapshotCorrupt):
                continue  # pruned since, or unreadable, which whoever prunes tells
            if one.origin is not None and one.origin < sound and one.replay is None:
                good.append(one)
        best = max(good, key=lambda one: (one.lineage, one.position), default=None)
        return None if best is None else best.snapshot

    def _manifest(self, partition: int, snapshot: str) -> Manifest:
        return read_manifest(self._store, partition, snapshot, self._verifier)

    def _write(self, item: Operation | Outcome) -> None:
        self._control.append([item])


def report(control: AuditTrail, owned: Owned, at: datetime, telemetry: Telemetry) -> None:
    """Append what became of the operations that a shard has finished to the audit trail.

    Raises
    ------
    LogUnavailable
    """
    outcomes = [
        Outcome(
            operation=identity,
            partition=owned.shard.partition,
            outcome="applied" if why is None else "refused",
            detail=why or "",
            offset=offset,
            time=at,
        )
        for identity, offset, why in owned.finished
    ]
    control.append(outcomes)
    known = control.operations()
    for outcome in outcomes:
        logger.info(
            "partition %d: operation %s %s at offset %s %s",
            outcome.partition, outcome.operation, outcome.outcome, outcome.offset,
            outcome.detail,
        )  # fmt: skip
        entry = known.get(outcome.operation)
        kind = "rollback" if entry is None else entry.operation.kind
        telemetry.operation(kind, outcome.outcome)
    owned.finished = []
