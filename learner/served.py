"""What is read of a snapshot without its models: what forecasts are answered from, facts, what
is known of products and plans, and what the models have lost.

Unpickles nothing and needs no River. Leaves out: models (``recall``), and all that only learning
needs (``snapshot``).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from learner import wholes
from learner.availability import Span
from learner.bands import warm_after
from learner.evaluation import seasonal_difference
from learner.findings import standings
from learner.intervals import Tables, Traits
from learner.losses import Losses
from learner.manifest import (
    Manifest,
    Verifier,
    check_settings,
    read_manifest,
    read_parts,
    settings_of,
)
from learner.panel import COLUMNS, RINGS, Panel
from learner.parts import Array, Pieces, unpack
from learner.plans import Kept
from learner.products import Products
from learner.returns import Returns
from learner.serving import Serving
from learner.store import SnapshotStore
from learner.watch import watched
from stream.buckets import Calendar
from stream.event import Plan, Product
from stream.settings import Settings

#: Arrays of ``profiles.Profiles`` that are kept.
PROFILES = ("phases", "past", "weeks", "answers", "scores")
_SERVED = ("units", "price", "sum_promotion")


def read_serving(
    store: SnapshotStore,
    partition: int,
    snapshot: str,
    verifier: Verifier,
    previous: Serving | None = None,
    *,
    rings: bool = True,
    settings: Settings | None = None,
) -> Serving:
    """What the API answers from; unpickles nothing, and fetches only parts that changed.

    Without ``rings`` it has no past and no accuracy: they are many times what forecasts are made
    from. With ``settings`` it must have been made under these: buckets are counted by them.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt, FingerprintMismatch
    """
    manifest = read_manifest(store, partition, snapshot, verifier)
    if settings is not None:
        check_settings(manifest, settings)
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
    made_under = settings_of(manifest)
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
        scored=made_under.scored_horizons,
        models=made_under.models,
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
        lengths=made_under.scored_horizons[1:],
        totals=wholes.of_totals(arrays),
        groups=wholes.scatters(arrays, texts, size),
        sources=standings(known_sources["sources"], judged, warm_after(Calendar(made_under))),
        watched=watched(loaded["watch"][1][1]),
        parts=loaded,
        returns=Returns(loaded["returns"][1][1] if rings else None),
        **{name: arrays[name] for name in (*_SERVED, "sold", "remains", "passed")},
    )


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
    panel.rows.update(zip(panel.keys, range(len(panel.keys)), strict=True))
    panel.categories.take(keys["categories"])
    panel.stores.take(keys["stores"])
    panel.product_codes.take(keys["products"])
    _, columns = unpack(parts["columns"])
    panel.columns = {name: columns[name] for name in COLUMNS}
    panel.rings = {name: unpack(parts[f"ring.{name}"])[1][name] for name in RINGS}


def read_losses(store: SnapshotStore, manifest: Manifest) -> tuple[Losses, list[str]]:
    """What a snapshot's models have lost, and its categories' names by code; it was verified.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt
    """
    settings = settings_of(manifest)
    parts = read_parts(store, manifest, ("losses", "keys"))
    losses = Losses(len(settings.models), settings.scored_horizons, settings.bucket)
    losses.restore(unpack(parts["losses"])[1])
    return losses, unpack(parts["keys"])[0]["categories"]


class Knowledge(msgspec.Struct, frozen=True):
    """Facts of a shard that are no sales: what was told last of each product in each store, and
    every version of each plan, in the order they were told. ``last`` is the last bucket that
    closed."""

    last: int | None
    products: list[Product]
    plans: list[Plan]


_kept = msgspec.json.Decoder(Kept)


_product = msgspec.json.Decoder(Product)


def read_knowledge(store: SnapshotStore, manifest: Manifest) -> Knowledge:
    """What a snapshot knows of products and plans; the manifest was verified.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt
    """
    known, _ = unpack(read_parts(store, manifest, ("knowledge",))["knowledge"])
    return Knowledge(
        last=known["last"],
        products=[_product.decode(raw) for raw in known["products"]],
        plans=[_kept.decode(raw).plan for raw in known["plans"]],
    )
