"""EventLog with an archive behind it: what the log no longer has is read from there.

Guarantees, beyond ``log``: offsets and append times are the log's own, so positions, digests and
dead letters hold on either side of where retention has cut; what neither has is an
``OffsetExpired`` that says where both end. Leaves out: archiving (``archive.keep``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stream.archive import ArchivedTopic
from stream.errors import LogError, OffsetExpired
from stream.log import Consumer, Entry, EventLog, Moves, Record


class ArchivedLog:
    """A log that reads on in its archive.

    Parameters
    ----------
    live
        The log; all is appended to it, and read from it where it has it.
    url
        The archive, as the setting ``archive`` names it.
    """

    def __init__(self, live: EventLog, url: str) -> None:
        self._live = live
        self.kept = ArchivedTopic(url, live.topic, live.topic_id)
        self._begins: dict[int, int] = {}

    @property
    def live(self) -> EventLog:
        """The log alone."""
        return self._live

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._live.topic

    @property
    def topic_id(self) -> str:
        """The topic's id; the archive is of that one only."""
        return self._live.topic_id

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""
        return self._live.partitions

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Append to the log."""
        return self._live.append(entries)

    def begin(self) -> Mapping[int, int]:
        """First offset kept, in the archive where it reaches the log, else in the log."""
        self.look()
        return {
            partition: at
            if at == 0 or not self.archived(partition, at - 1)
            else self.kept.index(partition).begin
            for partition, at in self._begins.items()
        }

    def end(self) -> Mapping[int, int]:
        """The log's end."""
        return self._live.end()

    def read(self, partition: int, offset: int, max_records: int = 1000) -> list[Record]:
        """Records from ``offset`` on, at once; empty at the end. Owns nothing.

        Raises
        ------
        OffsetExpired
            Neither the log nor the archive has the offset any more.
        """
        if offset >= self.begins(partition):
            try:
                return self._live.read(partition, offset, max_records)
            except OffsetExpired:
                self.look()
                if offset >= self.begins(partition):
                    raise
        if not self.archived(partition, offset):
            raise self.gone(partition, offset)
        found = self.kept.read(partition, offset, max_records)
        end = self.kept.index(partition).end
        if not found or (found[-1].offset + 1 == end and len(found) < max_records):
            found += self.read(partition, end, max_records - len(found))
        return found

    def consume(self, positions: Mapping[int, int]) -> ArchivedConsumer:
        """Own partitions and read them from these offsets."""
        self.look()
        starts = {p: max(at, self.begins(p)) for p, at in positions.items()}
        consumer = ArchivedConsumer(self, self._live.consume(starts))
        for partition, offset in positions.items():
            consumer.seek(partition, offset)
        return consumer

    def join(self) -> ArchivedConsumer:
        """Own a share of the partitions."""
        return ArchivedConsumer(self, self._live.join())

    def owners(self) -> Mapping[int, str]:
        """Who folds a partition."""
        return self._live.owners()

    def close(self) -> None:
        """Release connections. Safe to call twice."""
        self._live.close()

    def look(self) -> None:
        """Ask the log where it begins by now."""
        self._begins = dict(self._live.begin())

    def begins(self, partition: int) -> int:
        """First offset of the log alone, when it was last asked."""
        return self._begins.get(partition, 0)

    def archived(self, partition: int, offset: int) -> bool:
        """Whether the log has dropped an offset, and the archive has it."""
        if offset >= self.begins(partition):
            return False
        index = self.kept.index(partition)
        return index.covers(offset) or self.kept.index(partition, fresh=True).covers(offset)

    def gone(self, partition: int, offset: int) -> OffsetExpired:
        """The error that says so."""
        index = self.kept.index(partition)
        kept = f"has offsets {index.begin} to {index.end}" if index.files else "is empty"
        return OffsetExpired(
            f"offset {offset} of {self.topic}[{partition}] is gone: the log begins at "
            f"{self.begins(partition)}, and the archive {self.kept.url} {kept}"
        )


class ArchivedConsumer:
    """The folding owner's reader: archived records first, then the log goes on by itself.

    A partition that is read from the archive is paused in the log, which is polled all the same:
    so its group hears of us.
    """

    def __init__(self, log: ArchivedLog, live: Consumer) -> None:
        self._log = log
        self._live = live
        self._at: dict[int, int] = {}
        self._archived: dict[int, int] = {}  # by partition: where it goes on
        self._failed: LogError | None = None  # what the last poll has not said

    @property
    def joined(self) -> bool:
        """Whether it is known which partitions are ours."""
        return self._live.joined

    def moves(self) -> Moves:
        """Partitions gained, revoked and lost since the last call."""
        moves = self._live.moves()
        for partition in (*moves.lost, *moves.revoked):
            self._at.pop(partition, None)
            self._archived.pop(partition, None)
        return moves

    def poll(self, max_records: int, timeout_s: float) -> Mapping[int, Sequence[Record]]:
        """Records by partition, in order, from where the last poll ended; empty on time-out.

        An archive that fails once others have given records is told of at the next poll: these
        are past their positions already, and would not come again.
        """
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        if not self._archived:
            return self._poll_live(max_records, timeout_s)
        found = self._poll_live(max(1, max_records // (1 + len(self._archived))), 0.0)
        room = max_records - sum(map(len, found.values()))
        waiting = list(self._archived)
        # Whoever came last is first next time.
        self._archived = {partition: self._archived[partition] for partition in reversed(waiting)}
        for n, partition in enumerate(waiting):
            share = -(-room // (len(waiting) - n))
            if share > 0:
                try:
                    records = self._take(partition, share)
                except LogError as error:
                    if not found:
                        raise
                    self._failed = error
                    break
                room -= len(records)
                if records:
                    found[partition] = records
        return found

    def seek(self, partition: int, offset: int) -> None:
        """Go on reading a partition from ``offset``, wherever that is kept."""
        if self._log.archived(partition, offset):
            # Where it could go on, should it be polled; and the one place that knows it as ours.
            self._live.seek(partition, self._log.begins(partition))
            self._live.pause(partition)
            self._archived[partition] = offset
        else:
            self._archived.pop(partition, None)
            self._live.seek(partition, offset)
        self._at[partition] = offset

    def pause(self, partition: int) -> None:
        """Give no records of a partition until it is sought."""
        self._at.pop(partition, None)  # or it were sought should the log drop what it was at
        self._archived.pop(partition, None)
        self._live.pause(partition)

    def commit(self, positions: Mapping[int, int]) -> None:
        """Show positions, best effort."""
        self._live.commit(positions)

    def close(self) -> None:
        """Release the partitions. Safe to call twice."""
        self._live.close()

    def _take(self, partition: int, share: int) -> list[Record]:
        """Archived records of a partition; once there are no more, the log goes on."""
        records = self._log.kept.read(partition, self._archived[partition], share)
        end = self._log.kept.index(partition).end
        self.seek(partition, records[-1].offset + 1 if records else end)
        return records

    def _poll_live(self, max_records: int, timeout_s: float) -> dict[int, Sequence[Record]]:
        """Poll the log; what it has dropped meanwhile is read from the archive from now on."""
        try:
            found = dict(self._live.poll(max_records, timeout_s))
        except OffsetExpired:
            self._log.look()
            dropped = [p for p, at in self._at.items() if self._log.archived(p, at)]
            dropped = [p for p in dropped if p not in self._archived]
            if not dropped:
                raise
            for partition in dropped:
                self.seek(partition, self._at[partition])
            return {}
        for partition, records in found.items():
            self._at[partition] = records[-1].offset + 1
        return found
