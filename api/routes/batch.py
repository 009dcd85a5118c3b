"""Forecasts of many series in one answer, as columns."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import msgspec
import numpy as np
import numpy.typing as npt
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from starlette.responses import Response

from api import answers, column_schemas, numbers, sums
from api.asked import Asked, check, short
from api.context import Context, Plain, documented
from api.edge import only
from api.problems import Problem, invalid, of_error
from api.replica import State, View

MOST_SERIES = 100_000
#: Most numbers of an answer, series times steps: 10 bytes each, and 8 while it is worked out.
MOST_VALUES = 20_000_000
#: Batches computed at once: each may take 400 MB.
BATCHES = 2

Rows = npt.NDArray[np.intp]


class _Batch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body of a batch request."""

    series: list[tuple[str, str]] | None = None
    all: bool = False
    store: str | None = None
    horizon: int | None = None
    quantiles: list[float] | None = None
    point: str | None = None
    sum: str | None = None


_decode_batch = msgspec.json.Decoder(_Batch).decode


def routes(context: Context) -> APIRouter:
    """The route of batches."""
    router = APIRouter(tags=["forecasts"])
    batches = anyio.CapacityLimiter(BATCHES)

    async def batch(request: Request) -> Response:
        """Forecast up to 100,000 series at once, as columns; a group an origin."""
        only(request.scope["query_string"], frozenset())
        body = await request.body()
        async with batches:
            whole = await run_sync(_forecast_many, context, body)
        return Response(whole, media_type="application/json")

    router.add_api_route(
        "/v1/forecasts:batch",
        batch,
        methods=["POST"],
        route_class_override=Plain,
        responses={200: {"model": column_schemas.Batch}, **documented(404, 413, 422)},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}}
                },
            }
        },
    )
    return router


def _forecast_many(context: Context, body: bytes) -> bytes:
    """The answer of a batch request."""
    try:
        wanted = _decode_batch(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _of_body(error) from None
    asked = check(
        wanted.horizon, wanted.quantiles, context.settings.horizons, wanted.point, wanted.sum
    )
    state = context.replica.state
    if context.replica.blocked is not None:
        raise of_error(context.replica.blocked)
    rows, unknown = _rows(state, wanted)
    if sum(map(len, rows.values())) > MOST_SERIES:
        raise invalid(
            "all", f"more than {MOST_SERIES} series in one call", "ask for one `store` at a time"
        )
    _check_size(sum(map(len, rows.values())), asked)
    by_origin: dict[str, list[tuple[View, Rows]]] = {}
    for partition in sorted(rows):
        view = state.views[partition]
        if view.origin is None:
            continue  # no bucket has closed yet, so there are no series
        reach = asked.horizon if asked.total is None else max(asked.horizon, asked.total[1])
        if reach > len(view.serving.mean):
            raise short(reach, len(view.serving.mean))
        chosen = np.asarray(rows[partition], dtype=np.intp)
        by_origin.setdefault(view.origin, []).append((view, chosen))
    pieces: list[bytes] = []
    for _, members in sorted(by_origin.items()):
        pieces += [b"," if pieces else b"", *_group(context, asked, members)]
    # Joined once: an answer may have 200 MB.
    return b"".join([b'{"groups":[', *pieces, b'],"unknown":', answers.encode(unknown), b"}"])


def _check_size(series: int, asked: Asked) -> None:
    """Refuse an answer that would not fit beside what is served."""
    values = series * asked.horizon * (2 + len(asked.levels) + (asked.point is not None))
    if values > MOST_VALUES:
        raise invalid(
            "series",
            f"{series:,} `series`, a `horizon` of {asked.horizon} and {len(asked.levels)} "
            f"`quantiles` make {values:,} numbers; one answer has at most {MOST_VALUES:,}",
            "ask for fewer series at a time (`series`, or one `store`), a shorter `horizon` or "
            "fewer `quantiles`",
        )


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
    members: list[tuple[View, Rows]],
) -> list[bytes]:
    """One group's columns as JSON, in pieces.

    Partition after partition, each in the order asked for.
    """
    replica = context.replica
    stores: list[str] = []
    products: list[str] = []
    partition: list[int] = []
    parts = []
    points: list[answers.Floats] = []
    states = {}
    for view, rows in members:
        serving = view.serving
        places = rows.tolist()
        stores += [serving.stores[row] for row in places]
        products += [serving.products[row] for row in places]
        partition += [serving.partition] * len(places)
        found = answers.columns(serving, rows, asked.horizon, view.spread(asked.levels))
        parts.append(found)
        if asked.point is not None:
            points.append(
                answers.points(
                    serving, rows, asked.point, found,
                    view.grid() if asked.point == "mape" else np.zeros(0),
                )
            )  # fmt: skip
        age_s = replica.age_s(view)
        states[str(serving.partition)] = {
            "origin": view.origin,
            "as_of": view.as_of,
            "snapshot": serving.snapshot,
            "stale": replica.stale(view, age_s),
            "frozen": replica.frozen(serving.partition),
            "age_s": age_s,
        }
    times = members[0][0].times[: asked.horizon]
    members_json: dict[str, list[bytes]] = {
        "start": [answers.encode([start for start, _ in times])],
        "end": [answers.encode([end for _, end in times])],
        "store": [answers.encode(stores)],
        "product": [answers.encode(products)],
        "partition": [answers.encode(partition)],
        "mean": _encode([one.mean for one in parts]),
        "median": _encode([one.median for one in parts]),
        "quantiles": _object(
            {
                name: _encode([one.quantiles[level] for one in parts])
                for level, name in enumerate(asked.names)
            }
        ),
        "partitions": [answers.encode(states)],
    }
    if asked.point is not None:
        members_json["point"] = _encode(points)
        members_json["metric"] = [answers.encode(answers.METRICS[asked.point])]
    if asked.total is not None:
        members_json["sum"] = _totals(asked, members)
    return _object(members_json)


