"""The oracle: a plain, slow, dictionary-based reading of one partition's log.

It shares no code with the fold: of the project it uses ``decode``, the routing of stores to
partitions and the settings, nothing of ``learner``, ``stream.window`` or ``stream.buckets``.
Buckets are datetimes and ``zoneinfo``; sums are Python's integers, in millionths. Every sale is
kept as an object for good, and whatever is asked is counted over again.

The rules, in the order in which they meet an item:

1.  **Decoding.** What ``decode`` refuses counts ``refused``, source ``""``.
2.  **Routing.** An event that names a store which does not hash to the partition is ``misrouted``,
    whatever else is wrong with it. Store ``*`` is at home everywhere, but only for products,
    plans, ticks and markers.
3.  **Range.** A ``time`` before 1990 or after 2200 (the bounds themselves are good) is
    ``out_of_range``. Then: a sale, void or complete more than ``max_future_s`` ahead of its
    record's append time is ``future_dated``.
4.  **Buckets** are numbered spans ``[start, end)``. Hours are absolute spans of 3600 s, aligned
    to the zone's offset of 2020-01-01. Days begin at local ``day_start`` (where that time does
    not exist, as far after midnight as the old offset puts it; where it exists twice, at the
    first); a time belongs to the span that holds it, weeks are seven days from ``week_start``.
5.  **Lateness.** ``open_from`` is the bucket that holds the watermark. A sale or void of a bucket
    before ``open_from - revise_buckets`` is ``late``; it is remembered nowhere.
6.  **Identity** is (source, id), shared by sales and voids. Same content: ``duplicate``; other
    content: refused ``id_conflict``. Content is type, store, product, time, quantity and price
    in millionths; of a void also what it voids; never ``x``. A void that is refused, and any
    other refused item, is not remembered; a void that counts ``duplicate`` because another
    one was first is. Identities are forgotten with their bucket's last chance of a revision.
7.  **Sales.** In an open bucket ``learned``, in a closed one ``revised``. One that meets a
    tombstone of equal content counts ``void`` and adds nothing; of other content it is an
    ``id_conflict``.
8.  **Voids.** The target is known with another content than the void repeats: refused
    ``void_mismatch``. It is a live sale: its quantities come out again, its outcome counts one
    less, ``void`` two more. It is unknown: a tombstone. It has been retracted, or has a
    tombstone, already: ``duplicate``.
9.  **The rest** counts ``applied``, except a plan whose (source, id, revision) and content were
    seen before: ``duplicate``. Of availabilities that touch a bucket the last to come counts;
    the same one again is no new one.
10. **The watermark** moves after the item was judged: the running maximum of
    min(event time, append time) over sales, voids, completes and ticks that were not refused,
    minus ``grace_s``. Then every bucket whose end it has reached closes, in order.

A bucket ``b`` closes like this:

a.  **Listing.** Series with a live sale in ``b`` (a return, or one of quantity zero, is a sale),
    or a live one revised since the last close, are listed from ``b`` on, in key order, until there
    are ``max_series``. Of the others, the live sales of ``b``, and those revised, turn to refused
    ``past_max_series`` and are forgotten.
b.  **Facts** of every listed series: what its live sales sum to, and ``observed``, if its store's
    feed was alive: a sale of the same business day, that was live at the close of its bucket up
    to ``b``, or revised and live at this one (one that rule a. refused shows life too); or a
    complete up to ``b``'s end at least. The business day of an hour is the one in which the hour
    starts; days and weeks are their own. Not alive: ``missing``, all zero. Observed, but of
    the availability known now that touches ``b`` the last by (time, source, id) says no:
    ``censored``.
c.  **Waking.** A store that is alive by rule b. for the first time on its business day, or of
    which a sale of an earlier one is revised and live, was alive on all of that day: what is
    ``missing`` of its series in that day's closed buckets, from each series' first on, turns to
    ``observed``, or ``censored`` by the stock-outs known now.
d.  **Revisions** since the last close amend the facts of listed series: a sale revised, and not
    retracted before now, adds its quantities and turns ``missing`` to ``observed``; if the series
    was listed later than that bucket, its facts now begin there, ``missing`` in between. A sale
    retracted after its close is taken out; the status stays. Where several buckets close at once
    the first takes them.

Leaves out: exclusions, quarantines and markers' operations; closures and listings by plan or
product, which are not in the facts' status here; the panel's bounded memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from stream.event import (
    AnyEvent,
    Availability,
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
from stream.log import Record, partition_of
from stream.settings import Settings

Key = tuple[str, str]
Identity = tuple[str, str]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST = datetime(1990, 1, 1, tzinfo=UTC)
LAST = datetime(2200, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Fact(NamedTuple):
    """A closed bucket of a series; quantities in millionths of a unit, revenue of the currency."""

    gross: int
    returns: int
    revenue: int
    status: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a log says.

    ``counts`` are items by (source, outcome), none of them zero; ``refusals`` are
    (offset, item, reason), ascending, late ones included; ``facts`` are closed buckets of listed
    series by UTC start, from the series' first on; ``open_sold`` is the gross quantity of open
    buckets where it is not zero, in millionths; ``watermark`` is in UTC.
    """

    counts: dict[tuple[str, str], int]
    refusals: list[tuple[int, int, str]]
    facts: dict[Key, dict[datetime, Fact]]
    open_sold: dict[Key, dict[datetime, int]]
    watermark: datetime | None

    def total(self, outcome: str) -> int:
        """Items of an outcome, over all sources."""
        return sum(n for (_, name), n in self.counts.items() if name == outcome)


