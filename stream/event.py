"""The events of the log as plain structs, their decoding, and every reason one is refused.

A record's value is one JSON object, or an array of them. ``decode`` never raises on any bytes:
each item becomes an event or a ``Refusal`` that names the field and the remedy. Leaves out:
what depends on time or on other events (future-dated, misrouted, id conflicts), which is
judged by ``window`` and reported with the same reasons.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

#: Bounds of quantities (units), prices and revenues (currency): sums stay exact in 64 bits.
MAX_QUANTITY = 1e6
MAX_PRICE = 1e6
MAX_REVENUE = 1e8
#: Bound of covariates, in either direction: squares of them are summed.
MAX_COVARIATE = 1e9
#: Largest value of a record and largest number of items in it.
MAX_RECORD_BYTES = 900_000
MAX_ITEMS = 10_000
#: Longest span of a plan.
MAX_PLAN_DAYS = 800
#: Deepest nesting of `x`.
MAX_DEPTH = 32
MICRO = 1_000_000
#: 1990-01-01 and 2200-01-01 UTC, µs: bounds of every time.
FIRST_US = 631_152_000_000_000
LAST_US = 7_258_118_400_000_000
#: The same as seconds.
_FIRST_S, _LAST_S = FIRST_US / 1e6, LAST_US / 1e6
#: Stands for all sources beyond those told apart; no source is called so.
ALL_SOURCES = "*"

#: Reasons an item is refused, or kept aside as late, with what to do about it.
REASONS: dict[str, str] = {
    "malformed": "send valid UTF-8 JSON: one event object, or an array of them",
    "unknown_type": "set `type` to sale, void, plan, availability, complete or product",
    "unknown_field": "remove the field, or move it into `x`, which is yours",
    "invalid_field": "send the field with the type and bounds of the schema",
    "out_of_range": "check the field's unit, or date; it is outside of what can be summed exactly",
    "inconsistent": "make the fields agree with each other",
    "future_dated": "check the clock and the time zone of the source",
    "misrouted": "key the record by its store with Kafka's default partitioner (murmur2)",
    "id_conflict": "void the first sale, then send the new one under a new id",
    "void_mismatch": "repeat the sale's store, product, time, quantity and price in the void",
    "past_max_series": "raise the setting `max_series`, or check the source for invented names",
    "unknown_operation": "markers are written by operations only",
    "too_large": "split the record",
    "late": "it came after its bucket could be revised; a replay can admit it",
}


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why an item is not folded: an enumerated reason, and the field it is about, if one."""

    reason: str
    detail: str
    field: str = ""

    @property
    def remedy(self) -> str:
        """What the producer should do."""
        return REASONS[self.reason]


Name = Annotated[str, Meta(min_length=1, max_length=128)]
Time = Annotated[datetime, Meta(tz=True)]
Price = Annotated[float, Meta(ge=0, le=MAX_PRICE)]


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type",
            kw_only=True, gc=False, omit_defaults=True):  # fmt: skip
    """What all events have; (source, id) is the identity; ``x`` is the producer's own."""

    id: Name
    source: Name
    time: Time
    x: dict[str, Any] | None = None


class Sale(Event, frozen=True, tag="sale", kw_only=True, gc=False):
    """Units of a product sold in a store; a negative quantity is a return."""

    store: Name
    product: Name
    quantity: Annotated[float, Meta(ge=-MAX_QUANTITY, le=MAX_QUANTITY)]
    price: Price | None = None


class Void(Event, frozen=True, tag="void", kw_only=True, gc=False):
    """Retracts the sale ``voids`` of the same source, whose fields it repeats."""

    voids: Name
    store: Name
    product: Name
    quantity: Annotated[float, Meta(ge=-MAX_QUANTITY, le=MAX_QUANTITY)]
    price: Price | None = None


class Plan(Event, frozen=True, tag="plan", kw_only=True, gc=False):
    """The known future of a product, category or store over [start, end).

    ``store`` is a store or ``*``; with neither product nor category it is about the whole
    store. The highest (revision, id) wins; ``withdrawn`` takes it back.
    """

    start: Time
    end: Time
    store: Name = "*"
    product: Name | None = None
    category: Name | None = None
    revision: Annotated[int, Meta(ge=0, le=2**31)] = 0
    price: Price | None = None
    promotion: Annotated[float, Meta(ge=0, le=1)] | None = None
    closed: bool | None = None
    covariates: dict[Name, float] | None = None
    withdrawn: bool = False


class Availability(Event, frozen=True, tag="availability", kw_only=True, gc=False):
    """A stock-out over [start, end): demand seen then is a lower bound."""

    start: Time
    end: Time
    store: Name
    product: Name
    available: bool = False


