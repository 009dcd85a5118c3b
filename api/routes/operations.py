"""Operations, and the audit trail of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from api import operation_schemas as schemas
from api.context import Context, answer, documented
from api.cuts import Request as Asked
from api.problems import Problem
from api.routes.status import replaying
from learner.operations import Entry, Operation
from learner.replay import START, Exclusion, Rule
from learner.store import Pointers


def routes(context: Context) -> APIRouter:
    """The routes of operations. Not coroutines: they write logs and move pointers, in a thread."""
    router = APIRouter(tags=["operations"])
    control = context.control

    async def key(request: Request) -> None:
        context.guard(request)

    def post_operation(body: schemas.OperationRequest) -> Response:
        """Carry an operation out; 202 while it waits for the learner.

        `freeze` serves a cut (by default what is served now) and lets learning go on; `resume`
        follows the head again; `rollback` takes the models back to a cut and keeps the facts,
        or, with `replay`, takes all back and learns again what came after, without `exclude`;
        `quarantine` passes over what comes of `exclude` from now on; `readmit` learns again,
        with what the operation `readmits` keeps out; `skip` lets a partition that stands still
        go on without the offsets of `exclude`; `promote` lets a challenger be champion, if
        every gate lets it pass (409 `gate-failed` names the one that does not).
        """
        exclude = None
        if body.exclude is not None:
            exclude = msgspec.convert(body.exclude.model_dump(), Exclusion, from_attributes=True)
        asked = Asked(
            kind=body.kind, who=body.who, reason=body.reason, id=body.id,
            snapshots=tuple(body.snapshots), to=body.to, replay=body.replay, exclude=exclude,
            admit_late=body.admit_late, readmits=body.readmits, model=body.model,
        )  # fmt: skip
        if body.dry_run:
            known = control.known(asked)
            if known is not None:
                return answer(shown(known) | {"dry_run": True})
            operation = control.plan(asked)
            planned = item(Entry(operation=operation, offset=-1), dry_run=True)
            return answer({**planned, "preview": _preview(context, operation)})
        entry = control.submit(asked)
        return answer(shown(entry), 202 if entry.state == "pending" else 200)

    def shown(entry: Entry) -> dict[str, Any]:
        return item(entry, context.catalog.pointers() if entry.state == "pending" else {})

    def get_operations() -> Response:
        """All operations, newest first."""
        entries = list(control.entries().values())
        return answer({"items": [shown(entry) for entry in reversed(entries)]})

    def get_operation(id: str) -> Response:
        """One operation and what became of it."""
        entry = control.entries().get(id)
        if entry is None:
            raise Problem(
                404, "unknown-operation", "No such operation", f"no operation `{id[:200]}`",
                field="id", remedy="choose one of GET /v1/operations",
            )  # fmt: skip
        return answer(shown(entry))

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
        "/v1/operations/{id:name}",
        get_operation,
        responses={200: {"model": schemas.OperationItem}, **documented(404, 503)},
    )
    return router


def item(
    entry: Entry, pointers: Mapping[int, Pointers] | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """An operation as it is answered; ``pointers`` say how far its replays have come."""
    operation = entry.operation
    under_way = {
        str(partition): one
        for partition, pointer in (pointers or {}).items()
        if (one := replaying(pointer)) is not None and one["operation"] == operation.id
    }
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
        "replay": operation.replay,
        "exclude": meaning(operation.exclude),
        "admit_late": operation.admit_late,
        "readmits": operation.readmits,
        "model": operation.model,
        "over": operation.over,
        "about": operation.about,
        "progress": under_way,
        "dry_run": dry_run,
    }


def meaning(what: Exclusion | None) -> dict[str, Any] | None:
    """An exclusion as it is answered: only what it says."""
    return None if what is None else msgspec.to_builtins(what, str_keys=True)


def _preview(context: Context, operation: Operation) -> dict[str, Any] | None:
    """What a replay would learn again and pass over, by partition; counted in the log."""
    if not operation.replay:
        return None
    ends = context.events.end()
    preview: dict[str, Any] = {}
    for partition, snapshot in operation.cut.items():
        start = 0
        if snapshot != START:
            start = context.catalog.manifest(partition, snapshot).position
        preview[str(partition)] = one = {
            "records": ends[partition] - start, "excluded": {}, "complete": True,
        }  # fmt: skip
        if operation.exclude is None:
            continue
        rule = Rule(
            operation="", kind="excluded", what=operation.exclude, start=start,
            end=ends[partition],
        )  # fmt: skip
        found = context.excluded.look(rule, partition)
        one["excluded"] = dict(Counter(each.event.source for each in found.items))
        one["complete"] = found.next is None
    return preview