# Buckets


def _day_start(settings: Settings, day: int) -> datetime:
    """UTC start of the business day with this proleptic ordinal."""
    hours, minutes = settings.day_start.split(":")
    local = datetime.combine(date.fromordinal(day), time(int(hours), int(minutes)))
    return local.replace(tzinfo=ZoneInfo(settings.timezone)).astimezone(UTC)


@lru_cache(maxsize=100_000)
def day_of(settings: Settings, moment: datetime) -> int:
    """Ordinal of the business day that holds a moment."""
    day = moment.astimezone(ZoneInfo(settings.timezone)).date().toordinal()
    while moment < _day_start(settings, day):
        day -= 1
    while moment >= _day_start(settings, day + 1):
        day += 1
    return day


def _hour_shift(settings: Settings) -> timedelta:
    """How far the zone's whole hours are from those of UTC."""
    offset = datetime(2020, 1, 1, tzinfo=ZoneInfo(settings.timezone)).utcoffset()
    assert offset is not None
    return offset % HOUR


def bucket_of(settings: Settings, moment: datetime) -> int:
    """Number of the bucket that holds a moment."""
    if settings.bucket == "hour":
        return (moment - EPOCH + _hour_shift(settings)) // HOUR
    day = day_of(settings, moment)
    if settings.bucket == "day":
        return day
    return (day - 1 - WEEKDAYS.index(settings.week_start)) // 7


@lru_cache(maxsize=100_000)
def bucket_start(settings: Settings, bucket: int) -> datetime:
    """UTC start of a bucket; its end is the start of the next."""
    if settings.bucket == "hour":
        return EPOCH + bucket * HOUR - _hour_shift(settings)
    if settings.bucket == "day":
        return _day_start(settings, bucket)
    return _day_start(settings, bucket * 7 + 1 + WEEKDAYS.index(settings.week_start))


def _business_day(settings: Settings, bucket: int) -> int:
    """The business day of a bucket: of an hour the day it starts in, else the bucket itself."""
    if settings.bucket == "hour":
        return day_of(settings, bucket_start(settings, bucket))
    return bucket


# What is remembered


@dataclass(eq=False, kw_only=True)
class _Sold:
    """An accepted sale; it stays live until it is retracted."""

    source: str
    key: Key
    bucket: int
    day: int
    gross: int
    returns: int
    revenue: int
    outcome: str
    offset: int
    item: int
    live: bool = True
    in_facts: bool = False


@dataclass(eq=False, kw_only=True)
class _Known:
    """What an identity stands for: a live sale, an awaited or retracted one, or a void."""

    bucket: int
    content: tuple[Any, ...]
    state: str
    sold: _Sold | None = None


@dataclass(kw_only=True)
class _Oracle:
    settings: Settings
    partition: int
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    refusals: list[tuple[int, int, str]] = field(default_factory=list)
    sold: list[_Sold] = field(default_factory=list)
    known: dict[Identity, _Known] = field(default_factory=dict)
    plans: set[Any] = field(default_factory=set)
    completes: list[tuple[str, datetime]] = field(default_factory=list)
    stock_outs: set[Availability] = field(default_factory=set)
    listed: dict[Key, int] = field(default_factory=dict)
    facts: dict[Key, dict[int, Fact]] = field(default_factory=dict)
    added: list[_Sold] = field(default_factory=list)
    taken_out: list[_Sold] = field(default_factory=list)
    lively: set[tuple[str, int]] = field(default_factory=set)  # stores by business day
    watermark: datetime | None = None
    open_from: int | None = None


def read(settings: Settings, records: Sequence[Record]) -> Reading:
    """Read the records of one partition, in order.

    Parameters
    ----------
    settings
        Those of the fold; ``partitions`` decides what is misrouted.
    records
        All of one partition; append times in µs since 1970 UTC, not decreasing.
    """
    assert len({record.partition for record in records}) <= 1, "one partition at a time"
    oracle = _Oracle(settings=settings, partition=records[0].partition if records else 0)
    for record in records:
        append = EPOCH + timedelta(microseconds=record.append_us)
        for item, event in enumerate(decode(record.value)):
            _item(oracle, event, append, record.offset, item)
    return _reading(oracle)


# An item


def _item(o: _Oracle, event: AnyEvent | Refusal, append: datetime, offset: int, item: int) -> None:
    if isinstance(event, Refusal):
        o.counts["", "refused"] += 1
        o.refusals.append((offset, item, event.reason))
        return
    outcome, reason = _judge(o, event, append, offset, item)
    o.counts[event.source, outcome] += 1
    if outcome in ("refused", "late"):
        o.refusals.append((offset, item, reason))
    if outcome != "refused" and isinstance(event, Sale | Void | Complete | Tick):
        mark = min(event.time.astimezone(UTC), append) - timedelta(seconds=o.settings.grace_s)
        if o.watermark is None or mark > o.watermark:
            o.watermark = mark
            _advance(o)


def _judge(
    o: _Oracle, event: AnyEvent, append: datetime, offset: int, item: int
) -> tuple[str, str]:
    """Outcome of a decoded item, and the reason if it is refused or late."""
    if event.store == "*":
        if not isinstance(event, Product | Plan | Tick | Marker):
            return "refused", "misrouted"
    elif partition_of(event.store, o.settings.partitions) != o.partition:
        return "refused", "misrouted"
    if event.time < FIRST or event.time > LAST:
        return "refused", "out_of_range"
    ahead = event.time - append
    if isinstance(event, Sale | Void | Complete) and ahead > timedelta(
        seconds=o.settings.max_future_s
    ):
        return "refused", "future_dated"
    if isinstance(event, Sale | Void):
        bucket = bucket_of(o.settings, event.time.astimezone(UTC))
        if o.open_from is not None and bucket < o.open_from - o.settings.revise_buckets:
            return "late", "late"
        if isinstance(event, Sale):
            return _sale(o, event, bucket, offset, item)
        return _void(o, event, bucket)
    if isinstance(event, Plan):
        seen = (event.source, event.id, event.revision, _plan_content(event))
        if seen in o.plans:
            return "duplicate", ""
        o.plans.add(seen)
    if isinstance(event, Complete):
        o.completes.append((event.store, event.time))
    if isinstance(event, Availability):
        o.stock_outs.add(msgspec.structs.replace(event, x=None))
    return "applied", ""


