"""Snapshots: what goes in comes out, and what was tampered with does not."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learner import parts, snapshot
from learner.file_store import FileStore
from learner.manifest import FORMAT, Manifest, Signer, Verifier, read_manifest, versions
from learner.parts import Known, cut, cut_new
from learner.pickles import load_models
from learner.served import read_serving
from learner.shard import Shard
from learner.snapshot import describe, lay_down, read_shard, take_up
from learner.store import Pointer
from stream.errors import FingerprintMismatch, SnapshotCorrupt, SnapshotForeign
from stream.event import AnyEvent, Availability, Plan, Product, Sale, Void, encode, time_us
from stream.log import Record
from stream.settings import Settings

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 40
SETTINGS = Settings(partitions=1, grace_s=0)


def at(day: float, hour: float = 12) -> datetime:
    return START + timedelta(days=day, hours=hour)


def sale(day: int, product: str, quantity: float, **changed: Any) -> Sale:
    return Sale(id=f"{product}/{day}", source="till", time=at(day), store="s", product=product,
                quantity=quantity, price=2.5, **changed)  # fmt: skip


def days(first: int, last: int) -> list[list[AnyEvent]]:
    """Sales of six products by day, with facts of other kinds among them."""
    drawn = np.random.default_rng(11)
    quantities = drawn.poisson(6.0, (DAYS + 20, 6)).astype(float).tolist()
    out: list[list[AnyEvent]] = []
    for day in range(first, last):
        today: list[AnyEvent] = [sale(day, f"p{n}", quantities[day][n]) for n in range(6)]
        if day == 3:
            today += [
                Product(id="about p1", source="hq", time=at(3), product="p1", category="fruit"),
                Plan(id="offer", source="hq", time=at(3), product="p2", start=at(20, 0),
                     end=at(55, 0), price=1.5, promotion=1.0),
                Availability(id="out", source="hq", time=at(3), store="s", product="p3",
                             start=at(10, 0), end=at(12, 0)),
            ]  # fmt: skip
        if day == 25:
            today.append(Sale(id="back", source="till", time=at(25, 13), store="s", product="p2",
                              quantity=-1.5))  # fmt: skip
        if day == 30:
            taken = sale(30, "p0", quantities[30][0])
            today.append(Void(id="void", source="till", voids=taken.id, time=taken.time, store="s",
                              product="p0", quantity=taken.quantity, price=2.5))  # fmt: skip
        out.append(today)
    return out


def fold(shard: Shard, batches: list[list[AnyEvent]], *, packed: bool = False) -> Shard:
    """Fold batches, each appended at its latest event's time: a record an event, or a batch."""
    for batch in batches:
        append_us = max(time_us(event.time) for event in batch)
        values = [encode(event) for event in batch]
        if packed:
            values = [b"[" + b",".join(values) + b"]"]
        shard.fold(
            [
                Record(0, shard.position + n, append_us, None, value)
                for n, value in enumerate(values)
            ]
        )
    return shard


@pytest.fixture(scope="module")
def original() -> Shard:
    """A shard with something in every corner; tests do not change it."""
    return fold(Shard(SETTINGS, 0), days(0, DAYS))


@pytest.fixture
def shard(original: Shard) -> Shard:
    return copy_of(original)


def copy_of(one: Shard) -> Shard:
    return take_up(one.settings, one.partition, lay_down(one))


class Counting(FileStore):
    """A store that remembers which chunks were fetched."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetched: list[str] = []

    def get_chunk(self, digest: str) -> bytes:
        self.fetched.append(digest)
        return super().get_chunk(digest)


@dataclass(slots=True)
class Place:
    """A store, its signer, and how a shard is published there."""

    root: Path
    store: Counting
    signer: Signer = field(default_factory=lambda: Signer(Ed25519PrivateKey.generate()))

    @property
    def verifier(self) -> Verifier:
        return self.signer.verifier

    def put(
        self,
        shard: Shard,
        *,
        models: bytes | None = None,
        signer: Signer | None = None,
        parent: str | None = None,
        **changed: Any,
    ) -> Manifest:
        """Publish a shard; with other models, signer or fields of the manifest if given."""
        parts = lay_down(shard)
        if models is not None:
            parts["models"] = [models]
        tables, chunks = cut(parts)
        manifest = describe(
            shard, tables, topic_id="topic", lineage=1, parent=parent, created_us=1_700_000
        )
        manifest = msgspec.structs.replace(manifest, **changed)
        for digest in self.store.missing(chunks.keys()):
            self.store.put_chunk(digest, bytes(chunks[digest]))
        envelope = (signer or self.signer).seal(manifest)
        self.store.put_manifest(0, manifest.snapshot, envelope)
        to = Pointer(manifest.snapshot, 1, manifest.position)
        assert self.store.move_head(0, parent, to)
        return manifest

    def take(self, manifest: Manifest, settings: Settings = SETTINGS) -> Shard:
        """The shard of a snapshot, by way of its signed manifest."""
        found = read_manifest(self.store, 0, manifest.snapshot, self.verifier)
        return read_shard(self.store, found, settings)

    def chunk_file(self, digest: str) -> Path:
        return self.root / "chunks" / digest[:2] / digest


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, Counting(tmp_path))


@pytest.fixture
def unpickled(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Bytes that went to the unpickler."""
    seen: list[bytes] = []
    load = load_models

    def watched(data: bytes, names: Collection[str]) -> dict[str, Any]:
        seen.append(data)
        return load(data, names)

    monkeypatch.setattr(snapshot, "load_models", watched)
    return seen


