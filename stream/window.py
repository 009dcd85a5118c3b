"""From records to demand: identities, voids, lateness, the watermark, and when a bucket closes.

Guarantees: an identity counts once; a void and its sale leave nothing behind, in either order;
arrival order, packing and batching within grace leave no trace in what ``close`` is given;
every item has exactly one outcome. Leaves out: what a closed bucket means (``learner.panel``)
and where refused items go (``dead_letters``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from stream.alive import Alive
from stream.brought import Brought, Judge, add
from stream.brought import Cell as Cell
from stream.brought import Key as Key
from stream.brought import Open as Open
from stream.buckets import Calendar
from stream.event import (
    ALL_SOURCES,
    FIRST_US,
    LAST_US,
    MICRO,
    AnyEvent,
    Complete,
    Marker,
    Plan,
    Product,
    Refusal,
    Sale,
    Tick,
    Void,
    decode,
)
from stream.gaps import Gaps, Passed
from stream.identities import CONTENT, amounts_of, content_hash, content_of, identify
from stream.log import Record, partition_of
from stream.settings import Settings

#: Ways an item can end; they add up to the items that came in.
OUTCOMES = ("learned", "revised", "duplicate", "void", "late", "quarantined", "excluded",
            "refused", "applied")  # fmt: skip
LEARNED, REVISED, DUPLICATE, VOID, LATE, QUARANTINED, EXCLUDED, REFUSED, APPLIED = range(9)
#: State of an identity, in the three low bits beside its content's hash. A sale is live in a
#: bucket's sums, or as a revision.
_LIVE, _REVISED, _TOMBSTONE, _RETRACTED = range(4)
STATE_BITS = 3
_STATE = 7
#: Sources told apart in the counts; those after share one line.
MAX_SOURCES = 10_000
#: Stores remembered to be at home.
MAX_HOMES = 65_536
_NEVER = -(2**62)

#: Share of a bucket's slots that are early: by then about half of a day is sold.
EARLY = 2 / 3


#: Says whether an item of a record is passed over.
Passes = Callable[[AnyEvent, Record, int], Passed | None]


class Letter(NamedTuple):
    """An item kept aside: where it is in the log, and why. Its bytes are the log's."""

    offset: int
    item: int
    reason: str
    detail: str


@dataclass(slots=True)
class Closed:
    """A bucket at its close: sums by series, amendments of earlier ones, and live stores.

    ``gaps`` are series by bucket of which sales were passed over, this one and earlier ones;
    ``heard``: how many sales each store had by slot. ``woken`` are stores by earlier bucket that
    turn out to have been alive in it: by an hour's first sale of their day, or by a revision.
    """

    bucket: int
    cells: dict[Key, Cell]
    revisions: dict[int, dict[Key, Cell]]
    alive: set[str]
    gaps: Mapping[int, set[Key]] = field(default_factory=dict)
    heard: dict[str, list[int]] = field(default_factory=dict)
    woken: Mapping[int, set[str]] = field(default_factory=dict)


class Orphan(NamedTuple):
    """A revision of a series that had no row when it came, and where it is in the log."""

    store: str
    product: str
    identity: bytes
    offset: int
    item: int
    source: str


