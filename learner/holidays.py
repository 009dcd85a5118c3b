"""Public holidays of a country as covariates of buckets.

Dates come from the package ``holidays``. A day counts as what it is; an hour as the business day
it is in, a week as how many of its days are holidays. Leaves out: what holidays do to demand.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import lru_cache

import holidays

from stream.buckets import Calendar
from stream.errors import SettingsError
from stream.settings import HOLIDAYS, Settings

_EPOCH = date(1970, 1, 1)


def covariates(settings: Settings) -> tuple[str, ...]:
    """Names of all covariates: the holidays' where a country is set, then the settings'."""
    return (*(HOLIDAYS if settings.holidays else ()), *settings.covariates)


class Holidays:
    """A country's public holidays, ``DE`` or ``DE-BY``; an empty name has none.

    Raises
    ------
    SettingsError
        Nobody knows the country, or its subdivision.
    """

    def __init__(self, country: str, calendar: Calendar) -> None:
        self.calendar = calendar
        self._dates = _dates(country)
        self.of = lru_cache(maxsize=65536)(self._of)

    def _of(self, name: str, bucket: int) -> float:
        """How much of a holiday, or of the day before one, a bucket is; 0 for most."""
        later = timedelta(days=1 if name == "holiday_eve" else 0)
        start = self.calendar.start(bucket).date()
        if self.calendar.bucket == "week":
            days = [start + timedelta(days=n) for n in range(7)]
        else:
            days = [_EPOCH + timedelta(days=self.calendar.day_of(bucket))]
        return float(sum(day + later in self._dates for day in days))


def _dates(country: str) -> holidays.HolidayBase | frozenset[date]:
    if not country:
        return frozenset()
    name, _, subdivision = country.partition("-")
    try:
        return holidays.country_holidays(name, subdiv=subdivision or None)
    except NotImplementedError as error:  # so the package says that it does not know a country
        raise SettingsError(
            f"setting `holidays`: {error}", remedy="Give an ISO 3166 code, such as DE or DE-BY"
        ) from None
