"""Snapshots: a shard in parts, a signed manifest, and how a shard goes in and comes out.

A shard is laid down in named parts: facts as raw columns, readable without unpickling
anything; only models are pickled. The manifest lists every chunk of every part and is signed
(Ed25519); it is verified before a byte is unpickled, and the unpickler knows no class but the
models' own and River's. Leaves out: how a part is cut into chunks (``parts``), where they are
kept (``store``), and when (``worker``).
"""

from __future__ import annotations

import hashlib
import pickle
import platform
from collections.abc import Hashable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from river.__version__ import __version__ as river_version

from learner import wholes
from learner.availability import Span
from learner.bands import warm_after
from learner.evaluation import MOST_SLICES, VOLUME_NAMES, seasonal_difference
from learner.findings import standings
from learner.groups import Groups
from learner.intervals import Tables, Traits
from learner.names import named
from learner.open_bucket import OpenBucket
from learner.panel import COLUMNS, RINGS, Panel
from learner.parts import Array, Part, Pieces, joined, pack, restored, unpack
from learner.pickles import load_models
from learner.plans import Kept
from learner.products import Products
from learner.replay import Promotion, Replay, Rule
from learner.returns import Returns
from learner.serving import Serving
from learner.shard import Shard
from learner.spread import ARRAYS as SPREAD
from learner.spread import Spread
from learner.store import SnapshotStore
from learner.totals import Totals
from learner.watch import watched
from stream.brought import Brought, Open
from stream.buckets import Calendar
from stream.errors import FingerprintMismatch, SnapshotCorrupt, SnapshotForeign
from stream.event import Product
from stream.settings import Settings, ring_length
from stream.window import OUTCOMES, Orphan

FORMAT = 7
VERSION = version("salescast")
#: Name of all stores, or categories, that have no scores of their own.
OTHERS = "(others)"
#: Arrays of ``profiles.Profiles`` that are kept.
PROFILES = ("phases", "past", "weeks", "answers", "scores")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is. ``position`` is the next offset to fold; times are µs since 1970 UTC."""

    format: int
    snapshot: str
    partition: int
    topic_id: str
    position: int
    watermark_us: int
    origin: int | None
    lineage: int
    parent: str | None
    created_us: int
    digest: str
    champion: str
    scores: list[dict[str, Any]]
    counts: dict[str, dict[str, int]]
    operations: dict[str, int]
    settings: dict[str, Any]
    versions: dict[str, str]
    series: int
    parts: dict[str, Part]
    rules: tuple[Rule, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    replay: Replay | None = None

    @property
    def size_bytes(self) -> int:
        """Size of all parts."""
        return sum(part.size for part in self.parts.values())

    @property
    def chunks(self) -> set[str]:
        """Digests of all chunks."""
        return {digest for part in self.parts.values() for digest in part.chunks}


class Envelope(msgspec.Struct, frozen=True):
    """A manifest's bytes with their signature and the key that made it."""

    key: str
    signature: bytes
    manifest: bytes


class Signer:
    """Signs manifests; owners hold one. ``verifier`` takes its key, and others if it is given."""

    def __init__(self, key: Ed25519PrivateKey, verifier: Verifier | None = None) -> None:
        self._key = key
        self.verifier = verifier or Verifier(key.public_key())

    def key(self) -> Ed25519PrivateKey:
        """The key to sign with now."""
        return self._key

    def seal(self, manifest: Manifest) -> bytes:
        """A signed manifest, as it is kept."""
        body, key = msgspec.json.encode(manifest), self.key()
        return msgspec.msgpack.encode(Envelope(name_of(key.public_key()), key.sign(body), body))


