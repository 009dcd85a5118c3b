"""The guard on a year of real sales: false alarms, and how soon injected faults are found.

``python -m tests.bench.guard [--cache DIR]``: the year of ``scripts.journey`` (2017), of its 120
largest stores and 30 largest categories, in one partition; the stores send through 12 sources,
each of every twelfth store by size. The calm year is replayed once, and every alarm in it is a
false one. Then each fault is injected into the largest, a middling and the smallest source, from
three days on, and followed for 45 days. Some minutes on one core.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from learner.findings import Finding
from learner.parts import joined
from learner.shard import Shard
from learner.snapshot import lay_down, take_up
from learner.watch import RUN
from scripts import journey
from stream.event import Sale, encode
from stream.log import Record
from stream.settings import Settings

STORES, CATEGORIES, SOURCES = 120, 30, 12
#: Days on which faults begin, away from one another and from the year's ends; and how many
#: buckets each is followed.
STARTS = (dt.date(2017, 4, 4), dt.date(2017, 7, 15), dt.date(2017, 10, 6))
FOLLOWED = 45
#: Spans in which every method is hard put to it, [first, last].
HOLIDAYS = (
    (dt.date(2017, 4, 13), dt.date(2017, 4, 18)),
    (dt.date(2017, 5, 27), dt.date(2017, 5, 30)),
    (dt.date(2017, 7, 1), dt.date(2017, 7, 5)),
    (dt.date(2017, 9, 2), dt.date(2017, 9, 5)),
    (dt.date(2017, 11, 20), dt.date(2017, 11, 28)),
    (dt.date(2017, 12, 20), dt.date(2018, 1, 1)),
)
_sale = msgspec.json.Decoder(Sale)

#: Events of one local day, in order of time: products and plans as bytes, sales as values.
Day = list[bytes | Sale]


def settings() -> Settings:
    """One partition of days in New York; the champion is the default one."""
    return Settings(
        partitions=1, timezone="America/New_York", horizon=7, holidays="US",
        challengers=("seasonal_naive",), guard="warn", max_future_s=86400 * 30,
    )  # fmt: skip


def days(cache: Path) -> dict[dt.date, Day]:
    """The year's events of the largest stores and categories, by local day."""
    every = [(at, line) for at, line in journey.events(cache)]
    stores: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    sales: dict[int, Sale] = {}
    for n, (_, line) in enumerate(every):
        if line.startswith(b'{"type":"sale"'):
            sales[n] = one = _sale.decode(line)
            stores[one.store] += 1
            categories[one.product] += 1
    kept = [name for name, _ in stores.most_common(STORES)]
    goods = {name for name, _ in categories.most_common(CATEGORIES)}
    source = {name: f"till-{at % SOURCES:02d}" for at, name in enumerate(kept)}
    found: dict[dt.date, Day] = {}
    for n, (at, line) in enumerate(every):
        day = at.astimezone(journey.ZONE).date()
        sale = sales.get(n)
        if sale is None:
            if msgspec.json.decode(line).get("product") in goods:
                found.setdefault(day, []).append(line)
        elif sale.store in source and sale.product in goods:
            sale = msgspec.structs.replace(sale, source=source[sale.store])
            found.setdefault(day, []).append(sale)
    return found


# -- faults --------------------------------------------------------------------------------

#: Sales of a day as the source sends them; how many days after its beginning, from 0.
Fault = Callable[[list[Sale], int], list[Sale]]


def times(factor: float) -> Callable[[], Fault]:
    """Quantities are multiplied."""

    def make() -> Fault:
        return lambda sales, after: [_of(one, quantity=one.quantity * factor) for one in sales]

    return make


def drift(factor: float) -> Callable[[], Fault]:
    """Quantities grow by a factor each day."""

    def make() -> Fault:
        return lambda sales, n: [_of(s, quantity=s.quantity * factor ** (n + 1)) for s in sales]

    return make


def dead() -> Fault:
    """Nothing comes."""
    return lambda sales, after: []


