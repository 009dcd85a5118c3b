"""Every case by name."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench.accuracy import synthetic
from tests.bench.accuracy.case import Case
from tests.bench.accuracy.grocery import daily, hourly, weekly

CASES: dict[str, Callable[[], Case]] = {
    "P0": lambda: daily("P0", "the chain's 200 largest categories", ["category"], 200),
    "P1": lambda: daily("P1", "the 200 largest (store, department)", ["store", "department"], 200),
    "P2": lambda: daily("P2", "the 2,000 largest (store, category)", ["store", "category"], 2000),
    "P0w": lambda: weekly("P0w", "P0 by week", ["category"], 200),
    "P1w": lambda: weekly("P1w", "P1 by week", ["store", "department"], 200),
    "hours": lambda: hourly("hours", "the chain's 10 largest departments by hour", 10),
    "five": lambda: daily("five", "five of P0's series", ["category"], 200, slice(2, 200, 40)),
    "weeks": synthetic.promoted_weeks,
    "intermittent": synthetic.intermittent,
    "trending": synthetic.trending,
    "shifted_up": lambda: synthetic.shifted(up=True),
    "shifted_down": lambda: synthetic.shifted(up=False),
    "surprised": synthetic.surprised,
    "newcomers": synthetic.newcomers,
}


def make(name: str) -> Case:
    """The case of a name."""
    return CASES[name]()
