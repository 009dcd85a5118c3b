"""Which plan goes before another, and which plans change nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import planning
from api.problems import Problem
from learner.plans import covered
from stream.buckets import Calendar
from stream.event import Plan, time_us
from stream.settings import Settings
from tests.learner_parts import chosen, day, plan, sale, told

FOOD = {"p": "food", "q": "food", "r": "toys"}


def _food(store: str, product: str) -> str | None:
    return FOOD.get(product)


def shadows(plan: Plan, *others: Plan) -> dict[str, tuple[str, ...]]:
    return {one.plan.id: one.fields for one in planning.shadows(plan, others, _food)}


def test_the_more_particular_plan_stands_before_the_other_and_not_the_reverse() -> None:
    wide = plan("z", 0, 7, product="p", promotion=0.1)
    narrow = plan("a", 3, 4, product="p", store="s", promotion=0.9, price=2.0)
    assert shadows(wide, narrow) == {"a": ("promotion",)}
    assert shadows(narrow, wide) == {}


@pytest.mark.parametrize(
    "other",
    [
        plan("z", 7, 9, product="p", promotion=0.5),  # later
        plan("z", 0, 7, product="q", promotion=0.5),  # another product
        plan("z", 0, 7, product="p", store="t", promotion=0.5),  # another store
        plan("z", 0, 7, product="p", store="s", price=1.0),  # another field
        plan("z", 0, 7, product="p", store="s", promotion=0.5, withdrawn=True),
        plan("a", 0, 7, product="p", store="s", promotion=0.5),  # a smaller id
        plan("z", 0, 7, category="food", store="s", promotion=0.5),  # less particular
    ],
)
def test_a_plan_that_is_elsewhere_or_less_stands_before_nothing(other: Plan) -> None:
    assert shadows(plan("m", 0, 7, product="p", store="s", promotion=0.1), other) == {}


def test_a_products_plan_stands_before_its_categorys_only() -> None:
    wide = plan("z", 0, 7, category="food", promotion=0.1)
    found = shadows(wide, *(plan(name, 0, 7, product=name, promotion=0.9) for name in "pqr"))
    assert found == {"q": ("promotion",), "p": ("promotion",)}


def test_a_closure_stands_before_every_promotion() -> None:
    promotion = plan("z", 0, 7, product="p", store="s", promotion=0.9)
    assert shadows(promotion, plan("a", 2, 3, closed=True)) == {"a": ("closed",)}
    assert shadows(promotion, plan("a", 2, 3, closed=False)) == {}


def test_covariates_are_overruled_name_by_name() -> None:
    mine = plan("a", 0, 7, covariates={"rain": 1.0, "wind": 2.0})
    theirs = plan("b", 0, 7, covariates={"rain": 3.0, "sun": 0.0})
    assert shadows(mine, theirs) == {"b": ("covariates.rain",)}


_SUBJECTS = st.sampled_from(
    [{}, {"product": "p"}, {"product": "q"}, {"category": "food"}, {"category": "toys"}]
)


@st.composite
def _plans(draw: st.DrawFn) -> list[Plan]:
    out = []
    for n in range(draw(st.integers(1, 5))):
        what: dict[str, Any] = dict(draw(_SUBJECTS))
        what["store"] = draw(st.sampled_from(["*", "s", "t"]))
        what["revision"] = draw(st.integers(0, 2))
        first = draw(st.integers(5, 7))
        out.append(plan(f"n{n}", first, first + draw(st.integers(1, 2)), promotion=(n + 1) / 8,
                        **what))  # fmt: skip
    return out


@given(_plans())
def test_a_plan_without_shadows_is_in_force_all_over_its_span(plans: list[Plan]) -> None:
    """Held against the very painting that forecasts are made from."""
    one = told(*(sale(n, store=s, product=p) for n in range(4) for s in "st" for p in "pqr"))
    for name, category in FOOD.items():
        one.shard.panel.know(_product(name, category))
    one.tell(*plans)
    panel = one.shard.panel
    for mine in plans:
        shadowed = bool(planning.shadows(mine, plans, _food))
        span = covered(one.shard.calendar, time_us(mine.start), time_us(mine.end))
        assert span is not None
        rows = [
            row
            for row, (store, product) in enumerate(panel.keys)
            if mine.store in ("*", store)
            and mine.product in (None, product)
            and mine.category in (None, FOOD[product])
        ]
        overruled = any(
            not np.allclose(panel.plans.promotion(panel, at, 10**9)[rows], mine.promotion or 0)
            for at in range(span[0], span[1] + 1)
        )
        assert shadowed == overruled


def _product(name: str, category: str) -> Any:
    from stream.event import Product

    return Product(id=name, source="hq", time=day(0), product=name, category=category)


@given(
    st.sampled_from(["hour", "day", "week"]),
    st.integers(0, 60 * 24 * 20),
    st.integers(1, 60 * 24 * 20),
)
def test_covered_buckets_are_those_whose_middle_is_in_the_span(
    bucket: Any, first: int, minutes: int
) -> None:
    calendar = Calendar(Settings(bucket=bucket, timezone="Europe/Berlin"))
    # Around the change of the clocks.
    start = datetime(2024, 3, 20, tzinfo=UTC) + timedelta(minutes=first)
    end = start + timedelta(minutes=minutes)
    us = time_us(start), time_us(end)
    wanted = [
        at
        for at in range(calendar.index(us[0]) - 1, calendar.index(us[1]) + 2)
        if us[0] <= sum(calendar.span(at)) // 2 < us[1]
    ]
    assert covered(calendar, *us) == ((wanted[0], wanted[-1]) if wanted else None)


def test_a_span_that_is_over_is_refused_by_what_has_closed_and_not_by_the_clock() -> None:
    calendar = Calendar(chosen())
    mine = plan("x", 5, 7, promotion=1.0)
    last, late = calendar.index(time_us(day(4))), time_us(day(400))
    planning.check_span(mine, calendar, last, late)
    planning.check_span(mine, calendar, last + 1, late)
    with pytest.raises(Problem) as raised:
        planning.check_span(mine, calendar, last + 2, late)
    assert raised.value.members["field"] == "end"
    assert "2024-01-08" in str(raised.value)


def test_before_anything_has_closed_the_clock_says_what_is_over() -> None:
    calendar = Calendar(chosen())
    mine = plan("x", 5, 7, promotion=1.0)
    planning.check_span(mine, calendar, None, time_us(day(6)))
    with pytest.raises(Problem, match="over"):
        planning.check_span(mine, calendar, None, time_us(day(7)))


def test_a_newer_version_that_says_the_same_is_the_same() -> None:
    mine = plan("x", 5, 7, promotion=1.0)
    assert planning.same(mine, plan("x", 5, 7, said=3, revision=4, promotion=1.0))
    others: list[dict[str, Any]] = [
        {"store": "s"}, {"promotion": 0.9}, {"withdrawn": True}, {"closed": False},
    ]  # fmt: skip
    for changed in others:
        assert not planning.same(mine, plan("x", 5, 7, **{"promotion": 1.0, **changed}))
