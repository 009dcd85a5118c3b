"""What is known of products: told in part or whole, and read back."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.census import series_of
from api.context import Context, answer, documented
from api.facts import Facts
from api.planning import known
from api.problems import Problem, invalid
from api.replica import iso
from api.schemas import Moment, Number, ShortName
from api.search import close_names
from api.writing import SOURCE, append, judge
from learner.products import EVERYWHERE, Products
from stream.event import MAX_QUANTITY, Product

FIELDS = ("category", "unit_size", "listed", "delisted", "replaces")


class ProductBody(BaseModel):
    """What to tell of a product: fields that are left out stay, ``null`` takes one back."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"category": "DAIRY", "unit_size": 1, "listed": "2026-11-30T00:00:00+01:00",
                 "replaces": "MILK 1.5"},
                {"delisted": "2027-02-01T00:00:00+01:00"},
            ]
        },
    )  # fmt: skip

    category: ShortName | None = None
    unit_size: Number | None = Field(
        None,
        gt=0,
        le=MAX_QUANTITY,
        description="Units of one item, such as 0.25 for quarters of a kilogram",
    )
    listed: Moment | None = Field(None, description="On sale from here on")
    delisted: Moment | None = Field(None, description="No longer on sale from here on")
    replaces: ShortName | None = Field(None, description="The product whose place it takes")


class ProductAnswer(BaseModel):
    """What is known of a product."""

    product: str
    store: str = Field(description="The store that it is answered for; * for all")
    category: str | None
    unit_size: float
    listed: str | None
    delisted: str | None
    replaces: str | None
    replaced_by: list[str]
    stores: list[str] = Field(description="Stores of which something else was told")
    series: int = Field(description="Stores in which it is served")
    told: str | None = Field(description="When it was told of last; null: only sales are known")
    state: str = Field(description="waiting: in no snapshot yet; folded: in one")
    notes: list[str] = Field(description="What is worth knowing of it")
    unchanged: bool | None = Field(None, description="Whether all of it was known already")
    receipts: list[str] | None = Field(None, description="One a partition it was written to")


def routes(context: Context) -> APIRouter:
    """The routes of products. Not coroutines: they read the store and the log, in a thread."""
    router = APIRouter(tags=["products"])
    writing = threading.Lock()

    async def key(request: Request) -> None:
        context.guard(request)

    name = Path(min_length=1, max_length=128, description="The product")
    store = Query(EVERYWHERE, min_length=1, max_length=128, description="A store, or * for all")

    @router.put(
        "/v1/products/{id:name}",
        dependencies=[Depends(key)],
        responses={
            200: {"model": ProductAnswer, "description": "Told, or unchanged"},
            201: {"model": ProductAnswer, "description": "New"},
            **documented(401, 404, 413, 422, 503),
        },
    )
    def put_product(
        body: Annotated[ProductBody, Body()], id: str = name, store: str = store
    ) -> Response:
        """Tell of a product, in all stores or in one; answered once it is durable.

        Fields that are left out keep what was told before; `null` takes one back. What is told
        of one store goes before what is told of all, field by field.
        """
        with writing:
            found, new = _put(context, id, store, body)
        return answer(found, 201 if new else 200)

    @router.get(
        "/v1/products/{id:name}",
        responses={200: {"model": ProductAnswer}, **documented(404, 422, 503)},
    )
    def get_product(id: str = name, store: str = store) -> Response:
        """What is known of a product, in all stores or in one: told, or only seen in sales."""
        facts = context.facts.read()
        served = context.census.now()
        if id not in facts.names and id not in served.products:
            raise Problem(
                404, "unknown-product", "Unknown product", f"no product `{id}` is known",
                field="id", remedy="search with GET /v1/series?q=, or tell of it with PUT",
                near=close_names(id, sorted(served.products.keys() | facts.names)),
            )  # fmt: skip
        folded = all(
            facts.told[key][1] for key in ((store, id), (EVERYWHERE, id)) if key in facts.told
        )
        return answer(_item(context, facts.products, store, id, folded))

    return router