class Complete(Event, frozen=True, tag="complete", kw_only=True, gc=False):
    """The store has sent all it has up to ``time``."""

    store: Name


class Product(Event, frozen=True, tag="product", kw_only=True, gc=False):
    """What is known of a product; ``store`` is a store or ``*``."""

    product: Name
    store: Name = "*"
    category: Name | None = None
    unit_size: Annotated[float, Meta(gt=0, le=MAX_QUANTITY)] | None = None
    listed: Time | None = None
    delisted: Time | None = None
    replaces: Name | None = None


class Tick(Event, frozen=True, tag="tick", kw_only=True, gc=False):
    """Time has passed; written by the owner of an idle partition."""

    store: Name = "*"


class Marker(Event, frozen=True, tag="marker", kw_only=True, gc=False):
    """The operation with this id takes effect here; written by operations."""

    store: Name = "*"


AnyEvent = Sale | Void | Plan | Availability | Complete | Product | Tick | Marker
#: Types that only Salescast itself writes.
RESERVED = (Tick, Marker)

#: Fields that hold a time, by type.
_TIMES: dict[type, tuple[str, ...]] = {
    **dict.fromkeys((Sale, Void, Complete, Tick, Marker), ("time",)),
    **dict.fromkeys((Plan, Availability), ("time", "start", "end")),
    Product: ("time", "listed", "delisted"),
}
#: What to send where nobody knows the end yet.
_OPEN_END: dict[tuple[type, str], str] = {
    (Plan, "end"): f"; for an open end, plan the next {MAX_PLAN_DAYS} days or fewer, and send the "
    "plan again with a later end and a higher `revision` before they are over",
    (Availability, "end"): "; for an open end, give one in 2199 at the latest, and send another "
    "event with `available` true and a later `time` once the goods are back",
    (Product, "delisted"): "; for an open end, leave it out",
    (Product, "listed"): "; if it was always listed, leave it out",
}

_events = msgspec.json.Decoder(AnyEvent)
_many = msgspec.json.Decoder(list[AnyEvent])
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_PATH = re.compile(r"`\$\.?([^`]*)`")
_FIELD = re.compile(r"field `([^`]*)`")


def decode(value: bytes) -> Sequence[AnyEvent | Refusal]:
    """Items of a record's value, in order; any bytes at all are answered.

    A value that is not valid JSON is one item.

    Examples
    --------
    >>> decode(b'{"type": "sale", "id": "1", "source": "till", "store": "7"}')[0].field
    'time'
    >>> [item.reason for item in decode(b'[1, {"type": "sail"}]')]
    ['invalid_field', 'unknown_type']
    """
    try:
        if value.startswith(b"{") and len(value) <= MAX_RECORD_BYTES:
            event = _events.decode(value)
            return (event if _plain(event) else _checked(event),)
        if len(value) <= MAX_RECORD_BYTES:
            many = _many.decode(value)
            if 0 < len(many) <= MAX_ITEMS:
                return [event if _plain(event) else _checked(event) for event in many]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return _decode_slowly(value)


