"""Redis that dies, hangs, is full or loses what it had: learning goes on, nothing is torn."""

from __future__ import annotations

import os
import pickle
import re
import time
from pathlib import Path

import msgspec
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.redis_server import RedisServer
from learner.keys import load_signer
from learner.manifest import Signer
from learner.parts import cut
from learner.snapshot import describe, lay_down
from learner.store import Pointer
from tests.chaos.corpus import days
from tests.chaos.proxy import Proxy
from tests.chaos.rig import PARTITIONS, SHORT, Rig, long, seed_of, until

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


def test_redis_dies_drops_replies_answers_late_and_is_cut_off(
    rig: Rig, redis_server: RedisServer
) -> None:
    world = days(seed_of("redis"), 40, PARTITIONS)
    with Proxy(redis_server.port) as proxy:
        rig.start("a", redis_url=f"redis://127.0.0.1:{proxy.port}/0")
        rig.start("b", redis_url=f"redis://127.0.0.1:{proxy.port}/0", aside_series=0)
        rig.shared("a", "b")

        def some(count: int) -> None:
            for _ in range(count):
                rig.send(next(world))
                time.sleep(0.1)

        some(4)
        for _ in range(1 if SHORT else 5):
            redis_server.kill()  # in the midst of whatever it was told
            some(2)
            redis_server.start()
            some(2)
        proxy.deaf = True  # done, but nobody hears of it
        some(3)
        proxy.cut()
        some(2)
        proxy.mend()
        some(2)
        proxy.delay_s = 2.0 if SHORT else 10.0
        some(3)
        time.sleep(1 if SHORT else 30)
        proxy.mend()
        for entries in world:
            rig.send(entries)
        rig.settle()
        rig.verify()


def test_redis_without_memory_is_waited_for(rig: Rig, redis_server: RedisServer) -> None:
    world = days(seed_of("OOM"), 12, PARTITIONS)
    rig.start("a")
    rig.shared("a")
    for _ in range(4):
        rig.send(next(world))
    rig.settle()
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", "1mb")
        before = rig.heads()
        for _ in range(4):
            rig.send(next(world))
        until(lambda: "OOM" in rig.said("a"), "a refusal")
        assert rig.heads() == before
        client.config_set("maxmemory", "0")
    for entries in world:
        rig.send(entries)
    rig.settle()
    rig.verify()


def test_redis_that_cannot_save_is_waited_for(rig: Rig, redis_server: RedisServer) -> None:
    """A folder where its dump would be: it refuses writes (MISCONF) until it is gone."""
    world = days(seed_of("MISCONF"), 12, PARTITIONS)
    rig.start("a")
    rig.shared("a")
    for _ in range(4):
        rig.send(next(world))
    rig.settle()
    with redis.Redis.from_url(redis_server.url) as client:
        blocked = (
            Path(client.config_get("dir")["dir"]) / client.config_get("dbfilename")["dbfilename"]
        )
        (blocked / "full").mkdir(parents=True)
        client.config_set("save", "3600 1")
        client.bgsave()
        until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "no dump")
        before = rig.heads()
        for _ in range(4):
            rig.send(next(world))
        until(lambda: "MISCONF" in rig.said("a"), "a refusal")
        assert rig.heads() == before
        rig.alive()
        client.config_set("save", "")
        (blocked / "full").rmdir()
        blocked.rmdir()
    for entries in world:
        rig.send(entries)
    rig.settle()
    rig.verify()


@pytest.mark.parametrize("share", [0.5, pytest.param(0.9, marks=long)])
def test_redis_that_has_lost_its_tail_is_brought_up_again(
    rig: Rig, redis_server: RedisServer, share: float
) -> None:
    """Its append-only file is cut short in the midst of a command: heads go back, or are gone."""
    world = days(seed_of("AOF"), 16, PARTITIONS)
    rig.start("a")
    rig.shared("a")
    for _ in range(8):
        rig.send(next(world))
        time.sleep(0.3)
    rig.settle()
    with redis.Redis.from_url(redis_server.url) as client:
        folder = Path(client.config_get("dir")["dir"])
    before = rig.heads()
    redis_server.kill()
    (log,) = folder.glob("appendonlydir/*.incr.aof")
    os.truncate(log, int(log.stat().st_size * share))
    redis_server.start()
    assert rig.heads() != before, "something was lost"
    for entries in world:
        rig.send(entries)
    rig.settle()
    rig.verify()


@long
def test_chunks_deleted_under_a_learner_are_put_again(rig: Rig, redis_server: RedisServer) -> None:
    world = days(seed_of("chunks"), 60, PARTITIONS)
    rig.start("a")
    rig.shared("a")
    for _ in range(5):
        rig.send(next(world))
    rig.settle()
    with redis.Redis.from_url(redis_server.url) as client:
        for key in client.scan_iter(f"{rig.settings.redis_prefix}:chunk:*"):
            client.unlink(key)
    for entries in world:  # the worker looks every ten publications or so
        rig.send(entries)
        time.sleep(0.3)
    rig.settle()
    rig.verify()


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("foreign key", "is not signed by"),
        pytest.param("flipped chunk", "does not match its digest", marks=long),
        pytest.param("swapped manifest", "holds another one", marks=long),
        ("own key", "no model is"),
    ],
)
def test_a_malicious_snapshot_is_never_unpickled_and_ends_no_learner(
    rig: Rig, how: str, said: str, tmp_path: Path
) -> None:
    """The last one is signed by the owner's own key: there the list of classes is the fence."""
    rig.start("a")
    for entries in days(seed_of("canary"), 4, PARTITIONS):
        rig.send(entries)
        rig.settle()  # so that there is an older snapshot
    assert rig.end("a") != 0
    canary = tmp_path / "canary"
    manifest, shard = rig.head(0)
    refused = manifest.snapshot
    if how == "swapped manifest":
        other = rig.store.pointers(1).head
        assert other is not None
        envelope = rig.store.get_manifest(1, other.snapshot)
        rig.store.put_manifest(0, manifest.snapshot, envelope)
    elif how == "flipped chunk":
        digest = manifest.parts["models"].chunks[0]
        whole = bytearray(rig.store.get_chunk(digest))
        whole[len(whole) // 2] ^= 1
        rig.store.put_chunk(digest, bytes(whole))
    else:
        parts = {**lay_down(shard), "models": [pickle.dumps(Canary(str(canary)))]}
        tables, chunks = cut(parts)
        shard.position += 1
        signer = (
            load_signer(rig.settings) if how == "own key" else Signer(Ed25519PrivateKey.generate())
        )
        bad = describe(shard, tables, topic_id=manifest.topic_id, lineage=manifest.lineage,
                       parent=manifest.snapshot, created_us=0)  # fmt: skip
        bad = msgspec.structs.replace(bad, position=manifest.position)
        refused = bad.snapshot
        for digest, chunk in chunks.items():
            rig.store.put_chunk(digest, chunk)
        rig.store.put_manifest(0, bad.snapshot, signer.seal(bad))
        assert rig.store.move_head(
            0, manifest.snapshot, Pointer(bad.snapshot, bad.lineage, shard.position)
        )
    rig.start("b")
    # No head is worth an end: the partition goes on from an older one, or from the log.
    until(lambda: rig.head_moved(0, refused), lambda: rig.trace("b"), 60)
    assert re.search(said, rig.said("b")), rig.said("b")
    rig.settle()
    rig.verify()
    assert not canary.exists()
