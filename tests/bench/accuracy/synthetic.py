"""Made-up cases, seeded, and real ones bent: so that no default is tuned to one half-year."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stream.buckets import Calendar
from stream.settings import Settings
from stream.window import Key
from tests.bench.accuracy import grocery
from tests.bench.accuracy.case import Case, Floats, from_first_sale, plans_of

_MONDAY = 1_420_416_000_000_000  # 5 January 2015, µs


def _settings(bucket: str) -> Settings:
    return Settings(partitions=1, bucket=bucket, grace_s=60)  # type: ignore[arg-type]


def _made(
    name: str, about: str, bucket: str, keys: list[Key], categories: list[str], units: Floats,
    price: Floats, spans: tuple[int, int, int], horizons: tuple[int, ...],
    promotion: Floats | None = None, planned_price: Floats | None = None,
) -> Case:  # fmt: skip
    """A case of made-up series; ``spans``: ends of warm-up, of tuning and of the test."""
    chosen = _settings(bucket)
    calendar = Calendar(chosen)
    first = calendar.index(_MONDAY)
    plans = (
        () if promotion is None
        else plans_of(calendar, first, keys, grocery.AHEAD[bucket], promotion, planned_price)
    )  # fmt: skip
    warm, tuned, end = spans
    return Case(
        name=name, about=about, settings=chosen, first=first, keys=tuple(keys),
        categories=tuple(categories), units=from_first_sale(units),
        price=np.where(units > 0, price, np.nan), plans=plans,
        products=grocery.catalogue(keys, categories, calendar, first), warm=warm,
        tune=(warm, tuned), test=(tuned, end), horizons=horizons,
    )  # fmt: skip


def promoted_weeks() -> Case:
    """Three years of weeks: 3 stores × 60 products in 10 categories, promoted a week in six.

    A promotion is the chain's, cuts the price by 15 to 40 %, lifts demand two- to fivefold by
    category, takes a fifth of it from the category's others, and leaves a dip of a quarter for
    two weeks. The year's season differs by category; a fifth of the products start later.
    """
    drawn = np.random.default_rng(301)
    stores, products, groups, weeks = 3, 60, 10, 156
    group = np.arange(products) % groups
    lift = drawn.uniform(2.0, 5.0, groups)
    season = drawn.uniform(0.05, 0.45, groups)
    peak = drawn.uniform(0, 52, groups)
    level = np.exp(drawn.normal(2.6, 1.0, products))
    share = drawn.dirichlet(np.full(stores, 6.0)) * stores
    usual = np.round(np.exp(drawn.normal(1.2, 0.5, products)), 2)
    promoted = drawn.random((weeks, products)) < 1 / 6
    depth = np.where(promoted, drawn.uniform(0.15, 0.40, (weeks, products)), 0.0)
    start = np.where(drawn.random(products) < 0.2, drawn.integers(10, 120, products), 0)
    t = np.arange(weeks)[:, None]
    mean = level * np.exp(season[group] * np.sin(2 * np.pi * (t - peak[group]) / 52.18))
    mean = mean * np.where(promoted, 1 + (lift[group] - 1) * depth / 0.275, 1.0)
    near = np.stack([promoted[:, group == g].mean(axis=1) for g in range(groups)], axis=1)
    mean = mean * np.where(promoted, 1.0, 1 - 0.8 * near[:, group])
    for back, dip in ((1, 0.25), (2, 0.12)):
        mean[back:] = mean[back:] * np.where(promoted[:-back] & ~promoted[back:], 1 - dip, 1.0)
    mean = mean * np.exp(np.cumsum(drawn.normal(0, 0.03, (weeks, products)), axis=0))
    mean = np.where(t < start, 0.0, mean)
    keys, categories, columns = [], [], []
    price, promotion = [], []
    for store in range(stores):
        for product in range(products):
            keys.append((f"s{store}", f"p{product:02d}"))
            categories.append(f"g{group[product]}")
            columns.append(_counts(drawn, mean[:, product] * share[store], 0.08))
            promotion.append(promoted[:, product].astype(float))
            price.append(np.round(usual[product] * (1 - depth[:, product]), 2))
    return _made(
        "weeks", "promotions, prices and a yearly season", "week", keys, categories,
        np.stack(columns, 1), np.stack(price, 1), (78, 117, weeks), (1, 4, 13),
        np.stack(promotion, 1), np.stack(price, 1),
    )  # fmt: skip


def intermittent() -> Case:
    """A year of days of 300 spare parts: a sale every 2 to 60 days, of 1 to 6 units."""
    drawn = np.random.default_rng(302)
    series, days = 300, 364
    rate = 1 / np.exp(drawn.uniform(np.log(2), np.log(60), series))
    size = drawn.uniform(1, 6, series)
    # Rates drift, and a third of the parts stop, or start, within the year.
    drift = np.exp(np.cumsum(drawn.normal(0, 0.02, (days, series)), axis=0))
    units = (drawn.random((days, series)) < np.minimum(rate * drift, 0.9)) * (
        1 + drawn.poisson(size - 1, (days, series))
    ).astype(float)
    turn = drawn.integers(60, 330, series)
    t = np.arange(days)[:, None]
    units[(t < turn) & (np.arange(series) % 6 == 0)] = 0
    units[(t >= turn) & (np.arange(series) % 6 == 1)] = 0
    sold = units.sum(axis=0) > 0
    keys = [("s", f"p{n:03d}") for n in np.flatnonzero(sold).tolist()]
    return _made("intermittent", "spare parts", "day", keys,
                 [f"g{n % 8}" for n in range(len(keys))], units[:, sold],
                 np.full((days, int(sold.sum())), 5.0), (182, 273, days), (1, 7, 14))  # fmt: skip


def trending() -> Case:
    """A year of days of 60 series that grow or shrink by up to 1 % a day for months."""
    drawn = np.random.default_rng(303)
    series, days = 60, 364
    t = np.arange(days)[:, None]
    slope = drawn.uniform(-0.006, 0.01, series)
    bend = drawn.integers(150, 330, series)
    path = slope * np.minimum(t, bend) - 0.3 * slope * np.maximum(t - bend, 0)
    weekday = np.exp(drawn.normal(0, 0.25, (7, series)))
    mean = np.exp(drawn.normal(2.2, 0.8, series)) * np.exp(path) * weekday[np.arange(days) % 7]
    units = np.stack([_counts(drawn, mean[:, n], 0.05) for n in range(series)], 1)
    keys = [("s", f"p{n:02d}") for n in range(series)]
    return _made("trending", "growth and decline", "day", keys,
                 [f"g{n % 5}" for n in range(series)], units, np.full(units.shape, 3.0),
                 (182, 273, days), (1, 7, 14))  # fmt: skip


def shifted(up: bool) -> Case:
    """P0 with lasting shifts: 30 % of the series by a factor of up to 2.5, on a day each.

    The day is drawn from the tuned span's first seven weeks, or the tested one's; only shifted
    series are scored, by origins from the 14th day after their shift on.

    Parameters
    ----------
    up
        More is sold; else less, by the inverse of the factor.
    """
    name = "shifted_up" if up else "shifted_down"
    case = grocery.daily(name, "P0, levels shift", ["category"], 200)
    drawn = np.random.default_rng(304)
    series = len(case.keys)
    chosen = np.flatnonzero(drawn.random(series) < 0.3)
    factor = np.exp(drawn.uniform(np.log(1.2), np.log(2.5), series) * (1 if up else -1))
    units = case.units.copy()
    score = np.zeros(units.shape, bool)
    for n, at in enumerate(chosen.tolist()):
        # Half of them shift in each span, so that none does so twice.
        low, high = case.tune if n % 2 == 0 else case.test
        day = low + int(drawn.integers(0, 49))
        units[day:, at] = np.round(units[day:, at] * factor[at])
        score[day + 13 : high, at] = True
    return replace(case, units=units, scored=score)


def surprised() -> Case:
    """P0 with a promotion week that no plan announced: 30 % of the series, 1.5- to 4-fold.

    Scored by origins from the end of the week after it on, for four weeks.
    """
    case = grocery.daily("surprised", "P0, an unannounced promotion", ["category"], 200)
    drawn = np.random.default_rng(305)
    series = len(case.keys)
    chosen = np.flatnonzero(drawn.random(series) < 0.3)
    units = case.units.copy()
    score = np.zeros(units.shape, bool)
    for at in chosen.tolist():
        factor = drawn.uniform(1.5, 4.0)
        for low, high in (case.tune, case.test):
            monday = low + 1 + 7 * int(drawn.integers(0, 6))
            units[monday : monday + 7, at] = np.round(units[monday : monday + 7, at] * factor)
            score[monday + 13 : min(monday + 41, high), at] = True
    return replace(case, units=units, scored=score)


def newcomers() -> Case:
    """P1 with 10 % of the series held out until a day of the scored span, when they start.

    Half of them start in the tuned span, half in the tested one; scored are the forecasts made
    from the day before their first sale to their 27th day.
    """
    case = grocery.daily("newcomers", "P1, series start", ["store", "department"], 300)
    usual = case.scale()
    drawn = np.random.default_rng(306)
    series = len(case.keys)
    held = drawn.permutation(series)[: series // 10]
    units, price = case.units.copy(), case.price.copy()
    score = np.zeros(units.shape, bool)
    for n, at in enumerate(held.tolist()):
        low, high = case.tune if n % 2 == 0 else case.test
        day = low + int(drawn.integers(0, high - low - 42))
        units[:day, at] = np.nan
        price[:day, at] = np.nan
        units[:, at] = from_first_sale(units[:, at : at + 1])[:, 0]
        started = np.flatnonzero(np.isfinite(units[:, at]))
        if len(started):
            score[started[0] - 1 : started[0] + 28, at] = True
    return replace(case, units=units, price=price, scored=score, usual=usual)


def _counts(drawn: np.random.Generator, mean: Floats, spread: float) -> Floats:
    """Negative binomial counts of these means; variance mean + spread · mean²."""
    rate = mean * drawn.gamma(1 / spread, spread, len(mean))
    counts: Floats = drawn.poisson(rate).astype(float)
    return counts
