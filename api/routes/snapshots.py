"""Snapshots that are kept, by their signed manifests."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from api import operation_schemas, schemas
from api.context import Context, answer, documented
from api.lineage import tree
from api.problems import Problem
from api.replica import as_of, iso
from learner.manifest import Manifest
from learner.store import Pointers
from stream.buckets import Calendar


def routes(context: Context) -> APIRouter:
    """The routes of snapshots. Not coroutines: they read the store, in a thread."""
    router = APIRouter(tags=["snapshots"])
    catalog, calendar = context.catalog, context.replica.calendar

    def get_snapshots(
        partition: int | None = Query(None, ge=0, le=1_000_000),
        limit: int = Query(50, ge=1, le=1000),
    ) -> Response:
        """Snapshots, newest first."""
        pointers = catalog.pointers()
        manifests, unreadable = [], []
        for one in pointers if partition is None else [partition]:
            found, failed = catalog.newest(one, limit)
            manifests += found
            unreadable += failed
        manifests.sort(key=lambda one: (-one.created_us, one.partition, -one.position))
        items = [_item(one, pointers, calendar) for one in manifests[:limit]]
        return answer(
            {
                "items": items,
                "unreadable": [
                    {"id": one.snapshot, "partition": one.partition, "reason": one.reason}
                    for one in unreadable
                ],
            }
        )

    def get_snapshot(id: str) -> Response:
        """One snapshot: what it was made with, and what it holds."""
        partition = catalog.partition_of(id)
        if partition is None:
            raise Problem(
                404, "unknown-snapshot", "No such snapshot",
                f"no partition keeps a snapshot `{id[:200]}`", field="id",
                remedy="choose one of GET /v1/snapshots; older ones are thinned out",
            )  # fmt: skip
        manifest = catalog.manifest(partition, id)
        return answer(
            {
                **_item(manifest, catalog.pointers(), calendar),
                "versions": manifest.versions,
                "settings": manifest.settings,
                "parts": [
                    {"name": name, "size": part.size, "chunks": len(part.chunks)}
                    for name, part in manifest.parts.items()
                ],
                "counts": manifest.counts,
            }
        )

    def get_lineage() -> Response:
        """Where each kept snapshot comes from, and which operations named it."""
        entries = context.control.entries()
        return answer({"partitions": tree(catalog, entries)})

    router.add_api_route(
        "/v1/lineage",
        get_lineage,
        responses={200: {"model": operation_schemas.Lineage}, **documented(503)},
    )
    router.add_api_route(
        "/v1/snapshots",
        get_snapshots,
        responses={200: {"model": schemas.Snapshots}, **documented(422, 503)},
    )
    router.add_api_route(
        "/v1/snapshots/{id}",
        get_snapshot,
        responses={200: {"model": schemas.SnapshotDetail}, **documented(404, 503)},
    )
    return router


def _item(manifest: Manifest, pointers: dict[int, Pointers], calendar: Calendar) -> dict[str, Any]:
    stands = pointers.get(manifest.partition, Pointers())
    origin = manifest.origin
    return {
        "id": manifest.snapshot,
        "partition": manifest.partition,
        "position": manifest.position,
        "lineage": manifest.lineage,
        "parent": manifest.parent,
        "as_of": as_of(manifest.watermark_us),
        "published_at": iso(manifest.created_us),
        "origin": None if origin is None else calendar.start(origin).isoformat(),
        "size_bytes": manifest.size_bytes,
        "head": stands.head is not None and stands.head.snapshot == manifest.snapshot,
        "active": stands.active is not None and stands.active.snapshot == manifest.snapshot,
        "scores": manifest.scores,
        "digest": manifest.digest,
    }
