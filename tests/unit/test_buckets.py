"""Buckets: which one a moment is in, where it starts, and what daylight saving does to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.buckets import Calendar
from stream.event import FIRST_US, LAST_US, time_us
from stream.settings import Settings

HOUR_US = 3_600_000_000
ZONES = (
    "UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu",
    "America/Sao_Paulo", "America/St_Johns", "Australia/Lord_Howe", "Australia/Adelaide",
    "Pacific/Apia", "Asia/Gaza", "Africa/Cairo", "Pacific/Chatham", "America/Havana",
)  # fmt: skip
calendars = st.builds(
    lambda zone, bucket, minutes, week: Calendar(
        Settings(
            timezone=zone,
            bucket=bucket,
            day_start=f"{minutes // 60:02}:{minutes % 60:02}",
            week_start=week,
        )
    ),
    st.sampled_from(ZONES),
    st.sampled_from(["hour", "day", "week"]),
    st.sampled_from([0, 15, 60, 120, 150, 165, 240, 1425]),
    st.sampled_from(["monday", "saturday", "sunday"]),
)
moments = st.integers(FIRST_US, LAST_US)


def calendar(zone: str, bucket: str, **others: Any) -> Calendar:
    return Calendar(Settings(timezone=zone, bucket=bucket, **others))  # type: ignore[arg-type]


def local(zone: str, *when: int, fold: int = 0) -> int:
    """µs since 1970 UTC of a local wall clock."""
    return time_us(datetime(*when, tzinfo=ZoneInfo(zone), fold=fold))  # type: ignore[arg-type, misc]


def hours(calendar: Calendar, moment: int) -> float:
    start, end = calendar.span(calendar.index(moment))
    return (end - start) / HOUR_US


@given(calendars, moments)
def test_the_span_of_a_moments_bucket_holds_the_moment(calendar: Calendar, moment: int) -> None:
    start, end = calendar.span(calendar.index(moment))
    assert start <= moment < end


@given(calendars, moments, st.integers(1, 500))
def test_spans_tile_time_without_gap_or_overlap(
    calendar: Calendar, moment: int, buckets: int
) -> None:
    index = calendar.index(moment)
    assert calendar.span(index)[1] == calendar.span(index + 1)[0]
    start, end = calendar.span(index + buckets)
    assert start <= end
    if start < end:  # a day that a zone left out has no moment
        assert calendar.index(start) == index + buckets
        assert calendar.index(end - 1) == index + buckets


@given(calendars, moments, st.integers(0, 40 * 24 * HOUR_US))
def test_a_later_moment_is_never_in_an_earlier_bucket(
    calendar: Calendar, moment: int, later: int
) -> None:
    assert calendar.index(moment) <= calendar.index(moment + later)


@given(calendars, st.lists(moments, max_size=8))
def test_what_was_asked_before_does_not_change_an_answer(
    calendar: Calendar, asked: list[int]
) -> None:
    for moment in asked:
        calendar.index(moment)
        fresh = calendar._index(moment)
        assert calendar.index(moment) == fresh


@pytest.mark.parametrize(
    ("when", "length"), [((2024, 3, 10, 12), 23), ((2024, 11, 3, 12), 25), ((2024, 6, 1, 12), 24)]
)
def test_a_day_of_clock_change_has_23_or_25_hours(when: tuple[int, ...], length: int) -> None:
    zone = "America/New_York"
    days, by_hour = calendar(zone, "day"), calendar(zone, "hour")
    start, end = days.span(days.index(local(zone, *when)))
    assert (end - start) / HOUR_US == length
    assert by_hour.index(end) - by_hour.index(start) == length
    assert {by_hour.day_of(b) for b in range(by_hour.index(start), by_hour.index(end))} == {
        days.index(start)
    }


def test_a_half_hours_change_makes_a_day_of_23_and_a_half_hours() -> None:
    zone = "Australia/Lord_Howe"
    assert hours(calendar(zone, "day"), local(zone, 2024, 10, 6, 12)) == 23.5
    assert hours(calendar(zone, "day"), local(zone, 2024, 4, 7, 12)) == 24.5


def test_a_week_of_clock_change_is_an_hour_short_and_starts_on_its_day() -> None:
    zone = "Europe/Berlin"
    weeks = calendar(zone, "week", week_start="sunday")
    moment = local(zone, 2024, 4, 1, 12)
    start = weeks.start(weeks.index(moment))
    assert (start.strftime("%A %F %H:%M"), hours(weeks, moment)) == ("Sunday 2024-03-31 00:00", 167)
    monday = calendar(zone, "week")
    assert monday.start(monday.index(moment)).strftime("%A %F %H:%M") == "Monday 2024-04-01 00:00"


def test_hours_of_a_half_hour_zone_start_on_its_own_whole_hours() -> None:
    zone = "Asia/Kolkata"
    by_hour = calendar(zone, "hour")
    start = by_hour.start(by_hour.index(local(zone, 2024, 5, 1, 9, 59)))
    assert start.strftime("%F %H:%M %z") == "2024-05-01 09:00 +0530"
    assert hours(by_hour, local(zone, 2024, 5, 1, 9, 59)) == 1


def test_an_hour_that_comes_twice_is_two_buckets_of_one_phase() -> None:
    zone = "America/New_York"
    by_hour = calendar(zone, "hour")
    first = by_hour.index(local(zone, 2024, 11, 3, 1, 30))
    second = by_hour.index(local(zone, 2024, 11, 3, 1, 30, fold=1))
    assert second - first == 1
    assert by_hour.phase(first) == by_hour.phase(second) == 6 * 24 + 1


def test_where_midnight_is_skipped_the_day_starts_at_the_first_moment_there_is() -> None:
    zone = "America/Sao_Paulo"  # 4 November 2018, 00:00 → 01:00
    days = calendar(zone, "day")
    moment = local(zone, 2018, 11, 4, 12)
    assert days.start(days.index(moment)).strftime("%F %H:%M") == "2018-11-04 01:00"
    assert hours(days, moment) == 23
    assert days.index(local(zone, 2018, 11, 3, 23, 59)) == days.index(moment) - 1


def test_where_midnight_comes_twice_the_day_starts_at_the_change_back() -> None:
    zone = "America/Sao_Paulo"  # 18 February 2018, 00:00 → 23:00 of the day before
    days = calendar(zone, "day")
    assert hours(days, local(zone, 2018, 2, 17, 12)) == 25
    assert hours(days, local(zone, 2018, 2, 18, 12)) == 24


def test_a_business_day_runs_from_its_start_to_the_next() -> None:
    zone = "Europe/Berlin"
    days = calendar(zone, "day", day_start="04:00")
    night = days.index(local(zone, 2024, 5, 2, 3, 59))
    assert night == days.index(local(zone, 2024, 5, 1, 4))
    assert days.index(local(zone, 2024, 5, 2, 4)) == night + 1


def test_hours_belong_to_the_business_day_they_start_in() -> None:
    zone = "Europe/Berlin"
    by_hour = calendar(zone, "hour", day_start="04:00")
    days = calendar(zone, "day", day_start="04:00")
    for hour in (3, 4):
        moment = local(zone, 2024, 5, 2, hour)
        assert by_hour.day_of(by_hour.index(moment)) == days.index(moment)


def test_a_day_start_that_is_skipped_is_as_far_after_midnight_as_before_the_change() -> None:
    zone = "America/New_York"  # 02:30 does not exist on 10 March 2024
    days = calendar(zone, "day", day_start="02:30")
    index = days.index(local(zone, 2024, 3, 10, 12))
    assert days.start(index).strftime("%F %H:%M") == "2024-03-10 03:30"
    assert days.index(local(zone, 2024, 3, 10, 3, 15)) == index - 1
    assert days.span(index)[0] - days.span(index - 1)[0] == 24 * HOUR_US
    assert days.span(index + 1)[0] - days.span(index)[0] == 23 * HOUR_US


def test_a_day_start_that_comes_twice_counts_at_the_first() -> None:
    zone = "America/New_York"
    days = calendar(zone, "day", day_start="01:30")
    first, second = (local(zone, 2024, 11, 3, 1, 30, fold=fold) for fold in (0, 1))
    assert days.span(days.index(first))[0] == first
    assert days.index(second) == days.index(first)


def test_a_day_that_a_zone_left_out_is_empty_and_no_moment_is_in_it() -> None:
    zone = "Pacific/Apia"  # no 30 December 2011
    days = calendar(zone, "day")
    before = days.index(local(zone, 2011, 12, 29, 12))
    assert days.index(local(zone, 2011, 12, 31, 12)) == before + 2
    start, end = days.span(before + 1)
    assert start == end


def test_phases_name_the_weekday_and_the_hour_of_the_week() -> None:
    monday = datetime(2024, 5, 6, tzinfo=UTC)
    days, by_hour, weeks = (calendar("UTC", bucket) for bucket in ("day", "hour", "week"))
    for n in range(7):
        assert days.phase(days.index(time_us(monday + timedelta(days=n)))) == n
    for n in range(168):
        assert by_hour.phase(by_hour.index(time_us(monday + timedelta(hours=n)))) == n
    assert {weeks.phase(n) for n in range(60)} == {0}


# -- slots -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("bucket", "slots"), [("hour", 4), ("day", 24), ("week", 56)])
def test_slots_divide_a_bucket_evenly_and_in_order(bucket: str, slots: int) -> None:
    calendar = Calendar(Settings(timezone="Europe/Berlin", bucket=bucket))  # type: ignore[arg-type]
    start, end = calendar.span(calendar.index(time_us(datetime(2024, 6, 5, 13, tzinfo=UTC))))
    for slot in range(slots):
        at = start + slot * (end - start) // slots
        assert calendar.place(at) == (calendar.index(start), slot)
    assert calendar.place(start - 1)[1] == calendar.place(end - 1)[1] == slots - 1


@given(st.integers(time_us(datetime(2023, 1, 1, tzinfo=UTC)),
                   time_us(datetime(2025, 1, 1, tzinfo=UTC))))  # fmt: skip
def test_a_day_that_clocks_change_has_its_slots_too(moment: int) -> None:
    for zone in ("America/New_York", "Australia/Lord_Howe"):
        calendar = Calendar(Settings(timezone=zone, day_start="04:30"))
        index, slot = calendar.place(moment)
        assert index == calendar.index(moment) and 0 <= slot < 24
        start, end = calendar.span(index)
        # A slot starts on a quarter of an hour at the most after its share of the span.
        assert abs(slot - 24 * (moment - start) / (end - start)) <= 1 + 24 * 900e6 / (end - start)


# -- alike -----------------------------------------------------------------------------------


@given(calendars, moments, st.integers(0, 500), st.integers(1, 8))
def test_alike_is_the_same_place_of_each_season_as_far_as_it_is_known(
    calendar: Calendar, moment: int, ahead: int, count: int
) -> None:
    origin = calendar.index(moment)
    found = calendar.alike(origin + ahead, origin, count)
    assert found == sorted(set(found), reverse=True)
    assert all(one <= origin for one in found)
    assert {calendar.phase(one) for one in found} <= {calendar.phase(origin + ahead)}
    if calendar.bucket != "hour":
        newest = origin + ahead - calendar.season * -(-ahead // calendar.season)
        assert found == [newest - n * calendar.season for n in range(count)]


def test_an_hour_that_was_skipped_is_like_none_and_one_that_came_twice_like_both() -> None:
    hours = calendar("Europe/Berlin", "hour")
    spring = hours.index(local("Europe/Berlin", 2024, 4, 7, 2))
    assert [spring - one for one in hours.alike(spring, spring - 1, 2)] == [335]
    autumn = hours.index(local("Europe/Berlin", 2024, 10, 27, 2))
    for one, after in ((autumn, 168), (autumn + 1, 169)):
        assert hours.alike(one, one - 1, 1) == [one - after]
        assert hours.phase(one) == 6 * 24 + 2
