"""The champion of a snapshot with its facts, for questions that a forecast laid down cannot
answer: what if, and why.

Only the parts that are needed are read. Leaves out: everything of a shard that only learning
needs (``snapshot.read_shard``).
"""

from __future__ import annotations

from learner.forecaster import Forecaster
from learner.panel import RINGS, Panel
from learner.pickles import load_models
from learner.snapshot import (
    Verifier,
    read_manifest,
    read_parts,
    settings_of,
    take_up_panel,
)
from learner.store import SnapshotStore
from stream.buckets import Calendar

#: Parts of a snapshot that a forecast is made from.
PARTS = ("knowledge", "keys", "columns", "models", *(f"ring.{name}" for name in RINGS))


def read_forecaster(
    store: SnapshotStore, partition: int, snapshot: str, verifier: Verifier
) -> Forecaster:
    """The champion of a snapshot, verified before it is unpickled.

    Raises
    ------
    SnapshotMissing, SnapshotCorrupt
    """
    manifest = read_manifest(store, partition, snapshot, verifier)
    parts = read_parts(store, manifest, PARTS)
    settings = settings_of(manifest)
    panel = Panel(settings, Calendar(settings))
    take_up_panel(panel, parts)
    return Forecaster(panel, load_models(parts["models"], settings.models)[manifest.champion])
