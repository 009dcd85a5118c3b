"""Hand-made snapshots, signed and put into real stores, and the API over them on a real port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from api.app import create_app
from api.context import Context
from api.server import Server
from learner import wholes
from learner.accuracy import PARTS, Accuracy
from learner.evaluation import SLICES, SUMS, VOLUME_NAMES
from learner.file_store import FileStore
from learner.groups import Groups
from learner.keys import ensure_keys, load_signer
from learner.losses import BLOCKS, Losses
from learner.manifest import FORMAT, Manifest, Signer, versions
from learner.parts import Pieces, cut, pack
from learner.plans import Kept
from learner.replay import Replay, Rule
from learner.returns import Returns
from learner.spread import Spread
from learner.store import Pointer, Replaying, SnapshotStore
from learner.totals import Totals
from learner.watch import Watch
from stream.buckets import Calendar
from stream.event import Plan, Product, encode, time_us
from stream.log import EventLog, partition_of
from stream.settings import Settings
from stream.sqlite_log import SqliteLog

WAIT_S = 20.0
DAY_US = 86_400_000_000
#: 1 March 2025, the last closed day of the first snapshots.
ORIGIN = 20_148
RING = 56

Key = tuple[str, str]


def until(true: Callable[[], object]) -> None:
    """Wait until something is true that nobody tells of."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def keys_of(stores: Sequence[str], products: Sequence[str]) -> list[Key]:
    return [(store, product) for store in stores for product in products]


class Deployment:
    """A log and a snapshot store in a folder, and snapshots made by hand."""

    def __init__(self, folder: Path, *, signed: bool = False, **settings: Any) -> None:
        values: dict[str, Any] = {"data_dir": str(folder), "partitions": 2, "replica_poll_s": 0.02}
        self.settings = Settings(**(values | settings))
        folder.mkdir(parents=True, exist_ok=True)
        count = self.settings.partitions
        self.events = SqliteLog(folder / "log.db", "sales.events", count)
        self.control = SqliteLog(folder / "log.db", "sales.control", 1)
        self.dead_letters = SqliteLog(folder / "log.db", "sales.dead_letters", count)
        self.store = FileStore(folder / "snapshots")
        self.signer = Signer(Ed25519PrivateKey.generate())
        if signed:  # by a pair of keys that other processes find, too
            ensure_keys(self.settings)
            self.signer = load_signer(self.settings)

    def close(self) -> None:
        for one in (self.events, self.control, self.dead_letters, self.store):
            one.close()

    def app(self, **parts: Any) -> FastAPI:
        named: dict[str, Any] = {
            "events": self.events, "control": self.control, "dead_letters": self.dead_letters,
            "store": self.store, "verifier": self.signer.verifier,
        }  # fmt: skip
        return create_app(self.settings, **(named | parts))

    def publish(
        self,
        partition: int,
        position: int,
        *,
        keys: Sequence[Key] | None = None,
        origin: int | None = ORIGIN,
        seed: int = 0,
        store: SnapshotStore | None = None,
        created_us: int | None = None,
        categories: str = "food",
        facts: Sequence[Plan | Product] = (),
        rules: Sequence[Rule] = (),
        lineage: int = 0,
        replay: Replay | None = None,
    ) -> str:
        """Publish a snapshot of random numbers on top of the partition's head; its id.

        ``facts`` are the plans and products that it knows, ``rules`` what it passes over,
        ``replay`` the one that is under way in it.
        """
        store = store or self.store
        stores = [
            name for name in map(str, range(100, 120))
            if partition_of(name, self.settings.partitions) == partition
        ]  # fmt: skip
        keys = keys_of(stores[:2], ["apple", "pear", "plum"]) if keys is None else keys
        made = _parts(self.settings, keys, origin, seed, categories, facts, position)
        parts, chunks = cut(made)
        head = store.pointers(partition).head
        manifest = Manifest(
            format=FORMAT,
            snapshot=f"p{partition}-l{lineage}-o{position}-{seed:08x}",
            partition=partition,
            topic_id=self.events.topic_id,
            position=position,
            watermark_us=-(2**62) if origin is None else (origin + 1) * DAY_US + 5_000_000,
            origin=origin,
            lineage=lineage,
            replay=replay,
            parent=head.snapshot if head else None,
            created_us=created_us or round(time.time() * 1e6),
            digest="d" * 64,
            champion=self.settings.champion,
            scores=[
                {"model": "ensemble", "role": "champion", "horizon": 1, "n": 10.0 + position,
                 "rmsse": 0.8, "wape": 0.3, "bias": None, "pinball": 0.2, "hits": {"0.1": 0.1},
                 "covered": {"0.1": 0.2}},
            ],
            counts={"till-1": {"learned": position}},
            operations={},
            rules=tuple(rules),
            settings=self.settings.fingerprint(),
            versions=versions(),
            series=len(keys),
            parts=parts,
        )  # fmt: skip
        for digest, chunk in chunks.items():
            store.put_chunk(digest, bytes(chunk))
        store.put_manifest(partition, manifest.snapshot, self.signer.seal(manifest))
        to = Pointer(manifest.snapshot, lineage, position)
        replaying = (
            None if replay is None else Replaying(replay.operation, replay.start, replay.until)
        )
        assert store.move_head(partition, manifest.parent, to, replaying)
        return manifest.snapshot


