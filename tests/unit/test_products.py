"""What is known of products, and what it does to series: listing, following on, being over."""

from __future__ import annotations

import numpy as np
import pytest

from learner.products import Products
from learner.serving import BASIS, MISSING, OBSERVED
from stream.event import Product, time_us
from tests.learner_parts import Told, complete, day, market, sale, tick, told


def product(name: str = "p", n: float = 0, store: str = "*", **facts: object) -> Product:
    return Product(id=f"{name} {store} {n}", source="hq", time=day(n, 0), product=name, store=store,
                   **facts)  # type: ignore[arg-type]  # fmt: skip


def basis(one: Told, name: str, store: str = "s") -> str:
    return BASIS[one.shard.basis()[one.shard.panel.rows[store, name]]]


def mean(one: Told, name: str, store: str = "s") -> list[float]:
    found: list[float] = one.shard.forecast()[:, one.shard.panel.rows[store, name]].tolist()
    return found


# -- what is known -------------------------------------------------------------------------------


def test_what_one_store_says_is_more_particular_field_by_field() -> None:
    known = Products()
    known.add(product(category="dairy", unit_size=0.5))
    known.add(product(store="7", category="cheese"))
    here, elsewhere = known.about("7", "p"), known.about("8", "p")
    assert (here.category, here.unit_size) == ("cheese", 0.5)
    assert (elsewhere.category, elsewhere.unit_size) == ("dairy", 0.5)


def test_the_later_of_two_events_about_the_same_holds() -> None:
    known = Products()
    assert known.add(product(category="dairy", delisted=day(9)))
    assert known.add(product(n=1, category="dairy"))
    assert known.about("7", "p").until_us > time_us(day(9))


def test_what_is_the_producers_own_is_not_kept() -> None:
    products = Products()
    products.add(Product(id="1", source="hq", time=day(0), product="p", x={"much": "x" * 999}))
    assert products.told["*", "p"].x is None


def test_what_says_nothing_new_changes_nothing() -> None:
    known = Products()
    assert known.add(product(category="dairy", listed=day(3)))
    assert not known.add(product(n=1, category="dairy", listed=day(3)))


def test_a_listing_is_due_once_and_in_key_order() -> None:
    known = Products()
    known.add(product("b", listed=day(2)))
    known.add(product("a", listed=day(3)))
    assert known.due(time_us(day(2))) == []
    found = known.due(time_us(day(4)))
    assert [key for key, _ in found] == [("*", "a"), ("*", "b")]
    assert known.due(time_us(day(4))) == []


# -- before the first sale -----------------------------------------------------------------------


def kin(days: int = 40) -> Told:
    """Three products of one category, selling about 3, 6 and 9 a day."""
    one = told(*(product(f"p{n}", category="a") for n in range(3)))
    one.tell(*market(days), tick(days))
    return one


def test_a_product_listed_for_tomorrow_has_a_forecast_of_its_kind_today() -> None:
    one = kin()
    one.tell(product("new", 40, category="a", store="s", listed=day(41, 0)))
    one.tell(*market(1, first=40), tick(41))
    assert one.fact("status", 40, product="new") == MISSING
    assert basis(one, "new") == "group"
    others = [np.mean(mean(one, name)) for name in ("p0", "p1", "p2")]
    assert min(others) < np.mean(mean(one, "new")) < max(others)


def test_before_its_listing_nothing_is_expected_of_a_product() -> None:
    one = kin()
    one.tell(product("new", 40, category="a", store="s", listed=day(41, 0)))
    one.tell(*market(1, first=40), tick(41))
    one.tell(product("new", 41, category="a", store="s", listed=day(44, 0)))
    assert [units > 0 for units in mean(one, "new")[:5]] == [False, False, False, True, True]


