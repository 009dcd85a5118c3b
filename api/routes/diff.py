"""Why a forecast moved between two snapshots."""

from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.asked import NAMES, named, unknown_series
from api.context import Context, answer, documented


class Side(BaseModel):
    """What one of the two snapshots said of the bucket."""

    snapshot: str
    origin: str
    as_of: str | None
    model: str
    horizon: int
    mean: float = Field(description="Of the whole bucket, with what was sold of it already")


class Parts(BaseModel):
    """Units; they add up to `change`."""

    plans: float = Field(description="Plans that became known since")
    amended: float = Field(
        description="What is known otherwise by now: demand of buckets that had closed, of other "
        "series too, usual prices and profiles"
    )
    closed: float = Field(description="Buckets that have closed since, the sum of their effects")
    model: float = Field(description="What the model learned since, or another model")
    open: float = Field(description="What is sold of the bucket already, while it is open")


class SourceShare(BaseModel):
    """What a source sent of the series in a bucket, between the two snapshots."""

    source: str
    units: float = Field(description="Less what it took back")
    items: int
    passed_over: bool = Field(description="Excluded or quarantined")


class ClosedBucket(BaseModel):
    """A bucket that closed between the two snapshots."""

    start: str
    end: str
    demand: float | None = Field(description="Null where nothing is known")
    effect: float = Field(description="Units by which its facts moved the forecast")
    sources: list[SourceShare]


class AmendedBucket(BaseModel):
    """A bucket that had closed, and of which other demand is known by now."""

    start: str
    end: str
    before: float | None
    after: float | None
    sources: list[SourceShare]


class LogRead(BaseModel):
    """How far sources are told."""

    records: int
    complete: bool
    detail: str


class Diff(BaseModel):
    """The change of a forecast."""

    model_config = ConfigDict(populate_by_name=True)

    store: str
    product: str
    category: str
    partition: int
    horizon: int
    start: str
    end: str
    before: Side = Field(alias="from")
    to: Side
    change: float
    parts: Parts
    closed: list[ClosedBucket]
    amended: list[AmendedBucket]
    operations: list[str] = Field(description="Operations carried out since")
    log: LogRead


def routes(context: Context) -> APIRouter:
    """The route of differences."""
    router = APIRouter(tags=["forecasts"])
    settings, diffs = context.settings, context.diffs

    @router.get(
        "/v1/diff/{store:name}/{product:name}",
        responses={200: {"model": Diff}, **documented(404, 409, 422, 503)},
        openapi_extra={"parameters": NAMES},
    )
    async def diff(
        request: Request,
        earlier: str | None = Query(
            None, alias="from", max_length=300,
            description="A snapshot; default: the newest kept of which an earlier bucket was the "
            "last to close",
        ),
        later: str | None = Query(
            None, alias="to", max_length=300, description="A snapshot; default: what is served now"
        ),
        horizon: int = Query(
            1, ge=1, le=settings.horizons, description="Which bucket after the origin of `to`"
        ),
    ) -> Response:  # fmt: skip
        """Split the change of a forecast between two snapshots into parts that add up to it.

        The bucket is the same in both: `horizon` buckets after the origin of `to`. Parts are
        what changes step by step: later plans, facts known otherwise, each bucket closed since,
        then the later model.
        """
        store, product = named(request.scope["raw_path"], b"/v1/diff/")
        found = context.replica.find(store, product)
        if found is None:
            raise await run_sync(unknown_series, context.replica, store, product)
        serving = found[0].serving
        split = await run_sync(
            diffs.diff, serving.partition, (store, product), earlier,
            later or serving.snapshot.rpartition("+")[2],
            horizon, limiter=diffs.limiter,
        )  # fmt: skip
        return answer(split)

    return router