def name_of(key: Ed25519PublicKey) -> str:
    """What a key is called: the beginning of its SHA-256."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def signed_by(envelope: bytes) -> str:
    """The name of the key that a manifest says it is signed by; empty if it is none."""
    try:
        return msgspec.msgpack.decode(envelope, type=Envelope).key
    except msgspec.MsgspecError:
        return ""


class Verifier:
    """Checks manifests' signatures by any of some keys; replicas hold no more than this."""

    def __init__(self, *keys: Ed25519PublicKey) -> None:
        self._keys = {name_of(key): key for key in keys}

    def known(self) -> Mapping[str, Ed25519PublicKey]:
        """The keys that are taken now, by name."""
        return self._keys

    @property
    def name(self) -> str:
        """Names of the keys that are taken now."""
        return ", ".join(self.known())

    def open(self, envelope: bytes, partition: int, snapshot: str) -> Manifest:
        """The manifest in an envelope, if it is signed, whole, and the one asked for.

        Raises
        ------
        SnapshotCorrupt
            It cannot be read; ``SnapshotForeign``: it is not what an owner has signed.
        """
        try:
            sealed = msgspec.msgpack.decode(envelope, type=Envelope)
            key = self.known().get(sealed.key)
            if key is None:
                raise InvalidSignature
            key.verify(sealed.signature, sealed.manifest)
            manifest = msgspec.json.decode(sealed.manifest, type=Manifest)
        except InvalidSignature:
            raise SnapshotForeign(
                f"snapshot {snapshot} is not signed by the key {self.name}"
            ) from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SnapshotCorrupt(f"snapshot {snapshot} cannot be read: {error}") from None
        if (manifest.partition, manifest.snapshot) != (partition, snapshot):
            raise SnapshotForeign(f"snapshot {snapshot} holds another one, {manifest.snapshot}")
        if manifest.format != FORMAT:
            raise SnapshotCorrupt(
                f"snapshot {snapshot} is of format {manifest.format}, this release reads {FORMAT}"
            )
        return manifest


# -- a shard's parts -----------------------------------------------------------------------


def lay_down(shard: Shard) -> dict[str, Pieces]:
    """A shard as named parts. Parts that few events change are apart from those that many do.

    The pieces are views of the shard: they are to be cut, or joined, before it folds on.
    """
    panel, window = shard.panel, shard.window
    categories = panel.categories.texts
    remembered = [
        (bucket, source, ones)
        for bucket in sorted(window.seen_in)
        for source, ones in window.seen_in[bucket].items()
    ]
    order = [one for _, _, ones in remembered for one in ones]
    entries = np.fromiter(map(window.seen.__getitem__, order), np.uint64, len(order))
    parts: dict[str, Pieces] = {
        "window": pack(_window(shard)),
        "identities": pack(
            [(bucket, len(ones), source) for bucket, source, ones in remembered],
            {"entry": entries, "identity": np.frombuffer(b"".join(order), np.uint8)},
        ),
        "keys": pack(
            {
                "stores": [store for store, _ in panel.keys],
                "products": [product for _, product in panel.keys],
                "categories": categories,
            }
        ),
        "columns": pack(None, panel.columns),
        "returns": pack(None, panel.returns.arrays()),
        "knowledge": pack(
            {
                "first": panel.first,
                "last": panel.last,
                "products": [msgspec.json.encode(one) for one in panel.products.told.values()],
                "awaited": [[*key, at] for key, at in panel.products.awaited.items()],
                "week": panel.profiles.week,
                "first_week": panel.profiles.first_week,
                "stockouts": [[*key, spans] for key, spans in sorted(panel.stockouts.items())],
                "plans": [
                    msgspec.json.encode(one)
                    for versions in panel.plans.kept.values()
                    for one in versions
                ],
            },
            {name: getattr(panel.profiles, name) for name in PROFILES},
        ),
        "models": [pickle.dumps(shard.models, protocol=5)],
        "scores": pack(
            {"last": shard.evaluation.last, "slices": _slices(panel)}, shard.evaluation.slices
        ),
        "accuracy": pack(None, shard.accuracy.columns),
        "losses": pack(None, shard.losses.arrays()),
        "spread": pack(None, {name: getattr(shard.spread, name) for name in SPREAD}),
        "forecast": pack(
            None, {"mean": shard.forecast(), "basis": shard.basis(), **_distributions(shard)}
        ),
        "open": pack(None, shard.open_part()._asdict()),
        "wholes": pack(None, wholes.tables(shard.totals, shard.groups)),
        "open_bucket": pack(None, shard.open_bucket.arrays()),
        "totals": pack(None, shard.totals.arrays()),
        "groups": pack(None, shard.groups.arrays()),
        "watch": pack(None, shard.watch.arrays),
        "guard": pack(
            {"sources": list(shard.guard.rows)},
            {"owner": shard.guard.owner, **shard.guard.arrays},
        ),
    }
    for name, ring in panel.rings.items():
        parts[f"ring.{name}"] = pack(None, {name: ring})
    for horizon, waiting in shard.evaluation.pending.items():
        parts[f"pending.{horizon}"] = pack(None, {"waiting": waiting})
    return parts


