"""Forecasts of one series and of many, and the history they stand on. All from memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

import anyio
import msgspec
import numpy as np
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api import answers, numbers, schemas
from api.context import Context, Plain, answer, documented
from api.problems import Problem, invalid
from api.replica import State, View
from learner.serving import CENSORED, MISSING, bucket_times

DEFAULT_HORIZON = 14
DEFAULT_LEVELS = (0.1, 0.5, 0.9)
#: Bounds of quantile levels: the tails beyond were never measured.
LOWEST, HIGHEST = 0.001, 0.999
MOST_LEVELS = 50
MOST_SERIES = 100_000
MOST_HISTORY = 10_000
#: Batches computed at once: each may take 100 MB.
BATCHES = 2

_PREFIX = b"/v1/forecasts/"
_PAST_PREFIX = b"/v1/history/"
_STATUS = {MISSING: "missing", CENSORED: "censored"}


class Asked(NamedTuple):
    """Horizon and quantile levels of a request; ``names`` are the levels as they are written."""

    horizon: int
    levels: answers.Levels
    names: tuple[str, ...]


class _Batch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body of a batch request."""

    series: list[tuple[str, str]] | None = None
    all: bool = False
    store: str | None = None
    horizon: int | None = None
    quantiles: list[float] | None = None


_decode_batch = msgspec.json.Decoder(_Batch).decode


def check(horizon: int | None, levels: Sequence[float] | None, horizons: int) -> Asked:
    """Fill in defaults and check bounds.

    Parameters
    ----------
    horizons
        How far ahead the deployment forecasts, in buckets.

    Raises
    ------
    Problem
    """
    wanted = min(DEFAULT_HORIZON, horizons) if horizon is None else horizon
    if not 1 <= wanted <= horizons:
        raise invalid(
            "horizon",
            f"`horizon` is {wanted}; it must be from 1 to {horizons} buckets",
            f"ask for at most {horizons}, or raise the setting `horizon`",
        )
    unique = tuple(dict.fromkeys(DEFAULT_LEVELS if levels is None else levels))
    for level in unique:
        if not LOWEST <= level <= HIGHEST:
            raise invalid(
                "quantiles",
                f"`quantiles` holds {level:g}; each must be from {LOWEST} to {HIGHEST}",
                "give probabilities, such as 0.1,0.5,0.9",
            )
    if len(unique) > MOST_LEVELS:
        raise invalid(
            "quantiles", f"{len(unique)} quantiles are too many", f"ask for at most {MOST_LEVELS}"
        )
    return Asked(wanted, unique, tuple(repr(level) for level in unique))


@lru_cache(maxsize=1024)
def parse(query: bytes, horizons: int) -> Asked:
    """Horizon and quantiles of a query string; see ``check``."""
    horizon: int | None = None
    levels: list[float] | None = None
    for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name == "horizon":
            # int() would also take "1_0" and digits of other scripts.
            if not (text.isascii() and text.lstrip("-").isdigit() and len(text) < 10):
                raise invalid(
                    "horizon",
                    f"`horizon` must be a whole number from 1 to {horizons}",
                    "give a number of buckets, such as 7",
                )
            horizon = int(text)
        elif name == "quantiles":
            levels = levels or []
            for part in text.split(","):
                try:
                    levels.append(float(part))
                except ValueError:
                    raise invalid(
                        "quantiles",
                        f"`quantiles` must be numbers from {LOWEST} to {HIGHEST}, with commas",
                        "give probabilities, such as 0.1,0.5,0.9",
                    ) from None
    return check(horizon, levels, horizons)


def named(raw_path: bytes, prefix: bytes) -> tuple[str, str]:
    """Store and product of a path, either of which may hold any letter, ``%2F`` too."""
    store, _, product = raw_path.partition(prefix)[2].partition(b"/")
    return (
        unquote_to_bytes(store).decode("utf-8", "replace"),
        unquote_to_bytes(product).decode("utf-8", "replace"),
    )