def _content(event: Sale | Void) -> tuple[Any, ...]:
    """What a sale says, or the sale that a void is about."""
    price = None if event.price is None else round(event.price * 1e6)
    quantity = round(event.quantity * 1e6)
    moment = event.time.astimezone(UTC)
    return ("sale", event.store, event.product, moment, quantity, price)


def _plan_content(plan: Plan) -> tuple[Any, ...]:
    """What a plan says; aware datetimes are equal where they are the same moment."""
    covariates = None if plan.covariates is None else frozenset(plan.covariates.items())
    return (plan.time, plan.start, plan.end, plan.store, plan.product, plan.category, plan.price,
            plan.promotion, plan.closed, covariates, plan.withdrawn)  # fmt: skip


def _sale(o: _Oracle, sale: Sale, bucket: int, offset: int, item: int) -> tuple[str, str]:
    identity, content = (sale.source, sale.id), _content(sale)
    known = o.known.get(identity)
    if known is not None and known.content != content:
        return "refused", "id_conflict"
    if known is not None and known.state == "awaited":
        known.state = "retracted"
        return "void", ""
    if known is not None:
        return "duplicate", ""
    micro = round(sale.quantity * 1e6)
    priced = sale.quantity > 0 and sale.price is not None
    sold = _Sold(
        source=sale.source,
        key=(sale.store, sale.product),
        bucket=bucket,
        day=_business_day(o.settings, bucket),
        gross=max(micro, 0),
        returns=max(-micro, 0),
        revenue=round(sale.quantity * sale.price * 1e6) if priced and sale.price else 0,
        outcome="revised" if o.open_from is not None and bucket < o.open_from else "learned",
        offset=offset,
        item=item,
    )
    o.sold.append(sold)
    o.known[identity] = _Known(bucket=bucket, content=content, state="live", sold=sold)
    if sold.outcome == "revised":
        o.added.append(sold)
    return sold.outcome, ""


def _void(o: _Oracle, void: Void, bucket: int) -> tuple[str, str]:
    identity, sale_content = (void.source, void.id), _content(void)
    content = ("void", void.voids, *sale_content[1:])
    known = o.known.get(identity)
    if known is not None:
        return ("duplicate", "") if known.content == content else ("refused", "id_conflict")
    me = _Known(bucket=bucket, content=content, state="void")
    target = o.known.get((void.source, void.voids))
    if target is None:
        o.known[identity] = me
        o.known[void.source, void.voids] = _Known(
            bucket=bucket, content=sale_content, state="awaited"
        )
        return "void", ""
    if target.content != sale_content:
        return "refused", "void_mismatch"
    if target.state in ("retracted", "awaited"):
        o.known[identity] = me
        return "duplicate", ""
    o.known[identity] = me
    target.state = "retracted"
    sold = target.sold
    assert sold is not None
    sold.live = False
    o.counts[sold.source, sold.outcome] -= 1
    o.counts[sold.source, "void"] += 1
    if sold.in_facts:
        o.taken_out.append(sold)
    return "void", ""


# Closing


def _advance(o: _Oracle) -> None:
    """Close every bucket whose end the watermark has reached, and forget old identities."""
    assert o.watermark is not None
    before, o.open_from = o.open_from, bucket_of(o.settings, o.watermark)
    if before is not None:
        for bucket in range(before, o.open_from):
            _close(o, bucket)
    remembered_from = o.open_from - o.settings.revise_buckets
    o.known = {i: known for i, known in o.known.items() if known.bucket >= remembered_from}


