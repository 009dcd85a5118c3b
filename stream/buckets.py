"""Buckets of time in one zone: which bucket a moment is in, and where a bucket starts.

A bucket is a half-open span ``[start, end)`` with a whole number, its index; indices of
neighbours differ by one. Hours are absolute spans of 3,600 s on the zone's whole hours, so a
day of daylight-saving change has 23 or 25 of them; days and weeks start at ``day_start`` of
the local wall clock (one that is skipped: at the offset before the change; one that comes
twice: at the first).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from stream.settings import SEASON, Settings, day_start_minutes

_QUARTER_US = 900_000_000
_HOUR_US = 3_600_000_000
_EPOCH = date(1970, 1, 1).toordinal()
#: Slots of a bucket: an hour of a day, three of a week; no finer than a quarter of an hour.
SLOTS = {"hour": 4, "day": 24, "week": 56}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


class Calendar:
    """The deployment's buckets.

    Examples
    --------
    >>> days = Calendar(Settings(timezone="America/New_York"))
    >>> start, end = days.span(days.index(1_489_300_000_000_000))
    >>> (end - start) / 3_600_000_000  # 12 March 2017, when clocks went forward
    23.0
    """

    def __init__(self, settings: Settings) -> None:
        self.bucket = settings.bucket
        self.season = SEASON[settings.bucket]
        self.zone = ZoneInfo(settings.timezone)
        self._day_start = timedelta(minutes=day_start_minutes(settings))
        offset = datetime(2020, 1, 1, tzinfo=self.zone).utcoffset() or timedelta()
        self._align_us = round(-offset.total_seconds()) % 3600 * 1_000_000
        self._week_start = _WEEKDAYS.index(settings.week_start)
        self._index = {"hour": self._hour, "day": self.day, "week": self._week}[self.bucket]
        self.slots = SLOTS[settings.bucket]
        self._by_quarter: dict[int, tuple[int, int]] = {}
        self._day_us = lru_cache(maxsize=4096)(self._start_of_day)
        self.phase = lru_cache(maxsize=65536)(self._phase)
        self.span = lru_cache(maxsize=65536)(self._span)
        self.day_of = lru_cache(maxsize=65536)(self._day_of)

    def index(self, time_us: int) -> int:
        """Index of the bucket that a moment (µs since 1970 UTC) is in."""
        return self.place(time_us)[0]

    def place(self, time_us: int) -> tuple[int, int]:
        """Index of the bucket that a moment is in, and its slot in it, from 0.

        A quarter of an hour that slots divide counts for the one in which it starts.
        """
        quarter = time_us // _QUARTER_US
        found = self._by_quarter.get(quarter)
        if found is None:
            # Every bucket of a modern zone starts on a quarter of an hour.
            if len(self._by_quarter) > 200_000:
                self._by_quarter.clear()
            index = self._index(time_us)
            start, end = self.span(index)
            passed = max(quarter * _QUARTER_US - start, 0)
            found = self._by_quarter[quarter] = (index, passed * self.slots // (end - start))
        return found

    def _span(self, index: int) -> tuple[int, int]:
        """Start and end of a bucket, µs since 1970 UTC."""
        if self.bucket == "hour":
            start = index * _HOUR_US + self._align_us
            return start, start + _HOUR_US
        if self.bucket == "day":
            return self._day_us(index), self._day_us(index + 1)
        first = 7 * index - 3 + self._week_start
        return self._day_us(first), self._day_us(first + 7)

    def start(self, index: int) -> datetime:
        """Start of a bucket in the deployment's zone."""
        return datetime.fromtimestamp(self.span(index)[0] / 1e6, self.zone)

    def end(self, index: int) -> datetime:
        """End of a bucket in the deployment's zone."""
        return datetime.fromtimestamp(self.span(index)[1] / 1e6, self.zone)

    def _phase(self, index: int) -> int:
        """Place of a bucket in its season: hour of the week, weekday, or 0 for weeks."""
        if self.bucket == "hour":
            local = self.start(index)
            return local.weekday() * 24 + local.hour
        return (index + 3) % 7 if self.bucket == "day" else 0

    def alike(self, target: int, origin: int, count: int) -> list[int]:
        """Buckets up to ``origin`` at a target's place in its season, newest first.

        One of each of ``count`` seasons. Hours are alike by the wall clock, so that a season in
        which clocks change is an hour longer or shorter; one that lacks the hour, which clocks
        skipped or which is yet to come, is left out.

        Examples
        --------
        >>> hours = Calendar(Settings(bucket="hour", timezone="Europe/Berlin"))
        >>> monday = hours.index(1_711_951_200_000_000)  # 08:00, the day after clocks went forward
        >>> [monday - one for one in hours.alike(monday, monday - 1, 2)]
        [167, 335]
        """
        newest = target - self.season * -(-(target - origin) // self.season)
        seasons = range(newest, newest - count * self.season, -self.season)
        if self.bucket != "hour":
            return list(seasons)
        phase, found = self.phase(target), []
        for same in seasons:
            for one in (same, same - 1, same + 1):
                if one <= origin and self.phase(one) == phase:
                    found.append(one)
                    break
        return found

    def _day_of(self, index: int) -> int:
        """Business day that an hour is in; a day or a week is its own."""
        return self.day(self.span(index)[0]) if self.bucket == "hour" else index

    def dawn(self, index: int) -> int:
        """The first bucket of the business day that a bucket is in: of days and weeks itself."""
        return self._hour(self._day_us(self.day_of(index))) if self.bucket == "hour" else index

    def _hour(self, time_us: int) -> int:
        return (time_us - self._align_us) // _HOUR_US

    def day(self, time_us: int) -> int:
        """Index of the business day that a moment (µs since 1970 UTC) is in."""
        local = datetime.fromtimestamp(time_us / 1e6, UTC).astimezone(self.zone)
        day = (local.replace(tzinfo=None) - self._day_start).toordinal() - _EPOCH
        while time_us < self._day_us(day):
            day -= 1
        while time_us >= self._day_us(day + 1):
            day += 1
        return day

    def _week(self, time_us: int) -> int:
        return (self.day(time_us) + 3 - self._week_start) // 7

    def _start_of_day(self, day: int) -> int:
        midnight = datetime.combine(date.fromordinal(day + _EPOCH), datetime.min.time())
        local = (midnight + self._day_start).replace(tzinfo=self.zone)
        return round(local.timestamp()) * 1_000_000
