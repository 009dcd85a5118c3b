"""What is known of products: told in part or whole, and read back."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Depends, Path, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import Response

from api.context import Context, answer, documented
from api.facts import Facts
from api.planning import known
from api.problems import Problem, invalid
from api.schemas import ShortName
from api.search import close_names
from api.writing import SOURCE, append, judge
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
    unit_size: float | None = Field(
        None, gt=0, le=MAX_QUANTITY, description="Units of demand in one item sold"
    )
    listed: AwareDatetime | None = Field(None, description="On sale from here on")
    delisted: AwareDatetime | None = Field(None, description="No longer on sale from here on")
    replaces: ShortName | None = Field(None, description="The product whose place it takes")


class ProductAnswer(BaseModel):
    """What is known of a product."""

    product: str
    category: str | None
    unit_size: float | None
    listed: str | None
    delisted: str | None
    replaces: str | None
    replaced_by: list[str]
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

    @router.put(
        "/v1/products/{id:path}",
        dependencies=[Depends(key)],
        responses={
            200: {"model": ProductAnswer, "description": "Told, or unchanged"},
            201: {"model": ProductAnswer, "description": "New"},
            **documented(401, 404, 409, 413, 422, 503),
        },
    )
    def put_product(body: Annotated[ProductBody, Body()], id: str = name) -> Response:
        """Tell of a product, for all stores; answered once it is durable.

        Fields that are left out keep what was told before; `null` takes one back.
        """
        with writing:
            found, new = _put(context, id, body)
        return answer(found, 201 if new else 200)

    @router.get(
        "/v1/products/{id:path}",
        responses={200: {"model": ProductAnswer}, **documented(404, 422, 503)},
    )
    def get_product(id: str = name) -> Response:
        """What is known of a product: declared, or only seen in sales."""
        facts = context.facts.read()
        found = facts.products.get(id)
        served = context.census.now()
        if found is None and id not in served.products:
            names = sorted(served.products.keys() | facts.products.keys())
            raise Problem(
                404, "unknown-product", "Unknown product", f"no product `{id}` is known",
                field="id", remedy="search with GET /v1/series?q=, or tell of it with PUT",
                near=close_names(id, names),
            )  # fmt: skip
        return answer(_item(context, facts, id, *(found or (None, True))))

    return router


def _put(context: Context, id: str, body: ProductBody) -> tuple[dict[str, Any], bool]:
    """Tell of a product: the answer, and whether it is new."""
    given = body.model_dump(exclude_unset=True)
    if not given:
        raise invalid(
            "body", "nothing is told of the product", f"give one or more of {', '.join(FIELDS)}"
        )
    facts = context.facts.read()
    before, folded = facts.products.get(id, (None, True))
    now = datetime.fromtimestamp(context.clock(), UTC)
    base = before or Product(id=id, source=SOURCE, time=now, product=id)
    told = msgspec.structs.replace(base, id=id, source=SOURCE, time=now, store="*", x=None, **given)
    _check(context, facts, told, given)
    judge(context, told)
    if before is not None and all(getattr(before, f) == getattr(told, f) for f in FIELDS):
        return _item(context, facts, id, before, folded) | {"unchanged": True}, False
    receipts = append(context, [told])
    found = _item(context, facts, id, told, False)
    found |= {"notes": _notes(context, facts, told), "unchanged": False, "receipts": receipts}
    new = before is None and id not in context.census.now().products
    return found, new


def _check(context: Context, facts: Facts, told: Product, given: dict[str, Any]) -> None:
    """Refuse what contradicts itself, or names what nobody knows.

    Raises
    ------
    Problem
    """
    if told.listed is not None and told.delisted is not None and told.listed >= told.delisted:
        kept = "listed" if "delisted" in given else "delisted"
        raise invalid(
            "delisted" if kept == "listed" else "listed",
            f"`delisted` {told.delisted.isoformat()} is not after `listed` "
            f"{told.listed.isoformat()}",
            "give a later `delisted`, or an earlier `listed`; null takes either back",
        )  # fmt: skip
    if told.replaces is None or "replaces" not in given:
        return
    if told.replaces == told.product:
        raise invalid("replaces", "a product cannot replace itself", "name the product before it")
    known(
        "product", told.replaces, context.census.now().products.keys() | facts.products.keys(),
        "name a product that has sales, or tell of it with PUT /v1/products/{id} first",
        field="replaces",
    )  # fmt: skip
    chain, at = [told.product], told.replaces
    while at not in chain:
        chain.append(at)
        following = facts.products.get(at)
        if following is None or following[0].replaces is None:
            return
        at = following[0].replaces
    if at == told.product:
        raise invalid(
            "replaces", f"they would replace each other: {' ← '.join([*chain, at])}",
            f"take one of them back first, with null in `replaces` of `{chain[-1]}`",
        )  # fmt: skip


def _notes(context: Context, facts: Facts, told: Product) -> list[str]:
    served = context.census.now()
    declared = {one.category for one, _ in facts.products.values() if one.category}
    there = served.categories.keys() | declared
    if told.category is None or told.category in there:
        return []
    near = close_names(told.category, sorted(there))
    like = f"; there is {', '.join(f'`{one}`' for one in near)}" if near else ""
    return [f"`{told.category}` is a new category{like}"]


def _item(
    context: Context, facts: Facts, id: str, told: Product | None, folded: bool
) -> dict[str, Any]:
    """What is known of a product, times in the deployment's zone."""
    served, zone = context.census.now(), context.replica.calendar.zone

    def shown(moment: datetime | None) -> str | None:
        return None if moment is None else moment.astimezone(zone).isoformat()

    by = (one.product for one, _ in facts.products.values() if one.replaces == id)
    return {
        "product": id,
        "category": (told.category if told else served.category_of.get(id)) or None,
        "unit_size": told.unit_size if told else None,
        "listed": shown(told.listed) if told else None,
        "delisted": shown(told.delisted) if told else None,
        "replaces": told.replaces if told else None,
        "replaced_by": sorted(by),
        "series": served.products.get(id, 0),
        "told": shown(told.time) if told else None,
        "state": "folded" if folded else "waiting",
        "notes": [],
    }
