"""Comes to the cut of an operation again, from the log's beginning, where no store leads to it.

A snapshot's id says where it stood: its lineage and position. The log is folded up to there, and
every operation takes effect on the way as it did. Leaves out: what effects are (``effects``), and
reading the cuts that can be read (there too).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from learner.operations import Entry
from learner.ownership import admit_late
from learner.parts import joined
from learner.replay import Effect, Resolve
from learner.shard import Shard
from learner.snapshot import lay_down, take_up
from learner.standstill import heed, skips
from stream.dead_letters import DeadLetters
from stream.errors import SnapshotMissing, StoreError
from stream.log import EventLog
from stream.settings import Settings

logger = logging.getLogger(__name__)

#: Records read of the log at once.
READ = 1000
#: How often it is told how far it is, s.
TELL_S = 30.0


class Place(NamedTuple):
    """Where a snapshot stood."""

    lineage: int
    position: int


def place_of(snapshot: str, partition: int) -> Place | None:
    """Where a snapshot stood, by its id; ``None``: that says nothing of it.

    Examples
    --------
    >>> place_of("p0-l2-o75-51a50a12", 0)
    Place(lineage=2, position=75)
    """
    found = re.fullmatch(rf"p{partition}-l(\d+)-o(\d+)-[0-9a-f]+", snapshot)
    return None if found is None else Place(*map(int, found.groups()))


class Cuts:
    """Shards of cuts, laid down in memory as a fold comes by.

    A replay passes a position that was passed before, one lineage later. Lineages grow when a lost
    head is come to again, too, so there may be fewer replays than a cut's lineage says: then it is
    what the last of them came by with.

    Parameters
    ----------
    places
        Where each cut stood.
    """

    def __init__(self, settings: Settings, partition: int, places: Mapping[str, Place]) -> None:
        self._settings = settings
        self._partition = partition
        self._places = places
        self._kept: dict[str, dict[str, bytearray]] = {}

    def next(self, shard: Shard, lineage: int) -> int | None:
        """The position of the cut that a shard comes by next."""
        return min(
            (
                at.position
                for at in self._places.values()
                if at.position > shard.position and lineage <= at.lineage
            ),
            default=None,
        )

    def pass_by(self, shard: Shard, lineage: int) -> None:
        """Lay a shard down where a cut stood."""
        for name, at in self._places.items():
            if at.position == shard.position and lineage <= at.lineage:
                self._kept[name] = {part: joined(x) for part, x in lay_down(shard).items()}

    def shard(self, entry: Entry) -> Shard:
        """The shard of an operation's cut.

        Raises
        ------
        SnapshotMissing
            None has come by there.
        """
        name = entry.operation.cut[self._partition]
        kept = self._kept.get(name)
        if kept is None:
            raise SnapshotMissing(f"the log does not lead to {name}")
        parts = {part: bytearray(data) for part, data in kept.items()}
        return take_up(self._settings, self._partition, parts)


class Again:
    """Folds the log up to the cut of an operation.

    Parameters
    ----------
    partition
        Of the cut.
    entries, entry
        All operations, and the one whose cut it is.
    """

    def __init__(
        self, settings: Settings, partition: int, entries: Mapping[str, Entry], entry: Entry, *,
        events: EventLog, dead_letters: DeadLetters,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._partition = partition
        self._entries = entries
        self._entry = entry
        self._snapshot = entry.operation.cut[partition]
        self._events = events
        self._dead_letters = dead_letters

    def fold(self, why: StoreError, resolver: Callable[[Cuts], Resolve]) -> Shard:
        """The shard as it stood at the cut.

        Parameters
        ----------
        why
            The cut cannot be read.
        resolver
            Says what markers stand for, given where their cuts are.

        Raises
        ------
        LogUnavailable
        StoreError
            The log does not lead there: ``why``.
        """
        partition, snapshot = self._partition, self._snapshot
        place = place_of(snapshot, partition)
        begin, end = self._events.begin()[partition], self._events.end()[partition]
        if place is None or begin > 0 or place.position > end:
            raise why
        logger.warning(
            "partition %d: operation %s goes back to %s. %s; that is folded again from the log's "
            "beginning: %d records, and the learner's other partitions wait",
            partition, self._entry.operation.id, snapshot, why.args[0], place.position,
        )  # fmt: skip
        started = time.monotonic()
        named = {entry.operation.cut[partition] for entry in self._earlier()} | {snapshot}
        places = {name: at for name in named if (at := place_of(name, partition)) is not None}
        cuts = Cuts(self._settings, partition, places)
        self._come_by(cuts, place, resolver(cuts))
        shard = cuts.shard(self._entry)
        logger.info(
            "partition %d: %s was folded again in %.1f s",
            partition, snapshot, time.monotonic() - started,
        )  # fmt: skip
        return shard

    def _come_by(self, cuts: Cuts, place: Place, resolve: Resolve) -> None:
        """Fold until no later lineage can come by a place."""
        partition, lineage, over = self._partition, 1, False

        def asked(identity: str) -> Effect | str:
            nonlocal over
            entry = self._entries.get(identity)
            if entry is not None and entry.offset >= self._entry.offset:
                over = True  # the cut is of before
                return "it is asked for later"
            return resolve(identity)

        shard = self._heedful(Shard(self._settings, partition))
        needed = min(place.lineage, 1 + sum(map(_replays, self._earlier())))
        told_s = time.monotonic()
        while not over:
            cuts.pass_by(shard, lineage)
            if shard.position >= place.position and lineage >= needed:
                return
            stop = cuts.next(shard, lineage)
            records = [
                record
                for record in self._events.read(partition, shard.position, READ)
                if stop is None or record.offset < stop
            ]
            if not records:
                return
            folded = shard.fold(records, asked)
            if folded.turn is not None:
                shard, lineage = self._heedful(folded.turn.shard), lineage + 1
                assert shard.replay is not None
                if folded.turn.admit_late:
                    written = self._dead_letters.written(partition, shard.replay.until)
                    admit_late(shard, self._events, written)
            if time.monotonic() - told_s > TELL_S:
                told_s = time.monotonic()
                logger.info(
                    "partition %d: %s: at offset %d of %d, replay %d of %d", partition,
                    self._snapshot, shard.position, place.position, lineage - 1, needed - 1,
                )  # fmt: skip

    def _earlier(self) -> list[Entry]:
        """Operations that go back to a cut, asked for before this one."""
        found = []
        for entry in self._entries.values():
            told = entry.told(self._partition)
            if (
                entry.operation.kind in ("rollback", "readmit")
                and self._partition in entry.operation.cut
                and entry.offset < self._entry.offset
                and (told is None or told.outcome == "applied")
            ):
                found.append(entry)
        return found

    def _heedful(self, shard: Shard) -> Shard:
        """A shard that passes over what was skipped from here on."""
        heed(shard, [one.rule for one in skips(shard, self._entries)])
        return shard


def _replays(entry: Entry) -> bool:
    return entry.operation.replay or entry.operation.kind == "readmit"