def routes(context: Context) -> APIRouter:
    """The routes of forecasts."""
    router = APIRouter(tags=["forecasts"])
    settings, replica = context.settings, context.replica
    horizons = settings.horizons
    batches = anyio.CapacityLimiter(BATCHES)

    async def known(request: Request, prefix: bytes) -> tuple[View, int, str, str]:
        store, product = named(request.scope["raw_path"], prefix)
        found = replica.find(store, product)
        if found is None:
            raise await run_sync(unknown_series, replica.state, store, product)
        return *found, store, product

    async def forecast(request: Request) -> Response:
        """Forecast one series: mean, median and quantiles of each of the next buckets."""
        asked = parse(request.scope["query_string"], horizons)
        view, row, store, product = await known(request, _PREFIX)
        serving = view.serving
        available = len(serving.mean)
        if asked.horizon > available:
            raise _short(asked.horizon, available)
        age_s = replica.age_s(view)
        mean, sold, quantiles = answers.one(serving, row, asked.horizon, view.spread(asked.levels))
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
                "steps": answers.steps(view.times, asked.names, mean, sold, quantiles),
            }
        )

    async def batch(request: Request) -> Response:
        """Forecast up to 100,000 series at once, as columns; a group an origin."""
        body = await request.body()
        async with batches:
            whole = await run_sync(_forecast_many, context, body)
        return Response(whole, media_type="application/json")

    async def history(request: Request, limit: int = Query(90, ge=1, le=MOST_HISTORY)) -> Response:
        """Closed buckets of a series, oldest first, as far back as they are kept."""
        view, row, store, product = await known(request, _PAST_PREFIX)
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
        "/v1/forecasts/{store}/{product:path}",
        forecast,
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
        "/v1/forecasts:batch",
        batch,
        methods=["POST"],
        route_class_override=Plain,
        responses={200: {"model": schemas.Batch}, **documented(404, 413, 422)},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}}
                },
            }
        },
    )
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


def unknown_series(state: State, store: str, product: str) -> Problem:
    """404 with what may have been meant; searches names, so not on the event loop."""
    if store in state.homes:
        detail, field = f"store `{store}` has no product `{product}`", "product"
    else:
        detail, field = f"no store `{store}` is known", "store"
    return Problem(
        404,
        "unknown-series",
        "Unknown series",
        detail,
        field=field,
        remedy="choose one of `near`, or search with GET /v1/series?q=; a series is known "
        "once a bucket with its first sale has closed",
        near=state.index.near(store, product),
    )


def _short(horizon: int, available: int) -> Problem:
    """The snapshot served was made with a shorter horizon than is set now."""
    return invalid(
        "horizon",
        f"`horizon` is {horizon}; what is served now goes from 1 to {available} buckets",
        f"ask for at most {available}",
    )


