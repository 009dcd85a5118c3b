"""SnapshotStore on Redis or Valkey.

```
salescast:chunk:<digest>     a chunk, a string of 1 to 8 MB
salescast:partitions         set of the partitions that were published
salescast:standstills        hash of what partitions stand still at, as JSON, by partition
salescast:{p0}:pointers      head and active, as JSON
salescast:{p0}:manifests     hash of manifests by snapshot id
salescast:{p0}:order         snapshot ids by the order of putting
salescast:{p0}:sequence      its last number
```
Guarantees: ``head`` and ``active`` move by a compare-and-set of the whole value, so a move whose
reply was lost may be repeated; where the server has WAITAOF and its AOF is on, a move of ``head``
returns only once the server says that it is on disk, and with it all that was written before. A
server that may evict keys is refused at the first use. Leaves out: replication (a failover may
lose what was acknowledged), Redis Cluster's redirections, and servers that answer WAITAOF too
early (with ``appendfsync everysec``: Redis 7.4 and Valkey 9.1 up to a second; not with ``always``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from learner import pointers as rules
from learner.store import Pointer, Pointers, Replaying, Standstill
from stream.errors import SettingsError, SnapshotCorrupt, StoreError, StoreUnavailable

#: An unused chunk younger than this may belong to a snapshot being written.
YOUNG_S = 3600
CONNECT_TIMEOUT_S = 2.0
SOCKET_TIMEOUT_S = 5.0
#: Less than the socket's; ``appendfsync everysec`` needs up to one second.
WAITAOF_TIMEOUT_MS = 4000

#: Replies that go away by themselves or by what an operator does to the server.
_TRANSIENT = {
    "OOM": "Give Redis more memory (maxmemory), or set snapshots_kept_days lower",
    "MISCONF": "Free disk space for Redis and see its log",
    "READONLY": "Point redis_url at the primary, not at a replica",
    "NOREPLICAS": "Bring back the replicas that min-replicas-to-write asks for",
    "LOADING": "Redis is reading its data from disk",
    "BUSY": "A script blocks Redis: see SLOWLOG and SCRIPT KILL",
    "MASTERDOWN": "Wait for the failover, or bring back the primary",
    "CLUSTERDOWN": "Bring back the nodes of the cluster",
    "TRYAGAIN": "A slot is being moved",
}
_CODE = re.compile(r"\b(" + "|".join(_TRANSIENT) + r")\b")

#: KEYS: pointers. ARGV: value expected ('' for none), new value. Writes even if they are equal,
#: so that WAITAOF after a repeated move has a write of its own connection to wait for.
_SWAP = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
#: KEYS: pointers, manifests, order. ARGV: pointers expected, snapshots to forget.
_DELETE = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
for i = 2, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[i])
  redis.call('ZREM', KEYS[3], ARGV[i])
end
return 1
"""
#: KEYS: a chunk. ARGV: seconds. One step, so that no chunk goes after `missing` has touched it.
_DROP = """
local idle = redis.call('OBJECT', 'IDLETIME', KEYS[1])
if not idle or idle <= tonumber(ARGV[1]) then return 0 end
return redis.call('UNLINK', KEYS[1])
"""