def _slices(panel: Panel) -> dict[str, Sequence[str]]:
    """Names of the values that scores are told by, each at its number."""
    names = {"store": panel.stores.texts, "category": panel.categories.texts}
    out: dict[str, Sequence[str]] = {
        kind: texts if len(texts) <= MOST_SLICES else [*texts[: MOST_SLICES - 1], OTHERS]
        for kind, texts in names.items()
    }
    return out | {"volume_class": VOLUME_NAMES}


def _distributions(shard: Shard) -> dict[str, Array]:
    """What the champion's distributions are made of."""
    place = shard.evaluation.models.index(shard.champion)
    tables, traits = shard.spread.tables().at(place), shard.traits(shard.champion)
    return {
        "dispersion": tables.dispersion,
        "below": tables.below,
        "grain": traits.grain.astype(np.float32),
        "whole": traits.whole,
        "factor": traits.factor.astype(np.float32),
    }


class Learned(NamedTuple):
    """What a snapshot's shard has learned beside its models, and whose it is: ``names.named``."""

    spread: Spread
    open_bucket: OpenBucket
    totals: Totals
    groups: Groups
    named: Mapping[str, Sequence[Hashable]]


#: Parts that ``take_up_learned`` reads.
LEARNED = ("spread", "open_bucket", "totals", "groups", "keys")


def take_up_learned(settings: Settings, parts: Mapping[str, bytearray | Pieces]) -> Learned:
    """What ``lay_down`` was given of what was learned beside the models."""
    spread = Spread((0, 0), settings.bucket)
    for name, array in unpack(parts["spread"])[1].items():
        setattr(spread, name, array)
    open_bucket = OpenBucket(Calendar(settings))
    totals = Totals(settings.scored_horizons[1:], settings.bucket)
    groups = Groups(0, settings.bucket)
    for name, one in (("open_bucket", open_bucket), ("totals", totals), ("groups", groups)):
        one.restore(unpack(parts[name])[1])
    return Learned(spread, open_bucket, totals, groups, named(**unpack(parts["keys"])[0]))


def _window(shard: Shard) -> dict[str, Any]:
    window = shard.window
    return {
        "position": shard.position,
        "operations": shard.operations,
        "order": shard.order,
        "champion": shard.champion,
        "promotions": msgspec.to_builtins(shard.promotions),
        "rules": msgspec.to_builtins(shard.rules),
        "replay": msgspec.to_builtins(shard.replay),
        "gaps": window.gaps.laid_down(),
        "watermark_us": window.watermark_us,
        "open_from": window.open_from,
        "next_end_us": window.next_end_us,
        "live": window.live,
        "last_day": window.alive.last_day,
        "complete_us": window.alive.complete_us,
        "counts": window.counts,
        "refused": window.refused,
        "orphans": [list(one) for one in window.orphans],
        "revisions": [
            [bucket, [[*key, cell] for key, cell in sorted(cells.items())]]
            for bucket, cells in sorted(window.revisions.items())
        ],
        "open": [
            [
                bucket,
                [
                    [source, [[*key, cell] for key, cell in sorted(mine.cells.items())], mine.heard]
                    for source, mine in sorted(one.by.items())
                ],
                [[*key, list(places.items())] for key, places in sorted(one.places.items())],
            ]
            for bucket, one in sorted(window.open.items())
        ],
        "again": sorted(window.again.items()),
    }


