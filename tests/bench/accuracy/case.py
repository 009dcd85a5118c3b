"""A case: series with what was planned for them, as a table and as the log's records.

The table is what other methods and the scores see; the records are what a shard folds. Demand
comes as one sale a series and bucket in which it sold, so that folding is cheap: these cases
measure the forecasts, not the decoding. Each store sends *complete* at each bucket's end, so
that a bucket without a sale counts as zero from the series' first sale on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stream.buckets import Calendar
from stream.event import AnyEvent, Complete, Plan, Product, Sale, Tick, encode, time_us
from stream.log import Record
from stream.settings import Settings
from stream.window import Key

Floats = npt.NDArray[np.float64]

#: Events of a record.
PACKED = 2_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Series of one bucket length; rows are buckets, columns series.

    Parameters
    ----------
    settings
        Of the deployment; one partition.
    first
        Index of row 0's bucket.
    keys, categories
        Of each series, (S,).
    units
        Demand, shape (T, S); ``nan`` before the first sale.
    price
        Price paid, shape (T, S); ``nan`` where nothing was sold.
    plans
        The known future, each said at its ``time``; in order of time.
    products
        Said before everything else.
    warm, tune, test
        Rows: [0, warm) to learn from before anything is scored, and the spans scored.
    horizons
        That are scored, in buckets.
    scored
        Origins whose forecasts count, shape (T, S); ``None``: all.
    usual
        Mean squared seasonal difference where the warm-up cannot say it, (S,); ``None``: it can.
    """

    name: str
    about: str
    settings: Settings
    first: int
    keys: tuple[Key, ...]
    categories: tuple[str, ...]
    units: Floats
    price: Floats
    plans: tuple[Plan, ...]
    products: tuple[Product, ...]
    warm: int
    tune: tuple[int, int]
    test: tuple[int, int]
    horizons: tuple[int, ...]
    scored: npt.NDArray[np.bool_] | None = None
    usual: Floats | None = None

    @property
    def season(self) -> int:
        return Calendar(self.settings).season

    def naive(self, horizon: int) -> Floats:
        """Seasonal naive forecasts by target, shape (T, S); the mean so far where it has none."""
        back = self.season * -(-horizon // self.season)
        out = np.full(self.units.shape, np.nan)
        out[back:] = self.units[:-back]
        there = np.cumsum(np.isfinite(self.units), axis=0)
        sums = np.cumsum(np.nan_to_num(self.units), axis=0)
        with np.errstate(invalid="ignore"):
            mean = np.where(there > 0, sums / np.maximum(there, 1), np.nan)
        so_far = np.full(self.units.shape, np.nan)
        so_far[horizon:] = mean[:-horizon]
        return np.where(np.isfinite(out), out, so_far)

    def scale(self) -> Floats:
        """Mean squared seasonal difference of the warm-up, shape (S,); ``nan``: not known."""
        if self.usual is not None:
            return self.usual
        before = self.units[: self.warm]
        squared = (before[self.season :] - before[: -self.season]) ** 2
        known = np.isfinite(squared).sum(axis=0)
        sums = np.nansum(squared, axis=0)
        return np.where((known >= self.season) & (sums > 0), sums / np.maximum(known, 1), np.nan)

    def planned(self, field: str) -> Floats:
        """A field of the plans over all buckets, shape (T, S); ``nan`` where nothing is said.

        Cases plan whole buckets, and no two plans of a series' bucket.
        """
        calendar = Calendar(self.settings)
        out = np.full(self.units.shape, np.nan)
        of: dict[Key, list[int]] = {}
        for at, (store, product) in enumerate(self.keys):
            of.setdefault((store, product), []).append(at)
            of.setdefault(("*", product), []).append(at)
        for plan in self.plans:
            value = getattr(plan, field)
            columns = of.get((plan.store, plan.product or ""), [])
            if value is None or not columns:
                continue
            low = max(calendar.index(time_us(plan.start)) - self.first, 0)
            high = calendar.index(time_us(plan.end) - 1) - self.first + 1
            out[low:high, columns] = float(value)
        return out

    def records(self, until: int) -> Iterator[Record]:
        """The case as a log: all that came before row ``until``, some records a bucket."""
        calendar = Calendar(self.settings)
        stores = sorted({store for store, _ in self.keys})
        offset, plan = 0, 0
        for row in range(until):
            start, end = calendar.span(self.first + row)
            events: list[AnyEvent] = list(self.products) if row == 0 else []
            while plan < len(self.plans) and time_us(self.plans[plan].time) < end:
                events.append(self.plans[plan])
                plan += 1
            events += self._sales(row, _moment((start + end) // 2))
            events += [
                Complete(id=f"{row}-{store}", source="till", time=_moment(end), store=store)
                for store in stores
            ]
            closing = end + self.settings.grace_s * 1_000_000
            events.append(Tick(id=f"tick-{row}", source="bench", time=_moment(closing)))
            for at in range(0, len(events), PACKED):
                value = b"[" + b",".join(map(encode, events[at : at + PACKED])) + b"]"
                yield Record(0, offset, closing, None, value)
                offset += 1

    def _sales(self, row: int, time: datetime) -> Iterator[Sale]:
        units, price = self.units[row], self.price[row]
        for at in np.flatnonzero(np.nan_to_num(units) > 0).tolist():
            store, product = self.keys[at]
            paid = float(price[at])
            yield Sale(
                id=f"{row}-{at}", source="till", time=time, store=store, product=product,
                quantity=float(units[at]), price=paid if np.isfinite(paid) else None,
            )  # fmt: skip


def from_first_sale(units: Floats) -> Floats:
    """Zero-fill: ``nan`` before each series' first sale, 0 where nothing was sold after it."""
    out = np.nan_to_num(units)
    started = np.cumsum(out > 0, axis=0) > 0
    return np.where(started, out, np.nan)


def plans_of(
    calendar: Calendar,
    first: int,
    subjects: Sequence[Key],
    ahead: int,
    promotion: Floats | None = None,
    price: Floats | None = None,
) -> tuple[Plan, ...]:
    """Plans from tables (T, subjects): one for each stretch of equal values.

    Parameters
    ----------
    subjects
        Store (or ``*``) and product of each column.
    ahead
        Buckets before a plan's start at which it is said; none is said before row 0.
    """
    fields = {name: table for name, table in (("promotion", promotion), ("price", price))
              if table is not None}  # fmt: skip
    rows = len(next(iter(fields.values())))
    stack = np.stack([np.nan_to_num(table, nan=-1.0) for table in fields.values()])
    change = np.ones((rows, len(subjects)), bool)
    change[1:] = (stack[:, 1:] != stack[:, :-1]).any(axis=0)
    plans = []
    for at, (store, product) in enumerate(subjects):
        starts = [*np.flatnonzero(change[:, at]).tolist(), rows]
        for low, high in pairwise(starts):
            said = {name: round(float(table[low, at]), 6) for name, table in fields.items()
                    if np.isfinite(table[low, at])}  # fmt: skip
            if not said:
                continue
            plans.append(
                Plan(id=f"plan-{store}-{product}-{low}", source="plans", store=store,
                     product=product, time=_moment(calendar.span(first + max(low - ahead, 0))[0]),
                     start=_moment(calendar.span(first + low)[0]),
                     end=_moment(calendar.span(first + high)[0]), **said)  # type: ignore[arg-type]
            )  # fmt: skip
    return tuple(sorted(plans, key=lambda plan: (plan.time, plan.id)))


def _moment(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)
