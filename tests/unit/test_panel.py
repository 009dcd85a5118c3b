"""The panel: what a closed bucket means, amendments of it, and windows over many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import usual
from learner.levels import usual_promotion
from learner.panel import Panel
from learner.serving import CENSORED, MISSING, OBSERVED
from learner.shard import Shard
from stream.buckets import Calendar
from stream.event import MICRO, AnyEvent, Availability, Product, time_us
from stream.window import Closed
from tests.learner_parts import (
    Told,
    chosen,
    complete,
    day,
    plan,
    sale,
    stock_outs,
    tick,
    told,
    void,
)


def product(name: str = "p", *, category: str | None = None, listed: float | None = None,
            delisted: float | None = None, n: float = 0) -> Product:  # fmt: skip
    return Product(id=f"product {name} {n}", source="hq", time=day(n, 0), product=name,
                   category=category, listed=None if listed is None else day(listed, 0),
                   delisted=None if delisted is None else day(delisted, 0))  # fmt: skip


def mean(one: Told, upto: float, days: int = 28) -> tuple[float, float]:
    """Mean units of the window of s/p, and in how many buckets."""
    units, seen = one.shard.panel.window(one.bucket(upto), days)
    row = one.shard.panel.rows["s", "p"]
    return float(units[row]), float(seen[row])


# -- what absence means --------------------------------------------------------------------


def test_a_day_without_sales_is_zero_where_the_store_sold_something_else() -> None:
    one = told(sale(0, 3), sale(1, product="other"), tick(2))
    assert (one.fact("status", 1), one.fact("units", 1)) == (OBSERVED, 0)


def test_a_day_on_which_the_store_was_silent_is_missing_not_zero() -> None:
    one = told(sale(0, 3), sale(1, store="another"), tick(2))
    assert one.fact("status", 1) == MISSING
    assert math.isnan(one.fact("units", 1))


def test_complete_makes_a_day_without_sales_zero() -> None:
    one = told(sale(0, 3), complete(2), tick(2))
    assert (one.fact("status", 1), one.fact("units", 1)) == (OBSERVED, 0)


def test_missing_days_count_in_no_mean() -> None:
    one = told(sale(0, 4), tick(2), sale(2, 8), tick(3))
    assert mean(one, 2) == (6, 2)


def test_a_series_is_listed_from_its_first_sale_and_missing_before() -> None:
    one = told(sale(0, product="other"), sale(1, product="other"), sale(2, 5), tick(3))
    assert math.isnan(one.fact("units", 1)) and one.fact("status", 1) == MISSING
    assert mean(one, 2) == (5, 1)
    assert one.shard.panel.column("listed").tolist() == [one.bucket(0), one.bucket(2)]


def test_a_planned_closure_makes_silence_missing_but_a_sale_still_counts() -> None:
    other = [sale(n, store="s", product="open") for n in (1, 2)]
    one = told(sale(0), plan("shut", 1, 3, product="p", closed=True), other[0], other[1],
               sale(2, 7, hour=13), tick(3))  # fmt: skip
    assert one.fact("status", 1) == MISSING
    assert (one.fact("status", 2), one.fact("units", 2)) == (OBSERVED, 7)


def test_a_store_closed_by_plan_is_missing_even_where_it_says_complete() -> None:
    one = told(sale(0), plan("holiday", 1, 2, store="s", closed=True), complete(3), tick(3))
    assert [one.fact("status", n) for n in (0, 1, 2)] == [OBSERVED, MISSING, OBSERVED]


def test_a_delisted_product_is_missing_from_the_day_it_goes() -> None:
    one = told(sale(0), product(delisted=2), complete(4), tick(4))
    assert [one.fact("status", n) for n in range(4)] == [OBSERVED, OBSERVED, MISSING, MISSING]


def test_a_product_is_missing_until_the_day_it_is_listed() -> None:
    one = told(sale(0), product(listed=2), complete(4), tick(4))
    assert [one.fact("status", n) for n in range(4)] == [OBSERVED, MISSING, OBSERVED, OBSERVED]


def test_returns_stand_beside_demand_and_lower_it_only_where_demand_is_net() -> None:
    events = (sale(0, 5), sale(0, -2, hour=13), tick(1))
    assert told(*events).fact("units", 0) == 5
    net = told(*events, target="net")
    assert (net.fact("units", 0), net.returned(0)) == (3, 2)


def test_net_demand_is_never_negative() -> None:
    one = told(sale(0, 1), sale(0, -4, hour=13), tick(1), target="net")
    assert (one.fact("units", 0), one.returned(0)) == (0, 4)


def test_the_price_of_a_bucket_is_what_was_paid_per_unit() -> None:
    one = told(sale(0, 3, price=2.0), sale(0, 1, price=4.0), sale(0, 9), tick(1))
    assert one.fact("price", 0) == 2.5
    one.tell(sale(1, 2), tick(2))
    assert math.isnan(one.fact("price", 1))


def test_the_usual_price_follows_prices_paid_slowly() -> None:
    one = told(sale(0, price=2.0), sale(1, price=4.0), tick(2))
    assert one.shard.panel.column("usual_price").tolist() == pytest.approx([2.1])


# -- censored ------------------------------------------------------------------------------


def test_a_sale_under_a_stock_out_is_censored() -> None:
    one = told(sale(0, 5), stock_outs(1, 2), sale(1, 2), complete(3), tick(3))
    assert [one.fact("status", n) for n in (0, 1, 2)] == [OBSERVED, CENSORED, OBSERVED]
    assert one.fact("units", 1) == 2


def test_the_end_of_a_stock_out_takes_it_back() -> None:
    events = (sale(0, 5), stock_outs(1, 3), stock_outs(2, 3, available=True), complete(3), tick(3))
    one = told(*events)
    assert [one.fact("status", n) for n in (1, 2)] == [CENSORED, OBSERVED]


@pytest.mark.parametrize(("censored", "level"), [(0, 10.0), (4, 10.0), (10, 10.0), (40, 20.0)])
def test_a_censored_bucket_may_raise_a_level_never_lower_it(censored: int, level: float) -> None:
    one = told(sale(0, 10), sale(1, 10), stock_outs(2, 3), sale(2, censored), tick(3))
    assert one.fact("status", 2) == CENSORED
    assert mean(one, 2)[0] == pytest.approx(level)


@pytest.mark.parametrize("quantity", [0.5, 3, 30])
def test_a_revision_of_a_censored_bucket_never_lowers_a_level(quantity: float) -> None:
    events = (sale(0, 10), sale(1, 10), stock_outs(2, 3), sale(2, 4), tick(3))
    one = told(*events, sale(2, quantity, id="straggler"), tick(4))
    assert one.fact("units", 2) == 4 + quantity
    assert mean(one, 2)[0] == pytest.approx(10 if quantity < 6 else (20 + 4 + quantity) / 3)


def test_a_void_in_a_censored_bucket_never_lowers_a_level() -> None:
    small, large = sale(2, 4, id="small"), sale(2, 60, id="large")
    events = (sale(0, 10), sale(1, 10), stock_outs(2, 3), small, large, tick(3))
    one = told(*events)
    assert mean(one, 2)[0] > 10
    one.tell(void(large), tick(4))
    assert one.fact("units", 2) == 4
    assert mean(one, 3) == mean(one, 1) == (10, 2)
    one.tell(void(small), tick(5))
    assert mean(one, 4) == (10, 2)


def test_stock_outs_that_are_over_are_not_remembered() -> None:
    one = told(sale(0), *(stock_outs(n, n + 1) for n in range(30)), stock_outs(20, 90), tick(40))
    assert [[span[:3] for span in spans] for spans in one.shard.panel.stockouts.values()] == [
        [(int(day(20, 0).timestamp() * 1e6), int(day(90, 0).timestamp() * 1e6), False)]
    ]
    one.tell(tick(95))
    assert one.shard.panel.stockouts == {}


def test_stock_outs_that_overlap_are_settled_by_their_own_time_not_by_arrival() -> None:
    def said(at: float, first: float, last: float, available: bool) -> Availability:
        one = stock_outs(first, last, available=available)
        return msgspec.structs.replace(one, id=f"told {at}", time=day(at, 0))

    spans = [said(0.1, 1, 4, False), said(0.2, 2, 9, True), said(0.3, 3, 5, False),
             said(0.4, 1, 4, False)]  # fmt: skip
    found = []
    for order in permutations(spans):
        one = told(sale(0, 5), *order)
        kept = list(one.shard.panel.stockouts.values())
        one.tell(complete(7), tick(7))
        found.append((kept, [one.fact("status", n) for n in range(7)], one.shard.digest()))
    assert all(one == found[0] for one in found)
    assert found[0][1] == [OBSERVED, *[CENSORED] * 4, OBSERVED, OBSERVED]
    assert [len(one) for one in found[0][0]] == [3], "what a later one covers whole is not kept"


def test_stock_outs_of_series_that_find_no_room_are_not_remembered() -> None:
    out = msgspec.structs.replace(stock_outs(0, 90), product="unheard of")
    for most, kept in ((2, 1), (1, 0)):
        one = told(sale(0), out, tick(3), max_series=most)
        assert len(one.shard.panel.stockouts) == kept


# -- amendments ----------------------------------------------------------------------------


def test_a_revision_amends_the_fact_and_the_means_of_later_buckets() -> None:
    one = told(sale(0, 4), sale(1, 2), tick(2), sale(0, 6, id="straggler"), tick(3))
    assert one.fact("units", 0) == 10
    assert mean(one, 1) == (6, 2)
    assert mean(one, 2) == (6, 2)


def test_a_sale_that_comes_late_makes_a_silent_day_observed() -> None:
    one = told(sale(0, 4), tick(2), sale(1, 6), tick(3))
    assert (one.fact("status", 1), one.fact("units", 1)) == (OBSERVED, 6)
    assert mean(one, 2) == (5, 2)


def test_a_void_of_a_closed_bucket_takes_its_units_out_and_leaves_a_zero() -> None:
    gone = sale(1, 6)
    one = told(sale(0, 4), gone, tick(2), void(gone), tick(3))
    assert (one.fact("status", 1), one.fact("units", 1)) == (OBSERVED, 0)
    assert mean(one, 1) == (2, 2)


def test_a_void_never_makes_a_missing_bucket_look_like_a_zero() -> None:
    back = sale(1, -2)  # a return to a closed store: not a day of sales
    one = told(sale(0, 4), plan("shut", 1, 2, store="s", closed=True), back, tick(2))
    assert one.fact("status", 1) == MISSING
    one.tell(void(back), tick(3))
    assert one.fact("status", 1) == MISSING
    assert math.isnan(one.fact("units", 1))
    assert one.returned(1) == 0
    assert mean(one, 2) == (4, 1)


def test_amended_sums_are_exact_however_large_the_bucket() -> None:
    large = sale(0, 987_654.321)
    one = told(large, sale(0, 0.3, id="rest"), tick(1), void(large), tick(2))
    assert one.fact("units", 0) == np.float32(0.3)
    assert mean(one, 1) == (0.3, 1)


def test_a_late_first_sale_lists_its_series() -> None:
    one = told(sale(0, product="other"), tick(1), sale(0, 3), tick(2), sale(2, 1), tick(3))
    assert one.fact("units", 0) == 3
    assert math.isnan(one.fact("units", 1)), "the store was silent"
    assert mean(one, 2) == (2, 2)
    assert one.letters == []


def test_a_revision_wakes_its_store_on_that_day() -> None:
    begun = (sale(0, 2), sale(0, 1, product="other"), sale(0, store="live"))
    late = told(*begun, sale(1, store="live"), tick(2), sale(1, 4), tick(3))
    in_time = told(*begun, sale(1, store="live"), sale(1, 4), tick(2), tick(3))
    for one in (late, in_time):
        assert one.fact("units", 1) == 4
        assert (one.fact("status", 1, product="other"), one.fact("units", 1, product="other")) == (
            OBSERVED, 0,
        )  # fmt: skip
    assert mean(late, 2) == mean(in_time, 2)
    assert (late.shard.panel.column("seen") == in_time.shard.panel.column("seen")).all()


def test_a_revision_wakes_no_series_that_was_out_of_stock_closed_or_not_listed_yet() -> None:
    one = told(
        product("gone", delisted=1), sale(0), sale(0, product="gone"), sale(0, product="shut"),
        stock_outs(1, 2), plan("p", 1, 2, product="shut", closed=True), sale(0, store="live"),
        sale(1, store="live"), tick(2), sale(1, product="new"), tick(3), sale(3), tick(4),
    )  # fmt: skip
    assert (one.fact("status", 1), one.fact("units", 1)) == (CENSORED, 0)
    for name in ("gone", "shut"):
        assert one.fact("status", 1, product=name) == MISSING
    assert one.fact("units", 1, product="new") == 1
    assert one.fact("status", 0, product="new") == MISSING
    assert mean(one, 3) == (1, 2), "a stock-out lowers no level"


def test_hours_before_a_stores_first_sale_of_the_day_are_known_as_zero_by_it() -> None:
    one = told(sale(0, hour=9), tick(1, hour=9), bucket="hour")
    hours = {hour: one.bucket(1) - 12 + hour for hour in range(24)}
    units = one.shard.panel.of("units", np.array(list(hours.values())))
    assert np.isnan(units[:9]).all(), "nothing is known of the day yet"
    one.tell(sale(1, 2, hour=9), tick(1, hour=10))
    units = one.shard.panel.of("units", np.array(list(hours.values())))
    assert units[:10, 0].tolist() == [0.0] * 9 + [2.0]
    level, seen = one.shard.panel.window(hours[9], 10)
    assert (level.tolist(), seen.tolist()) == ([0.2], [10.0])


def test_nights_are_forecast_as_nights() -> None:
    """A store that is open from 9 to 21 sells nothing at night, and its 24 hours add up."""
    drawn = np.random.default_rng(3)
    one = told(bucket="hour", challengers=(), twin_seasons=0)
    for n in range(21):
        for hour in range(9, 21):
            for which in range(3):
                units = float(drawn.poisson(4.0))
                one.tell(sale(n, units, product=f"p{which}", hour=hour + 0.1))
    one.tell(tick(21, hour=0))
    ahead = one.shard.forecast()[:24].astype(np.float64).mean(axis=1)
    assert ahead[:8].max() < 0.4
    assert 3.0 < ahead[10:20].mean() < 5.0
    assert abs(ahead.sum() / 48 - 1) < 0.15


# -- sums over time ------------------------------------------------------------------------

quantities = st.integers(0, 50_000).map(lambda n: n / 1000)


@given(
    st.lists(st.none() | st.tuples(quantities, st.none() | quantities), min_size=1, max_size=120),
    st.integers(1, 84),
    st.integers(0, 20),
)
def test_windows_equal_a_plain_recomputation(
    days: Sequence[tuple[float, float | None] | None], length: int, back: int
) -> None:
    one = told()
    plainly: dict[int, list[float]] = {}
    for n, sold in enumerate(days):
        if sold is not None:
            one.tell(sale(n, sold[0], id=f"{n}"))
            plainly[n] = [sold[0]]
        one.tell(tick(n + 1))
        if sold is not None and sold[1] is not None:
            one.tell(sale(n, sold[1], id=f"{n} late"))
            plainly[n].append(sold[1])
    one.tell(tick(len(days) + 1))
    panel = one.shard.panel
    if not panel.size:
        return
    origin = len(days) - back
    if origin < 0:
        return
    first = max(origin - length + 1, len(days) - panel.ring + 2)
    inside = [sum(plainly[n]) for n in range(first, origin + 1) if n in plainly]
    expected = sum(inside) / len(inside) if inside else 0.0
    units, seen = mean(one, origin, length)
    assert units == pytest.approx(expected, abs=1e-6)
    assert seen == len(inside)


@pytest.mark.parametrize("bucket", ["day", "hour"])
def test_a_buckets_promotion_is_read_from_its_sums_however_long_they_ran(bucket: str) -> None:
    settings = chosen(bucket=bucket)
    panel = Panel(settings, Calendar(settings))
    first = panel.calendar.index(time_us(day(0)))
    for at in range(first, first + 1000):  # sums of days pass 65,536 by far
        share = 0.123 if at == first + 990 else 1.0
        offer = plan(f"{at}", 0, 0, product="p", promotion=share)
        start, end = map(panel.calendar.start, (at, at + 1))
        panel.plans.add(msgspec.structs.replace(offer, start=start, end=end), known=at)
        panel.close(Closed(at, {("s", "p"): [MICRO, 0, 0, 0, 1, 0]}, {}, {"s"}))
    kept = range(panel.oldest, first + 1000)
    assert len(kept) == panel.ring - 1
    assert [panel.promotion(at)[0] for at in kept] == [
        0.123 if at == first + 990 else 1.0 for at in kept
    ]
    mean = (panel.long - 1 + 0.123) / panel.long
    assert usual_promotion(panel, first + 999).tolist() == pytest.approx([mean])


def test_silence_is_counted_beyond_what_the_sums_of_windows_hold() -> None:
    settings = chosen()
    panel = Panel(settings, Calendar(settings))
    first = panel.calendar.index(time_us(day(0)))
    for n in range(400):
        sold = {("s", "p"): [MICRO, 0, 0, 0, 1, 0]} if n < 60 else {}
        panel.close(Closed(first + n, sold, {}, {"s"}))
        usual.learn(panel, first + n)
        assert usual.retired(panel).tolist() == [n - 59 > panel.long]
    assert (panel.column("seen") - panel.column("sold_seen")).tolist() == [340]
    assert [one.tolist() for one in panel.window(first + 399, panel.long)] == [[0], [panel.long]]


def test_silence_longer_than_the_ring_leaves_nothing_of_before_in_a_window() -> None:
    one = told(*(sale(n, 5) for n in range(20)), sale(400, 3), tick(401))
    assert mean(one, 400, 56) == (3, 1)
    assert one.shard.panel.first == one.bucket(0)


def test_silence_jumped_over_equals_silence_lived_through() -> None:
    events = [sale(n, n + 1) for n in range(10)]
    jumped = told(*events, tick(500))
    lived = told(*events, *(tick(n) for n in range(11, 501)))
    assert jumped.shard.digest() == lived.shard.digest()


def test_growing_room_for_series_changes_nothing() -> None:
    def fold(*, at_once: bool) -> Shard:
        shard = Shard(chosen(), 0)
        if at_once:  # room for all before the first is listed
            panel = shard.panel
            panel._list([("s", f"p{n:03}") for n in range(200)], 0)
            panel.keys.clear()
            panel.rows.clear()
            panel.stores.texts.clear()
            panel.stores.codes.clear()
            panel.product_codes.texts.clear()
            panel.product_codes.codes.clear()
        one = Told(shard)
        for n in range(20):
            for p in range(10 * n, 10 * n + 10):
                one.tell(sale(n, 1 + p % 7, product=f"p{p:03}"))
        one.tell(tick(21))
        return shard

    grown, roomy = fold(at_once=False), fold(at_once=True)
    assert grown.panel.capacity >= 200
    assert grown.digest() == roomy.digest()


def test_a_new_category_starts_from_the_profile_of_all_whenever_room_was_made() -> None:
    one = told(*(sale(n, 9 if n % 7 == 5 else 3) for n in range(60)), product("q", category="a"),
               product("r", category="b"), product("t", category="c"))  # fmt: skip
    one.tell(sale(60, product="q", hour=13), tick(61))
    before = one.shard.panel.profiles.phases[0].copy()
    one.tell(product("u", category="d", n=61), product("v", category="e", n=61))
    one.tell(sale(61, product="u", hour=13), sale(61, product="v", hour=13))
    panel = one.shard.panel
    for name in ("d", "e"):
        if name in panel.categories.codes:
            assert panel.profiles.phases[panel.categories.codes[name]].tolist() == before.tolist()
    one.tell(tick(62))
    assert {"d", "e"} <= panel.categories.codes.keys()


def test_series_get_their_rows_in_key_order_at_the_close() -> None:
    events: list[AnyEvent] = [sale(0, product=name) for name in "cab"]
    one = told(*events, tick(1), sale(1, product="aa"), tick(2))
    assert one.shard.panel.keys == [("s", name) for name in ("a", "b", "c", "aa")]


def test_a_category_told_later_moves_the_series_to_it() -> None:
    one = told(sale(0), tick(1))
    panel: Panel = one.shard.panel
    assert panel.categories.texts[panel.column("category")[0]] == ""
    one.tell(product(category="dairy", n=1))
    assert panel.categories.texts[panel.column("category")[0]] == "dairy"
    one.tell(msgspec.structs.replace(product(category="food", n=1), id="again"))
    assert panel.categories.texts[panel.column("category")[0]] == "food"


def test_the_bucket_that_listed_a_series_counts_for_a_quarter_in_its_level() -> None:
    one = told(sale(0, 9), sale(1, 2), complete(2), tick(2))
    level, weight = one.shard.panel.level(one.bucket(1), 28)
    assert (level.tolist(), weight.tolist()) == (pytest.approx([(9 / 4 + 2) / 1.25]), [1.25])


def test_a_listing_bucket_that_counts_for_nothing_has_no_weight_to_lose() -> None:
    one = told(stock_outs(0, 1), sale(0, 9), sale(1, 2), sale(2, 4), tick(3))
    assert one.fact("status", 0) == CENSORED
    level, weight = one.shard.panel.level(one.bucket(2), 28)
    assert (level.tolist(), weight.tolist()) == ([3], [2])
