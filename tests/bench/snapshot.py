"""Snapshots: laid down, described, kept in a folder, and restored; wall time."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from learner.file_store import FileStore
from learner.manifest import Signer, read_manifest
from learner.parts import cut
from learner.shard import Shard
from learner.snapshot import describe, lay_down, read_shard
from learner.store import Pointer
from stream.log import Record
from tests.bench import sales
from tests.bench.close import Closing
from tests.bench.measure import Options, Row, Series, seconds

_DAY_US = 86_400_000_000


class Publishing:
    """Snapshots of one shard into a folder, timed by step, as the worker takes them."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.store = FileStore(folder)
        self.signer = Signer(Ed25519PrivateKey.generate())
        self.shard = shard
        self.parent: str | None = None
        self.steps: dict[str, list[float]] = {}

    def publish(self) -> tuple[float, int, int]:
        """Seconds in all, bytes newly written, and bytes of the whole snapshot."""
        started = at = time.perf_counter()

        def step(name: str) -> None:
            nonlocal at
            now = time.perf_counter()
            self.steps.setdefault(name, []).append(now - at)
            at = now

        parts = lay_down(self.shard)
        step("lay down")
        tables, chunks = cut(parts)
        step("cut (SHA-256)")
        manifest = describe(
            self.shard, tables, topic_id="bench", lineage=0, parent=self.parent, created_us=0
        )
        step("describe (digest)")
        written = 0
        for digest in self.store.missing(chunks.keys()):
            self.store.put_chunk(digest, bytes(chunks[digest]))
            written += len(chunks[digest])
        self.store.put_manifest(0, manifest.snapshot, self.signer.seal(manifest))
        to = Pointer(manifest.snapshot, 0, self.shard.position)
        assert self.store.move_head(0, self.parent, to)
        step("put")
        self.parent = manifest.snapshot
        return time.perf_counter() - started, written, manifest.size_bytes

    def restore(self) -> float:
        """Seconds to read the head's shard back."""

        def work() -> None:
            assert self.parent is not None
            manifest = read_manifest(self.store, 0, self.parent, self.signer.verifier)
            read_shard(self.store, manifest, self.shard.settings)

        return seconds(work)


def bare_write(folder: Path, size: int) -> float:
    """Seconds to write so many bytes to one file, and have them on the disk."""
    data = os.urandom(1 << 22)

    def work() -> None:
        with (folder / "bare").open("wb") as file:
            for _ in range(size // len(data)):
                file.write(data)
            file.write(data[: size % len(data)])
            file.flush()
            os.fsync(file.fileno())

    return seconds(work)


def bare_read(folder: Path) -> float:
    """Seconds to read those bytes, from the system's cache as a restore does."""

    def work() -> None:
        with (folder / "bare").open("rb") as file:
            while file.read(1 << 22):
                pass

    return seconds(work)


def sell(shard: Shard, bucket: int, events: int) -> None:
    """Fold some sales of the open bucket."""
    values = [value for value, _ in sales.values(events)]
    day = shard.calendar.start(bucket).date().isoformat().encode()
    at_us = shard.calendar.span(bucket)[0]
    shard.window.open_from = bucket
    shard.window.next_end_us = at_us + _DAY_US
    moved = [value[: (cut_at := value.index(b'"time":"') + 8)] + day + value[cut_at + 10 :]
             for value in values]  # fmt: skip
    records = [
        Record(0, shard.position + i, at_us + _DAY_US, None, value) for i, value in enumerate(moved)
    ]
    shard.fold(records)


def run(options: Options) -> list[Row]:
    """100,000 series; a million too where asked for."""
    rows: list[Row] = []
    sizes = [20_000 if options.quick else 100_000] + [1_000_000] * options.full
    for series in sizes:
        buckets = 28 if series < 1_000_000 else 2
        closing = Closing(series, buckets)
        shard = closing.shard
        rounds = options.rounds if series < 1_000_000 else 1
        whole, again, restored, written, read = [], [], [], [], []
        with tempfile.TemporaryDirectory(prefix="salescast-bench-") as name:
            folder = Path(name)
            sell(shard, closing.bucket, 10_000)
            shard.forecast()  # kept from the close on; it has a line of its own there
            steps: dict[str, list[float]] = {}
            for _ in range(rounds):
                shutil.rmtree(folder / "snapshots", ignore_errors=True)
                publishing = Publishing(folder / "snapshots", shard)
                took_s, _, size = publishing.publish()
                whole.append(took_s)
                written.append(bare_write(folder, size))
                for step, values in publishing.steps.items():
                    steps.setdefault(step, []).extend(values)
                shard.position += 1
                shard.window.watermark_us += 1
                took_s, more, _ = publishing.publish()
                again.append(took_s)
                restored.append(publishing.restore())
                read.append(bare_read(folder))
                publishing.store.close()
        name = f"{series:,} series"
        bare = Series(tuple(written))
        goal = 3.0 if series == 1_000_000 else None
        rows += [
            Row(what=f"first snapshot, {name}", figure=Series(tuple(whole)), unit="s",
                limit="write and fsync as many bytes", bare=bare, goal=goal),
            *(
                Row(what=f"  of it: {step}", figure=Series(tuple(values)), unit="s")
                for step, values in steps.items()
            ),
            Row(what="  its size", figure=Series((size / 1e6,)), unit="MB"),
            Row(what="  bytes a series", figure=Series((size / series,)), unit="B", goal=3000),
            Row(what=f"next without a close, {name}", figure=Series(tuple(again)), unit="s",
                limit="write and fsync all bytes", bare=bare),
            Row(what="  newly written", figure=Series((more / 1e6,)), unit="MB"),
            Row(what=f"restore, {name}", figure=Series(tuple(restored)), unit="s",
                limit="read as many bytes", bare=Series(tuple(read)), goal=goal),
        ]  # fmt: skip
    return rows
