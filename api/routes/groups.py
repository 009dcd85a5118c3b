"""Forecasts of stores, categories, products, and of all: each a sum with quantiles of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import anyio
import numpy as np
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from api import groups, schemas, sums
from api.answers import DECIMALS
from api.asked import Asked, parse
from api.context import Context, answer, documented
from api.problems import Problem, of_error
from api.replica import View
from api.routes.forecasts import parameters
from api.routes.status import partition_state
from learner.serving import Total

#: Answers computed at once.
AT_ONCE = 2

#: What can be asked of single series only; here it is a parameter that nobody knows.
SINGLE = ("as_of", "point")

Name = Annotated[str | None, Query(min_length=1, max_length=128)]


class GroupForecast(BaseModel):
    """The forecast of one group: sums of its series' means, and quantiles of its own."""

    group: str = Field(examples=["DAIRY"])
    series: int = Field(description="How many series it is the sum of")
    sum: schemas.Total | None = Field(None, description="Where `sum` is asked for")
    steps: list[schemas.Step]


class GroupPartition(schemas.PartitionState):
    """What a partition's part of groups stands on."""

    left_out: bool = Field(
        description="It has closed no bucket for so long that it forecasts none of these: what "
        "its series would sell is in no group"
    )


class GroupForecasts(BaseModel):
    """Forecasts of groups, the largest first.

    Steps begin after `origin`, the newest of the partitions asked about; one that is behind
    forecasts the same buckets from its own origin, which `partitions` says. One that has no
    forecast of them any more is left out.
    """

    group_by: Literal["store", "category", "product", "all"]
    origin: str
    bucket: Literal["hour", "day", "week"]
    timezone: str
    partitions: dict[str, GroupPartition]
    total: int
    next_offset: int | None
    items: list[GroupForecast]


def routes(context: Context) -> APIRouter:
    """The route of groups."""
    router = APIRouter(tags=["forecasts"])
    limiter = anyio.CapacityLimiter(AT_ONCE)
    horizons = context.settings.horizons

    async def get_groups(
        request: Request,
        group_by: Literal["store", "category", "product", "all"],
        store: Name = None,
        category: Annotated[str | None, Query(max_length=128)] = None,
        product: Name = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    ) -> Response:
        """Forecast groups of series, the largest first; filters leave some of their series."""
        asked = parse(request.scope["query_string"], horizons)
        wanted = groups.Wanted(group_by, store, category, product)
        async with limiter:
            found = await run_sync(_answer, context, wanted, asked, limit, offset)
        return answer(found)

    router.add_api_route(
        "/v1/forecasts",
        get_groups,
        responses={200: {"model": GroupForecasts}, **documented(404, 422, 503)},
        openapi_extra={
            "parameters": [one for one in parameters(horizons) if one["name"] not in SINGLE]
        },
    )
    return router


def _answer(
    context: Context, wanted: groups.Wanted, asked: Asked, limit: int, offset: int
) -> dict[str, Any]:
    replica, settings = context.replica, context.settings
    views = {p: view for p, view in replica.state.views.items() if view.origin is not None}
    found = groups.gather([view.serving for view in views.values()], wanted)
    if not found.names and replica.blocked is not None:
        raise of_error(replica.blocked)
    if not found.names:
        raise _nothing(wanted) if views else _no_bucket()
    behind = [one for one in found.left_out if partition_state(context, one)["catching_up"]]
    _check_reach(found, asked, behind)
    newest = views[min(found.pieces, key=lambda piece: piece.behind).serving.partition]
    volumes = groups.volume(found, *(asked.total or (1, asked.horizon)))
    order = sorted(range(len(found.names)), key=lambda at: (-volumes[at], found.names[at]))
    page = groups.some(found, order[offset : offset + limit])
    states = {}
    for partition in (*(piece.serving.partition for piece in page.pieces), *page.left_out):
        view = views[partition]
        age_s = replica.age_s(view)
        states[str(partition)] = {
            "origin": view.origin, "as_of": view.as_of, "snapshot": view.serving.snapshot,
            "stale": replica.stale(view, age_s), "age_s": age_s,
            "frozen": replica.frozen(partition), "left_out": partition in page.left_out,
        }  # fmt: skip
    return {
        "group_by": wanted.kind,
        "origin": newest.origin,
        "bucket": settings.bucket,
        "timezone": settings.timezone,
        "partitions": states,
        "total": len(found.names),
        "next_offset": offset + limit if offset + limit < len(found.names) else None,
        "items": _items(page, wanted, asked, newest) if page.names else [],
    }


