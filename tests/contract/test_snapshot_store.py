"""What every SnapshotStore promises, on a folder and on each Redis server there is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
import redis

from infra.redis_server import RedisServer
from learner.adapters import open_store
from learner.pointers import encode
from learner.store import Pointer, Pointers, SnapshotStore, Standstill
from stream.errors import (
    SnapshotCorrupt,
    SnapshotMissing,
    StoreError,
)
from stream.settings import Settings
from tests.contract.snapshot_kits import HOUR_S, A, B, C, Kit, folder_kit, publish, put, redis_kit
from tests.redis_fixtures import redis_binaries


@pytest.fixture(params=["folder", *redis_binaries()])
def kit(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    redis_servers: Callable[[str], RedisServer],
    redis_prefix: str,
) -> Iterator[Kit]:
    if request.param == "folder":
        made = folder_kit(tmp_path / "snapshots")
    else:
        made = redis_kit(redis_servers(redis_binaries()[request.param]).url, redis_prefix)
    with made as kit:
        yield kit


@pytest.fixture
def store(kit: Kit) -> SnapshotStore:
    return kit.reopen()


# chunks


@pytest.mark.parametrize("data", [b"", b"\x00\xff\r\n", os.urandom(1 << 20)], ids=len)
def test_a_chunk_comes_back_as_it_was_put(store: SnapshotStore, data: bytes) -> None:
    digest = put(store, data)
    assert put(store, data) == digest
    assert store.get_chunk(digest) == data


def test_missing_names_the_chunks_that_are_not_there(store: SnapshotStore) -> None:
    here, there = put(store, b"here"), sha256(b"there").hexdigest()
    assert store.missing([here, there]) == {there}
    assert store.missing([here]) == set()
    assert store.missing([]) == set()


@pytest.mark.parametrize("digest", [sha256(b"never").hexdigest(), "../../lock", "", "0" * 63])
def test_a_chunk_never_put_is_missing(store: SnapshotStore, digest: str) -> None:
    put(store, b"another")
    with pytest.raises(SnapshotMissing):
        store.get_chunk(digest)
    assert store.missing([digest]) == {digest}


def test_a_chunk_is_not_kept_under_what_is_no_digest(store: SnapshotStore) -> None:
    with pytest.raises(StoreError, match="not a hex SHA-256"):
        store.put_chunk("../escape", b"data")


@pytest.mark.parametrize("damaged", [b"", b"goo", b"evil"])
def test_a_damaged_chunk_is_refused_and_can_be_put_again(kit: Kit, damaged: bytes) -> None:
    store = kit.reopen()
    digest = put(store, b"good")
    kit.overwrite_chunk(digest, damaged)
    with pytest.raises(SnapshotCorrupt, match=digest):
        store.get_chunk(digest)
    assert store.missing([digest]) == {digest}
    put(store, b"good")
    assert store.missing([digest]) == set()
    assert kit.reopen().get_chunk(digest) == b"good"


# manifests


def test_a_manifest_comes_back_as_it_was_put(store: SnapshotStore) -> None:
    store.put_manifest(3, "a", b"\x00envelope\xff")
    assert store.get_manifest(3, "a") == b"\x00envelope\xff"


@pytest.mark.parametrize("snapshot", ["b", "../p0/pointers", "", "*"])
def test_a_manifest_never_put_is_missing(store: SnapshotStore, snapshot: str) -> None:
    store.put_manifest(0, "a", b"envelope")
    with pytest.raises(SnapshotMissing):
        store.get_manifest(0, snapshot)
    with pytest.raises(SnapshotMissing):
        store.get_manifest(1, "a")


@pytest.mark.parametrize("snapshot", ["", "../a", "a/b", ".a", "a" * 129])
def test_an_id_that_is_no_file_name_is_refused(store: SnapshotStore, snapshot: str) -> None:
    with pytest.raises(StoreError, match="id of a snapshot"):
        store.put_manifest(0, snapshot, b"envelope")


def test_snapshots_are_listed_in_the_order_they_were_put(kit: Kit) -> None:
    store = kit.reopen()
    for name in ("m", "z", "a"):
        store.put_manifest(0, name, b"envelope")
    store.put_manifest(1, "other", b"envelope")
    store.put_manifest(0, "m", b"again")
    assert store.snapshots(0) == ["m", "z", "a"]
    store.delete(0, ["z"])
    later = kit.reopen()
    later.put_manifest(0, "b", b"envelope")
    assert later.snapshots(0) == ["m", "a", "b"]
    assert later.get_manifest(0, "m") == b"again"
    assert later.snapshots(7) == []
    later.delete(0, ["m"])
    assert later.snapshots(0) == ["a", "b"]


# head


def test_a_partition_without_a_snapshot_has_empty_pointers(store: SnapshotStore) -> None:
    store.put_manifest(0, "a", b"envelope")
    assert store.pointers(0) == Pointers()
    assert store.partitions() == []


def test_partitions_are_those_with_pointers(store: SnapshotStore) -> None:
    for partition in (10, 2, 0):
        publish(store, A, partition=partition)
    assert store.partitions() == [0, 2, 10]


def test_active_follows_head(store: SnapshotStore) -> None:
    publish(store, A)
    assert store.pointers(0) == Pointers(head=A, active=A)
    publish(store, A, B)
    assert store.pointers(0) == Pointers(head=B, active=B)


def test_head_moves_from_its_own_parent_only(store: SnapshotStore) -> None:
    publish(store, A, B)
    assert not store.move_head(0, "a", C)
    assert not store.move_head(0, None, C)
    assert store.pointers(0).head == B
    assert not store.move_head(1, "a", B)
    assert store.pointers(1) == Pointers()


@pytest.mark.parametrize("to", [Pointer("c", 0, 9), Pointer("c", 0, 20), Pointer("c", -1, 99)])
def test_head_never_goes_back(store: SnapshotStore, to: Pointer) -> None:
    publish(store, A, B)
    assert not store.move_head(0, "b", to)
    assert store.pointers(0).head == B


def test_a_later_lineage_beats_a_later_position(store: SnapshotStore) -> None:
    publish(store, A, B)
    replayed = Pointer("r", 1, 5)
    assert store.move_head(0, "b", replayed)
    assert store.pointers(0).head == replayed
    assert not store.move_head(0, "r", C)


def test_a_repeated_move_of_head_is_true_and_changes_nothing(store: SnapshotStore) -> None:
    publish(store, A, B)
    before = store.pointers(0)
    assert store.move_head(0, "a", B)
    assert store.move_head(0, "b", B)
    assert store.pointers(0) == before


def test_of_many_that_move_head_at_once_one_wins(kit: Kit) -> None:
    stores = [kit.reopen() for _ in range(8)]
    publish(stores[0], A)
    parent = A
    for round_ in range(1, 6):
        ready = threading.Barrier(len(stores))
        tos = [Pointer(f"{round_}-{i}", 0, 100 * round_ + i) for i in range(len(stores))]

        def race(
            store: SnapshotStore,
            to: Pointer,
            ready: threading.Barrier = ready,
            parent: str = parent.snapshot,
        ) -> bool:
            ready.wait(30)
            return store.move_head(0, parent, to)

        with ThreadPoolExecutor(len(stores)) as pool:
            won = list(pool.map(race, stores, tos))
        assert won.count(True) == 1
        parent = tos[won.index(True)]
        assert stores[0].pointers(0) == Pointers(head=parent, active=parent)


# active


def test_a_frozen_active_stays_while_head_moves(store: SnapshotStore) -> None:
    publish(store, A, B)
    assert store.move_active(0, A, "op-1", 0)
    assert store.move_head(0, "b", C)
    assert store.pointers(0) == Pointers(head=C, active=A, frozen_by="op-1", control_offset=0)


def test_resume_jumps_to_head_and_follows_it_again(store: SnapshotStore) -> None:
    publish(store, A, B)
    assert store.move_active(0, A, "op-1", 3)
    assert store.move_active(0, None, None, 4)
    assert store.pointers(0) == Pointers(head=B, active=B, control_offset=4)
    assert store.move_head(0, "b", C)
    assert store.pointers(0) == Pointers(head=C, active=C, control_offset=4)


def test_operations_apply_in_the_order_of_the_control_log_and_once(store: SnapshotStore) -> None:
    publish(store, A, B)
    assert store.move_active(0, A, "op-5", 5)
    frozen = store.pointers(0)
    assert not store.move_active(0, A, "op-5", 5)
    assert not store.move_active(0, None, None, 4)
    assert not store.move_active(0, B, "op-3", 3)
    assert store.pointers(0) == frozen


@pytest.mark.parametrize(("to", "by"), [(A, None), (None, "op-1")])
def test_half_a_freeze_is_refused(store: SnapshotStore, to: Pointer | None, by: str | None) -> None:
    publish(store, A)
    with pytest.raises(ValueError, match="a freeze names"):
        store.move_active(0, to, by, 1)
    assert store.pointers(0) == Pointers(head=A, active=A)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: b"{}",
        lambda data: data.replace(b'"position":10', b'"position":"10"'),
        lambda data: data.replace(b"{", b'{"extra":1,', 1),
        lambda data: b"\xff" + data,
    ],
    ids=["empty", "truncated", "emptied", "ill-typed", "extended", "not-text"],
)
def test_damaged_pointers_are_refused(
    kit: Kit, store: SnapshotStore, damage: Callable[[bytes], bytes]
) -> None:
    publish(store, A)
    kit.overwrite_pointers(0, damage(encode(store.pointers(0))))
    with pytest.raises(SnapshotCorrupt, match="backup"):
        store.pointers(0)
    with pytest.raises(SnapshotCorrupt):
        store.move_head(0, "a", B)


# standstills


def test_a_standstill_is_told_until_it_is_over(kit: Kit, store: SnapshotStore) -> None:
    one, other = (Standstill(at, "ZeroDivisionError: ü", "skip", 10**15) for at in (7, None))
    assert store.standstills() == {}
    store.put_standstill(3, None)
    store.put_standstill(0, other)
    for _ in range(2):
        store.put_standstill(0, one)
        store.put_standstill(12, other)
    assert kit.reopen().standstills() == {0: one, 12: other}
    assert store.partitions() == [] and store.pointers(0) == Pointers()
    publish(store, A)
    assert store.standstills().keys() == {0, 12} and store.snapshots(0) == ["a"]
    for _ in range(2):
        store.put_standstill(0, None)
    assert kit.reopen().standstills() == {12: other}


def test_a_standstill_that_cannot_be_read_hides_no_other(kit: Kit, store: SnapshotStore) -> None:
    one = Standstill(7, "an error", "skip", 1)
    for partition in (0, 1):
        store.put_standstill(partition, one)
    kit.overwrite_standstill(0, b"{}")
    assert store.standstills() == {1: one}
    store.put_standstill(0, one)
    assert store.standstills() == {0: one, 1: one}


# retention


def test_delete_spares_head_and_active(store: SnapshotStore) -> None:
    publish(store, A, B, C)
    store.move_active(0, A, "op-1", 0)
    store.delete(0, ["a", "b", "c", "never"])
    assert store.snapshots(0) == ["a", "c"]
    with pytest.raises(SnapshotMissing):
        store.get_manifest(0, "b")
    assert store.get_manifest(0, "a") == b"a"
    store.delete(0, ["b"])
    store.delete(5, ["a"])


def test_sweep_spares_chunks_that_are_kept_or_young(kit: Kit, store: SnapshotStore) -> None:
    kept, young, old = (put(store, name) for name in (b"kept", b"young", b"old"))
    for digest in (kept, old):
        kit.age(digest, 2 * HOUR_S)
    kit.age(young, HOUR_S // 2)
    assert store.sweep([kept]) == 1
    assert store.missing([kept, young, old]) == {old}
    assert store.sweep([kept]) == 0


def test_sweep_spares_a_chunk_that_a_writer_was_told_is_there(kit: Kit) -> None:
    writer, sweeper = kit.reopen(), kit.reopen()
    digest = put(writer, b"of an old snapshot")
    kit.age(digest, 2 * HOUR_S)
    assert writer.missing([digest]) == set()
    assert sweeper.sweep([]) == 0
    assert writer.get_chunk(digest)


def test_all_survives_reopening(kit: Kit) -> None:
    store = kit.reopen()
    digest = put(store, b"data")
    publish(store, A, B)
    store.move_active(0, A, "op-1", 7)
    store.close()
    store.close()
    again = kit.reopen()
    assert again.get_chunk(digest) == b"data"
    assert again.snapshots(0) == ["a", "b"]
    assert again.partitions() == [0]
    assert again.pointers(0) == Pointers(head=B, active=A, frozen_by="op-1", control_offset=7)


def test_info_says_kind_place_and_durability(store: SnapshotStore) -> None:
    assert {"kind", "place", "durability"} <= set(store.info())


def test_settings_name_the_store(tmp_path: Path, redis_url: str, redis_prefix: str) -> None:
    folder = open_store(Settings(data_dir=str(tmp_path)))
    assert folder.info()["place"] == str(tmp_path / "snapshots")
    on_redis = open_store(Settings(store="redis", redis_url=redis_url, redis_prefix=redis_prefix))
    assert on_redis.info()["kind"] == "redis"
    publish(on_redis, A)
    with redis.Redis.from_url(redis_url) as client:
        assert client.exists(f"{redis_prefix}:{{p0}}:pointers")
    on_redis.close()
