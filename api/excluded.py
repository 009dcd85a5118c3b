"""Items that are passed over on purpose: which they are, read from the log they are kept in.

A rule says what it means; the log has the rest. So nothing is copied, and what would be excluded
is counted in the same way as what is. All of it blocks: routes call it in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from api.catalog import Catalog
from learner.manifest import read_parts
from learner.replay import Rule, category_of
from learner.served import read_products
from stream.event import AnyEvent, Refusal, decode, item_values
from stream.log import EventLog, Record

#: Records that are looked at for one answer.
SCANNED = 50_000


class Item(NamedTuple):
    """An item of the log, with its original bytes."""

    partition: int
    offset: int
    item: int
    event: AnyEvent
    value: bytes


class Scan(NamedTuple):
    """What a look at the log found; ``next`` is where another one goes on, ``None`` at the end."""

    items: list[Item]
    records: int
    next: tuple[int, int] | None


class Excluded:
    """Looks for the items that rules mean.

    Parameters
    ----------
    events
        The log.
    catalog
        Where rules and products' categories are: in the snapshots at the head.
    """

    def __init__(self, events: EventLog, catalog: Catalog) -> None:
        self._events = events
        self._catalog = catalog

    def look(
        self, rule: Rule, partition: int, at: tuple[int, int] = (0, 0), limit: int = SCANNED
    ) -> Scan:
        """Items that a rule means, from (offset, item) on.

        Parameters
        ----------
        limit
            Most items of the answer; no more than ``SCANNED`` records are read for it.

        Raises
        ------
        LogUnavailable, StoreUnavailable
        """
        category = self._categories(partition) if rule.what.categories else _no_category
        found: list[Item] = []
        records = 0
        offset, first = max(at, (rule.start, 0))
        for record in self._records(partition, offset, rule.end):
            if records == SCANNED:
                return Scan(found, records, (record.offset, 0))
            records += 1
            values: list[bytes] = []
            for item, event in enumerate(decode(record.value)):
                if isinstance(event, Refusal) or (record.offset, item) < (offset, first):
                    continue
                about = category_of(event, category)
                if rule.means(event, partition, record.offset, about):
                    if len(found) == limit:
                        return Scan(found, records, (record.offset, item))
                    values = values or item_values(record.value)
                    found.append(Item(partition, record.offset, item, event, values[item]))
        return Scan(found, records, None)

    def _records(self, partition: int, offset: int, end: int | None) -> Iterator[Record]:
        offset = max(offset, self._events.begin()[partition])
        while records := self._events.read(partition, offset):
            for record in records:
                if end is not None and record.offset >= end:
                    return
                yield record
            offset = records[-1].offset + 1

    def _categories(self, partition: int) -> Callable[[str, str], str | None]:
        """Categories as the head knows them."""
        head = self._catalog.pointers()[partition].head
        if head is None:
            return _no_category
        manifest = self._catalog.manifest(partition, head.snapshot)
        products = read_products(read_parts(self._catalog.store, manifest, ["knowledge"]))
        return lambda *key: products.about(*key).category


def _no_category(store: str, product: str) -> str | None:
    return None
