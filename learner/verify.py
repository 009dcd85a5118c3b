"""Makes a snapshot again, from an ancestor or from nothing, and holds the two against each other.

Reads logs and store, owns nothing and writes nothing, so it may run beside a learner. Leaves out:
what the API answers from a snapshot (``api.recompute``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from learner.digest import facts, learned
from learner.effects import AuditTrail, Effects
from learner.manifest import Manifest, Verifier, read_manifest, versions
from learner.operations import Entry
from learner.ownership import admit_late
from learner.replay import START
from learner.served import PROFILES
from learner.shard import Shard
from learner.snapshot import read_shard
from learner.standstill import heed
from learner.store import SnapshotStore
from stream.dead_letters import DeadLetters
from stream.errors import OffsetExpired, SnapshotCorrupt, SnapshotMissing, TopicMismatch
from stream.log import EventLog
from stream.settings import Settings

#: How far what is learned may differ where processors or libraries do, by how it is kept: as a
#: share of it, or of 1; of means kept as whole parts of a scale, parts. Much is kept in single
#: precision, whose last bit is 6e-8 of a number, and moves what is learned of it in double as far,
#: or by 5e-6 where a histogram's bins are narrow. The last bit of half precision is 1e-3.
CLOSE = {"float64": 1e-5, "float32": 1e-5, "float16": 2e-3, "int16": 1.0, "uint16": 1.0}
#: Columns of the panel that are no facts, but learned from them.
USUAL = ("usual_price", "gap", "error_sum", "error_n")
#: Records read of the log at once.
READ = 1000

Array = npt.NDArray[Any]
Verdict = Literal["identical", "close", "different"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What came of it.

    ``origin`` is the snapshot it was made again from, ``replay.START`` for the log's beginning;
    ``digest`` is the one found, to be held against the manifest's. ``close``: all facts are the
    same, and what was learned from them is so within ``CLOSE``. ``versions`` are those that
    differ, then and now.
    """

    manifest: Manifest
    origin: str
    records: int
    digest: str
    verdict: Verdict
    versions: dict[str, tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Where to read what a snapshot was made of.

    Parameters
    ----------
    settings
        Those of the snapshots.
    """

    settings: Settings
    events: EventLog
    control: EventLog
    dead_letters: DeadLetters
    store: SnapshotStore
    verifier: Verifier

    def verify(self, partition: int, snapshot: str, *, from_start: bool = False) -> Verified:
        """Make a snapshot again and compare.

        Parameters
        ----------
        from_start
            From the log's beginning, through every replay; else from the nearest ancestor.

        Raises
        ------
        SnapshotMissing, SnapshotCorrupt, FingerprintMismatch
            A snapshot that is needed cannot be taken up.
        OffsetExpired, TopicMismatch
            The log that is needed is gone.
        """
        manifest = self._manifest(partition, snapshot)
        if manifest.topic_id != self.events.topic_id:
            raise TopicMismatch(f"snapshot {snapshot} was made of another topic")
        again, origin, records = self._again(manifest, from_start)
        digest = again.digest()
        verdict: Verdict = "identical"
        if digest != manifest.digest:
            verdict = _compare(read_shard(self.store, manifest, self.settings), again)
        ours = versions()
        return Verified(
            manifest=manifest,
            origin=origin,
            records=records,
            digest=digest,
            verdict=verdict,
            versions={
                name: (theirs, ours.get(name, ""))
                for name, theirs in manifest.versions.items()
                if ours.get(name) != theirs
            },
        )

    def _manifest(self, partition: int, snapshot: str) -> Manifest:
        return read_manifest(self.store, partition, snapshot, self.verifier)

    def _again(self, manifest: Manifest, from_start: bool) -> tuple[Shard, str, int]:
        """The shard, the snapshot it was begun from, and how many records were folded."""
        ancestor = None if from_start else self._ancestor(manifest)
        if ancestor is not None:
            shard = read_shard(self.store, ancestor, self.settings)
            self._skipping(shard, manifest)
            return shard, ancestor.snapshot, self._fold(shard, manifest.position)
        shard, origin, records = Shard(self.settings, manifest.partition), START, 0
        turn = self._turn(manifest)
        if turn is not None:
            if turn.operation.cut[manifest.partition] != START:
                shard, origin, records = self._base(turn, manifest.partition, from_start)
            shard.obey(
                turn.operation.id, manifest.operations, manifest.rules, manifest.promotions,
                turn.offset,
            )  # fmt: skip
            if turn.operation.admit_late:
                until = manifest.operations[turn.operation.id]
                written = self.dead_letters.written(manifest.partition, until)
                admit_late(shard, self.events, written)
        return (
            shard,
            origin,
            records + self._fold(self._skipping(shard, manifest), manifest.position),
        )

    def _base(self, turn: Entry, partition: int, from_start: bool) -> tuple[Shard, str, int]:
        """A replay's cut, as ``_again``; from the log where the store does not lead to it."""
        cut = turn.operation.cut[partition]
        try:
            base = self._manifest(partition, cut)
        except (SnapshotMissing, SnapshotCorrupt) as error:
            shard = self._effects().fold_again(turn, partition, error)
            return shard, START, shard.position
        if from_start:
            return self._again(base, from_start)
        return read_shard(self.store, base, self.settings), cut, 0

    def _skipping(self, shard: Shard, manifest: Manifest) -> Shard:
        """A shard that passes over what the snapshot has skipped since."""
        known = AuditTrail(self.control).operations()
        heed(shard, [
            rule
            for rule in manifest.rules
            if rule.start >= shard.position
            and rule.operation not in shard.operations
            and rule.operation in known
            and known[rule.operation].operation.kind == "skip"
        ])  # fmt: skip
        return shard

    def _ancestor(self, manifest: Manifest) -> Manifest | None:
        """The nearest ancestor of the same lineage that is kept."""
        if manifest.parent is None:
            return None
        try:
            parent = self._manifest(manifest.partition, manifest.parent)
        except SnapshotMissing:
            return None
        return parent if parent.lineage == manifest.lineage else None

    def _turn(self, manifest: Manifest) -> Entry | None:
        """The last replay that a snapshot stands on."""
        known = AuditTrail(self.control).operations()
        replays = [
            known[one]
            for one in manifest.operations
            if one in known and known[one].operation.replay
        ]
        return max(replays, key=lambda entry: entry.offset, default=None)

    def _fold(self, shard: Shard, until: int) -> int:
        """Fold up to a position; how many records."""
        effects = self._effects()
        begin = self.events.begin()[shard.partition]
        if shard.position < begin:
            raise OffsetExpired(
                f"the log begins at offset {begin}, this needs it from {shard.position} on"
            )
        folded = 0
        while shard.position < until:
            most = min(READ, until - shard.position)
            records = [
                record
                for record in self.events.read(shard.partition, shard.position, most)
                if record.offset < until
            ]
            if not records:
                break  # offsets need not be dense
            shard.fold(records, effects.of(shard.partition))
            folded += len(records)
        return folded

    def _effects(self) -> Effects:
        return Effects(
            self.settings, events=self.events, control=AuditTrail(self.control), store=self.store,
            verifier=self.verifier, dead_letters=self.dead_letters,
        )  # fmt: skip


def _compare(before: Shard, again: Shard) -> Verdict:
    """Hold what was learned to ``CLOSE``, and facts against facts to the bit; both are used up."""
    ours, theirs = ([*_usual(one), *(a for _, a in learned(one))] for one in (before, again))
    same = len(ours) == len(theirs) and all(map(_close, ours, theirs))
    scored, wanted = (
        one.accuracy.columns["count"][:, : one.panel.size] for one in (before, again)
    )  # a number of buckets, no mean
    if not same or not np.array_equal(scored, wanted):
        return "different"
    for one in (before, again):
        _forget_usual(one)
    return "close" if list(facts(before)) == list(facts(again)) else "different"


def _usual(shard: Shard) -> list[Array]:
    """What the panel has learned from its facts, categories in the order of their names."""
    panel = shard.panel
    order = np.argsort(np.array(panel.categories.texts))
    shared = panel.profiles
    return [
        shared.phases[order], shared.past[:, order], shared.weeks[:, order],
        shared.answers[order], shared.scores,
        panel.rings["usual_units"][:, : panel.size], *map(panel.column, USUAL),
    ]  # fmt: skip


def _forget_usual(shard: Shard) -> None:
    """Leave nothing of ``_usual`` among the facts."""
    for name in PROFILES:
        getattr(shard.panel.profiles, name)[:] = 0
    shard.panel.rings["usual_units"][:] = 0
    for name in USUAL:
        shard.panel.column(name)[:] = 0


def _close(one: Array, other: Array) -> bool:
    """Whether two arrays of what was learned are the same but for the last bits."""
    bound = CLOSE.get(one.dtype.name, 0.0)
    share = bound if one.dtype.kind == "f" else 0.0
    return (one.shape, one.dtype) == (other.shape, other.dtype) and np.allclose(
        one.astype(np.float64), other.astype(np.float64), rtol=share, atol=bound, equal_nan=True
    )
