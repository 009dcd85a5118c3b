"""Plans: told, revised, withdrawn and read back."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api import planning
from api.asked import moment
from api.census import series_of
from api.context import Context, answer, documented
from api.facts import Facts
from api.planning import known, shadows
from api.problems import Problem
from api.schemas import Flag, Moment, Number, ShortName
from api.search import close_names
from api.writing import SOURCE, append, judge
from learner.plans import covered
from stream.event import MAX_COVARIATE, MAX_PRICE, Plan, time_us

#: Highest revision that can be asked for, and highest one that there is: between them are those
#: that a plan is given by itself.
MAX_ASKED, MAX_REVISION = 10**9, 2**31
Covariate = Annotated[Number, Field(ge=-MAX_COVARIATE, le=MAX_COVARIATE, allow_inf_nan=False)]


class PlanBody(BaseModel):
    """The known future of a product, category or store over [start, end)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"product": "MILK", "start": "2026-11-30T00:00:00+01:00",
                 "end": "2026-12-07T00:00:00+01:00", "promotion": 1, "price": 0.99},
                {"store": "330", "start": "2026-12-25T00:00:00+01:00",
                 "end": "2026-12-27T00:00:00+01:00", "closed": True},
            ]
        },
    )  # fmt: skip

    start: Moment
    end: Moment = Field(description="The first moment after the plan")
    store: ShortName = Field("*", description="A store, or * for all")
    product: ShortName | None = None
    category: ShortName | None = None
    price: Number | None = Field(None, ge=0, le=MAX_PRICE, description="About one product only")
    promotion: Number | None = Field(None, ge=0, le=1, description="Share in [0, 1]")
    closed: Flag | None = Field(None, description="Nothing is sold; false: open after all")
    covariates: dict[ShortName, Covariate] | None = None
    revision: int | None = Field(
        None,
        ge=0,
        le=MAX_ASKED,
        strict=True,
        description="Must be above the last one; by default the next",
    )


class PlanItem(BaseModel):
    """A plan as it stands."""

    id: str
    source: str
    revision: int
    store: str
    product: str | None
    category: str | None
    start: str
    end: str
    price: float | None
    promotion: float | None
    closed: bool | None
    covariates: dict[str, float] | None
    withdrawn: bool
    state: str = Field(description="waiting: in no snapshot yet; folded: in one")


class Shadow(BaseModel):
    """A plan that goes before another one."""

    id: str
    source: str
    store: str
    product: str | None
    category: str | None
    start: str
    end: str
    fields: list[str] = Field(description="What it overrules")


class PlanAnswer(PlanItem):
    """A plan with what it bears on."""

    series: int = Field(description="Series served that it is about")
    shadowed_by: list[Shadow] = Field(
        description="Plans that go before it somewhere in its span: more particular ones, then "
        "the highest (revision, id)"
    )
    notes: list[str] = Field(description="What is worth knowing of it")
    unchanged: bool | None = Field(None, description="Whether it stood just so already")
    receipts: list[str] | None = Field(None, description="One a partition it was written to")


class Plans(BaseModel):
    """Plans by start."""

    total: int
    items: list[PlanItem]
    next_offset: int | None


