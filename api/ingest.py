"""From a request's body to entries of the log: split, judge, group, pack.

Pure. Guarantees: items keep their order within a partition, and their original bytes; what is
refused here is what the fold would refuse, as far as one item and a clock can tell.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from stream.event import (
    MAX_RECORD_BYTES,
    RESERVED,
    AnyEvent,
    Plan,
    Product,
    Refusal,
    decode_item,
)
from stream.log import Entry, partition_of

#: Bounds of a packed record.
PACK_ITEMS = 500
PACK_BYTES = 512_000

Raw = bytes | msgspec.Raw
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_BLANK = b" \t\r\n"
#: An object that ends with its line, and another one after it.
_LINES = re.compile(rb"\s*\{[^\n]*\}[ \t\r]*\n\s*\{")


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where an accepted item is going: the entry's place in the list, and its place in that."""

    entry: int
    item: int


class Batch(msgspec.Struct, frozen=True):
    """What a body came to: entries to append, and of each item its place or its refusal."""

    entries: list[Entry]
    items: list[Place | Refusal]


def split(body: bytes, ndjson: bool) -> list[Raw] | Refusal:
    """Raw items of a body: an object, an array of them, or a line each.

    A body that is no JSON at all is one refusal; of NDJSON each line is judged by itself. Lines are
    known as such without their content type too: two objects in two lines are no JSON.
    """
    body = body.removeprefix(BOM_UTF8)  # which some editors and shells put before a text
    if ndjson or _LINES.match(body):
        lines: list[Raw] = [
            line for line in (one.strip(_BLANK) for one in body.split(b"\n")) if line
        ]
        return lines or Refusal("malformed", "the body holds no event")
    text = body.strip(_BLANK)
    if text[:1] != b"[":
        return [text] if text else Refusal("malformed", "the body holds no event")
    try:
        raws: list[Raw] = list(_raws.decode(text))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Refusal("malformed", str(error) or "nested too deeply")
    return raws or Refusal("malformed", "an empty array holds no event")


def judge(raw: Raw, latest_s: float) -> AnyEvent | Refusal:
    """The event of a raw item, or why it is refused.

    Parameters
    ----------
    latest_s
        The latest time an event may have, seconds since 1970 UTC.
    """
    if len(memoryview(raw)) > MAX_RECORD_BYTES:
        return Refusal("too_large", f"an event of more than {MAX_RECORD_BYTES} bytes")
    event = decode_item(raw)
    if isinstance(event, Refusal):
        return event
    kind = type(event)
    if kind in RESERVED:
        return Refusal(
            "unknown_type", f"`{kind.__name__.lower()}` is written by Salescast itself", "type"
        )
    if event.time.timestamp() > latest_s:
        latest = datetime.fromtimestamp(latest_s, UTC).isoformat(timespec="seconds")
        return Refusal(
            "future_dated",
            f"`time` {event.time.isoformat()} lies in the future: none after {latest} is taken now "
            "(setting `max_future_s`)",
            "time",
        )
    if event.store == "*" and kind is not Plan and kind is not Product:
        return Refusal("inconsistent", f"a {kind.__name__.lower()} is about one store", "store")
    return event


def batch(raws: Sequence[Raw], partitions: int, latest_s: float) -> Batch:
    """Judge items and pack the accepted ones into entries, one partition an entry.

    An event of all stores goes to every partition; its place is the one in the first.
    """
    items: list[Place | Refusal] = []
    open_: dict[int, _Pack] = {}
    packs: list[_Pack] = []
    for raw in raws:
        event = judge(raw, latest_s)
        if isinstance(event, Refusal):
            items.append(event)
            continue
        store = event.store
        size = len(memoryview(raw))
        first: Place | None = None
        for partition in range(partitions) if store == "*" else (partition_of(store, partitions),):
            pack = open_.get(partition)
            if pack is None or not pack.takes(size):
                pack = open_[partition] = _Pack(len(packs), partition, store)
                packs.append(pack)
            place = pack.add(raw, size, store)
            first = first or place
        assert first is not None
        items.append(first)
    return Batch([pack.entry() for pack in packs], items)


class _Pack:
    """An entry being filled."""

    __slots__ = ("number", "partition", "raws", "size", "store")

    def __init__(self, number: int, partition: int, store: str) -> None:
        self.number = number
        self.partition = partition
        self.store: str | None = store
        self.raws: list[Raw] = []
        self.size = 2

    def takes(self, size: int) -> bool:
        return len(self.raws) < PACK_ITEMS and self.size + size + 1 <= PACK_BYTES

    def add(self, raw: Raw, size: int, store: str) -> Place:
        self.raws.append(raw)
        self.size += size + 1
        if store != self.store:
            self.store = None
        return Place(self.number, len(self.raws) - 1)

    def entry(self) -> Entry:
        """The packed record; its key is the store where it is about one."""
        value = bytes(self.raws[0]) if len(self.raws) == 1 else b"[" + b",".join(self.raws) + b"]"
        return Entry(self.partition, self.store.encode() if self.store else None, value)


def receipts(found: Batch, offsets: Sequence[int]) -> list[dict[str, Any]]:
    """What became of each item, in order; ``offsets`` are those of the entries."""
    heads = [
        f"{entry.partition}-{offset}-" for entry, offset in zip(found.entries, offsets, strict=True)
    ]
    return [
        {"status": "accepted", "receipt": f"{heads[item.entry]}{item.item}"}
        if type(item) is Place
        else refusal(item)  # type: ignore[arg-type]
        for item in found.items
    ]


def refusal(item: Refusal) -> dict[str, Any]:
    """A refused item as it is answered."""
    return {
        "status": "refused",
        "reason": item.reason,
        "field": item.field,
        "detail": item.detail,
        "remedy": item.remedy,
    }