def half_dead() -> Fault:
    """Half of the stores fall silent."""
    return lambda sales, after: [one for one in sales if int(one.store) % 2]


def stuck_price() -> Fault:
    """Each series' price stays what it was first."""
    first: dict[tuple[str, str], float | None] = {}

    def fault(sales: list[Sale], after: int) -> list[Sale]:
        return [
            _of(one, price=first.setdefault((one.store, one.product), one.price)) for one in sales
        ]

    return fault


def one_price() -> Fault:
    """Everything costs the same."""
    return lambda sales, after: [_of(one, price=9.99) for one in sales]


def twice() -> Fault:
    """Every sale comes again under a new id."""
    return lambda sales, after: [*sales, *(_of(one, id=f"again-{one.id}") for one in sales)]


def resent() -> Fault:
    """Every sale comes again under its own id."""
    return lambda sales, after: [*sales, *sales]


def newcomer() -> Fault:
    """Another source sends the same sales again, twelvefold."""
    return lambda sales, after: [
        *sales,
        *(_of(s, id=f"x-{s.id}", source="broken", quantity=s.quantity * 12) for s in sales),
    ]


FAULTS: dict[str, Callable[[], Fault]] = {
    "units ×12": times(12),
    "quantities ×100": times(100),
    "units ×2": times(2),
    "dead feed": dead,
    "half of the stores silent": half_dead,
    "stuck price": stuck_price,
    "one price for everything": one_price,
    "sent twice under new ids": twice,
    "sent twice under the same ids": resent,
    "scale drifts 1 % a day": drift(1.01),
    "scale drifts 3 % a day": drift(1.03),
    "a new source repeats sales ×12": newcomer,
}


def exchange(shard: Shard) -> None:
    """Let every regression of the champion take each column's weight for another's."""
    champion: Any = shard.models[shard.champion]
    for expert in champion.experts.values():
        if getattr(expert, "scales", None) is not None:
            expert.scales = expert.scales[::-1].copy()


def turn_over(shard: Shard) -> None:
    """Let the worst expert of each series weigh most."""
    champion: Any = shard.models[shard.champion]
    champion.loss *= -3.0
    champion.common *= -3.0


def inflate(shard: Shard) -> None:
    """Let the champion take its forecasts for much too low: it raises them by a fifth or so."""
    champion: Any = shard.models[shard.champion]
    champion.balance[:, 0] *= 1.3


#: What is done to the champion, not to a source.
CORRUPTED: dict[str, Callable[[Shard], None]] = {
    "champion's columns exchanged": exchange,
    "champion's experts weighed upside down": turn_over,
    "champion's balance a third too high": inflate,
}


def _of(sale: Sale, **changed: Any) -> Sale:
    return msgspec.structs.replace(sale, **changed)


# -- replaying -----------------------------------------------------------------------------


class Alarm(NamedTuple):
    """A finding, with the bucket it was made at the close of as a date."""

    day: dt.date
    finding: Finding


@dataclass(slots=True)
class Run:
    """A shard being told days, and what its guard found."""

    shard: Shard
    alarms: list[Alarm]
    furthest: float = 0.0  # the champion was out, as a share of its band

    def tell(self, events: Day) -> None:
        """Fold a day's events, a hundred a record, appended when the last of them came."""
        records: list[Record] = []
        offset = self.shard.position
        for at in range(0, len(events), 100):
            some = [one if isinstance(one, bytes) else encode(one) for one in events[at : at + 100]]
            last = events[min(at + 99, len(events) - 1)]
            when = last.time if isinstance(last, Sale) else msgspec.json.decode(last)["time"]
            moment = when if isinstance(when, dt.datetime) else dt.datetime.fromisoformat(when)
            value = b"[" + b",".join(some) + b"]"
            records.append(Record(0, offset + len(records), _us(moment), None, value))
        folded = self.shard.fold(records)
        self.furthest = max(self.furthest, float(self.shard.watch.arrays["last"][0]))
        for finding, _ in folded.findings:
            # The champion is named by the first bucket of a run, at the close of its last.
            told = finding.bucket + (RUN - 1 if finding.champion else 0)
            start = self.shard.calendar.span(told)[0]
            day = dt.datetime.fromtimestamp(start / 1e6, journey.ZONE).date()
            self.alarms.append(Alarm(day, finding))

    def fork(self) -> Run:
        """Another run that goes on from here."""
        parts = {name: bytearray(joined(pieces)) for name, pieces in lay_down(self.shard).items()}
        return Run(take_up(self.shard.settings, 0, parts), [])