def _parts(
    settings: Settings,
    keys: Sequence[Key],
    origin: int | None,
    seed: int,
    category: str,
    facts: Sequence[Plan | Product],
    position: int,
) -> dict[str, Pieces]:
    rng = np.random.default_rng(seed)
    count, horizons = len(keys), settings.horizons
    units = rng.poisson(5, (RING, count)).astype(np.float32)
    if count:
        units[ORIGIN % RING, 0] = np.nan
    rings: dict[str, Any] = {
        "units": units,
        "price": np.full_like(units, 1.99),
        "sum_promotion": np.zeros(units.shape, np.uint16),
    }
    meta = {
        "stores": [store for store, _ in keys],
        "products": [product for _, product in keys],
        "categories": [category],
    }
    spread = Spread((len(settings.scored_horizons),), settings.bucket)
    spread.counts *= rng.uniform(0.5, 1.5, spread.counts.shape)
    totals = Totals(settings.scored_horizons[1:], settings.bucket)
    groups = Groups(len(settings.scored_horizons) + len(totals.lengths), settings.bucket)
    groups.common += 1.0
    forecast: dict[str, Any] = {
        "mean": rng.gamma(2, 3, (horizons, count)).astype(np.float32),
        "basis": np.zeros(count, np.int8),
        "dispersion": spread.tables().dispersion,
        "below": spread.tables().below,
        # Counts, goods sold by weight whose grain was told, and such that it was not told of.
        "grain": np.resize([1.0, 0.25, 0.0], count).astype(np.float32),
        "whole": np.resize([True, False, False], count),
        "factor": rng.uniform(0.5, 2.0, count).astype(np.float32),
    }
    opened: dict[str, Any] = {
        "sold": rng.poisson(4, (1, count)).astype(np.float32),
        "remains": rng.gamma(2, 1, (1, count)).astype(np.float32),
        "open_factor": rng.uniform(0.5, 1.2, (1, count)).astype(np.float32),
        "passed": rng.uniform(0, 1, (1, count)).astype(np.float32),
    }
    models, scored = settings.models, settings.scored_horizons
    names = {"store": list(dict.fromkeys(meta["stores"])), "category": [category],
             "volume_class": list(VOLUME_NAMES)}  # fmt: skip
    slices = {
        kind: np.zeros((len(names[kind]), len(models), len(scored), len(SUMS))) for kind in SLICES
    }
    if count:
        for kind in SLICES:
            slices[kind][:1, 0, 0] = np.arange(1.0, len(SUMS) + 1) * (10.0 + position)
    accuracy = Accuracy(models, scored, settings.bucket)
    accuracy.grow(count)
    accuracy.columns["count"][0] = 20
    accuracy.columns["demand"][0] = 5.0
    accuracy.columns["squared"][:, 0] = 4.0
    accuracy.columns["absolute"][:, 0] = round(0.75 * PARTS["absolute"])
    accuracy.columns["inside"][:, 0] = round(0.8 * PARTS["inside"])
    columns: dict[str, Any] = {
        "category": np.zeros(count, np.int32),
        "store": _codes([store for store, _ in keys]),
        "product": _codes([product for _, product in keys]),
        "listed": np.full(count, ORIGIN - 20, np.int64),
        "error_sum": np.full(count, 64.0),
        "error_n": np.full(count, 4.0),
    }
    products = [encode(one) for one in facts if isinstance(one, Product)]
    plans = [
        msgspec.json.encode(Kept(one, ORIGIN, time_us(one.start), time_us(one.end)))
        for one in facts
        if isinstance(one, Plan)
    ]
    knowledge: dict[str, Any] = {
        "first": ORIGIN - RING, "last": origin, "products": products, "stockouts": [],
        "plans": plans,
    }  # fmt: skip
    return {
        "keys": pack(meta),
        "knowledge": pack(knowledge),
        "columns": pack(None, columns),
        "forecast": pack(None, forecast),
        "scores": pack({"last": ORIGIN, "slices": names}, slices),
        "open": pack(None, opened),
        "wholes": pack(None, wholes.tables(totals, groups)),
        "accuracy": pack(None, accuracy.columns),
        "returns": pack(None, Returns().arrays()),
        "guard": pack({"sources": []}),
        "watch": pack(None, Watch(Calendar(settings), 0).arrays),
        "losses": pack(None, _lost(settings, rng).arrays()),
        **{f"ring.{name}": pack(None, {name: ring}) for name, ring in rings.items()},
    }