def read_products(parts: Mapping[str, bytearray | Pieces]) -> Products:
    """What a shard knows of products, from its part `knowledge`."""
    known, products = unpack(parts["knowledge"])[0], Products()
    told = [msgspec.json.decode(raw, type=Product) for raw in known["products"]]
    products.restore(told, [tuple(one) for one in known["awaited"]])
    return products


def take_up_panel(panel: Panel, parts: Mapping[str, bytearray | Pieces]) -> None:
    """Fill a new panel with what ``lay_down`` was given, but returns; unpickles nothing."""
    known, arrays = unpack(parts["knowledge"])
    panel.first, panel.last = known["first"], known["last"]
    for name in PROFILES:
        setattr(panel.profiles, name, arrays[name])
    panel.profiles.week, panel.profiles.first_week = known["week"], known["first_week"]
    panel.products = read_products(parts)
    for store, product_name, spans in known["stockouts"]:
        panel.stockouts[store, product_name] = [Span(*span) for span in spans]
    panel.plans.restore(msgspec.json.decode(raw, type=Kept) for raw in known["plans"])
    keys, _ = unpack(parts["keys"])
    panel.keys.extend(zip(keys["stores"], keys["products"], strict=True))
    panel.rows.update((key, row) for row, key in enumerate(panel.keys))
    for text in keys["categories"]:
        panel.categories.code(text)
    for store, product_name in panel.keys:
        panel.stores.code(store)
        panel.product_codes.code(product_name)
    _, columns = unpack(parts["columns"])
    panel.columns = {name: columns[name] for name in COLUMNS}
    panel.rings = {name: unpack(parts[f"ring.{name}"])[1][name] for name in RINGS}


def take_up(
    settings: Settings, partition: int, parts: Mapping[str, bytearray | Pieces], *,
    relearn: bool = False,
) -> Shard:  # fmt: skip
    """The shard that ``lay_down`` was given.

    The caller has verified where the parts come from: this unpickles the models, or with
    ``relearn`` makes new ones from the facts.
    """
    shard = Shard(settings, partition)
    window = shard.window
    take_up_panel(shard.panel, parts)
    shard.panel.returns = Returns(unpack(parts["returns"])[1])
    scores, shard.evaluation.slices = unpack(parts["scores"])
    shard.evaluation.last = scores["last"]
    state, _ = unpack(parts["window"])
    shard.crown(state["champion"])
    shard.promotions = msgspec.convert(state["promotions"], list[Promotion])
    _, shard.accuracy.columns = unpack(parts["accuracy"])
    shard.losses.restore(unpack(parts["losses"])[1])
    learned = take_up_learned(settings, parts)
    shard.spread, shard.open_bucket, shard.totals, shard.groups, _ = learned
    for horizon in shard.scored:
        shard.evaluation.pending[horizon] = unpack(parts[f"pending.{horizon}"])[1]["waiting"]
    known, shard.guard.arrays = unpack(parts["guard"])
    shard.guard.owner = shard.guard.arrays.pop("owner")
    shard.guard.rows = {source: row for row, source in enumerate(known["sources"])}
    _, shard.watch.arrays = unpack(parts["watch"])
    if relearn:
        shard.relearn()
    else:
        shard.models = load_models(joined(parts["models"]), settings.models)
        shard.restore_forecast(unpack(parts["forecast"])[1]["mean"])

    shard.position, shard.operations = state["position"], state["operations"]
    shard.order = state["order"]
    shard.rules = msgspec.convert(state["rules"], list[Rule], str_keys=True)
    shard.replay = msgspec.convert(state["replay"], Replay | None)
    window.gaps.take_up(*state["gaps"])
    for name in ("watermark_us", "open_from", "next_end_us", "live", "counts", "refused"):
        setattr(window, name, state[name])
    window.alive.last_day, window.alive.complete_us = state["last_day"], state["complete_us"]
    window.revisions = {bucket: _cells(cells) for bucket, cells in state["revisions"]}
    window.orphans = [Orphan(*one) for one in state["orphans"]]
    window.again = dict(state["again"])
    spans, found = unpack(parts["identities"])
    identities, entries = found["identity"].tobytes(), found["entry"].tolist()
    at = 0
    for bucket, count, source in spans:
        ones = [identities[16 * i : 16 * i + 16] for i in range(at, at + count)]
        window.seen_in.setdefault(bucket, {})[source] = ones
        window.seen.update(zip(ones, entries[at : at + count], strict=True))
        at += count
    for bucket, by, places in state["open"]:
        there = window.seen_in[bucket]
        window.open[bucket] = Open(
            by={source: Brought(_cells(c), heard, there[source]) for source, c, heard in by},
            places={
                (store, product_name): {one: tuple(place) for one, place in items}
                for store, product_name, items in places
            },
        )
    return shard