def decode_item(raw: bytes | msgspec.Raw) -> AnyEvent | Refusal:
    """One JSON object as an event, or why it is none."""
    try:
        return _checked(_events.decode(raw))
    except msgspec.ValidationError as error:
        return _refusal(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Refusal("malformed", str(error) or "nested too deeply")


def item_values(value: bytes) -> list[bytes]:
    """Bytes of each item that ``decode`` makes of a value; one that is refused whole is one item.

    Examples
    --------
    >>> item_values(b'[{"a": 1}, {"b":  2}]')
    [b'{"a": 1}', b'{"b":  2}']
    >>> item_values(b'[{"a": 1}, {"b')
    [b'[{"a": 1}, {"b']
    """
    found = _split(value)
    return [value] if isinstance(found, Refusal) else [bytes(one) for one in found]


def _decode_slowly(value: bytes) -> Sequence[AnyEvent | Refusal]:
    """Decode item by item, so that one bad item does not cost its neighbours."""
    found = _split(value)
    return (found,) if isinstance(found, Refusal) else [decode_item(one) for one in found]


def _split(value: bytes) -> Sequence[bytes | msgspec.Raw] | Refusal:
    """A value's items, undecoded, or why it is refused whole."""
    if len(value) > MAX_RECORD_BYTES:
        return Refusal("too_large", f"record of more than {MAX_RECORD_BYTES} bytes")
    if value.lstrip(b" \t\r\n")[:1] != b"[":
        return (value,)
    try:
        raws = _raws.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Refusal("malformed", str(error) or "nested too deeply")
    if len(raws) > MAX_ITEMS:
        return Refusal("too_large", f"record of more than {MAX_ITEMS} items")
    if not raws:
        return Refusal("malformed", "an empty array holds no event")
    return raws


def _refusal(message: str) -> Refusal:
    """Name reason and field of one of msgspec's validation messages."""
    path = _PATH.search(message)
    where = path.group(1) if path else ""
    unknown = "unknown field" in message
    missing = _FIELD.search(message)
    if missing and (unknown or "missing required" in message):
        where = f"{where}.{missing.group(1)}".lstrip(".")
    if unknown:
        return Refusal("unknown_field", message, where)
    if where == "type":
        return Refusal("unknown_type", message, where)
    return Refusal("invalid_field", message, where)


def _plain(event: AnyEvent) -> bool:
    """Whether an event is a sale that nothing more can be wrong with: nearly all are."""
    if type(event) is not Sale or event.x is not None or event.source == ALL_SOURCES:
        return False
    price = event.price
    return price is None or -MAX_REVENUE <= event.quantity * price <= MAX_REVENUE


def _checked(event: AnyEvent) -> AnyEvent | Refusal:
    """Refuse what no single field shows: sums that overflow, spans that end before they start."""
    if event.x is not None and _depth(event.x) > MAX_DEPTH:
        return Refusal("malformed", "nested too deeply", "x")
    if event.source == ALL_SOURCES:
        return Refusal("invalid_field", "`*` is no source's name; say which one it is", "source")
    for field in _TIMES[type(event)]:
        moment: datetime | None = getattr(event, field)
        if moment is not None and not _FIRST_S <= moment.timestamp() <= _LAST_S:
            said = (
                f"`{field}` is before 1990 or after 2200{_OPEN_END.get((type(event), field), '')}"
            )
            return Refusal("out_of_range", said, field)
    if isinstance(event, (Sale, Void)):
        if event.price is not None and abs(event.quantity * event.price) > MAX_REVENUE:
            return Refusal("out_of_range", f"quantity × price exceeds {MAX_REVENUE:g}", "price")
        if isinstance(event, Void) and event.voids == event.id:
            return Refusal("inconsistent", "a void needs an id of its own", "id")
    elif isinstance(event, Plan):
        if event.start >= event.end:
            return Refusal("inconsistent", "`start` must be before `end`", "start")
        if (event.end - event.start).days > MAX_PLAN_DAYS:
            return Refusal("out_of_range", f"a plan spans at most {MAX_PLAN_DAYS} days", "end")
        if event.product is not None and event.category is not None:
            return Refusal("inconsistent", "give `product` or `category`, not both", "category")
        if not event.withdrawn and all(
            value is None
            for value in (event.price, event.promotion, event.closed, event.covariates)
        ):
            return Refusal(
                "inconsistent", "a plan needs price, promotion, closed or covariates", "promotion"
            )
        if event.price is not None and event.product is None:
            return Refusal("inconsistent", "a planned price is about one product", "product")
        for name, value in (event.covariates or {}).items():
            if not -MAX_COVARIATE <= value <= MAX_COVARIATE:
                said = f"covariate `{name}` is beyond ±{MAX_COVARIATE:g}"
                return Refusal("out_of_range", said, "covariates")
    elif isinstance(event, Availability):
        if event.start >= event.end:
            return Refusal("inconsistent", "`start` must be before `end`", "start")
        if event.store == "*":
            return Refusal("inconsistent", "availability is about one store", "store")
    elif isinstance(event, Complete) and event.store == "*":
        return Refusal("inconsistent", "`complete` is about one store", "store")
    elif isinstance(event, Product):
        if event.replaces == event.product:
            return Refusal("inconsistent", "a product cannot replace itself", "replaces")
        listed, delisted = event.listed, event.delisted
        if listed is not None and delisted is not None and listed >= delisted:
            return Refusal("inconsistent", "`listed` must be before `delisted`", "delisted")
    return event


def _depth(value: Any) -> int:
    """How deep a JSON value nests; counted without recursion, so that no stack decides."""
    deepest, level = 0, [value]
    while level and deepest <= MAX_DEPTH:
        deepest += 1
        children: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                children.extend(one.values())
            elif isinstance(one, list):
                children.extend(one)
        level = children
    return deepest


def time_us(moment: datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime."""
    return round(moment.timestamp() * 1e6)


def encode(event: AnyEvent) -> bytes:
    """An event as JSON bytes, defaults left out."""
    return msgspec.json.encode(event)
