"""Parts of tests of the fold: events in few words, and a shard with its log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from learner.features import NAMES, Batch
from learner.replay import Resolve
from learner.shard import Folded, Shard
from stream.event import AnyEvent, Availability, Complete, Plan, Sale, Tick, Void, encode, time_us
from stream.log import Record
from stream.settings import Settings

START = datetime(2024, 1, 1, tzinfo=UTC)


def chosen(**changed: Any) -> Settings:
    """Settings of a small deployment: one partition, no grace; sources may do as they please."""
    return Settings(**{"partitions": 1, "grace_s": 0, "guard": "off", **changed})


def day(n: float, hour: float = 12) -> datetime:
    """A moment of the n-th day."""
    return START + timedelta(days=n, hours=hour)


def sale(
    n: float, quantity: float = 1.0, *, id: str | None = None, store: str = "s", product: str = "p",
    source: str = "till", price: float | None = None, hour: float = 12,
) -> Sale:  # fmt: skip
    """A sale on the n-th day; without an id it gets one of what it says."""
    name = id or f"{store}/{product}/{n}/{hour}/{quantity}/{price}"
    return Sale(id=name, source=source, time=day(n, hour), store=store, product=product,
                quantity=quantity, price=price)  # fmt: skip


def void(of: Sale, id: str | None = None) -> Void:
    return Void(
        id=id or f"void {of.id}",
        source=of.source,
        voids=of.id,
        time=of.time,
        store=of.store,
        product=of.product,
        quantity=of.quantity,
        price=of.price,
    )


def tick(n: float, hour: float = 0) -> Tick:
    return Tick(id=f"tick {n} {hour}", source="salescast", time=day(n, hour))


def complete(n: float, store: str = "s", hour: float = 0) -> Complete:
    return Complete(id=f"complete {store} {n} {hour}", source="till", time=day(n, hour),
                    store=store)  # fmt: skip


def plan(id: str, first: float, last: float, *, said: float = 0, **what: Any) -> Plan:
    """A plan over the days [first, last), told on the day ``said``."""
    return Plan(id=id, source="hq", time=day(said), start=day(first, 0), end=day(last, 0), **what)


def stock_outs(first: float, last: float, *, available: bool = False) -> Availability:
    """The product ``p`` of the store ``s`` was out over the days [first, last)."""
    return Availability(id=f"{first} {last} {available}", source="hq", time=day(0, 0),
                        start=day(first, 0), end=day(last, 0), store="s", product="p",
                        available=available)  # fmt: skip


@dataclass(slots=True)
class Told:
    """A shard and the log it was told, one record an event; append time is the event's."""

    shard: Shard
    log: list[Record] = field(default_factory=list)
    letters: list[tuple[int, str]] = field(default_factory=list)

    def tell(
        self,
        *events: AnyEvent,
        append: datetime | None = None,
        resolve: Resolve | None = None,
        after_close: Callable[[int], None] | None = None,
    ) -> Folded:
        """Fold events; without an append time, each is appended as it happens, or later."""
        records = []
        for event in events:
            now = time_us(append or event.time)
            if self.log and append is None:
                now = max(now, self.log[-1].append_us)
            self.log.append(Record(self.shard.partition, len(self.log), now, None, encode(event)))
            records.append(self.log[-1])
        folded = self.shard.fold(records, resolve, after_close=after_close)
        self.letters += [(letter.offset, letter.reason) for letter in folded.letters]
        return folded

    def bucket(self, n: float) -> int:
        return self.shard.calendar.index(time_us(day(n)))

    def returned(self, n: float) -> float:
        """What came back of the series s/p on the n-th day, in units."""
        panel = self.shard.panel
        return float(panel.returns.of(panel.rows["s", "p"], np.array(self.bucket(n))))

    def fact(self, ring: str, n: float, store: str = "s", product: str = "p") -> float:
        """A fact of a series on the n-th day."""
        panel = self.shard.panel
        row, bucket = panel.rows[store, product], self.bucket(n)
        if ring in ("units", "status"):
            return float(getattr(panel, ring)(bucket)[row])
        return float(panel.of(ring, bucket)[row])


def told(*events: AnyEvent, **changed: Any) -> Told:
    """A new shard that was told some events."""
    one = Told(Shard(chosen(**changed), 0))
    one.tell(*events)
    return one


def market(days: int, series: int = 3, seed: int = 5, first: int = 0) -> list[Sale]:
    """Days of sales of several products, Poisson around levels with a weekly profile."""
    drawn = np.random.default_rng(seed)
    out = []
    for n in range(first, first + days):
        for at in range(series):
            mean = 3.0 * (at + 1) * (1.5 if n % 7 in (4, 5) else 0.8)
            quantity = float(drawn.poisson(mean))
            out.append(sale(n, quantity, product=f"p{at}", price=2.0 + at, hour=9 + at / 10))
    return out


def batch(X: Sequence[Sequence[float]] | np.ndarray[Any, Any], scale: float = 10.0) -> Batch:
    """A batch of these features, all series at one level."""
    rows = np.asarray(X, np.float64)
    assert rows.shape[1] == len(NAMES)
    n = len(rows)
    return Batch(X=rows, scale=np.full(n, scale), naive=np.full(n, scale),
                 level_phase=np.full(n, scale), phase_mean=np.full(n, scale),
                 season_phase=np.full(n, scale),
                 known=np.ones(n, bool), closed=np.zeros(n, bool), rows=np.arange(n),
                 ahead=1 / 28)  # fmt: skip