def _cells(rows: list[list[Any]]) -> dict[tuple[str, str], list[int]]:
    return {(store, product): cell for store, product, cell in rows}


# -- in and out of a store -----------------------------------------------------------------


def describe(
    shard: Shard, parts: dict[str, Part], *, topic_id: str, lineage: int, parent: str | None,
    created_us: int,
) -> Manifest:  # fmt: skip
    """The manifest of a shard as it stands."""
    digest = shard.digest()
    head = f"{shard.partition}/{lineage}/{shard.position}/{parent}/{digest}"
    name = hashlib.sha256(head.encode()).hexdigest()[:8]
    return Manifest(
        format=FORMAT,
        snapshot=f"p{shard.partition}-l{lineage}-o{shard.position}-{name}",
        partition=shard.partition,
        topic_id=topic_id,
        position=shard.position,
        watermark_us=shard.window.watermark_us,
        origin=shard.panel.last,
        lineage=lineage,
        parent=parent,
        created_us=created_us,
        digest=digest,
        champion=shard.champion,
        scores=shard.evaluation.summary(shard.champion),
        counts={
            source: {name: n for name, n in zip(OUTCOMES, line, strict=True) if n}
            for source, line in shard.window.counts.items()
        },
        operations=dict(shard.operations),
        settings=shard.settings.fingerprint(),
        versions=versions(),
        series=shard.panel.size,
        parts=parts,
        rules=tuple(shard.rules),
        promotions=tuple(shard.promotions),
        replay=shard.replay,
    )


def versions() -> dict[str, str]:
    """Versions that a snapshot's bytes depend on."""
    return {
        "salescast": VERSION,
        "river": river_version,
        "numpy": np.__version__,
        "holidays": version("holidays"),
        "python": platform.python_version(),
    }


def read_manifest(
    store: SnapshotStore, partition: int, snapshot: str, verifier: Verifier
) -> Manifest:
    """A snapshot's manifest, verified.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt
    """
    return verifier.open(store.get_manifest(partition, snapshot), partition, snapshot)


def read_parts(
    store: SnapshotStore, manifest: Manifest, names: Iterable[str]
) -> dict[str, bytearray]:
    """Some parts of a snapshot, each chunk checked against its digest.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt
    """
    found = {}
    for name in names:
        part = manifest.parts.get(name)
        if part is None:
            raise SnapshotCorrupt(f"snapshot {manifest.snapshot} has no part `{name}`")
        try:
            data = restored(map(store.get_chunk, part.chunks))
        except ValueError as error:
            raise SnapshotCorrupt(f"part `{name}` of {manifest.snapshot}: {error}") from None
        if len(data) != part.size:
            raise SnapshotCorrupt(f"part `{name}` of {manifest.snapshot} has another size")
        found[name] = data
    return found


def read_shard(store: SnapshotStore, manifest: Manifest, settings: Settings) -> Shard:
    """The shard of a verified manifest; its models are made anew if another River made them.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt
    FingerprintMismatch
        It was made under other settings.
    """
    ours, theirs = settings.fingerprint(), manifest.settings
    changed = sorted(name for name in ours.keys() | theirs.keys()
                     if ours.get(name) != theirs.get(name))  # fmt: skip
    if changed:
        shown = ", ".join(f"{n}: {theirs.get(n)!r}, now {ours.get(n)!r}" for n in changed)
        raise FingerprintMismatch(f"snapshot {manifest.snapshot} was made with {shown}")
    parts = read_parts(store, manifest, list(manifest.parts))
    return take_up(settings, manifest.partition, parts, relearn=bool(outdated(manifest)))


