"""The Complete Journey as events: counts, order, ids, and how weeks map to dates."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from scripts import journey
from stream.event import AnyEvent, Plan, Product, Refusal, Sale, decode_item

Pairs = list[tuple[datetime, bytes]]
FIRST, THIRD = date(2017, 1, 2), date(2017, 1, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journey")
    journey.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Pairs:
    """Everything up to the end of the second whole week."""
    return list(journey.events(folder, None, THIRD))


@pytest.fixture(scope="module")
def decoded(pairs: Pairs) -> list[AnyEvent]:
    items = [decode_item(line) for _, line in pairs]
    assert [item for item in items if isinstance(item, Refusal)] == []
    return [item for item in items if not isinstance(item, Refusal)]


def test_every_line_is_an_event_with_the_time_it_is_said_to_have(
    pairs: Pairs, decoded: list[AnyEvent]
) -> None:
    assert [time for time, _ in pairs] == [event.time for event in decoded]


def test_events_are_in_the_order_of_time(pairs: Pairs) -> None:
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(pairs))


def test_ids_are_unique(folder: Path) -> None:
    # of the whole year, without the cost of decoding: type, id and source lead every line
    heads = [hash(line[: line.index(b'"time"')]) for _, line in journey.events(folder)]
    assert len(set(heads)) == len(heads)


def test_facts_count_what_there_is(folder: Path) -> None:
    facts = journey.facts(folder)
    assert (facts.sales, facts.stores, facts.categories) == (1_441_817, 433, 301)
    assert facts.series == 33_948
    assert facts.plans == facts.categories * 53
    assert facts.events == facts.sales + facts.plans + facts.categories
    assert facts.events == sum(1 for _ in journey.events(folder))


def test_every_category_is_introduced_before_the_first_sale(decoded: list[AnyEvent]) -> None:
    first = next(i for i, event in enumerate(decoded) if isinstance(event, Sale))
    introduced = {e.product for e in decoded[:first] if isinstance(e, Product)}
    assert introduced >= {e.product for e in decoded if isinstance(e, Sale)}
    assert all(e.store == "*" and e.category for e in decoded if isinstance(e, Product))


def test_sales_have_units_and_none_are_of_the_dropped_departments(
    decoded: list[AnyEvent],
) -> None:
    assert all(e.quantity > 0 for e in decoded if isinstance(e, Sale))
    departments = {e.category for e in decoded if isinstance(e, Product)}
    assert not departments & set(journey.DROPPED)


def test_a_sale_says_what_its_transaction_says(decoded: list[AnyEvent]) -> None:
    sale = next(event for event in decoded if isinstance(event, Sale))
    data = journey._read("transactions", ["store_id", "basket_id", "product_id", "quantity",
                                          "sales_value", "transaction_timestamp"])  # fmt: skip
    rows = data.slice(0, 20).to_pylist()
    row = next(r for r in rows if f"{r['basket_id']}-{r['product_id']}" == sale.id)
    assert (sale.store, sale.source) == (str(row["store_id"]), f"till-{row['store_id']}")
    assert sale.quantity == row["quantity"]
    assert sale.price == pytest.approx(row["sales_value"] / row["quantity"], abs=1e-6)
    assert sale.time == row["transaction_timestamp"].replace(tzinfo=UTC)


def test_weeks_start_on_local_mondays_and_are_known_a_week_before(
    decoded: list[AnyEvent],
) -> None:
    plans = [event for event in decoded if isinstance(event, Plan)]
    for plan in plans:
        start, end = plan.start.astimezone(journey.ZONE), plan.end.astimezone(journey.ZONE)
        assert (start.weekday(), start.hour, end.weekday(), end.hour) == (0, 0, 0, 0)
        assert plan.start - plan.time == plan.end - plan.start == timedelta(days=7)
        assert plan.promotion is not None and 0 <= plan.promotion <= 1
    counts = Counter((plan.product, plan.start) for plan in plans)
    assert set(counts.values()) == {1}
    assert plans[0].start == datetime(2016, 12, 26, 5, tzinfo=UTC)


def test_weeks_over_a_change_of_the_clock_still_start_at_midnight(folder: Path) -> None:
    # summer time begins on 12 March 2017, inside of the week that starts on the 6th
    day = date(2017, 3, 6)
    items = [decode_item(x) for _, x in journey.events(folder, day, day + timedelta(days=1))]
    starts = {e.start for e in items if isinstance(e, Plan) and e.id.startswith("plan-12-")}
    assert starts == {datetime(2017, 3, 13, 4, tzinfo=UTC)}


def test_transactions_say_the_same_weeks() -> None:
    data = journey._read("transactions", ["week", "transaction_timestamp"])
    for row in data.take(list(range(0, len(data), 5000))).to_pylist():
        moment = row["transaction_timestamp"].replace(tzinfo=UTC)
        assert journey._week_start(row["week"]) <= moment < journey._week_start(row["week"] + 1)


def test_goods_on_promotion_sell_more_in_their_week_than_in_the_next(folder: Path) -> None:
    """Weeks would be off if shifting the plans by one made them fit as well."""
    start, end = date(2017, 1, 2), date(2017, 3, 6)
    units: Counter[tuple[str, int]] = Counter()
    share: dict[tuple[str, int], float] = {}
    for _, line in journey.events(folder, start, end):
        event = decode_item(line)
        if isinstance(event, Sale):
            week = (event.time - journey._week_start(1)) // timedelta(days=7)
            units[event.product, week] += int(event.quantity)
        elif isinstance(event, Plan) and event.product and event.promotion is not None:
            share[event.product, (event.start - journey._week_start(1)) // timedelta(days=7)] = (
                event.promotion
            )

    def fit(shift: int) -> float:
        gain = 0.0
        for (product, week), sold in units.items():
            a, b = share.get((product, week + shift)), share.get((product, week + shift + 1))
            later = units.get((product, week + 1), 0)
            if 1 < week < 7 and a is not None and b is not None and sold + later > 200:
                gain += (a - b) * (sold - later) / (sold + later)
        return gain

    assert fit(0) > max(fit(-1), fit(1), 0)


def test_a_business_day_is_new_yorks(folder: Path) -> None:
    day = date(2017, 1, 9)
    sales = [
        time
        for time, line in journey.events(folder, day, day + timedelta(days=1))
        if b'"type":"sale"' in line
    ]
    assert {time.astimezone(journey.ZONE).date() for time in sales} == {day}
    # the evening's peak is on the next day of UTC
    assert max(sales).date() == day + timedelta(days=1)


def test_a_later_start_brings_its_catalogue_and_the_plans_in_force(
    folder: Path, pairs: Pairs
) -> None:
    late = list(journey.events(folder, FIRST + timedelta(days=3), THIRD))
    items = [decode_item(line) for _, line in late]
    assert sum(isinstance(item, Product) for item in items) == 301
    start = journey._midnight(FIRST + timedelta(days=3))
    early = [e for e in items if isinstance(e, Plan) and e.time < start]
    assert early and all(plan.end > start for plan in early)
    # consecutive spans join to the whole, but for what is repeated to the byte
    before = list(journey.events(folder, None, FIRST + timedelta(days=3)))
    assert list(dict.fromkeys(before + late)) == pairs


def test_the_cache_is_made_once_and_leaves_no_scrap(folder: Path) -> None:
    path = journey.prepare(folder)
    written = path.stat().st_mtime_ns
    assert journey.prepare(folder).stat().st_mtime_ns == written
    assert list(folder.iterdir()) == [path]


def test_a_preparation_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(journey, "_table", lambda: None)
    monkeypatch.setattr("pyarrow.parquet.write_table", fail)
    with pytest.raises(OSError, match="no space"):
        journey.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []
