"""Who folds what, and how far: each partition's owner, head and lag. It asks log and store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.responses import Response

from api import schemas
from api.context import Context, answer, documented
from api.replica import as_of, iso
from learner.store import Pointers
from stream.errors import LogError, SnapshotCorrupt, SnapshotMissing
from stream.log import Record

T = TypeVar("T")


def routes(context: Context) -> APIRouter:
    """The route of shards. Not a coroutine: it asks the log and the store, in a thread."""
    router = APIRouter(tags=["status"])

    def get_shards() -> Response:
        """Every partition: its owner, what its head has folded, what waits in the log."""
        events = context.events
        owners: Mapping[int, str] = _asked(events.owners, {})
        ends: Mapping[int, int] = _asked(events.end, {})
        pointers = context.catalog.pointers()
        return answer(
            {
                "items": [
                    _row(context, partition, owners, ends, pointers.get(partition, Pointers()))
                    for partition in sorted({*range(events.partitions), *pointers})
                ]
            }
        )

    router.add_api_route(
        "/v1/shards",
        get_shards,
        responses={200: {"model": schemas.Shards}, **documented(503)},
    )
    return router


def _row(
    context: Context, partition: int, owners: Mapping[int, str], ends: Mapping[int, int],
    pointers: Pointers,
) -> dict[str, Any]:  # fmt: skip
    end, head = ends.get(partition), pointers.head
    position = 0 if head is None else head.position
    row: dict[str, Any] = {
        "partition": partition,
        "owner": owners.get(partition),
        "lineage": None if head is None else head.lineage,
        "position": position,
        "log_end": end,
        "lag": None if end is None else max(end - position, 0),
        "lag_s": _waiting_s(context, partition, position, end),
        "snapshot": None if head is None else head.snapshot,
        "published_at": None,
        "age_s": None,
        "as_of": None,
        "series": 0,
        "standstill": context.replica.standstill(partition),
    }
    if head is not None:
        try:
            manifest = context.catalog.manifest(partition, head.snapshot)
        except (SnapshotMissing, SnapshotCorrupt):
            return row  # the position is the pointer's own
        row |= {
            "published_at": iso(manifest.created_us),
            "age_s": round(max(context.clock() - manifest.created_us / 1e6, 0.0), 3),
            "as_of": as_of(manifest.watermark_us),
            "series": manifest.series,
        }
    return row


def _waiting_s(context: Context, partition: int, position: int, end: int | None) -> float | None:
    """How long the oldest record that no snapshot holds has been in the log, s."""
    if end is None:
        return None
    if end <= position:
        return 0.0
    first: list[Record] = _asked(lambda: context.events.read(partition, position, 1), [])
    waited = max(context.clock() - first[0].append_us / 1e6, 0.0) if first else None
    return None if waited is None else round(waited, 3)


def _asked(ask: Callable[[], T], otherwise: T) -> T:
    """What the log says; what is known without it while it cannot be reached."""
    try:
        return ask()
    except LogError:
        return otherwise