def routes(context: Context) -> APIRouter:
    """The routes of plans. Not coroutines: they read the store and the log, in a thread."""
    router = APIRouter(tags=["plans"])
    told = _Told(context)

    async def key(request: Request) -> None:
        context.guard(request)

    name = Path(min_length=1, max_length=128, description="The plan's id")
    source = Query(SOURCE, min_length=1, max_length=128, description="Whose plan it is")

    @router.put(
        "/v1/plans/{id:name}",
        dependencies=[Depends(key)],
        responses={
            200: {"model": PlanAnswer, "description": "Revised, or unchanged"},
            201: {"model": PlanAnswer, "description": "New"},
            **documented(401, 404, 409, 413, 422, 503),
        },
    )
    def put_plan(
        body: Annotated[PlanBody, Body()], id: str = name, source: str = source
    ) -> Response:
        """Tell or revise a plan; answered once it is durable, in forecasts from the next snapshot.

        The same plan put twice is one plan. Where plans overlap, the more particular one wins
        (a product in a store, then a product, a category in a store, a category, a store), then
        the highest (revision, id); a closure goes before everything.
        """
        found, new = told.put(id, source, body)
        return answer(found, 201 if new else 200)

    @router.delete(
        "/v1/plans/{id:name}",
        dependencies=[Depends(key)],
        responses={200: {"model": PlanAnswer}, **documented(401, 404, 409, 422, 503)},
    )
    def delete_plan(id: str = name, source: str = source) -> Response:
        """Withdraw a plan; the same id may be put again."""
        return answer(told.withdraw(id, source))

    @router.get(
        "/v1/plans/{id:name}",
        responses={200: {"model": PlanAnswer}, **documented(404, 422, 503)},
    )
    def get_plan(id: str = name, source: str = source) -> Response:
        """One plan as it stands, and what goes before it."""
        return answer(told.one(id, source))

    @router.get("/v1/plans", responses={200: {"model": Plans}, **documented(422, 503)})
    def get_plans(
        store: str | None = Query(None, max_length=128, description="Plans that bear on it"),
        product: str | None = Query(None, max_length=128, description="Plans that bear on it"),
        category: str | None = Query(None, max_length=128, description="Plans that bear on it"),
        source: str | None = Query(None, max_length=128),
        from_: str | None = Query(None, alias="from", description="Those that end after it"),
        to: str | None = Query(None, description="Those that start before it"),
        withdrawn: bool = Query(False, description="Withdrawn ones too"),
        limit: int = Query(100, ge=1, le=1000),
        offset: int = Query(0, ge=0, le=10_000_000),
    ) -> Response:
        """Plans that are kept, by start: all that forecasts and kept origins can still need."""
        after = None if from_ is None else moment("from", from_)
        before = None if to is None else moment("to", to)
        facts = context.facts.read()
        category_of = told.category_of(facts)
        found = [
            (plan, folded)
            for plan, folded in facts.plans.values()
            if (withdrawn or not plan.withdrawn)
            and (source is None or plan.source == source)
            and (after is None or plan.end > after)
            and (before is None or plan.start < before)
            and planning.bears_on(
                plan, category_of, store=store, product=product, category=category
            )
        ]
        found.sort(key=lambda one: (one[0].start, one[0].id, one[0].source))
        items = [
            planning.item(plan, context.replica.calendar, folded)
            for plan, folded in found[offset : offset + limit]
        ]
        more = offset + limit < len(found)
        return answer(
            {
                "total": len(found),
                "items": items,
                "next_offset": offset + limit if more else None,
            }
        )

    return router