def _us(moment: dt.datetime) -> int:
    return round(moment.timestamp() * 1e6)


def faulty(events: Day, source: str, fault: Fault, after: int) -> Day:
    """A day with one source at fault; whoever sends it, it comes in order of time."""
    good = [one for one in events if isinstance(one, bytes) or one.source != source]
    mine = [one for one in events if isinstance(one, Sale) and one.source == source]
    plain = [one for one in good if isinstance(one, bytes)]
    sales = [one for one in good if isinstance(one, Sale)] + fault(mine, after)
    return [*plain, *sorted(sales, key=lambda one: one.time)]


class Found(NamedTuple):
    """What came of an injected fault: ``delay`` in buckets, ``None`` if it was not found."""

    fault: str
    source: str
    start: dt.date
    delay: int | None
    statistic: str
    others: int


def follow(
    run: Run, every: dict[dt.date, Day], start: dt.date, source: str, fault: Fault
) -> tuple[int | None, str, int]:
    """Buckets until the source is named, by what; and how many others were named meanwhile."""
    others = 0
    for after, day in enumerate(_span(start, FOLLOWED + 1)):
        if day in every:
            run.tell(faulty(every[day], source, fault, after))
        for alarm in run.alarms:
            if alarm.finding.source in (source, "broken"):
                return (alarm.day - start).days, alarm.finding.statistic, others
            others += 1
        run.alarms.clear()
    return None, "", others


def _span(start: dt.date, n: int) -> Iterator[dt.date]:
    return (start + dt.timedelta(days=k) for k in range(n))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cache", type=Path, default=Path("data/journey"))
    parser.add_argument("--faults", nargs="*", help="only these", default=[*FAULTS, *CORRUPTED])
    parser.add_argument("--calm", action="store_true", help="only the calm year")
    asked = parser.parse_args(arguments)
    every = days(asked.cache)
    volume = Counter(s.source for day in every.values() for s in day if isinstance(s, Sale))
    ranked = [name for name, _ in volume.most_common()]
    victims = (ranked[0], ranked[len(ranked) // 2], ranked[-1])
    run, forks = Run(Shard(settings(), 0), []), {}
    for day in sorted(every):
        if day in STARTS:
            forks[day] = run.fork()
        run.tell(every[day])
    shard = run.shard
    least, most = volume[ranked[-1]] / 365, volume[ranked[0]] / 365
    print(f"{sum(volume.values())} sales, {shard.panel.size} series")
    print(f"{len(ranked)} sources of {least:.0f} to {most:.0f} sales a day")
    print(f"false alarms: {len(run.alarms)}; the champion's furthest: {run.furthest:.2f}")
    for day, one in run.alarms:
        hard = any(first <= day <= last for first, last in HOLIDAYS)
        print(f"  {day}{' holiday' if hard else ''} {one.source}: {one.text} ({one.score:.2f})")
    if asked.calm:
        return
    for name, corrupt in CORRUPTED.items():
        for start, fork in forks.items() if name in asked.faults else ():
            broken = fork.fork()
            corrupt(broken.shard)
            delay, _, others = follow(broken, every, start, "", lambda sales, after: sales)
            print(f"{name} | {start} | {delay} | {broken.furthest:.2f} | {others}", flush=True)
    for name, make in FAULTS.items():
        if name not in asked.faults:
            continue
        for start, fork in forks.items():
            for source in victims:
                delay, statistic, others = follow(fork.fork(), every, start, source, make())
                print(f"{name} | {source} | {start} | {delay} | {statistic} | {others}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