def _no_bucket() -> Problem:
    return Problem(
        404, "no-series", "No series", "no bucket has closed yet, so there are no series",
        remedy="send sales; a bucket closes when sales have come from its grace after its end",
    )  # fmt: skip


def _check_reach(found: groups.Gathered, asked: Asked, behind: Sequence[int]) -> None:
    """See that every partition asked about forecasts as far as is asked, but quiet ones.

    ``behind`` are those left out that are catching up: without them, totals would be of a part.
    """
    if behind:
        raise Problem(
            503, "partitions-apart", "Partitions are apart",
            f"partition {behind[0]} is catching up, and forecasts none of these buckets yet",
            field="horizon", remedy="wait until the learner has caught up; GET /v1/status tells",
        )  # fmt: skip
    reach = asked.horizon if asked.total is None else max(asked.horizon, asked.total[1])
    shortest = min(found.pieces, key=lambda piece: len(piece.serving.mean) - piece.behind)
    ahead = len(shortest.serving.mean) - shortest.behind
    if reach > ahead:
        raise Problem(
            503, "partitions-apart", "Partitions are apart",
            f"partition {shortest.serving.partition} is {shortest.behind} buckets behind the "
            f"newest, so that forecasts of all go {ahead} buckets ahead",
            field="horizon",
            remedy="ask for fewer buckets, or wait until the learner has caught up",
        )  # fmt: skip


def _nothing(wanted: groups.Wanted) -> Problem:
    said = " and ".join(f"{kind} `{name}`" for kind, name in wanted.filters.items())
    return Problem(
        404, "no-series", "No series", f"no series has {said}" if said else "there are no series",
        field=next(iter(wanted.filters), None), remedy="search with GET /v1/series?q=",
    )  # fmt: skip


def _items(
    page: groups.Gathered, wanted: groups.Wanted, asked: Asked, newest: View
) -> list[dict[str, Any]]:
    """Groups as they are answered."""
    steps = [
        (groups.is_open(page, step), groups.forecast(page, wanted, asked, step, step))
        for step in range(1, asked.horizon + 1)
    ]
    items: list[dict[str, Any]] = [
        {
            "group": name,
            "series": int(page.series[at]),
            "steps": [
                _step(asked, newest.times[step], total, at, known)
                for step, (known, total) in enumerate(steps)
            ],
        }
        for at, name in enumerate(page.names)
    ]
    if asked.total is not None:
        total = groups.forecast(page, wanted, asked, *asked.total)
        known = groups.is_open(page, asked.total[0])
        for at, item in enumerate(items):
            item["sum"] = sums.member(asked, newest.times, total, at, known)
    return items


def _step(
    asked: Asked, span: tuple[str, str], total: Total, at: int, known: bool
) -> dict[str, Any]:
    mean, sold = float(total.mean[at]), float(total.sold[at])
    levels = np.round(total.quantiles[:, at], DECIMALS).tolist()
    return {
        "start": span[0],
        "end": span[1],
        "mean": round(mean, DECIMALS),
        "median": round(float(total.median[at]), DECIMALS),
        "quantiles": dict(zip(asked.names, levels, strict=True)),
        "sold": round(sold, DECIMALS) if known else None,
        "remains": round(mean - sold, DECIMALS) if known else None,
    }
