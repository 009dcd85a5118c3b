"""Bodies become entries: nothing is lost, moved past its neighbour, or accepted in vain."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from api import ingest
from stream.event import Refusal, decode
from stream.log import partition_of

SALE: dict[str, Any] = {
    "type": "sale", "id": "1", "source": "till", "time": "2025-03-01T10:00:00+01:00",
    "store": "330", "product": "p", "quantity": 2,
}  # fmt: skip
NOW_S = 1_740_830_000.0
LATEST_S = NOW_S + 86_400


def refused(**changes: Any) -> Refusal:
    found = ingest.judge(json.dumps(SALE | changes).encode(), LATEST_S)
    assert isinstance(found, Refusal)
    return found


def lines(events: list[dict[str, Any]]) -> list[Any]:
    found = ingest.split("\n".join(map(json.dumps, events)).encode(), ndjson=True)
    assert isinstance(found, list)
    return found


def test_ticks_and_markers_are_for_salescast_only() -> None:
    for kind in ("tick", "marker"):
        body = {"type": kind, "id": "1", "source": "s", "time": SALE["time"]}
        found = ingest.judge(json.dumps(body).encode(), LATEST_S)
        assert isinstance(found, Refusal)
        assert (found.reason, found.field) == ("unknown_type", "type")


def test_an_event_beyond_the_allowed_future_is_refused_and_one_within_is_not() -> None:
    assert refused(time="2025-03-02T13:00:00Z").reason == "future_dated"
    within = json.dumps(SALE | {"time": "2025-03-02T11:00:00Z"}).encode()
    assert not isinstance(ingest.judge(within, LATEST_S), Refusal)


def test_times_outside_of_all_bounds_are_out_of_range_whatever_field_they_are_in() -> None:
    assert refused(time="1989-12-31T00:00:00Z").reason == "out_of_range"
    plan = {
        "type": "plan", "id": "1", "source": "s", "time": SALE["time"], "promotion": 1,
        "start": "2025-01-01T00:00:00Z", "end": "2300-01-01T00:00:00Z",
    }  # fmt: skip
    found = ingest.judge(json.dumps(plan).encode(), LATEST_S)
    assert isinstance(found, Refusal)
    assert (found.reason, found.field) == ("out_of_range", "end")


def test_a_sale_of_all_stores_is_inconsistent() -> None:
    assert (refused(store="*").reason, refused(store="*").field) == ("inconsistent", "store")


def test_an_event_too_large_for_a_record_is_refused() -> None:
    assert refused(x={"note": "y" * 900_000}).reason == "too_large"


def test_a_single_item_is_appended_bare_and_as_it_was_sent() -> None:
    body = json.dumps(SALE, indent=3).encode()
    raws = ingest.split(b" [ " + body + b" ] ", ndjson=False)
    assert isinstance(raws, list)
    (entry,) = ingest.batch(raws, 4, LATEST_S).entries
    assert (entry.value, entry.key, entry.partition) == (body, b"330", partition_of("330", 4))


def test_items_of_a_partition_are_packed_in_order_and_within_bounds() -> None:
    events = [SALE | {"id": str(i), "store": str(i % 7)} for i in range(3000)]
    found = ingest.batch(lines(events), 2, LATEST_S)
    seen: dict[int, list[int]] = {0: [], 1: []}
    for entry in found.entries:
        items = json.loads(entry.value)
        assert len(items) <= ingest.PACK_ITEMS
        assert len(entry.value) <= ingest.PACK_BYTES
        assert {partition_of(item["store"], 2) for item in items} == {entry.partition}
        seen[entry.partition] += [int(item["id"]) for item in items]
    assert sorted(seen[0] + seen[1]) == list(range(3000))
    assert all(order == sorted(order) for order in seen.values())


def test_large_items_close_a_record_before_it_grows_too_large() -> None:
    events = [SALE | {"id": str(i), "x": {"note": "y" * 200_000}} for i in range(5)]
    found = ingest.batch(lines(events), 1, LATEST_S)
    assert [len(decode(entry.value)) for entry in found.entries] == [2, 2, 1]


def test_every_receipt_names_the_place_of_its_event() -> None:
    events = [SALE | {"id": str(i), "store": str(i % 9)} for i in range(1200)]
    found = ingest.batch(lines(events), 3, LATEST_S)
    offsets = [100 + i for i in range(len(found.entries))]
    records = {
        (entry.partition, offset): json.loads(entry.value)
        for entry, offset in zip(found.entries, offsets, strict=True)
    }
    for event, item in zip(events, ingest.receipts(found, offsets), strict=True):
        partition, offset, place = map(int, item["receipt"].split("-"))
        assert records[partition, offset][place] == event


def test_what_is_about_all_stores_goes_to_every_partition_once() -> None:
    product = {"type": "product", "id": "9", "source": "s", "time": SALE["time"], "product": "p"}
    found = ingest.batch(lines([SALE, product, SALE | {"id": "2"}]), 3, LATEST_S)
    by_partition: dict[int, list[str]] = {}
    for entry in found.entries:
        value = json.loads(entry.value)
        items = value if isinstance(value, list) else [value]
        by_partition.setdefault(entry.partition, []).extend(item["id"] for item in items)
    home = partition_of("330", 3)
    assert by_partition.pop(home) == ["1", "9", "2"]
    assert list(by_partition.values()) == [["9"], ["9"]]
    receipt = ingest.receipts(found, [0] * len(found.entries))[1]["receipt"]
    assert receipt.startswith("0-")


def test_a_torn_line_costs_nobody_else() -> None:
    body = b"\r\n".join([json.dumps(SALE).encode(), b"", json.dumps(SALE).encode()[:-9]])
    raws = ingest.split(body, ndjson=True)
    assert isinstance(raws, list)
    good, torn = ingest.batch(raws, 1, LATEST_S).items
    assert isinstance(good, ingest.Place)
    assert isinstance(torn, Refusal)
    assert torn.reason == "malformed"


def test_a_byte_order_mark_is_no_part_of_the_first_event() -> None:
    event = json.dumps(SALE).encode()
    for body in (event, event + b"\n" + event, b"[" + event + b"]"):
        raws = ingest.split(BOM_UTF8 + body, ndjson=False)
        assert isinstance(raws, list)
        assert {bytes(raw) for raw in raws} == {event}


def test_a_torn_array_is_one_refusal() -> None:
    found = ingest.split(json.dumps([SALE, SALE]).encode()[:-2], ndjson=False)
    assert isinstance(found, Refusal)
    assert found.reason == "malformed"


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_answered(body: bytes, ndjson: bool) -> None:
    raws = ingest.split(body, ndjson)
    if not isinstance(raws, Refusal):
        found = ingest.batch(raws, 3, LATEST_S)
        assert len(found.items) == len(raws)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.sampled_from([*SALE, "x", "y"]), _JSON).map(
    lambda changes: SALE | changes), min_size=1, max_size=6))  # fmt: skip
def test_what_is_accepted_is_what_the_fold_decodes(events: list[dict[str, Any]]) -> None:
    raws = ingest.split(json.dumps(events).encode(), ndjson=False)
    assert isinstance(raws, list)
    found = ingest.batch(raws, 2, LATEST_S)
    for raw, item in zip(raws, found.items, strict=True):
        if isinstance(item, ingest.Place):
            folded = decode(found.entries[item.entry].value)[item.item]
            assert folded == ingest.judge(raw, LATEST_S)
            assert not isinstance(folded, Refusal)
