"""What categories share: profiles as they were known, the course of the year, answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from learner.features import BASE, columns, features
from learner.holidays import Holidays
from learner.levels import levels
from learner.profiles import Profiles
from learner.shard import Shard
from stream.buckets import Calendar
from stream.errors import SettingsError
from stream.event import Product, time_us
from tests.learner_parts import Told, chosen, day, plan, sale, tick, told

DAYS = Calendar(chosen())


def profiles(ring: int = 85, covariates: int = 0) -> Profiles:
    return Profiles(DAYS, ring, covariates)


def fed(weeks: int, units: list[float]) -> Profiles:
    """Weeks of daily demand of one category, its level by the week of the year."""
    one = profiles()
    monday = DAYS.index(time_us(day(0)))
    monday -= monday % 7
    for n in range(7 * weeks):
        units_now = np.array([units[n // 7 % 52]])
        one.learn_week(monday + n, units_now, np.zeros(1, np.intp))
    return one


def monday_of(one: Profiles, weeks_ahead: int = 0) -> int:
    assert one.week is not None
    return 7 * (one.week + weeks_ahead)


# -- the season ----------------------------------------------------------------------------------


def test_a_profile_is_looked_back_on_as_it_was_known() -> None:
    one = told(*(sale(n, 9 if n % 7 == 5 else 3) for n in range(60)), tick(60))
    panel, origin = one.shard.panel, one.bucket(59)
    before = panel.profiles.phase(origin, origin + 1).copy()
    one.tell(*(sale(n, 3) for n in range(60, 80)), tick(80))
    assert panel.profiles.phase(origin, origin + 1).tolist() == before.tolist()
    now = one.bucket(79)
    saturday = next(b for b in range(now + 1, now + 8) if panel.calendar.phase(b) == 5)
    there = panel.profiles.phases[0, 5]
    assert panel.profiles.phase(now, saturday)[0] == pytest.approx(there)


def test_the_hour_after_the_clock_changed_has_the_profile_of_its_own_hour() -> None:
    hours = Calendar(chosen(bucket="hour", timezone="America/New_York"))
    one = Profiles(hours, 800, 0)
    spring = hours.index(time_us(day(70)))  # 11 March 2024: the clock changed on the 10th
    for bucket in range(spring - 400, spring + 1):
        one.phases[0, hours.phase(bucket)] = hours.phase(bucket)
        one.pass_by(bucket)
    for target in range(spring + 1, spring + 60):
        assert one.phase(spring, target)[0] == hours.phase(target)


# -- the year ------------------------------------------------------------------------------------


def test_before_a_year_is_over_it_has_no_course() -> None:
    one = fed(50, [10.0] * 52)
    assert one.year(monday_of(one), monday_of(one) + 14).tolist() == [1.0]


def test_last_years_course_is_the_target_week_against_the_level_then() -> None:
    units = [10.0] * 52
    units[11:14] = [30.0] * 3
    one = fed(60, units)  # its last week was the eighth of the second year
    origin = monday_of(one) + 6
    course = [float(one.year(origin, origin + 7 * ahead)[0]) for ahead in range(1, 10)]
    assert course[0] == pytest.approx(1.0, rel=0.05)
    assert course[4] == max(course) == pytest.approx(3.0, rel=0.15)
    assert course[8] == pytest.approx(1.0, rel=0.05)


def test_growth_of_the_whole_is_no_course_of_the_year() -> None:
    one = profiles()
    monday = 7 * 2800
    for n in range(7 * 60):
        one.learn_week(monday + n, np.array([10.0 if n < 364 else 40.0]), np.zeros(1, np.intp))
    origin = monday_of(one) + 6
    assert float(one.year(origin, origin + 14)[0]) == pytest.approx(1.0)


# -- holidays ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("country", "when", "is_one"),
    [("US", date(2017, 7, 4), True), ("DE", date(2017, 7, 4), False),
     ("DE-BY", date(2024, 1, 6), True), ("DE", date(2024, 1, 6), False),
     ("", date(2024, 1, 1), False)],
)  # fmt: skip
def test_holidays_are_those_of_the_country(country: str, when: date, is_one: bool) -> None:
    bucket = (when - date(1970, 1, 1)).days
    one = Holidays(country, DAYS)
    assert (one.of("holiday", bucket), one.of("holiday_eve", bucket - 1)) == (is_one, is_one)


def test_an_hour_is_as_much_a_holiday_as_its_day_and_a_week_has_several() -> None:
    hours, weeks = Calendar(chosen(bucket="hour")), Calendar(chosen(bucket="week"))
    new_year = time_us(day(0))
    assert Holidays("US", hours).of("holiday", hours.index(new_year)) == 1
    christmas = weeks.index(time_us(day(359)))  # 25 and 26 December 2024
    assert Holidays("DE", weeks).of("holiday", christmas) == 2


@pytest.mark.parametrize("country", ["XX", "DE-XX", "germany"])
def test_a_country_nobody_knows_is_refused(country: str) -> None:
    with pytest.raises(SettingsError, match="holidays") as caught:
        Holidays(country, DAYS)
    assert "DE-BY" in str(caught.value.remedy)


def test_a_holiday_that_doubles_demand_is_expected_next_time() -> None:
    settings = chosen(holidays="US", champion="bayes", challengers=(), twin_seasons=0)
    plain, warned = (
        Told(Shard(replace(settings, holidays=""), 0)),
        Told(Shard(settings, 0)),
    )
    holidays = Holidays("US", DAYS)
    drawn = np.random.default_rng(3)
    sales = []
    for n in range(365):
        often = 2.5 if holidays.of("holiday", DAYS.index(time_us(day(n)))) else 1.0
        sales += [sale(n, float(drawn.poisson(40 * often)), product=f"p{p}") for p in range(6)]
    for one in (plain, warned):
        one.tell(*sales, tick(365))
    ahead = next(h for h in range(1, 29)
                 if holidays.of("holiday", one.bucket(364) + h))  # New Year's Day 2025  # fmt: skip
    usual = plain.shard.forecast()[ahead - 1].mean()
    assert warned.shard.forecast()[ahead - 1].mean() > 1.5 * usual


# -- covariates ----------------------------------------------------------------------------------


def rainy(days: int) -> Told:
    """Umbrellas sell twice as much on days of rain, ice half as much; bread does not care."""
    one = told(covariates=("rain",), champion="bayes", challengers=())
    drawn = np.random.default_rng(9)
    for name in ("umbrella", "ice", "bread"):
        one.tell(Product(id=name, source="hq", time=day(0, 0), product=name, category=name))
    for n in range(days + 8):
        said = max(n - 8, 0)
        rain = 8.0 * (n * 5 % 7 in (0, 3))
        one.tell(plan(f"rain {n}", n, n + 1, said=said, store="s", covariates={"rain": rain}),
                 append=day(said, 0))  # fmt: skip
    for n in range(days):
        wet = n * 5 % 7 in (0, 3)
        for name, often in (("umbrella", 2.0), ("ice", 0.5), ("bread", 1.0)):
            one.tell(sale(n, float(drawn.poisson(30 * (often if wet else 1.0))), product=name))
    one.tell(tick(days))
    return one


def test_each_category_answers_to_a_covariate_in_its_own_way() -> None:
    one = rainy(150)
    panel = one.shard.panel
    answer = dict(zip(panel.categories.texts, panel.profiles.answer(0).tolist(), strict=False))
    assert answer["umbrella"] > 0.1 > abs(answer["bread"]) and answer["ice"] < -0.05


def test_a_covariate_that_is_known_ahead_is_in_the_forecast() -> None:
    one = rainy(150)
    forecast, panel = one.shard.forecast(), one.shard.panel
    wet = [n for n in range(7) if (150 + n) * 5 % 7 in (0, 3)]
    dry = [n for n in range(7) if n not in wet]
    ratio = {}
    for name in ("umbrella", "ice", "bread"):
        units = forecast[:, panel.rows["s", name]]
        ratio[name] = units[wet].mean() / units[dry].mean()
    assert ratio["umbrella"] > 1.5 and ratio["ice"] < 0.75
    assert ratio["bread"] == pytest.approx(1.0, abs=0.15)


def test_what_is_not_known_of_a_covariate_counts_as_usual() -> None:
    one = rainy(60)
    names = columns(one.shard.settings)
    batch = features(one.shard.panel, one.bucket(59), 28)
    assert batch.X[:, names.index("x:rain")].tolist() == [0, 0, 0]
    assert names[len(BASE)] == "x:rain"


def test_a_covariate_of_any_size_is_told_in_its_own_deviations() -> None:
    one = profiles(covariates=1)
    for value in (290.0, 295.0, 285.0, 300.0, 280.0):
        one.learn_score(0, np.full(3, value))
    score = one.score(0, np.array([290.0, 310.0, np.nan, 1e9]))
    assert abs(score[0]) < 0.5 and 1 < score[1] <= 4 and score[2] == 0 and score[3] == 4


@pytest.mark.parametrize("outlier", [1e9, -1e200])
@pytest.mark.parametrize("usual", [0.0, 290.0])
def test_one_value_far_out_does_not_hide_what_a_covariate_says(
    outlier: float, usual: float
) -> None:
    """Whether it varied before or not, some weeks later it is measured as if nothing had been."""
    scores = []
    for odd in (usual, outlier):
        one = profiles(covariates=1)
        for n in range(300):
            said = usual + (n % 7 - 3) * (usual > 0)
            one.learn_score(0, np.full(3, odd if n == 60 else said))
        for n in range(100):
            one.learn_score(0, np.full(3, usual + n % 2))
        scores.append(one.score(0, np.array([usual, usual + 1])))
    assert np.abs(np.diff(scores[1])) > 0.5 * np.abs(np.diff(scores[0]))


def test_a_covariate_that_starts_to_vary_late_is_measured_as_it_varies() -> None:
    one = profiles(covariates=1)
    for n in range(400):
        one.learn_score(0, np.full(3, 50_000.0 * (n > 100 and n % 3 == 0)))
    low, high = one.score(0, np.array([0.0, 50_000.0]))
    assert 1.0 < high < 3.0 and -1.5 < low < -0.3


def promoted(days: int) -> Told:
    """Every fifth day the price of both is cut by a third: snacks sell threefold, salt as ever."""
    one = told(champion="bayes", challengers=())
    drawn = np.random.default_rng(4)
    for name in ("snacks", "salt"):
        one.tell(Product(id=name, source="hq", time=day(0, 0), product=name, category=name))
    for n in range(0, days + 10, 5):
        for name in ("snacks", "salt"):
            offer = plan(f"{name} {n}", n, n + 1, product=name, promotion=1, price=2.0)
            one.tell(offer, append=day(0, 0))
    for n in range(days):
        cut = n % 5 == 0
        for name, often in (("snacks", 3.0), ("salt", 1.0)):
            units = float(drawn.poisson(30 * (often if cut else 1.0)))
            one.tell(sale(n, units, product=name, price=2.0 if cut else 3.0))
    one.tell(tick(days))
    return one


def test_each_category_answers_to_a_promotion_in_its_own_way() -> None:
    one = promoted(120)
    forecast, panel = one.shard.forecast(), one.shard.panel
    cut = [n for n in range(10) if (120 + n) % 5 == 0]
    other = [n for n in range(10) if n not in cut]
    ratio = {}
    for name in ("snacks", "salt"):
        units = forecast[:10, panel.rows["s", name]]
        ratio[name] = units[cut].mean() / units[other].mean()
    assert ratio["snacks"] > 2.2 and ratio["salt"] == pytest.approx(1.0, abs=0.3)


def test_a_plain_level_is_as_if_offers_had_been_the_usual_ones() -> None:
    one = promoted(121)  # two days of the last seven were cheap; usually one in five is
    panel = one.shard.panel
    now, row = levels(panel, one.bucket(120)), panel.rows["s", "snacks"]
    usual = 30 * (1 + 2 / 5)
    assert now.recent[row] > 1.1 * usual
    assert now.plain[row] == pytest.approx(usual, rel=0.05)
    salt = panel.rows["s", "salt"]
    assert now.plain[salt] == pytest.approx(now.recent[salt], rel=0.05)
