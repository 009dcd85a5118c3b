"""A snapshot's champion with the facts it forecasts from: it answers what a forecast laid
down cannot, what if and why.

Only the parts that are needed are read; River is loaded with the first model. Leaves out: what is
read without models (``served``), and what only learning needs (``snapshot.read_shard``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from learner.forecaster import Forecaster
from learner.manifest import Verifier, outdated, read_manifest, read_parts, settings_of
from learner.names import known_as, named
from learner.panel import RINGS, Panel
from learner.parts import unpack
from learner.pickles import load_models
from learner.served import read_serving, take_up_panel
from learner.serving import Serving
from learner.store import SnapshotStore
from stream.buckets import Calendar
from stream.errors import FingerprintMismatch

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
