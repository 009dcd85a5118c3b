"""Which series there are, and how good their forecasts have been."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Query
from starlette.responses import Response

from api import schemas
from api.context import Context, answer, documented
from api.problems import Problem, invalid
from api.search import close_names
from learner.evaluation import SUMS, summary
from learner.serving import Serving

Floats = npt.NDArray[np.float64]


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

    # Not coroutines: they run in threads, since slices are many.
    def get_quality(
        slice: Literal["store", "category", "volume_class"] | None = Query(
            None, description="Tell scores by the values of this"
        ),
        value: str | None = Query(None, max_length=128, description="Only this value"),
        model: str | None = Query(None, max_length=300, description="Only this model"),
        horizon: int | None = Query(None, ge=1, description="Only this horizon"),
    ) -> Response:
        """Recent scores of the champion and its challengers, by horizon, overall or by slice.

        Slices come with the largest demand first.
        """
        views = replica.state.views
        servings = [view.serving for view in views.values()]
        if value is not None and slice is None:
            raise invalid(
                "value",
                "`value` needs a `slice` that it is a value of",
                "add slice=store, slice=category or slice=volume_class",
            )
        rows = [
            row for row in pooled(servings, slice)
            if value in (None, row.get("value")) and model in (None, row["model"])
            and horizon in (None, row["horizon"])
        ]  # fmt: skip
        if servings and not rows:
            _check_filters(servings, slice, value, model, horizon)
        return answer({"partitions": sorted(views), "slice": slice, "rows": rows})

    router.add_api_route(
        "/v1/series",
        get_series,
        responses={200: {"model": schemas.SeriesPage}, **documented(422)},
    )
    router.add_api_route(
        "/v1/quality",
        get_quality,
        responses={200: {"model": schemas.Quality}, **documented(422)},
    )
    return router


def _check_filters(
    servings: Sequence[Serving], kind: str | None, value: str | None, model: str | None,
    horizon: int | None,
) -> None:  # fmt: skip
    """Refuse a filter that nothing can match.

    Raises
    ------
    Problem
        422, with what there is.
    """
    there: dict[str, list[Any]] = {
        "value": sorted({one for each in servings for one in each.slices[kind]}) if kind else [],
        "model": sorted({one for each in servings for one in each.models}),
        "horizon": sorted({one for each in servings for one in each.scored}),
    }
    for name, given in (("value", value), ("model", model), ("horizon", horizon)):
        if given is not None and given not in there[name]:
            known = ", ".join(map(str, there[name][:20]))
            raise Problem(
                422, "invalid", "Invalid request", f"nothing is scored for {name} `{given}`",
                field=name, remedy=f"give one of {known}",
                near=close_names(given, there[name]) if isinstance(given, str) else None,
            )  # fmt: skip


def pooled(servings: Iterable[Serving], kind: str | None) -> list[dict[str, Any]]:
    """Scores of several partitions as one, champion first; of slices the largest demand first."""
    tables: dict[str, dict[tuple[str, int], Floats]] = {}
    champions = []
    for serving in servings:
        champions.append(serving.champion)
        if kind is None:
            named = [("", serving.scores["volume_class"].sum(axis=0))]
        else:
            names = serving.slices[kind]
            named = [(names[at], sums) for at, sums in enumerate(serving.scores[kind])]
        for name, sums in named:
            table = tables.setdefault(name, {})
            for m, model in enumerate(serving.models):
                for h, horizon in enumerate(serving.scored):
                    before = table.get((model, horizon), np.zeros(len(SUMS)))
                    table[model, horizon] = before + sums[m, h]
    order = sorted(tables, key=lambda one: (-max(map(_demand, tables[one].values())), one))
    out = []
    for name in order:
        scored = sorted(tables[name], key=lambda one: (one[0] not in champions, *one))
        for model, horizon in scored:
            sums = tables[name][model, horizon]
            for row in summary((model,), (horizon,), sums[None, None], champions[0]):
                out.append(row if kind is None else {"value": name, **row})
    return out


def _demand(sums: Floats) -> float:
    return float(sums[SUMS.index("demand")])
