"""Hypothesis strategies: small worlds of sales, the orders they arrive in, and hostile bytes.

A ``World`` is a deployment as one partition sees it: settings, and a few stores that all hash
to that partition. ``events`` draws what happens in it; ``arrivals`` an order in which it comes;
``packed`` the records that carry it. ``logs`` does all three, and lets hostile items in.

Sizes are small on purpose: what breaks a fold breaks it with three sales.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from stream.event import (
    AnyEvent,
    Availability,
    Complete,
    Plan,
    Product,
    Sale,
    Tick,
    Void,
    encode,
)
from stream.log import Record, partition_of
from stream.settings import Settings

Clock = Literal["constant", "increasing"]

#: First days of worlds by zone: clocks change within a week of each where the zone has that.
FIRST_DAYS = {
    "UTC": ("2024-02-27",),
    "America/New_York": ("2024-03-08", "2024-11-01"),
    "Australia/Adelaide": ("2024-04-05", "2024-10-04"),
    "Asia/Kolkata": ("2024-12-29",),
    "America/Sao_Paulo": ("2018-02-15", "2018-11-02"),
}
PARTITIONS = 4
_NAMES = (
    *("7", "12", "330", "406", "Köln", "store-1", "store-2", "北", "a b", "x" * 128),
    *(f"s{i}" for i in range(60)),
)
_TYPES = ("sale", "void", "plan", "availability", "complete", "product", "tick")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class World:
    """What one partition of a deployment sees over [start, end), in UTC."""

    settings: Settings
    partition: int
    stores: tuple[str, ...]
    products: tuple[str, ...]
    sources: tuple[str, ...]
    start: datetime
    end: datetime


def microseconds(moment: datetime) -> int:
    """µs since 1970 UTC, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


@st.composite
def worlds(
    draw: DrawFn,
    *,
    buckets: Sequence[Literal["hour", "day", "week"]] = ("hour", "day", "week"),
    max_series: Sequence[int] = (1_000_000,),
) -> World:
    """Two to four stores of one partition, two to four products, three to eight days.

    Parameters
    ----------
    buckets, max_series
        The values of these settings to choose from.
    """
    zone = draw(st.sampled_from(sorted(FIRST_DAYS)))
    bucket = draw(st.sampled_from(list(buckets)))
    settings = Settings(
        partitions=PARTITIONS,
        timezone=zone,
        bucket=bucket,
        day_start=draw(st.sampled_from(["00:00", "04:00"])),
        week_start=draw(st.sampled_from(["monday", "wednesday", "sunday"])),
        grace_s=draw(st.sampled_from([0, 3600, 7200, 100_000])),
        revise_buckets=draw(st.integers(0, 3)),
        max_future_s=draw(st.sampled_from([3600, 86400])),
        max_series=draw(st.sampled_from(list(max_series))),
    )
    partition = draw(st.integers(0, PARTITIONS - 1))
    here = [name for name in _NAMES if partition_of(name, PARTITIONS) == partition]
    first = datetime.fromisoformat(draw(st.sampled_from(FIRST_DAYS[zone])))
    start = datetime.combine(first, time(), ZoneInfo(zone)).astimezone(UTC)
    return World(
        settings=settings,
        partition=partition,
        stores=tuple(here[: draw(st.integers(2, 4))]),
        products=("milk", "bread", "Öl", "p4")[: draw(st.integers(2, 4))],
        sources=("till", "web")[: draw(st.integers(1, 2))],
        start=start,
        end=start + timedelta(days=draw(st.integers(3, 8))),
    )