def _put(context: Context, id: str, store: str, body: ProductBody) -> tuple[dict[str, Any], bool]:
    """Tell of a product: the answer, and whether it is new."""
    given = body.model_dump(exclude_unset=True)
    if not given:
        raise invalid(
            "body", "nothing is told of the product", f"give one or more of {', '.join(FIELDS)}"
        )
    facts, served = context.facts.read(), context.census.now()
    if store != EVERYWHERE:
        known(
            "store", store, served.stores,
            "a store is known once a bucket with its first sale has closed; until then tell of "
            "the product in all stores, or send a product event with POST /v1/events",
        )  # fmt: skip
    before, folded = facts.told.get((store, id), (None, True))
    now = datetime.fromtimestamp(context.clock(), UTC)
    base = before or Product(id=id, source=SOURCE, time=now, product=id, store=store)
    told = msgspec.structs.replace(base, id=id, source=SOURCE, time=now, x=None, **given)
    known_with = Products()
    known_with.restore(
        [told, *(one for key, (one, _) in facts.told.items() if key != (store, id))], ()
    )
    # What is given by itself first: a time may lie beyond all that can be shown.
    judge(context, Product(id=id, source=SOURCE, time=now, product=id, store=store, **given))
    _check(context, facts, known_with, told, given)
    judge(context, told)
    if before is not None and all(getattr(before, f) == getattr(told, f) for f in FIELDS):
        found = _item(context, facts.products, store, id, folded)
        return found | {"unchanged": True}, False
    receipts = append(context, [told])
    found = _item(context, known_with, store, id, False)
    found |= {"notes": _notes(context, facts, told), "unchanged": False, "receipts": receipts}
    return found, id not in facts.names and id not in served.products


def _check(
    context: Context, facts: Facts, products: Products, told: Product, given: dict[str, Any]
) -> None:
    """Refuse what contradicts itself or what is known already, or names what nobody knows.

    Raises
    ------
    Problem
    """
    about = products.about(told.store, told.product)
    if about.from_us >= about.until_us:
        field = "delisted" if given.get("delisted") is not None else "listed"
        raise invalid(
            field, f"`delisted` {iso(about.until_us)} is not after `listed` {iso(about.from_us)}",
            "give a later `delisted`, or an earlier `listed`; null takes either back",
        )  # fmt: skip
    if given.get("replaces") is None:
        return
    if told.replaces == told.product:
        raise invalid("replaces", "a product cannot replace itself", "name the product before it")
    known(
        "product", given["replaces"], context.census.now().products.keys() | facts.names,
        "name a product that has sales, or tell of it with PUT /v1/products/{id} first",
        field="replaces",
    )  # fmt: skip
    chain, at = [told.product], about.replaces
    while at is not None and at not in chain:
        chain.append(at)
        at = products.about(told.store, at).replaces
    if at == told.product:
        raise invalid(
            "replaces", f"they would replace each other: {' ← '.join([*chain, at])}",
            f"take one of them back first, with null in `replaces` of `{chain[-1]}`",
        )  # fmt: skip


def _notes(context: Context, facts: Facts, told: Product) -> list[str]:
    there = context.census.now().categories.keys() | facts.categories
    if told.category is None or told.category in there:
        return []
    near = close_names(told.category, sorted(there))
    like = f"; there is {', '.join(f'`{one}`' for one in near)}" if near else ""
    return [f"`{told.category}` is a new category{like}"]


def _item(
    context: Context, products: Products, store: str, id: str, folded: bool
) -> dict[str, Any]:
    """What is known of a product in a store, times in the deployment's zone."""
    served, calendar = context.census.now(), context.replica.calendar
    about = products.about(store, id)

    def shown(moment: datetime | None) -> str | None:
        return None if moment is None else moment.astimezone(calendar.zone).isoformat()

    told = [products.told[key] for key in ((store, id), (EVERYWHERE, id)) if key in products.told]
    views = context.replica.state.views.values()
    return {
        "product": id,
        "store": store,
        "category": about.category or served.category_of.get(id) or None,
        "unit_size": about.unit_size,
        "listed": shown(next((one.listed for one in told if one.listed), None)),
        "delisted": shown(next((one.delisted for one in told if one.delisted), None)),
        "replaces": about.replaces,
        "replaced_by": sorted({one for (_, one), of in products.told.items() if of.replaces == id}),
        "stores": sorted(of for of, one in products.told if one == id and of != EVERYWHERE),
        "series": series_of(served, [view.serving for view in views], store, id, None),
        "told": shown(max((one.time for one in told), default=None)),
        "state": "folded" if folded else "waiting",
        "notes": [],
    }