def _forecast_many(context: Context, body: bytes) -> bytes:
    """The answer of a batch request."""
    try:
        wanted = _decode_batch(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _of_body(error) from None
    asked = check(wanted.horizon, wanted.quantiles, context.settings.horizons)
    state = context.replica.state
    rows, unknown = _rows(state, wanted)
    if sum(map(len, rows.values())) > MOST_SERIES:
        raise invalid(
            "all", f"more than {MOST_SERIES} series in one call", "ask for one `store` at a time"
        )
    by_origin: dict[str, list[tuple[View, np.ndarray[Any, np.dtype[np.intp]]]]] = {}
    for partition in sorted(rows):
        view = state.views[partition]
        if asked.horizon > len(view.serving.mean):
            raise _short(asked.horizon, len(view.serving.mean))
        chosen = np.asarray(rows[partition], dtype=np.intp)
        by_origin.setdefault(view.origin, []).append((view, chosen))
    groups = [_group(context, asked, members) for _, members in sorted(by_origin.items())]
    tail = answers.encode(unknown)
    return b'{"groups":[' + b",".join(groups) + b'],"unknown":' + tail + b"}"


def _of_body(error: Exception) -> Problem:
    """422 of a batch body that could not be decoded, with the field that msgspec names."""
    text = str(error) or "nested too deeply"
    field = text.partition("`$.")[2].partition("`")[0].partition("[")[0]
    if "unknown field" in text:
        field = text.partition("unknown field `")[2].partition("`")[0]
    return invalid(field or "body", text, "send the shape of BatchRequest in /openapi.json")


def _rows(state: State, wanted: _Batch) -> tuple[dict[int, Sequence[int]], list[tuple[str, str]]]:
    """Rows asked for, by partition, and the series that nobody knows."""
    unknown: list[tuple[str, str]] = []
    if wanted.series is not None:
        if wanted.all or wanted.store is not None:
            raise invalid("series", "give `series`, or `all` and `store`", "leave one of them out")
        if len(wanted.series) > MOST_SERIES:
            raise invalid(
                "series", f"{len(wanted.series)} series in one call",
                f"ask for at most {MOST_SERIES}",
            )  # fmt: skip
        tables = {partition: view.serving.rows for partition, view in state.views.items()}
        found: dict[int, list[int]] = {}
        for key in wanted.series:
            partition = state.homes.get(key[0], -1)
            row = tables[partition].get(key) if partition >= 0 else None
            if row is None:
                unknown.append(key)
            else:
                found.setdefault(partition, []).append(row)
        return dict(found), unknown
    if wanted.store is not None:
        partition = state.homes.get(wanted.store, -1)
        if partition < 0:
            raise Problem(
                404, "unknown-store", "Unknown store", f"no store `{wanted.store}` is known",
                field="store", remedy="search with GET /v1/series?q=",
            )  # fmt: skip
        stores = state.views[partition].serving.stores
        return {partition: [i for i, one in enumerate(stores) if one == wanted.store]}, unknown
    if not wanted.all:
        raise invalid(
            "series", "nothing is asked for", "give `series`, a list of [store, product], or `all`"
        )
    return {p: range(len(view.serving.stores)) for p, view in state.views.items()}, unknown


def _group(
    context: Context,
    asked: Asked,
    members: list[tuple[View, np.ndarray[Any, np.dtype[np.intp]]]],
) -> bytes:
    """One group's columns as JSON; partition after partition, each in the order asked for."""
    replica = context.replica
    stores: list[str] = []
    products: list[str] = []
    partition: list[int] = []
    parts = []
    states = {}
    for view, rows in members:
        serving = view.serving
        places = rows.tolist()
        stores += [serving.stores[row] for row in places]
        products += [serving.products[row] for row in places]
        partition += [serving.partition] * len(places)
        parts.append(answers.columns(serving, rows, asked.horizon, view.spread(asked.levels)))
        age_s = replica.age_s(view)
        states[str(serving.partition)] = {
            "origin": view.origin,
            "as_of": view.as_of,
            "snapshot": serving.snapshot,
            "stale": replica.stale(view, age_s),
            "age_s": age_s,
        }
    if len(parts) == 1:
        columns = parts[0]
    else:
        columns = answers.Columns(
            *(np.concatenate(one, axis=-1) for one in zip(*parts, strict=True))
        )
    times = members[0][0].times[: asked.horizon]
    members_json = {
        "start": answers.encode([start for start, _ in times]),
        "end": answers.encode([end for _, end in times]),
        "store": answers.encode(stores),
        "product": answers.encode(products),
        "partition": answers.encode(partition),
        "mean": numbers.encode(columns.mean),
        "median": numbers.encode(columns.median),
        "quantiles": _object(
            {
                name: numbers.encode(level)
                for name, level in zip(asked.names, columns.quantiles, strict=True)
            }
        ),
        "partitions": answers.encode(states),
    }
    return _object(members_json)


def _object(members: dict[str, bytes]) -> bytes:
    """A JSON object of members that are encoded already."""
    return b"{" + b",".join([b'"%b":%b' % (n.encode(), v) for n, v in members.items()]) + b"}"
