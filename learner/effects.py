"""What operations mean to the fold, and what became of them: the owner's side of the control log.

Leaves out: the decision (``api.control``) and the effect itself (``shard``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import msgspec

from learner.operations import Entry, Operation, Outcome, history
from learner.ownership import Owned
from learner.pickles import load_models
from learner.replay import START, Effect, Promote, Quarantine, Rollback, Turn
from learner.shard import Shard
from learner.snapshot import (
    LEARNED,
    Verifier,
    outdated,
    read_manifest,
    read_parts,
    read_shard,
    take_up_learned,
)
from learner.store import SnapshotStore
from learner.telemetry import Telemetry
from stream.errors import SalescastError, StoreUnavailable, TopicMismatch
from stream.log import Entry as LogEntry
from stream.log import EventLog
from stream.settings import Settings

logger = logging.getLogger(__name__)


def read_operations(control: EventLog) -> dict[str, Entry]:
    """All operations of the control log, by id.

    Raises
    ------
    LogUnavailable
    """
    records, offset = [], 0
    while batch := control.read(0, offset):
        records += [(record.offset, record.value) for record in batch]
        offset = batch[-1].offset + 1
    return history(records)


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
    """

    def __init__(
        self,
        settings: Settings,
        *,
        events: EventLog,
        control: EventLog,
        store: SnapshotStore,
        verifier: Verifier,
    ) -> None:
        self._settings = settings
        self._events = events
        self._control = control
        self._store = store
        self._verifier = verifier

    def of(self, partition: int) -> Callable[[str], Effect | str]:
        """What the fold of a partition asks at a marker: its effect, or why it has none."""

        def resolve(identity: str) -> Effect | str:
            entry = read_operations(self._control).get(identity)
            if entry is None:
                return "the control log holds no such operation"
            operation = entry.operation
            snapshot = operation.cut.get(partition)
            if operation.kind in ("freeze", "resume") or snapshot is None:
                return "the operation does not concern this partition"
            try:
                return self._effect(operation, entry.offset, partition, snapshot)
            except StoreUnavailable:
                raise
            except SalescastError as error:
                return str(error)

        return resolve

    def _effect(self, operation: Operation, order: int, partition: int, snapshot: str) -> Effect:
        if operation.kind == "quarantine":
            assert operation.exclude is not None
            return Quarantine(order=order, what=operation.exclude)
        if operation.kind == "promote":
            return Promote(order=order, model=operation.model, over=operation.over)
        if operation.kind == "readmit" or operation.replay:
            return Turn(
                order=order,
                snapshot=snapshot,
                shard=self._shard(partition, snapshot),
                exclude=operation.exclude,
                readmits=operation.readmits,
                admit_late=operation.admit_late,
            )
        manifest = read_manifest(self._store, partition, snapshot, self._verifier)
        parts = read_parts(self._store, manifest, ["models", *LEARNED])
        return Rollback(
            order=order,
            models=read_shard(self._store, manifest, self._settings).models
            if outdated(manifest)
            else load_models(parts["models"], self._settings.models),
            learned=take_up_learned(self._settings, parts)._asdict(),
            champion=manifest.champion,
            promotions=manifest.promotions,
        )

    def _shard(self, partition: int, snapshot: str) -> Shard:
        """The shard that a replay begins from."""
        first = self._events.begin()[partition]
        if snapshot == START:
            shard = Shard(self._settings, partition)
        else:
            manifest = read_manifest(self._store, partition, snapshot, self._verifier)
            if manifest.topic_id != self._events.topic_id:
                raise TopicMismatch(f"snapshot {snapshot} belongs to another topic")
            shard = read_shard(self._store, manifest, self._settings)
        if shard.position < first:
            raise TopicMismatch(
                f"the log begins at offset {first}, a replay needs it from {shard.position} on"
            )
        return shard


def report(control: EventLog, owned: Owned, at: datetime, telemetry: Telemetry) -> None:
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
    control.append([LogEntry(0, None, msgspec.json.encode(one)) for one in outcomes])
    known = read_operations(control)
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
