"""Operators' freeze, resume and rollback, and the audit trail of them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from api import schemas
from api.context import Context, answer, documented
from api.control import Request as Asked
from api.problems import Problem
from learner.operations import Entry


def routes(context: Context) -> APIRouter:
    """The routes of operations. Not coroutines: they write logs and move pointers, in a thread."""
    router = APIRouter(tags=["operations"])
    control = context.control

    async def key(request: Request) -> None:
        context.guard(request)

    def post_operation(body: schemas.OperationRequest) -> Response:
        """Carry an operation out; 202 while it waits for the learner.

        `freeze` serves a cut (by default what is served now) and lets learning go on; `resume`
        follows the head again; `rollback` takes the models back to a cut and keeps the facts.
        """
        asked = Asked(
            kind=body.kind, who=body.who, reason=body.reason, id=body.id,
            snapshots=tuple(body.snapshots), to=body.to,
        )  # fmt: skip
        if body.dry_run:
            planned = Entry(operation=control.plan(asked), offset=-1)
            return answer(_item(planned, dry_run=True))
        entry = control.submit(asked)
        return answer(_item(entry), 202 if entry.state == "pending" else 200)

    def get_operations() -> Response:
        """All operations, newest first."""
        entries = list(control.entries().values())
        return answer({"items": [_item(entry) for entry in reversed(entries)]})

    def get_operation(id: str) -> Response:
        """One operation and what became of it."""
        entry = control.entries().get(id)
        if entry is None:
            raise Problem(
                404, "unknown-operation", "No such operation", f"no operation `{id[:200]}`",
                field="id", remedy="choose one of GET /v1/operations",
            )  # fmt: skip
        return answer(_item(entry))

    router.add_api_route(
        "/v1/operations",
        post_operation,
        methods=["POST"],
        dependencies=[Depends(key)],
        responses={
            200: {"model": schemas.OperationItem},
            202: {"model": schemas.OperationItem, "description": "It waits for the learner"},
            **documented(401, 404, 409, 413, 422, 503),
        },
    )
    router.add_api_route(
        "/v1/operations",
        get_operations,
        responses={200: {"model": schemas.Operations}, **documented(503)},
    )
    router.add_api_route(
        "/v1/operations/{id}",
        get_operation,
        responses={200: {"model": schemas.OperationItem}, **documented(404, 503)},
    )
    return router


def _item(entry: Entry, dry_run: bool = False) -> dict[str, Any]:
    operation = entry.operation
    return {
        "id": operation.id,
        "kind": operation.kind,
        "who": operation.who,
        "reason": operation.reason,
        "time": operation.time,
        "cut": {str(partition): snapshot for partition, snapshot in operation.cut.items()},
        "state": entry.state,
        "outcomes": [
            {
                "partition": one.partition,
                "outcome": one.outcome,
                "time": one.time,
                "detail": one.detail,
                "offset": one.offset,
            }
            for one in entry.outcomes
        ],
        "dry_run": dry_run,
    }
