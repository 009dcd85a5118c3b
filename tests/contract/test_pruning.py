"""Old snapshots go and their chunks with them, in a folder and on each Redis server there is."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learner.manifest import FORMAT, Envelope, Manifest, Signer, Verifier
from learner.parts import Part
from learner.pruning import Pruner
from learner.store import Pointer, SnapshotStore
from stream.event import time_us
from stream.settings import Settings
from tests.contract.snapshot_kits import HOUR_S, Kit, put
from tests.contract.test_snapshot_store import kit, store

__all__ = ["kit", "store"]  # fixtures
HOUR_US = HOUR_S * 1_000_000
SIGNER = Signer(Ed25519PrivateKey.generate())
START = time_us(datetime(2026, 3, 1, tzinfo=UTC))


def pruner(store: SnapshotStore, signer: Signer = SIGNER, **chosen: Any) -> Pruner:
    chosen = {"snapshots_kept": 3, "snapshots_kept_days": 5, **chosen}
    return Pruner(Settings(**chosen), store, signer.verifier)


def snapshot(
    store: SnapshotStore, kit: Kit, hours: int, signer: Signer = SIGNER, **changed: Any
) -> str:
    """Put a snapshot that knows so many hours, with an old chunk of its own; its chunk's digest."""
    digest = put(store, f"{hours} {signer.verifier.name} {changed}".encode())
    kit.age(digest, 2 * HOUR_S)
    values: dict[str, Any] = {
        "format": FORMAT, "snapshot": f"h{hours}", "partition": 0, "topic_id": "t",
        "position": hours + 1, "watermark_us": START + hours * HOUR_US, "origin": None,
        "lineage": 1, "parent": None, "created_us": 0, "digest": "", "champion": "", "scores": [],
        "counts": {}, "operations": {}, "settings": {}, "versions": {}, "series": 0,
        "parts": {"all": Part(10, (digest,))},
    }  # fmt: skip
    made = Manifest(**values | changed)
    store.put_manifest(0, made.snapshot, signer.seal(made))
    return digest


def head(store: SnapshotStore, hours: int) -> None:
    now = store.pointers(0).head
    assert store.move_head(0, now.snapshot if now else None, Pointer(f"h{hours}", 1, hours + 1))


def test_one_an_hour_and_then_one_a_day_stay_with_their_chunks(
    store: SnapshotStore, kit: Kit
) -> None:
    one = pruner(store)
    chunks: dict[str, str] = {}
    for hours in [*range(0, 200, 6), *range(200, 248)]:
        chunks[f"h{hours}"] = snapshot(store, kit, hours)
        head(store, hours)
        if hours % 36 == 0:
            one.prune({"h42"})
    one.prune({"h42"})
    daily = [f"h{24 * day + 18}" for day in range(5, 8)]
    assert store.snapshots(0) == ["h42", *daily, *(f"h{n}" for n in range(200, 248))]
    gone = store.missing(chunks.values())
    assert gone == {chunks[name] for name in chunks.keys() - set(store.snapshots(0))}


def test_a_run_reads_the_manifests_that_are_new_and_no_others(
    store: SnapshotStore, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    get = type(store).get_manifest

    def counted(self: Any, partition: int, name: str) -> bytes:
        read.append(name)
        return get(self, partition, name)

    monkeypatch.setattr(type(store), "get_manifest", counted)
    one = pruner(store)
    for hours in range(30):
        snapshot(store, kit, hours)
        head(store, hours)
        one.prune(set())
    assert read == [f"h{hours}" for hours in range(30)]


def test_snapshots_that_cannot_be_read_keep_no_other_and_no_chunk_from_going(
    store: SnapshotStore, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    forgotten = Signer(Ed25519PrivateKey.generate())
    foreign = {hours: snapshot(store, kit, hours, forgotten) for hours in (0, 90, 91)}
    other = snapshot(store, kit, 92, format=FORMAT - 1)
    store.put_manifest(0, "torn", b"half a manif")
    sealed = Envelope("nobody", b"", b"{}")
    store.put_manifest(0, "empty", msgspec.msgpack.encode(sealed))
    for hours in range(93, 100):
        snapshot(store, kit, hours)
    head(store, 99)
    orphan = put(store, b"named by nobody")
    kit.age(orphan, 2 * HOUR_S)
    one = pruner(store, snapshots_kept_days=3)
    one.prune(set())
    assert {"h0", "torn", "empty"}.isdisjoint(store.snapshots(0)), "they are old"
    assert {"h90", "h91", "h92", "h93", "h99"} <= set(store.snapshots(0))
    assert store.missing([orphan, other, *foreign.values()]) == {orphan, foreign[0]}
    (said,) = caplog.messages
    assert "6 snapshots cannot be read" in said and "verify_key_file" in said
    snapshot(store, kit, 101)
    one.prune(set())
    assert len(caplog.messages) == 1


def test_a_key_that_comes_back_brings_its_snapshots_back(store: SnapshotStore, kit: Kit) -> None:
    """Its snapshots were thinned out among themselves by what they said, as if it were known."""
    second, keys = Ed25519PrivateKey.generate(), []
    signer = Signer(second, verifier := Verifier(second.public_key()))
    for hours in range(0, 96, 6):
        snapshot(store, kit, hours)
    snapshot(store, kit, 100, signer)
    head(store, 100)
    one = pruner(store, signer)
    one.prune(set())
    kept = store.snapshots(0)
    assert {"h18", "h42", "h54", "h90", "h100"} <= set(kept) and "h12" not in kept
    keys += [SIGNER.key().public_key(), second.public_key()]
    verifier._keys = Verifier(*keys)._keys
    one.prune(set())
    assert store.snapshots(0) == kept


def test_with_a_wrong_key_nothing_goes(store: SnapshotStore, kit: Kit) -> None:
    for hours in range(0, 1000, 50):
        snapshot(store, kit, hours)
    head(store, 950)
    before = store.snapshots(0)
    pruner(store, Signer(Ed25519PrivateKey.generate())).prune(set())
    assert store.snapshots(0) == before
