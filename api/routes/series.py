"""Which series there are, and how good their forecasts have been."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from api import schemas
from api.context import Context, answer, documented


def routes(context: Context) -> APIRouter:
    """The routes of series and quality."""
    router = APIRouter(tags=["series"])
    replica = context.replica

    # Not a coroutine: it runs in a thread, since it scans the texts of all series.
    def get_series(
        q: str = Query("", max_length=300, description="All its words must be in store, product "
                       "or category"),
        limit: int = Query(50, ge=1, le=1000),
        offset: int = Query(0, ge=0, le=10_000_000),
    ) -> Response:  # fmt: skip
        """Series by recent volume, most first."""
        state = replica.state
        found = state.index.search(q)
        items = []
        for place in found[offset : offset + limit]:
            partition, row = int(state.index.partition[place]), int(state.index.row[place])
            serving = state.views[partition].serving
            items.append(
                {
                    "store": serving.stores[row],
                    "product": serving.products[row],
                    "category": serving.categories[row],
                    "partition": partition,
                    "listed": replica.calendar.start(int(serving.listed[row])).isoformat(),
                    "recent": round(float(state.index.recent[place]), 4),
                }
            )
        more = offset + limit < len(found)
        return answer(
            {
                "total": len(found),
                "items": items,
                "next_offset": offset + limit if more else None,
            }
        )

    async def get_quality() -> Response:
        """Recent errors of the champion and its challengers, by horizon."""
        views = replica.state.views
        rows = [row for view in views.values() for row in view.serving.scores]
        return answer({"partitions": sorted(views), "rows": pooled(rows)})

    router.add_api_route(
        "/v1/series",
        get_series,
        responses={200: {"model": schemas.SeriesPage}, **documented(422)},
    )
    router.add_api_route("/v1/quality", get_quality, responses={200: {"model": schemas.Quality}})
    return router


def pooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scores of several partitions as one: means weighted by n, champion first.

    Examples
    --------
    >>> a = {"model": "m", "role": "champion", "horizon": 1, "n": 1, "rmsse": 1.0, "wape": None,
    ...      "bias": 0.0}
    >>> pooled([a, {**a, "n": 3, "rmsse": 2.0}])[0]["rmsse"]
    1.75
    """
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["role"], row["model"], row["horizon"]), []).append(row)
    out = []
    for key in sorted(groups, key=lambda one: (one[0] != "champion", *one)):
        (role, model, horizon), members = key, groups[key]
        one: dict[str, Any] = {"model": model, "role": role, "horizon": horizon}
        one["n"] = round(sum(row["n"] for row in members), 3)
        for name in ("rmsse", "wape", "bias"):
            known = [(row[name], row["n"]) for row in members if row[name] is not None]
            weight = sum(n for _, n in known)
            one[name] = round(sum(x * n for x, n in known) / weight, 6) if weight else None
        out.append(one)
    return out