def times(world: World) -> SearchStrategy[datetime]:
    """Moments of a world: any second, and whole hours with the microseconds beside them."""
    seconds = int((world.end - world.start).total_seconds())
    anywhere = st.integers(0, seconds - 1).map(lambda s: world.start + timedelta(seconds=s))
    edges = st.builds(
        lambda hour, us: world.start + timedelta(hours=hour, microseconds=us),
        st.integers(0, seconds // 3600 - 1),
        st.sampled_from([0, 1, 3_599_999_999]),
    )
    return st.one_of(anywhere, edges)


def quantities(*, returns: bool = True) -> SearchStrategy[float]:
    """Whole units mostly, weights sometimes; negative ones are returns."""
    whole = st.integers(-3 if returns else 0, 12).map(float)
    weights = st.integers(1, 5_000).map(lambda grams: grams / 1000)
    return st.one_of(whole, weights)


def prices() -> SearchStrategy[float | None]:
    """None, nothing, or cents."""
    return st.one_of(st.none(), st.integers(0, 2_000).map(lambda cents: cents / 100))


@st.composite
def sales(draw: DrawFn, world: World, *, most: int = 14) -> list[Sale]:
    """Sales and returns of a world, each with an id of its own."""
    drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from(world.sources),
                st.sampled_from(world.stores),
                st.sampled_from(world.products),
                times(world),
                quantities(),
                prices(),
            ),
            min_size=1,
            max_size=most,
        )
    )
    return [
        Sale(id=f"{n}", source=source, store=store, product=product, time=when,
             quantity=quantity, price=price)
        for n, (source, store, product, when, quantity, price) in enumerate(drawn)
    ]  # fmt: skip


def voided(sale: Sale, name: str) -> Void:
    """The void of a sale, under an id of its own."""
    return Void(
        id=name,
        source=sale.source,
        voids=sale.id,
        time=sale.time,
        store=sale.store,
        product=sale.product,
        quantity=sale.quantity,
        price=sale.price,
    )


@st.composite
def traffic(draw: DrawFn, world: World, *, most: int = 14) -> list[AnyEvent]:
    """Sales, some of them sent again, some voided (once or twice), and a few completes."""
    out: list[AnyEvent] = []
    for sale in draw(sales(world, most=most)):
        out.append(sale)
        fate = draw(st.sampled_from(["", "", "", "retried", "voided", "voided twice", "both"]))
        if fate in ("retried", "both"):
            out.append(msgspec.structs.replace(sale, x={"attempt": 2}))
        if fate in ("voided", "voided twice", "both"):
            out.append(voided(sale, f"v{sale.id}"))
        if fate == "voided twice":
            out.append(voided(sale, f"w{sale.id}"))
        if fate == "both":
            out.append(voided(sale, f"v{sale.id}"))
    done = draw(st.lists(st.tuples(st.sampled_from(world.stores), times(world)), max_size=3))
    for n, (store, when) in enumerate(done):
        out.append(Complete(id=f"c{n}", source="till", store=store, time=when))
    return out


@st.composite
def notices(draw: DrawFn, world: World) -> list[AnyEvent]:
    """Plans, products, stock-outs and ticks: what does not count units."""
    out: list[AnyEvent] = []
    for n, kind in enumerate(draw(st.lists(st.sampled_from(["plan", "product", "out", "tick"]),
                                           max_size=5))):  # fmt: skip
        when = draw(times(world))
        end = when + timedelta(hours=draw(st.integers(1, 80)))
        store, product = draw(st.sampled_from(world.stores)), draw(st.sampled_from(world.products))
        anywhere = draw(st.sampled_from([store, "*"]))
        if kind == "plan":
            plan = Plan(id=f"p{n}", source="hq", time=when, start=when, end=end, store=anywhere,
                        product=product, price=draw(prices()), promotion=0.5)  # fmt: skip
            out += [plan] * draw(st.integers(1, 2))
        elif kind == "product":
            out.append(Product(id=f"q{n}", source="hq", time=when, product=product,
                               store=anywhere, category="food"))  # fmt: skip
        elif kind == "out":
            out.append(Availability(id=f"a{n}", source="hq", time=when, start=when, end=end,
                                    store=store, product=product,
                                    available=draw(st.booleans())))  # fmt: skip
        else:
            out.append(Tick(id=f"t{n}", source="salescast", time=when))
    return out


