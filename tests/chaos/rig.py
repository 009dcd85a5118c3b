"""Real learners on a real Kafka and Redis, a producer beside them, and what must hold afterwards.

What must hold: for every partition, digest, counts, position and forecast of the published head
equal those of one process that folded the same log undisturbed; counts equal the oracle's, which
shares no code with either; every item kept aside is in the dead letters. Leaves out: the faults.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.kafka.cluster import die_with_parent
from learner.adapters import open_store
from learner.keys import load_verifier, make_keys
from learner.manifest import Manifest, read_manifest
from learner.shard import Shard
from learner.snapshot import read_shard
from learner.store import SnapshotStore
from stream.adapters import open_log
from stream.errors import LogUnavailable, StoreUnavailable
from stream.log import Entry, EventLog, Record
from stream.settings import Settings
from tests.oracle import read as oracle

WAIT_S = 120.0
PARTITIONS = 4
#: A part of the chaos, that fits into CI.
SHORT = bool(os.environ.get("CHAOS_SHORT"))
#: What is left out of it, to keep it short.
long = pytest.mark.skipif(SHORT, reason="CHAOS_SHORT: only in the whole chaos")


def seed_of(test: str) -> int:
    """The seed of a test: ``CHAOS_SEED``, or one at random; printed, so that it can be had again.

    pytest shows what was printed where a test fails.
    """
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"{test}: again with CHAOS_SEED={seed}")
    return seed


def until(true: Callable[[], bool], what: Callable[[], str] | str, wait_s: float = WAIT_S) -> None:
    """Wait until something holds; fail after ``wait_s``."""
    end = time.monotonic() + wait_s
    while not true():
        if time.monotonic() > end:
            raise AssertionError(
                f"waited {wait_s:g} s for {what if isinstance(what, str) else what()}"
            )
        time.sleep(0.05)


class Rig:
    """A deployment of learners by name, and its log and store as seen from outside.

    Parameters
    ----------
    folder
        For keys, logs of the processes, and an embedded deployment's data.
    settings
        Beside a unique topic, group and prefix; ``learners`` are started with the same.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        name = f"c{uuid.uuid4().hex[:8]}"
        if not (folder / "signing.pem").exists():
            make_keys(folder / "signing.pem", folder / "verify.pem")
        self.values: dict[str, Any] = {
            "data_dir": str(folder / "data"),
            "topic_prefix": name,
            "kafka_group": name,
            "redis_prefix": name,
            "partitions": PARTITIONS,
            "kafka_session_s": 6.0,
            "snapshot_interval_s": 0.3,
            "snapshots_kept": 5,
            "max_series": 60,
            "grace_s": 3600,
            "metrics_port": 0,
            "signing_key_file": str(folder / "signing.pem"),
            "verify_key_file": str(folder / "verify.pem"),
            **settings,
        }
        self.settings = Settings(**self.values)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ended: dict[str, int] = {}
        self.events: EventLog = open_log(self.settings, "events")
        self.letters: EventLog = open_log(self.settings, "dead_letters")
        self.store: SnapshotStore = open_store(self.settings)

    # -- learners ------------------------------------------------------------------------------

    def start(
        self, *names: str, command: str = "learner", **changed: Any
    ) -> subprocess.Popen[bytes]:
        """Start learners, or what ``command`` says; ``changed`` are settings of theirs alone.

        Returns the last one's process.
        """
        environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SALESCAST_")},
            **{f"SALESCAST_{k.upper()}": str(v) for k, v in {**self.values, **changed}.items()},
            "PYTHONFAULTHANDLER": "1",
        }
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                self.running[name] = subprocess.Popen(
                    [sys.executable, "-m", "scripts.cli", command],
                    env=environ, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                    preexec_fn=die_with_parent,
                )  # fmt: skip
        return self.running[names[-1]]

    def tell(self, name: str, number: signal.Signals) -> None:
        """Send a learner a signal, such as SIGSTOP."""
        self.running[name].send_signal(number)

    def end(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal that ends a learner, and wait; its exit status."""
        process = self.running.pop(name)
        process.send_signal(how)
        if how == signal.SIGKILL:
            process.send_signal(signal.SIGCONT)
        return process.wait(60)

    def trace(self, name: str) -> str:
        """End a learner that hangs, and tell where it was."""
        said = self.said(name)
        self.end(name, signal.SIGABRT)
        stack = self.said(name)[len(said) :].partition("Extension modules")[0]
        return said[-3000:] + stack

    def said(self, name: str) -> str:
        """What a learner has logged."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def alive(self) -> None:
        """Fail if a learner that should run has ended."""
        for name, process in self.running.items():
            assert process.poll() is None, f"{name} ended:\n{self.said(name)[-3000:]}"

    def owners(self) -> dict[str, int]:
        """Partitions of each running learner, by its name; none while brokers do not say."""
        try:
            owners = self.events.owners().values()
        except LogUnavailable:  # the group's coordinator was elected just now
            owners = {}.values()
        found = Counter(owner.rpartition(":")[2] for owner in owners)
        return {name: found[str(process.pid)] for name, process in self.running.items()}

    def shared(self, *names: str, wait_s: float = WAIT_S) -> None:
        """Wait until these learners, and no others, share all partitions."""

        def holds() -> bool:
            self.alive()
            owners = self.owners()
            spread = sum(owners.values()) == self.settings.partitions
            return spread and all(owners.get(name, 0) > 0 for name in names)

        until(holds, lambda: f"{names} to share the partitions: {self.owners()}", wait_s)

    # -- the log and the store -------------------------------------------------------------------

    def send(self, entries: Iterable[Entry], wait_s: float = WAIT_S) -> None:
        """Append, again and again until it is acknowledged: what arrives twice counts once."""
        entries, end = list(entries), time.monotonic() + wait_s
        while True:
            try:
                self.events.append(entries)
                return
            except LogUnavailable:
                if time.monotonic() > end:
                    raise

    def position(self, partition: int) -> int:
        """What the published head has folded."""
        head = self.store.pointers(partition).head
        return 0 if head is None else head.position

    def heads(self) -> dict[int, tuple[int, int]]:
        """Lineage and position of every head."""
        pointers = {p: self.store.pointers(p).head for p in range(self.settings.partitions)}
        return {p: (head.lineage, head.position) for p, head in pointers.items() if head}

    def settle(self, wait_s: float = WAIT_S) -> None:
        """Wait until all that is in the log is folded and published."""

        def settled() -> bool:
            self.alive()
            try:
                ends = self.events.end()
                return all(self.position(p) == end for p, end in ends.items())
            except (LogUnavailable, StoreUnavailable):
                return False

        until(settled, lambda: f"{self.heads()} to reach {self.events.end()}; {self.tails()}",
              wait_s)  # fmt: skip

    def tails(self) -> str:
        """The end of what every learner has said."""
        return "".join(f"\n-- {name}\n{self.said(name)[-1500:]}" for name in self.running)

    def records(self, partition: int, log: EventLog | None = None) -> list[Record]:
        """All records of a partition."""
        out: list[Record] = []
        log, offset = log or self.events, 0
        while more := log.read(partition, offset):
            out += more
            offset = more[-1].offset + 1
        return out

    def head_moved(self, partition: int, snapshot: str) -> bool:
        """Whether the head is another one than this."""
        self.alive()
        head = self.store.pointers(partition).head
        return head is not None and head.snapshot != snapshot

    def head(self, partition: int) -> tuple[Manifest, Shard]:
        """The published head, read as its next owner would."""
        head = self.store.pointers(partition).head
        assert head is not None
        manifest = read_manifest(self.store, partition, head.snapshot, load_verifier(self.settings))
        return manifest, read_shard(self.store, manifest, self.settings)

    def verify(self) -> None:
        """What must hold; everything in the log has been folded and published."""
        for partition in range(self.settings.partitions):
            records = self.records(partition)
            plain = Shard(self.settings, partition)
            letters = plain.fold(records).letters
            manifest, published = self.head(partition)
            assert published.position == plain.position == manifest.position
            assert published.window.counts == plain.window.counts
            assert manifest.digest == published.digest() == plain.digest()
            assert published.forecast().tobytes() == plain.forecast().tobytes()
            reading = oracle(self.settings, records)
            told = {
                (source, outcome): n
                for source, line in manifest.counts.items()
                for outcome, n in line.items()
            }
            assert told == reading.counts
            kept = {_place(record) for record in self.records(partition, self.letters)}
            assert kept == {(one.offset, one.item) for one in letters}

    def close(self) -> None:
        """End what still runs, and let go."""
        for name in list(self.running):
            self.end(name)
        for one in (self.events, self.letters, self.store):
            one.close()


def _place(letter: Record) -> tuple[int, int]:
    offset, item = (letter.key or b"").decode().rsplit("/", 2)[1:]
    return int(offset), int(item)


@contextmanager
def rigged(folder: Path, **settings: Any) -> Iterator[Rig]:
    """A rig, closed at the end."""
    rig = Rig(folder, **settings)
    try:
        yield rig
    finally:
        rig.close()


def on_kafka(bootstrap: str, redis_url: str) -> dict[str, Any]:
    """Settings of a distributed deployment."""
    return {
        "log": "kafka",
        "store": "redis",
        "kafka_bootstrap": bootstrap,
        "redis_url": redis_url,
    }
