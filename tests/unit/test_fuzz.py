"""Any bytes at all: events, snapshots and windows never fail but by a reason that is named.

`FUZZ_INPUTS` says how many inputs each fuzzer gets: 200 here, 100,000 with `make fuzz`.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from learner.manifest import Manifest, Signer
from learner.parts import cut, restored
from learner.pointers import checked
from learner.shard import Shard
from learner.snapshot import describe, lay_down, read_shard
from stream.errors import SnapshotCorrupt, SnapshotMissing
from stream.event import Refusal, decode
from stream.log import Record
from stream.window import OUTCOMES
from tests.learner_parts import Told, chosen, market
from tests.oracle import read as oracle

INPUTS = int(os.environ.get("FUZZ_INPUTS", "200"))
fuzzed = settings(
    max_examples=INPUTS, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
SETTINGS = chosen(challengers=("seasonal_naive",), max_series=6)

#: Values that a field may be given, of its own kind and of others.
odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["*", "s", "p0", "sale", "void", "1970-01-01", "2024-01-02T09:00:00Z",
                     "2024-01-02T09:00:00", "9999-12-31T23:59:59+23:59", -1, 0, 1e6, 1e308]),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers()),
)  # fmt: skip
FIELDS = ("type", "id", "source", "time", "store", "product", "quantity", "price", "voids", "start",
          "end", "promotion", "category", "x", "listed", "available", "revision", "?")  # fmt: skip
#: What each type is like when nothing is wrong with it; but markers, which the oracle leaves out.
GOOD: list[dict[str, Any]] = [
    {"type": "sale", "store": "s", "product": "p0", "quantity": 2, "price": 1.5},
    {"type": "void", "voids": "1", "store": "s", "product": "p0", "quantity": 2, "price": 1.5},
    {"type": "plan", "start": "2024-01-02T00:00:00Z", "end": "2024-01-04T00:00:00Z",
     "product": "p0", "promotion": 1},
    {"type": "product", "product": "p0", "category": "c"},
    {"type": "availability", "start": "2024-01-02T00:00:00Z", "end": "2024-01-04T00:00:00Z",
     "store": "s", "product": "p0"},
    {"type": "complete", "store": "s"}, {"type": "tick"}, {"type": "sail"},
]  # fmt: skip


@st.composite
def objects(draw: st.DrawFn) -> dict[str, Any]:
    """An event, often a good one, with up to two fields that are not what they should be."""
    hour = draw(st.integers(0, 96))
    one = {
        **draw(st.sampled_from(GOOD)), "id": draw(st.sampled_from(["1", "2", "3", "4"])),
        "source": "till", "time": f"2024-01-{1 + hour // 24:02d}T{hour % 24:02d}:00:00Z",
    }  # fmt: skip
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        one[draw(st.sampled_from(FIELDS))] = draw(odd)
    return one


@st.composite
def values(draw: st.DrawFn) -> bytes:
    """A record's value: JSON that is nearly an event's, whole or damaged, or plain bytes."""
    kind = draw(st.sampled_from([0, 1, 1, 1, 2, 2, 3]))
    if kind == 0:
        return draw(st.binary(max_size=60))
    some: Any = draw(st.lists(objects(), max_size=4)) if kind == 1 else draw(objects())
    try:
        value = msgspec.json.encode(some)
    except (msgspec.MsgspecError, ValueError, OverflowError, UnicodeEncodeError):
        return b"{}"
    if kind == 3 and value:
        at = draw(st.integers(0, len(value) - 1))
        value = value[:at] + draw(st.binary(max_size=3)) + value[at + draw(st.integers(0, 3)) :]
    return value


@fuzzed
@given(values())
def test_any_value_is_decoded_or_refused_with_a_reason(value: bytes) -> None:
    items = decode(value)
    assert len(items) >= 1
    for item in items:
        if isinstance(item, Refusal):
            assert item.remedy and item.detail
        else:
            assert decode(msgspec.json.encode(item)) == (item,)


@fuzzed
@given(st.lists(st.tuples(values(), st.integers(-10, 120)), max_size=12), st.integers(1, 3))
def test_any_records_are_folded_and_counted_as_the_oracle_counts(
    found: list[tuple[bytes, int]], packed: int
) -> None:
    """Each item has one outcome, at whatever times they come, in whatever batches."""
    start = 1_704_103_200_000_000
    records = [
        Record(0, n, start + hours * 3_600_000_000, None, value)
        for n, (value, hours) in enumerate(found)
    ]
    shard = Shard(SETTINGS, 0)
    for at in range(0, len(records), packed):
        shard.fold(records[at : at + packed])
    total = Counter(
        {(source, name): n for source, line in shard.window.counts.items()
         for name, n in zip(OUTCOMES, line, strict=True) if n}
    )  # fmt: skip
    assert sum(total.values()) == sum(len(decode(value)) for value, _ in found)
    assert total == Counter(oracle(SETTINGS, records).counts)


class Kept:
    """A snapshot as its chunks, in a store that hands out what it is told to."""

    def __init__(self) -> None:
        self.signer = Signer(Ed25519PrivateKey.from_private_bytes(b"k" * 32))
        told = Told(Shard(SETTINGS, 0))
        told.tell(*market(4, series=2))
        tables, self.chunks = cut(lay_down(told.shard))
        self.manifest = describe(
            told.shard, tables, topic_id="t", lineage=1, parent=None, created_us=0
        )
        self.envelope = self.signer.seal(self.manifest)
        self.digest = told.shard.digest()

    def get_chunk(self, digest: str) -> bytes:
        if digest not in self.chunks:
            raise SnapshotMissing(digest)
        return checked(digest, self.chunks[digest], "here")


@lru_cache(maxsize=1)
def kept() -> Kept:
    return Kept()


def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Cut short, with bits flipped, or with a piece of itself elsewhere; never the same."""
    at = draw(st.integers(0, len(whole) - 1))
    how = draw(st.sampled_from(["cut", "flip", "move", "empty"]))
    if how == "cut":
        return whole[:at]
    if how == "flip":
        flip = draw(st.integers(1, 255))
        return whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
    if how == "move":
        return whole[at:] + whole[:at] + b"\0"
    return b""


