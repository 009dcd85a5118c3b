"""The only loop: poll → fold → publish.

A snapshot carries the position of what has been folded, so a crash at any point is recovered
by going back to the head and folding again; nothing else is remembered. What no reason names, and
a head to which nothing leads back, stop their partition, loudly, and no other. Leaves out: what
folding means (``shard``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from learner.aside import Aside
from learner.effects import AuditTrail, Effects, Suspects, report
from learner.manifest import Signer
from learner.ownership import Owned, check_topic, following, pinned, take, take_in
from learner.pruning import Pruner
from learner.publishing import Put, put
from learner.replay import Turn
from learner.standstill import heed, skips, standing
from learner.store import SnapshotStore
from learner.telemetry import Telemetry
from learner.telling import Dependencies, said, say, say_held, tell
from stream.dead_letters import DeadLetters
from stream.errors import (
    AlreadyOwned,
    LogUnavailable,
    SalescastError,
    SnapshotCorrupt,
    StoreError,
    StoreUnavailable,
)
from stream.event import Tick, encode
from stream.log import Consumer, Entry, EventLog, Record, in_turns
from stream.settings import Settings

logger = logging.getLogger(__name__)

#: Shortest time between snapshots of a shard whose buckets close quickly.
MIN_INTERVAL_S = 1.0
#: Longest wait for records; also how soon a stop is noticed.
POLL_S = 0.2
RETRY_S = 1.0
#: How long a partition stands still before a head that cannot be taken up, until it is tried again.
HELD_S = 10.0
#: How long a learner that is being replaced may take to publish and leave.
LEAVING_S = 8.0
#: Records folded at a time, of one partition after the other; a record may hold many events.
SLICE = 50
#: Publications of a partition between two clean-ups of old snapshots.
PRUNE_EVERY = 10


class Worker:
    """Folds its share of a log's partitions and publishes their snapshots.

    Parameters
    ----------
    settings
        Of the deployment.
    events, control, dead_letters
        The logs.
    store, signer
        Where snapshots go, and who vouches for them.
    telemetry
        Metrics; told once a batch.
    clock
        The wall, s since 1970 UTC.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        events: EventLog,
        control: EventLog,
        dead_letters: DeadLetters,
        store: SnapshotStore,
        signer: Signer,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.events = events
        self.control = AuditTrail(control)
        self.dead_letters = dead_letters
        self.store = store
        self.signer = signer
        self.telemetry = telemetry
        self.dependencies = Dependencies(telemetry)
        self.clock = clock
        self.owned: dict[int, Owned] = {}
        self.waiting: dict[int, float] = {}  # ours, to be taken up: when to try (monotonic)
        self.held: dict[int, str] = {}  # of those, what stands still before its head, and why
        self.started = False
        self.stop = threading.Event()
        self.effects = Effects(settings, events=events, control=self.control, store=store,
                               verifier=signer.verifier, dead_letters=dead_letters)  # fmt: skip
        self.suspects = Suspects(settings, self.control, store, signer.verifier, telemetry)
        self.pruner = Pruner(settings, store, signer.verifier)
        self._publications = 0
        self._crowded = False  # whether a process could not be made, and it was said
        self._owed: dict[tuple[int, str], int] = {}
        self._told_s = 0.0

    # -- the loop --------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Fold until told to stop; then publish what is not, and let go.

        Raises
        ------
        SalescastError
            It cannot start, or go on: wrong topic, other settings, another owner.
        """
        self.stop = stop
        check_topic(self.settings, self.events)
        consumer = self._join()
        try:
            while not stop.is_set():
                self.step(consumer, POLL_S)
            for owned in list(self.owned.values()):
                owned.let_go()  # what is on its way would be older
                self._publish_if(owned, consumer, due=owned.folded > 0)
        finally:
            consumer.close()

    def _join(self) -> Consumer:
        """Own a share of the log; an only owner that is just leaving is given a moment."""
        end = time.monotonic() + LEAVING_S
        while True:
            try:
                return self.events.join()
            except AlreadyOwned:
                if time.monotonic() > end or self.stop.wait(0.2):
                    raise

    def step(self, consumer: Consumer, timeout_s: float) -> None:
        """Poll once, fold what came, publish what is due."""
        most, now = self.settings.poll_records, time.monotonic()
        if any(at <= now for at in self.waiting.values()):
            most, timeout_s = 1, 0.0  # those taken up already do not run ahead
        try:
            batches = consumer.poll(most, timeout_s)
            self.dependencies.answers("log")
        except LogUnavailable as error:
            self.dependencies.fails(error)
            time.sleep(RETRY_S)
            return
        before = dict(self.owned)
        self._move(consumer)
        now = time.monotonic()
        left = dict(batches)  # less what goes: it is polled again
        for partition, piece in in_turns(left, SLICE):
            owned = self.owned.get(partition)
            if (
                self.stop.is_set()
                or owned is None
                or owned is not before.get(partition)  # it may have come back meanwhile
                or owned.stopped
                or piece[0].offset < owned.shard.position
                or not self._fold(owned, piece, consumer)
            ):
                del left[partition]
                continue
            owned.last_record_s = now
            self._publish_if_due(owned, consumer)
            self._tell()
        for owned in list(self.owned.values()):
            self._tick(owned, now)
            self._publish_if_due(owned, consumer)
            say(self.store, owned)
            self._skip_if_told(owned, consumer)
        self._tell()

    # -- partitions come and go --------------------------------------------------------------

    def _move(self, consumer: Consumer) -> None:
        """Let go of partitions that went, and take up one that came.

        One at a time: between two, the group hears of us and may ask for some of them back.
        """
        moves = consumer.moves()
        for partition in (*moves.lost, *moves.revoked):
            self.waiting.pop(partition, None)
            owned = self.owned.pop(partition, None)
            if owned is not None:
                self._let_go(owned, publish=partition in moves.revoked)
            else:
                self.held.pop(partition, None)
                self.telemetry.dropped(partition)
        self.waiting.update(dict.fromkeys(moves.gained, 0.0))
        now = time.monotonic()
        due = [partition for partition, at in self.waiting.items() if at <= now]
        if due:
            self._restore(due[0], consumer)
        if self.waiting.keys() <= self.held.keys() and consumer.joined:
            self.started = True

    def _let_go(self, owned: Owned, *, publish: bool) -> None:
        """Drop a shard; one that was lost is neither published nor committed.

        One that was revoked is published if it can be. The next owner may have taken up the
        head already: then one of the two loses the compare-and-set, which does no harm.
        """
        partition = owned.shard.partition
        owned.let_go()
        logger.info("partition %d: %s", partition, "handed over" if publish else "lost")
        self.telemetry.dropped(partition)
        self._owed = {at: n for at, n in self._owed.items() if at[0] != partition}
        if publish and owned.folded and not owned.stopped and not owned.behind:
            try:
                self.publish(owned)
            except (LogUnavailable, StoreUnavailable, SnapshotCorrupt) as error:
                logger.warning("partition %d: not published: %s", partition, error)

    def _skip_if_told(self, owned: Owned, consumer: Consumer) -> None:
        """Take a partition that stands still up again, once an operator lets it pass."""
        partition, now = owned.shard.partition, time.monotonic()
        stands = owned.stopped and self.owned.get(partition) is owned
        if not stands or now - owned.looked_s < RETRY_S:
            return
        owned.looked_s = now
        try:
            found = skips(owned.shard, self.control.operations(), owned.stopped_at)
        except LogUnavailable as error:
            logger.warning("partition %d: %s", partition, error)
            return
        if found:
            self._restore(partition, consumer, stood_at=owned.stopped_at)

    def _restore(self, partition: int, consumer: Consumer, stood_at: int | None = None) -> None:
        """Take a partition up from its head, and read on from there; or try again in a while.

        One that nothing leads to stands still until the store is mended; others go on.
        """
        self._drop(partition)
        try:
            owned = take(self.settings, self.events, self.store, self.signer.verifier, partition)
            replay = owned.shard.replay
            again = max(owned.unread, 0 if replay is None else replay.until)
            if again:
                owned.written = self.dead_letters.written(partition, again)
            found = skips(owned.shard, self.control.operations(), stood_at)
        except (LogUnavailable, StoreUnavailable) as error:
            self.dependencies.holds_up(partition, "taken up", error)
            self._postpone(partition, consumer)
            return
        except SnapshotCorrupt as error:
            if self.held.get(partition) != str(error):
                logger.error("%s", error)
                say_held(self.store, partition, error, self.clock())
            self._postpone(partition, consumer, HELD_S)
            self.held[partition] = str(error)
            self.telemetry.stopped(partition, True)
            return
        heed(owned.shard, [one.rule for one in found])
        owned.finished += [(one.rule.operation, one.rule.start, None) for one in found if one.fresh]
        if owned.foreign:
            self.telemetry.head_refused(partition)
        self.waiting.pop(partition, None)
        self.held.pop(partition, None)
        owned.said = said(self.store, partition)
        owned.published_s = owned.last_record_s = time.monotonic()
        self.owned[partition] = owned
        consumer.seek(partition, owned.shard.position)
        self.telemetry.stopped(partition, False)

    def _postpone(self, partition: int, consumer: Consumer, wait_s: float = RETRY_S) -> None:
        """Drop a shard, to take it up again from what is whole in a while."""
        self._drop(partition)
        self.telemetry.restored(partition, 0.0)
        consumer.pause(partition)
        self.waiting[partition] = time.monotonic() + wait_s

    def _drop(self, partition: int) -> None:
        """Forget a shard, and a snapshot of it that is on its way."""
        owned = self.owned.pop(partition, None)
        if owned is not None:
            owned.let_go()

    # -- folding ---------------------------------------------------------------------------

    def _fold(self, owned: Owned, records: Sequence[Record], consumer: Consumer) -> bool:
        """Fold some records; ``False``: the partition was taken up anew, or stands still."""
        shard, replaying = owned.shard, owned.shard.replay
        before, refused = owned.told or (shard.counts(), dict(shard.window.refused))
        started = time.perf_counter()
        try:
            folded = shard.fold(records, self.effects.of(shard.partition))
            take_in(owned, folded, records, self.dead_letters)
            self._count(owned, before, refused, len(records), time.perf_counter() - started)
            if folded.turn is not None:
                self._turn(owned, folded.turn, consumer)
                return False
        except (LogUnavailable, StoreUnavailable) as error:
            # Half a batch may be folded: go back to what is whole, and come again.
            logger.warning("partition %d: %s; going back to its head", shard.partition, error)
            self._postpone(shard.partition, consumer)
            return False
        except Exception as error:
            # No reason names this. The shard stops here; what is published goes on being served.
            owned.standstill = standing(shard, error, self.clock())
            known = isinstance(error, SalescastError)
            logger.error("%s", owned.stopped, exc_info=not known)
            self.telemetry.stopped(shard.partition, True)
            return False
        if replaying and shard.replay is None:
            owned.published_s, owned.written = 0.0, {}  # caught up: it is served at once
        self.telemetry.closed(
            shard.partition, folded.closes, shard.window.watermark_us, shard.panel.size
        )
        return True

    def _keep_aside(self, owned: Owned) -> None:
        """Make dead letters durable, and what became of operations."""
        if owned.letters:
            self.dead_letters.append(owned.letters)
            self.telemetry.dead_lettered(owned.shard.partition, len(owned.letters))
            owned.letters = []
        at = datetime.fromtimestamp(self.clock(), UTC)
        if owned.findings:
            self.suspects.name(owned, at)
        if owned.finished:
            report(self.control, owned, at, self.telemetry)

    def _count(
        self, owned: Owned, before: Mapping[str, int], refused: Mapping[str, int],
        records: int, seconds: float,
    ) -> None:  # fmt: skip
        shard, counts = owned.shard, {}
        if shard.replay is not None and owned.told is not None:
            # These were counted when they first came; what has become of them is told at the end.
            self.telemetry.folded(shard.partition, records, {}, {}, seconds)
            return
        owned.told = None
        for outcome, n in shard.counts().items():
            # A void takes back what was counted; a counter cannot, so it waits to be made up.
            owed = self._owed.pop((shard.partition, outcome), 0) + n - before[outcome]
            if owed < 0:
                self._owed[shard.partition, outcome] = owed
            else:
                counts[outcome] = owed
        reasons = {
            reason: max(n - refused.get(reason, 0), 0) for reason, n in shard.window.refused.items()
        }
        self.telemetry.folded(shard.partition, records, counts, reasons, seconds)

    def _tick(self, owned: Owned, now: float) -> None:
        """Let time pass in an idle partition that has been live, so that silence is learned."""
        idle = now - owned.last_record_s >= self.settings.tick_idle_s
        if owned.stopped or not owned.shard.window.live or not idle:
            return
        owned.last_record_s = now
        at = datetime.fromtimestamp(self.clock(), UTC)
        partition = owned.shard.partition
        tick = Tick(id=f"tick-{partition}-{at.timestamp():.3f}", source="salescast", time=at)
        try:
            self.events.append([Entry(partition, None, encode(tick))])
            self.telemetry.ticked(partition)
        except LogUnavailable as error:
            logger.warning("partition %d: no tick: %s", partition, error)

    # -- operations ------------------------------------------------------------------------

    def _turn(self, owned: Owned, turn: Turn, consumer: Consumer) -> None:
        """Let the shard of a replay's cut take over; a crash before 3. leaves all as it was.

        1. What the shard before kept aside and carried out is durable. 2. The cut's shard is
        made ready. 3. It becomes head, unfinished. 4. The log is read again from there.
        """
        partition = owned.shard.partition
        owned.let_go()
        # 1.
        self._keep_aside(owned)
        # 2.
        after = following(owned, turn, self.events, self.dead_letters)
        heed(after.shard, [one.rule for one in skips(after.shard, self.control.operations())])
        # 3.
        try:
            kept = self.publish(after)
        except SnapshotCorrupt as error:
            logger.error("partition %d: not published: %s", partition, error)
            kept = False
        if not kept:
            self._restore(partition, consumer)
            return
        # 4.
        after.last_record_s = time.monotonic()
        self.owned[partition] = after
        consumer.seek(partition, after.shard.position)

    # -- publishing ------------------------------------------------------------------------

    def _publish_if_due(self, owned: Owned, consumer: Consumer) -> None:
        waited = time.monotonic() - owned.published_s
        publish_s = sum(one.publish_s for one in self.owned.values())
        self._publish_if(
            owned,
            consumer,
            due=(bool(owned.finished or owned.findings) and waited >= RETRY_S)
            # Publishing all takes at most a fifth of the time, however fast buckets close.
            or (owned.closes > 0 and waited >= max(MIN_INTERVAL_S, 4 * publish_s))
            or (bool(owned.folded or owned.unread) and waited >= self.settings.snapshot_interval_s),
        )

    def _publish_if(self, owned: Owned, consumer: Consumer, *, due: bool) -> None:
        if owned.aside is None and (not due or owned.stopped or owned.behind):
            return
        try:
            if owned.aside is not None:
                kept = self._await_aside(owned)
            elif owned.shard.panel.size >= self.settings.aside_series and not self.stop.is_set():
                kept = self._publish_aside(owned)
            else:
                kept = self.publish(owned)
            if kept is None:
                return  # on its way
            self.dependencies.answers("store")
        except (LogUnavailable, StoreUnavailable) as error:
            self.dependencies.holds_up(owned.shard.partition, "published", error)
            owned.published_s = time.monotonic()  # learning goes on; try again in a while
            return
        except SnapshotCorrupt as error:
            # Its pointers are damaged: it stands still before them, and no other does.
            logger.error("partition %d: not published: %s", owned.shard.partition, error)
            self._restore(owned.shard.partition, consumer)
            return
        if not kept:
            logger.warning("partition %d: somebody else has published; going back to the head",
                           owned.shard.partition)  # fmt: skip
            self._restore(owned.shard.partition, consumer)
            return
        consumer.commit({owned.shard.partition: owned.published})  # 6. for display

    def publish(self, owned: Owned) -> bool:
        """Publish a shard as it stands. A crash between any two steps leaves the last one whole.

        1. Dead letters are durable, and so is what became of operations: should the rest
           fail, the same records say the same again, and only the first counts.
        2. Chunks that the store does not hold.
        3. The signed manifest.
        4. Head, by compare-and-set, and active with it unless it is replaying.
        5. Durability, on the same connection (the store's own).
        6. Offsets in Kafka, for display (the caller's).

        Returns
        -------
        ``False``: head has moved otherwise; the shard must be restored.
        """
        owned.let_go()
        owned.publishing_s = time.monotonic()
        self._keep_aside(owned)  # 1.
        return self._move_head(owned, self._put(owned)())

    def _publish_aside(self, owned: Owned) -> bool | None:
        """The same, but 2. and 3. in a process of their own, if there is room for one: ``None``."""
        owned.publishing_s = time.monotonic()
        self._keep_aside(owned)  # 1.
        try:
            owned.aside = Aside(self._put(owned), Put)
        except OSError as error:
            if not self._crowded:
                logger.warning("no process to put snapshots, folding waits for them: %s", error)
            self._crowded = True
            return self.publish(owned)
        self.telemetry.paused(time.monotonic() - owned.publishing_s)
        return None

    def _await_aside(self, owned: Owned) -> bool | None:
        """Go on with 4. once that process has done its part; ``None``: it has not."""
        aside, owned.aside = owned.aside, None
        assert aside is not None
        done = aside.done()
        if done is None:
            owned.aside = aside
            return None
        return self._move_head(owned, done)

    def _put(self, owned: Owned) -> Callable[[], Put]:
        """What puts a shard as it stands now: 2. and 3."""
        return partial(put, owned, self.store, self.signer, topic_id=self.events.topic_id,
                       created_us=round(self.clock() * 1e6))  # fmt: skip

    def _move_head(self, owned: Owned, done: Put) -> bool:
        """Let head, and active, be what was put: 4. and 5."""
        partition = owned.shard.partition
        if not self.store.move_head(partition, owned.head, done.to, done.unserved):
            return False
        owned.head = owned.parent = done.to.snapshot
        if done.to.position >= owned.unread:  # not so of a replay that begins on the way back
            owned.unread = 0
        owned.chunks, owned.known = done.chunks, done.known
        owned.published = done.to.position
        owned.folded -= done.folded
        owned.closes -= done.closes
        owned.published_s = time.monotonic()
        owned.publish_s = seconds = owned.published_s - owned.publishing_s
        self.telemetry.published(
            partition, done.size_bytes, done.written_bytes, seconds, self.clock()
        )
        self._publications += 1
        if self._publications % (PRUNE_EVERY * max(1, len(self.owned))) == 0:
            try:
                self.pruner.prune(pinned(self.control.operations()))
                for one in (owned, *self.owned.values()):
                    if self.store.missing(one.chunks):
                        # Somebody has deleted some: the next snapshot puts all anew.
                        logger.warning("partition %d: chunks are gone from the store",
                                       one.shard.partition)  # fmt: skip
                        one.chunks, one.known = set(), {}
                        one.let_go()
            except (LogUnavailable, StoreError) as error:
                # Nothing is deleted on a guess.
                logger.warning("old snapshots stay for now: %s", error)
        return True

    # -- telling ---------------------------------------------------------------------------

    def _tell(self) -> None:
        """Tell metrics where all stands, once a second."""
        if time.monotonic() - self._told_s < 1.0:
            return
        self._told_s = time.monotonic()
        try:
            ends = self.events.end()
        except LogUnavailable:
            return
        tell(self.telemetry, self.owned, ends)