class RedisStore:
    """Snapshots on one Redis (7.0 or newer) or Valkey server; connects at the first use.

    Parameters
    ----------
    url
        ``redis://``, ``rediss://`` or ``unix://``, with user and password if there are any.
    prefix
        What every key begins with.

    Raises
    ------
    SettingsError
        The URL is not one of these.
    StoreUnavailable
        From every method: no connection, no answer in time, or a reply that says "not now"
        (out of memory, cannot persist, read-only).
    StoreError
        From every method: wrong password, not permitted, or keys could be evicted.
    """

    def __init__(self, url: str, prefix: str) -> None:
        try:
            self._client: Any = redis.Redis.from_url(
                url,
                protocol=2,
                socket_timeout=SOCKET_TIMEOUT_S,
                socket_connect_timeout=CONNECT_TIMEOUT_S,
                # The worker goes on trying; here, one more time hides a dropped connection.
                retry=Retry(ExponentialBackoff(base=0.05, cap=0.5), 1, (redis.ConnectionError,)),
            )
        except ValueError:  # its text may hold part of the password
            raise SettingsError(
                "setting `redis_url` is not a Redis URL",
                remedy="Use redis://[user:password@]host:port/db, rediss://… or unix:///path",
            ) from None
        self._prefix = prefix
        options = self._client.connection_pool.connection_kwargs
        self._place = options.get("path") or (
            f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"
        )
        self._checked = False
        # Chunks this process read and found damaged: reported missing, so that they are put anew.
        self._damaged: set[str] = set()

    def check(self) -> None:
        """Ask the server whether it keeps what it is given; the first use does so too.

        Raises
        ------
        StoreError
            ``maxmemory-policy`` would evict snapshots.
        """
        with self._errors("check the store"):
            # INFO and not CONFIG GET, which managed servers refuse.
            policy = self._client.info("memory").get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreError(
                f"Redis at {self._place} may evict snapshots: its maxmemory-policy is {policy}",
                remedy="Set maxmemory-policy noeviction in redis.conf",
            )
        self._checked = True

    def missing(self, digests: Collection[str]) -> set[str]:
        """Those of the chunks that the store does not hold; the age of the others starts anew.

        It looks at keys, not bytes, except that a chunk which this object found corrupt counts
        as missing.
        """
        asked = list(digests)
        with self._asking("look for chunks"), self._client.pipeline(transaction=False) as pipe:
            for digest in asked:
                pipe.touch(self._chunk(digest))
            held = pipe.execute()
        absent = {digest for digest, found in zip(asked, held, strict=True) if not found}
        return absent | self._damaged.intersection(asked)

    def put_chunk(self, digest: str, data: bytes) -> None:
        """Keep a chunk under the hex SHA-256 of its bytes; what was there is replaced."""
        if not rules.is_digest(digest):
            raise StoreError(f"{digest[:80]!r} is not a hex SHA-256")
        with self._asking("put a chunk"):
            self._client.set(self._chunk(digest), data)
        self._damaged.discard(digest)

    def get_chunk(self, digest: str) -> bytes:
        """A chunk's bytes, checked against its digest; for ``sweep`` this makes it young."""
        with self._asking("get a chunk"):
            data: bytes | None = self._client.get(self._chunk(digest))
        if data is None:
            raise rules.no_such_chunk(digest, self._where)
        try:
            return rules.checked(digest, data, self._where)
        except SnapshotCorrupt:
            self._damaged.add(digest)
            raise

    def put_manifest(self, partition: int, snapshot: str, envelope: bytes) -> None:
        """Keep a signed manifest; put again, it is replaced and keeps its place in the order."""
        if not rules.is_snapshot_id(snapshot):
            raise StoreError(f"{snapshot[:140]!r} cannot be the id of a snapshot")
        with self._asking("put a manifest"):
            number = self._client.incr(self._key(partition, "sequence"))
            with self._client.pipeline() as pipe:
                pipe.hset(self._key(partition, "manifests"), snapshot, envelope)
                pipe.zadd(self._key(partition, "order"), {snapshot: number}, nx=True)
                pipe.execute()

    def get_manifest(self, partition: int, snapshot: str) -> bytes:
        """A signed manifest as it was put."""
        with self._asking("get a manifest"):
            envelope: bytes | None = self._client.hget(self._key(partition, "manifests"), snapshot)
        if envelope is None:
            raise rules.no_such_snapshot(partition, snapshot, self._where)
        return envelope

    def snapshots(self, partition: int) -> list[str]:
        """Ids of the manifests kept, in the order they were put."""
        with self._asking("list the snapshots"):
            return [name.decode() for name in self._client.zrange(
                self._key(partition, "order"), 0, -1)]  # fmt: skip

    def partitions(self) -> list[int]:
        """Partitions that have pointers, ascending."""
        with self._asking("list the partitions"):
            listed = sorted(int(name) for name in self._client.smembers(self._partitions))
            with self._client.pipeline(transaction=False) as pipe:
                for partition in listed:
                    pipe.exists(self._key(partition, "pointers"))
                # Listed first, published second: a crash between leaves a name without pointers.
                return [p for p, there in zip(listed, pipe.execute(), strict=True) if there]

    def pointers(self, partition: int) -> Pointers:
        """Where the partition stands."""
        return self._read(partition)[1]

    def move_head(
        self, partition: int, parent: str | None, to: Pointer, replaying: Replaying | None = None
    ) -> bool:
        """Publish; see ``SnapshotStore.move_head``.

        Raises
        ------
        StoreUnavailable
            It may have moved, but not durably for all that is known: call again with the same.
        """
        return self._move(
            partition, lambda now: rules.moved_head(now, parent, to, replaying), durably=True
        )

    def move_active(
        self, partition: int, to: Pointer | None, frozen_by: str | None, control_offset: int
    ) -> bool:
        """Freeze or resume; see ``SnapshotStore.move_active``.

        After a lost reply a repeated call returns ``False``: what it asked is applied already.
        """
        return self._move(
            partition,
            lambda now: rules.moved_active(now, to, frozen_by, control_offset),
            durably=False,
        )

    def standstills(self) -> dict[int, Standstill]:
        """What partitions stand still at, as far as their owners have said."""
        with self._asking("read the standstills"):
            kept: dict[bytes, bytes] = self._client.hgetall(self._standstills)
        read = {int(name): rules.decode_standstill(data) for name, data in kept.items()}
        return {partition: one for partition, one in read.items() if one is not None}

    def put_standstill(self, partition: int, standstill: Standstill | None) -> None:
        """Say that a partition stands still; ``None``: it does no longer."""
        with self._asking("tell of a standstill"):
            if standstill is None:
                self._client.hdel(self._standstills, str(partition))
            else:
                data = msgspec.json.encode(standstill)
                self._client.hset(self._standstills, str(partition), data)

    def delete(self, partition: int, snapshots: Collection[str]) -> None:
        """Forget manifests, but never head and active."""
        keys = [self._key(partition, name) for name in ("pointers", "manifests", "order")]
        while True:
            raw, now = self._read(partition)
            names = sorted(set(snapshots) - rules.protected(now))
            with self._asking("delete manifests"):
                # 0: the pointers moved, and what they protect with them.
                if self._client.eval(_DELETE, len(keys), *keys, raw, *names):
                    return

    def sweep(self, keep: Collection[str]) -> int:
        """Delete chunks that no digest in ``keep`` names and that nobody used for an hour."""
        spared = {self._chunk(digest).encode() for digest in keep}
        pattern = re.sub(r"([*?\[\]\\^])", r"\\\1", self._prefix) + ":chunk:*"
        deleted = 0
        with self._asking("sweep"):
            for key in self._client.scan_iter(match=pattern, count=1000):
                if key not in spared:
                    deleted += self._client.eval(_DROP, 1, key, YOUNG_S)
        return deleted

    def info(self) -> Mapping[str, str]:
        """Kind, place and durability; no user, no password."""
        with self._asking("describe the server"):
            facts = self._client.info()
        name = facts.get("server_name", "redis")
        version = facts.get(f"{name}_version", facts.get("redis_version", "?"))
        if not facts.get("aof_enabled"):
            durability = "the server's own: its AOF is off, a crash loses what RDB has not saved"
        elif _has_waitaof(facts):
            durability = "AOF, WAITAOF: for certain only with appendfsync always"
        else:
            durability = "the server's own: AOF, no WAITAOF; for certain with appendfsync always"
        return {
            "kind": "redis",
            "place": f"{self._place}, keys {self._prefix}:*",
            "server": f"{name} {version}",
            "durability": durability,
        }

    def close(self) -> None:
        """Release the connections. Safe to call twice."""
        self._client.close()

    def _read(self, partition: int) -> tuple[bytes, Pointers]:
        key = self._key(partition, "pointers")
        with self._asking("read the pointers"):
            raw: bytes | None = self._client.get(key)
        if raw is None:
            return b"", Pointers()
        return raw, rules.decode(raw, f"{key} in {self._where}")

    def _move(
        self, partition: int, decide: Callable[[Pointers], Pointers | None], *, durably: bool
    ) -> bool:
        """1. decide on what is there; 2. swap it, if it is still there; 3. wait for the disk."""
        key = self._key(partition, "pointers")
        while True:
            # 1.
            raw, now = self._read(partition)
            moved = decide(now)
            if moved is None:
                return False
            with self._asking("move the pointers"), self._unretried() as ask:
                # 2.
                ask("SADD", self._partitions, partition)
                if ask("EVAL", _SWAP, 1, key, raw, rules.encode(moved)):
                    # 3.
                    if durably:
                        self._wait_for_disk(ask)
                    return True

    def _wait_for_disk(self, ask: Callable[..., Any]) -> None:
        """WAITAOF, where it can be had; it counts only the writes of its own connection."""
        try:
            local, _replicas = ask("WAITAOF", 1, 0, WAITAOF_TIMEOUT_MS)
        except redis.ResponseError as error:
            text = str(error).lower()
            if "unknown command" in text or "appendonly is disabled" in text:
                return
            raise
        if local < 1:
            raise StoreUnavailable(
                f"Redis at {self._place} did not bring the snapshot to its disk within "
                f"{WAITAOF_TIMEOUT_MS} ms",
                remedy="Check its disk, and that appendfsync is everysec or always",
            )

    @contextmanager
    def _unretried(self) -> Iterator[Callable[..., Any]]:
        """One connection for several commands; if it breaks, nothing is sent again.

        A client that reconnects in between would get WAITAOF's answer for a connection that
        has written nothing, which is always yes.
        """
        pool = self._client.connection_pool
        connection = pool.get_connection()

        def ask(*command: Any) -> Any:
            connection.send_command(*command)
            return connection.read_response()

        try:
            yield ask
        finally:
            pool.release(connection)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        if not self._checked:
            self.check()
        with self._errors(what):
            yield

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn the client's errors into ours: whether to wait, and what to do."""
        cannot = f"cannot {what}: Redis at {self._place}"
        try:
            yield
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
            raise StoreError(
                f"{cannot} refuses: {error}",
                remedy="Check user and password of redis_url, and the user's ACL",
            ) from error
        except redis.ResponseError as error:
            reply = str(error).rpartition("caused error: ")[2]
            status = getattr(error, "status_code", None) or ""
            if not reply.startswith(status):
                reply = f"{status} {reply}"
            code = _CODE.search(reply)
            if code is None:
                raise StoreError(f"{cannot} answers: {reply}") from error
            raise StoreUnavailable(
                f"{cannot} answers: {reply}",
                remedy=f"{_TRANSIENT[code[1]]}; Salescast goes on trying",
            ) from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise StoreUnavailable(f"{cannot} does not answer: {error}") from error

    @property
    def _where(self) -> str:
        return f"Redis at {self._place}"

    @property
    def _partitions(self) -> str:
        return f"{self._prefix}:partitions"

    @property
    def _standstills(self) -> str:
        return f"{self._prefix}:standstills"

    def _chunk(self, digest: str) -> str:
        return f"{self._prefix}:chunk:{digest}"

    def _key(self, partition: int, name: str) -> str:
        return f"{self._prefix}:{{p{partition}}}:{name}"


def _has_waitaof(facts: Mapping[str, Any]) -> bool:
    """Whether the server is Redis 7.2 or later; all of Valkey says it is compatible with 7.2."""
    major, minor, *_ = (*str(facts.get("redis_version", "0.0")).split("."), "0")
    return (int(major), int(minor)) >= (7, 2)
