"""Where each snapshot comes from: a tree, with the operations that made its branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from api.catalog import Catalog
from api.replica import as_of, iso
from learner.manifest import Manifest
from learner.operations import Entry, Operation
from learner.replay import passing


def tree(catalog: Catalog, entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """Snapshots that are kept, by partition, each with the nearest kept one it comes from.

    What was pruned is passed over: within a lineage by position, and at its beginning by the
    cut that its replay began from.
    """
    return [
        {"partition": partition, "snapshots": _nodes(catalog, partition, entries)}
        for partition in catalog.store.partitions()
    ]


def _nodes(catalog: Catalog, partition: int, entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    manifests, _ = catalog.newest(partition)
    manifests.sort(key=lambda one: (one.lineage, one.position))
    pointers = catalog.store.pointers(partition)
    named: dict[str, list[Operation]] = {}
    for entry in entries.values():
        snapshot = entry.operation.cut.get(partition)
        if snapshot is not None:
            named.setdefault(snapshot, []).append(entry.operation)
    nodes = []
    for manifest in manifests:
        made_by = _made_by(manifest, entries)
        nodes.append(
            {
                "id": manifest.snapshot,
                "parent": _parent(manifest, manifests, made_by),
                "lineage": manifest.lineage,
                "position": manifest.position,
                "as_of": as_of(manifest.watermark_us),
                "published_at": iso(manifest.created_us),
                "head": pointers.head is not None and pointers.head.snapshot == manifest.snapshot,
                "active": pointers.active is not None
                and pointers.active.snapshot == manifest.snapshot,
                "unfinished": manifest.replay is not None,
                "made_by": made_by.id if made_by else None,
                "champion": manifest.champion,
                "promotions": [one.operation for one in manifest.promotions],
                "excluded": [rule.operation for rule in passing(manifest.rules)],
                "named_by": [
                    {"id": one.id, "kind": one.kind, "who": one.who, "reason": one.reason}
                    for one in named.get(manifest.snapshot, ())
                ],
            }
        )
    return nodes


def _made_by(manifest: Manifest, entries: Mapping[str, Entry]) -> Operation | None:
    """The last replay that a snapshot stands on."""
    replays = [
        entries[one]
        for one in manifest.operations
        if one in entries and entries[one].operation.replay
    ]
    if not replays:
        return None
    return max(replays, key=lambda entry: entry.offset).operation


def _parent(
    manifest: Manifest, manifests: Sequence[Manifest], made_by: Operation | None
) -> str | None:
    kept = {one.snapshot for one in manifests}
    if manifest.parent in kept:
        return manifest.parent
    older = [
        one
        for one in manifests
        if one.lineage == manifest.lineage and one.position < manifest.position
    ]
    if older:
        return older[-1].snapshot
    cut = made_by.cut.get(manifest.partition) if made_by else None
    return cut if cut in kept else None
