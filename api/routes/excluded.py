"""What is passed over on purpose: the rules in force, and the items themselves."""

from __future__ import annotations

import re

from fastapi import APIRouter, Query
from starlette.responses import Response

from api import operation_schemas as schemas
from api.context import Context, answer, documented
from api.excluded import Item
from api.problems import Problem, invalid
from api.routes.operations import meaning

#: No longer than a number of 64 bits.
_PLACE = re.compile(r"(\d{1,6})-(\d{1,18})-(\d{1,6})", re.ASCII)


def routes(context: Context) -> APIRouter:
    """The routes of exclusions. Not coroutines: they read logs, in a thread."""
    router = APIRouter(tags=["operations"])
    catalog, excluded = context.catalog, context.excluded

    def get_excluded(
        operation: str | None = Query(None, description="Show the items it passes over"),
        after: str | None = Query(None, description="`next` of the page before"),
        limit: int = Query(100, ge=1, le=10_000),
    ) -> Response:
        """Exclusions and quarantines in force; of one operation, the items too."""
        rules = catalog.rules(catalog.pointers())
        named = [
            (partition, rule)
            for partition, those in rules.items()
            for rule in those
            if operation in (None, rule.operation)
        ]
        if operation is not None and not named:
            raise Problem(
                404, "unknown-operation", "It passes nothing over",
                f"no exclusion or quarantine of the operation `{operation[:200]}` is in force",
                field="operation", remedy="leave `operation` out to see those that are",
            )  # fmt: skip
        begin = _place(after)
        items: list[Item] = []
        following = None
        for partition, rule in named if operation is not None else []:
            if partition < begin[0]:
                continue
            at = begin[1:] if partition == begin[0] else (0, 0)
            found = excluded.look(rule, partition, at, limit - len(items))
            items += found.items
            if found.next is not None:
                following = f"{partition}-{found.next[0]}-{found.next[1]}"
                break
        return answer(
            {
                "rules": [
                    {
                        "operation": rule.operation,
                        "kind": rule.kind,
                        "partition": partition,
                        "start": rule.start,
                        "end": rule.end,
                        "what": meaning(rule.what),
                    }
                    for partition, rule in named
                ],
                "items": [
                    {
                        "receipt": f"{one.partition}-{one.offset}-{one.item}",
                        "source": one.event.source,
                        "type": one.event.__struct_config__.tag,
                        "value": one.value.decode("utf-8", "replace"),
                    }
                    for one in items
                ],
                "next": following,
            }
        )

    router.add_api_route(
        "/v1/excluded",
        get_excluded,
        responses={200: {"model": schemas.ExcludedPage}, **documented(404, 422, 503)},
    )
    return router


def _place(after: str | None) -> tuple[int, int, int]:
    if after is None:
        return (-1, 0, 0)
    match = _PLACE.fullmatch(after)
    if match is None:
        raise invalid("after", f"`{after[:100]}` is no place in the log",
                      "give `next` of the page before")  # fmt: skip
    partition, offset, item = map(int, match.groups())
    return partition, offset, item