class Window:
    """The part of a shard that time passes through. Mutable; all of it is state.

    Parameters
    ----------
    settings, calendar
        Of the deployment.
    partition
        The shard's; items of stores that hash elsewhere are refused.
    listed
        Whether a series has a row already.
    reach
        Buckets that anything remembers; a longer silence is skipped, not closed one by one.
    """

    def __init__(
        self,
        settings: Settings,
        calendar: Calendar,
        partition: int,
        listed: Callable[[Key], bool],
        reach: int,
    ) -> None:
        self.settings = settings
        self.calendar = calendar
        self.early = early_slots(calendar)
        self.partition = partition
        self.listed = listed
        self.reach = reach
        self.watermark_us = _NEVER
        self.open_from = _NEVER  # index of the first bucket that is not closed
        self.open: dict[int, Open] = {}
        self.revisions: dict[int, dict[Key, Cell]] = {}
        self.orphans: list[Orphan] = []
        self.seen: dict[bytes, int] = {}
        self.seen_in: dict[int, dict[str, list[bytes]]] = {}  # by source
        self.again: dict[int, dict[str, int]] = {}  # repeated or conflicting, by source
        self.alive = Alive(calendar)
        self.gaps = Gaps()
        self.counts: dict[str, list[int]] = {}
        self.refused: dict[str, int] = {}
        self.live = False
        self.next_end_us = _NEVER
        #: What is passed over; whoever changes it while a bucket closes, or while an event is
        #: applied, is heeded at once.
        self.passes: Passes | None = None
        self._homes: set[str] = set()  # stores known to be this partition's

    # -- folding ---------------------------------------------------------------------------

    def fold(
        self,
        records: Iterable[Record],
        *,
        close: Callable[[Closed], Sequence[Key]],
        apply: Callable[[AnyEvent, Record], Refusal | bool],
        passes: Passes | None = None,
        judge: Judge | None = None,
        still: bool = False,
    ) -> list[Letter]:
        """Fold records in order.

        Parameters
        ----------
        close
            Called for each bucket that closes; returns the series it refused to list.
        apply
            Called for plans, products, availability and markers; ``False``: seen before.
        passes
            Whether an event, an item of its record, is passed over: as if it had never come, but
            for its count and the gap that it leaves.
        judge
            Called before a bucket closes; what the sources that it names have brought to open
            buckets is taken out, and leaves gaps.
        still
            Time stands: nothing moves the watermark.

        Returns
        -------
        Items to keep aside, in order.
        """
        letters: list[Letter] = []
        future_us = self.settings.max_future_s * MICRO
        grace_us = self.settings.grace_s * MICRO
        live_us = self.settings.live_edge_s * MICRO
        homes = self._homes
        self.passes = passes
        for record in records:
            append_us = record.append_us
            latest = append_us + future_us
            for item, event in enumerate(decode(record.value)):
                kind = type(event)
                if kind is Refusal:
                    self._refuse("", record.offset, item, event, letters)  # type: ignore[arg-type]
                    continue
                assert not isinstance(event, Refusal)
                at = round(event.time.timestamp() * 1e6)
                if passes is not None and (passed := passes(event, record, item)) is not None:
                    # Judged before anything else, so that it does not move time either.
                    self._pass(event, at, latest, passed)
                    continue
                refusal = None
                if not (event.store in homes and FIRST_US <= at <= latest and at <= LAST_US):
                    refusal = self._misplaced(event, at, latest)
                if refusal is None:
                    if kind is Sale:
                        refusal = self._sale(event, at, record.offset, item, letters)  # type: ignore[arg-type]
                    elif kind is Void:
                        refusal = self._void(event, at, record.offset, item, letters)  # type: ignore[arg-type]
                    else:
                        refusal = self._other(event, at, record, apply)
                        passes = self.passes
                if refusal is not None:
                    self._refuse(event.source, record.offset, item, refusal, letters)
                    continue
                if kind not in _MOVES_TIME or still:
                    continue
                if at > append_us - live_us:
                    self.live = True
                mark = (at if at < append_us else append_us) - grace_us
                if mark > self.watermark_us:
                    self.watermark_us = mark
                    if mark >= self.next_end_us:
                        self._advance(close, judge, letters)
                        passes = self.passes
        return letters

    def _pass(self, event: AnyEvent, at: int, latest: int, passed: Passed) -> None:
        """Count an item that is passed over, and note what its bucket has lost by it."""
        if passed.outcome is not None:
            self._count(event.source, passed.outcome)
        if not passed.gap or not isinstance(event, Sale):
            return
        if self._misplaced(event, at, latest) is None:
            self.miss(event.store, event.product, at, feed=passed.feed)

    def miss(self, store: str, product: str, at_us: int, *, feed: bool = False) -> None:
        """Note that a series lacks sales at a time; a bucket that is closed stays as it is.

        ``feed``: so does the rest of the store.
        """
        bucket = self.calendar.index(at_us)
        if bucket >= self.open_from:
            self.gaps.note(bucket, store, product, feed)

    def _misplaced(self, event: AnyEvent, at: int, latest: int) -> Refusal | None:
        """Judge an event's store and time, before it can move anything."""
        store = event.store
        if store == "*":
            if not isinstance(event, _EVERYWHERE):
                return Refusal("misrouted", "`*` is not a store that sells", "store")
        elif store not in self._homes:
            if partition_of(store, self.settings.partitions) != self.partition:
                return Refusal("misrouted", f"store `{store}` is another partition's", "store")
            if len(self._homes) >= MAX_HOMES:
                self._homes.clear()
            self._homes.add(store)
        if not FIRST_US <= at <= LAST_US:
            return Refusal("out_of_range", "times are between 1990 and 2200", "time")
        if at > latest and isinstance(event, Sale | Void | Complete):
            return Refusal("future_dated", "`time` is ahead of the log's clock", "time")
        return None

    def _sale(
        self, event: Sale, at: int, offset: int, item: int, letters: list[Letter]
    ) -> Refusal | None:
        """Fold a sale. Nearly all events come this way: calls are spared, at a price in lines."""
        bucket, slot = self.calendar.place(at)
        source, store, product = event.source, event.store, event.product
        if bucket < self.open_from - self.settings.revise_buckets:
            self._late(source, offset, item, letters)
            return None
        quantity, price = event.quantity, event.price
        units = round(quantity * MICRO)
        # The same text as of ``content_of``.
        text = (
            f"sale{len(store)}:{store}{product}\n{at},{units},"
            f"{'' if price is None else round(price * MICRO)}"
        )
        content = xxh3_64_intdigest(text.encode()) & CONTENT
        identity = xxh3_128_digest(f"{len(source)}:{source}{event.id}".encode())
        known = self.seen.get(identity)
        if known is not None:
            return self._again(identity, known, content, source, bucket)
        key = (store, product)
        if bucket < self.open_from:
            self._count(source, REVISED)
            self._remember(identity, content | _REVISED, bucket, source)
            add(self.revisions.setdefault(bucket, {}), key, amounts_of(quantity, price), 1)
            if not self.listed(key):
                self.orphans.append(Orphan(store, product, identity, offset, item, source))
            return None
        self.seen[identity] = content | _LIVE
        line = self.counts.get(source)
        if line is None:
            self._count(source, LEARNED)
        else:
            line[LEARNED] += 1
        found = self.open.get(bucket)
        if found is None:
            found = self.open[bucket] = Open()
        mine = found.by.get(source)
        if mine is None:
            mine = self._part(found, bucket, source)
        mine.identities.append(identity)
        cell = mine.cells.get(key)
        if cell is None:
            cell = mine.cells[key] = [0, 0, 0, 0, 0, 0]
            if not self.listed(key):
                found.places.setdefault(key, {})
        heard = mine.heard.get(store)
        if heard is None:
            heard = mine.heard[store] = [0] * self.calendar.slots
        heard[slot] += 1
        if units < 0:
            cell[1] -= units
        else:
            cell[0] += units
            if slot < self.early:
                cell[5] += units
            if price is not None and units:
                cell[2] += round(quantity * price * MICRO)
                cell[3] += units
        cell[4] += 1
        if found.places and key in found.places:
            found.places[key][identity] = (offset, item, source)
        return None

    def _part(self, found: Open, bucket: int, source: str) -> Brought:
        """A source's part of an open bucket."""
        source = self._name(source)
        mine = found.by.get(source)
        if mine is None:
            there = self.seen_in.setdefault(bucket, {})
            mine = found.by[source] = Brought(identities=there.setdefault(source, []))
        return mine

    def _again(
        self, identity: bytes, known: int, content: int, source: str, bucket: int
    ) -> Refusal | None:
        """Fold a sale whose identity is known."""
        if bucket >= self.open_from and known & _STATE != _TOMBSTONE:
            there, name = self.again.setdefault(bucket, {}), self._name(source)
            there[name] = there.get(name, 0) + 1
        if known & CONTENT != content:
            return Refusal("id_conflict", "same source and id, other content", "id")
        if known & _STATE == _TOMBSTONE:
            self.seen[identity] = content | _RETRACTED
            self._count(source, VOID)
        else:
            self._count(source, DUPLICATE)
        return None

    def _void(
        self, event: Void, at: int, offset: int, item: int, letters: list[Letter]
    ) -> Refusal | None:
        bucket, slot = self.calendar.place(at)
        if bucket < self.open_from - self.settings.revise_buckets:
            self._late(event.source, offset, item, letters)
            return None
        content = content_hash(event, at)
        identity = identify(event.source, event.id)
        known = self.seen.get(identity)
        if known is not None:
            if known & CONTENT != content:
                return Refusal("id_conflict", "same source and id, other content", "id")
            self._count(event.source, DUPLICATE)
            return None
        sale_content = content_of(
            "sale", event.store, event.product, at, event.quantity, event.price
        )
        sale = identify(event.source, event.voids)
        known = self.seen.get(sale)
        if known is not None and known & CONTENT != sale_content:
            return Refusal("void_mismatch", f"sale `{event.voids}` has other fields", "voids")
        self._remember(identity, content | _RETRACTED, bucket, event.source)
        if known is None:
            self._remember(sale, sale_content | _TOMBSTONE, bucket, event.source)
            self._count(event.source, VOID)
            return None
        state = known & _STATE
        if state in (_TOMBSTONE, _RETRACTED):
            self._count(event.source, DUPLICATE)
            return None
        self.seen[sale] = sale_content | _RETRACTED
        self._count(event.source, LEARNED if state == _LIVE else REVISED, -1)
        self._count(event.source, VOID, 2)
        key = (event.store, event.product)
        amounts = amounts_of(event.quantity, event.price)
        if bucket >= self.open_from:
            found = self.open[bucket]
            mine = self._part(found, bucket, event.source)
            add(mine.cells, key, amounts, -1, early=slot < self.early)
            heard = mine.heard[event.store]
            heard[slot] -= 1
            if not any(heard):
                del mine.heard[event.store]
            if key in found.places:
                found.places[key].pop(sale, None)
                if all(key not in one.cells for one in found.by.values()):
                    del found.places[key]
            if not mine.cells:
                self._drop(bucket, event.source)
        else:
            cells = self.revisions.setdefault(bucket, {})
            add(cells, key, amounts, -1)
            if not cells:
                del self.revisions[bucket]
        return None

    def _other(
        self,
        event: AnyEvent,
        at: int,
        record: Record,
        apply: Callable[[AnyEvent, Record], Refusal | bool],
    ) -> Refusal | None:
        fresh: Refusal | bool = True
        if isinstance(event, Complete):
            self.alive.complete(event.store, at)
        elif not isinstance(event, Tick):
            fresh = apply(event, record)
            if isinstance(fresh, Refusal):
                return fresh
        self._count(event.source, APPLIED if fresh else DUPLICATE)
        return None

    # -- closing ---------------------------------------------------------------------------

    def _advance(
        self, close: Callable[[Closed], Sequence[Key]], judge: Judge | None, letters: list[Letter]
    ) -> None:
        """Close every bucket that ends at or before the watermark, oldest first."""
        until = self.calendar.index(self.watermark_us)
        if self.open_from == _NEVER:
            self.open_from = min([until, *self.open])
        while self.open_from < until:
            silent = until - self.open_from > self.reach and not self.revisions
            if silent and self.alive.settled(self.open_from):
                # Silence longer than anything remembers: go to where something is known.
                self.open_from = max(self.open_from, min([until - self.reach, *self.open]))
            bucket = self.open_from
            if judge is not None:
                for source in judge(bucket, self.open.get(bucket) or Open()):
                    self._withdraw(source)
            here = self.open.pop(bucket, None) or Open()
            self.again.pop(bucket, None)
            cells = here.cells
            revisions, self.revisions = self.revisions, {}
            alive, woken = self.alive.close(bucket, cells, revisions, self.gaps)
            refused = close(
                Closed(bucket, cells, revisions, alive, self.gaps.series, here.heard, woken)
            )
            self._settle(here, refused, letters)
            self.open_from = bucket + 1
            self._forget(self.open_from - self.settings.revise_buckets)
        self.next_end_us = self.calendar.span(self.open_from)[1]

    def _settle(self, here: Open, refused: Sequence[Key], letters: list[Letter]) -> None:
        """Say what became of sales whose series was not listed when they came."""
        gone: set[bytes] = set()
        for key in refused:
            places = here.places.get(key, {})
            gone.update(places)
            for offset, item, source in sorted(places.values()):
                self._past_max_series(key, source, LEARNED, offset, item, letters)
        for one in self.orphans:
            key, known = (one.store, one.product), self.seen.get(one.identity)
            if known is not None and known & _STATE == _REVISED and not self.listed(key):
                gone.add(one.identity)
                self._past_max_series(key, one.source, REVISED, one.offset, one.item, letters)
        self.orphans = []
        if not gone:
            return
        for identity in gone:
            del self.seen[identity]
        for by in self.seen_in.values():
            for there in by.values():
                there[:] = [one for one in there if one not in gone]

    def _past_max_series(
        self, key: Key, source: str, counted: int, offset: int, item: int, letters: list[Letter]
    ) -> None:
        self._count(source, counted, -1)
        refusal = Refusal("past_max_series", f"series {key[0]}/{key[1]}", "product")
        self._refuse(source, offset, item, refusal, letters)

    def _drop(self, bucket: int, source: str) -> Brought | None:
        """Take a source's part out of an open bucket; what is empty then is no longer there."""
        found = self.open[bucket]
        mine = found.take_out(self._name(source))
        if not found.by:
            del self.open[bucket]
        return mine

    def _withdraw(self, source: str) -> None:
        """Make all that a source brought to open buckets as if it had been passed over."""
        for bucket in sorted(self.open):
            mine = self._drop(bucket, source)
            if mine is not None:
                self._count(source, LEARNED, -mine.sales)
                self._count(source, QUARANTINED, mine.sales)
                for store, product in mine.cells:
                    self.gaps.note(bucket, store, product, feed=True)
        for bucket, by in self.seen_in.items():
            if bucket >= self.open_from:
                for identity in by.pop(source, ()):
                    del self.seen[identity]
        for there in self.again.values():
            there.pop(source, None)

    def _forget(self, floor: int) -> None:
        """Drop what is of no use any more: identities, gaps, stores long silent."""
        self.gaps.forget(self.calendar.dawn(floor))
        self.alive.forget(self.open_from - self.reach)
        for bucket in [b for b in self.seen_in if b < floor]:
            for there in self.seen_in.pop(bucket).values():
                for identity in there:
                    del self.seen[identity]

    # -- keeping ---------------------------------------------------------------------------

    def _remember(self, identity: bytes, entry: int, bucket: int, source: str) -> None:
        self.seen[identity] = entry
        self.seen_in.setdefault(bucket, {}).setdefault(self._name(source), []).append(identity)

    def _name(self, source: str) -> str:
        """What a source is counted as."""
        if source not in self.counts:
            self._count(source, LEARNED, 0)
        return source if source in self.counts else ALL_SOURCES

    def _count(self, source: str, outcome: int, by: int = 1) -> None:
        line = self.counts.get(source)
        if line is None:
            if len(self.counts) >= MAX_SOURCES:
                source = ALL_SOURCES
            line = self.counts.setdefault(source, [0] * len(OUTCOMES))
        line[outcome] += by

    def _late(self, source: str, offset: int, item: int, letters: list[Letter]) -> None:
        self._count(source, LATE)
        letters.append(Letter(offset, item, "late", "its bucket could no longer be revised"))

    def _refuse(
        self, source: str, offset: int, item: int, refusal: Refusal, letters: list[Letter]
    ) -> None:
        self._count(source, REFUSED)
        self.refused[refusal.reason] = self.refused.get(refusal.reason, 0) + 1
        letters.append(Letter(offset, item, refusal.reason, refusal.detail))


_MOVES_TIME = frozenset((Sale, Void, Complete, Tick))
_EVERYWHERE = (Plan, Product, Tick, Marker)


def early_slots(calendar: Calendar) -> int:
    """How many of a bucket's slots are early."""
    return round(EARLY * calendar.slots)