@st.composite
def arrivals(
    draw: DrawFn, events: Sequence[AnyEvent], *, lateness_s: int | float
) -> list[AnyEvent]:
    """An order in which no event comes after another whose time is more than that later.

    With ``lateness_s`` at ``grace_s`` all of it is within grace; with more, some is revised or
    late.
    """
    whole = timedelta(seconds=lateness_s) // timedelta(microseconds=1)
    # In thousandths: of a range so wide Hypothesis would draw next to nothing but small delays.
    part = st.integers(0, 1000) if whole else st.just(0)
    parts = draw(st.lists(part, min_size=len(events), max_size=len(events)))
    order = draw(st.permutations(range(len(events))))
    arrival = [
        microseconds(event.time) + whole * part // 1000
        for event, part in zip(events, parts, strict=True)
    ]
    return [events[i] for i in sorted(order, key=lambda i: arrival[i])]


@st.composite
def packed(
    draw: DrawFn,
    world: World,
    items: Sequence[AnyEvent | bytes],
    *,
    clock: Clock | None = None,
) -> list[Record]:
    """Records of a partition that carry these items, in order: single, or in arrays.

    Parameters
    ----------
    items
        Events, and bytes that are one item of JSON, or none.
    clock
        ``constant``: all are appended a day after the world's end, which holds append times
        equal over packings. ``increasing``: appended about when they happen, so that an event
        may be ahead of its append time. ``None``: either.
    """
    clock = clock or draw(st.sampled_from(["constant", "increasing"]))
    now = world.end + timedelta(days=1) if clock == "constant" else world.start
    offset, at, out = draw(st.integers(0, 1_000)), 0, []
    while at < len(items):
        size = draw(st.integers(1, 4))
        chunk, at = items[at : at + size], at + size
        parts = [item if isinstance(item, bytes) else encode(item) for item in chunk]
        alone = len(parts) == 1 and draw(st.booleans())
        if clock == "increasing":
            last = [item.time for item in chunk if not isinstance(item, bytes)]
            ahead = draw(st.integers(-min(world.settings.max_future_s, 7200), 7200))
            now = max([now, *(moment + timedelta(seconds=ahead) for moment in last)])
        value = parts[0] if alone else b"[" + b",".join(parts) + b"]"
        out.append(Record(world.partition, offset, microseconds(now), None, value))
        offset += draw(st.integers(1, 3))
    return out


# Hostile input


