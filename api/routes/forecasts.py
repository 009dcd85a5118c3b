"""Forecasts of one series, and the history they stand on. All from memory."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api import answers, problems, recompute, schemas
from api.asked import (
    DEFAULT_HORIZON,
    DEFAULT_LEVELS,
    HIGHEST,
    LOWEST,
    MOST_LEVELS,
    NAMES,
    named,
    parse,
    short,
    unknown_series,
)
from api.context import Context, Plain, answer, documented
from api.edge import only
from api.problems import Problem
from api.recompute import PREFIX
from api.replica import Replica, View
from learner.accuracy import MEMORY, accuracy
from learner.serving import CENSORED, MISSING, bucket_times
from stream.errors import SalescastError
from stream.log import partition_of

MOST_HISTORY = 10_000

_PAST_PREFIX = b"/v1/history/"
_ACCURACY_PREFIX = b"/v1/accuracy/"
_PATH = "/v1/forecasts/{store}/{product:path}"
_PARAMETERS = frozenset(("horizon", "quantiles", "as_of", "point", "sum"))
_STATUS = {MISSING: "missing", CENSORED: "censored"}


async def forecast(context: Context, raw_path: bytes, query: bytes) -> bytes:
    """Answer a request for one series' forecast.

    Raises
    ------
    Problem
    """
    settings, replica = context.settings, context.replica
    only(query, _PARAMETERS)
    asked = parse(query, settings.horizons)
    now = asked.as_of is None
    if asked.as_of is None:
        view, row, _, _ = await _known(replica, raw_path, PREFIX)
    else:
        view, row, _, _ = await _then(context, raw_path, asked.as_of)
        asked = asked._replace(as_of=None)
    serving = view.serving
    reach = asked.horizon if asked.total is None else max(asked.horizon, asked.total[1])
    if reach > len(serving.mean):
        raise short(reach, len(serving.mean))
    age_s = replica.age_s(view)
    clock = {
        "age_s": age_s,
        # What was served then is neither: it is what was asked for.
        "stale": now and replica.stale(view, age_s),
        "frozen": replica.frozen(serving.partition) and _served(replica, view),
    }
    return recompute.answer(view, row, settings, asked, clock)


def _served(replica: Replica, view: View) -> bool:
    """Whether a view is of the snapshot that is served now."""
    present = replica.state.views.get(view.serving.partition)
    return present is not None and present.serving.snapshot == view.serving.snapshot


async def _known(replica: Replica, raw_path: bytes, prefix: bytes) -> tuple[View, int, str, str]:
    """View, row, store and product of the series that a path names."""
    store, product = named(raw_path, prefix)
    found = replica.find(store, product)
    if found is None:
        raise await run_sync(unknown_series, replica, store, product)
    return *found, store, product


async def _then(context: Context, raw_path: bytes, moment: datetime) -> tuple[View, int, str, str]:
    """View, row, store and product of the series that a path names, as it was served once."""
    replica = context.replica
    store, product = named(raw_path, PREFIX)
    state = replica.state
    if replica.blocked is not None:
        raise problems.of_error(replica.blocked)
    partition = state.homes.get(store)
    if partition is None:
        partition = partition_of(store, context.settings.partitions)
    present = state.views.get(partition)
    try:
        view = await run_sync(
            context.past.view, partition, moment, None if present is None else present.serving,
            limiter=context.past.limiter,
        )  # fmt: skip
    except SalescastError as error:
        raise problems.of_error(error) from None
    row = view.serving.rows.get((store, product))
    if row is not None:
        return view, row, store, product
    if replica.find(store, product) is None:
        raise await run_sync(unknown_series, replica, store, product)
    raise Problem(
        404, "unknown-series", "Unknown series",
        f"`{store}` had no product `{product}` yet in {view.serving.snapshot}, which knew sales up "
        f"to {view.as_of}",
        field="as_of", remedy="ask for a later time; GET /v1/series says since when it is listed",
    )  # fmt: skip


class FastLane:
    """Answers forecasts of one series ahead of everything else.

    Measured: what an application does around its routes (middleware, routing, a response's
    headers) costs twice the forecast itself.
    """

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app = app
        self.context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer and measure, or pass on what is no such request."""
        if (
            scope["type"] != "http"
            or scope["method"] != "GET"
            or not scope["path"].startswith("/v1/forecasts/")
        ):
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status, kind, more = 200, b"application/json", {}
        try:
            body = await forecast(self.context, scope["raw_path"], scope["query_string"])
        except Exception as error:
            problem = error if isinstance(error, Problem) else problems.unforeseen(scope)
            status, kind = problem.status, problems.MEDIA_TYPE.encode()
            body, more = answers.encode(problem.members), problem.headers
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        headers += [(name.lower().encode(), value.encode()) for name, value in more.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        seconds = time.perf_counter() - started
        self.context.telemetry.requested("GET", _PATH, str(status), seconds)


def routes(context: Context) -> APIRouter:
    """The routes of forecasts."""
    router = APIRouter(tags=["forecasts"])
    settings, replica = context.settings, context.replica
    horizons = settings.horizons

    async def get_forecast(request: Request) -> Response:
        """Forecast one series: mean, median and quantiles of each of the next buckets."""
        body = await forecast(context, request.scope["raw_path"], request.scope["query_string"])
        return Response(body, media_type="application/json")

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

    async def get_accuracy(request: Request) -> Response:
        """How good one series' forecasts were: champion's and seasonal naive's, by horizon."""
        view, row, store, product = await _known(
            replica, request.scope["raw_path"], _ACCURACY_PREFIX
        )
        return answer(
            {
                "store": store,
                "product": product,
                "category": view.serving.categories[row],
                "origin": view.origin,
                "snapshot": view.serving.snapshot,
                "memory": MEMORY[settings.bucket],
                "horizons": accuracy(view.serving, row),
            }
        )

    router.add_api_route(
        _PATH,
        get_forecast,
        route_class_override=Plain,
        responses={200: {"model": schemas.Forecast}, **documented(404, 422, 503)},
        openapi_extra={
            "parameters": [
                *NAMES,
                *parameters(horizons),
            ]
        },
    )  # fmt: skip
    router.add_api_route(
        "/v1/history/{store:name}/{product:name}",
        history,
        responses={200: {"model": schemas.History}, **documented(404, 422)},
        openapi_extra={"parameters": NAMES},
    )
    router.add_api_route(
        "/v1/accuracy/{store:name}/{product:name}",
        get_accuracy,
        responses={200: {"model": schemas.SeriesAccuracy}, **documented(404)},
        openapi_extra={"parameters": NAMES},
    )
    return router


def parameters(horizons: int) -> list[dict[str, Any]]:
    """What a query may say of how far ahead, which quantiles, and which total, for OpenAPI."""
    return [
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
        {
            "name": "as_of", "in": "query",
            "description": "What was forecast then: from the newest kept snapshot that "
            "knew sales up to this time and no further",
            "schema": {"type": "string", "format": "date-time"},
        },
        {
            "name": "point", "in": "query", "description": schemas.POINT,
            "schema": {"type": "string", "enum": list(answers.METRICS)},
        },
        {
            "name": "sum", "in": "query", "example": "3..9",
            "description": "First and last step of a total: one calibrated distribution",
            "schema": {"type": "string", "pattern": r"^[0-9]+\.\.[0-9]+$"},
        },
    ]  # fmt: skip
