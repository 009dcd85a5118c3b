"""Forecasts of one series, and the history they stand on. All from memory."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api import answers, problems, schemas
from api.asked import (
    DEFAULT_HORIZON,
    DEFAULT_LEVELS,
    HIGHEST,
    LOWEST,
    MOST_LEVELS,
    named,
    parse,
    short,
    unknown_series,
)
from api.context import Context, Plain, answer, documented
from api.problems import Problem
from api.replica import Replica, View
from learner.serving import CENSORED, MISSING, bucket_times

MOST_HISTORY = 10_000

_PREFIX = b"/v1/forecasts/"
_PAST_PREFIX = b"/v1/history/"
_PATH = "/v1/forecasts/{store}/{product:path}"
_STATUS = {MISSING: "missing", CENSORED: "censored"}


async def forecast(context: Context, raw_path: bytes, query: bytes) -> Response:
    """Answer a request for one series' forecast.

    Raises
    ------
    Problem
    """
    settings, replica = context.settings, context.replica
    asked = parse(query, settings.horizons)
    view, row, store, product = await _known(replica, raw_path, _PREFIX)
    serving = view.serving
    if asked.horizon > len(serving.mean):
        raise short(asked.horizon, len(serving.mean))
    age_s = replica.age_s(view)
    _, spreads = view.spread(asked.levels)
    return answer(
        {
            "store": store,
            "product": product,
            "category": serving.categories[row],
            "origin": view.origin,
            "bucket": settings.bucket,
            "timezone": settings.timezone,
            "model": serving.champion,
            "snapshot": serving.snapshot,
            "as_of": view.as_of,
            "age_s": age_s,
            "stale": replica.stale(view, age_s),
            "frozen": replica.frozen(serving.partition),
            "steps": answers.one(serving, row, asked.horizon, spreads, view.times, asked.names),
        }
    )


async def _known(replica: Replica, raw_path: bytes, prefix: bytes) -> tuple[View, int, str, str]:
    """View, row, store and product of the series that a path names."""
    store, product = named(raw_path, prefix)
    found = replica.find(store, product)
    if found is None:
        raise await run_sync(unknown_series, replica.state, store, product)
    return *found, store, product


class _Template:
    """What the measuring of requests wants to know of a route."""

    path = _PATH


class FastLane:
    """Answers forecasts of one series ahead of the router, which would double their cost."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app = app
        self.context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on what is no such request."""
        if (
            scope["type"] != "http"
            or scope["method"] != "GET"
            or not scope["path"].startswith("/v1/forecasts/")
        ):
            await self.app(scope, receive, send)
            return
        scope["route"] = _Template
        try:
            response = await forecast(self.context, scope["raw_path"], scope["query_string"])
        except Problem as problem:
            response = problems.response(problem)
        await response(scope, receive, send)


def routes(context: Context) -> APIRouter:
    """The routes of forecasts."""
    router = APIRouter(tags=["forecasts"])
    settings, replica = context.settings, context.replica
    horizons = settings.horizons

    async def get_forecast(request: Request) -> Response:
        """Forecast one series: mean, median and quantiles of each of the next buckets."""
        return await forecast(context, request.scope["raw_path"], request.scope["query_string"])

    async def history(request: Request, limit: int = Query(90, ge=1, le=MOST_HISTORY)) -> Response:
        """Closed buckets of a series, oldest first, as far back as they are kept."""
        view, row, store, product = await _known(replica, request.scope["raw_path"], _PAST_PREFIX)
        past = view.serving.past(row, limit)
        columns = zip(
            past.bucket.tolist(), past.units.round(4).tolist(), past.returns.round(4).tolist(),
            past.price.round(4).tolist(), past.promotion.round(4).tolist(), past.status.tolist(),
            strict=True,
        )  # fmt: skip
        items = []
        for bucket, units, returns, price, promotion, status in columns:
            start, end = bucket_times(replica.calendar, bucket)
            items.append(
                {
                    "start": start,
                    "end": end,
                    "units": None if status == MISSING else units,
                    "returns": returns,
                    "price": price,
                    "promotion": promotion,
                    "status": _STATUS.get(status, "observed"),
                }
            )
        return answer(
            {
                "store": store,
                "product": product,
                "category": view.serving.categories[row],
                "bucket": settings.bucket,
                "timezone": settings.timezone,
                "items": items,
            }
        )

    names = [_path_parameter("store", "330"), _path_parameter("product", "P-102")]
    router.add_api_route(
        _PATH,
        get_forecast,
        route_class_override=Plain,
        responses={200: {"model": schemas.Forecast}, **documented(404, 422)},
        openapi_extra={
            "parameters": [
                *names,
                {
                    "name": "horizon", "in": "query", "description": "Buckets ahead",
                    "schema": {
                        "type": "integer", "minimum": 1, "maximum": horizons,
                        "default": min(DEFAULT_HORIZON, horizons),
                    },
                },
                {
                    "name": "quantiles", "in": "query", "style": "form", "explode": False,
                    "description": "Levels, with commas between them",
                    "schema": {
                        "type": "array", "maxItems": MOST_LEVELS,
                        "items": {"type": "number", "minimum": LOWEST, "maximum": HIGHEST},
                        "default": list(DEFAULT_LEVELS),
                    },
                },
            ]
        },
    )  # fmt: skip
    router.add_api_route(
        "/v1/history/{store}/{product:path}",
        history,
        responses={200: {"model": schemas.History}, **documented(404, 422)},
        openapi_extra={"parameters": names},
    )
    return router


def _path_parameter(name: str, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        "example": example,
    }
