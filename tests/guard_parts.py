"""Four sources that send sales of a store each, week by week, and what may go wrong with one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np

from stream.event import Sale
from tests.learner_parts import START

SOURCES = ("a", "b", "c", "d")
WEEK = timedelta(days=7)
#: The week in which a source goes wrong; its past is then twelve weeks.
WRONG = 12
Fault = Callable[[Sale, int], Iterable[Sale]]


#: Settings of weeks, whose guard is warm after eight, with the cheapest models.
SMALL = {"bucket": "week", "horizon": 2, "champion": "seasonal_naive"}


def weeks(first: int, end: int, sources: Sequence[str] = SOURCES) -> list[Sale]:
    """Sales of four stores, each of its own source: five products, forty sales a week."""
    out = []
    for week in range(first, end):
        for at, source in enumerate(SOURCES):
            drawn = np.random.default_rng([week, at])
            for n in range(40):
                at_us = timedelta(hours=3.5 * n + at / 8)
                sale = Sale(
                    id=f"{week}-{n}", source=source, time=START + week * WEEK + at_us,
                    store=f"store-{source}", product=f"p{n % 5}",
                    quantity=float(1 + drawn.poisson(1.5)),
                    price=round(2.0 + n % 5 + 0.1 * int(drawn.integers(0, 4)), 2),
                )  # fmt: skip
                if source in sources:
                    out.append(sale)
    return sorted(out, key=lambda one: one.time)


def wrong(sales: Iterable[Sale], source: str, fault: Fault, since: int = WRONG) -> list[Sale]:
    """The same sales, but what a source sends from a week on goes through a fault."""
    out: list[Sale] = []
    for one in sales:
        week = (one.time - START) // WEEK
        out += fault(one, week - since) if one.source == source and week >= since else [one]
    return out


def of(sale: Sale, **changed: Any) -> Sale:
    return msgspec.structs.replace(sale, **changed)


def twelvefold(one: Sale, after: int) -> list[Sale]:
    return [of(one, quantity=12 * one.quantity)]
