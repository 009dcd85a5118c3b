"""Plans: what was known of the future, when, and which of several plans counts."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from stream.event import Plan, Product
from tests.learner_parts import Told, day, plan, sale, told


def two_stores(*plans: Plan, days: int = 3) -> Told:
    """Two stores with two products each, a category on one of them, and some plans."""
    one = told(
        Product(id="q", source="hq", time=day(0, 0), product="p", category="dairy"),
        *(sale(n, store=s, product=p) for n in range(days) for s in "ab" for p in "pq"),
        *plans,
    )
    one.tell(*(sale(days, store=s, product=p) for s in "ab" for p in "pq"))
    return one


def promoted(one: Told, target: float, *, origin: float | None = None) -> dict[str, float]:
    """Planned promotion by store and product, as known at an origin or now."""
    panel = one.shard.panel
    known = 10**6 if origin is None else one.bucket(origin)
    values = panel.plans.promotion(panel, one.bucket(target), known)
    return {s + p: float(v) for (s, p), v in zip(panel.keys, values, strict=True) if v}


def test_a_plan_is_known_from_the_close_after_it_came_and_not_before() -> None:
    one = two_stores(plan("x", 5, 6, said=2, product="p", promotion=0.5))
    assert promoted(one, 5, origin=1) == {}
    assert promoted(one, 5, origin=2) == {"ap": 0.5, "bp": 0.5}


def test_a_plan_covers_the_buckets_whose_middle_it_covers() -> None:
    half = msgspec.structs.replace(
        plan("x", 5, 7, store="a", promotion=1.0), start=day(5, 11), end=day(7, 13)
    )
    one = two_stores(half)
    assert [bool(promoted(one, n)) for n in range(4, 9)] == [False, True, True, True, False]
    short = msgspec.structs.replace(half, id="y", start=day(9, 13), end=day(9, 23))
    assert promoted(two_stores(short), 9) == {}


@pytest.mark.parametrize(
    ("about", "chosen"),
    [
        ({}, {"ap", "aq", "bp", "bq"}),
        ({"store": "a"}, {"ap", "aq"}),
        ({"category": "dairy"}, {"ap", "bp"}),
        ({"category": "dairy", "store": "b"}, {"bp"}),
        ({"product": "q"}, {"aq", "bq"}),
        ({"product": "q", "store": "b"}, {"bq"}),
        ({"product": "q", "store": "elsewhere"}, set()),
        ({"category": "unheard"}, set()),
    ],
)
def test_a_plan_is_about_what_it_names(about: dict[str, Any], chosen: set[str]) -> None:
    one = two_stores(plan("x", 5, 6, said=2, promotion=1.0, **about))
    assert set(promoted(one, 5)) == chosen


def test_the_more_particular_plan_wins_whichever_came_first() -> None:
    ladder = [
        plan("z", 5, 6, said=2, promotion=0.1, revision=9),
        plan("y", 5, 6, said=2, promotion=0.2, store="a", revision=8),
        plan("x", 5, 6, said=2, promotion=0.3, category="dairy", revision=7),
        plan("w", 5, 6, said=2, promotion=0.4, product="p", revision=6),
        plan("v", 5, 6, said=2, promotion=0.5, product="p", store="a", revision=5),
    ]
    for order in (ladder, ladder[::-1]):
        assert promoted(two_stores(*order), 5) == {"ap": 0.5, "aq": 0.2, "bp": 0.4, "bq": 0.1}


def test_of_plans_about_the_same_the_highest_revision_and_then_id_wins() -> None:
    plans = [
        plan("a", 5, 6, said=2, product="p", promotion=0.1, revision=3),
        plan("b", 5, 6, said=2, product="p", promotion=0.2, revision=2),
        plan("c", 5, 6, said=2, product="p", promotion=0.3, revision=3),
    ]
    for order in (plans, plans[::-1]):
        assert promoted(two_stores(*order), 5) == {"ap": 0.3, "bp": 0.3}


def test_a_revision_replaces_its_plan_wherever_it_was() -> None:
    first = plan("x", 5, 7, said=1, product="p", promotion=0.5)
    moved = plan("x", 6, 8, said=2, product="p", promotion=0.7, revision=1)
    one = two_stores(first, moved)
    assert [promoted(one, n).get("ap") for n in (5, 6, 7)] == [None, 0.7, 0.7]


def test_an_older_revision_that_comes_later_changes_nothing() -> None:
    newer = plan("x", 5, 6, said=1, product="p", promotion=0.7, revision=2)
    older = plan("x", 5, 6, said=2, product="p", promotion=0.5, revision=1)
    assert promoted(two_stores(newer, older), 5) == {"ap": 0.7, "bp": 0.7}


def test_what_was_known_at_an_origin_stays_so_after_a_revision() -> None:
    one = told(*(sale(n) for n in range(3)))
    one.tell(plan("x", 9, 10, said=3, product="p", promotion=0.5), sale(3), sale(4))
    one.tell(plan("x", 9, 10, said=4, product="p", promotion=0.9, revision=1), sale(5), sale(6))
    known = [promoted(one, 9, origin=n).get("sp") for n in range(1, 6)]
    assert known == [None, 0.5, 0.5, 0.9, 0.9]


def test_a_withdrawn_plan_gives_way_to_the_next_best() -> None:
    wide = plan("x", 5, 6, said=1, promotion=0.2)
    narrow = plan("y", 5, 6, said=1, product="p", promotion=0.8)
    gone = plan("y", 5, 6, said=2, product="p", withdrawn=True, revision=1)
    assert promoted(two_stores(wide, narrow), 5)["ap"] == 0.8
    assert promoted(two_stores(wide, narrow, gone), 5)["ap"] == 0.2


def test_the_same_plan_again_is_a_duplicate_and_its_own_x_is_not_part_of_it() -> None:
    one = plan("x", 5, 6, product="p", promotion=0.5)
    other = msgspec.structs.replace(one, promotion=0.6, revision=1)
    fold = told(sale(0), one, one, msgspec.structs.replace(one, x={"note": 1}), other)
    assert fold.shard.counts()["duplicate"] == 2
    assert fold.shard.counts()["applied"] == 2


def test_a_field_that_a_plan_leaves_out_is_another_plans_to_say() -> None:
    price = plan("x", 5, 6, product="p", store="s", price=1.5)
    promotion = plan("y", 5, 6, product="p", promotion=0.4)
    one = told(sale(0), price, promotion, sale(1))
    panel, target = one.shard.panel, one.bucket(5)
    assert panel.plans.price(panel, target, target).tolist() == [1.5]
    assert panel.plans.promotion(panel, target, target).tolist() == [0.4]
    assert not panel.plans.closed(panel, target, target).any()


def test_no_plan_means_no_promotion_no_closure_and_no_price() -> None:
    one = two_stores()
    panel, target = one.shard.panel, one.bucket(5)
    assert not panel.plans.promotion(panel, target, target).any()
    assert not panel.plans.closed(panel, target, target).any()
    assert np.isnan(panel.plans.price(panel, target, target)).all()


def test_a_plan_reaches_series_that_are_listed_after_it() -> None:
    one = told(sale(0), plan("x", 1, 9, promotion=0.5), sale(1), sale(2, product="new"), sale(3))
    assert promoted(one, 5) == {"sp": 0.5, "snew": 0.5}


def test_a_category_plan_follows_a_product_that_changes_its_category() -> None:
    one = two_stores(plan("x", 5, 6, said=2, category="dairy", promotion=0.5))
    assert set(promoted(one, 5)) == {"ap", "bp"}
    one.tell(Product(id="r", source="hq", time=day(3), product="q", category="dairy"))
    assert set(promoted(one, 5)) == {"ap", "aq", "bp", "bq"}


def test_plans_that_no_kept_origin_can_ask_for_are_forgotten() -> None:
    one = told(sale(0), plan("x", 1, 3, promotion=0.5), plan("y", 1, 800, promotion=0.2))
    ring = one.shard.panel.ring
    for n in range(1, ring + 10, 5):
        one.tell(sale(n))
    plans = one.shard.panel.plans
    assert [versions[0].plan.id for versions in plans.kept.values()] == ["y"]
    assert min(plans._covering) >= one.bucket(1) - ring
    assert promoted(one, ring + 20) == {"sp": pytest.approx(0.2)}


def test_of_versions_with_the_same_revision_the_one_told_last_counts() -> None:
    first = plan("x", 5, 7, product="p", promotion=0.1)
    second = msgspec.structs.replace(first, promotion=0.2)
    assert promoted(two_stores(first, second), 5) == {"ap": 0.2, "bp": 0.2}
    gone = msgspec.structs.replace(first, withdrawn=True)
    assert promoted(two_stores(first, gone), 5) == {}
    assert promoted(two_stores(gone, first), 5) == {"ap": 0.1, "bp": 0.1}


@pytest.mark.parametrize("seed", range(20))
def test_many_plans_at_once_give_each_series_the_one_that_is_most_particular(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    subjects: list[dict[str, Any]] = [
        {}, {"category": "dairy"}, {"category": "unheard"}, {"product": "p"}, {"product": "q"},
        {"product": "unheard"},
    ]  # fmt: skip
    plans = []
    for n in range(12):
        about = subjects[drawn.integers(len(subjects))]
        store = ("*", "a", "b")[drawn.integers(3)]
        share = float(drawn.integers(1, 100)) / 100
        plans.append(plan(f"{n:02d}", 5, 6, store=store, promotion=share,
                          revision=int(drawn.integers(3)), **about))  # fmt: skip
    expected = {}
    for store, product in ("ap", "aq", "bp", "bq"):
        mine = [
            one for one in plans
            if one.store in ("*", store) and one.product in (None, product)
            and (one.category is None or (one.category == "dairy" and product == "p"))
        ]  # fmt: skip
        if mine:
            best = max(
                mine,
                key=lambda one: (
                    2 if one.product else 1 if one.category else 0,
                    one.store != "*",
                    one.revision,
                    one.id,
                ),
            )
            expected[store + product] = best.promotion
    assert promoted(two_stores(*plans), 5) == pytest.approx(expected)
