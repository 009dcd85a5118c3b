"""Stores under test, and what only their outside can do to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import redis

from learner.file_store import FileStore
from learner.redis_store import RedisStore
from learner.store import Pointer, SnapshotStore

A, B, C = (Pointer(name, 0, at) for name, at in (("a", 10), ("b", 20), ("c", 30)))
HOUR_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """A store under test, and what only its outside can do to it."""

    #: Another object on the same data, as another process would have.
    reopen: Callable[[], SnapshotStore]
    #: Make a chunk as old as so many seconds.
    age: Callable[[str, int], None]
    overwrite_chunk: Callable[[str, bytes], None]
    overwrite_pointers: Callable[[int, bytes], None]
    overwrite_standstill: Callable[[int, bytes], None]


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
        overwrite_standstill=lambda p, data: void(
            (root / f"p{p}" / "standstill.json").write_bytes(data)
        ),
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
            overwrite_standstill=lambda p, data: void(
                client.hset(f"{prefix}:standstills", str(p), data)
            ),
        )
    for store in opened:
        store.close()


def void(_value: object) -> None:
    """Drop a result."""


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