def outdated(manifest: Manifest) -> dict[str, str]:
    """Versions by which models are not to be unpickled here: River's, and numpy's major."""
    theirs, ours = manifest.versions, versions()
    found = {"river": theirs["river"] != ours["river"],
             "numpy": theirs["numpy"].split(".")[0] != ours["numpy"].split(".")[0]}  # fmt: skip
    return {name: theirs[name] for name, differs in found.items() if differs}


def reaches_back(store: SnapshotStore, manifest: Manifest, settings: Settings) -> bool:
    """Whether a snapshot's facts reach back to its first bucket: models made anew miss none."""
    known, _ = unpack(read_parts(store, manifest, ["knowledge"])["knowledge"])
    return known["first"] is None or known["last"] - known["first"] < ring_length(settings) - 1


def read_serving(
    store: SnapshotStore,
    partition: int,
    snapshot: str,
    verifier: Verifier,
    previous: Serving | None = None,
    *,
    rings: bool = True,
) -> Serving:
    """What the API answers from; unpickles nothing, and fetches only parts that changed.

    Without ``rings`` it has no past and no accuracy: they are many times what forecasts are made
    from.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt
    """
    manifest = read_manifest(store, partition, snapshot, verifier)
    past = ["accuracy", "returns", *(f"ring.{name}" for name in _SERVED)] if rings else []
    names = ["keys", "columns", "forecast", "open", "wholes", "scores", "guard", "watch", *past]
    known = dict(previous.parts) if previous is not None else {}
    arrays: dict[str, Array] = {name: np.zeros((0, manifest.series)) for name in _SERVED}
    texts: dict[str, list[str]] = {}
    loaded = {}
    for name in names:
        part = manifest.parts[name]
        if name in known and known[name][0] == part:
            meta, found = known[name][1]
        else:
            meta, found = unpack(read_parts(store, manifest, [name])[name])
        loaded[name] = (part, (meta, found))
        if name not in ("scores", "accuracy", "returns", "guard", "watch"):
            arrays.update(found)
            texts.update(meta or {})
    size = manifest.series
    category = arrays["category"][:size]
    slices, scores = loaded["scores"][1]
    settings = settings_of(manifest)
    known_sources, judged = loaded["guard"][1]
    return Serving(
        partition=partition,
        snapshot=snapshot,
        lineage=manifest.lineage,
        position=manifest.position,
        published_us=manifest.created_us,
        watermark_us=manifest.watermark_us,
        origin=-1 if manifest.origin is None else manifest.origin,
        champion=manifest.champion,
        scored=settings.scored_horizons,
        models=settings.models,
        scores=scores,
        slices=slices["slices"],
        accuracy=loaded["accuracy"][1][1] if rings else {},
        difference=seasonal_difference(arrays["error_sum"][:size], arrays["error_n"][:size]),
        stores=texts["stores"],
        products=texts["products"],
        categories=[texts["categories"][code] for code in category.tolist()],
        listed=arrays["listed"][:size],
        mean=arrays["mean"],
        basis=arrays["basis"],
        tables=Tables(arrays["dispersion"], arrays["below"]),
        traits=Traits(arrays["grain"], arrays["whole"], arrays["factor"]),
        open_factor=arrays["open_factor"],
        lengths=settings.scored_horizons[1:],
        totals=wholes.of_totals(arrays),
        groups=wholes.scatters(arrays, texts, size),
        sources=standings(known_sources["sources"], judged, warm_after(Calendar(settings))),
        watched=watched(loaded["watch"][1][1]),
        parts=loaded,
        returns=Returns(loaded["returns"][1][1] if rings else None),
        **{name: arrays[name] for name in (*_SERVED, "sold", "remains", "passed")},
    )


_SERVED = ("units", "price", "sum_promotion")


def settings_of(manifest: Manifest) -> Settings:
    """The settings that a snapshot was made under, as far as they change its state."""
    values = manifest.settings.items()
    found: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values}
    return Settings(**found)