@fuzzed
@given(st.data())
def test_a_damaged_manifest_is_never_taken(data: st.DataObject) -> None:
    one = kept()
    envelope = data.draw(st.composite(lambda draw: damaged(draw, one.envelope))())
    with pytest.raises(SnapshotCorrupt):
        one.signer.verifier.open(envelope, 0, one.manifest.snapshot)


@fuzzed
@given(st.data())
def test_damaged_or_swapped_chunks_are_never_taken_up(data: st.DataObject) -> None:
    """Under their own digests in the store, or under others' in it."""
    one = kept()
    names = sorted(one.chunks)
    name = data.draw(st.sampled_from(names))
    broken = Kept.__new__(Kept)
    broken.chunks = dict(one.chunks)
    if data.draw(st.booleans()):
        other = data.draw(st.sampled_from([each for each in names if each != name]))
        broken.chunks[name] = one.chunks[other]
    else:
        broken.chunks[name] = data.draw(
            st.composite(lambda draw: damaged(draw, one.chunks[name]))()
        )
    with pytest.raises(SnapshotCorrupt):
        read_shard(broken, one.manifest, SETTINGS)  # type: ignore[arg-type]


@fuzzed
@given(st.data())
def test_chunks_that_are_none_are_no_part(data: st.DataObject) -> None:
    """What a part is joined from, without its digests: it is one, or it is refused."""
    chunks = data.draw(st.lists(st.binary(max_size=40), max_size=3))
    try:
        whole = restored(iter(chunks))
    except (ValueError, MemoryError):
        return
    assert isinstance(whole, bytearray)


def test_what_is_whole_is_taken_up() -> None:
    """So the fuzzers above damage something that is good."""
    one = kept()
    manifest: Manifest = one.signer.verifier.open(one.envelope, 0, one.manifest.snapshot)
    assert manifest == one.manifest
    shard = read_shard(one, manifest, SETTINGS)  # type: ignore[arg-type]
    assert shard.digest() == one.digest
