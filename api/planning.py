"""What is wrong with a plan, what it changes, and what stands before it. Pure.

Precedence is ``learner.plans``': the more particular plan wins, then the highest (revision, id),
field by field. Leaves out: what is known (``facts``), and writing plans (``routes.plans``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from api.problems import Problem, invalid
from api.search import close_names
from learner.plans import covered, precedence
from stream.buckets import Calendar
from stream.event import MAX_PLAN_DAYS, Plan, time_us
from stream.log import partition_of

#: Plans told of that stand before another one.
MOST_SHADOWS = 20
VALUES = ("price", "promotion", "closed", "covariates")

#: The category of a product in a store, or in all (``*``); ``None``: not known.
CategoryOf = Callable[[str, str], str | None]


def check(plan: Plan, covariates: Sequence[str]) -> None:
    """Refuse what the plan by itself shows to be wrong.

    Parameters
    ----------
    covariates
        Names that the deployment has set.

    Raises
    ------
    Problem
    """
    if plan.start >= plan.end:
        raise invalid(
            "end", f"`end` {plan.end.isoformat()} is not after `start` {plan.start.isoformat()}",
            "give a span [start, end) in which `end` is the first moment after the plan",
        )  # fmt: skip
    if (plan.end - plan.start).days > MAX_PLAN_DAYS:
        raise invalid(
            "end", f"a plan spans at most {MAX_PLAN_DAYS} days",
            "split it into several plans, each with an id of its own",
        )  # fmt: skip
    if plan.product is not None and plan.category is not None:
        raise invalid(
            "category", "a plan is about a `product` or a `category`, not both",
            "leave one of them out; a product's plan goes before its category's",
        )  # fmt: skip
    if plan.price is not None and plan.product is None:
        raise invalid(
            "price", "a planned price is about one product",
            "name the `product`; for a whole category plan `promotion` in [0, 1]",
        )  # fmt: skip
    if all(getattr(plan, name) is None for name in VALUES) or plan.covariates == {}:
        raise invalid(
            "promotion", "nothing is planned",
            "give `price`, `promotion`, `closed` or `covariates`; to take a plan back, DELETE it",
        )  # fmt: skip
    for name in plan.covariates or ():
        known_covariate(name, covariates)
    if plan.closed and (plan.price, plan.promotion, plan.covariates) != (None, None, None):
        raise invalid(
            "closed", "a plan cannot both close and say how it will sell",
            "leave `price`, `promotion` and `covariates` out, or make two plans of it",
        )  # fmt: skip


def last_closed(last: Mapping[int, int], store: str, partitions: int, horizons: int) -> int | None:
    """The last bucket that has closed wherever a store's plans are about.

    Of all stores (``*``): in every partition but those that have closed none for so long that
    what others forecast is beyond their last horizon.

    Parameters
    ----------
    last
        Last closed buckets, by partition that has closed one.

    Examples
    --------
    >>> last_closed({0: 100, 1: 98, 2: 40}, "*", partitions=3, horizons=28)
    98
    """
    if store != "*":
        return last.get(partition_of(store, partitions))
    newest = max(last.values(), default=0)
    return min((one for one in last.values() if one + horizons > newest), default=None)


def check_span(plan: Plan, calendar: Calendar, last: int | None, now_us: int) -> None:
    """Refuse a span that no forecast can be changed by.

    Parameters
    ----------
    last
        The last bucket that has closed wherever the plan is about; ``None``: none has, and the
        clock decides.
    now_us
        Wall clock, µs since 1970 UTC.

    Raises
    ------
    Problem
    """
    span = covered(calendar, time_us(plan.start), time_us(plan.end))
    if span is None:
        raise invalid(
            "end", f"the span covers the middle of no {calendar.bucket}: it would change nothing",
            f"plans are about whole buckets: let it span at least the {calendar.bucket} that is "
            "meant",
        )  # fmt: skip
    now = calendar.index(now_us) - 1
    if span[1] <= (now if last is None else min(last, now)):
        upto = calendar.end(now if last is None else min(last, now)).isoformat()
        raise invalid(
            "end", f"the span is over: buckets up to {upto} have closed, and a plan about the past "
            "changes no forecast",
            "plan a span that ends later; of history tell with plan events before its sales "
            "(POST /v1/events, or salescast produce)",
        )  # fmt: skip


def known_covariate(name: str, covariates: Sequence[str]) -> None:
    """Refuse a covariate that nothing is learned from.

    Raises
    ------
    Problem
        422, with the setting that names covariates.
    """
    if name not in covariates:
        raise Problem(
            422, "invalid", "Invalid request",
            f"no covariate `{name[:128]}` is set; the setting `covariates` "
            + (f"names {', '.join(covariates)}" if covariates else "is empty"),
            field=f"covariates.{name[:128]}",
            remedy="correct the name, or add it to the setting `covariates` (a change of the "
            "state: it begins a new lineage)",
            near=close_names(name, covariates),
        )  # fmt: skip


def known(
    kind: str, name: str, there: Collection[str], remedy: str, field: str | None = None
) -> None:
    """Refuse a name that nobody knows; ``field``: where it was given, if not in ``kind``.

    Raises
    ------
    Problem
        404, with names like it.
    """
    if name not in there:
        raise Problem(
            404, f"unknown-{kind}", f"Unknown {kind}", f"no {kind} `{name}` is known",
            field=field or kind, remedy=remedy, near=close_names(name, sorted(there)),
        )  # fmt: skip


class Shadow(NamedTuple):
    """A plan that goes before another one, and in which fields."""

    plan: Plan
    fields: tuple[str, ...]


def shadows(plan: Plan, others: Iterable[Plan], category_of: CategoryOf) -> list[Shadow]:
    """Plans that go before this one somewhere in its span, the greatest first.

    Parameters
    ----------
    others
        The newest version of each other plan.
    category_of
        A product's category, if it is known.
    """
    mine = precedence(plan)
    found = []
    for other in others:
        if other.withdrawn or other.start >= plan.end or plan.start >= other.end:
            continue
        if (other.source, other.id) == (plan.source, plan.id) or not _meet(
            plan, other, category_of
        ):
            continue
        fields = _before(plan, other, precedence(other) > mine)
        if fields:
            found.append(Shadow(other, fields))
    return sorted(found, key=lambda one: precedence(one.plan), reverse=True)


def _before(plan: Plan, other: Plan, greater: bool) -> tuple[str, ...]:
    """Fields of a plan that another one overrules."""
    if other.closed and plan.closed is None:
        return ("closed",)  # where nothing is open, nothing is sold, whatever else is planned
    if not greater:
        return ()
    fields = [
        name
        for name in ("price", "promotion", "closed")
        if getattr(plan, name) is not None and getattr(other, name) is not None
    ]
    ours, theirs = plan.covariates or {}, other.covariates or {}
    return (*fields, *(f"covariates.{name}" for name in ours if name in theirs))


def _meet(one: Plan, other: Plan, category_of: CategoryOf) -> bool:
    """Whether two plans are about a series in common."""
    if "*" not in (one.store, other.store) and one.store != other.store:
        return False
    if one.product is not None and other.product is not None:
        return one.product == other.product
    store = one.store if other.store == "*" else other.store
    a = one.category if one.product is None else category_of(store, one.product)
    b = other.category if other.product is None else category_of(store, other.product)
    everything = any(of.product is None and of.category is None for of in (one, other))
    return everything or a == b


def same(one: Plan, other: Plan) -> bool:
    """Whether two versions say the same, whenever and as whichever revision they were told."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("start", "end", "store", "product", "category", "withdrawn", *VALUES)
    )


def item(plan: Plan, calendar: Calendar, folded: bool) -> dict[str, Any]:
    """A plan as it is answered, its times in the deployment's zone."""
    return {
        "id": plan.id,
        "source": plan.source,
        "revision": plan.revision,
        "store": plan.store,
        "product": plan.product,
        "category": plan.category,
        "start": plan.start.astimezone(calendar.zone).isoformat(),
        "end": plan.end.astimezone(calendar.zone).isoformat(),
        "price": plan.price,
        "promotion": plan.promotion,
        "closed": plan.closed,
        "covariates": plan.covariates,
        "withdrawn": plan.withdrawn,
        "state": "folded" if folded else "waiting",
    }


def bears_on(
    plan: Plan,
    category_of: CategoryOf,
    *,
    store: str | None,
    product: str | None,
    category: str | None,
) -> bool:
    """Whether a plan is about what is asked for, alone or with others; ``None``: anything."""
    if store is not None and plan.store not in ("*", store):
        return False
    if product is not None:
        if plan.product is not None and plan.product != product:
            return False
        if plan.category is not None and plan.category != category_of(store or plan.store, product):
            return False
    if category is None:
        return True
    if plan.product is not None:
        return category_of(store or plan.store, plan.product) == category
    return plan.category in (None, category)
