"""Taking events in, and telling producers what became of them."""

from __future__ import annotations

import re
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from starlette.responses import Response

from api import ingest, schemas
from api.context import Context, Plain, answer, documented
from api.edge import only
from api.problems import Problem, invalid
from stream.errors import LogUnavailable
from stream.event import Refusal, decode

_RECEIPT = re.compile(r"(\d{1,6})-(\d{1,18})-(\d{1,6})", re.ASCII)
_NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")
_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no")


def routes(context: Context) -> APIRouter:
    """The routes of events."""
    router = APIRouter(tags=["events"])
    example = {
        "type": "sale", "id": "1042", "source": "till-3", "time": "2025-03-01T10:15:00+01:00",
        "store": "330", "product": "P-102", "quantity": 2, "price": 1.99,
    }  # fmt: skip
    event = {
        "type": "object",
        "description": "A sale, void, plan, availability, complete or product event",
        "required": ["type", "id", "source", "time"],
        "properties": {
            "type": {"enum": ["sale", "void", "plan", "availability", "complete", "product"]},
            "id": {"type": "string", "minLength": 1, "maxLength": 128},
            "source": {"type": "string", "minLength": 1, "maxLength": 128},
            "time": {"type": "string", "format": "date-time"},
            "x": {"type": "object", "description": "The producer's own"},
        },
    }

    async def post_events(request: Request) -> Response:
        """Append events to the log: one, an array, or a line each.

        Answered once what was accepted is durable. 207: some were refused; 422: all were.
        """
        context.guard(request)
        only(request.scope["query_string"], frozenset(("brief",)))
        brief = request.query_params.get("brief", "").lower()
        if brief not in (*_TRUE, *_FALSE):
            raise invalid("brief", f"`brief` is {brief!r}", "give true or false")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await request.body()
        status, value = await run_sync(_take, context, body, kind in _NDJSON, brief in _TRUE)
        return answer(value, status)

    async def get_receipt(request: Request, receipt: str) -> Response:
        """What became of an accepted event: waiting, folded, or kept aside as a dead letter."""
        return answer(await run_sync(_became, context, receipt))

    router.add_api_route(
        "/v1/events",
        post_events,
        methods=["POST"],
        route_class_override=Plain,
        responses={
            200: {"model": schemas.Ingested},
            207: {"model": schemas.Ingested, "description": "Some were refused"},
            **documented(401, 413, 415, 503),
            422: {"model": schemas.Ingested, "description": "All were refused"},
        },
        openapi_extra={
            "parameters": [
                {
                    "name": "brief", "in": "query", "schema": {"type": "boolean", "default": False},
                    "description": "Answer only the refused items, each with its `index`",
                }
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"oneOf": [event, {"type": "array", "items": event}]},
                        "example": [example],
                    },
                    "application/x-ndjson": {"schema": {"type": "string"}},
                },
            },
        },
    )  # fmt: skip
    router.add_api_route(
        "/v1/receipts/{receipt}",
        get_receipt,
        responses={200: {"model": schemas.Receipt}, **documented(404, 422, 503)},
    )
    return router


def _take(context: Context, body: bytes, ndjson: bool, brief: bool) -> tuple[int, dict[str, Any]]:
    """Status and answer of an ingest request; blocks until what was accepted is durable."""
    raws = ingest.split(body, ndjson)
    if isinstance(raws, Refusal):
        found = ingest.Batch([], [raws])
    else:
        latest_s = context.clock() + context.settings.max_future_s
        found = ingest.batch(raws, context.events.partitions, latest_s)
    offsets = context.log_watch.append(found.entries) if found.entries else []
    items = ingest.receipts(found, offsets)
    refused = sum(type(item) is Refusal for item in found.items)
    accepted = len(items) - refused
    context.telemetry.ingested(accepted, refused)
    if brief:
        items = [{"index": i, **one} for i, one in enumerate(items) if one["status"] == "refused"]
    status = 200 if not refused else 207 if accepted else 422
    return status, {"accepted": accepted, "refused": refused, "items": items}


def _became(context: Context, receipt: str) -> dict[str, Any]:
    """What became of an accepted item."""
    match = _RECEIPT.fullmatch(receipt)
    if match is None:
        raise invalid(
            "receipt", f"`{receipt[:100]}` is no receipt", "give what POST /v1/events answered"
        )
    partition, offset, item = (int(part) for part in match.groups())
    state = context.replica.state
    pointers = state.pointers.get(partition)
    view = state.views.get(partition)
    head = pointers.head if pointers is not None else None
    served = view is not None and view.serving.position > offset
    folded = served or (head is not None and head.position > offset)
    try:
        exists = _exists(context, partition, offset, item)
    except LogUnavailable:
        # What was folded was in the log; of anything else nothing can be said now.
        if not folded:
            raise
        exists = True
    if not exists:
        raise Problem(
            404, "unknown-receipt", "Unknown receipt",
            f"the log holds no event at `{receipt}`", field="receipt",
            remedy="check the receipt; if the log was recreated, send the event again",
            more={"receipt": receipt, "state": "unknown"},
        )  # fmt: skip
    why = context.log_watch.why(partition, offset, item) if folded else None
    found: dict[str, Any] = {
        "receipt": receipt,
        "state": "dead_letter" if why else "folded" if folded else "waiting",
        "served": served,
    }
    if why is not None:
        found |= {"reason": why.reason, "detail": why.detail, "remedy": why.remedy}
    if folded:
        in_view = served and view is not None
        found["snapshot"] = view.serving.snapshot if in_view and view else head and head.snapshot
    return found


def _exists(context: Context, partition: int, offset: int, item: int) -> bool:
    """Whether the log holds, or once held, the item."""
    if partition >= context.events.partitions:
        return False
    if offset >= context.events.end()[partition]:
        return False
    if offset < context.events.begin()[partition]:
        return True
    records = context.events.read(partition, offset, 1)
    return bool(records) and records[0].offset == offset and item < len(decode(records[0].value))