def flipped(data: bytes, where: int, by: int = 0xFF) -> bytes:
    return data[:where] + bytes([data[where] ^ by]) + data[where + 1 :]


# -- round trip ------------------------------------------------------------------------------


def test_a_shard_comes_out_as_it_went_in(original: Shard, place: Place) -> None:
    assert original.models["ensemble"].digest(), "the champion has learned nothing"
    assert original.window.open and original.window.seen and original.panel.plans.kept
    manifest = place.put(original)
    again = place.take(manifest)
    assert again.digest() == original.digest() == manifest.digest
    assert again.position == original.position == manifest.position
    assert again.counts() == original.counts()
    assert again.window.live == original.window.live
    assert np.array_equal(again.forecast(), original.forecast())
    assert np.array_equal(again.open_part().sold, original.open_part().sold)


def test_a_restored_shard_goes_on_as_if_nothing_had_been(shard: Shard, place: Place) -> None:
    restored = place.take(place.put(shard))
    more = days(DAYS, DAYS + 10)
    more[0].insert(0, days(DAYS - 1, DAYS)[0][0])  # sent again: it must be known
    for one in (shard, restored):
        before = one.counts()["duplicate"]
        fold(one, more)
        assert one.counts()["duplicate"] == before + 1
    assert restored.digest() == shard.digest()
    assert np.array_equal(restored.forecast(), shard.forecast())


def test_an_empty_shard_comes_out_empty(place: Place) -> None:
    manifest = place.put(Shard(SETTINGS, 0))
    assert manifest.origin is None
    again = place.take(manifest)
    assert again.digest() == manifest.digest
    assert fold(again, days(0, 20)).digest() == fold(Shard(SETTINGS, 0), days(0, 20)).digest()


def test_the_digest_does_not_depend_on_the_position(original: Shard) -> None:
    packed = fold(Shard(SETTINGS, 0), days(0, DAYS), packed=True)
    assert packed.position < original.position
    assert packed.digest() == original.digest()


def test_the_digest_depends_on_every_sale(original: Shard) -> None:
    batches = days(0, DAYS)
    batches[-1].pop()
    assert fold(Shard(SETTINGS, 0), batches).digest() != original.digest()


def test_a_part_longer_than_a_chunk_is_cut_and_joined(
    shard: Shard, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "CHUNK_BYTES", 1000)
    manifest = place.put(shard)
    assert len(manifest.parts["ring.units"].chunks) > 1
    assert place.take(manifest).digest() == shard.digest()


