"""What remains of an open bucket: against a plain reading of the events, and by its properties."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import intervals, open_bucket
from learner.open_bucket import OpenBucket
from learner.shard import Shard
from stream.buckets import Calendar
from stream.event import MICRO, Sale, Void, time_us
from tests.learner_parts import START, Told, chosen, complete, sale, tick, told, void

UNITS = st.floats(0, 1e5)
HOURS = {"a": (9, 18), "b": (12, 22)}


def trading(days: int, first: int = 0, seed: int = 2) -> list[Sale]:
    """Two stores with hours of their own, two products each; Saturdays come later in the day."""
    drawn = np.random.default_rng(seed)
    out = []
    for n in range(first, first + days):
        late = 2 if n % 7 == 5 else 0
        for store, (start, end) in HOURS.items():
            for k in range(int(drawn.poisson(12))):
                hour = float(drawn.uniform(start, end)) + late
                out.append(
                    sale(n, float(drawn.integers(1, 4)), id=f"{store}{n}-{k}", store=store,
                         product=f"p{k % 2}", hour=round(hour, 4))
                )  # fmt: skip
    return sorted(out, key=lambda one: one.time)


def counted(sales: Iterable[Sale]) -> dict[int, dict[str, list[int]]]:
    """Sales by day, store and hour, by nothing but subtraction of times."""
    found: dict[int, dict[str, list[int]]] = defaultdict(dict)
    for one in sales:
        since = one.time - START
        line = found[since.days].setdefault(one.store, [0] * 24)
        line[since.seconds // 3600] += 1
    return found


# -- the profile ---------------------------------------------------------------------------


def test_the_profile_is_a_plain_count_of_event_times() -> None:
    days = 30
    sales = trading(days)
    gone = sales[::17]
    events: list[Sale | Void] = []
    for one in sales:
        events += [one, void(one)] if one in gone else [one]
    shard = told(*events, tick(days)).shard
    left = [one for one in sales if one not in gone]
    common = [[0.0] * 24 for _ in range(7)]
    own = {store: [0.0] * 24 for store in HOURS}
    active = {store: [0.0] * 25 for store in HOURS}
    for n, by_store in sorted(counted(left).items()):
        sums = [sum(line[hour] for line in by_store.values()) for hour in range(24)]
        # 1 January 2024 was a Monday, and so is phase 0.
        common[n % 7] = [0.8 * old + new for old, new in zip(common[n % 7], sums, strict=True)]
        for store, line in by_store.items():
            own[store] = [0.97 * old + new for old, new in zip(own[store], line, strict=True)]
            sold = [float(count > 0) for count in line]
            active[store] = [
                0.97 * old + new for old, new in zip(active[store], [*sold, 1.0], strict=True)
            ]
    profiles = shard.open_bucket
    np.testing.assert_allclose(profiles.common, common, rtol=1e-12)
    for code, store in enumerate(shard.panel.stores.texts):
        np.testing.assert_allclose(profiles.own[code], own[store], rtol=1e-5)
        np.testing.assert_allclose(profiles.active[code], active[store], rtol=1e-5)


def test_shares_start_at_nothing_and_end_at_all_and_follow_a_stores_own_hours() -> None:
    shard = told(*trading(60), tick(60)).shard
    shares = shard.open_bucket.shares(shard.panel.last or 0, 2)
    assert (shares[:, 0] == 0).all() and (shares[:, -1] == 1).all()
    assert (np.diff(shares, axis=1) >= 0).all()
    early, late = (shares[shard.panel.stores.codes[store], 14] for store in ("a", "b"))
    assert early > 0.5 > 0.25 > late


def test_a_profile_of_nothing_is_even() -> None:
    profiles = OpenBucket(Calendar(chosen()))
    np.testing.assert_allclose(profiles.shares(0, 1)[0], np.arange(25) / 24)


@given(st.permutations(range(12)))
def test_neither_arrival_nor_voids_leave_a_trace_in_it(order: list[int]) -> None:
    sales = [sale(0, 1, id=str(n), hour=n, store="ab"[n % 2]) for n in range(9)]
    gone = [sale(0, 2, id=f"gone{n}", hour=n) for n in range(1)]
    events: list[Sale | Void] = [*sales, *gone, *map(void, gone), sale(0, 1, id="twice", hour=3)]
    events = (events * 2)[:12]
    first, second = Told(Shard(chosen(grace_s=86_400), 0)), Told(Shard(chosen(grace_s=86_400), 0))
    at = START + timedelta(days=1)
    first.tell(*events, append=at)
    second.tell(*(events[n] for n in order), append=at)
    assert first.shard.digest() == second.shard.digest()
    bucket = first.bucket(0)
    assert first.shard.window.open[bucket].heard == second.shard.window.open[bucket].heard
    for one in (first, second):
        one.tell(tick(3), append=START + timedelta(days=3))
    assert first.shard.digest() == second.shard.digest()


def test_a_voided_store_was_never_heard() -> None:
    gone = sale(0, 1, id="gone", store="b")
    one = told(sale(0, 1), gone, void(gone))
    assert list(one.shard.window.open[one.bucket(0)].heard) == ["s"]


# -- what has passed -----------------------------------------------------------------------


def passed(shard: Shard, day: int, hour: float, heard: dict[str, list[int]], **complete_at: float
           ) -> dict[str, float]:  # fmt: skip
    first = time_us(START)
    bucket = shard.calendar.index(first) + day

    def moment(at: float) -> int:
        return first + round((day * 24 + at) * 3_600 * MICRO)

    found = shard.open_bucket.passed(
        bucket, moment(hour), heard, {s: moment(at) for s, at in complete_at.items()},
        shard.panel.stores.texts,
    )  # fmt: skip
    return dict(zip(shard.panel.stores.texts, found.tolist(), strict=True))


def line(*hours: int) -> list[int]:
    return [int(hour in hours) for hour in range(24)]


@pytest.fixture(scope="module")
def traded() -> Shard:
    return told(*trading(60), tick(60)).shard


def test_a_store_that_is_heard_is_as_far_as_the_latest_event(traded: Shard) -> None:
    found = passed(traded, 61, 15, {"a": line(9, 14), "b": line(13, 14)})
    shares = traded.open_bucket.shares(traded.calendar.index(time_us(START)) + 61, 2)
    for store, code in traded.panel.stores.codes.items():
        assert found[store] == pytest.approx(shares[code, 15])


def test_a_store_that_is_late_is_not_thought_to_sell_nothing(traded: Shard) -> None:
    found = passed(traded, 61, 17, {"b": line(13, 16)})
    assert found["a"] < 0.1 < 0.4 < found["b"]
    # Before it opens, silence is as usual.
    assert passed(traded, 61, 8, {})["a"] == pytest.approx(passed(traded, 61, 8, {}, a=8)["a"])


def test_a_store_that_says_it_is_complete_is_believed(traded: Shard) -> None:
    silent, said = passed(traded, 61, 17, {}), passed(traded, 61, 17, {}, a=17)
    assert said["a"] > 0.7 > 0.1 > silent["a"]
    assert said["b"] == silent["b"]


def test_nothing_has_passed_of_a_bucket_to_come_and_all_of_one_that_is_over(traded: Shard) -> None:
    assert set(passed(traded, 62, -3, {}).values()) == {0.0}
    over = passed(traded, 61, 26, {"a": line(23), "b": line(23)})
    assert over == pytest.approx({"a": 1.0, "b": 1.0})


# -- what remains --------------------------------------------------------------------------


@given(st.lists(st.tuples(UNITS, UNITS, st.floats(0, 1)), min_size=1, max_size=20))
def test_what_remains_is_never_negative_and_nothing_once_all_has_passed(
    series: list[tuple[float, float, float]],
) -> None:
    mean, sold, share = np.array(series).T
    profiles = OpenBucket(Calendar(chosen()))
    profiles.moments[:, :] = [30.0, 60.0, 10.0, 15.0, 30.0]
    remains, narrowing = profiles.remaining(mean, sold, share)
    assert (remains >= 0).all() and np.isfinite(remains).all()
    assert (narrowing > 0).all()
    assert (profiles.remaining(mean, sold, np.ones_like(mean))[0] == 0).all()
    nothing = profiles.remaining(mean, np.zeros_like(mean), np.zeros_like(mean))
    assert nothing[0].tolist() == mean.tolist() and (nothing[1] == 1).all()


@given(UNITS, st.floats(0.01, 0.99), st.lists(UNITS, min_size=2, max_size=9))
def test_selling_more_never_leaves_less_to_come(
    mean: float, share: float, sold: list[float]
) -> None:
    profiles = OpenBucket(Calendar(chosen()))
    profiles.moments[:, :] = [30.0, 60.0, 10.0, 15.0, 30.0]
    ordered = np.sort(np.array(sold))
    remains, _ = profiles.remaining(np.full(len(sold), mean), ordered, np.full(len(sold), share))
    assert (np.diff(remains) >= -1e-9 * (1 + mean)).all()


def test_where_scatter_is_a_counts_it_is_the_gamma_poisson_posterior() -> None:
    mean, shape, share = 20.0, 5.0, 0.4
    profiles = OpenBucket(Calendar(chosen()))
    n = 1e12  # so much has been seen that no prior is left
    rate = mean / shape
    profiles.moments[:] = n * np.array(
        [rate * share * (1 - share), share + rate * share**2, share * (1 - share), share**2, share]
    )
    for sold in (0.0, 6.0, 8.0, 13.0):
        (remains,), _ = profiles.remaining(np.array([mean]), np.array([sold]), np.array([share]))
        posterior = (shape + sold) / (shape / mean + share)
        assert remains == pytest.approx((1 - share) * posterior, rel=1e-6)


def test_a_wholesale_purchase_is_not_taken_for_a_rate() -> None:
    profiles = OpenBucket(Calendar(chosen()))
    profiles.moments[:, :] = [30.0, 60.0, 10.0, 15.0, 30.0]
    mean, share = np.full(2, 5.0), np.full(2, 0.5)
    (usual, huge), _ = profiles.remaining(mean, np.array([15.0, 5_000.0]), share)
    assert huge < 3 * usual


def test_what_surprises_mean_is_learned_where_rates_differ_and_only_there() -> None:
    drawn = np.random.default_rng(8)
    calendar = Calendar(chosen())
    steady, moving = OpenBucket(calendar), OpenBucket(calendar)
    mean, share, shape = np.full(400, 40.0), np.full(400, 0.45), 4.0
    for _ in range(150):
        for profiles, rate in ((steady, mean), (moving, drawn.gamma(shape, mean / shape))):
            early, rest = drawn.poisson(share * rate), drawn.poisson((1 - share) * rate)
            profiles.learn_moments(mean, early.astype(float), (early + rest).astype(float), share)
    klass = int(np.rint(intervals.volume_class(mean))[0])
    rate, scatter = steady.credit()[klass]
    assert rate < 0.3 and scatter == pytest.approx(1.0, abs=0.1)
    rate, scatter = moving.credit()[klass]
    assert rate == pytest.approx(40 / shape, rel=0.15)
    assert scatter == pytest.approx(1.0, abs=0.6)


def test_moments_are_those_of_the_shards_own_forecasts() -> None:
    days = 50
    sales = trading(days)
    one = Told(Shard(chosen(challengers=("seasonal_naive",)), 0))
    forecasts: dict[int, dict[tuple[str, str], float]] = {}
    shares: dict[int, dict[str, float]] = {}
    shard = one.shard
    plain = np.zeros((intervals.CLASSES, open_bucket.MOMENTS))

    def after(bucket: int) -> None:
        """Work out the moments of a close as it comes: in loops, from facts and forecasts."""
        said, split = forecasts.get(bucket), shares.get(bucket)
        if said is not None and split is not None:
            sums: dict[int, Any] = defaultdict(lambda: np.zeros(open_bucket.MOMENTS))
            for key, mean in said.items():
                units = float(shard.panel.units(bucket)[shard.panel.rows[key]])
                if not mean > 0 or np.isnan(units):
                    continue
                day = bucket - shard.calendar.index(time_us(START))
                early = sum(
                    s.quantity for s in sales
                    if (s.store, s.product) == key and (s.time - START).days == day
                    and (s.time - START).seconds < 16 * 3600
                )  # fmt: skip
                share = split[key[0]]
                klass = round(float(intervals.volume_class(np.array([mean]))[0]))
                first, rest = early - share * mean, units - early - (1 - share) * mean
                sums[klass] += [
                    first * rest / (mean + 0.25), first**2 / (mean + 0.25), share * (1 - share),
                    share**2, share,
                ]  # fmt: skip
            for klass, found in sums.items():
                plain[klass] = 0.98 * plain[klass] + found
        means = shard.predict("ensemble", 1)
        forecasts[bucket + 1] = {key: float(means[row]) for key, row in shard.panel.rows.items()}
        ahead = shard.open_bucket.shares(bucket + 1, len(shard.panel.stores.texts))[:, 16]
        shares[bucket + 1] = dict(zip(shard.panel.stores.texts, ahead.tolist(), strict=True))

    one.tell(*sales, tick(days), after_close=after)
    assert plain.any()
    np.testing.assert_allclose(shard.open_bucket.moments, plain, rtol=1e-4, atol=1e-6)


# -- in the fold ---------------------------------------------------------------------------


def test_before_anything_of_a_bucket_has_passed_the_forecast_is_the_old_one() -> None:
    one = told(*trading(40), tick(40))
    part = one.shard.open_part()
    assert part.passed[0].tolist() == [0.0] * one.shard.panel.size
    assert part.remains[0].tobytes() == one.shard.forecast()[0].tobytes()
    factor = one.shard.traits("ensemble").factor.astype(np.float32)
    assert part.open_factor[0].tobytes() == factor.tobytes()


def test_as_the_day_goes_on_what_remains_goes_to_nothing() -> None:
    one = told(*trading(41)[:-1], tick(40))
    after = [event for event in trading(41) if event.time >= START + timedelta(days=40)]
    one = told(*trading(40), tick(40))
    remains = [one.shard.open_part().remains[0].sum()]
    for event in after:
        one.tell(event)
        part = one.shard.open_part()
        assert (part.remains >= 0).all() and (part.sold >= 0).all()
        remains.append(part.remains[0].sum())
    one.tell(complete(40, "a", hour=23.99), complete(40, "b", hour=23.99))
    assert one.shard.open_part().remains[0].sum() < 0.01 * remains[0]
    falls = sum(b <= a + 1e-6 for a, b in itertools.pairwise(remains))
    assert falls > 0.5 * len(remains)


def test_it_says_the_day_better_than_the_forecast_and_than_what_is_sold() -> None:
    """At 17 hours of each of 40 days: error of the total, against both simpler answers."""
    one = told(*trading(60), tick(60))
    errors = np.zeros(3)
    for n in range(60, 100):
        today = trading(1, first=n, seed=n)
        until = START + timedelta(days=n, hours=17)
        one.tell(*(s for s in today if s.time < until), tick(n, hour=17))
        part, before = one.shard.open_part(), one.shard.forecast()[0]
        truth = np.zeros(one.shard.panel.size)
        for s in today:
            truth[one.shard.panel.rows[s.store, s.product]] += s.quantity
        said = (before, np.maximum(before, part.sold[0]), part.sold[0] + part.remains[0])
        errors += [float(((mean - truth) ** 2).sum()) for mean in said]
        one.tell(*(s for s in today if s.time >= until), tick(n + 1))
    assert errors[2] < 0.65 * errors[0] and errors[2] < 0.8 * errors[1]


def test_returns_count_against_net_demand() -> None:
    back = sale(1, -1, id="back", hour=11)
    for target, left in (("gross", 4.0), ("net", 3.0)):
        one = told(sale(0, 3), sale(1, 4, hour=10), back, target=target)
        assert one.shard.open_part().sold[0].tolist() == [left]


def test_a_rollback_takes_back_what_surprises_mean_and_leaves_the_profile() -> None:
    shard = told(*trading(30), tick(30)).shard
    before = OpenBucket(shard.calendar)
    profiles = shard.open_bucket
    common, own, active = profiles.common.copy(), profiles.own.copy(), profiles.active.copy()
    assert profiles.moments.any()
    profiles.return_to(before)
    assert not profiles.moments.any()
    for kept, was in ((profiles.common, common), (profiles.own, own), (profiles.active, active)):
        assert kept.tobytes() == was.tobytes()
