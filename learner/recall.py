"""What is read of a snapshot on demand: its champion with the facts it forecasts from, for
questions that a forecast laid down cannot answer (what if, and why), what it knows of products
and plans, and what its models have lost.

Only the parts that are needed are read. Leaves out: everything of a shard that only learning
needs (``snapshot.read_shard``).
"""

from __future__ import annotations

import msgspec

from learner.forecaster import Forecaster
from learner.losses import Losses
from learner.panel import RINGS, Panel
from learner.parts import unpack
from learner.pickles import load_models
from learner.plans import Kept
from learner.snapshot import (
    Manifest,
    Verifier,
    outdated,
    read_manifest,
    read_parts,
    settings_of,
    take_up_panel,
)
from learner.store import SnapshotStore
from stream.buckets import Calendar
from stream.errors import FingerprintMismatch
from stream.event import Plan, Product

#: Parts of a snapshot that a forecast is made from.
PARTS = ("knowledge", "keys", "columns", "models", *(f"ring.{name}" for name in RINGS))


def read_forecaster(
    store: SnapshotStore, partition: int, snapshot: str, verifier: Verifier
) -> Forecaster:
    """The champion of a snapshot, verified before it is unpickled.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt
    FingerprintMismatch
        Its models were made with another River.
    """
    manifest = read_manifest(store, partition, snapshot, verifier)
    if outdated(manifest):
        said = ", ".join(f"{name} {version}" for name, version in outdated(manifest).items())
        raise FingerprintMismatch(
            f"the models of {snapshot} were made with {said}, which is not what is installed here",
            remedy="A learner of this release makes them anew with its next snapshot",
        )
    parts = read_parts(store, manifest, PARTS)
    settings = settings_of(manifest)
    panel = Panel(settings, Calendar(settings))
    take_up_panel(panel, parts)
    return Forecaster(panel, load_models(parts["models"], settings.models)[manifest.champion])


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
