"""What is known of products: category, unit size, listing, and what they replace.

An event about one store is more particular than one about all (``*``), field by field; of two
about the same, the later one in the log holds. Leaves out: what these facts do to a series
(``panel``, ``features``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from stream.event import FIRST_US, LAST_US, Product, time_us
from stream.window import Key

EVERYWHERE = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Facts of one product in one store; it is for sale over [from_us, until_us)."""

    category: str | None
    unit_size: float
    from_us: int
    until_us: int
    replaces: str | None


class Products:
    """All that was told of products. Mutable; all of it is state."""

    def __init__(self) -> None:
        self.told: dict[Key, Product] = {}
        self.awaited: dict[Key, int] = {}  # to be listed at a time, µs since 1970 UTC

    def add(self, event: Product) -> bool:
        """Take in an event. ``False``: nothing of it is new."""
        key = (event.store, event.product)
        before = self.told.get(key)
        self.told[key] = msgspec.structs.replace(event, x=None)
        if before is not None and _facts(before) == _facts(event):
            return False
        self.awaited.pop(key, None)
        if event.listed is not None:
            self.awaited[key] = time_us(event.listed)
        return True

    def restore(self, told: Iterable[Product], awaited: Iterable[tuple[str, str, int]]) -> None:
        """Take in what a snapshot held."""
        self.told = {(one.store, one.product): one for one in told}
        self.awaited = {(store, product): at for store, product, at in awaited}

    def due(self, until_us: int) -> list[tuple[Key, int]]:
        """Listings awaited before a time, with their own, in key order; they are told once."""
        found = sorted((key, at) for key, at in self.awaited.items() if at < until_us)
        for key, _ in found:
            del self.awaited[key]
        return found

    def about(self, store: str, product: str) -> About:
        """Facts of a product in a store; what nobody told has its default."""
        here = self.told.get((store, product))
        there = self.told.get((EVERYWHERE, product))
        events = [one for one in (here, there) if one is not None]
        listed = next((one.listed for one in events if one.listed is not None), None)
        delisted = next((one.delisted for one in events if one.delisted is not None), None)
        return About(
            category=next((one.category for one in events if one.category is not None), None),
            unit_size=next((one.unit_size for one in events if one.unit_size is not None), 1.0),
            from_us=FIRST_US if listed is None else time_us(listed),
            until_us=LAST_US if delisted is None else time_us(delisted),
            replaces=next((one.replaces for one in events if one.replaces is not None), None),
        )


def _facts(event: Product) -> tuple[object, ...]:
    return (event.category, event.unit_size, event.listed, event.delisted, event.replaces)