def _totals(asked: Asked, members: list[tuple[View, Rows]]) -> list[bytes]:
    """The totals of one group's series as columns."""
    assert asked.total is not None
    first, last = asked.total
    parts = [sums.total(view.serving, rows, asked) for view, rows in members]
    mean, median, sold = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("mean", "median", "sold")
    )
    quantiles = np.concatenate([part.quantiles for part in parts], axis=1)
    # Whether a bucket of it is open may differ by partition.
    known = np.concatenate(
        [np.full(len(rows), first <= len(view.serving.sold)) for view, rows in members]
    )
    times = members[0][0].times
    return _object(
        {
            "from": [answers.encode(first)],
            "to": [answers.encode(last)],
            "start": [answers.encode(times[first - 1][0])],
            "end": [answers.encode(times[last - 1][1])],
            "mean": [numbers.encode(mean)],
            "median": [numbers.encode(median)],
            "quantiles": _object(
                {
                    name: [numbers.encode(level)]
                    for name, level in zip(asked.names, quantiles, strict=True)
                }
            ),
            "sold": [numbers.encode(np.where(known, sold, np.nan))],
        }
    )


def _encode(parts: list[answers.Floats]) -> list[bytes]:
    """Columns of several partitions, (H, n) each, as one array of JSON, a row a piece."""
    rows = [numbers.encode(np.concatenate(row)) for row in zip(*parts, strict=True)]
    pieces = [piece for row in rows for piece in (b",", row)]
    return [b"[", *pieces[1:], b"]"]


def _object(members: dict[str, list[bytes]]) -> list[bytes]:
    """Pieces of a JSON object of members that are encoded already."""
    pieces = [b"{"]
    for at, (name, value) in enumerate(members.items()):
        pieces += [b'%b"%b":' % (b"," if at else b"", name.encode()), *value]
    return [*pieces, b"}"]
