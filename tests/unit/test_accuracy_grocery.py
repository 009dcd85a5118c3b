"""The real cases against the raw data, by another way."""

from __future__ import annotations

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

from scripts import journey
from tests.bench.accuracy import grocery
from tests.bench.accuracy.panels import make
from tests.bench.accuracy.scores import table


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Work the tables out here, from the data."""
    grocery.frames.cache_clear()
    grocery.CACHE = tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    """Transactions with department, category and New York's day, as text."""
    sales = journey._read(
        "transactions", ["store_id", "product_id", "quantity", "transaction_timestamp"]
    ).to_pandas()
    goods = journey._read("products", ["product_id", "department", "product_category"])
    sales = sales.merge(goods.to_pandas().dropna(subset=["product_category"]), on="product_id")
    dropped = ("FUEL", "MISCELLANEOUS", "COUPON/MISC ITEMS")
    sales = sales[~sales["department"].isin(dropped) & (sales["quantity"] > 0)]
    local = sales["transaction_timestamp"].dt.tz_localize("UTC").dt.tz_convert("America/New_York")
    return sales.assign(day=local.dt.strftime("%Y-%m-%d"))


def test_p0_is_the_chains_largest_categories_by_new_yorks_day(raw: pd.DataFrame) -> None:
    case = make("P0")
    warm = raw[raw["day"] < "2017-07-01"].groupby("product_category")["quantity"].sum()
    largest = set(warm.nlargest(200).index)
    assert {product for _, product in case.keys} == largest
    daily = raw.groupby(["product_category", "day"])["quantity"].sum()
    days = pd.date_range("2017-01-01", "2017-12-31").strftime("%Y-%m-%d")
    for at, (_, product) in enumerate(case.keys):
        mine = daily[product].reindex(days)
        expected = mine.fillna(0.0).where(mine.notna().cumsum() > 0)
        np.testing.assert_array_equal(case.units[:, at], expected.to_numpy(float))


def test_p1_and_p2_are_the_largest_of_each_store(raw: pd.DataFrame) -> None:
    warm = raw[raw["day"] < "2017-07-01"]
    for name, what, size in (("P1", "department", 200), ("P2", "product_category", 2000)):
        case = make(name)
        sums = warm.groupby(["store_id", what])["quantity"].sum().nlargest(size, keep="all")
        found = {(int(store), product) for store, product in case.keys}
        assert len(found) == size
        assert found <= set(sums.index)
        sold = np.nansum(case.units, axis=0)
        inside = raw[(raw["day"] >= "2017-01-01") & (raw["day"] < "2018-01-01")]
        total = inside.groupby(["store_id", what])["quantity"].sum()
        assert sold.tolist() == [total[int(store), product] for store, product in case.keys]


def test_a_promotions_share_is_that_of_what_sold_on_display_or_in_the_mailer(
    raw: pd.DataFrame,
) -> None:
    case = make("P0")
    at = [product for _, product in case.keys].index("SOFT DRINKS")
    share = case.planned("promotion")[:, at]
    # Week 20 starts on the local Monday 8 May 2017.
    row = (pd.Timestamp("2017-05-08") - pd.Timestamp("2017-01-01")).days
    assert len(set(share[row : row + 7])) == 1
    placed = journey._read("promotions", ["product_id", "store_id", "week"]).to_pandas()
    placed = placed[placed["week"] == 20][["product_id", "store_id"]].drop_duplicates()
    warm = raw[(raw["day"] >= "2017-01-01") & (raw["day"] < "2017-07-01")]
    warm = warm[warm["product_category"] == "SOFT DRINKS"]
    promoted = warm.merge(placed, on=["product_id", "store_id"])["quantity"].sum()
    assert share[row] == pytest.approx(promoted / warm["quantity"].sum(), abs=1e-4)
    assert 0.05 < share[row] < 0.95


def test_seasonal_naive_scores_as_others_measured_it() -> None:
    """Published for July to December: WAPE .391 and RMSSE 1.102 on P0; nothing is fitted here."""
    found = table(make("P0"), "both", {})
    assert found["naive", 1].wape == pytest.approx(0.391, abs=0.001)
    assert found["naive", 1].rmsse == pytest.approx(1.102, abs=0.003)
    assert found["naive", 14].wape == pytest.approx(0.387, abs=0.001)


def test_hours_are_those_of_new_yorks_clock() -> None:
    case = make("hours")
    # 6 May to 31 October: no change of time, so 24 hours a day.
    assert len(case.units) == case.test[1] == 24 * (304 - 125)
    by_hour = np.nansum(case.units, axis=1).reshape(-1, 24).sum(axis=0)
    assert by_hour[10:18].min() > 5 * by_hour[2:5].max()
    sales, _ = grocery.frames()
    days = sales[(sales["day"] >= 125) & (sales["day"] < 304)]
    largest = {product for _, product in case.keys}
    assert by_hour.sum() == days[days["department"].isin(largest)]["units"].sum()