class _Told:
    """Plans through the API; one writer at a time, so that no revision is given twice."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._calendar = context.replica.calendar
        self._lock = threading.Lock()

    def put(self, id: str, source: str, body: PlanBody) -> tuple[dict[str, Any], bool]:
        """Tell a plan: its answer, and whether it is new.

        1. Judge it by itself. 2. Hold it against what is known. 3. Find its revision. 4. Append.
        """
        context = self._context
        # 1.
        told = body.model_dump(exclude={"revision"})
        wanted = Plan(
            id=id, source=source, time=self._now(), revision=body.revision or 0, **told
        )  # fmt: skip
        planning.check(wanted, context.settings.covariates)
        judge(context, wanted)
        with self._lock:
            # 2.
            facts = context.facts.read()
            self._check_names(wanted, facts)
            last = self._last(wanted, facts)
            planning.check_span(wanted, self._calendar, last, round(context.clock() * 1e6))
            # 3.
            before, folded = facts.plans.get((source, id), (None, False))
            events = [wanted]
            if before is not None:
                if planning.same(before, wanted) and body.revision in (None, before.revision):
                    return self._answer(before, facts, folded) | {"unchanged": True}, False
                events = _revised(before, wanted, body.revision)
            # 4.
            receipts = append(context, events)
        found = self._answer(events[-1], facts, False)
        return found | {"unchanged": False, "receipts": receipts}, before is None

    def withdraw(self, id: str, source: str) -> dict[str, Any]:
        """Take a plan back."""
        with self._lock:
            facts = self._context.facts.read()
            before, folded = self._find(facts, id, source)
            if before.withdrawn:
                return self._answer(before, facts, folded) | {"unchanged": True}
            event = _withdrawn(before, self._now(), _next(before))
            judge(self._context, event)
            receipts = append(self._context, [event])
        return self._answer(event, facts, False) | {"unchanged": False, "receipts": receipts}

    def one(self, id: str, source: str) -> dict[str, Any]:
        """A plan as it stands."""
        facts = self._context.facts.read()
        plan, folded = self._find(facts, id, source)
        return self._answer(plan, facts, folded)

    def category_of(self, facts: Facts) -> planning.CategoryOf:
        """A product's category in a store, as told or else as served; ``None``: not known."""
        served = self._context.census.now().category_of
        about = facts.products.about
        return lambda store, product: about(store, product).category or served.get(product)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._context.clock(), UTC)

    def _find(self, facts: Facts, id: str, source: str) -> tuple[Plan, bool]:
        found = facts.plans.get((source, id))
        if found is None:
            elsewhere = sorted(of for of, name in facts.plans if name == id)
            near = close_names(id, sorted(name for of, name in facts.plans if of == source))
            raise Problem(
                404, "unknown-plan", "No such plan", f"no plan `{id}` of source `{source}` is kept",
                field="source" if elsewhere else "id",
                remedy=f"name its source: ?source={elsewhere[0]}" if elsewhere
                else "choose one of GET /v1/plans; those long over are forgotten",
                near=elsewhere or near,
            )  # fmt: skip
        return found

    def _check_names(self, plan: Plan, facts: Facts) -> None:
        served = self._context.census.now()
        if plan.store != "*":
            known(
                "store", plan.store, served.stores,
                "a store is known once a bucket with its first sale has closed; until then plan "
                "for `*`, or send a plan event with POST /v1/events",
            )  # fmt: skip
        if plan.product is not None:
            known(
                "product", plan.product, served.products.keys() | facts.names,
                "tell of a new product with PUT /v1/products/{id} first",
            )  # fmt: skip
        if plan.category is not None:
            known(
                "category", plan.category, served.categories.keys() | facts.categories,
                "a category is known once a product is in it: PUT /v1/products/{id} first",
            )  # fmt: skip

    def _answer(self, plan: Plan, facts: Facts, folded: bool) -> dict[str, Any]:
        views = self._context.replica.state.views.values()
        series = series_of(
            self._context.census.now(), [view.serving for view in views],
            plan.store, plan.product, plan.category,
        )  # fmt: skip
        others = (other for other, _ in facts.plans.values())
        above = [] if plan.withdrawn else shadows(plan, others, self.category_of(facts))
        shown = [
            {
                **{name: planning.item(one.plan, self._calendar, True)[name] for name in _NAMED},
                "fields": one.fields,
            }
            for one in above[: planning.MOST_SHADOWS]
        ]
        return {
            **planning.item(plan, self._calendar, folded),
            "series": series,
            "shadowed_by": shown,
            "notes": [] if plan.withdrawn else self._notes(plan, facts, series, len(above)),
        }

    def _last(self, plan: Plan, facts: Facts) -> int | None:
        """The last bucket that has closed wherever a plan is about."""
        settings = self._context.settings
        return planning.last_closed(facts.last, plan.store, settings.partitions, settings.horizons)

    def _notes(self, plan: Plan, facts: Facts, series: int, above: int) -> list[str]:
        notes = []
        if not series:
            notes.append("no series of it is served yet: it counts from the first sale on")
        if above > planning.MOST_SHADOWS:
            notes.append(f"{above} plans go before it; {planning.MOST_SHADOWS} are shown")
        span = covered(self._calendar, time_us(plan.start), time_us(plan.end))
        last, horizons = self._last(plan, facts), self._context.settings.horizons
        if span is not None and last is not None:
            if span[0] <= last:
                upto = self._calendar.end(last).isoformat()
                notes.append(f"buckets up to {upto} have closed, and stay as they are")
            if span[0] > last + horizons:
                notes.append(
                    f"it begins beyond the {horizons} buckets that are forecast, and shows once "
                    "it is nearer"
                )
        return notes


_NAMED = ("id", "source", "store", "product", "category", "start", "end")


def _withdrawn(plan: Plan, time: datetime, revision: int) -> Plan:
    """A plan taken back."""
    return msgspec.structs.replace(
        plan, time=time, revision=revision, withdrawn=True, price=None, promotion=None,
        closed=None, covariates=None,
    )  # fmt: skip


def _next(before: Plan) -> int:
    """The revision after a plan's last one.

    Raises
    ------
    Problem
        409: there is none.
    """
    if before.revision >= MAX_REVISION:
        raise Problem(
            409, "last-revision", "There is no later revision",
            f"the plan is at {before.revision}, the highest revision there is", field="revision",
            remedy="plan under another id; of plans alike the one with the highest (revision, id) "
            "wins",
        )  # fmt: skip
    return before.revision + 1


def _revised(before: Plan, wanted: Plan, revision: int | None) -> list[Plan]:
    """The next version of a plan, its old one withdrawn first if that was about another store.

    What another partition keeps of it would otherwise stay in force there.

    Raises
    ------
    Problem
        409: the revision asked for is not above the last one, or there is none above it.
    """
    if revision is not None and revision <= before.revision:
        raise Problem(
            409, "stale-revision", "Stale revision",
            f"`revision` is {revision}, and the plan is at {before.revision} already",
            field="revision",
            remedy=f"leave `revision` out, or give {before.revision + 1} or more, if what it says "
            "now is to be replaced",
        )  # fmt: skip
    new = msgspec.structs.replace(wanted, revision=_next(before) if revision is None else revision)
    moved = before.store != new.store and new.store != "*" and not before.withdrawn
    return [_withdrawn(before, new.time, before.revision), new] if moved else [new]
