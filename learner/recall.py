"""What is read of a snapshot on demand: its champion with the facts it forecasts from, for
questions that a forecast laid down cannot answer (what if, and why), what it knows of products
and plans, and what its models have lost.

Only the parts that are needed are read. Leaves out: everything of a shard that only learning
needs (``snapshot.read_shard``).
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from learner.forecaster import Forecaster
from learner.losses import Losses
from learner.names import known_as, named
from learner.panel import RINGS, Panel
from learner.parts import unpack
from learner.pickles import load_models
from learner.plans import Kept
from learner.serving import Serving
from learner.snapshot import (
    Manifest,
    Verifier,
    outdated,
    read_manifest,
    read_parts,
    read_serving,
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


def read_continued(
    store: SnapshotStore, partition: int, frozen: str, head: str, verifier: Verifier
) -> tuple[Serving, Forecaster]:
    """A frozen snapshot's model with the facts of the head: it forecasts beyond its last horizon.

    Intervals are the frozen snapshot's too; scores, scatter of groups and traits of series are the
    head's. It is named by both, with a plus between them.

    Raises
    ------
    FingerprintMismatch
        They were made under different settings.
    SnapshotMissing, SnapshotCorrupt
    """
    old, new = (read_manifest(store, partition, one, verifier) for one in (frozen, head))
    if old.settings != new.settings:
        raise FingerprintMismatch(f"{frozen} and {head} were made under different settings")
    settings = settings_of(new)
    panel = Panel(settings, Calendar(settings))
    take_up_panel(panel, read_parts(store, new, [one for one in PARTS if one != "models"]))
    parts = read_parts(store, old, ("models", "keys"))
    known = known_as(panel.keys, named(**unpack(parts["keys"])[0])["series"])
    model = load_models(parts["models"], settings.models)[old.champion]
    forecaster = Forecaster(panel, model, known)
    there = read_serving(store, partition, head, verifier)
    then = read_serving(store, partition, frozen, verifier, rings=False)
    mean = forecaster.forecast_all()
    accuracy = there.accuracy
    if old.champion != new.champion:  # it is of another model
        accuracy = {name: np.zeros_like(column) for name, column in accuracy.items()}
    return replace(
        there,
        snapshot=f"{frozen}+{head}",
        champion=old.champion,
        mean=mean,
        remains=np.maximum(mean[: len(there.sold)] - there.sold, 0.0),
        tables=then.tables,
        totals=then.totals,
        accuracy=accuracy,
    ), forecaster


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
