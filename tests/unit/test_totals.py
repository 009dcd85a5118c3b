"""Totals over a lead time: what waits, what is scored, and how well the answers are calibrated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import intervals, lead_time
from learner.intervals import Tables, Traits
from learner.lead_time import Ahead, Known
from learner.shard import Shard
from learner.spread import Spread
from learner.totals import Totals, demand
from stream.event import Sale, time_us
from stream.log import Record
from tests import oracle
from tests.learner_parts import START, Told, chosen, market, plan, sale, tick

Floats = Any


class Scored(Totals):
    """Totals that remember what they were given to learn."""

    def __init__(self, *what: Any) -> None:
        super().__init__(*what)
        self.given: list[tuple[int, Floats, Floats]] = []

    def learn(self, length: int, mean: Floats, actual: Floats, traits: Traits) -> None:
        self.given.append((length, mean.copy(), actual.copy()))
        super().learn(length, mean, actual, traits)


def sums_of(
    events: list[Any], **changed: Any
) -> tuple[Shard, list[Record], dict[int, Floats], Any]:
    """A shard told some events, its log, its forecasts by origin, and what its totals learned."""
    settings = chosen(challengers=("seasonal_naive",), horizon=14, **changed)
    one = Told(Shard(settings, 0))
    scored = one.shard.totals = Scored(one.shard.totals.lengths, settings.bucket)
    forecasts: dict[int, Floats] = {}
    closes: list[int] = []

    def after(bucket: int) -> None:
        forecasts[bucket] = one.shard.forecast().copy()
        closes.extend([bucket] * (len(scored.given) - len(closes)))

    one.tell(*events, after_close=after)
    return one.shard, one.log, forecasts, list(zip(closes, scored.given, strict=True))


@pytest.fixture(scope="module")
def told_of_a_silent_day() -> Any:
    """Forty days of two stores, one of which is silent on the thirtieth."""
    events = [
        one for n in range(40) for store in "ab" if (n, store) != (30, "b")
        for one in market(1, first=n, seed=n)
        for one in [Sale(id=f"{store}{one.id}", source="till", time=one.time, store=store,
                         product=one.product, quantity=one.quantity, price=one.price)]
    ]  # fmt: skip
    return sums_of([*events, tick(40)])


def test_what_is_scored_are_the_plain_sums_of_facts_and_of_forecasts(
    told_of_a_silent_day: Any,
) -> None:
    shard, log, forecasts, learned = told_of_a_silent_day
    facts = oracle.read(shard.settings, log).facts
    first = shard.calendar.index(time_us(START))
    assert len(learned) > 3
    for bucket, (length, means, actuals) in learned:
        origin = bucket - length
        assert origin % 8 == 0 and bucket in forecasts
        for row, key in enumerate(shard.panel.keys):
            said = forecasts[origin][:length, row].sum(dtype=np.float64)
            assert means[row] == pytest.approx(said, rel=1e-6)
            span = [facts[key][START.replace(day=1) + (b - first) * (oracle.HOUR * 24)]
                    for b in range(origin + 1, bucket + 1)]  # fmt: skip
            if any(fact.status != "observed" for fact in span):
                assert np.isnan(actuals[row]), (key, bucket)
            else:
                assert actuals[row] == pytest.approx(sum(fact.gross for fact in span) / 1e6)


def test_a_total_with_a_silent_day_in_it_is_not_scored(told_of_a_silent_day: Any) -> None:
    shard, _, _, learned = told_of_a_silent_day
    silent = shard.calendar.index(time_us(START)) + 30
    over = [(b, given) for b, given in learned if b - given[0] < silent <= b]
    assert over
    for _, (_, _, actuals) in over:
        for row, (store, _) in enumerate(shard.panel.keys):
            assert np.isnan(actuals[row]) == (store == "b")


def test_a_planned_closure_is_known_and_no_gap() -> None:
    events = [one for n in range(30) if n != 25 for one in market(1, first=n, seed=n)]
    closed = plan("closed", 25, 26, store="s", closed=True)
    shard, _, _, _ = sums_of([*events[:3], closed, *events[3:], tick(30)])
    last = shard.calendar.index(time_us(START)) + 29
    with_plan = demand(shard.panel, last, 7)
    assert np.isfinite(with_plan).all()
    shard, _, _, _ = sums_of([*events, tick(30)])
    assert np.isnan(demand(shard.panel, last, 7)).all()


def test_totals_wait_for_their_own_bucket_and_no_other() -> None:
    totals = Totals((7, 14), "day")
    totals.grow(4)
    means = np.arange(56, dtype=np.float32).reshape(14, 4)
    assert totals.stride == 8 and totals.due(16) and not totals.due(17)
    totals.put(16, means)
    for bucket in range(17, 40):
        for length in (7, 14):
            found = totals.take(bucket, length, 4)
            if bucket - length == 16:
                assert found is not None
                np.testing.assert_array_equal(found, means[:length].sum(axis=0))
            else:
                assert found is None


def test_without_a_farther_horizon_there_are_no_totals_to_track() -> None:
    shard = Shard(chosen(horizon=1), 0)
    assert shard.totals.lengths == () and not shard.totals.due(8)


# -- reading -------------------------------------------------------------------------------


def known(dispersion: float = 0.3, relative: float = 0.1) -> Known:
    """Single buckets of one dispersion, totals of another, normal in shape."""
    spread = Spread((2,), "day")
    tables = spread.tables()

    def of(value: float) -> Tables:
        return Tables(np.full_like(tables.dispersion, value), tables.below)

    return Known((1, 7), of(dispersion), (7, 14), of(relative))


def traits(n: int, whole: bool = True) -> Traits:
    return Traits(np.ones(n), np.full(n, whole), np.ones(n))


LEVELS = np.array([0.025, 0.1, 0.5, 0.9, 0.975])
spans = st.tuples(st.integers(1, 14), st.integers(1, 14)).map(sorted)


@given(spans, st.lists(st.floats(0, 1e5), min_size=1, max_size=9), st.floats(0, 0.99))
def test_quantiles_ascend_and_are_not_negative(
    span: list[int], means: list[float], gone: float
) -> None:
    first, last = span
    mean = np.array(means)
    ahead = Ahead(first, last, np.full(len(mean), last - first + 1 - gone))
    found = lead_time.quantiles(known(), mean, ahead, LEVELS, traits(len(mean)))
    assert (found >= 0).all() and (np.diff(found, axis=0) >= 0).all()
    assert (found[:, mean == 0] == 0).all()


def test_a_total_of_one_bucket_is_that_bucket() -> None:
    mean = np.array([0.3, 4.0, 90.0])
    of = known()
    for step in (1, 4, 9):
        ahead = Ahead(step, step, np.ones(3))
        tables = intervals.horizon_tables(of.single, of.scored, step)
        np.testing.assert_array_equal(
            lead_time.quantiles(of, mean, ahead, LEVELS, traits(3)),
            intervals.quantiles(tables, mean, LEVELS, traits(3)),
        )


def test_tracked_lengths_are_taken_as_they_are_and_others_lie_between() -> None:
    mean, of = np.full(1, 300.0), known()

    def width(first: int, last: int) -> float:
        ahead = Ahead(first, last, np.full(1, float(last - first + 1)))
        found = lead_time.quantiles(of, mean, ahead, LEVELS, traits(1, whole=False))
        return float(found[3, 0] - found[1, 0])

    single = intervals.quantiles(of.single.at(0), mean, LEVELS, traits(1, whole=False))
    tracked = intervals.quantiles(of.totals.at(0), mean, LEVELS, traits(1, whole=False))
    assert width(1, 7) == pytest.approx(float(tracked[3, 0] - tracked[1, 0]))
    widths = [width(1, length) for length in range(1, 8)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == pytest.approx(float(single[3, 0] - single[1, 0]))


def test_totals_of_days_that_miss_alike_are_calibrated_where_sums_of_quantiles_are_not() -> None:
    """Demand whose rate wanders over weeks: a year of it, as totals of seven and fourteen days."""
    drawn = np.random.default_rng(5)
    series, days, levels = 200, 360, np.array([0.1, 0.5, 0.9, 0.975])
    log_rate = np.zeros(series)
    units = np.zeros((days, series))
    for n in range(days):
        log_rate = 0.9 * log_rate + 0.15 * drawn.normal(size=series)
        units[n] = drawn.poisson(8 * np.exp(log_rate - 0.06))
    totals = Totals((7, 14), "day")
    totals.grow(series)
    hits: dict[int, list[Floats]] = {7: [], 14: []}
    of = traits(series)
    for n in range(days):
        for length in (7, 14):
            mean = totals.take(n, length, series)
            if mean is None:
                continue
            actual = units[n - length + 1 : n + 1].sum(axis=0)
            tables = totals.spread.tables().at(totals.place(length))
            verdict = intervals.judge(tables, intervals.scores_at(tables, levels), mean, actual, of)
            if n > 120:
                hits[length].append(
                    [one.mean() for one in intervals.hits(verdict, levels.tolist())]
                )
            totals.learn(length, mean, actual, of)
        if totals.due(n):
            totals.put(n, np.full((14, series), 8.0, np.float32))
    for length, found in hits.items():
        np.testing.assert_allclose(np.mean(found, axis=0), levels, atol=0.02, err_msg=str(length))


def test_a_rollback_takes_back_what_was_learned_and_leaves_what_waits() -> None:
    totals, before = Totals((7,), "day"), Totals((7,), "day")
    totals.grow(3)
    totals.put(8, np.ones((7, 3), np.float32))
    totals.learn(7, np.array([5.0, 6.0, 7.0]), np.array([9.0, 1.0, 2.0]), traits(3))
    learned, waiting = totals.spread.counts.copy(), totals.waiting[7].copy()
    totals.return_to(before)
    assert (totals.spread.counts == before.spread.counts).all()
    assert (learned != before.spread.counts).any()
    assert (totals.waiting[7] == waiting).all()


def test_arrays_bring_all_of_it_back() -> None:
    shard, *_ = sums_of([*market(30), tick(30)])
    again = Totals(shard.totals.lengths, "day")
    again.restore({name: array.copy() for name, array in shard.totals.arrays().items()})
    size = shard.panel.size
    told, kept = ([one.tobytes() for one in of.digest(size)] for of in (again, shard.totals))
    assert told == kept
    assert any(np.isfinite(one).any() for one in again.waiting.values())


def test_one_sale_a_day_waits_and_is_scored_too() -> None:
    _, _, _, learned = sums_of([*(sale(n) for n in range(40)), tick(40)])
    assert all(np.isfinite(actuals).all() for _, (_, _, actuals) in learned[3:])
