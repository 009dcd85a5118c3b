"""What-if and why: the path of a forecast, and parts that add up to it."""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
import pytest

from learner.forecaster import Forecaster, Wishes
from learner.models import MODELS
from stream.event import Product
from tests import learner_parts
from tests.learner_parts import Told, day, market, plan, tick, told

NAN = np.full(28, np.nan)


def learned(champion: str = "ensemble", days: int = 60) -> Told:
    """Three products of two categories; promotions every third week double what is sold."""
    one = told(champion=champion, challengers=("seasonal_naive",))
    for name, category in (("p0", "a"), ("p1", "a"), ("p2", "b")):
        one.tell(Product(id=name, source="hq", time=day(0, 0), product=name, category=category))
    for week in range(0, days // 7 + 4, 3):
        one.tell(plan(f"w{week}", week * 7, week * 7 + 7, product="p1", promotion=0.8))
    one.tell(*(s for s in market(days, series=3, seed=2)))
    one.tell(tick(days))
    return one


@cache
def known(champion: str) -> Told:
    """The same, for tests that only ask."""
    return learned(champion)


def forecaster(one: Told) -> Forecaster:
    return Forecaster(one.shard.panel, one.shard.models[one.shard.settings.champion])


@pytest.mark.parametrize("champion", sorted(MODELS))
def test_it_says_what_is_served(champion: str) -> None:
    one = known(champion)
    served = one.shard.forecast()
    for row in range(3):
        assert forecaster(one).forecast(row, 28) == pytest.approx(served[:, row], rel=1e-5)


def test_of_one_series_it_says_what_it_says_of_all() -> None:
    """Also where categories differ much, and where one series follows one of another category."""
    one = told(challengers=("seasonal_naive",))
    for at in range(6):
        before = "p1" if at == 4 else None
        one.tell(Product(id=f"p{at}", source="hq", time=day(0, 0), product=f"p{at}",
                         category="abb"[at % 3], replaces=before))  # fmt: skip
    for sale in market(60, series=6, seed=3):
        at = int(sale.product[1:])
        if at < 4 or sale.time >= day(54):
            one.tell(msgspec.structs.replace(sale, quantity=float(1 + sale.quantity * 3**at)))
    one.tell(tick(60))
    asked = forecaster(one)
    every = asked.forecast_all()
    assert (every == one.shard.forecast()).all()
    for row in range(every.shape[1]):
        assert asked.forecast(row, len(every)) == pytest.approx(every[:, row], rel=2e-7), row
        assert asked.explain(row, 7).mean == pytest.approx(float(every[6, row]), rel=2e-7), row


@pytest.mark.parametrize("champion", sorted(MODELS))
@pytest.mark.parametrize("horizon", [1, 5, 14, 28])
def test_parts_and_experts_add_up_to_the_forecast(champion: str, horizon: int) -> None:
    one = known(champion)
    for row in range(3):
        found = forecaster(one).explain(row, horizon)
        assert found.mean == pytest.approx(float(one.shard.forecast()[horizon - 1, row]), rel=1e-5)
        assert sum(found.parts.values()) == pytest.approx(found.mean)
        assert sum(units for _, units in found.experts.values()) == pytest.approx(found.mean)


def test_supposing_what_is_planned_changes_nothing() -> None:
    one = learned()
    planned = np.array(
        [one.shard.panel.plans.promotion(one.shard.panel, one.bucket(60 + h), one.bucket(60))[1]
         for h in range(28)]
    )  # fmt: skip
    wishes = Wishes(promotion=planned, price=NAN, closed=NAN)
    asked = forecaster(one)
    assert asked.forecast(1, 28, wishes) == pytest.approx(asked.forecast(1, 28))


def test_a_plan_supposed_says_what_the_plan_would_have_said_once_known() -> None:
    one = learned()
    promotion = NAN.copy()
    promotion[1:8] = 0.5
    wished = forecaster(one).forecast(2, 28, Wishes(promotion=promotion, price=NAN, closed=NAN))
    one.tell(plan("new", 61, 68, product="p2", promotion=0.5, said=60))
    assert one.shard.forecast()[:, 2] == pytest.approx(wished, rel=1e-5)


def test_a_day_supposed_closed_sells_nothing() -> None:
    one = learned()
    closed = NAN.copy()
    closed[3] = 1.0
    found = forecaster(one).forecast(0, 28, Wishes(promotion=NAN, price=NAN, closed=closed))
    assert found[3] == 0.0 and (np.delete(found, 3) > 0).all()


def test_only_where_nothing_can_be_sold_is_nothing_certain() -> None:
    one = told(champion="seasonal_naive", challengers=())
    one.tell(*(s for s in market(28) if s.product != "p0" or s.time < day(14)))
    one.tell(tick(28), plan("shut", 30, 31, closed=True, said=28))
    served, row = one.shard.forecast(), one.shard.panel.rows["s", "p0"]
    assert (served[2] == 0).all()
    assert 0 < served[3, row] < 1e-5  # the last weeks had none, and the next may have some
    assert forecaster(one).forecast_all().tolist() == served.tolist()


def rained() -> Told:
    """Three products; on every third day it rains, and three times as much is sold."""
    one = told(challengers=("seasonal_naive",), covariates=("rain",))
    for n in range(60):
        rain = float(n % 3 == 0)
        one.tell(plan(f"r{n}", n, n + 1, covariates={"rain": rain}))
        for day_sale in market(1, first=n, seed=n):
            more = day_sale.quantity * (3 if rain else 1)
            one.tell(msgspec.structs.replace(day_sale, quantity=more))
    one.tell(tick(60))
    return one


def test_a_covariate_supposed_says_what_its_plan_would_have_said() -> None:
    one = rained()
    rain = NAN.copy()
    rain[2:5] = 1.0
    wishes = Wishes(promotion=NAN, price=NAN, closed=NAN, covariates={"rain": rain})
    asked = forecaster(one)
    wished, base = asked.forecast(2, 28, wishes), asked.forecast(2, 28)
    assert (wished[2:5] > 1.2 * base[2:5]).all()
    assert wished[5:] == pytest.approx(base[5:])
    # It is in the baseline too, and so in no uplift: nobody chose it.
    wet = asked.baseline(2, 28, wishes)
    dry = asked.baseline(2, 28, Wishes(promotion=NAN, price=NAN, closed=NAN))
    assert (wet[2:5] > 1.2 * dry[2:5]).all()
    assert np.delete(wet, slice(2, 5)) == pytest.approx(np.delete(dry, slice(2, 5)))
    one.tell(plan("wet", 62, 65, covariates={"rain": 1.0}, said=60))
    assert one.shard.forecast()[:, 2] == pytest.approx(wished, rel=1e-5)


def test_without_promotions_planned_the_baseline_is_the_forecast() -> None:
    one = learned()
    asked = forecaster(one)
    nothing = Wishes(promotion=NAN, price=NAN, closed=NAN)
    assert asked.baseline(0, 28, nothing) == pytest.approx(asked.forecast(0, 28), rel=0.05)


@pytest.mark.parametrize("always", [False, True])
def test_without_an_offer_there_is_no_uplift_however_prices_are_told(always: bool) -> None:
    """Always, or of promotions alone."""
    one = told(challengers=("seasonal_naive",))
    if always:
        one.tell(*(plan(f"p{at}", 0, 90, product=f"p{at}", price=1.2) for at in range(2)))
    one.tell(plan("offer", 24, 28, product="p0", promotion=1.0, price=1.0))
    drawn = np.random.default_rng(1)
    for n in range(45):
        for at in range(8):
            offered = at % 2 == 0 and 24 <= n < 28
            quantity = float(drawn.negative_binomial(1, 1 / (2 + at % 5 + 3 * offered)))
            one.tell(learner_parts.sale(n, quantity, store=f"s{at // 2}", product=f"p{at % 2}",
                                        price=1.0 if offered else 1.2,
                                        hour=9 + at / 10))  # fmt: skip
    one.tell(tick(45))
    asked = forecaster(one)
    nothing = Wishes(promotion=NAN, price=NAN, closed=NAN)
    offer = Wishes(promotion=np.ones(28), price=np.ones(28), closed=NAN)
    rough = 0.05 if always else 1e-9  # of a usual price that an offer has moved
    for row in range(8):
        plain = asked.forecast(row, 3)
        assert asked.baseline(row, 3, nothing) == pytest.approx(plain, rel=rough)
        assert asked.baseline(row, 3, offer) == pytest.approx(plain, rel=rough)


def test_asking_changes_nothing() -> None:
    one = learned()
    before = one.shard.digest()
    asked = forecaster(one)
    asked.explain(1, 7)
    asked.baseline(1, 28, Wishes(promotion=NAN, price=NAN, closed=NAN))
    assert one.shard.digest() == before
