"""Sales as they come in the worst of worlds, the same for the same seed.

Duplicated, shuffled within a day, late, future-dated, misrouted, retracted before they were
sold, in conflict, malformed, huge, packed, and from a producer that invents series.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from stream.event import AnyEvent, Plan, Product, Sale, Void, encode
from stream.log import Entry, partition_of

FIRST = datetime(2024, 1, 1, tzinfo=UTC)


def days(seed: int, count: int, partitions: int, *, stores: int = 8, products: int = 5,
         hostile: bool = True) -> Iterator[list[Entry]]:  # fmt: skip
    """Entries of one day after the other.

    Parameters
    ----------
    seed
        Which of the worlds.
    count
        How many days.
    partitions
        Of the log; each has as many stores as the others.
    hostile
        Whether there is more in it than sales and plans.
    """
    drawn = random.Random(seed)
    named = _spread(stores, partitions)
    yesterday: list[Sale] = []
    for day in range(count):
        sales = [
            Sale(
                id=f"{day}/{store}/{product}/{n}",
                source=f"till-{store}",
                time=FIRST + timedelta(days=day, seconds=drawn.randrange(8 * 3600, 20 * 3600)),
                store=store,
                product=f"product-{product}",
                quantity=float(drawn.randint(1, 4 + product)),
                price=2.0 + product,
            )
            for store in named
            for product in range(products)
            for n in range(drawn.choice((0, 1, 1, 2)))
        ]
        events: list[tuple[int, AnyEvent]] = [(_home(one, partitions), one) for one in sales]
        if day % 7 == 3:
            plan = Plan(
                id=f"plan-{day}", source="office", time=FIRST + timedelta(days=day),
                start=FIRST + timedelta(days=day + 3), end=FIRST + timedelta(days=day + 6),
                product=f"product-{day % products}", promotion=1.0,
            )  # fmt: skip
            events += [(partition, plan) for partition in range(partitions)]
        if hostile:
            events += _unfriendly(drawn, sales, yesterday, day, partitions)
        drawn.shuffle(events)
        entries = _packed(drawn, events)
        if hostile and day % 3 == 0:
            entries += [Entry(drawn.randrange(partitions), None, junk) for junk in _junk(drawn)]
        yield entries
        yesterday = sales


def _spread(stores: int, partitions: int) -> list[str]:
    """So many stores, partition by partition in turn."""
    found: list[str] = []
    number = 0
    while len(found) < stores:
        if partition_of(f"store-{number}", partitions) == len(found) % partitions:
            found.append(f"store-{number}")
        number += 1
    return found


def _home(event: AnyEvent, partitions: int) -> int:
    return partition_of(event.store, partitions)


def _unfriendly(
    drawn: random.Random, sales: list[Sale], yesterday: list[Sale], day: int, partitions: int
) -> list[tuple[int, AnyEvent]]:
    """What producers do to us, of each kind a few."""
    out: list[tuple[int, AnyEvent]] = []

    def add(event: AnyEvent, partition: int | None = None) -> None:
        out.append((_home(event, partitions) if partition is None else partition, event))

    for one in drawn.sample(sales, min(8, len(sales))):
        add(one)  # a retry
    for one in drawn.sample(sales, 2):
        add(_like(one, quantity=one.quantity + 1.0))  # an id used twice
        add(_void(one))  # retracted, before or after it came
    for one in drawn.sample(yesterday, min(3, len(yesterday))):
        add(_void(one))
    one = drawn.choice(sales)
    add(_like(one, id=f"late-{day}", time=one.time - timedelta(days=9)))
    add(_like(one, id=f"revised-{day}", time=one.time - timedelta(days=1)))
    add(_like(one, id=f"future-{day}", time=datetime(2150, 1, 1, tzinfo=UTC)))
    add(_like(one, id=f"lost-{day}"), (_home(one, partitions) + 1) % partitions)
    for n in range(5):
        add(_like(one, id=f"invented-{day}-{n}", product=f"invented-{day}-{n}"))
    add(Product(id=f"invented-{day}-0", source="office", time=FIRST + timedelta(days=day),
                store="*", product=f"invented-{day}-0", category="NEW"),
        drawn.randrange(partitions))  # fmt: skip
    return out


def _like(sale: Sale, **changed: object) -> Sale:
    values = {name: getattr(sale, name) for name in ("id", "source", "time", "store", "product",
                                                     "quantity", "price")}  # fmt: skip
    return Sale(**{**values, **changed})


def _void(sale: Sale) -> Void:
    return Void(id=f"{sale.id} void", source=sale.source, voids=sale.id, time=sale.time,
                store=sale.store, product=sale.product, quantity=sale.quantity,
                price=sale.price)  # fmt: skip


def _packed(drawn: random.Random, events: list[tuple[int, AnyEvent]]) -> list[Entry]:
    """Some events alone, some many to a record."""
    waiting: dict[int, list[bytes]] = {}
    out = []
    for partition, event in events:
        waiting.setdefault(partition, []).append(encode(event))
        if len(waiting[partition]) >= drawn.choice((1, 1, 3, 20)):
            out.append(_record(partition, waiting.pop(partition)))
    return out + [_record(partition, found) for partition, found in waiting.items()]


def _record(partition: int, values: list[bytes]) -> Entry:
    value = values[0] if len(values) == 1 else b"[" + b",".join(values) + b"]"
    return Entry(partition, None, value)


def _junk(drawn: random.Random) -> list[bytes]:
    """Bytes that are no event."""
    return [
        b"",
        b"\xff\xfe not json",
        b"[" * 500,
        b'{"type": "sale", "id": "x", "quantity": 1e999}',
        b'[{"type": "sale"}, {"type": "no such type"}, 7, null, "text"]',
        drawn.randbytes(200),
        b'{"type": "sale", "id": "' + b"x" * 100_000 + b'"}',
        b'{"__proto__": {"admin": true}, "type": "marker", "id": "no-such-operation"}',
    ]
