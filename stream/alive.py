"""Whether a store's feed was alive: only then is a bucket without sales one of zero.

A store that sells on a business day was alive on all of it, so an hour's silence before its first
sale is known as such only then, and of a closed day it is known by a revision: the store *wakes*.
Leaves out: what that makes of facts (``learner.panel``, ``learner.amending``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stream.brought import Cell, Key
from stream.buckets import Calendar
from stream.gaps import Gaps
from stream.settings import LEARN_LAG


class Alive:
    """When stores last sold, and up to when they said that all was told. All of it is state."""

    def __init__(self, calendar: Calendar) -> None:
        self.calendar = calendar
        self.last_day: dict[str, int] = {}  # business day of the last sale
        self.complete_us: dict[str, int] = {}

    def complete(self, store: str, at_us: int) -> None:
        """Take in that a store has told all up to a time."""
        self.complete_us[store] = max(at_us, self.complete_us.get(store, at_us))

    def close(
        self, bucket: int, sold: Iterable[Key], revisions: Mapping[int, Mapping[Key, Cell]],
        gaps: Gaps,
    ) -> tuple[set[str], dict[int, set[str]]]:  # fmt: skip
        """Stores that were alive in a bucket that closes, and by earlier bucket those that wake.

        Parameters
        ----------
        sold, revisions
            Series of which sales came for the bucket, and sums that came for earlier ones.
        """
        day, end = self.calendar.day_of(bucket), self.calendar.span(bucket)[1]
        silent = gaps.close(bucket, day)
        woken: dict[int, set[str]] = {}
        for earlier, revised in revisions.items():
            stores = {store for (store, _), cell in revised.items() if cell[4] > 0}
            then, start = self.calendar.day_of(earlier), self.calendar.dawn(earlier)
            if then == day:
                self.last_day.update(dict.fromkeys(stores, day))
            hours = [one for one in range(start, bucket) if self.calendar.day_of(one) == then]
            stores -= gaps.passed_over(hours)
            for one in hours if stores else ():
                woken.setdefault(one, set()).update(stores)
        first = {store for store, _ in sold if self.last_day.get(store) != day}
        self.last_day.update(dict.fromkeys(first, day))
        for one in range(self.calendar.dawn(bucket), bucket) if first - silent else ():
            woken.setdefault(one, set()).update(first - silent)
        alive = {store for store, upto in self.complete_us.items() if upto >= end} - silent
        alive.update(store for store, last in self.last_day.items() if last == day)
        return alive, woken

    def settled(self, bucket: int) -> bool:
        """Whether all that was sold before a silence, up to a bucket, has been learned."""
        if not LEARN_LAG[self.calendar.bucket] or not self.last_day:
            return True
        return self.calendar.day_of(bucket) > max(self.last_day.values()) + 1

    def forget(self, oldest: int) -> None:
        """Drop stores of which nothing was heard since a bucket."""
        day, start = self.calendar.day_of(oldest), self.calendar.span(oldest)[0]
        self.last_day = {store: last for store, last in self.last_day.items() if last >= day}
        self.complete_us = {store: at for store, at in self.complete_us.items() if at >= start}