def _close(o: _Oracle, bucket: int) -> None:
    live = [s for s in o.sold if s.live and s.bucket == bucket and s.outcome == "learned"]
    revised = [s for s in o.added if s.live]
    day = _business_day(o.settings, bucket)
    woken = {(s.key[0], s.day) for s in revised}
    woken |= {(s.key[0], day) for s in live} - o.lively
    o.lively |= {(s.key[0], s.day) for s in live + revised}
    # a. listing, in key order
    for key in sorted({s.key for s in live + revised} - o.listed.keys()):
        if len(o.listed) < o.settings.max_series:
            o.listed[key] = bucket
            o.facts[key] = {}
            continue
        for sold in [s for s in live + revised if s.key == key]:
            o.counts[sold.source, sold.outcome] -= 1
            sold.outcome = "past_max_series"
            o.counts[sold.source, "refused"] += 1
            o.refusals.append((sold.offset, sold.item, "past_max_series"))
            o.known = {i: known for i, known in o.known.items() if known.sold is not sold}
    # b. facts
    end = bucket_start(o.settings, bucket + 1)
    alive = {name for name, moment in o.completes if moment >= end} | {
        store for store, on in o.lively if on == day
    }
    for key in o.listed:
        mine = [s for s in live if s.key == key]
        for sold in mine:
            sold.in_facts = True
        o.facts[key][bucket] = Fact(
            sum(s.gross for s in mine),
            sum(s.returns for s in mine),
            sum(s.revenue for s in mine),
            _status(o, key, bucket) if key[0] in alive else "missing",
        )
    # c. waking
    for key, facts in o.facts.items():
        for earlier, fact in facts.items():
            there = (key[0], _business_day(o.settings, earlier))
            if earlier < bucket and fact.status == "missing" and there in woken:
                facts[earlier] = Fact(0, 0, 0, _status(o, key, earlier))
    # d. revisions
    for sold in revised:
        if sold.key in o.listed:
            sold.in_facts = True
            _amend(o, sold, 1)
    for sold in o.taken_out:
        _amend(o, sold, -1)
    o.added, o.taken_out = [], []


def _status(o: _Oracle, key: Key, bucket: int) -> str:
    """Status of a bucket of a series whose store's feed was alive."""
    start, end = bucket_start(o.settings, bucket), bucket_start(o.settings, bucket + 1)
    available = True
    for one in sorted(o.stock_outs, key=lambda one: (one.time, one.source, one.id)):
        if (one.store, one.product) == key and one.start < end and one.end > start:
            available = one.available
    return "observed" if available else "censored"


def _amend(o: _Oracle, sold: _Sold, sign: int) -> None:
    facts = o.facts[sold.key]
    for bucket in range(sold.bucket, min(facts)):
        facts[bucket] = Fact(0, 0, 0, "missing")
    old = facts[sold.bucket]
    facts[sold.bucket] = Fact(
        old.gross + sign * sold.gross,
        old.returns + sign * sold.returns,
        old.revenue + sign * sold.revenue,
        "observed" if sign > 0 and old.status == "missing" else old.status,
    )


def _reading(o: _Oracle) -> Reading:
    open_sold: dict[Key, dict[datetime, int]] = {}
    for sold in o.sold:
        is_open = o.open_from is None or sold.bucket >= o.open_from
        if sold.live and is_open and sold.gross:
            of_key = open_sold.setdefault(sold.key, {})
            start = bucket_start(o.settings, sold.bucket)
            of_key[start] = of_key.get(start, 0) + sold.gross
    return Reading(
        counts={name: n for name, n in o.counts.items() if n},
        refusals=sorted(o.refusals),
        facts={
            key: {bucket_start(o.settings, b): facts[b] for b in sorted(facts)}
            for key, facts in sorted(o.facts.items())
        },
        open_sold=open_sold,
        watermark=o.watermark,
    )
