"""Buckets that are not what they seem, because sales of them were passed over on purpose.

What an operator excludes or quarantines leaves a gap, not a zero: a series of which a bucket
lost sales has that bucket *missing* if no other sale of it remained, and *censored* (a lower
bound) if one did. A store whose whole feed was passed over on a business day was silent on it,
whatever a *complete* says. Leaves out: what is passed over, and why (``learner.replay``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

Key = tuple[str, str]
#: Stands for a store's whole feed where a product's name would be; no product is called so.
FEED = ""


class Passed(NamedTuple):
    """How an item is passed over.

    ``outcome`` is what it counts as, an index into ``window.OUTCOMES``; ``None``: it was counted
    before, at another place. ``gap``: whether its bucket has lost something by it; ``feed``:
    whether the store's other series have too.
    """

    outcome: int | None
    gap: bool = False
    feed: bool = False


class Gaps:
    """What has been passed over of buckets that sales may still come for. All of it is state."""

    def __init__(self) -> None:
        self.series: dict[int, set[Key]] = {}
        self.silent: dict[str, int] = {}  # store → last business day its feed was passed over

    def note(self, bucket: int, store: str, product: str, feed: bool) -> None:
        """Remember that a sale of a bucket was passed over."""
        found = self.series.setdefault(bucket, set())
        found.add((store, product))
        if feed:
            found.add((store, FEED))

    def close(self, bucket: int, day: int) -> set[str]:
        """Stores whose feed was passed over on the business day of a bucket, up to it."""
        for store, product in self.series.get(bucket, ()):
            if product == FEED:
                self.silent[store] = day
        self.silent = {store: last for store, last in self.silent.items() if last >= day}
        return {store for store, last in self.silent.items() if last == day}

    def passed_over(self, buckets: Iterable[int]) -> set[str]:
        """Stores whose feed was passed over in any of some buckets."""
        found = (self.series.get(bucket, ()) for bucket in buckets)
        return {store for keys in found for store, product in keys if product == FEED}

    def forget(self, floor: int) -> None:
        """Drop buckets before ``floor``: nothing is learned of them any more."""
        for bucket in [one for one in self.series if one < floor]:
            del self.series[bucket]

    def laid_down(self) -> tuple[list[tuple[int, list[Key]]], list[tuple[str, int]]]:
        """All of it as plain values, in an order that no arrival decides."""
        series = [(bucket, sorted(self.series[bucket])) for bucket in sorted(self.series)]
        return series, sorted(self.silent.items())

    def take_up(
        self, series: Iterable[tuple[int, Iterable[Key]]], silent: Iterable[tuple[str, int]]
    ) -> None:
        """Become what was laid down."""
        self.series = {b: {(store, product) for store, product in keys} for b, keys in series}
        self.silent = dict(silent)
