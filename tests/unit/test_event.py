"""Decoding: every refusal names its field and remedy; nothing at all raises."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stream.event import (
    FIRST_US,
    LAST_US,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_PLAN_DAYS,
    MAX_RECORD_BYTES,
    REASONS,
    AnyEvent,
    Marker,
    Refusal,
    Sale,
    Tick,
    decode,
    decode_item,
    encode,
    item_values,
    time_us,
)
from tests.strategies import (
    World,
    hostile_bytes,
    hostile_items,
    microseconds,
    notices,
    traffic,
    worlds,
)

MOMENT = "2024-03-10T09:30:00Z"
SALE: dict[str, Any] = {
    "type": "sale", "id": "1", "source": "till", "time": MOMENT, "store": "7",
    "product": "milk", "quantity": 2, "price": 1.5,
}  # fmt: skip
VOID = SALE | {"type": "void", "id": "v1", "voids": "1"}
PLAN: dict[str, Any] = {
    "type": "plan", "id": "1", "source": "hq", "time": MOMENT, "start": MOMENT,
    "end": "2024-03-12T00:00:00Z", "product": "milk", "price": 1.0,
}  # fmt: skip
OUT: dict[str, Any] = {
    "type": "availability", "id": "1", "source": "hq", "time": MOMENT, "start": MOMENT,
    "end": "2024-03-12T00:00:00Z", "store": "7", "product": "milk",
}  # fmt: skip
COMPLETE = {"type": "complete", "id": "1", "source": "till", "time": MOMENT, "store": "7"}
PRODUCT = {"type": "product", "id": "1", "source": "hq", "time": MOMENT, "product": "milk"}
TICK = {"type": "tick", "id": "1", "source": "clock", "time": MOMENT}


def without(event: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key != name}


def only(value: bytes) -> AnyEvent | Refusal:
    """The one item of a record."""
    (item,) = decode(value)
    return item


def refusal(value: Any) -> Refusal:
    """Why a JSON value, or bytes as they are, is refused."""
    item = only(value if isinstance(value, bytes) else json.dumps(value).encode())
    assert isinstance(item, Refusal), item
    return item


def nested(depth: int) -> dict[str, Any]:
    """An object with this many levels of objects."""
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_a_sale_is_read_field_by_field() -> None:
    assert only(json.dumps(SALE).encode()) == Sale(
        id="1",
        source="till",
        time=datetime(2024, 3, 10, 9, 30, tzinfo=UTC),
        store="7",
        product="milk",
        quantity=2.0,
        price=1.5,
    )


@pytest.mark.parametrize("event", [SALE, VOID, PLAN, OUT, COMPLETE, PRODUCT, TICK])
def test_every_type_is_accepted_alone_and_in_an_array(event: dict[str, Any]) -> None:
    alone = only(json.dumps(event).encode())
    assert not isinstance(alone, Refusal)
    assert list(decode(json.dumps([event, event]).encode())) == [alone, alone]


@pytest.mark.parametrize(
    ("value", "reason", "field"),
    [
        (b"", "malformed", ""),
        (b"{", "malformed", ""),
        (b"\xff\xfe", "malformed", ""),
        (b"[1", "malformed", ""),
        (b"[]", "malformed", ""),
        (b" [ ] ", "malformed", ""),
        (b"NaN", "malformed", ""),
        (json.dumps(SALE).encode().replace(b"1.5", b"NaN"), "malformed", ""),
        (json.dumps(SALE).encode().replace(b"milk", b"\xff"), "malformed", ""),
        (json.dumps(SALE).encode() + b"{}", "malformed", ""),
        (SALE | {"x": nested(MAX_DEPTH + 1)}, "malformed", "x"),
        (3, "invalid_field", ""),
        (None, "invalid_field", ""),
        (without(SALE, "type"), "unknown_type", "type"),
        (SALE | {"type": "sail"}, "unknown_type", "type"),
        (SALE | {"type": 5}, "unknown_type", "type"),
        (SALE | {"surprise": 1}, "unknown_field", "surprise"),
        (SALE | {"voids": "1"}, "unknown_field", "voids"),
        *((without(SALE, name), "invalid_field", name) for name in SALE
          if name not in ("type", "price")),
        (without(VOID, "voids"), "invalid_field", "voids"),
        (without(PLAN, "end"), "invalid_field", "end"),
        (SALE | {"id": ""}, "invalid_field", "id"),
        (SALE | {"store": "x" * 129}, "invalid_field", "store"),
        (SALE | {"product": 5}, "invalid_field", "product"),
        (SALE | {"time": "2024-03-10T09:30:00"}, "invalid_field", "time"),
        (SALE | {"time": "2024-02-30T00:00:00Z"}, "invalid_field", "time"),
        (SALE | {"time": 1710063000}, "invalid_field", "time"),
        (SALE | {"quantity": "2"}, "invalid_field", "quantity"),
        (SALE | {"quantity": None}, "invalid_field", "quantity"),
        (SALE | {"quantity": 1_000_001}, "invalid_field", "quantity"),
        (SALE | {"quantity": -1_000_001}, "invalid_field", "quantity"),
        (json.dumps(SALE).encode().replace(b"1.5", b"1e999"), "invalid_field", "price"),
        (SALE | {"price": -0.01}, "invalid_field", "price"),
        (SALE | {"x": [1]}, "invalid_field", "x"),
        (PLAN | {"covariates": {"rain": "wet"}}, "invalid_field", "covariates[...]"),
        (PLAN | {"promotion": 1.5}, "invalid_field", "promotion"),
        (PLAN | {"revision": -1}, "invalid_field", "revision"),
        (PRODUCT | {"unit_size": 0}, "invalid_field", "unit_size"),
        (SALE | {"quantity": 1e6, "price": 101}, "out_of_range", "price"),
        (SALE | {"quantity": -1e6, "price": 101}, "out_of_range", "price"),
        (PLAN | {"end": "2027-03-10T09:30:00Z"}, "out_of_range", "end"),
        *((event | {name: moment}, "out_of_range", name)
          for event, names in ((SALE | {"x": {}}, ("time",)), (VOID, ("time",)), (TICK, ("time",)),
                               (COMPLETE, ("time",)), (PLAN, ("time", "start", "end")),
                               (OUT, ("time", "start", "end")),
                               (PRODUCT, ("time", "listed", "delisted")))
          for name in names
          for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z")),
        (PLAN | {"covariates": {"rain": 2e12}}, "out_of_range", "covariates"),
        (SALE | {"source": "*"}, "invalid_field", "source"),
        (PLAN | {"source": "*"}, "invalid_field", "source"),
        (VOID | {"voids": "v1"}, "inconsistent", "id"),
        (PLAN | {"end": MOMENT}, "inconsistent", "start"),
        (PLAN | {"category": "food"}, "inconsistent", "category"),
        (without(PLAN, "price"), "inconsistent", "promotion"),
        (without(PLAN, "product"), "inconsistent", "product"),
        (OUT | {"end": MOMENT}, "inconsistent", "start"),
        (OUT | {"store": "*"}, "inconsistent", "store"),
        (COMPLETE | {"store": "*"}, "inconsistent", "store"),
        (PRODUCT | {"replaces": "milk"}, "inconsistent", "replaces"),
        (PRODUCT | {"listed": MOMENT, "delisted": MOMENT}, "inconsistent", "delisted"),
        (b"[" + b" " * MAX_RECORD_BYTES + b"]", "too_large", ""),
        (b"[" + b"1," * MAX_ITEMS + b"1]", "too_large", ""),
    ],
)  # fmt: skip
def test_a_refusal_names_reason_field_and_remedy(value: Any, reason: str, field: str) -> None:
    found = refusal(value)
    assert (found.reason, found.field) == (reason, field)
    assert found.detail
    assert found.remedy == REASONS[reason]


@pytest.mark.parametrize(
    ("event", "field", "said"),
    [
        (PLAN, "end", "800 days or fewer, and send the plan again with a later end"),
        (OUT, "end", "2199 at the latest, and send another event with `available` true"),
        (PRODUCT, "delisted", "leave it out"),
    ],
)
def test_who_means_an_open_end_is_told_what_to_send(
    event: dict[str, Any], field: str, said: str
) -> None:
    found = refusal(event | {field: "9999-12-31T23:59:59Z"})
    assert (found.reason, found.field) == ("out_of_range", field)
    assert said in found.detail


def test_too_many_good_events_are_refused_as_one_item() -> None:
    small = json.dumps(TICK, separators=(",", ":")).encode()
    value = b"[" + b",".join([small] * (MAX_ITEMS + 1)) + b"]"
    assert len(value) < MAX_RECORD_BYTES
    assert refusal(value).reason == "too_large"
    assert len(decode(value.replace(small + b",", b"", 1))) == MAX_ITEMS


def test_bounds_themselves_are_accepted() -> None:
    longest = "2026-05-19T09:30:00Z"
    assert datetime.fromisoformat(longest) - datetime.fromisoformat(MOMENT) == timedelta(
        days=MAX_PLAN_DAYS
    )
    for event in (
        SALE | {"quantity": 1e6, "price": 100, "store": "x" * 128},
        SALE | {"x": nested(MAX_DEPTH)},
        PLAN | {"end": longest},
        without(PLAN, "price") | {"withdrawn": True},
    ):
        assert not isinstance(only(json.dumps(event).encode()), Refusal)


def test_every_reason_has_a_remedy_in_words() -> None:
    for reason, remedy in REASONS.items():
        assert len(remedy.split()) > 2, reason


def test_a_bad_item_of_an_array_does_not_cost_its_neighbours() -> None:
    first, second, third = decode(json.dumps([SALE, SALE | {"quantity": "x"}, VOID]).encode())
    assert isinstance(second, Refusal)
    assert (second.reason, second.field) == ("invalid_field", "quantity")
    assert not isinstance(first, Refusal)
    assert not isinstance(third, Refusal)


def test_a_torn_array_is_one_item() -> None:
    assert refusal(json.dumps([SALE, SALE]).encode()[:-1]).reason == "malformed"


def test_a_record_that_is_nested_without_end_is_refused() -> None:
    for value in (b"[" * 100_000, b'{"a":' * 100_000):
        assert refusal(value).reason == "malformed"


def test_a_reformatted_event_is_the_same_event() -> None:
    tight = json.dumps(SALE, separators=(",", ":")).encode()
    loose = json.dumps(dict(reversed(SALE.items())), indent=3).encode()
    other = SALE | {"quantity": 2.0, "time": "2024-03-10T15:00:00.000+05:30"}
    assert only(tight) == only(b" \r\n\t" + loose + b"\n") == only(json.dumps(other).encode())


def test_times_keep_their_microseconds() -> None:
    east = timezone(timedelta(hours=10, minutes=30))
    moment = datetime(2024, 3, 10, 20, 0, 0, 123_457, tzinfo=east)
    assert time_us(moment) == 1_710_063_000_123_457


@given(st.integers(FIRST_US, 2**32 * 1_000_000))
def test_no_time_until_2106_is_off_by_a_microsecond(us: int) -> None:
    assert time_us(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)) == us


def test_the_bounds_of_time_are_1990_and_2200() -> None:
    assert microseconds(datetime(1990, 1, 1, tzinfo=UTC)) == FIRST_US
    assert microseconds(datetime(2200, 1, 1, tzinfo=UTC)) == LAST_US


def test_ticks_and_markers_are_about_no_single_store_by_default() -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    for event in (Tick(id="1", source="a", time=moment), Marker(id="1", source="a", time=moment)):
        assert event.store == "*"
        assert only(encode(event)) == event


@given(hostile_bytes())
@hypothesis_settings(max_examples=200, deadline=None)
def test_no_bytes_at_all_raise(value: bytes) -> None:
    items = decode(value)
    assert len(items) == len(item_values(value)) >= 1
    for item in items:
        assert not isinstance(item, Refusal) or (item.remedy and item.detail)


@given(st.lists(hostile_items(), min_size=1, max_size=4))
@hypothesis_settings(max_examples=200, deadline=None)
def test_an_array_is_its_items(items: list[bytes]) -> None:
    # NaN and Infinity, which Python writes, are no JSON and tear the whole array.
    assume(not any(b"NaN" in item or b"Infinity" in item for item in items))
    packed = decode(b"[" + b",".join(items) + b"]")
    assert list(packed) == [decode_item(item) for item in items]
    assert item_values(b"[" + b",".join(items) + b"]") == [item.strip() for item in items]


@st.composite
def _events(draw: st.DrawFn) -> list[AnyEvent]:
    world: World = draw(worlds())
    return draw(traffic(world, most=4)) + draw(notices(world))


@given(_events())
@hypothesis_settings(max_examples=60, deadline=None)
def test_what_is_encoded_decodes_to_itself_in_any_format(events: list[AnyEvent]) -> None:
    assert [only(encode(event)) for event in events] == events
    values = [msgspec.json.decode(encode(event)) for event in events]
    assert list(decode(json.dumps(values, indent=1).encode())) == events