#: What models have lost a block by, over the champion; a block's own loss they share.
LOST = {"river_plain": 0.9, "seasonal_naive": 1.9}


def _lost(settings: Settings, rng: np.random.Generator) -> Losses:
    """Losses of 16 whole blocks: `river_plain` has lost a tenth less than the champion."""
    models, scored = settings.models, settings.scored_horizons
    losses = Losses(len(models), scored, settings.bucket)
    for at, length in enumerate(losses.lengths):
        blocks = np.arange(ORIGIN // length - 16, ORIGIN // length)
        slots = blocks % BLOCKS
        losses.number[at, slots], losses.buckets[at, slots] = blocks, length
        losses.last[at] = ORIGIN
        losses.shared["volume_class"][1, at, slots] = [90.0 * length, 1.0, 1.0]
        base = 1 + 0.1 * rng.standard_normal(16)
        for place, model in enumerate(models):
            lost = base * LOST.get(model, 1.0) + 0.01 * rng.standard_normal(16)
            losses.own["volume_class"][1, at, slots, place] = lost[:, None]
    return losses


def _codes(names: Sequence[str]) -> Any:
    """Numbers of names in order of first use."""
    known = {name: code for code, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], np.int32)


class _Announcing(Server):
    """A server that says when it has started."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app, "127.0.0.1", 0)
        self.begun = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.begun.set()


@contextmanager
def running(app: FastAPI) -> Iterator[httpx.Client]:
    """The application behind uvicorn on a free port, and a client of it."""
    server = _Announcing(app)
    thread = threading.Thread(target=server.run, name="api-under-test")
    thread.start()
    try:
        assert server.begun.wait(WAIT_S), "the API did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=WAIT_S, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive(), "the API did not stop"


def context_of(app: FastAPI) -> Context:
    context: Context = app.state.context
    return context


class Down:
    """A log or store of which every method raises while ``down`` is set."""

    def __init__(self, inner: EventLog | SnapshotStore, error: Exception) -> None:
        self.inner = inner
        self.error = error
        self.down = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if callable(found) and self.down:
            raise self.error
        return found