def json_values() -> SearchStrategy[Any]:
    """Any JSON."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
        ),
        max_leaves=12,
    )


@st.composite
def near_events(draw: DrawFn) -> Any:
    """An event as a JSON value with some fields spoilt: missing, ill-typed, unknown or extreme."""
    moment = "2024-03-10T09:30:00Z"
    event: dict[str, Any] = {
        "type": draw(st.sampled_from(_TYPES)),
        "id": "1", "source": "till", "time": moment, "store": "7", "product": "milk",
    }  # fmt: skip
    if event["type"] in ("sale", "void"):
        event |= {"quantity": 1, "price": 2.5}
    if event["type"] == "void":
        event["voids"] = "0"
    if event["type"] in ("plan", "availability"):
        event |= {"start": moment, "end": "2024-03-11T00:00:00+05:30"}
    if event["type"] == "plan":
        event["promotion"] = 1
    if event["type"] in ("complete", "tick"):
        del event["product"]
    extremes: SearchStrategy[Any] = st.sampled_from([
        "", "x" * 129, "*", "2024-03-10T09:30:00", "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59", "2024-02-30T00:00:00Z", 1e300, -1e6, 1e6, 2**70, True, None,
        [], {}, "\x00", "\U0001f600",
    ])  # fmt: skip
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from([*sorted(event), "surprise", "x", "available", "covariates"]))
        if draw(st.booleans()):
            event.pop(name, None)
        else:
            event[name] = draw(extremes | json_values())
    return event


def hostile_items() -> SearchStrategy[bytes]:
    """One JSON value each: most are no event, some are."""
    return (near_events() | json_values()).map(lambda value: json.dumps(value).encode())


def hostile_bytes() -> SearchStrategy[bytes]:
    """Any bytes, and those that look like JSON until they do not."""
    torn = st.builds(
        lambda items, cut: (b"[" + b",".join(items) + b"]")[:cut],
        st.lists(hostile_items(), max_size=4),
        st.integers(0, 400),
    )
    odd = st.sampled_from([
        b"", b" ", b"[]", b"[ ]", b"{}", b"null", b"NaN", b"[NaN]", b"\xef\xbb\xbf{}", b"\xff\xfe",
        b"[" * 100_000, b'{"a":' * 100_000, b'{"type":"sale"}{}', b"[1,]", b'"\\ud800"', b"\x00",
        b'{"type":"sale","type":"void"}', b"1e999", b"[1] x", b"9" * 10_000,
    ])  # fmt: skip
    return st.binary(max_size=200) | torn | odd


@st.composite
def misfits(draw: DrawFn, world: World) -> AnyEvent:
    """A valid event that this world refuses: of another partition, of the future, of no time."""
    kind = draw(st.sampled_from(["misrouted", "future", "ancient", "everywhere"]))
    away = next(n for n in _NAMES if partition_of(n, PARTITIONS) != world.partition)
    when = {
        "misrouted": world.end,
        "everywhere": world.end,
        "ancient": datetime(1989, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        "future": world.end + timedelta(days=30),
    }[kind]
    store = {"misrouted": away, "everywhere": "*"}.get(kind, world.stores[0])
    return Sale(id=f"m{kind}", source="odd", store=store, product="milk", time=when, quantity=1.0)


@st.composite
def conflicting(draw: DrawFn, events: Sequence[AnyEvent]) -> AnyEvent:
    """One of the sales or voids again, with another content under the same id."""
    some = [event for event in events if isinstance(event, Sale | Void)]
    return msgspec.structs.replace(draw(st.sampled_from(some)), quantity=77.0)


@st.composite
def logs(
    draw: DrawFn, *, max_series: Sequence[int] = (1_000_000, 2, 3), hostile: bool = True
) -> tuple[World, list[Record]]:
    """A world and its log, with everything in it: retries, voids, stragglers, misfits, rubbish."""
    world = draw(worlds(max_series=max_series))
    events = draw(traffic(world)) + draw(notices(world))
    if hostile and draw(st.booleans()):
        events.append(draw(conflicting(events)))
    bucket_s = {"hour": 3600, "day": 86_400, "week": 7 * 86_400}[world.settings.bucket]
    spread = world.settings.grace_s + bucket_s * draw(st.sampled_from([0, 0, 1, 2, 4]))
    items: list[AnyEvent | bytes] = [*draw(arrivals(events, lateness_s=spread))]
    if hostile:
        for odd in draw(st.lists(misfits(world) | hostile_items(), max_size=3)):
            items.insert(draw(st.integers(0, len(items))), odd)
    records = draw(packed(world, items))
    if hostile and draw(st.booleans()):
        last = records[-1]
        rubbish = last._replace(offset=last.offset + 1, value=draw(hostile_bytes()))
        records.append(rubbish)
    return world, records


@st.composite
def one_fact_two_orders(draw: DrawFn) -> tuple[World, list[Record], list[Record]]:
    """A world, and the same events within grace in two orders and packings.

    What both logs say is equal: every order within grace, every packing (append times equal).
    Only sales and voids are in it, without id conflicts; a complete counts from when it came.
    """
    world = draw(worlds(max_series=(1_000_000, 2)))
    events = [e for e in draw(traffic(world)) if not isinstance(e, Complete)]
    grace = world.settings.grace_s
    first, second = (
        draw(packed(world, draw(arrivals(events, lateness_s=grace)), clock="constant"))
        for _ in range(2)
    )
    return world, first, second
