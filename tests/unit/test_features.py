"""Features: what a model is told about a forecast, and that it is told nothing of the future."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from learner.features import MAX_RATIO, NAMES, Batch, features, size
from learner.levels import MIN_SCALE, levels
from learner.panel import Panel
from learner.shard import Shard
from stream.buckets import Calendar
from stream.event import Sale, time_us
from tests.learner_parts import Told, chosen, complete, day, market, plan, sale, tick, told


def arrays(batch: Batch) -> dict[str, Any]:
    return {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "ahead"}


def assert_sound(batch: Batch, size: int) -> None:
    """Finite, of the right shapes, bounded."""
    assert batch.X.shape == (size, len(NAMES)) and batch.X.dtype == np.float64
    for name, array in arrays(batch).items():
        assert len(array) == size, name
        assert np.isfinite(array).all(), name
    assert (np.abs(batch.X) <= MAX_RATIO).all()
    assert (batch.scale >= MIN_SCALE).all()
    assert (batch.naive >= 0).all() and (batch.level_phase >= 0).all()


def test_names_are_distinct_and_the_horizons_own_come_last() -> None:
    assert len(set(NAMES)) == len(NAMES)
    ahead = [name.endswith(":h") for name in NAMES]
    assert ahead == sorted(ahead) and "one:h" in NAMES


def test_features_have_a_row_a_series_and_a_column_a_name() -> None:
    one = told(*market(40), tick(40))
    for horizon in (1, 7, 28):
        assert_sound(features(one.shard.panel, one.bucket(39), horizon), 3)


def test_a_features_effect_bends_with_the_horizon_and_fades_with_it() -> None:
    one = told(*market(40), tick(40))
    batch = features(one.shard.panel, one.bucket(39), 7)

    def column(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return batch.X[:, NAMES.index(name)]

    for name in ("one", "promotion"):
        assert column(f"{name}:h").tolist() == (column(name) * 7 / 28).tolist()
    for name in ("last", "group_recent"):
        assert column(f"{name}:1").tolist() == (column(name) / 7).tolist()
    sized = column("last") * batch.scale / (batch.scale + 8) / 7
    assert column("last:size") == pytest.approx(sized)
    assert (np.diff(size(np.array([0.02, 1.0, 8.0, 1e6]))) > 0).all()


@pytest.mark.parametrize("slab", [1, 7, 1000])
def test_levels_do_not_depend_on_how_many_buckets_are_looked_at_together(
    slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = told(*market(40), tick(40))
    before = levels(one.shard.panel, one.bucket(39))
    monkeypatch.setattr("learner.levels.SLAB", slab)
    for was, now in zip(before, levels(one.shard.panel, one.bucket(39)), strict=True):
        assert np.array_equal(was, now, equal_nan=True)


@pytest.mark.parametrize("quantity", [0.0, 1e-6, 1e6])
def test_features_of_nothing_next_to_nothing_and_very_much_are_finite(quantity: float) -> None:
    one = told(*(sale(n, quantity, price=1.0) for n in range(40)), tick(40))
    assert_sound(features(one.shard.panel, one.bucket(39), 1), 1)


def test_features_of_the_first_day_are_finite() -> None:
    one = told(sale(0, 3), tick(1))
    assert_sound(features(one.shard.panel, one.bucket(0), 28), 1)


def test_features_after_a_long_silence_are_finite() -> None:
    one = told(*market(30), tick(300))
    assert_sound(features(one.shard.panel, one.bucket(299), 1), 3)


def test_features_under_absurd_plans_are_bounded() -> None:
    one = told(*(sale(n, 2, price=1000.0) for n in range(30)),
               plan("free", 30, 32, product="p", store="s", price=0.0),
               plan("dear", 32, 34, product="p", store="s", price=1e6))  # fmt: skip
    one.tell(tick(31))
    for horizon in (1, 2, 3):
        assert_sound(features(one.shard.panel, one.bucket(30), horizon), 1)


def test_a_forecast_leaves_the_panel_unchanged() -> None:
    one = told(*market(40), plan("x", 38, 50, promotion=0.5), tick(40))
    before = one.shard.digest()
    features(one.shard.panel, one.bucket(39), 3)
    assert one.shard.digest() == before


@pytest.mark.parametrize(("seed", "after"), [(1, 1), (2, 5), (3, 14)])
def test_features_of_an_origin_do_not_look_at_demand_after_it(seed: int, after: int) -> None:
    """Levels, seasons, naive forecasts, profiles and plans: all but usual prices."""
    past = market(40)
    one, other = told(*past), told(*past)
    one.tell(*market(after, seed=seed, first=40), tick(40 + after))
    other.tell(*market(after, seed=seed + 1, first=40), tick(40 + after))
    if seed % 2:
        other.tell(plan("late", 40, 60, said=40 + after, promotion=1.0))
    for panel in (one.shard.panel, other.shard.panel):
        panel.column("usual_price")[:] = 1.0
    origin = one.bucket(39)
    for horizon in (1, after):
        a, b = (features(x.shard.panel, origin, horizon) for x in (one, other))
        for name, array in arrays(a).items():
            assert array.tolist() == arrays(b)[name].tolist(), name


def learned(last: float) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """What models are told when a last day closes that sold so much at a high price."""
    heard: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []

    class Listening:
        def predict(self, batch: Batch) -> np.ndarray[Any, Any]:
            return batch.level_phase

        def learn(self, batches: Sequence[tuple[Batch, np.ndarray[Any, Any]]]) -> None:
            heard.extend((batch.X.copy(), demand.copy()) for batch, demand in batches)

        def digest(self) -> list[np.ndarray[Any, Any]]:
            return []

    one = told(*market(40), plan("x", 41, 42, said=39, product="p0", store="s", price=1.0))
    one.tell(tick(40))
    one.shard.models["ensemble"] = Listening()
    one.tell(*(sale(40, last, product=f"p{n}", price=last) for n in range(3)), tick(41))
    return heard


def test_what_is_learned_of_a_bucket_is_described_without_that_bucket() -> None:
    low, high = learned(1.0), learned(500.0)
    assert len(low) == len(high) == 4
    for (told_low, demand_low), (told_high, demand_high) in zip(low, high, strict=True):
        assert demand_low.tolist() != demand_high.tolist()
        assert told_low.tolist() == told_high.tolist()


def test_a_series_is_known_from_the_bucket_that_listed_it() -> None:
    one = told(sale(0, product="old"), sale(5, product="new"), tick(6))
    panel: Panel = one.shard.panel
    assert features(panel, one.bucket(4), 1).known.tolist() == [True, False]
    assert features(panel, one.bucket(5), 1).known.tolist() == [True, True]


def test_the_naive_forecast_is_the_last_of_the_same_weekday_that_was_observed() -> None:
    events = [sale(n, n + 1) for n in range(21) if n != 15]
    one = told(*events, tick(21))
    origin = one.bucket(20)
    naive = [float(features(one.shard.panel, origin, h).naive[0]) for h in (1, 2, 3, 8, 9)]
    assert naive == [15, 9, 17, 15, 9]  # the day 15 was silent: two weeks back


def test_a_planned_price_is_told_against_the_usual_one() -> None:
    one = told(*(sale(n, 2, price=4.0) for n in range(30)))
    one.tell(plan("x", 31, 32, said=29, product="p", store="s", price=2.0), complete(30))
    one.tell(sale(30, 2, price=4.0), tick(31))
    panel, at = one.shard.panel, NAMES.index("price")
    said = features(panel, one.bucket(30), 1).X[0]
    assert said[at] == pytest.approx(np.log(0.5))
    assert said[NAMES.index("price_known")] == 1
    unsaid = features(panel, one.bucket(30), 2).X[0]
    assert unsaid[at] == unsaid[NAMES.index("price_known")] == 0


def test_a_planned_closure_is_said_for_the_bucket_it_is_about() -> None:
    one = told(*market(10), plan("x", 12, 13, said=9, store="s", closed=True), tick(11))
    closed = [features(one.shard.panel, one.bucket(10), h).closed.all() for h in (1, 2, 3)]
    assert closed == [False, True, False]


def test_a_new_series_is_expected_to_sell_like_its_kind() -> None:
    one = told(*(sale(n, 20, product=f"p{p}") for n in range(40) for p in range(5)))
    one.tell(sale(40, 1, product="new"), *(sale(40, 20, product=f"p{p}") for p in range(5)))
    one.tell(tick(41))
    panel = one.shard.panel
    row = panel.rows["s", "new"]
    level = features(panel, one.bucket(40), 1).scale[row]
    assert 1 < level < 20


def test_hours_and_weeks_have_sound_features_too() -> None:
    hours = Told(Shard(chosen(bucket="hour"), 0))
    hours.tell(*(sale(n, 2, hour=h) for n in range(9) for h in (9, 15)), tick(9))
    assert_sound(features(hours.shard.panel, hours.shard.panel.last or 0, 72), 1)
    weeks = told(*(sale(n, 2) for n in range(0, 200, 3)), tick(210), bucket="week")
    assert_sound(features(weeks.shard.panel, weeks.shard.panel.last or 0, 26), 1)
    assert weeks.shard.panel.last == weeks.shard.calendar.index(time_us(day(209)))


def test_a_plan_is_in_the_forecast_from_the_moment_it_is_known() -> None:
    """It came after the last close: served at once, learned from only at the closes after it."""
    one = told(*(sale(n, hour=9) for n in range(12)))
    before = one.shard.forecast().copy()
    last = one.shard.panel.last
    assert last is not None
    one.tell(plan("shut", 12, 15, said=11, closed=True))
    after = one.shard.forecast()
    away = [
        day(12, 0) <= one.shard.calendar.start(last + h) < day(15, 0)
        for h in range(1, len(after) + 1)
    ]
    assert sum(away) == 3
    assert (after[away] == 0).all() and (before[away] > 0).all()
    open_days = [not shut for shut in away]
    assert (after[open_days] == before[open_days]).all()


@pytest.mark.parametrize("turn", [datetime(2024, 3, 31, 1), datetime(2024, 10, 27, 1)], ids=str)
def test_hours_are_held_against_the_same_hour_of_the_wall_clock(turn: datetime) -> None:
    """Sold by the local hour of the week, for a week and a half around a change of clocks."""
    zone, first = ZoneInfo("Europe/Berlin"), turn.replace(tzinfo=UTC) - timedelta(days=7, hours=6)

    def sold(hour: int) -> float:
        local = (first + timedelta(hours=hour)).astimezone(zone)
        return float(1 + (24 * local.weekday() + local.hour) % 31)

    one = Told(Shard(chosen(bucket="hour", timezone=zone.key, champion="seasonal_naive",
                            challengers=()), 0))  # fmt: skip
    hours = 7 * 24 + 42
    one.tell(*(
        Sale(id=str(n), source="till", time=first + timedelta(hours=n), store="s", product="p",
             quantity=sold(n))
        for n in range(hours)
    ))  # fmt: skip
    panel = one.shard.panel
    origin, unlike = panel.last, 0
    assert origin is not None
    for horizon in range(1, 72):
        found, hour = features(panel, origin, horizon), origin + horizon
        expected = sold(hours - 2 + horizon)
        assert found.naive.tolist() == [expected]
        assert found.X[0, NAMES.index("same_phase")] * found.scale[0] == pytest.approx(expected)
        unlike += float(panel.units(hour - 168)[0]) != expected
    assert unlike > 60, "a week of hours ago it was another hour"
    # The scale of its errors knows of none, but where an hour came twice.
    assert panel.column("error_sum")[0] == 0 and panel.column("error_n")[0] > 30


def test_a_late_hour_is_not_looked_at_before_it_is_over() -> None:
    """A week ahead of an origin just before the change, the same hour is the one to come."""
    hours = Calendar(chosen(bucket="hour", timezone="Europe/Berlin"))
    origin = hours.index(time_us(datetime(2024, 3, 30, 12, tzinfo=UTC)))
    assert hours.phase(origin + 1) == hours.phase(origin + 168)
    assert hours.alike(origin + 168, origin, 2) == [origin + 1 - 168]
