"""Where everything stands: status, news of snapshots, metrics and probes. All from memory."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from api import operation_schemas, schemas
from api.context import Context, answer
from api.replica import iso
from learner.manifest import VERSION
from learner.store import Pointers
from stream.errors import FingerprintMismatch

#: Records of the log past which a partition is not up to date, but catching up; and, as a record
#: may hold a day's sales, past how many it is so if they are a twentieth of the log.
BEHIND, BEHIND_OF = 1000, 20


def routes(context: Context) -> APIRouter:
    """The routes of status and operation."""
    router = APIRouter(tags=["status"])
    replica, log_watch, settings = context.replica, context.log_watch, context.settings

    async def get_status() -> Response:
        """Every partition: what is served of it, how old it is, how far behind the log."""
        partitions = range(context.events.partitions)
        known = sorted({*partitions, *replica.state.pointers})
        return answer(
            {
                "partitions": [partition_state(context, one) for one in known],
                "version": VERSION,
                "log": settings.log,
                "log_up": log_watch.up,
                "store": settings.store,
                "store_up": replica.store_up,
            }
        )

    async def get_updates(request: Request) -> Response:
        """Server-sent events: one whenever a snapshot is swapped in."""
        stream = replica.updates.stream(request.headers.get("last-event-id"), replica.present)
        return StreamingResponse(
            stream,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def get_metrics() -> Response:
        """Metrics in Prometheus's text format."""
        telemetry = context.telemetry
        return Response(telemetry.render(), headers={"Content-Type": telemetry.content_type})

    async def livez() -> Response:
        """200 while the process answers at all."""
        return answer({"live": True})

    async def readyz() -> Response:
        """200 once forecasts are answered, or there is nothing to forecast from yet."""
        reasons = _not_ready(context)
        return answer({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def startupz() -> Response:
        """200 once the snapshot store was looked at."""
        reasons = [] if replica.polled else ["the snapshot store could not be read yet"]
        return answer({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    ready: dict[int | str, dict[str, Any]] = {
        200: {"model": schemas.Ready},
        503: {"model": schemas.Ready, "description": "Not yet; `reasons` says why"},
    }
    router.add_api_route(
        "/v1/status", get_status, responses={200: {"model": operation_schemas.Status}}
    )
    router.add_api_route(
        "/v1/updates",
        get_updates,
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"example": _EVENT}}}},
        openapi_extra={
            "parameters": [
                {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"},
                 "description": "The last id seen: what was missed comes first"}
            ]
        },
    )  # fmt: skip
    router.add_api_route(
        "/metrics", get_metrics, response_class=PlainTextResponse,
        responses={200: {"content": {"text/plain": {}}}},
    )  # fmt: skip
    router.add_api_route("/livez", livez, responses={200: {"model": schemas.Live}})
    router.add_api_route("/readyz", readyz, responses=ready)
    router.add_api_route("/startupz", startupz, responses=ready)
    for path, probe in (("/livez", livez), ("/readyz", readyz), ("/startupz", startupz)):
        router.add_api_route(path, probe, methods=["HEAD"], include_in_schema=False)
    return router


_EVENT = (
    "event: snapshot\nid: 5f3a91c2-7\n"
    'data: {"partition":0,"snapshot":"p0-l0-o1045-1f0c9a2e",'
    '"origin":"2025-03-01T00:00:00+01:00","as_of":"2025-03-02T02:00:01+00:00"}\n\n'
)


def partition_state(context: Context, partition: int) -> dict[str, Any]:
    """One partition's row of the status."""
    replica = context.replica
    view = replica.state.views.get(partition)
    pointers = replica.state.pointers.get(partition, Pointers())
    end = context.log_watch.ends.get(partition)
    row: dict[str, Any] = {
        "partition": partition, "snapshot": None, "lineage": None, "position": None,
        "log_end": end, "lag": end, "catching_up": False, "as_of": None, "published_at": None,
        "age_s": None, "stale": False, "frozen": pointers.frozen_by is not None,
        "frozen_by": pointers.frozen_by, "replaying": replaying(pointers), "series": 0,
        "standstill": replica.standstill(partition),
    }  # fmt: skip
    if view is not None:
        serving = view.serving
        age_s = replica.age_s(view)
        lag = None if end is None else max(end - serving.position, 0)
        row |= {
            "snapshot": serving.snapshot,
            "lineage": serving.lineage,
            "position": serving.position,
            "lag": lag,
            "catching_up": not row["frozen"] and catching_up(lag or 0, end or 0),
            "as_of": view.as_of,
            "published_at": iso(serving.published_us),
            "age_s": age_s,
            "stale": replica.stale(view, age_s),
            "series": len(serving.stores),
        }
    return row


def catching_up(lag: int, end: int) -> bool:
    """Whether what is served is so many records behind the log that one should know.

    Examples
    --------
    >>> catching_up(21, 400), catching_up(21, 4000), catching_up(1001, 90_000)
    (True, False, True)
    """
    return lag > BEHIND or (lag > BEHIND_OF and lag > end / 20)


def replaying(pointers: Pointers) -> dict[str, Any] | None:
    """How far the replay of a partition's head has come, if there is one."""
    if pointers.replaying is None or pointers.head is None:
        return None
    replay = pointers.replaying
    return {
        "operation": replay.operation,
        "start": replay.start,
        "until": replay.until,
        "position": pointers.head.position,
    }


def _not_ready(context: Context) -> list[str]:
    """Why forecasts cannot be answered; nothing if they can, or none can be expected yet."""
    replica, log_watch = context.replica, context.log_watch
    if replica.state.views:
        return []
    reasons = []
    if isinstance(replica.blocked, FingerprintMismatch):
        reasons.append(str(replica.blocked))
    elif not replica.store_up:
        reasons.append("the snapshot store cannot be read")
    if not log_watch.up:
        reasons.append("the event log cannot be reached")
    elif not reasons and any(log_watch.ends.values()):
        reasons.append("there are events, and no snapshot of them yet")
    return reasons
