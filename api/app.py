"""The application: everything the API needs, put together; nothing global."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.convertors import register_url_convertor
from starlette.types import ASGIApp

from api import problems, schemas, security
from api.background import Repeating
from api.catalog import Catalog, ManifestReader
from api.census import Censuses
from api.context import Context, documented
from api.control import Control
from api.diff import Diffs
from api.edge import Name, Readable, known_query
from api.excluded import Excluded
from api.facts import FactReader
from api.log_watch import INTERVAL_S, LogWatch
from api.past import Past
from api.recaller import Recaller
from api.replica import Loader, Replica
from api.routes import (
    batch,
    diff,
    excluded,
    forecasts,
    groups,
    guard,
    models,
    operations,
    page,
    plans,
    products,
    series,
    shards,
    snapshots,
    status,
    what_if,
)
from api.routes import (
    dead_letters as letter_routes,
)
from api.routes import events as event_routes
from api.telemetry import ApiTelemetry, MeasureRequests
from learner.manifest import VERSION, Verifier, read_manifest
from learner.recall import read_continued
from learner.served import read_serving
from learner.store import SnapshotStore
from stream.dead_letters import DeadLetters, Index
from stream.log import EventLog
from stream.settings import Settings

DESCRIPTION = """Salescast learns from a stream of sales while it serves forecasts from it.

Events go in with `POST /v1/events`; forecasts come out of `GET /v1/forecasts/{store}/{product}`.
Times are ISO 8601 with a zone, quantities are units, errors are problems by RFC 9457 that name
the field and the remedy. If the setting `api_key` is set, writes need it in `X-API-Key` or as
`Authorization: Bearer`."""


class Api(FastAPI):
    """FastAPI, with a fast lane ahead of it."""

    def build_middleware_stack(self) -> ASGIApp:
        """All that a request passes through, the fast lane first."""
        return forecasts.FastLane(super().build_middleware_stack(), self.state.context)


def create_app(
    settings: Settings,
    *,
    events: EventLog,
    control: EventLog,
    dead_letters: EventLog,
    store: SnapshotStore,
    verifier: Verifier,
    telemetry: ApiTelemetry | None = None,
    load: Loader | None = None,
    read: ManifestReader = read_manifest,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """The API over these logs and this store; its threads live as long as its lifespan.

    Parameters
    ----------
    verifier
        Checks the manifests' signatures.
    telemetry
        Where it is measured; ``None`` makes one with a registry of its own.
    load, read
        Read a snapshot's serving part, if it was made under these settings, and its manifest.
    clock
        Seconds since 1970 UTC.
    """
    telemetry = telemetry or ApiTelemetry()
    catalog = Catalog(store, verifier, read)

    def origin_of(partition: int, snapshot: str) -> int:
        origin = catalog.manifest(partition, snapshot).origin
        return -1 if origin is None else origin

    replica = Replica(
        settings,
        store,
        verifier,
        load=load or partial(read_serving, settings=settings),
        origin_of=origin_of,
        telemetry=telemetry,
        clock=clock,
        go_on=read_continued,
    )
    operations_ = Control(control, events, catalog, clock)
    log_watch = LogWatch(events, Index(dead_letters, events), operations_, telemetry)
    context = Context(
        settings=settings,
        events=events,
        replica=replica,
        recaller=Recaller(store, verifier),
        diffs=Diffs(store, verifier, catalog, events),
        past=Past(store, verifier, catalog, replica.calendar),
        catalog=catalog,
        census=Censuses(replica),
        facts=FactReader(store, catalog, events),
        control=operations_,
        excluded=Excluded(events, catalog),
        letters=DeadLetters(dead_letters, events),
        log_watch=log_watch,
        telemetry=telemetry,
        guard=security.guard(settings.api_key, settings.host),
        clock=clock,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        threads = (
            Repeating("replica", replica.refresh, settings.replica_poll_s),
            Repeating("log-watch", log_watch.look, INTERVAL_S),
        )
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            replica.updates.close()
            for thread in threads:
                await run_sync(thread.stop)

    app = Api(
        title="Salescast",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # `page` serves it
        redoc_url=None,
    )
    app.state.context = context
    modules = (
        event_routes, plans, products, forecasts, batch, groups, what_if, diff, series, snapshots,
        models, operations, excluded, guard, letter_routes, status, shards,
    )  # fmt: skip
    register_url_convertor("name", Name())
    for module in modules:
        app.include_router(module.routes(context), dependencies=[Depends(known_query)])
    page.install(app)
    problems.install(app)
    app.add_middleware(problems.LimitBody, most_bytes=settings.max_body_bytes)
    app.add_middleware(Readable)
    app.add_middleware(problems.LastResort)
    app.add_middleware(MeasureRequests, telemetry=telemetry)
    _document(app, bool(settings.api_key))
    return app


def _document(app: FastAPI, keyed: bool) -> None:
    """Add to OpenAPI what FastAPI cannot see: problems, hot routes' bodies, and the key."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            components = found.setdefault("components", {})
            shapes = components.setdefault("schemas", {})
            for model in (schemas.Problem, schemas.BatchRequest):
                shapes[model.__name__] = model.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):
                shapes.pop(name, None)
            # What FastAPI says of faulty parameters is not what is answered.
            for methods in found["paths"].values():
                for operation in methods.values():
                    if "requestBody" in operation:
                        operation["responses"].setdefault("415", documented(415)[415])
                    if "HTTPValidationError" in str(operation["responses"].get("422")):
                        operation["responses"] |= {"422": documented(422)[422]}
            components["securitySchemes"] = {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            }
            needed: list[dict[str, list[str]]] = [{"key": []}, {"bearer": []}]
            for methods in found["paths"].values():
                for operation in methods.values():
                    if "401" in operation["responses"]:
                        operation["responses"] |= {"403": documented(403)[403]}
                        operation["security"] = needed if keyed else [{}, *needed]
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