def test_what_is_known_of_the_last_snapshot_changes_no_byte_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Small chunks, so that many rows of rings stay as they are from one snapshot to the next."""
    monkeypatch.setattr(parts, "CHUNK_BYTES", 256)
    monkeypatch.setattr(parts, "ALONE_BYTES", 64)
    shard, made = Shard(SETTINGS, 0), []
    known: Known = {}
    kept: dict[str, bytes] = {}
    for n in range(12):
        fold(shard, days(n, n + 1))
        fresh_tables, fresh = cut(lay_down(shard))
        tables, chunks, known = cut_new(lay_down(shard), known)
        kept |= chunks
        rings = [digest for name, part in tables.items() if name.startswith("ring.")
                 for digest in part.chunks]  # fmt: skip
        made.append(sum(digest in chunks for digest in rings) / len(rings))
        assert tables == fresh_tables
        assert all(kept[digest] == chunk for digest, chunk in fresh.items())
        assert set(known.values()) == fresh.keys()
    assert made[0] == 1.0
    assert made[-1] < 0.5


# -- what was tampered with ------------------------------------------------------------------


def test_no_byte_of_an_envelope_may_change(
    original: Shard, place: Place, unpickled: list[bytes]
) -> None:
    manifest = place.put(original)
    envelope = place.store.get_manifest(0, manifest.snapshot)
    places = [*range(250), *range(250, len(envelope), 17), len(envelope) - 1]
    for where in places:
        for by in (0x01, 0x80, 0xFF):
            with pytest.raises(SnapshotCorrupt, match=manifest.snapshot):
                place.verifier.open(flipped(envelope, where, by), 0, manifest.snapshot)
    for short in (b"", envelope[:-1], envelope + b"\0"):
        with pytest.raises(SnapshotCorrupt):
            place.verifier.open(short, 0, manifest.snapshot)
    assert unpickled == []


def test_no_byte_of_a_chunk_may_change(
    original: Shard, place: Place, unpickled: list[bytes]
) -> None:
    manifest = place.put(original)
    for name, part in manifest.parts.items():
        file = place.chunk_file(part.chunks[0])
        whole = file.read_bytes()
        for where in (0, len(whole) // 2, len(whole) - 1):
            file.write_bytes(flipped(whole, where))
            with pytest.raises(SnapshotCorrupt):
                place.take(manifest)
        file.write_bytes(whole)
        assert unpickled == [], f"unpickled though `{name}` was damaged"
    assert place.take(manifest).digest() == original.digest()
    assert len(unpickled) == 1


def test_a_part_of_another_size_than_its_manifest_says_is_refused(
    original: Shard, place: Place, unpickled: list[bytes]
) -> None:
    tables, _ = cut(lay_down(original))
    tables["keys"] = msgspec.structs.replace(tables["keys"], size=tables["keys"].size + 1)
    with pytest.raises(SnapshotCorrupt, match="`keys`"):
        place.take(place.put(original, parts=tables))
    assert unpickled == []


def test_a_snapshot_signed_by_another_key_is_refused(
    original: Shard, place: Place, unpickled: list[bytes]
) -> None:
    stranger = Signer(Ed25519PrivateKey.generate())
    manifest = place.put(original, signer=stranger)
    with pytest.raises(SnapshotCorrupt, match=f"not signed by the key {place.verifier.name}"):
        place.take(manifest)
    with pytest.raises(SnapshotCorrupt, match="not signed"):
        read_serving(place.store, 0, manifest.snapshot, place.verifier)
    assert unpickled == []


def test_a_manifest_of_another_partition_or_snapshot_is_refused(
    original: Shard, place: Place
) -> None:
    manifest = place.put(original)
    envelope = place.store.get_manifest(0, manifest.snapshot)
    place.store.put_manifest(1, manifest.snapshot, envelope)
    place.store.put_manifest(0, "newer", envelope)
    for partition, name in ((1, manifest.snapshot), (0, "newer")):
        with pytest.raises(SnapshotCorrupt, match=f"holds another one, {manifest.snapshot}"):
            read_manifest(place.store, partition, name, place.verifier)


def test_a_format_that_this_release_does_not_read_is_named(original: Shard, place: Place) -> None:
    with pytest.raises(SnapshotCorrupt, match=f"of format 1, this release reads {FORMAT}"):
        place.take(place.put(original, format=1))


# -- pickles ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Touch:
    """A pickle of it runs a command when it is read."""

    canary: str

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch '{self.canary}'",)


def test_a_pickle_that_names_a_command_is_refused_though_it_is_signed(
    original: Shard, place: Place, tmp_path: Path
) -> None:
    control, canary = tmp_path / "control", tmp_path / "canary"
    pickle.loads(pickle.dumps(Touch(str(control))))
    assert control.exists(), "the trap does not work"
    manifest = place.put(original, models=pickle.dumps({"bayes": Touch(str(canary))}))
    with pytest.raises(SnapshotCorrupt, match=r"`posix\.system`"):
        place.take(manifest)
    assert not canary.exists()


@pytest.mark.parametrize(
    "module, name",
    [
        ("builtins", "eval"), ("builtins", "getattr"), ("numpy", "ndarray.tofile"),
        ("numpy", "load"), ("learner.models", "pd.read_pickle"), ("river", "linear_model"),
        ("learner.snapshot", "pickle.loads"),
    ],
)  # fmt: skip
def test_a_pickle_knows_the_models_classes_and_no_others(module: str, name: str) -> None:
    texts = (bytes([0x8C, len(text)]) + text.encode() for text in (module, name))
    with pytest.raises(SnapshotCorrupt, match=name):
        load_models(b"\x80\x04" + b"".join(texts) + b"\x93.")  # STACK_GLOBAL, STOP


@pytest.mark.parametrize("name", ["inspect.os.system", "inspect", "Base.__subclasses__"])
def test_a_foreign_models_package_lends_nothing_that_is_not_its_own(name: str) -> None:
    texts = (bytes([0x8C, len(text)]) + text.encode() for text in ("river.base.base", name))
    data = b"\x80\x04" + b"".join(texts) + b"\x93."
    with pytest.raises(SnapshotForeign, match="no model is"):
        load_models(data, ["river.linear_model.LinearRegression"])


# -- other settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"grace_s": 60}, "grace_s: 0, now 60"),
        ({"timezone": "Asia/Tokyo"}, "timezone: 'UTC', now 'Asia/Tokyo'"),
        ({"horizon": 5}, "horizon: 28, now 5"),
        ({"challengers": ()}, "challengers: "),
        ({"partitions": 2}, "partitions: 1, now 2"),
    ],
)
def test_a_snapshot_of_other_settings_is_refused_by_their_names(
    original: Shard, place: Place, unpickled: list[bytes], changed: dict[str, Any], said: str
) -> None:
    manifest = place.put(original)
    with pytest.raises(FingerprintMismatch, match=said):
        place.take(manifest, replace(SETTINGS, **changed))
    assert unpickled == []


def test_settings_that_change_no_state_may_change(original: Shard, place: Place) -> None:
    manifest = place.put(original)
    other = Settings(partitions=1, grace_s=0, snapshot_interval_s=1.0, api_key="k", port=1)
    assert place.take(manifest, other).digest() == original.digest()


def test_models_of_another_river_are_not_unpickled(
    original: Shard, place: Place, unpickled: list[bytes]
) -> None:
    older = {**versions(), "river": "0.22.0"}
    taken = place.take(place.put(original, versions=older))
    assert list(taken.models) == list(original.models)
    assert unpickled == []


# -- what is written and read again ----------------------------------------------------------


def test_without_a_close_only_the_window_is_written_anew(shard: Shard, place: Place) -> None:
    first = place.put(shard)
    more = Sale(id="one more", source="till", time=at(DAYS - 1, 13), store="s", product="p0",
                quantity=3)  # fmt: skip
    fold(shard, [[more]])
    second = place.put(shard, parent=first.snapshot)
    fresh = {name for name, part in second.parts.items() if part != first.parts[name]}
    assert fresh == {"window", "identities", "open"}
    assert second.digest != first.digest
    fold(shard, days(DAYS, DAYS + 1))
    third = place.put(shard, parent=second.snapshot)
    assert third.parts["ring.units"] != second.parts["ring.units"]


def test_what_is_served_is_read_without_unpickling_anything(
    original: Shard, place: Place, unpickled: list[bytes], tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    manifest = place.put(original, models=pickle.dumps(Touch(str(canary))))
    for digest in manifest.parts["models"].chunks:
        place.chunk_file(digest).unlink()  # and it is not even fetched
    served = read_serving(place.store, 0, manifest.snapshot, place.verifier)
    assert served.rows == original.panel.rows
    assert np.array_equal(served.mean, original.forecast())
    assert np.array_equal(served.sold, original.open_part().sold)
    assert (served.origin, served.position) == (original.panel.last, original.position)
    assert served.scored == SETTINGS.scored_horizons
    assert served.categories[served.rows["s", "p1"]] == "fruit"
    assert unpickled == [] and not canary.exists()


def test_history_tells_the_promotion_and_returns_of_each_bucket(
    original: Shard, place: Place
) -> None:
    manifest = place.put(original)
    served = read_serving(place.store, 0, manifest.snapshot, place.verifier)
    past = served.past(served.rows["s", "p2"], 25)
    offered = past.bucket >= original.calendar.index(time_us(at(20)))
    assert 0 < offered.sum() < 25
    assert np.array_equal(past.promotion, offered)
    back = np.where(past.bucket == original.calendar.index(time_us(at(25))), 1.5, 0.0)
    assert np.array_equal(past.returns, back)
    other = served.past(served.rows["s", "p0"], 25)
    assert not other.returns.any()


def test_only_parts_that_changed_are_fetched_to_serve(shard: Shard, place: Place) -> None:
    first = place.put(shard)
    served = read_serving(place.store, 0, first.snapshot, place.verifier)
    more = Sale(id="one more", source="till", time=at(DAYS - 1, 13), store="s", product="p0",
                quantity=3)  # fmt: skip
    fold(shard, [[more]])
    second = place.put(shard, parent=first.snapshot)
    place.store.fetched.clear()
    newer = read_serving(place.store, 0, second.snapshot, place.verifier, served)
    assert place.store.fetched == list(second.parts["open"].chunks)
    row = served.rows["s", "p0"]
    assert newer.sold[0, row] == served.sold[0, row] + 3
    assert newer.units is served.units
    place.store.fetched.clear()
    read_serving(place.store, 0, second.snapshot, place.verifier, newer)
    assert place.store.fetched == []


def test_what_is_served_is_checked_as_well(original: Shard, place: Place) -> None:
    manifest = place.put(original)
    file = place.chunk_file(manifest.parts["forecast"].chunks[0])
    file.write_bytes(flipped(file.read_bytes(), 50))
    with pytest.raises(SnapshotCorrupt):
        read_serving(place.store, 0, manifest.snapshot, place.verifier)