def test_told_of_all_stores_it_is_expected_where_its_category_sells() -> None:
    one = kin()
    one.tell(sale(40, store="t", product="other"), product("new", 40, category="a", listed=day(41)))
    one.tell(*market(1, first=40), tick(41))
    assert ("s", "new") in one.shard.panel.rows
    assert ("t", "new") not in one.shard.panel.rows


def test_a_listing_long_past_is_history_that_its_sales_tell() -> None:
    one = kin()
    one.tell(product("old", 40, category="a", store="s", listed=day(1)))
    one.tell(*market(1, first=40), tick(41))
    assert ("s", "old") not in one.shard.panel.rows


def test_a_listing_finds_no_room_past_the_most_series() -> None:
    one = told(*(product(f"p{n}", category="a") for n in range(3)), max_series=3)
    one.tell(*market(30), product("new", 30, category="a", store="s", listed=day(31)))
    one.tell(*market(1, first=30), tick(31))
    assert len(one.shard.panel.keys) == 3
    assert not one.letters


def test_days_without_a_sale_after_the_listing_are_zeros() -> None:
    one = kin()
    one.tell(product("new", 40, category="a", store="s", listed=day(41, 0)))
    one.tell(*market(20, first=40), tick(60))
    assert one.fact("status", 50, product="new") == OBSERVED
    assert one.fact("units", 50, product="new") == 0
    assert basis(one, "new") == "own"
    assert np.mean(mean(one, "new")) < 1


def test_one_that_replaces_another_inherits_its_level() -> None:
    plain, heir = kin(), kin()
    plain.tell(product("new", 40, category="a", store="s", listed=day(41, 0)))
    heir.tell(product("new", 40, category="a", store="s", listed=day(41, 0), replaces="p2"))
    for one in (plain, heir):
        one.tell(*market(1, first=40), tick(41))
    old = np.mean(mean(heir, "p2"))
    assert np.mean(mean(heir, "new")) == pytest.approx(old, rel=0.25)
    assert abs(np.mean(mean(plain, "new")) - old) > 2 * abs(np.mean(mean(heir, "new")) - old)


# -- over ----------------------------------------------------------------------------------------


def test_a_delisted_product_is_retired_and_nothing_is_expected_of_it() -> None:
    one = kin()
    one.tell(product("p1", 40, category="a", delisted=day(43, 0)))
    assert [units > 0 for units in mean(one, "p1")[:4]] == [True, True, True, False]
    one.tell(*(s for s in market(5, first=40) if s.product != "p1"), tick(45))
    assert basis(one, "p1") == "retired"
    assert one.fact("status", 44, product="p1") == MISSING


def test_a_delisting_in_one_store_leaves_the_others_alone() -> None:
    one = told(*(sale(n, store=s) for n in range(10) for s in ("s", "t")))
    one.tell(product("p", 10, store="t", delisted=day(10, 0)), *(complete(11, s) for s in "st"))
    one.tell(tick(11))
    assert (basis(one, "p"), basis(one, "p", "t")) == ("own", "retired")


def test_silence_far_beyond_its_own_gaps_retires_a_series_until_it_sells_again() -> None:
    often = [sale(n, product="often") for n in range(80)]
    rare = [sale(n, product="rare") for n in range(0, 80, 20)]
    one = told(*sorted([*often, *rare], key=lambda s: s.time))
    one.tell(*(sale(n, product="x") for n in range(80, 155)), tick(155))
    assert (basis(one, "often"), basis(one, "rare")) == ("retired", "own")
    one.tell(sale(155, product="often", hour=9), tick(156))
    assert basis(one, "often") == "own"


def test_retired_series_are_not_scored() -> None:
    one = told(*(sale(n, product=p) for n in range(80) for p in ("a", "b")))
    one.tell(*(sale(n, product="b") for n in range(80, 155)), tick(155))
    before = one.shard.evaluation.sums[0, 0, 0]
    one.tell(sale(155, product="b"), tick(156))
    after = one.shard.evaluation.sums[0, 0, 0]
    assert after == pytest.approx(0.97 * before + 1)
